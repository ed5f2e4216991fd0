"""Frames on their way: their faces found, selected, changed and measured, and what was measured added up."""

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
"""Of the budget for memory, what frames that wait may take: networks, decoder and encoder need the rest."""

Item = TypeVar("Item")
AnyPicture = TypeVar("AnyPicture", bound=Picture)
CropCallback = Callable[[ByteImage, FloatArray], None]
"""See ``FaceJob.on_swapped``."""


@dataclass(eq=False)
class MeasuredFace:
    """One face of a frame, and what was measured of it."""

    face: Face
    # Its brightness before it was changed, ``after`` after it; None where it was not.
    before: Brightness | None = None
    after: Brightness | None = None
    # Between source and what the network made of it, what was pasted of that, and what came of it in the end;
    # empty where nothing was compared.
    cosines: list[float] = field(default_factory=list)
    # How well it would do as a portrait, where that was looked at; ``portrait`` is its picture.
    worth: float = 0.0
    portrait: str = ""


@dataclass(eq=False)
class FrameJob(Generic[Item, AnyPicture]):
    """A frame on its way, with the faces of it that are to be changed."""

    index: int  # its number
    item: Item  # what it was read as
    picture: AnyPicture  # its pixels, which are changed in place
    faces: Sequence[Face] = ()  # the faces that are changed
    # Whether it shares its picture with the one before, as is done to keep a constant rate: such a picture is
    # changed once.
    repeats: bool = False
    pts: int = 0  # its timestamp, in ticks; ``seconds`` its time after the first frame
    seconds: float = 0.0
    chosen: Sequence[Face] = ()  # faces that are changed if they are not hidden; see ``FaceTracking.works``
    # All faces with their measurements; empty where the picture repeats.
    shown: Sequence[MeasuredFace] = ()
    # What the swapper is shown of ``faces``, by track, where it was prepared; see
    # ``FrameChanger.with_denoised_crops``.
    crops: Mapping[int | None, ByteImage] = field(default_factory=dict)
    # What networks see in front of ``faces``, by track; ``near`` the same of the frames around.
    visibilities: Mapping[int | None, RawVisibility] = field(default_factory=dict)
    near: Sequence[Mapping[int | None, RawVisibility]] = ()
    seen: FrameFaces = field(init=False)  # what the networks found in it

    def __post_init__(self) -> None:
        self.seen = FrameFaces(self.index, self.pts, picture=self.picture)

    def job(self, face: Face, on_swapped: CropCallback | None = None) -> FaceJob:
        """Return what is to be done to one of ``faces``."""
        around = [visibilities.get(face.track) for visibilities in self.near]
        visibility = smooth_visibility(self.visibilities.get(face.track), around)
        return FaceJob(self.picture, face, visibility, self.crops.get(face.track), on_swapped)


