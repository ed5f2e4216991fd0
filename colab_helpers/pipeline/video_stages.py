"""What a video's run is made of, and its stages from the reader to the changed frame."""

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
from colab_helpers.pipeline.frames import (
    QUEUE_SHARE,
    FrameChanger,
    FrameJob,
    with_reference,
)
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.pipeline.visibility import VISIBILITY_WINDOW, with_visibility
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups, map_ordered, run_ahead

CONSTANT_RATE = Fraction(30)
"""Frames per second of a result whose settings do not keep the target's timing (as in roop)."""

PictureCallback = Callable[[VideoPicture], None]
VideoFrameJob = FrameJob[Frame, VideoPicture]


@dataclass(frozen=True, eq=False)
class VideoContext:
    """A video whose faces are found, and what follows from it."""

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
        """What the result is like: larger than the video where frames are enlarged."""
        enhancer = self.engine.frame_enhancer
        return enhancer.enlarged_info(self.info) if enhancer else self.info

    @property
    def rate(self) -> Fraction:
        """Frames per second of the result, on average."""
        return result_rate(self.settings, self.info)

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of the result's timestamps."""
        return self.info.time_base if self.settings.keep_fps else 1 / CONSTANT_RATE

    @property
    def length(self) -> int:
        """Frames of a segment."""
        return segment_length(self.settings, self.info)

    @property
    def frame_bytes(self) -> int:
        """The most that a decoded frame takes."""
        info = self.info
        return max(1, info.width * info.height * 3 * (2 if pixel_bits(info.pix_fmt) > 8 else 1))


@dataclass(frozen=True, eq=False)
class VideoRun(VideoContext):
    """A video whose faces are changed; see `process_video`."""

    output: Path
    choice: EncoderChoice
    on_picture: PictureCallback | None
    label: Label | None

    @property
    def encoding(self) -> str:
        """Tells apart what does not join: segments of other encoders, and those without the label."""
        options = ":".join(f"{key}={value}" for key, value in sorted(self.choice.options.items()))
        return f"{self.choice.name} {self.choice.pix_fmt} {options}{' label' if self.label else ''}"


class SmallerTilesError(Exception):
    """Memory ran out within a segment that is enlarged: it is made anew."""


def result_rate(settings: Settings, info: VideoInfo) -> Fraction:
    """Return the frames per second of a video's result, on average."""
    return (info.average_rate or DEFAULT_RATE) if settings.keep_fps else CONSTANT_RATE


def segment_length(settings: Settings, info: VideoInfo) -> int:
    """Return the frames of a segment of a video's result."""
    return max(2, round(settings.segment_seconds * result_rate(settings, info)))


def track_faces(video: VideoContext, index: FaceIndex, *, all_first: bool = False) -> FaceTracking:
    """Who is followed, and changed; where that depends on the whole video, all its faces are found first."""
    settings = video.settings
    faces = open_video_tracking(video.engine, video.info, index, video.assignment)
    room = float(settings.max_memory) * GIB * QUEUE_SHARE / video.frame_bytes
    if index.complete:
        faces.decide()
    if index.complete or not (all_first or faces.selection.needs_all_tracks or room < LOOK_AHEAD):
        return faces
    with _open_reader(video, faces.begin, faces) as reader, closing(_looked(video, faces, reader)) as works:
        for frame in faces.find_all(works):
            video.progress.finding(frame + 1)
        faces.is_intact = reader.is_intact
    return faces


def open_video_tracking(
    engine: Engine, info: VideoInfo, index: FaceIndex, assignment: Assignment
) -> FaceTracking:
    """Who is followed in a video: those of a cast, else by the settings of a run."""
    if needs_embeddings(engine.settings):
        with read_frames(info) as reader:
            assignment = with_reference(
                engine,
                assignment,
                (VideoPicture(frame.video, rotation=info.upright_rotation) for frame in reader),
                number=engine.settings.reference_frame_number,
                where=str(info.path),
            )
    return FaceTracking(engine.analyser, index, Selection(engine.settings, assignment), str(info.path))


def feed_watcher(video: VideoContext, index: FaceIndex, watcher: Watcher) -> None:
    """Show a watcher every frame: now those known that it has not seen, the others as they are found."""
    begin = watcher.frames
    if begin < len(index):
        with closing(frames_from(video, begin, index.pts(begin - 1) if begin else None)) as frames:
            works = frame_jobs(frames, video.info)
            for row, work in zip(islice(index, begin, None), works, strict=False):
                row.picture = work.picture
                watcher.see(row, float(row.pts * video.time_base))
                video.progress.finding(row.frame + 1)
        watcher.keep()
    index.attach_watcher(watcher, video.time_base)


def frames_from(video: VideoContext, begin: int, before: int | None) -> Generator[Frame, None, None]:
    """Yield the result's frames from one on; ``before`` is the timestamp of the frame before it."""
    if video.settings.keep_fps:
        with read_frames(video.info, start=begin, previous_pts=before) as reader:
            yield from reader
    else:
        with read_frames(video.info) as reader:
            yield from islice(constant_rate(reader, rate=CONSTANT_RATE), begin, None)


