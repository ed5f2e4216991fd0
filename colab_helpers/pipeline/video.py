"""A video from end to end: read, find faces, change them, write, as bounded stages in threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from colab_helpers.faces.engine import Engine
from colab_helpers.faces.quality import Measured
from colab_helpers.faces.selection import needs_embeddings
from colab_helpers.faces.types import FloatArray
from colab_helpers.language import mark, tr
from colab_helpers.media.containers import timing_note
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.formats import DEFAULT_RATE, pixel_bits
from colab_helpers.media.join import check_output, join_segments
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import Frame, FrameReader, read_frames
from colab_helpers.media.retime import constant_rate
from colab_helpers.media.segments import Segment, SegmentWriter
from colab_helpers.pipeline.frames import (
    FrameChanger,
    Tally,
    Work,
    one_opencv_thread,
    queue_depth,
    reference_person,
)
from colab_helpers.pipeline.kept_frames import KeptFrames
from colab_helpers.pipeline.outcome import FileResult, FinishedSegment, SegmentStore, temporary_store
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.progress import ProgressCallback
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups, map_ordered, run_ahead

CONSTANT_RATE = Fraction(30)
"""Frames per second of a result whose settings do not keep the target's timing (as in roop)."""

PictureCallback = Callable[[VideoPicture], None]
VideoWork = Work[Frame, VideoPicture]

_QUEUES = 3


def process_video(
    engine: Engine,
    source: FloatArray | None,
    target: Path,
    output: Path,
    *,
    on_progress: ProgressCallback | None = None,
    file_index: int = 0,
    file_count: int = 1,
    store: SegmentStore | None = None,
    on_picture: PictureCallback | None = None,
) -> FileResult:
    """Change the faces of a video.

    Args:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        target: The video.
        output: The result; written beside it first and renamed at the end.
        on_progress: Called from the calling thread, at most four times a second.
        file_index: Number of this file in the run, for progress.
        file_count: Files in the run.
        store: Where finished segments are kept for a later run; None keeps none.
        on_picture: Called with the frame just written, every two seconds; it must not keep it.

    Raises:
        ColabHelpersError: The video cannot be read, the result cannot be written, or a network
            failed; nothing is left of the result then, but finished segments stay in the store.
    """
    started, info, settings = time.monotonic(), probe(target), engine.settings
    frames = info.frames if settings.keep_fps else round(info.duration * CONSTANT_RATE) or None
    progress = ProgressReporter(on_progress, engine, target.name, file_index, file_count, frames)
    wanted, quality, preset = settings.output_video_encoder, settings.output_video_quality, None
    if settings.output_video_preset != "auto":
        preset = settings.output_video_preset
    choice = encoder_for(info, wanted=wanted, quality=quality, preset=preset)
    video = _Video(engine, source, info, output, choice, progress, on_picture)
    check_output(output, info, audio=not settings.skip_audio)
    with one_opencv_thread(), nullcontext(store) if store else temporary_store(output) as place:
        result = _in_segments(video, place)
    exact = settings.keep_fps and timing_note(info.time_base, output.suffix.lower()) is None
    return replace(
        result,
        seconds=time.monotonic() - started,
        notes=tuple(dict.fromkeys((*choice.notes, *result.notes, *_face_notes(result.measured)))),
        times_kept=exact and result.times_kept,
    )


@dataclass(frozen=True, eq=False)
class _Video:
    """What a video's run is made of, and what follows from it; see `process_video`."""

    engine: Engine
    source: FloatArray | None
    info: VideoInfo
    output: Path
    choice: EncoderChoice
    progress: ProgressReporter
    on_picture: PictureCallback | None
    tally: Tally = field(default_factory=Tally)

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    @property
    def rate(self) -> Fraction:
        """Frames per second of the result, on average."""
        return (self.info.average_rate or DEFAULT_RATE) if self.settings.keep_fps else CONSTANT_RATE

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick of the result's timestamps."""
        return self.info.time_base if self.settings.keep_fps else 1 / CONSTANT_RATE

    @property
    def length(self) -> int:
        """Frames of a segment."""
        return max(2, round(self.settings.segment_seconds * self.rate))

    @property
    def encoding(self) -> str:
        """Tells encoders whose segments do not join apart."""
        options = ":".join(f"{key}={value}" for key, value in sorted(self.choice.options.items()))
        return f"{self.choice.name} {self.choice.pix_fmt} {options}"


def _in_segments(video: _Video, store: SegmentStore) -> FileResult:
    """Make the segments after those that are finished already, and join all."""
    images = KeptFrames(store.folder / "frames", video.settings)
    parts = _usable(video, store, images)
    kept, last = len(parts), parts[-1].segment if parts else None
    notes: list[str] = []
    if last is None or last.frames == video.length:
        frames_in = _make_segments(video, store, parts, images, notes)
    else:
        # Only a video's last segment is shorter than the others.
        frames_in = last.stop if video.settings.keep_fps else video.info.frames or last.stop
    joined = join_segments(
        [part.segment for part in parts],
        video.info,
        video.output,
        choice=video.choice,
        time_base=video.time_base,
        audio=not video.settings.skip_audio,
        on_frame=video.progress.joining,
    )
    images.hand_out(video.output)
    measured = Measured()
    for part in parts:
        measured.add(part.measured)
    return FileResult(
        frames_in=frames_in,
        frames_out=joined.frames,
        measured=measured,
        seconds=0.0,
        encoder=video.choice.name,
        provider=video.engine.provider,
        notes=(
            *(note for part in parts for note in part.notes),
            *notes,
            *joined.notes,
            *_provider_notes(parts),
        ),
        video_seconds=joined.video_seconds,
        audio_seconds=joined.audio_seconds,
        times_kept=all(part.times_kept for part in parts),
        segments=len(parts),
        segments_kept=kept,
    )


