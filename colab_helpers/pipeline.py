"""One file from end to end: read, find faces, change them, write, as bounded stages in threads.

Frames are decoded once and detected once. A frame without a face to change goes from the decoder to the
encoder as it is; in the others only the samples inside the faces' boxes are touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.compositor import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.selection import needs_embeddings, reference_embedding, select_faces
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.images import write_image
from colab_helpers.media.picture import BgrPicture, Picture, VideoPicture
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.media.retime import constant_rate
from colab_helpers.media.writer import VideoWriter, WriteSummary
from colab_helpers.models.session import Provider
from colab_helpers.progress import Progress, ProgressCallback
from colab_helpers.resources.budget import queue_depth
from colab_helpers.resources.sampler import gpu_memory_percent, ram_percent
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups, map_ordered, run_ahead

CONSTANT_RATE = Fraction(30)
"""Frames per second of a result whose settings do not keep the target's timing (as in roop)."""
_QUEUES = 3
_PROGRESS_INTERVAL = 0.25


@dataclass(frozen=True)
class FileResult:
    """What became of one file.

    Attributes:
        frames_in: Frames read; ``frames_out`` frames written.
        faces_swapped: Faces changed, counted over all frames.
        frames_without_face: Frames in which no face was changed.
        seconds: Wall time.
        encoder: Encoder of the result; None for an image.
        provider: Where the networks ran.
        notes: Every fall-back and conversion, one sentence each.
        video_seconds: Length of the result's picture; ``audio_seconds`` that of its sound, 0 without.
    """

    frames_in: int
    frames_out: int
    faces_swapped: int
    frames_without_face: int
    seconds: float
    encoder: str | None
    provider: Provider
    notes: tuple[str, ...]
    video_seconds: float | None = None
    audio_seconds: float | None = None


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