def open_reader(video: VideoRun, faces: FaceTracking, start: int) -> FrameReader:
    """Read the video from shortly before a segment's first frame, or from where faces have to be found."""
    return _open_reader(video, _first_read(faces, start), faces)


def _first_read(faces: FaceTracking, start: int) -> int:
    """The first frame that is read in order to change those from ``start`` on."""
    first = max(0, start - VISIBILITY_WINDOW)
    return first if faces.index.complete else min(first, faces.begin)


def _open_reader(video: VideoContext, begin: int, faces: FaceTracking) -> FrameReader:
    # At a constant rate, which of the target's frames comes next follows from all before it.
    if not begin or not video.settings.keep_fps:
        return read_frames(video.info)
    return read_frames(video.info, start=begin, previous_pts=faces.index.pts(begin - 1))


def changed_frames(
    video: VideoRun, faces: FaceTracking, reader: FrameReader, start: int, stop: int | None
) -> Generator[VideoFrameJob, None, None]:
    """The stages between reader and writer, as one generator of the frames of some segments."""
    settings = video.settings
    threads, batch = int(settings.execution_threads), int(settings.batch_size)
    every, upright = max(1, round(video.rate)), video.info.upright
    changer = FrameChanger(video.engine, faces.selection, every=every, upright=upright)
    # One waits between two stages: more do not make a run faster, as the slowest fills them all.
    ahead = partial(run_ahead, depth=1, gauges=video.progress.gauges)
    works = faces.works(_looked(video, faces, reader, start), stop=stop and stop + VISIBILITY_WINDOW)
    if settings.keep_fps:  # at a constant rate some frames share one picture, which is changed in place
        works = changer.with_denoised_crops(works, length=video.length)
    found = ahead(works, name="find faces")
    seen = with_visibility(found, changer, workers=threads)
    groups = map_ordered(changer.changed, in_groups(seen, batch), workers=threads)
    with closing(ahead(groups, name="change faces")) as changed:
        yield from _finished(video, (work for group in changed for work in group), start, stop)


def _finished(
    video: VideoRun, works: Iterator[VideoFrameJob], start: int, stop: int | None
) -> Generator[VideoFrameJob, None, None]:
    """Yield the frames of some segments as they are written: enlarged where that is asked for, and labelled.

    It is done where frames are written: no large one waits, and a stop is heard between two tiles.
    `SmallerTilesError` where tiles have become smaller: no segment is made in two kinds.
    """
    enhancer, label = video.engine.frame_enhancer, video.label
    large: av.VideoFrame | None = None
    labelled = False
    for work in works:
        if work.index == stop:
            return
        if not work.repeats:
            large, labelled = None, label is not None and label.is_shown(work.seconds)
        if work.index < start and (enhancer or work.repeats):
            continue
        fresh = not work.repeats
        if enhancer:
            fresh, edge = large is None, enhancer.edge
            large = large or enhancer.enlarge_frame(work.item.video)
            if enhancer.edge != edge:
                raise SmallerTilesError
            work.item = replace(work.item, video=large)
            work.picture = VideoPicture(large, rotation=video.info.upright_rotation)
        if label and labelled and fresh:
            label.draw(work.picture, video.info)
        if work.index >= start:
            yield work


def _looked(
    video: VideoContext, faces: FaceTracking, reader: FrameReader, start: int = 0
) -> Generator[VideoFrameJob, None, None]:
    """Frames that were looked at where they have to be, decoded in a thread of its own."""
    frames: Iterator[Frame] = reader
    if not video.settings.keep_fps:
        frames = _from(constant_rate(reader, rate=CONSTANT_RATE), _first_read(faces, start))
    decoded = run_ahead(frame_jobs(frames, video.info), 1, name="decode", gauges=video.progress.gauges)
    return map_ordered(faces.look, decoded, workers=int(video.settings.execution_threads))


def _from(frames: Iterator[Frame], begin: int) -> Iterator[Frame]:
    """Frames from one on, and those before it that show the same picture: it is changed with the first."""
    held: list[Frame] = []
    for frame in frames:
        if held and held[-1].video is not frame.video:
            held.clear()
        held.append(frame)
        if frame.index >= begin:
            break
    yield from held
    yield from frames


def frame_jobs(frames: Iterator[Frame], info: VideoInfo) -> Generator[VideoFrameJob, None, None]:
    """Yield frames with their pictures; those that repeat the one before are marked."""
    before = None
    for frame in frames:
        picture = VideoPicture(frame.video, rotation=info.upright_rotation)
        repeats, seconds = frame.video is before, float(frame.time - info.start)
        yield FrameJob(frame.index, frame, picture, repeats=repeats, pts=frame.pts, seconds=seconds)
        before = frame.video
