"""One file of a run: where its result may go, the work itself, and what the report says of it."""

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
from colab_helpers.batch.drive import copy_in, copy_out, require_room
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
# Room needed before the start, in sizes of the target: its segments, the joined result and the signed one;
# where the work is done elsewhere, there the target, too, and beside
# the results no more than copies of segments and result.
_ROOM, _ROOM_OF_WORK, _ROOM_OF_COPIES = 3, 4, 3


@dataclass(eq=False, kw_only=True)
class FileRun:
    """One target on its way to its result.

    Attributes:
        report: What is filled in.
        write_policy: Where results may go.
        assignment: What is done to whom.
        consent: What was stated; empty where nobody is put in.
        index: Number of the file in the run; ``count`` in all.
        unfinished: Where segments are kept; None keeps none.
        on_picture: Called with a frame just written, now and then; it must not keep it.
        heartbeat: Called as the work gets on; may raise to give up.
        encoder: Name of the one that others have begun with.
        new: Where nothing was when it began.
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
        swapped, place = self._put_in(), self.unfinished.index if self.unfinished else None
        self.report.source_sha256 = sorted({one for each in swapped for one in each.key.split()})
        self.check = ContentCheck(
            self.engine,
            self.task.target,
            [one.age for one in swapped],
            digest=model_digest,
            # What is kept lies beside the face index, which a picture has not.
            place=place.content if place and not is_frame_by_frame(self.task) else None,
            key=place.key if place else "",
            attempt=self._attempt,
        )

    def _put_in(self) -> list[Treatment]:
        return [one for one in self.assignment.treatments if one.action == "swap"]

    def run(self) -> str | None:
        """Do it and fill the report; return the result's SHA-256 where it is known. Errors are raised."""
        with self._settled():
            digest = self._done()
            self.report.status = "done"
        return digest

    def prepare_video(self) -> VideoPlan:
        """Have the faces of a video found, and return what is to be made of it; nothing of it is made yet."""
        with self._settled():
            self._begin()
            return self.video_plan(all_first=True)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Give back at the end what memory was taken, and report it."""
        started, report = time.monotonic(), self.report
        report.memory_before = process_memory()
        try:
            yield
        finally:
            report.content = self.check.decision
            report.seconds = time.monotonic() - started
            report.fallbacks += self.engine.take_memory_notes()
            # Cycles through frames and generators would otherwise keep whole pictures until the next file,
            # and the allocator the most that any file ever needed.
            gc.collect()
            return_free_memory()
            report.memory_after = process_memory()
            # Before the next file is opened; after the last there is nothing to wait for.
            remark = self.guard.check(wait=self.index + 1 < self.count)
            report.fallbacks += [remark] if remark else []

    @property
    def _away(self) -> Path | None:
        """Where the work is done if the result goes to a mounted drive."""
        return self.unfinished.folder if self.unfinished and self.unfinished.mirror else None

    def _begin(self) -> tuple[Path, list[Path]]:
        """Make sure that there may be a result; return where it goes, and with it all that goes beside it."""
        task, report, work = self.task, self.report, self._away
        report.bytes_in = require_file(task.target).stat().st_size
        if self._put_in() and not self.consent.statement:  # the map was another one at the door
            require_consent("", ())
        self.check.begin()
        growth, begun = self.engine.growth, self.unfinished.bytes if self.unfinished else 0
        times = growth * (_ROOM_OF_COPIES if work else _ROOM)
        require_room(task.output.parent, report.bytes_in, times, begun)
        if work:
            require_room(work, report.bytes_in, growth * _ROOM_OF_WORK, begun)
        output, note = resolve_output(task)
        keeps = self.engine.settings.keep_frames and not is_image(task.target)
        frames = frames_folder(output) if keeps else None
        places = [place for place in (output, sidecar(output), frames) if place]
        notes = [*map(self.write_policy.ensure_writable, places), note]
        self.new = [place for place in places if not is_placeholder(place)]
        report.fallbacks += [note for note in notes if note]
        return output, places

    def _done(self) -> str | None:
        output, places = self._begin()
        if self.unfinished is not None:
            self.unfinished.claim(places)
        task, report, work = self.task, self.report, self._away
        with _removed_on_error(output):
            if is_frame_by_frame(task):
                made, digest = self._picture(output), None
            elif work is None:
                made, digest = self._video(task.target, output), None
            else:
                made, digest = self._video_away(work, output)
            if report.mark is None and (beside := sidecar(output)) is not None:
                self._keep_manifest(beside)
        report.output, report.bytes_out = str(output), made.stat().st_size
        frames = frames_folder(output)
        report.frames_folder = str(frames) if frames in places else None
        return digest

    def _keep_manifest(self, place: Path) -> None:
        """Put the manifest beside a target beside its copy; without one, none of an earlier result stays."""
        own = sidecar(self.task.target)
        if own is not None and own.is_file():
            self.report.manifest = self._attempt(lambda: copy_out(own, place, heartbeat=self.heartbeat))
        else:
            place.unlink(missing_ok=True)

    def _attempt(self, action: Callable[[], T]) -> T:
        return self.unfinished.retry.attempt(action) if self.unfinished else action()

    def _marks(self, read: Path) -> Marks:
        return Marks.of(
            self.engine,
            self.task.target,
            read,
            digest=self.unfinished.target if self.unfinished else "",
            consent=self.consent,
            sources=self.report.source_sha256,
            content=self.check,
            heartbeat=self.heartbeat,
        )

    def _video(self, target: Path, output: Path) -> Path:
        marks = self._marks(target)
        with _removed_on_error(output):
            result = process_video(
                self.engine,
                self.assignment,
                target,
                output,
                store=self.unfinished,
                **self._how(marks),
            )
        fill_report(result, self.report, marks)
        return output

    def _how(self, marks: Marks) -> PlanOptions:
        """What the pipeline is told of a video beside what is read and written."""
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
        """Return what is to be made of a video, the same for everybody who makes a part of it."""
        assert self.unfinished is not None
        target, output = self.task.target, resolve_output(self.task)[0]
        if self._away is not None:
            target, output = self._brought(self._away, output)
        how = self._how(self._marks(target))
        return plan_video(
            self.engine, self.assignment, probe(target), output, self.unfinished, all_first=all_first, **how
        )

    def _brought(self, work: Path, output: Path) -> tuple[Path, Path]:
        """Bring the target to the local disk; return where it lies there, and where its result will."""
        target = work / "in" / self.task.target.name
        self._attempt(lambda: copy_in(self.task.target, target, heartbeat=self.heartbeat))
        return target, work / "out" / output.name

    def _video_away(self, work: Path, output: Path) -> tuple[Path, str]:
        """Do a video whose result goes to a mounted drive: all work is done on the local disk."""
        target, result = self._brought(work, output)
        self._video(target, result)
        # The video last: what fails before leaves no result that nobody knows of.
        if self.engine.settings.keep_frames:
            made, place = frames_folder(result), frames_folder(output)
            names = frozenset(path.name for path in made.iterdir())
            self._attempt(lambda: move_frames(made, place, names))
        manifest = sidecar(output) if self.report.manifest else None

        def beside() -> None:
            if manifest is not None:
                copy_out(result.with_name(manifest.name), manifest, heartbeat=self.heartbeat)

        return result, self._attempt(lambda: copy_out(result, output, heartbeat=self.heartbeat, first=beside))

    def _picture(self, output: Path) -> Path:
        settings, report, still = self.engine.settings, self.report, is_image(self.task.target)
        marks = self._marks(self.task.target)
        check_pictures(self.check, pictures_of(self.task.target, output))

        def put(path: Path, content: BinaryIO, seal: Seal) -> None:
            self._attempt(lambda: copy_atomically(path, content, seal))

        result = process_picture(
            self.engine,
            self.assignment,
            self.task.target,
            output,
            on_frame=self._on_frame(output, marks),
            put=put,
            marks=marks,
        )
        fill_report(result, report, marks)
        if not result.video_seconds and not result.people:
            report.quality = None  # what is measured there is measured over time
        elif not settings.keep_fps:
            report.fallbacks.append(tr("an animated picture keeps its times, whatever keep_fps says"))
        if settings.keep_frames and still:
            report.fallbacks.append(tr("keep_frames keeps none of a picture's frames, but a GIF's"))
        return output

    def _on_frame(self, output: Path, marks: Marks) -> FrameCallback:
        """Return what tells, and keeps, each finished frame of an animation."""
        settings, file = self.engine.settings, (self.task.target.name, self.index, self.count)
        keeps = settings.keep_frames and not is_image(self.task.target)
        reporter = ProgressReporter(self.on_progress, self.engine, *file, frames=None)

        def on_frame(number: int, total: int, still: Still, actions: set[str]) -> None:
            if keeps:
                path = frames_folder(output) / f"{number:06d}.{settings.temp_frame_format}"
                said = replace(still, parts=marks.parts(actions))
                write_still(path, said, quality=max(1, settings.temp_frame_quality))
            self.heartbeat()
            reporter.frames = total
            reporter.frame(number + 1, start=0, last=number + 1 == total)

        return on_frame


def new_report(task: Task, source: Identity | None) -> FileReport:
    """Return a report that says failed until the task is done."""
    photos = list(source.photos) if source else []
    return FileReport(source=photos, target=str(task.target), status="failed", fallbacks=task.notes)


def error_text(error: Exception) -> str:
    """Write why a file could not be done."""
    if isinstance(error, ColabHelpersError):
        return str(error)
    return tr("unexpected {kind}: {error}", kind=type(error).__name__, error=error)


@contextmanager
def _removed_on_error(output: Path) -> Iterator[None]:
    """Remove kept frames and manifest of a result that fails; an earlier result keeps its own."""
    existed = frames_folder(output).exists()  # an earlier result's, or empty
    beside, before = sidecar(output), size_and_mtime(output)
    manifest = beside.read_bytes() if beside and beside.is_file() else None
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(frames_folder(output), ignore_errors=True)
        if (
            beside and size_and_mtime(output) == before
        ):  # else the result is there, and the manifest belongs to it
            with suppress(OSError):
                beside.unlink(missing_ok=True) if manifest is None else write_atomically(beside, manifest)
        raise
