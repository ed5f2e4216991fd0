"""A batch from first to last file: one bad file never stops the others."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import BatchReport, FileReport, ModelReport, summarize
from colab_helpers.batch.results import Results
from colab_helpers.batch.status import StatusWriter
from colab_helpers.errors import ColabHelpersError, MissingFileError, OutputError, UsageError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.types import FloatArray
from colab_helpers.machine import disk_free, this_machine
from colab_helpers.media.containers import output_suffix
from colab_helpers.media.images import WRITTEN_SUFFIXES, read_image, write_image
from colab_helpers.media.probe import is_image, probe
from colab_helpers.pipeline import (
    FileResult,
    VideoRun,
    frames_folder,
    process_image,
)
from colab_helpers.progress import Progress, ProgressCallback
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.resources.sampler import process_memory

# Room a result may need before the start: twice the target (requirement C5).
_DISK_FACTOR = 2
LOCK_NAME = ".colab_helpers.lock"

FileCallback = Callable[[FileReport], None]


@dataclass(eq=False)
class Batch:
    """One source, many targets.

    Attributes:
        engine: The loaded networks.
        sources: Names of the source's photos, for the report.
        source: Unit embedding of the source; None where nothing is swapped.
        tasks: What to do.
        consent: The checked statement.
        on_progress: Called while a video runs.
        on_file: Called after each file.
        guard: Looks after RAM between the files.
        status: Where others can read how the batch stands.
        results: What earlier runs have left in the folder.
    """

    engine: Engine
    sources: list[str]
    source: FloatArray | None
    tasks: Sequence[Task]
    consent: str
    on_progress: ProgressCallback | None = None
    on_file: FileCallback | None = None
    status: StatusWriter | None = None
    results: Results | None = None
    guard: MemoryGuard = field(default_factory=lambda: MemoryGuard())

    def run(self) -> BatchReport:
        """Do every task; Ctrl-C ends the current one cleanly and leaves the rest as skipped."""
        started = time.monotonic()
        files: list[FileReport] = []
        cancelled = False
        try:
            for index, task in enumerate(self.tasks):
                files.append(self.attempt(index, task))
                if self.status:
                    self.status.file(index, files[-1])
                if self.on_file:
                    self.on_file(files[-1])
        except KeyboardInterrupt:
            cancelled = True
            files += [self._skipped(task) for task in self.tasks[len(files) :]]
        return self._report(files, seconds=time.monotonic() - started, cancelled=cancelled)

    def _report(self, files: list[FileReport], *, seconds: float, cancelled: bool) -> BatchReport:
        notes = list(self.engine.notes)
        if self.results and self.results.history.damaged:
            notes.append(f"{self.results.history.damaged} damaged line(s) of the journal were ignored")
        if self.status:
            self.status.end(memory_warnings=self.guard.warnings, cancelled=cancelled)
            notes += [self.status.problem] if self.status.problem else []
        return BatchReport(
            consent=self.consent,
            settings=self.engine.settings.model_dump(mode="json"),
            machine=asdict(this_machine()),
            models=[
                ModelReport(name=network.name, path=str(network.path), standin=network.standin)
                for network in self.engine.networks
            ],
            notes=notes,
            summary=summarize(files, seconds=seconds, memory_warnings=self.guard.warnings),
            files=files,
        )

    def attempt(self, index: int, task: Task) -> FileReport:
        """Do one task, unless an earlier run did; a failure ends up in its report."""
        report = self.new_report(task)
        try:
            earlier = self.results.find(task) if self.results else None
            if earlier is not None:
                return earlier
            self.work_on(index, task, report)
            problem = self.results.keep(task, report) if self.results else None
            report.fallbacks += [problem] if problem else []
        except ColabHelpersError as error:
            report.error = str(error)
        except Exception as error:  # noqa: BLE001 - one bad file must not stop the others
            report.error = f"unexpected {type(error).__name__}: {error}"
        return report

    def work_on(self, index: int, task: Task, report: FileReport) -> None:
        """Do one task and fill its report; errors are raised."""
        started = time.monotonic()
        report.memory_before = process_memory()
        try:
            self._do(index, task, report)
            report.status = "done"
        finally:
            report.seconds = time.monotonic() - started
            report.fallbacks += self.engine.take_memory_notes()
            # Cycles through frames and generators would otherwise keep whole pictures until the next file.
            gc.collect()
            report.memory_after = process_memory()
            # Before the next file is opened; after the last there is nothing to wait for.
            remark = self.guard.check(wait=index + 1 < len(self.tasks))
            report.fallbacks += [remark] if remark else []

    def new_report(self, task: Task) -> FileReport:
        """A report that says failed until the task is done."""
        return FileReport(source=self.sources, target=str(task.target), status="failed")

    def _do(self, index: int, task: Task, report: FileReport) -> None:
        if not task.target.exists():
            raise MissingFileError("there is no such file", where=str(task.target), remedy="check the path")
        report.bytes_in = task.target.stat().st_size
        require_disk(task, report.bytes_in)
        if is_image(task.target):
            self._do_image(task, report)
        else:
            self._do_video(index, task, report)

    def _do_image(self, task: Task, report: FileReport) -> None:
        image, faces = process_image(self.engine, self.source, read_image(task.target))
        output = _image_output(task)
        write_image(output, image, quality=self.engine.settings.output_image_quality)
        report.output, report.bytes_out = str(output), output.stat().st_size
        report.frames_in = report.frames_out = 1
        report.faces_swapped, report.frames_without_face = faces, int(faces == 0)
        report.provider = self.engine.provider
        if not faces:
            report.fallbacks.append("no face was found: the picture is unchanged")

    def _do_video(self, index: int, task: Task, report: FileReport) -> None:
        output, suffix_note = _settle_output(task)
        run = VideoRun(
            self.engine,
            self.source,
            task.target,
            output,
            on_progress=self._on_progress,
            file_index=index,
            file_count=len(self.tasks),
        )
        with _frames_removed_on_error(output):
            result = run.run()
        _enter(result, report)
        report.output, report.bytes_out = str(output), output.stat().st_size
        report.fallbacks += [suffix_note] if suffix_note else []

    def _on_progress(self, progress: Progress) -> None:
        if self.status:
            self.status.progress(progress)
        if self.on_progress:
            self.on_progress(progress)

    def _skipped(self, task: Task) -> FileReport:
        return FileReport(
            source=self.sources, target=str(task.target), status="skipped", error="stopped by the user"
        )


def _enter(result: FileResult, report: FileReport) -> None:
    """Copy what the pipeline measured into the report."""
    report.frames_in, report.frames_out = result.frames_in, result.frames_out
    report.faces_swapped, report.frames_without_face = result.faces_swapped, result.frames_without_face
    report.fps = result.frames_out / result.seconds if result.seconds else 0.0
    report.encoder, report.provider = result.encoder, result.provider
    report.video_seconds, report.audio_seconds = result.video_seconds, result.audio_seconds
    report.fallbacks += result.notes


def _image_output(task: Task) -> Path:
    """The output's final name: formats that are read but not written (BMP, TIFF) become PNG."""
    if task.demanded or task.output.suffix.lower() in WRITTEN_SUFFIXES:
        return task.output
    return task.output.with_name(f"{task.output.name}.png")


