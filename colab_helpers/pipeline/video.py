"""Run of a video: make its segments by the stages of `video_stages`, and join them."""

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
from colab_helpers.media.join import check_output, join_segments
from colab_helpers.media.probe import probe
from colab_helpers.media.segments import Segment, SegmentWriter
from colab_helpers.pipeline.frames import StatsCollector, one_opencv_thread
from colab_helpers.pipeline.outcome import FileResult, FinishedSegment, SegmentStore, temporary_store
from colab_helpers.pipeline.passthrough import copy_target, passthrough_stats
from colab_helpers.pipeline.plan import PlanOptions, VideoPlan, plan_video
from colab_helpers.pipeline.video_stages import (
    SmallerTilesError,
    VideoJobs,
    changed_frames,
    first_read,
    open_reader,
)
from colab_helpers.resources.allocator import return_free_memory

_INTERLACED = mark("the interlaced target was enlarged as it is: deinterlace it first if combing is visible")
_COPIED = mark("no face to change was found in any frame: the file is copied as it is")


def process_video(
    engine: Engine,
    assignment: Assignment,
    target: Path,
    output: Path,
    *,
    store: SegmentStore | None = None,
    **options: Unpack[PlanOptions],
) -> FileResult:
    """Change the faces of a video; ``options`` are the `PlanOptions`, explained at `plan_video`.

    The result is published atomically. Without a ``store`` no segments are kept for a later run. On an error
    no result is left behind, but finished segments stay in the store.

    Raises:
        ColabHelpersError: The video cannot be read, the result cannot be written, a network failed, or the
            watcher rejected the video.
    """
    info = probe(target)
    check_output(output, info, audio=not engine.settings.skip_audio)
    with nullcontext(store) if store else temporary_store(output) as used_store:
        make_plan = partial(plan_video, engine, assignment, info, output, used_store, **options)
        plan = make_plan()
        while True:
            try:
                return complete_video(plan)
            except SmallerTilesError:  # resume with smaller tiles
                plan.faces.index.flush()
                plan = replace(make_plan(), started=plan.started, label_notes=plan.label_notes)


def complete_video(plan: VideoPlan) -> FileResult:
    """Make the missing segments of a video in order and join all."""
    if plan.passthrough_stats is not None:
        return _finalize_result(plan, copy_target(plan.video, plan.faces, plan.passthrough_stats))
    finished = dict(plan.finished)
    for number, stop in plan.missing():
        parts = make_segments(plan, number, stop, skipping=plan.may_be_copy)
        finished |= {part.segment.number: part for part in parts}
    if result := join(plan, finished):
        return result
    return complete_video(plan.without_label() if finished else plan.without_skipping())


def make_segments(
    plan: VideoPlan, number: int, stop: int | None = None, *, skipping: bool = False
) -> Generator[FinishedSegment, None, None]:
    """Make segments from ``number`` to before ``stop``, or to the end, and yield each once it is stored.

    They do not depend on which run or worker makes them: all that counts of earlier frames is in the index.
    With ``skipping``, none are made unless somebody is changed in the first frame; see `_skip_unchanged`.
    """
    video, faces, finished = plan.video, plan.faces, list[FinishedSegment]()
    start, collector = number * video.segment_length, StatsCollector(faces.selection)
    end = None if stop is None or stop == plan.segments else stop * video.segment_length
    if skipping:  # nobody is changed in the frames before
        start = max(0, faces.start - DECISION_LAG)

    def finish(segment: Segment) -> None:
        return_free_memory()  # else the heap fragments and grows over a long video
        faces.index.flush()
        part = FinishedSegment(
            segment,
            video.segment_length,
            collector.take(),
            video.encoding,
            video.engine.provider_detail,
            collector.faces.take(),
            (*reader.notes, *video.engine.take_memory_notes()),
            reader.times_kept,
        )
        plan.store.keep(part)
        finished.append(part)

    with one_opencv_thread(), open_reader(video, faces, first_read(faces, start)) as reader:
        with SegmentWriter(
            plan.store.folder,
            video.result,
            choice=video.choice,
            length=video.segment_length,
            on_segment=finish,
            start=start,
            time_base=video.time_base,
        ) as writer:
            jobs = changed_frames(video, faces, reader, start, end)
            jobs = _skip_unchanged(plan, jobs) if skipping else jobs
            with closing(_write_frames(plan, jobs, writer, collector, start)) as written:
                for _ in written:
                    while finished:
                        yield finished.pop()
        if end is None:
            plan.frames_read, plan.notes = reader.count, reader.notes
    yield from finished


@dataclass(eq=False)
class SegmentMaker:
    """Makes segments of a video on request; the stages keep running from one to the next."""

    plan: VideoPlan
    _next: int = field(default=-1, init=False)
    _parts: Generator[FinishedSegment, None, None] | None = field(default=None, init=False)

    def make(self, number: int, *, has_successor: bool) -> FinishedSegment:
        """Make a segment; ``has_successor`` if the next one is likely to be requested next."""
        if self._parts is None or number != self._next:
            self.close()
            self._parts = make_segments(self.plan, number, None if has_successor else number + 1)
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
        """Stop the stages."""
        if self._parts is not None:
            self._parts.close()
            self._parts = None


