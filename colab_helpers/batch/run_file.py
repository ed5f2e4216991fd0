"""Process one file of a run: check its output, run the pipeline, and fill in its report."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from colab_helpers.addresses import is_placeholder
from colab_helpers.batch.drive import copy_in, copy_out, require_free_space
from colab_helpers.batch.file_report import fill_report
from colab_helpers.batch.outputs import is_frame_by_frame, resolve_output
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.batch.resume import JournaledSegmentStore, model_digest
from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.errors import ColabHelpersError
from colab_helpers.faces.assignment import Assignment, Treatment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.photos import Identity
from colab_helpers.files import Seal, copy_atomically, size_and_mtime, write_atomically
from colab_helpers.language import tr
from colab_helpers.media.images import Still, write_still
from colab_helpers.media.inputs import is_image, require_file
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.pipeline import frames_folder, move_frames, process_picture, process_video
from colab_helpers.pipeline.image import FrameCallback, pictures_of
from colab_helpers.pipeline.plan import PlanOptions, VideoPlan, plan_video
from colab_helpers.pipeline.report_progress import ProgressReporter
from colab_helpers.progress import ProgressCallback
from colab_helpers.resources.allocator import return_free_memory
from colab_helpers.resources.guard import MemoryGuard
from colab_helpers.resources.sampler import process_memory
from colab_helpers.trust.consent import require_consent
from colab_helpers.trust.content import ContentCheck, check_pictures
from colab_helpers.trust.manifests import sidecar
from colab_helpers.trust.marking import Marks
from colab_helpers.trust.records import Consent

T = TypeVar("T")
# Free space needed at the start, in multiples of the target's size: segments, joined and signed result; in a
# local work folder a copy of the target as well, while the results' disk gets copies.
_SPACE, _WORK_SPACE, _COPIES_SPACE = 3, 4, 3


@dataclass(eq=False, kw_only=True)
class FileRun:
    """Processes one target.

    Attributes:
        assignment: What is done to whom.
        consent: The statement of consent; empty if no face is swapped in.
        report: Report to fill in.
        write_policy: Where results may be written.
        index: Number of the file in the run, of ``count``.
        unfinished: Store of its segments; None keeps none.
        on_picture: Called now and then with a frame just written; must not keep it.
        heartbeat: Called as the work progresses; may raise to cancel.
        encoder: Name of the encoder of existing segments.
        new: Output paths at which nothing existed at the start.
    """

    engine: Engine
    assignment: Assignment
    consent: Consent
    task: Task
    report: FileReport
    write_policy: WritePolicy
    index: int = 0
    count: int = 1
    unfinished: JournaledSegmentStore | None = None
    guard: MemoryGuard = field(default_factory=MemoryGuard)
    on_progress: ProgressCallback | None = None
    on_picture: Callable[[VideoPicture], None] | None = None
    heartbeat: Callable[[], None] = lambda: None
    encoder: str = ""
    check: ContentCheck = field(init=False)
    new: list[Path] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if enhancer := self.engine.frame_enhancer:
            enhancer.heartbeat, enhancer.edge = self.heartbeat, enhancer.default_edge
        swaps, index = self._swaps(), self.unfinished.index if self.unfinished else None
        self.report.source_sha256 = sorted({digest for swap in swaps for digest in swap.key.split()})
        self.check = ContentCheck(
            self.engine,
            self.task.target,
            [swap.age for swap in swaps],
            digest=model_digest,
            # The stored decision is beside the face index, which images do not have.
            state_path=index.content if index and not is_frame_by_frame(self.task) else None,
            key=index.key if index else "",
            attempt=self._attempt,
        )

    def _swaps(self) -> list[Treatment]:
        return [treatment for treatment in self.assignment.treatments if treatment.action == "swap"]

    def run(self) -> str | None:
        """Process the target and fill in the report; return the result's SHA-256 if it is known."""
        with self._measuring():
            digest = self._process()
            self.report.status = "done"
        return digest

    def prepare_video(self) -> VideoPlan:
        """Find all faces of a video, and return the plan of its result; no segment is made yet."""
        with self._measuring():
            self._begin()
            return self.video_plan(all_first=True)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Report time and memory, and free memory at the end."""
        started, report = time.monotonic(), self.report
        report.memory_before = process_memory()
        try:
            yield
        finally:
            report.content = self.check.decision
            report.seconds = time.monotonic() - started
            report.fallbacks += self.engine.take_memory_notes()
            # Otherwise cycles keep whole frames until the next file, and the allocator the peak of all files.
            gc.collect()
            return_free_memory()
            report.memory_after = process_memory()
            # Before the next file is opened; after the last one there is no need to wait.
            note = self.guard.check(wait=self.index + 1 < self.count)
            report.fallbacks += [note] if note else []

    @property
    def _work_folder(self) -> Path | None:
        """Local work folder if the result goes to a mounted drive; None otherwise."""
        return self.unfinished.folder if self.unfinished and self.unfinished.mirror else None

    def _begin(self) -> tuple[Path, list[Path]]:
        """Check that the result may be written; return its path, and all output paths including it."""
        task, report, work = self.task, self.report, self._work_folder
        report.bytes_in = require_file(task.target).stat().st_size
        if self._swaps() and not self.consent.statement:  # the map of people was changed since validation
            require_consent("", ())
        self.check.begin()
        growth, used = self.engine.growth, self.unfinished.bytes if self.unfinished else 0
        times = growth * (_COPIES_SPACE if work else _SPACE)
        require_free_space(task.output.parent, report.bytes_in, times, used)
        if work:
            require_free_space(work, report.bytes_in, growth * _WORK_SPACE, used)
        output, note = resolve_output(task)
        keep_frames = self.engine.settings.keep_frames and not is_image(task.target)
        frames = frames_folder(output) if keep_frames else None
        paths = [path for path in (output, sidecar(output), frames) if path]
        notes = [*map(self.write_policy.ensure_writable, paths), note]
        self.new = [path for path in paths if not is_placeholder(path)]
        report.fallbacks += [note for note in notes if note]
        return output, paths

    def _process(self) -> str | None:
        output, paths = self._begin()
        if self.unfinished is not None:
            self.unfinished.claim(paths)
        task, report, work = self.task, self.report, self._work_folder
        with _clean_up_on_error(output):
            if is_frame_by_frame(task):
                result, digest = self._process_picture(output), None
            elif work is None:
                result, digest = self._process_video(task.target, output), None
            else:
                result, digest = self._process_video_locally(work, output)
            if report.mark is None and (manifest := sidecar(output)) is not None:
                self._copy_manifest(manifest)
        report.output, report.bytes_out = str(output), result.stat().st_size
        frames = frames_folder(output)
        report.frames_folder = str(frames) if frames in paths else None
        return digest

    def _copy_manifest(self, path: Path) -> None:
        """Copy the target's manifest, if any, beside an unmarked result; remove that of an earlier result."""
        own = sidecar(self.task.target)
        if own is not None and own.is_file():
            self.report.manifest = self._attempt(lambda: copy_out(own, path, heartbeat=self.heartbeat))
        else:
            path.unlink(missing_ok=True)

    def _attempt(self, action: Callable[[], T]) -> T:
        return self.unfinished.retry.attempt(action) if self.unfinished else action()

    def _marks(self, readable: Path) -> Marks:
        return Marks.of(
            self.engine,
            self.task.target,
            readable,
            digest=self.unfinished.target if self.unfinished else "",
            consent=self.consent,
            sources=self.report.source_sha256,
            content=self.check,
            heartbeat=self.heartbeat,
        )

    def _process_video(self, target: Path, output: Path) -> Path:
        marks, store = self._marks(target), self.unfinished
        with _clean_up_on_error(output):
            options = self._plan_options(marks)
            result = process_video(self.engine, self.assignment, target, output, store=store, **options)
        fill_report(result, self.report, marks)
        return output

    def _plan_options(self, marks: Marks) -> PlanOptions:
        """Return the options of the pipeline for a video."""
        return {
            "on_progress": self.on_progress,
            "file_index": self.index,
            "file_count": self.count,
            "on_picture": self.on_picture,
            "watcher": self.check,
            "marks": marks,
            "encoder": self.encoder,
        }

    def video_plan(self, *, all_first: bool = False) -> VideoPlan:
        """Return the plan of a video's result, the same for each worker that makes a part of it."""
        store, target, output = self.unfinished, self.task.target, resolve_output(self.task)[0]
        assert store is not None
        if self._work_folder is not None:
            target, output = self._copy_target(self._work_folder, output)
        kwargs = self._plan_options(self._marks(target))
        assignment, info = self.assignment, probe(target)
        return plan_video(self.engine, assignment, info, output, store, all_first=all_first, **kwargs)

    def _copy_target(self, work: Path, output: Path) -> tuple[Path, Path]:
        """Copy the target to the local work folder; return the copy, and the path of its result there."""
        target = work / "in" / self.task.target.name
        self._attempt(lambda: copy_in(self.task.target, target, heartbeat=self.heartbeat))
        return target, work / "out" / output.name

    def _process_video_locally(self, work: Path, output: Path) -> tuple[Path, str]:
        """Process a video in the local work folder and copy the result; return it and its SHA-256."""
        target, result = self._copy_target(work, output)
        self._process_video(target, result)
        # The video last, so that an error leaves no result that is not journaled.
        if self.engine.settings.keep_frames:
            made, folder = frames_folder(result), frames_folder(output)
            names = frozenset(path.name for path in made.iterdir())
            self._attempt(lambda: move_frames(made, folder, names))
        manifest = sidecar(output) if self.report.manifest else None

        def publish() -> str:
            return copy_out(result, output, heartbeat=self.heartbeat, before_publish=copy_manifest)

        def copy_manifest() -> None:
            if manifest is not None:
                copy_out(result.with_name(manifest.name), manifest, heartbeat=self.heartbeat)

        return result, self._attempt(publish)

    def _process_picture(self, output: Path) -> Path:
        settings, report, target = self.engine.settings, self.report, self.task.target
        marks = self._marks(target)
        check_pictures(self.check, pictures_of(target, output))

        def put(path: Path, content: BinaryIO, seal: Seal) -> None:
            self._attempt(lambda: copy_atomically(path, content, seal))

        on_frame = self._on_frame(output, marks)
        result = process_picture(
            self.engine, self.assignment, target, output, on_frame=on_frame, put=put, marks=marks
        )
        fill_report(result, report, marks)
        if not result.video_seconds and not result.people:
            report.quality = None  # it is measured over time
        elif not settings.keep_fps:
            report.fallbacks.append(tr("an animated image keeps its frame times; keep_fps has no effect"))
        if settings.keep_frames and is_image(target):
            report.fallbacks.append(tr("keep_frames has no effect on images other than GIFs"))
        return output

    def _on_frame(self, output: Path, marks: Marks) -> FrameCallback:
        """Return a callback that reports each finished frame of an animation, and writes kept frames."""
        settings, file = self.engine.settings, (self.task.target.name, self.index, self.count)
        keep_frames = settings.keep_frames and not is_image(self.task.target)
        reporter = ProgressReporter(self.on_progress, self.engine, *file, frames=None)

        def on_frame(number: int, total: int, still: Still, actions: set[str]) -> None:
            if keep_frames:
                path = frames_folder(output) / f"{number:06d}.{settings.temp_frame_format}"
                marked = replace(still, parts=marks.parts(actions))
                write_still(path, marked, quality=max(1, settings.temp_frame_quality))
            self.heartbeat()
            reporter.frames = total
            reporter.frame(number + 1, start=0, last=number + 1 == total)

        return on_frame


def new_report(task: Task, source: Identity | None) -> FileReport:
    """Return a report with status "failed", to be changed when the task is done."""
    photos = list(source.photos) if source else []
    return FileReport(source=photos, target=str(task.target), status="failed", fallbacks=task.notes)


def error_text(error: Exception) -> str:
    """Describe why a file failed."""
    if isinstance(error, ColabHelpersError):
        return str(error)
    return tr("unexpected {kind}: {error}", kind=type(error).__name__, error=error)


@contextmanager
def _clean_up_on_error(output: Path) -> Iterator[None]:
    """On an error, remove the new result's frames and manifest; those of an earlier result are restored."""
    existed = frames_folder(output).exists()  # an earlier result's, or empty
    path, before = sidecar(output), size_and_mtime(output)
    manifest = path.read_bytes() if path and path.is_file() else None
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(frames_folder(output), ignore_errors=True)
        # A changed output is the new result, and the manifest belongs to it.
        if path and size_and_mtime(output) == before:
            with suppress(OSError):
                path.unlink(missing_ok=True) if manifest is None else write_atomically(path, manifest)
        raise