class FrameChanger:
    """Changes and measures the faces of frames; may run in several threads.

    Of ``every`` so many frames one is looked at closely: its faces are compared with their source.
    ``upright`` turns a picture as players show it.
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

    def _of(self, face: Face) -> tuple[str, FaceChanger | Anonymizer]:
        """What changes a face, and the digest of its treatment."""
        treatment = self._selection.treatment(face.track)
        assert treatment is not None
        return treatment.digest, self._changers[treatment.digest]

    def crop(self, picture: Picture, face: Face) -> ByteImage | None:
        """Cut out what the swapper sees of a face; None where there is none."""
        return self._of(face)[1].crop(picture, face)

    @property
    def uses_networks(self) -> bool:
        """Whether any face is looked at before it is changed; see `raw_visibility`."""
        return any(changer.masks.uses_networks for changer in self._changers.values())

    def raw_visibility(self, picture: Picture, faces: Sequence[Face]) -> list[RawVisibility | None]:
        """Look at the faces of a picture that is not changed yet, each as its treatment says."""
        found: dict[int, RawVisibility | None] = {}
        for digest, changer in self._changers.items():
            places = [n for n, face in enumerate(faces) if self._of(face)[0] == digest]
            seen = changer.masks.raw_visibility(picture, [faces[n] for n in places])
            found |= dict(zip(places, seen, strict=True))
        return [found[n] for n in range(len(faces))]

    def _do(self, jobs: Sequence[FaceJob]) -> None:
        """Change faces; the order within a picture is that of the treatments, then of the jobs."""
        for digest, changer in self._changers.items():
            changer.change([job for job in jobs if self._of(job.face)[0] == digest])

    def with_denoised_crops(
        self, works: Generator[FrameJob[Item, AnyPicture], None, None], *, length: int
    ) -> Generator[FrameJob[Item, AnyPicture], None, None]:
        """Prepare the work on frames that come in order; a run may begin with every ``length``-th of them."""
        steadier = CropDenoiser(self.crop)
        with closing(works):
            for work in works:
                work.crops = steadier.crops(work.picture, work.faces, first=work.index % length == 0)
                yield work

    def change(self, work: FrameJob[Item, AnyPicture]) -> None:
        """Change the faces of a frame, and measure nothing."""
        self._do([work.job(face) for face in work.faces])

    def changed(self, group: list[FrameJob[Item, AnyPicture]]) -> list[FrameJob[Item, AnyPicture]]:
        """Change the faces of some frames, and measure all that are seen there."""
        pairs = [(work, shown) for work in group for shown in work.shown]
        for work, shown in pairs:
            if work.index % self._every == 0:
                others = (other.face for other in work.shown if other is not shown)
                shown.worth = worth(work.picture, shown.face, others)
                if shown.worth:
                    shown.portrait = portrait_url(work.picture, shown.face, self._upright)
            if shown.face in work.faces:
                shown.before = brightness(work.picture, shown.face, work.index)
        changed = [(work, shown) for work, shown in pairs if shown.before is not None]
        self._do([work.job(shown.face, self._watch(work, shown)) for work, shown in changed])
        for work, shown in changed:
            shown.after = brightness(work.picture, shown.face, work.index)
            source = self._source(shown.face)
            if source is not None and shown.cosines:
                shown.cosines.append(self._likeness(work.picture, shown.face, source))
        for work in group:  # as large as a small frame for every few faces, and done with
            work.crops, work.visibilities, work.near = {}, {}, ()
        return group

    def _watch(self, work: FrameJob[Item, AnyPicture], shown: MeasuredFace) -> CropCallback | None:
        """What notes how alike a swapped face is to the source, by itself and pasted; None in most frames."""
        source = self._source(shown.face)
        if source is None or work.index % self._every:
            return None

        def on_swapped(crop: ByteImage, template: FloatArray) -> None:
            alone = Face(np.array([0, 0, *crop.shape[1::-1]], np.float32), template, 1.0)
            shown.cosines.append(self._likeness(BgrPicture(crop), alone, source))
            shown.cosines.append(self._likeness(work.picture, shown.face, source))

        return on_swapped

    def _source(self, face: Face) -> FloatArray | None:
        treatment = self._selection.treatment(face.track)
        return None if treatment is None else treatment.source

    def _likeness(self, picture: Picture, face: Face, source: FloatArray) -> float:
        return source_similarity(self._engine.analyser, picture, face, source)


def with_reference(
    engine: Engine, assignment: Assignment, pictures: Iterable[Picture], *, number: int, where: str
) -> Assignment:
    """Read the person to follow off one picture, where the settings ask for one, and nothing else does.

    The ``number``-th of all pictures shows the person; none is looked at where nobody is followed.
    NoFaceError where there is no such picture, or it does not show that person; ``where`` names the file.
    """
    if (
        assignment.has_people_map
        or assignment.person_filter is not None
        or not needs_embeddings(engine.settings)
    ):
        return assignment
    picture = next(islice(pictures, number, None), None)
    if picture is None:
        raise NoFaceError(
            tr("reference_frame_number is {number}, but the video ends before it", number=number),
            where=where,
            remedy=tr("choose an earlier frame"),
        )
    faces = engine.analyser.embed(picture, engine.analyser.search(picture))
    return replace(
        assignment, person_filter=PersonFilter(reference_embedding(faces, engine.settings, where=where))
    )


class StatsCollector:
    """Adds up what was measured, frame after frame; ``selection`` says what is done to each face."""

    def __init__(self, selection: Selection) -> None:
        self.frames = 0
        self.faces, self._selection = FacesDigest(selection), selection
        self._measured = FrameStats()
        self._last: dict[int | None, MeasuredFace] = {}

    def add(self, work: FrameJob[Item, AnyPicture]) -> None:
        """Count a frame that has been written."""
        self.frames += 1
        self.faces.add(work.chosen)
        if work.repeats:
            return
        measured, changed = self._measured, [shown for shown in work.shown if shown.after is not None]
        measured.add_frame(work.index, len(changed), filled=sum(shown.face.filled for shown in changed))
        measured.actions |= self._selection.actions(shown.face for shown in changed)
        for shown in work.shown:
            self._count(work, shown)
        if not changed:
            return
        largest = max(changed, key=lambda shown: shown.face.area)
        measured.similarities += largest.cosines[-1:]
        step = self._step(None, largest)
        if step is not None:
            measured.flicker, measured.pairs = measured.flicker + step[0], measured.pairs + 1

    def _count(self, work: FrameJob[Item, AnyPicture], shown: MeasuredFace) -> None:
        """Count one face of a frame."""
        face = shown.face
        assert face.track is not None
        tracks = self._measured.tracks
        counts = tracks[face.track] if face.track in tracks else tracks.setdefault(face.track, TrackStats())
        counts.seen += 1
        if counts.portrait is None or shown.worth > counts.portrait.worth:
            box = [round(float(edge), 1) for edge in face.box]
            seconds, url = round(work.seconds, 4), shown.portrait
            counts.portrait = Portrait(worth=shown.worth, frame=work.index, seconds=seconds, box=box, url=url)
        if shown.after is None:
            counts.hidden += face in work.chosen
            add_span(counts.spans, work.index, work.index + 1)
            return
        counts.changed, counts.filled = counts.changed + 1, counts.filled + face.filled
        if shown.cosines:
            for stage, cosine in zip(("swap", "mask", "final"), shown.cosines, strict=True):
                setattr(counts, stage, getattr(counts, stage) + cosine)
            counts.samples += 1
        step = self._step(face.track, shown)
        if step is not None:
            counts.flicker, counts.own = counts.flicker + step[0], counts.own + step[1]
            counts.pairs += 1

    def _step(self, track: int | None, shown: MeasuredFace) -> tuple[float, float] | None:
        """Squared step from the frame before: of what the change added, and of the target's own brightness.

        None where that shows another face, or none; ``track`` is None of the largest face.
        """
        last, self._last[track] = self._last.get(track), shown
        assert shown.before is not None
        assert shown.after is not None
        if last is None or last.before is None or last.after is None or not shown.before.follows(last.before):
            return None
        own = shown.before.level - last.before.level
        return (shown.after.level - last.after.level - own) ** 2, own**2

    def take(self) -> FrameStats:
        """Return what was measured since this was last asked; what comes next is measured by itself.

        So that a run which is taken up between two segments counts as one that goes on.
        """
        measured, self._measured = self._measured, FrameStats()
        self._last.clear()
        measured.sum_up_crowd()
        return measured


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from splitting its small jobs: the stages already use every core.

    Handing parts of a crop or mask to a pool costs 10 to 15 % more CPU than the work itself.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
