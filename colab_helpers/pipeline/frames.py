"""Frame jobs, changing and measuring the faces of frames, and collecting the measurements."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, TypeVar

import cv2
import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.anonymize import Anonymizer
from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.changer import FaceChanger
from colab_helpers.faces.crop_denoiser import CropDenoiser
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FrameFaces
from colab_helpers.faces.masks import RawVisibility, smooth_visibility
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.quality import (
    Brightness,
    FrameStats,
    Portrait,
    TrackStats,
    add_span,
    brightness,
    portrait_url,
    source_similarity,
    worth,
)
from colab_helpers.faces.selection import FacesDigest, Selection, needs_embeddings, reference_embedding
from colab_helpers.faces.types import ByteImage, Face, FaceJob, FloatArray
from colab_helpers.language import tr
from colab_helpers.media.picture import BgrPicture, Picture

QUEUE_SHARE = 0.2
"""Share of the memory budget for waiting frames: networks, decoder and encoder need the rest."""

Item = TypeVar("Item")
AnyPicture = TypeVar("AnyPicture", bound=Picture)
CropCallback = Callable[[ByteImage, FloatArray], None]
"""See ``FaceJob.on_swapped``."""


@dataclass(eq=False)
class MeasuredFace:
    """One face of a frame with its measurements."""

    face: Face
    before: Brightness | None = None  # brightness before the change; None if it is not changed
    after: Brightness | None = None  # brightness after the change
    # Cosine similarity of the source to the network's crop, to the pasted face and to the final one; empty
    # unless sampled.
    cosines: list[float] = field(default_factory=list)
    worth: float = 0.0  # suitability as a portrait; 0 unless sampled
    portrait: str = ""  # the portrait as a data URL


@dataclass(eq=False)
class FrameJob(Generic[Item, AnyPicture]):
    """A frame passing through the pipeline, with its faces."""

    index: int  # frame number
    item: Item  # the frame as it was read
    picture: AnyPicture  # its pixels, changed in place
    faces: Sequence[Face] = ()  # the faces to change
    # Whether it shares its picture, which is changed once, with the frame before (at a constant frame rate).
    repeats: bool = False
    pts: int = 0  # timestamp, in ticks
    seconds: float = 0.0  # time since the first frame
    selected: Sequence[Face] = ()  # faces to change unless they are hidden; see ``FaceTracking.jobs``
    measured_faces: Sequence[MeasuredFace] = ()  # all faces; empty if the picture repeats
    # Denoised input of the swapper for ``faces``, by track; see ``FrameChanger.with_denoised_crops``.
    crops: Mapping[int | None, ByteImage] = field(default_factory=dict)
    # Masks of what is in front of ``faces``, by track.
    visibilities: Mapping[int | None, RawVisibility] = field(default_factory=dict)
    neighbours: Sequence[Mapping[int | None, RawVisibility]] = ()  # ``visibilities`` of the frames around
    detected: FrameFaces = field(init=False)  # the detector's results

    def __post_init__(self) -> None:
        self.detected = FrameFaces(self.index, self.pts, picture=self.picture)

    def face_job(self, face: Face, on_swapped: CropCallback | None = None) -> FaceJob:
        """Return the job for one of ``faces``."""
        neighbours = [visibilities.get(face.track) for visibilities in self.neighbours]
        visibility = smooth_visibility(self.visibilities.get(face.track), neighbours)
        return FaceJob(self.picture, face, visibility, self.crops.get(face.track), on_swapped)


Jobs = Generator[FrameJob[Item, AnyPicture], None, None]


class FrameChanger:
    """Changes and measures the faces of frames; safe to use from several threads.

    In one out of ``every`` frames the changed faces are compared with their source and portraits are
    taken. ``upright`` rotates a picture as players show it.
    """

    def __init__(
        self,
        engine: Engine,
        selection: Selection,
        *,
        every: int = 1,
        upright: Callable[[ByteImage], ByteImage] = lambda picture: picture,
    ) -> None:
        self._engine, self._selection, self._every, self._upright = engine, selection, every, upright
        self._changers = {one.digest: engine.changer(one) for one in selection.assignment.treatments}

    def _changer_for(self, face: Face) -> tuple[str, FaceChanger | Anonymizer]:
        """Return the digest of a face's treatment and the changer that applies it."""
        treatment = self._selection.treatment(face.track)
        assert treatment is not None
        return treatment.digest, self._changers[treatment.digest]

    def crop(self, picture: Picture, face: Face) -> ByteImage | None:
        """Cut out the swapper's input for a face; None if its treatment has no swapper."""
        return self._changer_for(face)[1].crop(picture, face)

    @property
    def uses_networks(self) -> bool:
        """Whether `raw_visibility` runs any network."""
        return any(changer.masks.uses_networks for changer in self._changers.values())

    def raw_visibility(self, picture: Picture, faces: Sequence[Face]) -> list[RawVisibility | None]:
        """Compute the visibility of faces in an unchanged picture, each with the masks of its treatment."""
        masks: dict[int, RawVisibility | None] = {}
        for digest, changer in self._changers.items():
            indices = [n for n, face in enumerate(faces) if self._changer_for(face)[0] == digest]
            visibilities = changer.masks.raw_visibility(picture, [faces[n] for n in indices])
            masks |= dict(zip(indices, visibilities, strict=True))
        return [masks[n] for n in range(len(faces))]

    def _change(self, jobs: Sequence[FaceJob]) -> None:
        """Change faces, ordered by treatment, then as in ``jobs``."""
        for digest, changer in self._changers.items():
            changer.change([job for job in jobs if self._changer_for(job.face)[0] == digest])

    def with_denoised_crops(self, jobs: Jobs[Item, AnyPicture], *, length: int) -> Jobs[Item, AnyPicture]:
        """Denoise the crops of consecutive frames, anew from every ``length``-th, where a run may begin."""
        denoiser = CropDenoiser(self.crop)
        with closing(jobs):
            for job in jobs:
                job.crops = denoiser.crops(job.picture, job.faces, first=job.index % length == 0)
                yield job

    def change(self, job: FrameJob[Item, AnyPicture]) -> None:
        """Change the faces of a frame without measuring."""
        self._change([job.face_job(face) for face in job.faces])

    def change_group(self, group: list[FrameJob[Item, AnyPicture]]) -> list[FrameJob[Item, AnyPicture]]:
        """Change the faces of a group of frames and measure all faces in them; return the group."""
        pairs = [(job, one) for job in group for one in job.measured_faces]
        for job, one in pairs:
            if job.index % self._every == 0:
                others = (other.face for other in job.measured_faces if other is not one)
                one.worth = worth(job.picture, one.face, others)
                if one.worth:
                    one.portrait = portrait_url(job.picture, one.face, self._upright)
            if one.face in job.faces:
                one.before = brightness(job.picture, one.face, job.index)
        changed = [(job, one) for job, one in pairs if one.before is not None]
        self._change([job.face_job(one.face, self._on_swapped(job, one)) for job, one in changed])
        for job, one in changed:
            one.after = brightness(job.picture, one.face, job.index)
            source = self._source_embedding(one.face)
            if source is not None and one.cosines:
                one.cosines.append(self._similarity(job.picture, one.face, source))
        for job in group:  # frees as much as a small frame for every few faces
            job.crops, job.visibilities, job.neighbours = {}, {}, ()
        return group

    def _on_swapped(self, job: FrameJob[Item, AnyPicture], one: MeasuredFace) -> CropCallback | None:
        """Return a callback that measures a swapped face as a crop and as pasted; None in most frames."""
        source = self._source_embedding(one.face)
        if source is None or job.index % self._every:
            return None

        def on_swapped(crop: ByteImage, template: FloatArray) -> None:
            alone = Face(np.array([0, 0, *crop.shape[1::-1]], np.float32), template, 1.0)
            one.cosines.append(self._similarity(BgrPicture(crop), alone, source))
            one.cosines.append(self._similarity(job.picture, one.face, source))

        return on_swapped

    def _source_embedding(self, face: Face) -> FloatArray | None:
        treatment = self._selection.treatment(face.track)
        return None if treatment is None else treatment.source

    def _similarity(self, picture: Picture, face: Face, source: FloatArray) -> float:
        return source_similarity(self._engine.analyser, picture, face, source)


