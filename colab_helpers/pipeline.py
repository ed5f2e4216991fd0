"""One file from end to end: read, find faces, change them, write, as bounded stages in threads.

Frames are decoded once and detected once. A frame without a face to change goes from the decoder to the
encoder as it is; in the others only the samples inside the faces' boxes are touched.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.compositor import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.quality import Brightness, Measured, brightness, likeness
from colab_helpers.faces.selection import needs_embeddings, reference_embedding, select_faces
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.containers import timing_note
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.images import write_image
from colab_helpers.media.picture import BgrPicture, Picture, VideoPicture
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.media.retime import constant_rate
from colab_helpers.media.segments import Segment, SegmentedWriter, join_segments
from colab_helpers.media.writer import VideoWriter, unwritable
from colab_helpers.models.session import Provider
from colab_helpers.progress import Progress, ProgressCallback
from colab_helpers.resources.budget import queue_depth
from colab_helpers.resources.sampler import gpu_memory_percent, ram_percent
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups, map_ordered, run_ahead

CONSTANT_RATE = Fraction(30)
"""Frames per second of a result whose settings do not keep the target's timing (as in roop)."""
_USUAL_RATE = Fraction(25)
_FRAMES = "frames"
_QUEUES = 3
_PROGRESS_INTERVAL = 0.25
_PICTURE_INTERVAL = 2.0


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    Attributes:
        frames_in: Frames read; ``frames_out`` frames written.
        measured: Faces changed, and how well they came out.
        seconds: Wall time.
        encoder: Encoder of the result; None for an image.
        provider: Where the networks ran.
        notes: Every fall-back and conversion, one sentence each.
        video_seconds: Length of the result's picture; ``audio_seconds`` that of its sound, 0 without.
        times_kept: Whether every frame is shown exactly when the target's is; None for a GIF, whose
            pictures have times of their own.
        segments: How many the result was joined from; 0 if it was written in one go.
        segments_kept: How many of them an earlier run had finished.
    """

    frames_in: int
    frames_out: int
    measured: Measured
    seconds: float
    encoder: str | None
    provider: Provider
    notes: tuple[str, ...]
    video_seconds: float | None = None
    audio_seconds: float | None = None
    times_kept: bool | None = None
    segments: int = 0
    segments_kept: int = 0

    @property
    def faces_swapped(self) -> int:
        """Faces changed, counted over all frames."""
        return self.measured.faces

    @property
    def frames_without_face(self) -> int:
        """Frames in which no face was changed."""
        return self.measured.without_face


@dataclass(frozen=True)
class FinishedSegment:
    """A segment that is safe on disk, and what is known of its frames.

    Attributes:
        segment: The file.
        length: Frames that every segment but the last one was to have.
        measured: What was counted over its frames.
        encoder: What it was encoded with; segments of different encoders do not join.
        provider: Where the networks ran.
        notes: What was repaired or converted, one sentence each.
    """

    segment: Segment
    length: int
    measured: Measured
    encoder: str
    provider: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Excerpt:
    """A part from the middle of a video, without its sound: at most so many frames, begun within so long.

    Attributes:
        frames: How many at most.
        seconds: Time after which no further frame is begun.
    """

    frames: int
    seconds: float


class SegmentStore(Protocol):
    """Keeps a video's finished segments, so that a later run goes on after the last of them."""

    @property
    def folder(self) -> Path:
        """Where segments are written; made if missing."""

    def finished(self) -> list[FinishedSegment]:
        """Those that still stand as they were noted: the first, the second, … up to the first gap."""

    def keep(self, done: FinishedSegment) -> None:
        """Note a segment; it counts as finished when this returns."""


@dataclass(eq=False)
class _Work:
    """A frame on its way, with the faces of it that are to be changed.

    A frame repeated to keep a constant rate shares its picture with the one before, which is changed
    once: ``repeats`` says so, and ``faces`` is empty then.
    """

    frame: Frame
    picture: VideoPicture
    faces: Sequence[Face] = ()
    repeats: bool = False
    before: Brightness | None = None
    after: Brightness | None = None
    similarity: float | None = None

    @property
    def largest(self) -> Face:
        """The face that is measured."""
        return max(self.faces, key=lambda face: face.area)


