"""Results of earlier runs into the same folder: what still stands is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from colab_helpers.batch.journal import Claimed, Failed, FileDone, History, Journal, Started
from colab_helpers.batch.keys import file_digest, work_key
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport, write_text
from colab_helpers.errors import OutputError
from colab_helpers.files import numbered, unwritable
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.models.records import read_record
from colab_helpers.pipeline import frames_folder
from colab_helpers.settings import Settings

KEPT = mark("kept from an earlier run")


@dataclass(eq=False)
class Results:
    """What a folder's journal vouches for.

    Attributes:
        journal: Open for appending.
        history: The journal as it was when this process began.
        run: Names the run; a worker started again goes on with it.
        sources: Digests of the source photos that count.
        settings: Resolved settings of this run.
        models: Digest of each model file by name.
        digests: Finds out the digest of a target or result.
    """

    journal: Journal
    history: History
    sources: Sequence[str]
    settings: Settings
    models: Mapping[str, str]
    run: str = ""
    digests: Callable[[Path], str] = file_digest
    _keys: dict[Path, str] = field(default_factory=dict, init=False)
    _claimed: Sequence[Path] = field(default=(), init=False)

    def find(self, task: Task) -> FileReport | None:
        """The report of a result that is still there, byte for byte, and would come out the same today.

        Raises:
            MissingFileError: The target is there but cannot be read.
        """
        if not task.target.exists():
            return None
        done = self.history.result(self.key(task), task.output.name)
        if done is None or done.report.output is None:
            return None
        output = Path(done.report.output)
        # The name alone: the folder may be mounted elsewhere today.
        output = task.output.with_name(output.name)
        wants_frames = self.settings.keep_frames and not is_image(task.target)
        frames = not wants_frames or frames_folder(output).is_dir()
        if not (frames and output.is_file() and self.digests(output) == done.sha256):
            return None
        remarks = [*done.report.fallbacks, *([] if self.run and done.run == self.run else [tr(KEPT)])]
        here: dict[str, object] = {"output": str(output), "target": str(task.target), "fallbacks": remarks}
        if done.report.frames_folder:
            here["frames_folder"] = str(frames_folder(output))
        return done.report.model_copy(update=here)

    def made(self, path: Path) -> bool:
        """Whether an earlier run made what lies at a path, and nobody has changed it since."""
        if path.name not in self.history.made:
            return False
        digests = self.history.made[path.name]
        return digests is None or (path.is_file() and self.digests(path) in digests)

    def set_aside(self, path: Path) -> str | None:
        """Give a result that somebody changed since it was made another name, which a note tells.

        Raises:
            OutputError: It cannot be renamed.
        """
        if not (self.history.made.get(path.name) and path.is_file()) or self.made(path):
            return None
        kept = next(other for n in count(2) if not os.path.lexists(other := numbered(path, n)))
        try:
            path.rename(kept)
        except OSError as error:
            raise unwritable(path, error) from error
        return tr(
            "{name} was changed after an earlier run had made it: it is kept as {kept}",
            name=path.name,
            kept=kept.name,
        )

    def claim(self, task: Task, places: Sequence[Path]) -> None:
        """Note what is about to be made, so that it is known for our own even after a crash.

        Raises:
            OutputError: The journal cannot be written to.
        """
        self.journal.append(Claimed(key=self.key(task), names=tuple(place.name for place in places)))
        self._claimed = places

    def release(self, task: Task) -> None:
        """Note that nothing was made after all, where that is so: what is put there now is the user's."""
        claimed, self._claimed = self._claimed, ()
        if claimed and not any(map(os.path.lexists, claimed)):
            with suppress(OutputError):  # as after a crash
                self.journal.append(Claimed(key=self.key(task), names=()))

    def failure(self, task: Task) -> FileReport | None:
        """The report of a file that an earlier worker of this very run could not do."""
        if not self.run:
            return None
        failed = self.history.failure(self.key(task), self.run, str(task.target))
        return failed.report if failed else None

    def interruptions(self, task: Task) -> int:
        """How many workers of this run died on a file without getting on."""
        return self.history.interruptions(self.key(task), self.run)

    def start(self, task: Task, pid: int) -> None:
        """Note that work begins, so that a death on it is noticed.

        Raises:
            OutputError: The journal cannot be written to.
        """
        self.journal.append(Started(key=self.key(task), run=self.run, target=str(task.target), pid=pid))

    def keep(self, task: Task, report: FileReport, digest: str | None = None) -> None:
        """Note a finished result; ``digest`` is its SHA-256, if known already.

        Raises:
            OutputError: The journal cannot be written to.
        """
        assert report.output is not None
        digest = digest or self.digests(Path(report.output))
        self.journal.append(FileDone(key=self.key(task), run=self.run, sha256=digest, report=report))

    def give_up(self, task: Task, report: FileReport) -> None:
        """Note that a file could not be done.

        Raises:
            OutputError: The journal cannot be written to.
        """
        self.journal.append(Failed(key=self.key(task), run=self.run, report=report))

    def key(self, task: Task) -> str:
        """Key of the work on a task.

        Raises:
            MissingFileError: The target cannot be read.
        """
        if task.target not in self._keys:
            self._keys[task.target] = work_key(
                target=self.digests(task.target),
                sources=self.sources,
                settings=self.settings,
                models=self.models,
                encoder=self.settings.output_video_encoder,
            )
        return self._keys[task.target]


@dataclass(eq=False)
class Digests:
    """SHA-256 of files, computed once as long as their size and time of change stay the same.

    Attributes:
        path: Where they are remembered from run to run.
        beat: Called every few megabytes; may raise to give up.
    """

    path: Path
    beat: Callable[[], None] = lambda: None
    _known: dict[str, list[int | str]] | None = field(default=None, init=False)

    def __call__(self, path: Path) -> str:
        """The digest of a file.

        Raises:
            MissingFileError: It cannot be read.
        """
        known, name = self._load(), str(path.absolute())
        before = _state(path)
        if before is None or known.get(name, [])[:2] != before:
            digest = file_digest(path, on_chunk=self.beat)
            self.remember(path, digest)
            return digest
        return str(known[name][2])

    def remember(self, path: Path, digest: str) -> None:
        """Note a digest that was found out on the way."""
        state = _state(path)
        if state is not None:
            self._load()[str(path.absolute())] = [*state, digest]
            try:
                write_text(self.path, json.dumps(self._known))
            except OutputError:
                return  # it only saves time

    def _load(self) -> dict[str, list[int | str]]:
        if self._known is None:
            try:
                self._known = dict(json.loads(self.path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                self._known = {}
        return self._known


def _state(path: Path) -> list[int | str] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def model_digest(path: Path) -> str:
    """What tells a model file from another: its verified SHA-256, else size and time of change.

    Hashing half a gigabyte at every start would cost more than doing a clip again after a copied file.
    """
    record = read_record(path)
    if record is not None and record.still_describes(path):
        return record.sha256
    found = path.stat()
    return f"{found.st_size} bytes, changed {found.st_mtime_ns}"
