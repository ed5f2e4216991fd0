"""A video from end to end: read, find faces, change them, write, as bounded stages in threads."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Unpack

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.person_stats import summarize_people
from colab_helpers.faces.quality import FrameStats
from colab_helpers.faces.tracks import DECISION_LAG
from colab_helpers.files import no_seal
from colab_helpers.language import mark, tr
from colab_helpers.media.containers import timing_note
from colab_helpers.media.join import JoinedVideo, check_output, join_segments
from colab_helpers.media.probe import probe
from colab_helpers.media.segments import Segment, SegmentWriter
from colab_helpers.pipeline.frames import StatsCollector, one_opencv_thread
from colab_helpers.pipeline.outcome import FileResult, FinishedSegment, SegmentStore, temporary_store
from colab_helpers.pipeline.passthrough import copied, passthrough_stats
from colab_helpers.pipeline.plan import PlanOptions, VideoPlan, plan
from colab_helpers.pipeline.video_stages import SmallerTilesError, VideoFrameJob, changed_frames, open_reader
from colab_helpers.resources.allocator import return_free_memory

_FIELDS = mark(
    "both fields of each frame were enlarged as one: deinterlace it first where motion shows combs"
)
_COPIED = mark("no face to change was found in any frame: the file is copied as it is")


def process_video(
    engine: Engine,
    assignment: Assignment,
    target: Path,
    output: Path,
    *,
    store: SegmentStore | None = None,
    **how: Unpack[PlanOptions],
) -> FileResult:
    """Change the faces of a video; all that is given beside is as for `plan`.

    The result is written beside ``output`` first and renamed at the end. Without a ``store`` no segments are
    kept for a later run. Where the video cannot be read, the result not written, a network fails or the
    watcher gives it up, nothing is left of the result, but finished segments stay in the store.
    """
    info = probe(target)
    check_output(output, info, audio=not engine.settings.skip_audio)
    with nullcontext(store) if store else temporary_store(output) as place:
        while True:
            work = plan(engine, assignment, info, output, place, **how)
            try:
                return complete_video(work)
            except SmallerTilesError:  # it goes on as a run that is taken up
                work.faces.index.flush()


def complete_video(work: VideoPlan) -> FileResult:
    """Make what is missing of a video, in order, and join all."""
    if work.passthrough_stats is not None:
        return _finalize_result(work, copied(work.video, work.faces, work.passthrough_stats))
    made = dict(work.finished)
    for number, stop in work.missing():
        parts = make_segments(work, number, stop, skipping=work.may_be_copy)
        made |= {part.segment.number: part for part in parts}
    return join(work, made) or complete_video(work.unlabelled() if made else work.without_skipping())


def make_segments(
    work: VideoPlan, number: int, stop: int | None = None, *, skipping: bool = False
) -> Generator[FinishedSegment, None, None]:
    """Make segments one after another, up to before ``stop`` or to the end, and yield each once it is kept.

    They are those of any other run: of the frames before nothing counts but what the index knows. Where
    frames may be passed over there are none, unless somebody is changed in the first; see `_skip_unchanged`.
    """
    video, faces, done = work.video, work.faces, list[FinishedSegment]()
    start, tally = number * video.length, StatsCollector(faces.selection)
    end = None if stop is None or stop == work.segments else stop * video.length
    if skipping:  # from where nobody is known to be changed
        start = max(0, faces.begin - DECISION_LAG)

    def finish(segment: Segment) -> None:
        return_free_memory()  # it lies between records that stay: a long video would hold ever more of it
        faces.index.flush()
        part = FinishedSegment(
            segment,
            video.length,
            tally.take(),
            video.encoding,
            video.engine.provider_detail,
            tally.faces.take(),
            (*reader.notes, *video.engine.take_memory_notes()),
            reader.times_kept,
        )
        work.store.keep(part)
        done.append(part)

    with one_opencv_thread(), open_reader(video, faces, start) as reader:
        with SegmentWriter(
            work.store.folder,
            video.result,
            choice=video.choice,
            length=video.length,
            on_segment=finish,
            start=start,
            time_base=video.time_base,
        ) as writer:
            frames = changed_frames(video, faces, reader, start, end)
            frames = _skip_unchanged(work, frames) if skipping else frames
            with closing(_written(work, frames, writer, tally, start)) as written:
                for _ in written:
                    while done:
                        yield done.pop()
        if end is None:
            work.frames_read, work.notes = reader.count, reader.notes
    yield from done


@dataclass(eq=False)
class SegmentMaker:
    """Makes segments of a video as they are asked for; the stages stay warm from one to the next."""

    work: VideoPlan
    _next: int = field(default=-1, init=False)
    _parts: Generator[FinishedSegment, None, None] | None = field(default=None, init=False)

    def make(self, number: int, *, has_successor: bool) -> FinishedSegment:
        """Make a segment; ``has_successor`` says that the one behind it is likely to be asked for next."""
        if self._parts is None or number != self._next:
            self.close()
            self._parts = make_segments(self.work, number, None if has_successor else number + 1)
        try:
            part = next(self._parts)
        except SmallerTilesError:
            self.close()
            return self.make(number, has_successor=has_successor)
        self._next = number + 1
        if not has_successor:
            self.close()
        return part

    def close(self) -> None:
        """End the stages."""
        if self._parts is not None:
            self._parts.close()
            self._parts = None


def _skip_unchanged(
    work: VideoPlan, frames: Generator[VideoFrameJob, None, None]
) -> Generator[VideoFrameJob, None, None]:
    """Yield all frames where somebody is changed in the first of the video; else none, up to one who is.

    Encoding what is thrown away if nobody comes would cost several times what reading it again does.
    """
    writes = False
    with closing(frames):
        for one in frames:
            writes = writes or (bool(one.chosen) and not one.index)
            if writes:
                yield one
            elif one.chosen:
                return
            else:
                work.video.progress.finding(one.index + 1)
                if one.index % work.video.length == 0:
                    work.faces.index.flush()


def _written(
    work: VideoPlan,
    frames: Generator[VideoFrameJob, None, None],
    writer: SegmentWriter,
    tally: StatsCollector,
    start: int,
) -> Generator[int, None, None]:
    """Write all frames from the ``start``-th of the result on, once they are changed; count them."""
    video, selection = work.video, work.faces.selection
    progress = video.progress
    with closing(frames) as works:
        for one in works:
            # Counted first: with this frame a segment may be finished, and noted with its count.
            tally.add(one)
            work.images.keep(one.item, video.info, selection.actions(one.faces))
            writer.write(one.item.video, pts=one.item.pts, duration=one.item.duration)
            progress.frame(tally.frames, start=start)
            if video.on_picture is not None and progress.picture_is_due():
                video.on_picture(one.picture)
            yield tally.frames
        if tally.frames:
            # Before the last piece is put in its place: a stop asked for now still leaves nothing behind.
            progress.frame(tally.frames, start=start, last=True)


def join(work: VideoPlan, made: Mapping[int, FinishedSegment]) -> FileResult | None:
    """Put the result together from all segments of a video by number.

    None where it has to be made again: without a label that was burnt in for nothing; or, where nothing was
    made, without passing over frames.
    """
    video, faces, parts = work.video, work.faces, [made[number] for number in sorted(made)]
    # As if it had been known before: a result does not depend on what an earlier run found.
    if (
        not any(part.measured.faces for part in parts)
        and (nobody := passthrough_stats(video, faces)) is not None
    ):
        return _finalize_result(work, copied(video, faces, nobody))
    if not parts:  # frames were passed over up to one in which somebody is changed
        return None
    measured = FrameStats()
    for part in parts:
        measured.add(part.measured)
    # Which nobody could know before; a run that is interrupted now knows it by the index when it goes on.
    if video.label is not None and not measured.by_ai:
        return None
    return_free_memory()  # frames' and tensors': signing takes its own
    joined = _join_parts(work, parts, measured)
    work.images.move_to_output(video.output)
    frames = joined.frames if video.settings.keep_fps else work.frames_read or video.info.frames
    return _finalize_result(
        work,
        FileResult(
            frames_in=frames or joined.frames,
            frames_out=joined.frames,
            measured=measured,
            seconds=0.0,
            encoder=video.choice.name,
            provider=video.engine.provider,
            notes=(
                *(note for part in parts for note in part.notes),
                *work.notes,
                *joined.notes,
                *_provider_notes(parts),
            ),
            video_seconds=joined.video_seconds,
            audio_seconds=joined.audio_seconds,
            times_kept=all(part.times_kept for part in parts),
            segments=len(parts),
            segments_kept=len(work.finished),
            people=summarize_people(faces.tracks, measured, faces.selection),
        ),
    )


def _finalize_result(work: VideoPlan, result: FileResult) -> FileResult:
    """Say of a result what holds for all of it."""
    video = work.video
    result = replace(result, seconds=time.monotonic() - work.started)
    if result.encoder is None:
        return replace(result, notes=(tr(_COPIED),))
    suffix = video.output.suffix.lower()
    exact = video.settings.keep_fps and timing_note(video.info.time_base, suffix) is None
    notes = (*video.choice.notes, *result.notes, *_face_notes(result.measured, video.engine))
    if enhancer := video.engine.frame_enhancer:
        notes += (enhancer.note(video.result.width, video.result.height),)
        notes += (tr(_FIELDS),) if video.info.interlaced else ()
    notes += work.label_notes if result.measured.by_ai else ()
    return replace(result, notes=tuple(dict.fromkeys(notes)), times_kept=exact and result.times_kept)


def _join_parts(work: VideoPlan, parts: Sequence[FinishedSegment], measured: FrameStats) -> JoinedVideo:
    video, marks = work.video, work.marks
    return join_segments(
        [part.segment for part in parts],
        video.result,
        video.output,
        choice=video.choice,
        time_base=video.time_base,
        audio=not video.settings.skip_audio,
        on_frame=video.progress.joining,
        comment=marks.comment(measured.actions) if marks else "",
        seal=partial(marks.seal, output=video.output, actions=measured.actions) if marks else no_seal,
    )


def _provider_notes(parts: Sequence[FinishedSegment]) -> list[str]:
    """Where a video was begun on a GPU and finished without, or the other way round, that is said."""
    providers = {part.provider: part.segment.number for part in parts}
    if len(providers) < 2:
        return []
    where = ", ".join(
        tr("{name} up to segment {last}", name=name, last=last) for name, last in providers.items()
    )
    return [tr("the networks ran on {where}: pictures may differ by a rounding", where=where)]


def _face_notes(measured: FrameStats, engine: Engine) -> list[str]:
    if not measured.faces and engine.frame_enhancer:
        return [tr("no face to change was found in any frame: the picture is only enlarged")]
    if not measured.faces:
        return [tr("no face to change was found in any frame: the picture is unchanged")]
    told = mark("{faces} face(s) that the detector missed for a moment were changed where they had to be")
    return [tr(told, faces=measured.filled)] if measured.filled else []