class _Tally:
    """Adds up what was measured, frame after frame."""

    def __init__(self) -> None:
        self.frames = 0
        self._measured = Measured()
        self._last: tuple[Brightness, float] | None = None

    def add(self, work: _Work) -> None:
        """Count a frame that has been written."""
        self.frames += 1
        if not work.repeats:
            self._measured.add_frame(work.frame.index, len(work.faces))
        if work.similarity is not None:
            self._measured.similarities.append(work.similarity)
        self._add_step(work)

    def _add_step(self, work: _Work) -> None:
        if work.before is None or work.after is None:
            return
        added = work.after.level - work.before.level
        if self._last is not None and work.before.follows(self._last[0]):
            self._measured.flicker += (added - self._last[1]) ** 2
            self._measured.pairs += 1
        self._last = work.before, added

    def take(self) -> Measured:
        """What was measured since this was last asked."""
        measured, self._measured = self._measured, Measured()
        return measured


@dataclass(frozen=True, eq=False)
class _FaceFinder:
    """Finds and selects the faces of a picture; the reference stays that of its first frame asked for."""

    engine: Engine
    reference: FloatArray | None

    def find(self, picture: Picture) -> list[Face]:
        analyser, settings = self.engine.analyser, self.engine.settings
        faces = analyser.detect(picture)
        if needs_embeddings(settings):
            faces = analyser.embed(picture, faces)
        return select_faces(faces, settings, reference=self.reference)


def process_image(engine: Engine, source: FloatArray | None, image: ByteImage) -> tuple[ByteImage, int]:
    """Change the faces of one image.

    Args:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        image: ``(H, W, 3)`` uint8 BGR; not changed.

    Returns:
        The new image and how many faces were changed.
    """
    picture = BgrPicture(image.copy())
    reference = None
    if needs_embeddings(engine.settings):
        reference = reference_embedding(engine.analyser.find(image), engine.settings, where="image")
    faces = _FaceFinder(engine, reference).find(picture)
    engine.changer(source).change([FaceJob(picture, face) for face in faces])
    return picture.image, len(faces)


