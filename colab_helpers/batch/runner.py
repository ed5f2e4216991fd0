"""A batch from first to last file: one bad file never stops the others."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from colab_helpers.batch.job import Source
from colab_helpers.batch.outlook import Outlook
from colab_helpers.batch.places import Patience, WorkPlaces, copy_in, copy_out
from colab_helpers.batch.plan import Task, Writable, listed
from colab_helpers.batch.report import BatchReport, FileReport, ModelReport, Quality, summarize
from colab_helpers.batch.results import Results
from colab_helpers.batch.status import StatusWriter
from colab_helpers.batch.thumbnails import data_url
from colab_helpers.batch.work import FileWork
from colab_helpers.errors import (
    ColabHelpersError,
    MediaError,
    OutputError,
    UsageError,
    WorkerError,
)
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.faces.types import FloatArray
from colab_helpers.files import shortened, write_whole
from colab_helpers.language import tr
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.media.animation import picture_suffix
from colab_helpers.media.containers import output_suffix
from colab_helpers.media.images import Still, read_image, write_still
from colab_helpers.media.inputs import IMAGE_KINDS, existing_file, is_image
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.pipeline import FileResult, frames_folder, move_frames, process_picture, process_video
from colab_helpers.pipeline.image import FrameCallback
from colab_helpers.progress import Progress, ProgressCallback
from colab_helpers.resources.allocator import return_free_memory
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.resources.sampler import gpu_memory, gpu_memory_percent, process_memory, ram_percent
from colab_helpers.settings import Settings

MOST_DEATHS = 3
"""Workers that may die on a file before it is given up: the first, and two with less memory."""
# Room needed before the start: twice the target (requirement C5), and once more for its segments.
_DISK_FACTOR = 3
# A process that holds so much more than after its first video gives it back by being replaced (B6).
_GROWTH = 1.25
_GROWTH_BYTES = 256 << 20
_GPU_GROWTH_BYTES = 1 << 30
_PICTURE_EDGE = 240
_TELL_EVERY = 0.25


class RecycleError(Exception):
    """The process holds more memory than it should: another one is to go on."""


@dataclass(eq=False)
class Resumption:
    """What lets a batch go on where it was interrupted.

    Attributes:
        results: What earlier runs have left in the folder.
        places: Where unfinished work lies.
        patience: Waits for the output folder.
        cause: What the worker before this one died of.
        recyclable: Whether the process may be replaced between two files.
    """

    results: Results
    places: WorkPlaces
    patience: Patience
    cause: str | None = None
    recyclable: bool = False


@dataclass(eq=False)
class Batch:
    """One source, many targets.

    Attributes:
        engine: The loaded networks.
        source: Who is put in; None where nothing is swapped.
        tasks: What to do.
        writable: Where results may go; by default only where nothing is.
        consent: The checked statement.
        on_progress: Called while a video runs.
        status: Where others can read how the batch stands.
        resumption: What lets it go on after an interruption; None does every file in one go.
        order: Positions of the tasks in the order they are done; None: as they stand.
        outlook: Tells how many files fit the session; None where its end is not known.
        check_stop: Raises KeyboardInterrupt where somebody has asked the batch to stop.
        guard: Looks after RAM between the files.
    """

    engine: Engine
    source: Identity | None
    tasks: Sequence[Task]
    consent: str
    writable: Writable = field(default_factory=Writable)
    on_progress: ProgressCallback | None = None
    status: StatusWriter | None = None
    resumption: Resumption | None = None
    order: Sequence[int] | None = None
    outlook: Outlook | None = None
    check_stop: Callable[[], None] = lambda: None
    guard: MemoryGuard = field(default_factory=lambda: MemoryGuard())
    _memory: list[tuple[int, int]] = field(default_factory=list, init=False)
    _worked: bool = field(default=False, init=False)

    def run(self) -> BatchReport:
        """Do every task; Ctrl-C ends the current one cleanly and leaves the rest as skipped.

        Raises:
            RecycleError: The process has grown too much; what is done is noted.
        """
        started = time.monotonic() - self._seconds_before()
        files: dict[int, FileReport] = {}
        stopped = False
        try:
            for index in self.order or range(len(self.tasks)):
                self._worked = False
                self.beat()
                files[index] = self.attempt(index, self.tasks[index])
                if self.status:
                    self.status.file(index, files[index])
                if self.outlook:
                    self.outlook.end(index, done=self._worked and files[index].status == "done")
                if self._worked and len(files) < len(self.tasks):
                    self._recycle()
        except KeyboardInterrupt:
            stopped = True
        reports = [files.get(n) or skipped(task, self._sources) for n, task in enumerate(self.tasks)]
        return self._report(reports, seconds=time.monotonic() - started, stopped=stopped)

    def _seconds_before(self) -> float:
        """How long earlier workers of this run were at work, by the clock on the wall."""
        return max(0.0, time.time() - self.status.status.started) if self.status else 0.0

    def beat(self) -> None:
        """Say that the work gets on.

        Raises:
            KeyboardInterrupt: Somebody asks the batch to stop.
        """
        if self.status:
            self.status.tick()
        self.check_stop()

    def _recycle(self) -> None:
        """Leave the rest to a fresh process where this one has grown since its first video."""
        self._memory.append((process_memory(), (gpu_memory() or (0, 0))[0]))
        (ram, vram), (ram_now, vram_now) = self._memory[0], self._memory[-1]
        grown = ram_now > ram * _GROWTH + _GROWTH_BYTES or vram_now > vram + _GPU_GROWTH_BYTES
        if self.resumption and self.resumption.recyclable and grown:
            raise RecycleError(
                f"{(ram_now - ram) / 1e6:.0f} MB of RAM and {(vram_now - vram) / 1e6:.0f} MB of VRAM more "
                "than after the first file"
            )

    def _report(self, files: list[FileReport], *, seconds: float, stopped: bool) -> BatchReport:
        notes = [*self.engine.notes, *(self.source.notes if self.source and not self.status else ())]
        if self.resumption and self.resumption.results.history.damaged:
            damaged = self.resumption.results.history.damaged
            notes.append(tr("{damaged} damaged line(s) of the journal were ignored", damaged=damaged))
        restarts, warnings = 0, self.guard.warnings
        if self.status:
            warnings = self.status.status.memory_warnings
            restarts = self.status.status.restarts
            notes += self.status.status.notes
            notes += [self.status.problem] if self.status.problem else []
        summary = summarize(files, seconds=seconds, memory_warnings=warnings)
        return BatchReport(
            run=self.resumption.results.run if self.resumption else "",
            stopped=stopped,
            consent=self.consent,
            settings=self.engine.settings.model_dump(mode="json"),
            machine=asdict(this_machine()),
            models=[
                ModelReport(name=network.name, path=str(network.path), standin=network.standin)
                for network in self.engine.networks
            ],
            notes=notes,
            summary=summary.model_copy(update={"restarts": restarts}),
            files=files,
        )

    def attempt(self, index: int, task: Task) -> FileReport:
        """Do one task, unless an earlier run did; a failure ends up in its report."""
        report = self.new_report(task)
        try:
            if os.path.isdir(task.target):  # noqa: PTH112 - Path.is_dir raises where it may not be entered
                listed(task.target)  # says why there is nothing to take from it
            existing_file(task.target)
            if self.resumption is None:
                self.work_on(index, task, report)
                return report
            return self._attempt_once(index, task, report, self.resumption)
        except ColabHelpersError as error:
            report.error = str(error)
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            report.error = tr("unexpected {kind}: {error}", kind=type(error).__name__, error=error)
        report.status = "failed"
        self._note_failure(task, report)
        return report

    def _attempt_once(self, index: int, task: Task, report: FileReport, resumption: Resumption) -> FileReport:
        """Do one task, going on where an earlier attempt ended."""
        results = resumption.results
        work = self._work(task, resumption)
        earlier = results.find(task)
        if earlier is not None:
            work.discard()  # an earlier run may have died between noting the result and this
            return earlier
        earlier = results.failure(task)
        if earlier is not None:
            return earlier
        deaths = results.interruptions(task)
        if deaths >= MOST_DEATHS:
            raise WorkerError(
                tr(
                    "the worker process died {deaths} times on this file, last: {cause}",
                    deaths=deaths,
                    cause=resumption.cause or tr("unknown"),
                ),
                where=str(task.target),
                remedy=tr("free memory, choose the preset stable, or leave this file out"),
            )
        try:
            results.start(task, os.getpid())
        except OutputError as error:
            report.fallbacks.append(
                tr("a death of the worker on this file would go unnoticed: {error}", error=error)
            )
        try:
            digest = self.work_on(index, task, report, work=work, deaths=deaths)
        except BaseException:
            work.discard_unless_begun()
            results.release(task)
            raise
        try:
            resumption.patience.attempt(lambda: results.keep(task, report, digest))
        except OutputError as error:
            # Its segments stay: a later run need only join them again.
            report.fallbacks.append(tr("a later run will do this file again: {error}", error=error))
        else:
            work.discard()
        return report

    def _work(self, task: Task, resumption: Resumption) -> FileWork:
        key = resumption.results.key(task)
        mirror = resumption.places.mirror
        return FileWork(
            key=key,
            place=resumption.places.local / key[:24],
            mirror=mirror / key[:24] if mirror else None,
            journal=resumption.results.journal,
            history=resumption.results.history,
            patience=resumption.patience,
            beat=self.beat,
            on_kept=self.outlook.segment if self.outlook else lambda _frames: None,
        )

    def _note_failure(self, task: Task, report: FileReport) -> None:
        if self.resumption is None:
            return
        try:
            self.resumption.results.give_up(task, report)
        except MediaError:
            return  # what cannot be read has no key; a later look costs nothing
        except ColabHelpersError as error:
            report.fallbacks.append(tr("the failure could not be noted: {error}", error=error))

    def work_on(
        self, index: int, task: Task, report: FileReport, *, work: FileWork | None = None, deaths: int = 0
    ) -> str | None:
        """Do one task and fill its report; errors are raised.

        Args:
            index: Its number in the batch.
            task: What to do.
            report: What is filled in.
            work: Where segments are kept; None writes a video in one go.
            deaths: How many processes have died on it: less memory is used then.

        Returns:
            SHA-256 of the result where it is known already.
        """
        started = time.monotonic()
        self._worked = True
        if self.outlook:
            self.outlook.begin(index)
        report.memory_before = process_memory()
        engine = self.engine
        if deaths or self.guard.short:
            reason = tr("a worker process died on this file") if deaths else tr("RAM is short")
            engine, note = weakened(engine, deaths or 1, reason=reason)
            report.fallbacks.append(note)
        try:
            digest = self._do(index, task, report, engine, work)
            report.status = "done"
        finally:
            report.seconds = time.monotonic() - started
            report.fallbacks += self.engine.take_memory_notes()
            # Cycles through frames and generators would otherwise keep whole pictures until the next file,
            # and the allocator the most that any file ever needed.
            gc.collect()
            return_free_memory()
            report.memory_after = process_memory()
            # Before the next file is opened; after the last there is nothing to wait for.
            remark = self.guard.check(wait=index + 1 < len(self.tasks))
            report.fallbacks += [remark] if remark else []
            if remark and self.status:
                self.status.status.memory_warnings += 1
        return digest

    def new_report(self, task: Task) -> FileReport:
        """A report that says failed until the task is done."""
        return FileReport(
            source=self._sources, target=str(task.target), status="failed", fallbacks=task.notes
        )

    @property
    def _sources(self) -> list[str]:
        return list(self.source.photos) if self.source else []

    def _do(
        self, index: int, task: Task, report: FileReport, engine: Engine, work: FileWork | None
    ) -> str | None:
        report.bytes_in = existing_file(task.target).stat().st_size
        require_disk(task, report.bytes_in, work.place if work and work.mirror else None)
        if _goes_as_picture(task):
            self._do_picture(index, task, report, engine, work)
            return None
        output, suffix_note = _settle_output(task)
        frames = [frames_folder(output)] if engine.settings.keep_frames else []
        self._claim(task, report, output, *frames)
        report.fallbacks += [suffix_note] if suffix_note else []
        if work is not None and work.mirror is not None:
            return self._do_video_away(index, task, output, report, engine, work)
        self._do_video(index, task, task.target, output, report, engine, work)
        report.output, report.bytes_out = str(output), output.stat().st_size
        report.frames_folder = str(frames[0]) if frames else None
        return None

    def _claim(self, task: Task, report: FileReport, *places: Path) -> None:
        """Make sure that a result may go where it is to go, and note that what will lie there is ours."""
        for place in places:
            note = self.writable.clear(place)
            report.fallbacks += [note] if note else []
        if self.resumption is not None:
            results = self.resumption.results
            self.resumption.patience.attempt(lambda: results.claim(task, places))

    def _do_picture(
        self, index: int, task: Task, report: FileReport, engine: Engine, work: FileWork | None
    ) -> None:
        output, suffix_note = _picture_output(task)
        keeps = engine.settings.keep_frames and not is_image(task.target)
        frames = frames_folder(output) if keeps else None
        self._claim(task, report, output, *([frames] if frames else []))
        report.frames_folder = str(frames) if frames else None
        attempt = work.patience.attempt if work else lambda action: action()
        with _frames_removed_on_error(output):
            result = process_picture(
                engine,
                self.embedding,
                task.target,
                output,
                on_frame=self._on_frame(index, task, output, engine),
                put=lambda path, content: attempt(lambda: write_whole(path, content)),
            )
        _enter(result, report)
        if not result.video_seconds:
            report.quality = None  # what is measured there is measured over time
        elif not engine.settings.keep_fps:
            report.fallbacks.append(tr("an animated picture keeps its times, whatever keep_fps says"))
        if engine.settings.keep_frames and is_image(task.target):
            report.fallbacks.append(tr("keep_frames keeps none of a picture's frames, but a GIF's"))
        report.fallbacks += [suffix_note] if suffix_note else []
        report.output, report.bytes_out = str(output), output.stat().st_size

    def _on_frame(self, index: int, task: Task, output: Path, engine: Engine) -> FrameCallback:
        """What is told, and kept, of each finished frame of an animation."""
        settings, started, told = engine.settings, time.monotonic(), 0.0

        def on_frame(number: int, total: int, still: Still) -> None:
            nonlocal told
            if settings.keep_frames and not is_image(task.target):
                path = frames_folder(output) / f"{number:06d}.{settings.temp_frame_format}"
                write_still(path, still, quality=max(1, settings.temp_frame_quality))
            self.beat()
            now = time.monotonic()
            if now - told < _TELL_EVERY and number + 1 < total:
                return
            told, rate = now, (number + 1) / max(now - started, 1e-6)
            self._on_progress(
                Progress(
                    file=task.target.name,
                    file_index=index,
                    file_count=len(self.tasks),
                    frame=number + 1,
                    frames=total,
                    fps=rate,
                    eta=(total - number - 1) / rate,
                    ram_percent=ram_percent(),
                    gpu_percent=gpu_memory_percent(),
                    provider=engine.provider,
                    threads=int(settings.execution_threads),
                    batch_size=int(settings.batch_size),
                )
            )

        return on_frame

    def _do_video_away(
        self, index: int, task: Task, output: Path, report: FileReport, engine: Engine, work: FileWork
    ) -> str:
        """Do a video whose result goes to a mounted drive: all work is done on the local disk."""
        target, result = work.place / "in" / task.target.name, work.place / "out" / output.name
        work.patience.attempt(lambda: copy_in(task.target, target, beat=self.beat))
        self._do_video(index, task, target, result, report, engine, work)
        # The video last: what fails before leaves no result that nobody knows of.
        with _frames_removed_on_error(output):
            if engine.settings.keep_frames:
                made, place = frames_folder(result), frames_folder(output)
                names = frozenset(path.name for path in made.iterdir())
                work.patience.attempt(lambda: move_frames(made, place, names))
            digest = work.patience.attempt(lambda: copy_out(result, output, beat=self.beat))
        report.output, report.bytes_out = str(output), result.stat().st_size
        report.frames_folder = str(frames_folder(output)) if engine.settings.keep_frames else None
        return digest

    def _do_video(
        self,
        index: int,
        task: Task,
        target: Path,
        output: Path,
        report: FileReport,
        engine: Engine,
        work: FileWork | None,
    ) -> None:
        with _frames_removed_on_error(output):
            result = process_video(
                engine,
                self.embedding,
                target,
                output,
                on_progress=self._on_progress,
                file_index=index,
                file_count=len(self.tasks),
                store=work,
                on_picture=self._on_picture if self.status else None,
            )
        _enter(result, report)

    @property
    def embedding(self) -> FloatArray | None:
        """Unit embedding of who is put in; None where nothing is swapped."""
        return self.source.embedding if self.source else None

    def _on_progress(self, progress: Progress) -> None:
        if self.status:
            self.status.progress(progress)
        if self.on_progress:
            self.on_progress(progress)
        if self.outlook:
            self.outlook.warn()
        self.beat()

    def _on_picture(self, picture: VideoPicture) -> None:
        assert self.status is not None
        self.status.picture(data_url(picture.detector_view(_PICTURE_EDGE).image))


def skipped(task: Task, sources: list[str]) -> FileReport:
    """The report of a task that was not done because somebody stopped the batch."""
    return FileReport(
        source=sources, target=str(task.target), status="skipped", error=tr("stopped by the user")
    )


def identity_of(engine: Engine, sources: Sequence[Source]) -> Identity | None:
    """Who the sources show, or None where no face is swapped.

    Raises:
        UsageError: No photo was given, or they do not show one person.
        NoFaceError: No photo shows a face.
        MediaError: No photo can be read.
    """
    if engine.swapper is None:
        return None
    if not sources:
        raise UsageError(
            tr("no source photo was given"), remedy=tr("name at least one photo of the person to put in")
        )
    return engine.identity([(source.name, partial(read_image, source.image)) for source in sources])


def weakened(engine: Engine, times: int, *, reason: str) -> tuple[Engine, str]:
    """The same networks, used with less memory, and a note on it."""
    before: Settings = engine.settings
    memory = max(0.5, float(before.max_memory) / 2**times)
    threads = max(1, int(before.execution_threads) // 2**times)
    settings = before.with_overrides(max_memory=round(memory, 2), batch_size=1, execution_threads=threads)
    note = tr(
        "{reason}: max_memory lowered to {memory:.1f} GB, batch_size to 1, execution_threads to {threads}",
        reason=reason,
        memory=memory,
        threads=threads,
    )
    return replace(engine, settings=settings), note


def _enter(result: FileResult, report: FileReport) -> None:
    """Copy what the pipeline measured into the report."""
    report.frames_in, report.frames_out = result.frames_in, result.frames_out
    measured = result.measured
    report.faces_swapped, report.frames_without_face = result.faces_swapped, result.frames_without_face
    report.fps = result.frames_out / result.seconds if result.seconds else 0.0
    report.encoder, report.provider = result.encoder, result.provider
    report.video_seconds, report.audio_seconds = result.video_seconds, result.audio_seconds
    report.times_kept = result.times_kept
    report.segments, report.segments_kept = result.segments, result.segments_kept
    report.quality = Quality(
        similarity_mean=measured.similarity_mean,
        similarity_p5=measured.similarity_p5,
        similarity_samples=len(measured.similarities),
        flicker=measured.flicker_rms,
        missed_spans=measured.spans,
    )
    report.fallbacks += result.notes


def _goes_as_picture(task: Task) -> bool:
    """A GIF stays one, frame by frame, unless it is to become a video; many a video is only called so."""
    if task.target.suffix.lower() != ".gif" or task.output.suffix.lower() not in {".gif", *IMAGE_KINDS}:
        return is_image(task.target)
    with task.target.open("rb") as file:
        return file.read(4) == b"GIF8"


def _picture_output(task: Task) -> tuple[Path, str | None]:
    """The output's final name: formats that are read but not written here become WebP or PNG."""
    own = task.target.suffix.lower()
    suffix = picture_suffix(task.target)
    if task.demanded or suffix == own:
        return task.output, None
    note = tr(
        "the result is a {suffix} file, the source a {own} one{because}", suffix=suffix, own=own, because=""
    )
    return task.output.with_name(shortened("", task.output.name, suffix)), note