def _settle_output(task: Task) -> tuple[Path, str | None]:
    """The output's final name: the target's container where it can hold the result."""
    if task.demanded:
        return task.output, None
    suffix, note = output_suffix(probe(task.target))
    if suffix == task.output.suffix.lower():
        return task.output, note
    return task.output.with_name(task.output.name + suffix), note


@contextmanager
def _frames_removed_on_error(output: Path) -> Iterator[None]:
    """Kept frames belong to a finished result; those of a failed one are removed."""
    existed = frames_folder(output).exists()
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(frames_folder(output), ignore_errors=True)
        raise


def require_disk(task: Task, target_bytes: int) -> None:
    """Refuse a task whose result may not fit.

    Raises:
        OutputError: Less than twice the target's size is free where the result goes.
    """
    free = disk_free(task.output.parent)
    if free < _DISK_FACTOR * target_bytes:
        raise OutputError(
            f"{free / 1e9:.1f} GB are free, but {_DISK_FACTOR * target_bytes / 1e9:.1f} GB are needed, "
            "twice the target's size",
            where=str(task.output.parent),
            remedy="free space or choose another output folder",
        )


@contextmanager
def folder_lock(output_dir: Path) -> Iterator[None]:
    """Hold a folder against a second run.

    Raises:
        UsageError: Another run works in it.
        OutputError: The folder cannot be made or written to.
    """
    lock = FileLock(output_dir / LOCK_NAME, timeout=0)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            "another run is working in this folder",
            where=str(output_dir),
            remedy="wait for it or choose another output folder",
        ) from error
    except OSError as error:
        raise OutputError(
            f"the output folder cannot be written to ({error.strerror or error})",
            where=str(output_dir),
            remedy="choose another output folder",
        ) from error
    try:
        yield
    finally:
        lock.release()
        (output_dir / LOCK_NAME).unlink(missing_ok=True)
