"""Context of a video's run, and its stages from the reader to the changed frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path

import av

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex, Watcher
from colab_helpers.faces.selection import Selection, needs_embeddings
from colab_helpers.machine import GIB
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.formats import DEFAULT_RATE, pixel_bits
from colab_helpers.media.label import Label
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.reader import Frame, FrameReader, read_frames
from colab_helpers.media.retime import constant_rate
from colab_helpers.pipeline.face_tracking import LOOK_AHEAD, FaceTracking
from colab_helpers.pipeline.frames import QUEUE_SHARE, FrameChanger, FrameJob, with_reference
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.pipeline.visibility import VISIBILITY_WINDOW, with_visibility
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups, map_ordered, run_ahead

CONSTANT_RATE = Fraction(30)
"""Frames per second of a result without ``keep_fps`` (as in roop)."""

PictureCallback = Callable[[VideoPicture], None]
VideoFrameJob = FrameJob[Frame, VideoPicture]
VideoJobs = Generator[VideoFrameJob, None, None]


@dataclass(frozen=True, eq=False)
class VideoContext:
    """A video whose faces are to be found, with the properties of its result."""

    engine: Engine
    assignment: Assignment
    info: VideoInfo
    progress: ProgressReporter

    @property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self.engine.settings

    @property
    def result(self) -> VideoInfo:
        """Properties of the result: larger than the video if frames are enlarged."""
        enhancer = self.engine.frame_enhancer
        return enhancer.enlarged_info(self.info) if enhancer else self.info

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of the result's timestamps."""
        return self.info.time_base if self.settings.keep_fps else 1 / CONSTANT_RATE

    @property
    def segment_length(self) -> int:
        """Frames per segment."""
        return segment_length(self.settings, self.info)

    @property
    def frame_bytes(self) -> int:
        """Most bytes of a decoded frame."""
        info = self.info
        return max(1, info.width * info.height * 3 * (2 if pixel_bits(info.pix_fmt) > 8 else 1))


@dataclass(frozen=True, eq=False)
class VideoRun(VideoContext):
    """A video whose faces are to be changed; see `process_video`."""

    output: Path
    choice: EncoderChoice
    on_picture: PictureCallback | None
    label: Label | None

    @property
    def encoding(self) -> str:
        """Encoder, options and label: segments join only if these are equal."""
        options = ":".join(f"{key}={value}" for key, value in sorted(self.choice.options.items()))
        return f"{self.choice.name} {self.choice.pix_fmt} {options}{' label' if self.label else ''}"


class SmallerTilesError(Exception):
    """The tile size was reduced for lack of memory within a segment, which has to be made again."""


def result_rate(settings: Settings, info: VideoInfo) -> Fraction:
    """Return the frames per second of a video's result, on average."""
    return (info.average_rate or DEFAULT_RATE) if settings.keep_fps else CONSTANT_RATE


def segment_length(settings: Settings, info: VideoInfo) -> int:
    """Return the number of frames per segment of a video's result."""
    return max(2, round(settings.segment_seconds * result_rate(settings, info)))


def track_faces(video: VideoContext, index: FaceIndex, *, all_first: bool = False) -> FaceTracking:
    """Open the face tracking of a video; find all faces first if asked to or if the choice needs them."""
    faces = open_video_tracking(video.engine, video.info, index, video.assignment)
    capacity = float(video.settings.max_memory) * GIB * QUEUE_SHARE / video.frame_bytes  # in frames
    if index.complete:
        faces.decide()
    if index.complete or not (all_first or faces.selection.needs_all_tracks or capacity < LOOK_AHEAD):
        return faces
    with open_reader(video, faces, faces.start) as reader, closing(_detect(video, faces, reader)) as jobs:
        for frame in faces.find_all(jobs):
            video.progress.finding(frame + 1)
        faces.is_intact = reader.is_intact
    return faces


def open_video_tracking(
    engine: Engine, info: VideoInfo, index: FaceIndex, assignment: Assignment
) -> FaceTracking:
    """Open the face tracking of a video; read the reference frame if faces are selected by reference."""
    if needs_embeddings(engine.settings):
        with read_frames(info) as reader:
            pictures = (VideoPicture(frame.video, rotation=info.upright_rotation) for frame in reader)
            number = engine.settings.reference_frame_number
            assignment = with_reference(engine, assignment, pictures, number=number, where=str(info.path))
    return FaceTracking(engine.analyser, index, Selection(engine.settings, assignment), str(info.path))


def feed_watcher(video: VideoContext, index: FaceIndex, watcher: Watcher) -> None:
    """Show a watcher every frame: those indexed that it has not seen now, the others as they are indexed."""
    start = watcher.frames
    if start < len(index):
        with closing(frames_from(video, start, index.pts(start - 1) if start else None)) as frames:
            jobs = frame_jobs(frames, video.info)
            for row, job in zip(islice(index, start, None), jobs, strict=False):
                row.picture = job.picture
                watcher.see(row, float(row.pts * video.time_base))
                video.progress.finding(row.frame + 1)
        watcher.keep()
    index.attach_watcher(watcher, video.time_base)