def _skip_unchanged(plan: VideoPlan, jobs: VideoJobs) -> VideoJobs:
    """Yield all frames if somebody is changed in the video's first; else none, and stop where somebody is.

    Encoding frames that are discarded if nobody is changed costs several times as much as decoding again.
    """
    changes = False
    with closing(jobs):
        for job in jobs:
            changes = changes or (bool(job.selected) and not job.index)
            if changes:
                yield job
            elif job.selected:
                return
            else:
                plan.video.progress.finding(job.index + 1)
                if job.index % plan.video.segment_length == 0:
                    plan.faces.index.flush()


def _write_frames(
    plan: VideoPlan, jobs: VideoJobs, writer: SegmentWriter, collector: StatsCollector, start: int
) -> Generator[int, None, None]:
    """Write the changed frames, from the ``start``-th of the result on, and yield their running count."""
    video, progress, selection = plan.video, plan.video.progress, plan.faces.selection
    with closing(jobs):
        for job in jobs:
            # Before the write, which may finish a segment and record its statistics.
            collector.add(job)
            plan.kept_frames.keep(job.item, video.info, selection.actions(job.faces))
            writer.write(job.item.video, pts=job.item.pts, duration=job.item.duration)
            progress.frame(collector.frames, start=start)
            if video.on_picture is not None and progress.picture_is_due():
                video.on_picture(job.picture)
            yield collector.frames
        if collector.frames:
            # Before the last segment is finished: a stop requested now is still honoured.
            progress.frame(collector.frames, start=start, last=True)


def join(plan: VideoPlan, finished: Mapping[int, FinishedSegment]) -> FileResult | None:
    """Join all segments of a video, given by number, into the result.

    Return None if segments have to be made again: without the label, if AI changed nobody; or, if none were
    made, without skipping frames.
    """
    video, faces, parts = plan.video, plan.faces, [finished[number] for number in sorted(finished)]
    # As if the index had been complete before: a result does not depend on earlier runs.
    if not any(part.measured.faces for part in parts) and (stats := passthrough_stats(video, faces)):
        return _finalize_result(plan, copy_target(video, faces, stats))
    if not parts:  # frames were skipped up to one in which somebody is changed
        return None
    measured = FrameStats()
    for part in parts:
        measured.add(part.measured)
    # Known only now; a run that is resumed after this knows it from the index.
    if video.label is not None and not measured.by_ai:
        return None
    return_free_memory()  # of frames and tensors, before signing takes its own
    marks = plan.marks
    joined = join_segments(
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
    plan.kept_frames.move_to_output(video.output)
    frames = joined.frames if video.settings.keep_fps else plan.frames_read or video.info.frames
    notes = [note for part in parts for note in part.notes]
    result = FileResult(
        frames_in=frames or joined.frames,
        frames_out=joined.frames,
        measured=measured,
        seconds=0.0,
        encoder=video.choice.name,
        provider=video.engine.provider,
        notes=(*notes, *plan.notes, *joined.notes, *_provider_notes(parts)),
        video_seconds=joined.video_seconds,
        audio_seconds=joined.audio_seconds,
        times_kept=all(part.times_kept for part in parts),
        segments=len(parts),
        segments_kept=len(plan.finished),
        people=summarize_people(faces.tracks, measured, faces.selection),
    )
    return _finalize_result(plan, result)


def _finalize_result(plan: VideoPlan, result: FileResult) -> FileResult:
    """Complete a result with its time and the notes on the whole file."""
    video = plan.video
    result = replace(result, seconds=time.monotonic() - plan.started)
    if result.encoder is None:
        return replace(result, notes=(tr(_COPIED),))
    suffix = video.output.suffix.lower()
    exact = video.settings.keep_fps and timing_note(video.info.time_base, suffix) is None
    notes = (*video.choice.notes, *result.notes, *_face_notes(result.measured, video.engine))
    if enhancer := video.engine.frame_enhancer:
        notes += (enhancer.note(video.result.width, video.result.height),)
        notes += (tr(_INTERLACED),) if video.info.interlaced else ()
    notes += plan.label_notes if result.measured.by_ai else ()
    return replace(result, notes=tuple(dict.fromkeys(notes)), times_kept=exact and result.times_kept)


def _provider_notes(parts: Sequence[FinishedSegment]) -> list[str]:
    """Return a note if segments were made by different execution providers."""
    providers = {part.provider: part.segment.number for part in parts}
    if len(providers) < 2:
        return []
    spans = ", ".join(tr("{name} up to segment {last}", name=n, last=last) for n, last in providers.items())
    return [tr("the networks ran on {where}: pictures may differ by rounding", where=spans)]


def _face_notes(measured: FrameStats, engine: Engine) -> list[str]:
    if not measured.faces and engine.frame_enhancer:
        return [tr("no face to change was found in any frame: the picture is only enlarged")]
    if not measured.faces:
        return [tr("no face to change was found in any frame: the picture is unchanged")]
    note = mark("{faces} face(s) that the detector missed briefly were changed at interpolated positions")
    return [tr(note, faces=measured.filled)] if measured.filled else []
