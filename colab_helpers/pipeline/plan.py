"""What is to be made of a video, found out once: then anybody may make any of its segments, in any order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex, Watcher
from colab_helpers.faces.quality import FrameStats
from colab_helpers.media.encoders import EncoderChoice, choose_encoder
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.reader import seek_obstacle
from colab_helpers.pipeline.face_tracking import FaceTracking
from colab_helpers.pipeline.frames import one_opencv_thread
from colab_helpers.pipeline.kept_frames import KeptFrames
from colab_helpers.pipeline.outcome import FinishedSegment, Marks, SegmentStore, label_for
from colab_helpers.pipeline.passthrough import is_copy_acceptable, passthrough_stats
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.pipeline.video_stages import (
    CONSTANT_RATE,
    PictureCallback,
    VideoContext,
    VideoRun,
    feed_watcher,
    track_faces,
)
from colab_helpers.progress import ProgressCallback
from colab_helpers.settings import Settings


@dataclass(eq=False)
class VideoPlan:
    """A video of which parts are made, in any order and by anybody, and joined; see `plan`."""

    video: VideoRun
    faces: FaceTracking
    store: SegmentStore
    images: KeptFrames
    marks: Marks | None
    label_notes: tuple[str, ...]  # on a label that has no room
    started: float
    passthrough_stats: FrameStats | None = (
        None  # what was counted of a video in which nobody is changed: it is copied
    )
    skips_frames: bool = (
        True  # whether frames may be passed over, not written, as long as that may come of it
    )
    # Segments that are finished already, by number.
    finished: dict[int, FinishedSegment] = field(default_factory=dict, init=False)
    # Frames of the target, once it was read to its end; ``notes`` say what was repaired then.
    frames_read: int = field(default=0, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.passthrough_stats is None:
            self.finished = self._usable({part.segment.number: part for part in self.store.finished()})
        if enhancer := self.video.engine.frame_enhancer:
            enhancer.resume_tile_size(part.provider for part in self.finished.values())

    @property
    def segments(self) -> int | None:
        """How many there are; None as long as nobody knows how many frames there are."""
        index = self.faces.index
        return math.ceil(len(index) / self.video.length) if index.complete else None

    @property
    def is_divisible(self) -> bool:
        """Whether its segments may be made apart from one another, and there are several."""
        # At a constant rate, which of the target's frames comes next follows from all before it.
        apart = self.video.settings.keep_fps and self.faces.is_intact and not seek_obstacle(self.video.info)
        return apart and self.passthrough_stats is None and (self.segments or 0) > 1

    def unlabelled(self) -> VideoPlan:
        """The same without a label, which does not go with its segments so far."""
        return replace(self, video=replace(self.video, label=None))

    @property
    def may_be_copy(self) -> bool:
        """Whether the target itself will be the result unless somebody comes who is changed."""
        faces, open_yet = self.faces, self.passthrough_stats is None and not self.faces.index.complete
        asked = self.skips_frames and open_yet and not self.finished and is_copy_acceptable(self.video)
        return asked and not any(map(faces.selection.of, faces.known_faces()))

    def without_skipping(self) -> VideoPlan:
        """The same from the first frame on, as somebody is changed; what was found stays."""
        self.faces.index.drop_undecided()
        return replace(self, faces=replace(self.faces), skips_frames=False)

    def _usable(self, given: Mapping[int, FinishedSegment]) -> dict[int, FinishedSegment]:
        """Return those segments that fit this run: any of them whose frames the index decides."""
        fitting = dict[int, FinishedSegment]()
        length, known = self.video.length, len(self.faces.index)
        for number, digest in enumerate(self.faces.digests(length) if given else ()):
            part, start = given.get(number), number * length
            asked = start, min(length, known - start), length, self.video.encoding, digest
            if part is not None and asked == (
                part.segment.start, part.segment.frames, part.length, part.encoder, part.faces
            ) and self.images.has(start, part.segment.stop):  # fmt: skip
                fitting[number] = part
        return fitting

    def missing(self) -> Iterator[tuple[int, int | None]]:
        """Yield, run after run, the first number of those not finished and the one after the last.

        None: to the end of the video.
        """
        number, last = 0, self.segments
        while last is None or number < last:
            stop = min((n for n in self.finished if n >= number), default=None)
            if stop != number:
                yield number, stop
            if stop is None:
                return
            number = stop + 1


class PlanOptions(TypedDict, total=False):
    """What `plan` may be given; whoever plans for others passes it on."""

    encoder: str
    on_progress: ProgressCallback | None
    file_index: int
    file_count: int
    on_picture: PictureCallback | None
    watcher: Watcher | None
    marks: Marks | None


def plan(
    engine: Engine,
    assignment: Assignment,
    info: VideoInfo,
    output: Path,
    store: SegmentStore,
    *,
    all_first: bool = False,
    encoder: str = "",
    on_progress: ProgressCallback | None = None,
    file_index: int = 0,
    file_count: int = 1,
    on_picture: PictureCallback | None = None,
    watcher: Watcher | None = None,
    marks: Marks | None = None,
) -> VideoPlan:
    """Find out what is to be made of a video.

    Args:
        engine: The loaded networks.
        assignment: What is done to whom.
        info: What `probe` said of the video.
        output: The result.
        store: Keeps its segments, and what is known of its faces.
        all_first: Have all its faces found now; else that is done only where who is changed depends on it.
        encoder: Name of the one that others have begun with; "": what the settings ask for.
        on_progress: Called from the calling thread, at most four times a second.
        file_index: Number of this file in the run, for progress.
        file_count: Files in the run.
        on_picture: Called with a frame just written, every two seconds; it must not keep it.
        watcher: Sees each frame before anything is made of the video's end.
        marks: Says in the result what was done; None: it goes to nobody.

    Raises:
        ColabHelpersError: The video cannot be read, the watcher gave it up, or no such encoder works here.
    """
    settings = engine.settings
    frames = info.frames if settings.keep_fps else round(info.duration * CONSTANT_RATE) or None
    progress = ProgressReporter(on_progress, engine, info.path.name, file_index, file_count, frames)
    made = VideoContext(engine, assignment, info, progress).result
    label, unlabelled = label_for(marks, *(made.width, made.height)[:: -1 if info.rotation % 180 else 1])
    choice, index = _encoder(made, settings, encoder), store.face_index()
    video = VideoRun(engine, assignment, info, progress, output, choice, on_picture, label)
    started = time.monotonic()
    faces = _followed(video, index, watcher, all_first=all_first)
    nobody = passthrough_stats(video, faces)
    if nobody is None and label is not None and faces.is_free_of_ai:
        video = replace(video, label=None)
    images = KeptFrames(store.folder / "frames", settings, marks)
    return VideoPlan(video, faces, store, images, marks, unlabelled, started, nobody)


def _followed(video: VideoRun, index: FaceIndex, watcher: Watcher | None, *, all_first: bool) -> FaceTracking:
    with one_opencv_thread():
        if watcher is not None:
            feed_watcher(video, index, watcher)
        return track_faces(video, index, all_first=all_first)


def _encoder(info: VideoInfo, settings: Settings, begun: str) -> EncoderChoice:
    preset = None if settings.output_video_preset == "auto" else settings.output_video_preset
    asked: Any = begun or settings.output_video_encoder
    return choose_encoder(info, wanted=asked, quality=settings.output_video_quality, preset=preset)
