"""The faces of one target before any is changed: who is there, how well seen, and in which frames best."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import FFHQ_512, similarity_transform, yaw_degrees
from colab_helpers.faces.index import FaceIndex, Watcher
from colab_helpers.faces.masks import FaceMasks
from colab_helpers.faces.person_clustering import MIN_EMBEDDINGS, PersonFilter, group_tracks
from colab_helpers.faces.photos import DARK, percentile
from colab_helpers.faces.quality import expected_worth, worth
from colab_helpers.faces.selection import Selection
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.media.animation import Animation
from colab_helpers.media.images import read_image
from colab_helpers.media.picture import BgrPicture, Picture, VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.pipeline.face_tracking import FaceTracking
from colab_helpers.pipeline.frames import one_opencv_thread, with_reference
from colab_helpers.pipeline.image import detected_jobs, open_animation_tracking
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.pipeline.video_stages import (
    VideoContext,
    feed_watcher,
    frames_from,
    result_rate,
    track_faces,
)
from colab_helpers.progress import ProgressCallback

TURNED, SMALL = 40.0, 48.0
"""Degrees to the side from which half of a face is hidden, and a width in pixels that tells little."""
CROP = 224
"""Edge of the pictures of people, in pixels."""
_SHARE = 0.72  # of such a picture belongs to the network's crop of a face
# Of each person of a video so many frames are looked at; each is of another track where there are several.
_GLIMPSES = 3
# Chooses nobody.
_NOBODY = Assignment(None, PersonFilter())
# What is before a face is told by the middle of its crop.
_MIDDLE = slice(88, 168)


@dataclass(frozen=True, eq=False)
class PortraitCandidate:
    """A frame that promises to show somebody well."""

    expected_worth: float  # see `quality.expected_worth`
    frame: int
    before: int | None  # timestamp of the frame before it, in ticks; None of the first
    face: Face
    others: Sequence[Face]  # the frame's other faces


@dataclass(frozen=True, eq=False)
class FacePortrait:
    """A picture of somebody."""

    track: int
    image: ByteImage  # ``(224, 224, 3)`` uint8 BGR, the face upright in its middle
    worth: float  # see `quality.worth`
    dark: bool  # whether little can be told apart
    # Share of the middle of the face that something stands before; None without an occluder.
    covered: float | None


@dataclass(eq=False)
class FaceScan:
    """What is known of the faces of a target."""

    tracks: Sequence[Track]  # all of them; in a picture, one for each face
    rate: float  # frames a second; 0 of a picture
    # How many there are, ``shown`` those with a face, ``faces`` all of these; ``turned`` those turned far to
    # the side, ``small`` those of few pixels.
    frames: int = 0
    shown: int = 0
    faces: int = 0
    turned: int = 0
    small: int = 0
    chosen: frozenset[int] = frozenset()  # numbers of the tracks that are changed as the cast has it
    portraits: list[FacePortrait] = field(default_factory=list)  # the best pictures of everybody

    def count(self, faces: Sequence[Face]) -> None:
        """Count a frame."""
        self.frames += 1
        self.shown += bool(faces)
        self.faces += len(faces)
        self.turned += sum(abs(yaw_degrees(face.kps)) > TURNED for face in faces)
        self.small += sum(float(face.box[2] - face.box[0]) < SMALL for face in faces)


def find_faces(
    engine: Engine,
    assignment: Assignment,
    target: Path,
    index: FaceIndex,
    *,
    watcher: Watcher | None = None,
    on_progress: ProgressCallback | None = None,
    file_index: int = 0,
    file_count: int = 1,
) -> FaceScan:
    """Find all faces of a video, unless its index knows them, and look at the best frames of everybody.

    The index is complete afterwards. The watcher sees each frame before anything is made of what was found;
    progress is told as by `plan`. ColabHelpersError where the video cannot be read.
    """
    info = probe(target)
    frames = info.frames if engine.settings.keep_fps else None
    progress = ProgressReporter(on_progress, engine, target.name, file_index, file_count, frames)
    video = VideoContext(engine, assignment, info, progress)
    if watcher is not None:
        feed_watcher(video, index, watcher)
    with one_opencv_thread():
        try:
            faces = track_faces(video, index, all_first=True)
        except NoFaceError:  # whom the settings follow is not in this one
            faces = track_faces(replace(video, assignment=_NOBODY), index, all_first=True)
        found, best = _counted(faces, float(result_rate(engine.settings, info)))
        for glimpse in best:
            with closing(frames_from(video, glimpse.frame, glimpse.before)) as there:
                picture = VideoPicture(next(there).video, rotation=info.upright_rotation)
                found.portraits.append(_portrayed(engine, picture, glimpse.face, glimpse.others))
    return found


def _find_in_animation(engine: Engine, assignment: Assignment, animation: Animation) -> FaceScan:
    try:
        faces = open_animation_tracking(engine, animation, assignment)
    except NoFaceError:
        faces = open_animation_tracking(engine, animation, _NOBODY)
    deque(faces.find_all(detected_jobs(animation, faces)), maxlen=0)
    found, best = _counted(faces, len(animation.durations) * 1000 / sum(animation.durations))
    for number, still in enumerate(animation.frames()):
        picture = BgrPicture(still.bgr, still.alpha)
        shown = [glimpse for glimpse in best if glimpse.frame == number]
        found.portraits += [_portrayed(engine, picture, one.face, one.others) for one in shown]
    return found


def find_in_picture(engine: Engine, assignment: Assignment, target: Path) -> FaceScan:
    """Find the faces of a picture file, which may move; ColabHelpersError where it cannot be read."""
    animation = Animation.of(target)
    if animation is not None:
        return _find_in_animation(engine, assignment, animation)
    picture = BgrPicture(read_image(target))
    try:
        assignment = with_reference(engine, assignment, [picture], number=0, where=str(target))
    except NoFaceError:
        assignment = _NOBODY
    selection = Selection(engine.settings, assignment)
    faces = engine.analyser.describe(picture, engine.analyser.search(picture))
    faces = [replace(face, track=number) for number, face in enumerate(faces)]
    found = FaceScan([_track(face) for face in faces], 0.0)
    found.count(faces)
    found.chosen = frozenset(face.track for face in selection.in_picture(faces) if face.track is not None)
    for face in faces:
        others = [other for other in faces if other is not face]
        found.portraits.append(_portrayed(engine, picture, face, others))
    return found


def _track(face: Face) -> Track:
    """A face of a picture as a track: somebody has chosen the picture, so that one look counts as sure."""
    assert face.track is not None
    return Track(
        face.track, 0, 0, found=1, asked=MIN_EMBEDDINGS, embeddings=face.embedding, ends=(face.box, face.box)
    )


def _counted(faces: FaceTracking, rate: float) -> tuple[FaceScan, list[PortraitCandidate]]:
    """Count what is seen in all frames; return also the best of them."""
    found, times, glimpses = (
        FaceScan(faces.tracks, rate),
        Counter[int | None](),
        dict[int | None, PortraitCandidate](),
    )
    before: int | None = None
    for row, shown in zip(faces.index, faces.known_faces(), strict=True):
        found.count(shown)
        times.update(face.track for face in faces.selection.of(shown))
        for face in shown:
            others = [other for other in shown if other is not face]
            promised, best = expected_worth(face, others), glimpses.get(face.track)
            if best is None or promised > best.expected_worth:
                glimpses[face.track] = PortraitCandidate(promised, row.frame, before, face, others)
        before = row.pts
    found.chosen = frozenset(track.number for track in faces.tracks if 2 * times[track.number] > track.found)
    return found, _best(faces.tracks, glimpses)


def _best(
    tracks: Sequence[Track], glimpses: Mapping[int | None, PortraitCandidate]
) -> list[PortraitCandidate]:
    """The best frames of each person, in the order of the video."""
    best: list[PortraitCandidate] = []
    for person in group_tracks(tracks):
        seen = [glimpses[track.number] for track in person if track.number in glimpses]
        best += sorted(seen, key=lambda glimpse: -glimpse.expected_worth)[:_GLIMPSES]
    return sorted(best, key=lambda glimpse: glimpse.frame)


def _portrayed(engine: Engine, picture: Picture, face: Face, others: Sequence[Face]) -> FacePortrait:
    template = (FFHQ_512 - 256) * np.float32(_SHARE * CROP / 512) + CROP / 2
    image = picture.crop(similarity_transform(face.kps, template), CROP)
    grey = cv2.cvtColor(image[_MIDDLE, _MIDDLE], cv2.COLOR_BGR2GRAY)
    (visibility,) = FaceMasks(occluder=engine.occluder).raw_visibility(picture, [face])
    return FacePortrait(
        track=face.track or 0,
        image=image,
        worth=worth(picture, face, others),
        dark=percentile(grey, 95) < DARK,
        covered=None if visibility is None else float((visibility.visibility[_MIDDLE, _MIDDLE] < 128).mean()),
    )
