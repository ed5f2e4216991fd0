"""A video from end to end: read, find faces, change them, write, as bounded stages in threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from colab_helpers.faces.cast import Cast
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import Watcher
from colab_helpers.faces.person_counts import people_of
from colab_helpers.faces.quality import Measured
from colab_helpers.faces.selection import Selection
from colab_helpers.files import unsealed
from colab_helpers.language import mark, tr
from colab_helpers.media.containers import timing_note
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.join import JoinedVideo, check_output, join_segments
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.segments import Segment, SegmentWriter
from colab_helpers.pipeline.following import Following
from colab_helpers.pipeline.frames import Tally, one_opencv_thread
from colab_helpers.pipeline.kept_frames import KeptFrames
from colab_helpers.pipeline.outcome import (
    FileResult,
    FinishedSegment,
    Marks,
    SegmentStore,
    label_for,
    temporary_store,
)
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.pipeline.unchanged import copied
from colab_helpers.pipeline.video_stages import (
    CONSTANT_RATE,
    PictureCallback,
    Reading,
    VideoRun,
    VideoWork,
    changed_frames,
    follow_faces,
    open_reader,
    watch,
)
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.allocator import return_free_memory
from colab_helpers.settings import Settings

_COPIED = mark("no face to change was found in any frame: the file is copied as it is")


def process_video(
    engine: Engine,
    cast: Cast,
    target: Path,
    output: Path,
    *,
    on_progress: ProgressCallback | None = None,
    file_index: int = 0,
    file_count: int = 1,
    store: SegmentStore | None = None,
    on_picture: PictureCallback | None = None,
    watcher: Watcher | None = None,
    marks: Marks | None = None,
) -> FileResult:
    """Change the faces of a video.

    Args:
        engine: The loaded networks.
        cast: What is done to whom.
        target: The video.
        output: The result; written beside it first and renamed at the end.
        on_progress: Called from the calling thread, at most four times a second.
        file_index: Number of this file in the run, for progress.
        file_count: Files in the run.
        store: Where segments are kept for a later run; None keeps none.
        on_picture: Called with the frame just written, every two seconds; it must not keep it.
        watcher: Sees each frame before anything is made of the video's end.
        marks: Says in the result what was done; None: it goes to nobody.

    Raises:
        ColabHelpersError: The video cannot be read, the result cannot be written, the watcher gave it up, or
            a network failed; nothing is left of the result then, but finished segments stay in the store.
    """
    started, info, settings = time.monotonic(), probe(target), engine.settings
    frames = info.frames if settings.keep_fps else round(info.duration * CONSTANT_RATE) or None
    progress = ProgressReporter(on_progress, engine, target.name, file_index, file_count, frames)
    made = Reading(engine, cast, info, progress).result
    choice = _encoder(made, settings)
    edges = (made.width, made.height)[:: -1 if info.rotation % 180 else 1]
    label, unlabelled = label_for(marks, *edges)
    video = VideoRun(engine, cast, info, progress, output, choice, on_picture, label)
    check_output(output, info, audio=not settings.skip_audio)
    with one_opencv_thread(), nullcontext(store) if store else temporary_store(output) as place:
        result = _in_segments(video, place, watcher, marks)
    result = replace(result, seconds=time.monotonic() - started)
    if result.encoder is None:
        return replace(result, notes=(tr(_COPIED),))
    exact = settings.keep_fps and timing_note(info.time_base, output.suffix.lower()) is None
    notes = (*choice.notes, *result.notes, *_face_notes(result.measured, engine))
    if engine.frame_enhancer:
        notes += (engine.frame_enhancer.note(made.width, made.height),)
    notes += unlabelled if result.measured.by_ai else ()
    return replace(result, notes=tuple(dict.fromkeys(notes)), times_kept=exact and result.times_kept)


def _encoder(info: VideoInfo, settings: Settings) -> EncoderChoice:
    preset = None if settings.output_video_preset == "auto" else settings.output_video_preset
    wanted, quality = settings.output_video_encoder, settings.output_video_quality
    return encoder_for(info, wanted=wanted, quality=quality, preset=preset)


def _in_segments(
    video: VideoRun, store: SegmentStore, watcher: Watcher | None, marks: Marks | None
) -> FileResult:
    """Make the segments after those that are finished already, and join all."""
    images, index = KeptFrames(store.folder / "frames", video.settings, marks), store.face_index()
    if watcher is not None:
        watch(video, index, watcher)
    faces = follow_faces(video, index)
    if (result := copied(video, faces)) is not None:
        return result
    if video.label is not None and faces.spares_all_from_ai:
        video = replace(video, label=None)
    parts = _usable(video, store, images, faces)
    kept, notes = len(parts), list[str]()
    frames_in = _make_segments(video, faces, store, parts, images, notes)
    # As if it had been known before: a result does not depend on what an earlier run found.
    if not any(part.measured.faces for part in parts) and (result := copied(video, faces)) is not None:
        return result
    measured = Measured()
    for part in parts:
        measured.add(part.measured)
    # Which nobody could know before; a run that is interrupted now knows it by the index when it goes on.
    if video.label is not None and not measured.by_ai:
        return _in_segments(replace(video, label=None), store, watcher, marks)
    return_free_memory()  # frames' and tensors': signing takes its own
    joined = _joined(video, parts, measured, marks)
    images.hand_out(video.output)
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
        people=people_of(faces.tracks, measured, faces.selection),
    )


def _joined(
    video: VideoRun, parts: Sequence[FinishedSegment], measured: Measured, marks: Marks | None
) -> JoinedVideo:
    return join_segments(
        [part.segment for part in parts],
        video.result,
        video.output,
        choice=video.choice,
        time_base=video.time_base,
        audio=not video.settings.skip_audio,
        on_frame=video.progress.joining,
        comment=marks.comment(measured.actions) if marks else "",
        seal=partial(marks.seal, output=video.output, actions=measured.actions) if marks else unsealed,
    )


def _usable(
    video: VideoRun, store: SegmentStore, images: KeptFrames, faces: Following
) -> list[FinishedSegment]:
    """Finished segments that fit this run, from the first on."""
    usable, finished = [], store.finished()
    digests = faces.digests([part.segment.stop for part in finished])
    for number, (part, digest) in enumerate(zip(finished, digests, strict=False)):
        segment = part.segment
        place = segment.number, segment.start, part.length
        fits = place == (number, number * video.length, video.length) and part.encoder == video.encoding
        if not fits or part.faces != digest or not images.has(segment.start, segment.stop):
            break
        usable.append(part)
    return usable


def _make_segments(
    video: VideoRun,
    faces: Following,
    store: SegmentStore,
    parts: list[FinishedSegment],
    images: KeptFrames,
    notes: list[str],
) -> int:
    """Append the missing segments to ``parts``, and notes on them; return how many frames the target has."""
    last = parts[-1].segment if parts else None
    if last is not None and last.frames != video.length:  # only a video's last one is shorter
        return last.stop if video.settings.keep_fps else video.info.frames or last.stop
    start, tally = last.stop if last else 0, Tally(faces.selection)

    def finish(segment: Segment) -> None:
        faces.index.flush()
        part = FinishedSegment(
            segment,
            video.length,
            tally.take(),
            video.encoding,
            video.engine.place,
            tally.faces.take(),
            tuple(reader.notes),
            reader.times_kept,
        )
        store.keep(part)
        parts.append(part)

    with (
        open_reader(video, faces, last) as reader,
        SegmentWriter(
            store.folder,
            video.result,
            choice=video.choice,
            length=video.length,
            on_segment=finish,
            start=start,
            time_base=video.time_base,
        ) as writer,
    ):
        works = changed_frames(video, faces, reader, start)
        _write(video, works, writer, tally, images, faces.selection, start)
    notes += reader.notes
    return reader.count


def _write(
    video: VideoRun,
    frames: Generator[VideoWork, None, None],
    writer: SegmentWriter,
    tally: Tally,
    images: KeptFrames,
    selection: Selection,
    start: int,
) -> None:
    """Write all frames from the ``start``-th of the result on, once they are changed."""
    progress = video.progress
    with closing(frames) as works:
        for work in works:
            # Counted first: with this frame a segment may be finished, and noted with its count.
            tally.add(work)
            images.keep(work.item, video.info, selection.actions(work.faces))
            writer.write(work.item.video, pts=work.item.pts, duration=work.item.duration)
            progress.frame(tally.frames, start=start)
            if video.on_picture is not None and progress.picture_is_due():
                video.on_picture(work.picture)
        # Before the last piece is put in its place: a stop asked for now still leaves nothing behind.
        progress.frame(tally.frames, start=start, last=True)


def _provider_notes(parts: Sequence[FinishedSegment]) -> list[str]:
    """Where a video was begun on a GPU and finished without, or the other way round, that is said."""
    providers = {part.provider: part.segment.number for part in parts}
    if len(providers) < 2:
        return []
    where = ", ".join(
        tr("{name} up to segment {last}", name=name, last=last) for name, last in providers.items()
    )
    return [tr("the networks ran on {where}: pictures may differ by a rounding", where=where)]


def _face_notes(measured: Measured, engine: Engine) -> list[str]:
    if not measured.faces and engine.frame_enhancer:
        return [tr("no face to change was found in any frame: the picture is only enlarged")]
    if not measured.faces:
        return [tr("no face to change was found in any frame: the picture is unchanged")]
    told = mark("{faces} face(s) that the detector missed for a moment were changed where they had to be")
    return [tr(told, faces=measured.filled)] if measured.filled else []
