"""Scan of a target's faces before any is changed: its tracks, their quality, and portraits of each person."""

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
"""Yaw in degrees from which half of a face is hidden, and width in pixels below which a face shows little."""
CROP = 224
"""Width and height of portraits, in pixels."""
_CROP_SHARE = 0.72  # share of a portrait's width that the aligned crop of the face takes
# Candidate frames per person of a video, each of another track.
_MAX_CANDIDATES = 3
_SELECT_NOBODY = Assignment(None, PersonFilter())
# Occlusion is measured in the middle of the crop.
_MIDDLE = slice(88, 168)


@dataclass(frozen=True, eq=False)
class PortraitCandidate:
    """A frame from which a portrait of a person may be taken."""

    expected_worth: float  # see `quality.expected_worth`
    frame: int
    previous_pts: int | None  # timestamp of the frame before it, in ticks; None for the first frame
    face: Face
    others: Sequence[Face]  # the frame's other faces


@dataclass(frozen=True, eq=False)
class FacePortrait:
    """A portrait of a person in a target."""

    track: int
    image: ByteImage  # ``(224, 224, 3)`` uint8 BGR, the face upright in the middle
    worth: float  # see `quality.worth`
    dark: bool  # whether it is too dark to recognise much
    covered: float | None  # occluded share of the middle of the face; None without an occluder model


@dataclass(eq=False)
class FaceScan:
    """Result of scanning the faces of a target."""

    tracks: Sequence[Track]  # all tracks; in a picture, one for each face
    rate: float  # frames per second; 0 for a picture
    frames: int = 0  # number of frames
    shown: int = 0  # frames with a face
    faces: int = 0  # faces, summed over all frames
    turned: int = 0  # those turned far to the side
    small: int = 0  # those of few pixels
    chosen: frozenset[int] = frozenset()  # numbers of the tracks that the assignment changes
    portraits: list[FacePortrait] = field(default_factory=list)  # the best portraits of each person

    def count(self, faces: Sequence[Face]) -> None:
        """Count the faces of a frame."""
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
    """Find all faces of a video that are not yet indexed, and take portraits from each person's best frames.

    The index is complete afterwards. The watcher sees each frame before it is indexed; progress is reported
    as by `plan_video`. Raise ColabHelpersError if the video cannot be read.
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
        except NoFaceError:  # the person to follow is not in this video
            faces = track_faces(replace(video, assignment=_SELECT_NOBODY), index, all_first=True)
        scan, candidates = _scan_frames(faces, float(result_rate(engine.settings, info)))
        for candidate in candidates:
            with closing(frames_from(video, candidate.frame, candidate.previous_pts)) as reader:
                picture = VideoPicture(next(reader).video, rotation=info.upright_rotation)
                scan.portraits.append(_portrait(engine, picture, candidate.face, candidate.others))
    return scan


def _find_in_animation(engine: Engine, assignment: Assignment, animation: Animation) -> FaceScan:
    try:
        faces = open_animation_tracking(engine, animation, assignment)
    except NoFaceError:
        faces = open_animation_tracking(engine, animation, _SELECT_NOBODY)
    deque(faces.find_all(detected_jobs(animation, faces)), maxlen=0)
    scan, candidates = _scan_frames(faces, len(animation.durations) * 1000 / sum(animation.durations))
    for number, still in enumerate(animation.frames()):
        picture = BgrPicture(still.bgr, still.alpha)
        candidates_here = [candidate for candidate in candidates if candidate.frame == number]
        scan.portraits += [_portrait(engine, picture, one.face, one.others) for one in candidates_here]
    return scan


def find_in_picture(engine: Engine, assignment: Assignment, target: Path) -> FaceScan:
    """Find the faces of a picture or animation file; raise ColabHelpersError if it cannot be read."""
    animation = Animation.of(target)
    if animation is not None:
        return _find_in_animation(engine, assignment, animation)
    picture = BgrPicture(read_image(target))
    try:
        assignment = with_reference(engine, assignment, [picture], number=0, where=str(target))
    except NoFaceError:
        assignment = _SELECT_NOBODY
    selection = Selection(engine.settings, assignment)
    faces = engine.analyser.describe(picture, engine.analyser.search(picture))
    faces = [replace(face, track=number) for number, face in enumerate(faces)]
    scan = FaceScan([_track(face) for face in faces], 0.0)
    scan.count(faces)
    scan.chosen = frozenset(face.track for face in selection.in_picture(faces) if face.track is not None)
    for face in faces:
        others = [other for other in faces if other is not face]
        scan.portraits.append(_portrait(engine, picture, face, others))
    return scan


def _track(face: Face) -> Track:
    """Make a track of a face in a picture, for which a single embedding counts as enough."""
    assert face.track is not None
    return Track(
        face.track, 0, 0, found=1, asked=MIN_EMBEDDINGS, embeddings=face.embedding, ends=(face.box, face.box)
    )


def _scan_frames(faces: FaceTracking, rate: float) -> tuple[FaceScan, list[PortraitCandidate]]:
    """Count the faces of all frames; return also the best candidates for portraits."""
    scan, counts = FaceScan(faces.tracks, rate), Counter[int | None]()
    candidates, previous_pts = dict[int | None, PortraitCandidate](), None
    for row, found in zip(faces.index, faces.known_faces(), strict=True):
        scan.count(found)
        counts.update(face.track for face in faces.selection.of(found))
        for face in found:
            others = [other for other in found if other is not face]
            expected, best = expected_worth(face, others), candidates.get(face.track)
            if best is None or expected > best.expected_worth:
                candidates[face.track] = PortraitCandidate(expected, row.frame, previous_pts, face, others)
        previous_pts = row.pts
    scan.chosen = frozenset(track.number for track in faces.tracks if 2 * counts[track.number] > track.found)
    return scan, _best_candidates(faces.tracks, candidates)


def _best_candidates(
    tracks: Sequence[Track], candidates: Mapping[int | None, PortraitCandidate]
) -> list[PortraitCandidate]:
    """Return the best candidates of each person, in the order of the video."""
    chosen: list[PortraitCandidate] = []
    for person in group_tracks(tracks):
        own = [candidates[track.number] for track in person if track.number in candidates]
        chosen += sorted(own, key=lambda candidate: -candidate.expected_worth)[:_MAX_CANDIDATES]
    return sorted(chosen, key=lambda candidate: candidate.frame)


def _portrait(engine: Engine, picture: Picture, face: Face, others: Sequence[Face]) -> FacePortrait:
    template = (FFHQ_512 - 256) * np.float32(_CROP_SHARE * CROP / 512) + CROP / 2
    image = picture.crop(similarity_transform(face.kps, template), CROP)
    grey = cv2.cvtColor(image[_MIDDLE, _MIDDLE], cv2.COLOR_BGR2GRAY)
    (mask,) = FaceMasks(occluder=engine.occluder).raw_visibility(picture, [face])
    return FacePortrait(
        track=face.track or 0,
        image=image,
        worth=worth(picture, face, others),
        dark=percentile(grey, 95) < DARK,
        covered=None if mask is None else float((mask.visibility[_MIDDLE, _MIDDLE] < 128).mean()),
    )