def with_reference(
    engine: Engine, assignment: Assignment, pictures: Iterable[Picture], *, number: int, where: str
) -> Assignment:
    """Complete an assignment with the person to follow, as shown by the reference frame.

    The reference is the ``number``-th of ``pictures``. They are read only if the settings select faces by
    reference and the assignment has neither a people map nor a person filter. Raise NoFaceError, with
    ``where`` for the file, if there is no such picture or it does not show that person.
    """
    decided = assignment.has_people_map or assignment.person_filter is not None
    if decided or not needs_embeddings(engine.settings):
        return assignment
    picture = next(islice(pictures, number, None), None)
    if picture is None:
        raise NoFaceError(
            tr("reference_frame_number is {number}, but the video ends before it", number=number),
            where=where,
            remedy=tr("choose an earlier frame"),
        )
    faces = engine.analyser.embed(picture, engine.analyser.search(picture))
    reference = reference_embedding(faces, engine.settings, where=where)
    return replace(assignment, person_filter=PersonFilter(reference))


class StatsCollector:
    """Adds up the measurements of consecutive frames; ``selection`` is what is done to each face."""

    def __init__(self, selection: Selection) -> None:
        self.frames, self.faces, self._selection = 0, FacesDigest(selection), selection
        self._stats, self._last = FrameStats(), dict[int | None, MeasuredFace]()

    def add(self, job: FrameJob[Item, AnyPicture]) -> None:
        """Count a frame that has been written."""
        self.frames += 1
        self.faces.add(job.selected)
        if job.repeats:
            return
        stats, changed = self._stats, [one for one in job.measured_faces if one.after is not None]
        stats.add_frame(job.index, len(changed), filled=sum(one.face.filled for one in changed))
        stats.actions |= self._selection.actions(one.face for one in changed)
        for measured in job.measured_faces:
            self._count(job, measured)
        if not changed:
            return
        largest = max(changed, key=lambda one: one.face.area)
        stats.similarities += largest.cosines[-1:]
        step = self._step(None, largest)
        if step is not None:
            stats.flicker, stats.pairs = stats.flicker + step[0], stats.pairs + 1

    def _count(self, job: FrameJob[Item, AnyPicture], one: MeasuredFace) -> None:
        """Count one face of a frame."""
        face = one.face
        assert face.track is not None
        counts = self._stats.tracks.setdefault(face.track, TrackStats())
        counts.seen += 1
        if counts.portrait is None or one.worth > counts.portrait.worth:
            box = [round(float(edge), 1) for edge in face.box]
            seconds, url = round(job.seconds, 4), one.portrait
            counts.portrait = Portrait(worth=one.worth, frame=job.index, seconds=seconds, box=box, url=url)
        if one.after is None:
            counts.hidden += face in job.selected
            add_span(counts.spans, job.index, job.index + 1)
            return
        counts.changed, counts.filled = counts.changed + 1, counts.filled + face.filled
        if one.cosines:
            for stage, cosine in zip(("swap", "mask", "final"), one.cosines, strict=True):
                setattr(counts, stage, getattr(counts, stage) + cosine)
            counts.samples += 1
        step = self._step(face.track, one)
        if step is not None:
            counts.flicker, counts.own = counts.flicker + step[0], counts.own + step[1]
            counts.pairs += 1

    def _step(self, track: int | None, one: MeasuredFace) -> tuple[float, float] | None:
        """Return the squared step in brightness from the previous frame, of the change and of the target.

        None if the previous frame does not show the same face; ``track`` None stands for the largest face.
        """
        last, self._last[track] = self._last.get(track), one
        assert one.before is not None
        assert one.after is not None
        if last is None or last.before is None or last.after is None or not one.before.follows(last.before):
            return None
        own = one.before.level - last.before.level
        return (one.after.level - last.after.level - own) ** 2, own**2

    def take(self) -> FrameStats:
        """Return the measurements since the last call; none carry over, as none would in a resumed run."""
        stats, self._stats = self._stats, FrameStats()
        self._last.clear()
        stats.sum_up_crowd()
        return stats


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Limit OpenCV to one thread: splitting small jobs among a pool costs 10 to 15 % more CPU time."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