def frames_from(video: VideoContext, start: int, previous_pts: int | None) -> Generator[Frame, None, None]:
    """Yield the result's frames from ``start`` on; ``previous_pts`` is that of the frame before it."""
    if video.settings.keep_fps:
        with read_frames(video.info, start=start, previous_pts=previous_pts) as reader:
            yield from reader
    else:
        with read_frames(video.info) as reader:
            yield from islice(constant_rate(reader, rate=CONSTANT_RATE), start, None)


def first_read(faces: FaceTracking, start: int) -> int:
    """Return the first frame that has to be read to change those from ``start`` on."""
    first = max(0, start - VISIBILITY_WINDOW)
    return first if faces.index.complete else min(first, faces.start)


def open_reader(video: VideoContext, faces: FaceTracking, start: int) -> FrameReader:
    """Open a video for reading from ``start`` on, or from its beginning at a constant rate."""
    # At a constant rate, the choice of the next frame depends on all timestamps before it.
    if not start or not video.settings.keep_fps:
        return read_frames(video.info)
    return read_frames(video.info, start=start, previous_pts=faces.index.pts(start - 1))


def changed_frames(
    video: VideoRun, faces: FaceTracking, reader: FrameReader, start: int, stop: int | None
) -> VideoJobs:
    """Yield the finished frames from ``start`` to before ``stop``: all stages between reader and writer."""
    settings = video.settings
    threads, batch = int(settings.execution_threads), int(settings.batch_size)
    every, upright = max(1, round(result_rate(settings, video.info))), video.info.upright
    changer = FrameChanger(video.engine, faces.selection, every=every, upright=upright)
    # One item waits between two stages: a longer queue would not make the slowest stage any faster.
    ahead = partial(run_ahead, depth=1, gauges=video.progress.gauges)
    jobs = faces.jobs(_detect(video, faces, reader, start), stop=stop and stop + VISIBILITY_WINDOW)
    if settings.keep_fps:  # at a constant rate frames may share a picture, which is changed in place
        jobs = changer.with_denoised_crops(jobs, length=video.segment_length)
    searched = ahead(jobs, name="find faces")
    masked = with_visibility(searched, changer, workers=threads)
    groups = map_ordered(changer.change_group, in_groups(masked, batch), workers=threads)
    with closing(ahead(groups, name="change faces")) as changed:
        yield from _finish(video, (job for group in changed for job in group), start, stop)


def _finish(video: VideoRun, jobs: Iterator[VideoFrameJob], start: int, stop: int | None) -> VideoJobs:
    """Enlarge and label the frames from ``start`` to before ``stop``, and yield them ready to be written.

    This runs in the writing thread, so that no enlarged frame waits and a stop is noticed between two tiles.
    Raise SmallerTilesError if the tile size was reduced: no segment mixes two sizes.
    """
    enhancer, label = video.engine.frame_enhancer, video.label
    enlarged: av.VideoFrame | None = None
    labelled = False
    for job in jobs:
        if job.index == stop:
            return
        if not job.repeats:
            enlarged, labelled = None, label is not None and label.is_shown(job.seconds)
        if job.index < start and (enhancer or job.repeats):
            continue
        fresh = not job.repeats
        if enhancer:
            fresh, edge = enlarged is None, enhancer.edge
            enlarged = enlarged or enhancer.enlarge_frame(job.item.video)
            if enhancer.edge != edge:
                raise SmallerTilesError
            job.item = replace(job.item, video=enlarged)
            job.picture = VideoPicture(enlarged, rotation=video.info.upright_rotation)
        if label and labelled and fresh:
            label.draw(job.picture, video.info)
        if job.index >= start:
            yield job


def _detect(video: VideoContext, faces: FaceTracking, reader: FrameReader, start: int = 0) -> VideoJobs:
    """Decode frames in one thread and detect faces in several where the detector always runs."""
    frames: Iterator[Frame] = reader
    if not video.settings.keep_fps:
        frames = _skip_to(constant_rate(reader, rate=CONSTANT_RATE), first_read(faces, start))
    decoded = run_ahead(frame_jobs(frames, video.info), 1, name="decode", gauges=video.progress.gauges)
    return map_ordered(faces.detect, decoded, workers=int(video.settings.execution_threads))


def _skip_to(frames: Iterator[Frame], start: int) -> Iterator[Frame]:
    """Skip frames before ``start``, except those that share its picture, which is changed with the first."""
    held: list[Frame] = []
    for frame in frames:
        if held and held[-1].video is not frame.video:
            held.clear()
        held.append(frame)
        if frame.index >= start:
            break
    yield from held
    yield from frames


def frame_jobs(frames: Iterator[Frame], info: VideoInfo) -> VideoJobs:
    """Yield frame jobs; those that share their picture with the frame before are marked as repeats."""
    previous = None
    for frame in frames:
        picture = VideoPicture(frame.video, rotation=info.upright_rotation)
        repeats, seconds = frame.video is previous, float(frame.time - info.start)
        yield FrameJob(frame.index, frame, picture, repeats=repeats, pts=frame.pts, seconds=seconds)
        previous = frame.video
