"""A video from end to end."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.compositor import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.quality import Measured, brightness, likeness
from colab_helpers.faces.selection import needs_embeddings, reference_embedding
from colab_helpers.faces.types import FloatArray
from colab_helpers.language import tr
from colab_helpers.media.containers import timing_note
from colab_helpers.media.copying import EVERYTHING, FACES, Kind
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.images import write_image
from colab_helpers.media.names import shortened
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.media.segments import Segment, SegmentedWriter, join_segments
from colab_helpers.media.writer import VideoWriter, unwritable
from colab_helpers.pipeline.clock import Clock
from colab_helpers.pipeline.frames import CONSTANT_RATE, Frames, Tally, Work, as_work
from colab_helpers.pipeline.image import FaceFinder
from colab_helpers.pipeline.outcome import FileResult, FinishedSegment, SegmentStore
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.budget import queue_depth
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups, map_ordered, run_ahead

_USUAL_RATE = Fraction(25)
_FRAMES = "frames"
_FRAME_NAME = re.compile(r"\d{6,}\.(png|jpg)")
_QUEUES = 3


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
    on_picture: Callable[[VideoPicture], None] | None = None
    gauges: dict[str, Sized] = field(default_factory=dict, init=False)
    _tally: Tally = field(default_factory=Tally, init=False)

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
            times_kept=None if suffix == ".gif" else exact and result.times_kept is not False,
        )

    def _in_one_go(self, info: VideoInfo, choice: EncoderChoice) -> FileResult:
        clock = Clock(self, info)
        writer = VideoWriter(
            self.output, info, choice=choice, time_base=self._time_base(info), kinds=self._kinds
        )
        with self._reading(info) as frames:
            self._write(writer, self._changed(info, frames), clock, info, frames_folder(self.output))
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
            times_kept=frames.times_kept,
        )

    def _in_segments(self, info: VideoInfo, choice: EncoderChoice) -> FileResult:
        assert self.store is not None
        store, length = self.store, segment_length(info, self._settings)
        encoder = _signature(choice)
        parts = self._usable(store, encoder, length)
        kept = len(parts)
        clock = Clock(self, info, start=parts[-1].segment.stop if parts else 0)

        def finish(segment: Segment) -> None:
            notes = tuple(frames.notes)
            part = FinishedSegment(
                segment, length, self._tally.take(), encoder, self.engine.provider, notes, frames.times_kept
            )
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
            self._write(writer, self._changed(info, frames), clock, info, store.folder / _FRAMES)
        joined = join_segments(
            [part.segment for part in parts],
            info,
            self.output,
            choice=choice,
            time_base=self._time_base(info),
            kinds=self._kinds,
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
            times_kept=all(part.times_kept for part in parts),
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
            move_frames(folder, frames_folder(self.output), frozenset(path.name for path in folder.iterdir()))

    @property
    def _settings(self) -> Settings:
        return self.engine.settings

    @property
    def _kinds(self) -> frozenset[Kind]:
        """Streams beside the picture that the result gets: none that still shows a face that was replaced."""
        unwanted = (FACES if self.source is not None else frozenset()) | (
            frozenset(("audio",)) if self._settings.skip_audio else frozenset()
        )
        return EVERYTHING - unwanted

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
    ) -> Iterator[Frames]:
        """The frames after the finished segments; none where those are ``complete``."""
        last = parts[-1].segment if parts else None
        if last is not None and complete:
            read = last.stop if self._settings.keep_fps else info.frames or last.stop
            yield Frames(iter(()), [], start=0, count=read)
            return
        start = last.stop if last else 0
        if self._settings.keep_fps:
            with read_frames(info, start=start, previous_pts=last.last_pts if last else None) as reader:
                yield Frames(reader, reader.notes, start=start)
        else:
            # Which of the target's frames comes next follows from all before it.
            with read_frames(info) as reader:
                frames = Frames(reader, reader.notes, start=start)
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
                    tr("reference_frame_number is {number}, but the video ends before it", number=number),
                    where=str(info.path),
                    remedy=tr("choose an earlier frame"),
                )
            picture = VideoPicture(frame.video, rotation=info.heads_up)
            analyser = self.engine.analyser
            faces = analyser.embed(picture, analyser.detect(picture))
        return reference_embedding(faces, self._settings, where=str(info.path))

    def _changed(self, info: VideoInfo, frames: Iterator[Frame]) -> Generator[Work, None, None]:
        """The stages between reader and writer, as one generator."""
        settings = self._settings
        threads, batch = int(settings.execution_threads), int(settings.batch_size)
        depth = queue_depth(
            info.width * info.height * 3 * (2 if info.bit_depth > 8 else 1),
            max_memory=float(settings.max_memory),
            in_work=threads * (batch + 1),
            queues=_QUEUES,
        )
        finder = FaceFinder(self.engine, self._reference(info))
        changer = self.engine.changer(self.source)
        every = max(1, round(self._rate(info)))

        def find(work: Work) -> Work:
            if not work.repeats:
                work.faces = finder.find(work.picture)
            return work

        def change(group: list[Work]) -> list[Work]:
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
        decoded = ahead(as_work(frames, info.heads_up), depth, name="decode")
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
        works: Generator[Work, None, None],
        clock: Clock,
        info: VideoInfo,
        images: Path,
    ) -> None:
        with closing(works), writer:
            for work in works:
                # Counted first: with this frame a segment may be finished, and noted with its count.
                self._tally.add(work)
                self._keep(work, info, images)
                writer.write(work.frame.video, pts=work.frame.pts, duration=work.frame.duration)
                clock.tick(self._tally.frames)
                if self.on_picture is not None and clock.picture_is_due():
                    self.on_picture(work.picture)
            # Before the last piece is put in its place: a stop asked for now still leaves nothing behind.
            clock.tick(self._tally.frames, last=True)

    def _keep(self, work: Work, info: VideoInfo, folder: Path) -> None:
        """Write the frame as an image too, where ``keep_frames`` asks for it."""
        settings = self._settings
        if settings.keep_frames:
            image = np.asarray(work.frame.video.to_ndarray(format="bgr24"), np.uint8)
            path = self._frame_path(folder, work.frame.index)
            write_image(path, info.upright(image), quality=max(1, settings.temp_frame_quality))

    def _frame_path(self, folder: Path, number: int) -> Path:
        return folder / f"{number:06d}.{self._settings.temp_frame_format}"


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
    where = ", ".join(
        tr("{name} up to segment {last}", name=name, last=last) for name, last in providers.items()
    )
    return [tr("the networks ran on {where}: pictures may differ by a rounding", where=where)]


def _face_notes(measured: Measured) -> list[str]:
    if not measured.faces:
        return [tr("no face was found in any frame: the picture is unchanged")]
    if not measured.fewer:
        return []
    return [
        tr(
            "in {frames} frame(s) fewer faces were changed than just before and after: someone may flicker",
            frames=measured.fewer,
        )
    ]


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


def frames_folder(output: Path) -> Path:
    """Where the kept frames of a result lie: ``clip.mp4_frames`` beside ``clip.mp4``."""
    return output.with_name(shortened("", output.name, "_frames"))


def move_frames(folder: Path, place: Path, names: frozenset[str]) -> None:
    """Move kept frames to where they stay; those of an earlier run go, and nothing else that lies there.

    Args:
        folder: Where they lie, but for those that an attempt before this one has moved.
        place: Made if missing.
        names: All of them.

    Raises:
        OutputError: They cannot be moved.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*")):
            shutil.move(path, place / path.name)
        for path in place.iterdir():
            if _FRAME_NAME.fullmatch(path.name) and path.name not in names:
                path.unlink()
        folder.rmdir()
    except (OSError, shutil.Error) as error:
        cause = error if isinstance(error, OSError) and error.strerror else OSError(5, str(error))
        raise unwritable(place, cause) from error