def _settle_output(task: Task) -> tuple[Path, str | None]:
    """The output's final name: the target's container where it can hold the result."""
    if task.demanded:
        return task.output, None
    suffix, note = output_suffix(probe(task.target))
    if suffix == task.output.suffix.lower():
        return task.output, note
    return task.output.with_name(shortened("", task.output.name, suffix)), note


@contextmanager
def _frames_removed_on_error(output: Path) -> Iterator[None]:
    """Kept frames belong to a finished result; those of a failed one are removed."""
    existed = frames_folder(output).exists()  # an earlier result's, or empty
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(frames_folder(output), ignore_errors=True)
        raise


def require_disk(task: Task, target_bytes: int, work: Path | None = None) -> None:
    """Refuse a task whose result may not fit.

    Args:
        task: What to do.
        target_bytes: Size of the target.
        work: Where the work is done, if that is not where the result goes.

    Raises:
        OutputError: Less than three times the target's size is free: twice for the result, once for its
            segments.
    """
    for folder in [task.output.parent, *([work] if work else [])]:
        free = disk_free(folder)
        if free < _DISK_FACTOR * target_bytes:
            raise OutputError(
                tr(
                    "{free:.1f} GB are free, but {needed:.1f} GB are needed: "
                    "twice the target's size for the result and once for its segments",
                    free=free / 1e9,
                    needed=_DISK_FACTOR * target_bytes / 1e9,
                ),
                where=str(folder),
                remedy=tr("free space or choose another output folder"),
            )
