"""Plan of a video's run, by which any worker can make any of its segments, in any order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import Watcher
from colab_helpers.faces.quality import FrameStats
from colab_helpers.media.encoders import choose_encoder
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


@dataclass(eq=False)
class VideoPlan:
    """A video whose segments are made in any order, by one or more workers, and joined; see `plan_video`."""

    video: VideoRun
    faces: FaceTracking
    store: SegmentStore
    kept_frames: KeptFrames
    marks: Marks | None
    label_notes: tuple[str, ...]  # on a label that does not fit
    started: float
    # Statistics of a video that is to be copied because nobody is changed; else None.
    passthrough_stats: FrameStats | None = None
    skips_frames: bool = True  # whether frames are not written as long as the target may be copied
    # Segments of an earlier run, by number.
    finished: dict[int, FinishedSegment] = field(default_factory=dict, init=False)
    frames_read: int = field(default=0, init=False)  # frames of the target, once it was read to its end
    notes: list[str] = field(default_factory=list, init=False)  # repairs while it was read to its end

    def __post_init__(self) -> None:
        if self.passthrough_stats is None:
            self.finished = self._usable({part.segment.number: part for part in self.store.finished()})
        if enhancer := self.video.engine.frame_enhancer:
            enhancer.resume_tile_size(part.provider for part in self.finished.values())

    @property
    def segments(self) -> int | None:
        """Number of segments; None as long as the number of frames is unknown."""
        index = self.faces.index
        return math.ceil(len(index) / self.video.segment_length) if index.complete else None

    @property
    def is_divisible(self) -> bool:
        """Whether there are several segments that can be made independently."""
        # At a constant rate, the choice of the next frame depends on all timestamps before it.
        keep_fps, info = self.video.settings.keep_fps, self.video.info
        independent = keep_fps and self.faces.is_intact and not seek_obstacle(info)
        return independent and self.passthrough_stats is None and (self.segments or 0) > 1

    def without_label(self) -> VideoPlan:
        """Return the plan without a label; its segments so far cannot be joined with labelled ones."""
        return replace(self, video=replace(self.video, label=None))

    @property
    def may_be_copy(self) -> bool:
        """Whether the target may yet be copied: its index is incomplete and nobody so far is changed."""
        undecided = self.passthrough_stats is None and not self.faces.index.complete
        acceptable = self.skips_frames and not self.finished and is_copy_acceptable(self.video)
        return undecided and acceptable and not any(map(self.faces.selection.of, self.faces.known_faces()))

    def without_skipping(self) -> VideoPlan:
        """Return the plan to make every segment, as somebody is changed; detections are kept."""
        self.faces.index.drop_undecided()
        return replace(self, faces=replace(self.faces), skips_frames=False)

    def _usable(self, stored: Mapping[int, FinishedSegment]) -> dict[int, FinishedSegment]:
        """Return the stored segments that this run can reuse: same frames, encoding and faces to change."""
        usable = dict[int, FinishedSegment]()
        length, known = self.video.segment_length, len(self.faces.index)
        for number, digest in enumerate(self.faces.digests(length) if stored else ()):
            part, start = stored.get(number), number * length
            expected = start, min(length, known - start), length, self.video.encoding, digest
            if part is not None and expected == (
                part.segment.start, part.segment.frames, part.length, part.encoder, part.faces
            ) and self.kept_frames.has(start, part.segment.stop):  # fmt: skip
                usable[number] = part
        return usable

    def missing(self) -> Iterator[tuple[int, int | None]]:
        """Yield each range of unfinished segments: first number and end, which is None at the video's end."""
        number, last = 0, self.segments
        while last is None or number < last:
            stop = min((n for n in self.finished if n >= number), default=None)
            if stop != number:
                yield number, stop
            if stop is None:
                return
            number = stop + 1


class PlanOptions(TypedDict, total=False):
    """Keyword arguments of `plan_video` that its callers pass on."""

    encoder: str
    on_progress: ProgressCallback | None
    file_index: int
    file_count: int
    on_picture: PictureCallback | None
    watcher: Watcher | None
    marks: Marks | None


def plan_video(
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
    """Plan the run of a video; find all its faces first where the choice of faces depends on them.

    Args:
        engine: The loaded networks.
        assignment: What is done to whom.
        info: The video as from `probe`.
        output: The result.
        store: Stores the segments and the face index.
        all_first: Find all faces now in any case.
        encoder: Name of the encoder that other workers started with; "" for that of the settings.
        on_progress: Called from the calling thread, at most four times a second.
        file_index: Number of this file in the run, for progress.
        file_count: Number of files in the run.
        on_picture: Called with a frame just written, every two seconds; it must not keep it.
        watcher: Sees each frame before the video is finished, and may reject it.
        marks: Marks the result; None for results that nobody receives.

    Raises:
        ColabHelpersError: The video cannot be read, the watcher rejected it, or the encoder does not work.
    """
    settings = engine.settings
    frames = info.frames if settings.keep_fps else round(info.duration * CONSTANT_RATE) or None
    progress = ProgressReporter(on_progress, engine, info.path.name, file_index, file_count, frames)
    result = VideoContext(engine, assignment, info, progress).result
    size = (result.width, result.height)[:: -1 if info.rotation % 180 else 1]
    label, label_notes = label_for(marks, *size)
    preset = None if settings.output_video_preset == "auto" else settings.output_video_preset
    wanted: Any = encoder or settings.output_video_encoder
    choice = choose_encoder(result, wanted=wanted, quality=settings.output_video_quality, preset=preset)
    video = VideoRun(engine, assignment, info, progress, output, choice, on_picture, label)
    started, index = time.monotonic(), store.face_index()
    with one_opencv_thread():
        if watcher is not None:
            feed_watcher(video, index, watcher)
        faces = track_faces(video, index, all_first=all_first)
    unchanged = passthrough_stats(video, faces)
    if unchanged is None and label is not None and faces.is_free_of_ai:
        video = replace(video, label=None)
    kept_frames = KeptFrames(store.folder / "frames", settings, marks)
    return VideoPlan(video, faces, store, kept_frames, marks, label_notes, started, unchanged)