def _usable(video: _Video, store: SegmentStore, images: KeptFrames) -> list[FinishedSegment]:
    """Finished segments that fit this run, from the first on."""
    usable = []
    for number, part in enumerate(store.finished()):
        segment = part.segment
        place = segment.number, segment.start, part.length
        fits = place == (number, number * video.length, video.length) and part.encoder == video.encoding
        if not fits or not images.has(segment.start, segment.stop):
            break
        usable.append(part)
    return usable


def _make_segments(
    video: _Video, store: SegmentStore, parts: list[FinishedSegment], images: KeptFrames, notes: list[str]
) -> int:
    """Append the missing segments to ``parts``, and notes on them; return how many frames the target has."""
    last = parts[-1].segment if parts else None
    start = last.stop if last else 0

    def finish(segment: Segment) -> None:
        part = FinishedSegment(
            segment,
            video.length,
            video.tally.take(),
            video.encoding,
            video.engine.provider,
            tuple(reader.notes),
            reader.times_kept,
        )
        store.keep(part)
        parts.append(part)

    # At a constant rate, which of the target's frames comes next follows from all before it.
    taken_up = last if video.settings.keep_fps else None
    with (
        read_frames(
            video.info,
            start=start if taken_up else 0,
            previous_pts=taken_up.last_pts if taken_up else None,
        ) as reader,
        SegmentWriter(
            store.folder,
            video.info,
            choice=video.choice,
            length=video.length,
            on_segment=finish,
            start=start,
            time_base=video.time_base,
        ) as writer,
    ):
        _write(video, writer, reader, images, start)
    notes += reader.notes
    return reader.count


def _write(video: _Video, writer: SegmentWriter, reader: FrameReader, images: KeptFrames, start: int) -> None:
    """Change all frames from the ``start``-th of the result on, and write them."""
    frames: Iterator[Frame] = reader
    if not video.settings.keep_fps:
        evened = constant_rate(reader, rate=CONSTANT_RATE)
        frames = (frame for frame in evened if frame.index >= start)
    tally, progress = video.tally, video.progress
    with closing(_changed(video, frames)) as works:
        for work in works:
            # Counted first: with this frame a segment may be finished, and noted with its count.
            tally.add(work)
            images.keep(work.item, video.info)
            writer.write(work.item.video, pts=work.item.pts, duration=work.item.duration)
            progress.frame(tally.frames, start=start)
            if video.on_picture is not None and progress.picture_is_due():
                video.on_picture(work.picture)
        # Before the last piece is put in its place: a stop asked for now still leaves nothing behind.
        progress.frame(tally.frames, start=start, last=True)


def _changed(video: _Video, frames: Iterator[Frame]) -> Generator[VideoWork, None, None]:
    """The stages between reader and writer, as one generator."""
    settings, info = video.settings, video.info
    threads, batch = int(settings.execution_threads), int(settings.batch_size)
    frame_bytes = info.width * info.height * 3 * (2 if pixel_bits(info.pix_fmt) > 8 else 1)
    memory, in_work = float(settings.max_memory), threads * (batch + 1)
    depth = queue_depth(frame_bytes, max_memory=memory, in_work=in_work, queues=_QUEUES)
    reference = _reference(video) if needs_embeddings(settings) else None
    changer = FrameChanger(video.engine, video.source, reference, every=max(1, round(video.rate)))
    ahead = partial(run_ahead, gauges=video.progress.gauges)
    decoded = ahead(_works(frames, info.heads_up), depth, name="decode")
    found = ahead(map_ordered(changer.found, decoded, workers=threads), depth, name="find faces")
    groups = map_ordered(changer.changed, in_groups(found, batch), workers=threads)
    with closing(ahead(groups, max(1, depth // batch), name="change faces")) as changed:
        for group in changed:
            yield from group


def _reference(video: _Video) -> FloatArray | None:
    info = video.info
    with read_frames(info) as reader:
        return reference_person(
            video.engine,
            (VideoPicture(frame.video, rotation=info.heads_up) for frame in reader),
            number=video.settings.reference_frame_number,
            where=str(info.path),
        )


def _works(frames: Iterator[Frame], rotation: int) -> Iterator[VideoWork]:
    """Frames with their pictures; those that repeat the one before are marked."""
    before = None
    for frame in frames:
        picture = VideoPicture(frame.video, rotation=rotation)
        yield Work(frame.index, frame, picture, repeats=frame.video is before)
        before = frame.video


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
    told = mark(
        "in {frames} frame(s) fewer faces were changed than just before and after: someone may flicker"
    )
    return [tr(told, frames=measured.fewer)] if measured.fewer else []