@dataclass
class _Tally:
    frames: int = 0
    faces: int = 0
    without_face: int = 0

    def add(self, work: _Work) -> None:
        self.frames += 1
        self.faces += len(work.faces)
        self.without_face += not work.faces and not work.repeats


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
    """

    engine: Engine
    source: FloatArray | None
    target: Path
    output: Path
    on_progress: ProgressCallback | None = None
    file_index: int = 0
    file_count: int = 1
    _tally: _Tally = field(default_factory=_Tally, init=False)

    def run(self) -> FileResult:
        """Do it.

        Raises:
            ColabHelpersError: The video cannot be read, the result cannot be written, or a network
                failed; nothing is left of the result then.
        """
        started = time.monotonic()
        info = probe(self.target)
        choice = self._choose_encoder(info)
        finder = _FaceFinder(self.engine, self._reference(info))
        with _one_opencv_thread(), read_frames(info) as reader:
            rate = None if self._settings.keep_fps else CONSTANT_RATE
            counted = _Counted(reader)
            frames: Iterator[Frame] = counted if rate is None else constant_rate(counted, rate=rate)
            summary, writer_notes = self._write(info, choice, self._changed(info, frames, finder))
            notes = (*reader.notes, *choice.notes, *writer_notes)
            frames_in = counted.count
        seconds = time.monotonic() - started
        return FileResult(
            frames_in=frames_in,
            frames_out=summary.frames,
            faces_swapped=self._tally.faces,
            frames_without_face=self._tally.without_face,
            seconds=seconds,
            encoder=choice.name,
            provider=self.engine.provider,
            notes=tuple(dict.fromkeys((*notes, *self._face_notes()))),
            video_seconds=summary.video_seconds,
            audio_seconds=summary.audio_seconds,
        )

    @property
    def _settings(self) -> Settings:
        return self.engine.settings

    def _choose_encoder(self, info: VideoInfo) -> EncoderChoice:
        preset = self._settings.output_video_preset
        return encoder_for(
            info,
            wanted=self._settings.output_video_encoder,
            quality=self._settings.output_video_quality,
            preset=None if preset == "auto" else preset,
        )

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

    def _changed(
        self, info: VideoInfo, frames: Iterator[Frame], finder: _FaceFinder
    ) -> Generator[_Work, None, None]:
        """The stages between reader and writer, as one generator."""
        settings = self._settings
        threads, batch = _number(settings.execution_threads), _number(settings.batch_size)
        depth = queue_depth(
            info.width * info.height * 3 * (2 if info.bit_depth > 8 else 1),
            max_memory=float(settings.max_memory),
            in_work=threads * (batch + 1),
            queues=_QUEUES,
        )
        changer = self.engine.changer(self.source)

        def find(work: _Work) -> _Work:
            return work if work.repeats else replace(work, faces=finder.find(work.picture))

        def change(group: list[_Work]) -> list[_Work]:
            changer.change([FaceJob(work.picture, face) for work in group for face in work.faces])
            return group

        decoded = run_ahead(_works(frames, info.rotation), depth, name="decode")
        found = run_ahead(map_ordered(find, decoded, workers=threads), depth, name="find faces")
        groups = map_ordered(change, in_groups(found, batch), workers=threads)
        with closing(run_ahead(groups, max(1, depth // batch), name="change faces")) as changed:
            for group in changed:
                yield from group

    def _write(
        self, info: VideoInfo, choice: EncoderChoice, works: Generator[_Work, None, None]
    ) -> tuple[WriteSummary, list[str]]:
        clock = _Clock(self, info)
        time_base = info.time_base if self._settings.keep_fps else 1 / CONSTANT_RATE
        writer = VideoWriter(
            self.output, info, choice=choice, time_base=time_base, copy_audio=not self._settings.skip_audio
        )
        with closing(works), writer:
            for work in works:
                writer.write(work.frame.video, pts=work.frame.pts, duration=work.frame.duration)
                self._keep(work)
                self._tally.add(work)
                clock.tick(self._tally.frames)
            # Before the result is put in its place: a stop asked for now still leaves nothing behind.
            clock.tick(self._tally.frames, last=True)
        return writer.summary, writer.notes

    def _keep(self, work: _Work) -> None:
        """Write the frame as an image too, where ``keep_frames`` asks for it."""
        settings = self._settings
        if settings.keep_frames:
            path = frames_folder(self.output) / f"{work.frame.index:06d}.{settings.temp_frame_format}"
            image = np.asarray(work.frame.video.to_ndarray(format="bgr24"), np.uint8)
            write_image(path, image, quality=max(1, settings.temp_frame_quality))

    def _face_notes(self) -> list[str]:
        if self._tally.faces == 0:
            return ["no face was found in any frame: the picture is unchanged"]
        return []


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


class _Counted(Iterator[Frame]):
    """Passes frames on and counts them."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.count = 0

    def __next__(self) -> Frame:
        frame = next(self._frames)
        self.count += 1
        return frame


class _Clock:
    """Reports progress at most every quarter of a second."""

    def __init__(self, run: VideoRun, info: VideoInfo) -> None:
        self._run = run
        self._frames = info.frames if run.engine.settings.keep_fps else _constant_count(info)
        self._started = self._last = time.monotonic()

    def tick(self, frame: int, *, last: bool = False) -> None:
        now = time.monotonic()
        if self._run.on_progress is None or (now - self._last < _PROGRESS_INTERVAL and not last):
            return
        self._last = now
        fps = frame / max(now - self._started, 1e-6)
        left = None if self._frames is None or not frame else max(0, self._frames - frame) / fps
        self._run.on_progress(self._progress(frame, fps, left))

    def _progress(self, frame: int, fps: float, left: float | None) -> Progress:
        run, settings = self._run, self._run.engine.settings
        return Progress(
            file=run.target.name,
            file_index=run.file_index,
            file_count=run.file_count,
            frame=frame,
            frames=self._frames,
            fps=fps,
            eta=left,
            ram_percent=ram_percent(),
            gpu_percent=gpu_memory_percent(),
            provider=run.engine.provider,
            threads=_number(settings.execution_threads),
            batch_size=_number(settings.batch_size),
        )


def frames_folder(output: Path) -> Path:
    """Where the kept frames of a result lie: ``<name>_frames`` beside it."""
    return output.with_name(f"{output.stem}_frames")


def _constant_count(info: VideoInfo) -> int | None:
    return round(info.duration * CONSTANT_RATE) or None


def _number(value: int | str) -> int:
    """A setting that ``Settings.resolve`` has turned from ``auto`` into a number."""
    return int(value)