@dataclass(eq=False)
class VideoRun:
    """One video through the pipeline.

    Attributes:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        target: The video.
        output: The result; written beside it first and renamed at the end.
        on_progress: Called from the thread that called ``run``, at most four times a second.
        file_index: Number of this file in the run, for progress; ``file_count`` in all.
        store: Where finished segments are kept; None writes the result in one go, as does a GIF.
        excerpt: Do only a part of the video, in one go.
        on_picture: Called with the frame just written, every two seconds; it must not keep it.
    """

    engine: Engine
    source: FloatArray | None
    target: Path
    output: Path
    on_progress: ProgressCallback | None = None
    file_index: int = 0
    file_count: int = 1
    store: SegmentStore | None = None
    excerpt: Excerpt | None = None
    on_picture: Callable[[VideoPicture], None] | None = None
    gauges: dict[str, Sized] = field(default_factory=dict, init=False)
    _tally: _Tally = field(default_factory=_Tally, init=False)

    def run(self) -> FileResult:
        """Do it.

        Raises:
            ColabHelpersError: The video cannot be read, the result cannot be written, or a network
                failed; nothing is left of the result then, but finished segments stay in the store.
        """
        started = time.monotonic()
        info = probe(self.target)
        choice = self._choose_encoder(info)
        in_segments = self.store is not None and self.output.suffix.lower() != ".gif"
        with _one_opencv_thread():
            result = self._in_segments(info, choice) if in_segments else self._in_one_go(info, choice)
        suffix = self.output.suffix.lower()
        exact = self._settings.keep_fps and timing_note(info.time_base, suffix) is None
        return replace(
            result,
            seconds=time.monotonic() - started,
            notes=tuple(dict.fromkeys((*choice.notes, *result.notes, *_face_notes(result.measured)))),
            times_kept=None if suffix == ".gif" else exact,
        )

    def _in_one_go(self, info: VideoInfo, choice: EncoderChoice) -> FileResult:
        clock = _Clock(self, info)
        writer = VideoWriter(
            self.output, info, choice=choice, time_base=self._time_base(info), copy_audio=self._copy_audio
        )
        with self._reading(info) as frames:
            self._write(writer, self._changed(info, frames), clock, frames_folder(self.output))
        return FileResult(
            frames_in=frames.count,
            frames_out=writer.summary.frames,
            measured=self._tally.take(),
            seconds=0.0,
            encoder=choice.name,
            provider=self.engine.provider,
            notes=(*frames.notes, *writer.notes),
            video_seconds=writer.summary.video_seconds,
            audio_seconds=writer.summary.audio_seconds,
        )

    def _in_segments(self, info: VideoInfo, choice: EncoderChoice) -> FileResult:
        assert self.store is not None
        store, length = self.store, segment_length(info, self._settings)
        encoder = _signature(choice)
        parts = self._usable(store, encoder, length)
        kept = len(parts)
        clock = _Clock(self, info, start=parts[-1].segment.stop if parts else 0)

        def finish(segment: Segment) -> None:
            notes = tuple(frames.notes)
            part = FinishedSegment(segment, length, self._tally.take(), encoder, self.engine.provider, notes)
            store.keep(part)
            parts.append(part)

        with self._reading(info, parts, complete=_is_last(parts, length)) as frames:
            writer = SegmentedWriter(
                store.folder,
                info,
                choice=choice,
                length=length,
                on_segment=finish,
                start=frames.start,
                time_base=self._time_base(info),
            )
            self._write(writer, self._changed(info, frames), clock, store.folder / _FRAMES)
        joined = join_segments(
            [part.segment for part in parts],
            info,
            self.output,
            choice=choice,
            time_base=self._time_base(info),
            copy_audio=self._copy_audio,
            on_frame=clock.tick_joining,
        )
        self._hand_out_frames(store.folder / _FRAMES)
        measured = Measured()
        for part in parts:
            measured.add(part.measured)
        return FileResult(
            frames_in=frames.count
            if frames.start == 0 or not self._settings.keep_fps
            else joined.summary.frames,
            frames_out=joined.summary.frames,
            measured=measured,
            seconds=0.0,
            encoder=choice.name,
            provider=self.engine.provider,
            notes=(
                *(note for part in parts for note in part.notes),
                *frames.notes,
                *joined.notes,
                *_provider_notes(parts),
            ),
            video_seconds=joined.summary.video_seconds,
            audio_seconds=joined.summary.audio_seconds,
            segments=len(parts),
            segments_kept=kept,
        )

    def _usable(self, store: SegmentStore, encoder: str, length: int) -> list[FinishedSegment]:
        """Finished segments that fit this run, from the first on."""
        usable = []
        for number, part in enumerate(store.finished()):
            segment = part.segment
            fits = (segment.number, segment.start, part.length) == (number, number * length, length)
            if not fits or part.encoder != encoder or not self._has_frames(store, segment):
                break
            usable.append(part)
        return usable

    def _has_frames(self, store: SegmentStore, segment: Segment) -> bool:
        """Whether the frames that are to be kept as images are there, too."""
        if not self._settings.keep_frames:
            return True
        numbers = range(segment.start, segment.stop)
        return all(self._frame_path(store.folder / _FRAMES, number).is_file() for number in numbers)

    def _hand_out_frames(self, folder: Path) -> None:
        """Put kept frames beside the result."""
        if self._settings.keep_frames:
            place = frames_folder(self.output)
            shutil.rmtree(place, ignore_errors=True)
            try:
                shutil.move(folder, place)
            except OSError as error:
                raise unwritable(place, error) from error

    @property
    def _settings(self) -> Settings:
        return self.engine.settings

    @property
    def _copy_audio(self) -> bool:
        return not self._settings.skip_audio and self.excerpt is None

    def _time_base(self, info: VideoInfo) -> Fraction:
        return info.time_base if self._settings.keep_fps else 1 / CONSTANT_RATE

    def _choose_encoder(self, info: VideoInfo) -> EncoderChoice:
        preset = self._settings.output_video_preset
        return encoder_for(
            info,
            wanted=self._settings.output_video_encoder,
            quality=self._settings.output_video_quality,
            preset=None if preset == "auto" else preset,
        )

    @contextmanager
    def _reading(
        self, info: VideoInfo, parts: Sequence[FinishedSegment] = (), *, complete: bool = False
    ) -> Iterator[_Frames]:
        """The frames after the finished segments; none where those are ``complete``."""
        if self.excerpt is not None:
            with read_frames(info, start=max(0, (info.frames or 0) - self.excerpt.frames) // 2) as reader:
                frames = _Frames(reader, reader.notes, start=0)
                frames.limit(self.excerpt)
                yield frames
            return
        last = parts[-1].segment if parts else None
        if last is not None and complete:
            yield _Frames(iter(()), [], start=0, count=last.stop)
            return
        start = last.stop if last else 0
        if self._settings.keep_fps:
            with read_frames(info, start=start, previous_pts=last.last_pts if last else None) as reader:
                yield _Frames(reader, reader.notes, start=start)
        else:
            # Which of the target's frames comes next follows from all before it.
            with read_frames(info) as reader:
                frames = _Frames(reader, reader.notes, start=start)
                frames.retime()
                yield frames

    def _reference(self, info: VideoInfo) -> FloatArray | None:
        """The embedding of the person to follow, read off the reference frame."""
        if not needs_embeddings(self._settings):
            return None
        number = self._settings.reference_frame_number
        with read_frames(info) as reader:
            frame = next((frame for frame in reader if frame.index == number), None)
            if frame is None:
                raise NoFaceError(
                    f"reference_frame_number is {number}, but the video ends before it",
                    where=str(info.path),
                    remedy="choose an earlier frame",
                )
            picture = VideoPicture(frame.video, rotation=info.rotation)
            analyser = self.engine.analyser
            faces = analyser.embed(picture, analyser.detect(picture))
        return reference_embedding(faces, self._settings, where=str(info.path))

    def _changed(self, info: VideoInfo, frames: Iterator[Frame]) -> Generator[_Work, None, None]:
        """The stages between reader and writer, as one generator."""
        settings = self._settings
        threads, batch = _number(settings.execution_threads), _number(settings.batch_size)
        depth = queue_depth(
            info.width * info.height * 3 * (2 if info.bit_depth > 8 else 1),
            max_memory=float(settings.max_memory),
            in_work=threads * (batch + 1),
            queues=_QUEUES,
        )
        finder = _FaceFinder(self.engine, self._reference(info))
        changer = self.engine.changer(self.source)
        every = max(1, round(self._rate(info)))

        def find(work: _Work) -> _Work:
            if not work.repeats:
                work.faces = finder.find(work.picture)
            return work

        def change(group: list[_Work]) -> list[_Work]:
            shown = [work for work in group if work.faces]
            for work in shown:
                work.before = brightness(work.picture, work.largest, work.frame.index)
            changer.change([FaceJob(work.picture, face) for work in shown for face in work.faces])
            for work in shown:
                work.after = brightness(work.picture, work.largest, work.frame.index)
                if self.source is not None and work.frame.index % every == 0:
                    work.similarity = likeness(self.engine.analyser, work.picture, work.largest, self.source)
            return group

        ahead = partial(run_ahead, gauges=self.gauges)
        decoded = ahead(_works(frames, info.rotation), depth, name="decode")
        found = ahead(map_ordered(find, decoded, workers=threads), depth, name="find faces")
        groups = map_ordered(change, in_groups(found, batch), workers=threads)
        with closing(ahead(groups, max(1, depth // batch), name="change faces")) as changed:
            for group in changed:
                yield from group

    def _rate(self, info: VideoInfo) -> Fraction:
        """Frames per second of the result, on average."""
        return (info.average_rate or _USUAL_RATE) if self._settings.keep_fps else CONSTANT_RATE

    def _write(
        self,
        writer: VideoWriter | SegmentedWriter,
        works: Generator[_Work, None, None],
        clock: _Clock,
        images: Path,
    ) -> None:
        with closing(works), writer:
            for work in works:
                # Counted first: with this frame a segment may be finished, and noted with its count.
                self._tally.add(work)
                self._keep(work, images)
                writer.write(work.frame.video, pts=work.frame.pts, duration=work.frame.duration)
                clock.tick(self._tally.frames)
                if self.on_picture is not None and clock.picture_is_due():
                    self.on_picture(work.picture)
            # Before the last piece is put in its place: a stop asked for now still leaves nothing behind.
            clock.tick(self._tally.frames, last=True)

    def _keep(self, work: _Work, folder: Path) -> None:
        """Write the frame as an image too, where ``keep_frames`` asks for it."""
        settings = self._settings
        if settings.keep_frames:
            image = np.asarray(work.frame.video.to_ndarray(format="bgr24"), np.uint8)
            path = self._frame_path(folder, work.frame.index)
            write_image(path, image, quality=max(1, settings.temp_frame_quality))

    def _frame_path(self, folder: Path, number: int) -> Path:
        return folder / f"{number:06d}.{self._settings.temp_frame_format}"


class _Frames(Iterator[Frame]):
    """Frames of the target still to be done, counted as they are read.

    Args:
        frames: From the reader.
        notes: The reader's, which grow while it reads.
        start: Number of the first frame to come out.
        count: Frames read so far.
    """

    def __init__(self, frames: Iterator[Frame], notes: list[str], *, start: int, count: int = 0) -> None:
        self.notes = notes
        self.start = start
        self.count = count
        self._wanted = self._counted(frames)

    def retime(self) -> None:
        """Bring the frames to the constant rate; ``start`` counts in that rate, too."""
        evened = constant_rate(self._wanted, rate=CONSTANT_RATE)
        self._wanted = (frame for frame in evened if frame.index >= self.start)

    def limit(self, excerpt: Excerpt) -> None:
        """End after so many frames, or so much time."""
        deadline = time.monotonic() + excerpt.seconds
        wanted = islice(self._wanted, excerpt.frames)
        self._wanted = takewhile(lambda _frame: time.monotonic() < deadline, wanted)

    def _counted(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.count += 1
            yield frame

    def __next__(self) -> Frame:
        return next(self._wanted)


def segment_length(info: VideoInfo, settings: Settings) -> int:
    """Frames of a segment: ``segment_seconds`` at the result's average rate."""
    rate = (info.average_rate or _USUAL_RATE) if settings.keep_fps else CONSTANT_RATE
    return max(2, round(settings.segment_seconds * rate))


def _signature(choice: EncoderChoice) -> str:
    """Tells encoders whose segments do not join apart."""
    options = ":".join(f"{key}={value}" for key, value in sorted(choice.options.items()))
    return f"{choice.name} {choice.pix_fmt} {options}"


def _is_last(parts: Sequence[FinishedSegment], length: int) -> bool:
    """Whether the segments hold the whole video: only its last segment is shorter."""
    return bool(parts) and parts[-1].segment.frames < length


def _provider_notes(parts: Sequence[FinishedSegment]) -> list[str]:
    """Where a video was begun on a GPU and finished without, or the other way round, that is said."""
    providers = {part.provider: part.segment.number for part in parts}
    if len(providers) < 2:
        return []
    where = ", ".join(f"{name} up to segment {last}" for name, last in providers.items())
    return [f"the networks ran on {where}: pictures may differ by a rounding"]


def _face_notes(measured: Measured) -> list[str]:
    return [] if measured.faces else ["no face was found in any frame: the picture is unchanged"]


def _works(frames: Iterator[Frame], rotation: int) -> Iterator[_Work]:
    before = None
    for frame in frames:
        repeats = frame.video is before
        yield _Work(frame, VideoPicture(frame.video, rotation=rotation), repeats=repeats)
        before = frame.video


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from splitting its small jobs: the stages already use every core.

    Handing parts of a crop or mask to a pool costs 10 to 15 % more CPU than the work itself.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


class _Clock:
    """Reports progress at most every quarter of a second."""

    def __init__(self, run: VideoRun, info: VideoInfo, *, start: int = 0) -> None:
        self._run = run
        self._frames = info.frames if run.engine.settings.keep_fps else _constant_count(info)
        self._start = start
        self._done = start
        self._started = self._last = time.monotonic()
        self._pictured = float("-inf")
        self._rate = 0.0

    def tick(self, written: int, *, last: bool = False) -> None:
        """Tell how many frames were written in this run."""
        now = time.monotonic()
        self._done = self._start + written
        if self._is_due(now) or last:
            self._rate = written / max(now - self._started, 1e-6)
            left = max(0, self._frames - self._done) / self._rate if self._frames and self._rate else None
            self._tell(now, "frames", left)

    def tick_joining(self, _joined: int) -> None:
        """Tell that the segments are being joined."""
        now = time.monotonic()
        if self._is_due(now):
            self._tell(now, "joining", 0.0)

    def picture_is_due(self) -> bool:
        """Whether it is time to show a frame; then the next one is due after the interval."""
        now = time.monotonic()
        due = now - self._pictured >= _PICTURE_INTERVAL
        self._pictured = now if due else self._pictured
        return due

    def _is_due(self, now: float) -> bool:
        return now - self._last >= _PROGRESS_INTERVAL

    def _tell(self, now: float, stage: str, left: float | None) -> None:
        self._last = now
        run, settings = self._run, self._run.engine.settings
        if run.on_progress is None:
            return
        run.on_progress(
            Progress(
                file=run.target.name,
                file_index=run.file_index,
                file_count=run.file_count,
                frame=self._done,
                frames=self._frames,
                fps=self._rate,
                eta=left,
                ram_percent=ram_percent(),
                gpu_percent=gpu_memory_percent(),
                provider=run.engine.provider,
                threads=_number(settings.execution_threads),
                batch_size=_number(settings.batch_size),
                stage=stage,
                waiting={name: len(queue) for name, queue in run.gauges.items()},
            )
        )


def frames_folder(output: Path) -> Path:
    """Where the kept frames of a result lie: ``<name>_frames`` beside it."""
    return output.with_name(f"{output.stem}_frames")


def _constant_count(info: VideoInfo) -> int | None:
    return round(info.duration * CONSTANT_RATE) or None


def _number(value: int | str) -> int:
    """A setting that ``Settings.resolve`` has turned from ``auto`` into a number."""
    return int(value)
