"""Results of earlier runs into the same folder: what still stands is not done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from colab_helpers.batch.journal import FileDone, History, Journal
from colab_helpers.batch.keys import file_digest, work_key
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import FileReport
from colab_helpers.errors import OutputError
from colab_helpers.media.probe import is_image
from colab_helpers.models.records import read_record
from colab_helpers.pipeline import frames_folder
from colab_helpers.settings import Settings

KEPT = "kept from an earlier run"


@dataclass(eq=False)
class Results:
    """What a folder's journal vouches for.

    Attributes:
        journal: Open for appending.
        history: The journal as it was when this run began.
        sources: Digests of the source photos.
        settings: Resolved settings of this run.
        models: Digest of each model file by name.
    """

    journal: Journal
    history: History
    sources: Sequence[str]
    settings: Settings
    models: Mapping[str, str]
    _keys: dict[Path, str] = field(default_factory=dict, init=False)

    def find(self, task: Task) -> FileReport | None:
        """The report of a result that is still there, byte for byte, and would come out the same today.

        Raises:
            MissingFileError: The target is there but cannot be read.
        """
        if not task.target.exists():
            return None
        done = self.history.result(self._key(task))
        if done is None or done.report.output is None:
            return None
        output = Path(done.report.output)
        # The name alone: the folder may be mounted elsewhere today.
        output = task.output.with_name(output.name)
        wants_frames = self.settings.keep_frames and not is_image(task.target)
        frames = frames_folder(output).is_dir() or not wants_frames
        if not (frames and output.is_file() and file_digest(output) == done.sha256):
            return None
        remarks = [note for note in done.report.fallbacks if note != KEPT]
        return done.report.model_copy(
            update={"output": str(output), "target": str(task.target), "fallbacks": [*remarks, KEPT]}
        )

    def keep(self, task: Task, report: FileReport) -> str | None:
        """Note a finished result.

        Returns:
            Why it could not be noted, for the report: the result itself is complete; None if it was.
        """
        assert report.output is not None
        try:
            digest = file_digest(Path(report.output))
            self.journal.append(FileDone(key=self._key(task), sha256=digest, report=report))
        except OutputError as error:
            return f"a later run will do this file again: {error}"
        return None

    def _key(self, task: Task) -> str:
        if task.target not in self._keys:
            self._keys[task.target] = work_key(
                target=file_digest(task.target),
                sources=self.sources,
                settings=self.settings,
                models=self.models,
                encoder=self.settings.output_video_encoder,
            )
        return self._keys[task.target]


def model_digest(path: Path) -> str:
    """What tells a model file from another: its verified SHA-256, else size and time of change.

    Hashing half a gigabyte at every start would cost more than doing a clip again after a copied file.
    """
    record = read_record(path)
    if record is not None and record.still_describes(path):
        return record.sha256
    found = path.stat()
    return f"{found.st_size} bytes, changed {found.st_mtime_ns}"
