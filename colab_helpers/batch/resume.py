"""Resume: reuse what earlier runs into the same output folder finished, as far as it is still valid."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from colab_helpers.addresses import address_of, is_placeholder
from colab_helpers.batch.drive import RetryPolicy, copy_in, copy_out
from colab_helpers.batch.face_indexes import FaceIndexLocation
from colab_helpers.batch.journal import FileDone, History, JournalWriter, OutputsClaimed, SegmentDone
from colab_helpers.batch.keys import file_digest, index_key, work_key
from colab_helpers.batch.object_store import fetch, needs_download, refresh_placeholder, remove, send, unpin
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import KEPT, FileReport, write_text
from colab_helpers.errors import ContentError, MediaError, OutputError
from colab_helpers.faces.index import FaceIndex
from colab_helpers.files import numbered, parse_json, size_and_mtime, unwritable_error
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.segments import SEGMENT_SUFFIX, check_segment
from colab_helpers.models.inventory import read_record
from colab_helpers.pipeline import FinishedSegment, SegmentStore, frames_folder
from colab_helpers.settings import Settings
from colab_helpers.trust.manifests import sidecar


@dataclass(eq=False)
class EarlierWork:
    """Finds reusable results of earlier runs in the journal of an output folder."""

    history: History
    run: str  # identifier of this run; a restarted worker keeps it
    sources: Sequence[str]  # digests of the source photos in use
    person_filter: Sequence[str]  # digests of the photos in target_person and never
    settings: Settings
    models: Mapping[str, str]  # digests of the model files by name
    digests: Callable[..., str] = file_digest  # returns the digest of a target or result
    consent: str = ""  # statement of this run
    # With a people map: what is done to whom in a target, by index key. Then ``sources`` and
    # ``person_filter`` are no part of the key themselves.
    decisions: Callable[[str], object] | None = None
    _keys: dict[Path, str] = field(default_factory=dict, init=False)

    @property
    def stated(self) -> tuple[str, str]:
        """Consent and disclosure as manifests of this run state them; neither changes a pixel."""
        return self.consent, self.settings.disclosure

    def key(self, task: Task) -> str:
        """Return the work key of a task; raise MissingFileError if the target cannot be read."""
        if task.target not in self._keys:
            self._keys[task.target] = work_key(
                target=self.digests(task.target),
                sources=[] if self.decisions else self.sources,
                person_filter=[] if self.decisions else self.person_filter,
                decisions=self.decisions and self.decisions(self.index_key(task)),
                settings=self.settings,
                models=self.models,
                encoder=self.settings.output_video_encoder,
            )
        return self._keys[task.target]

    def index_key(self, task: Task) -> str:
        """Return the key of a target's face index; raise MissingFileError if the target cannot be read."""
        return index_key(target=self.digests(task.target), settings=self.settings, models=self.models)

    def result(self, task: Task) -> FileReport | None:
        """Return the report of a result that is intact and valid for this run; None if there is none."""
        done = self.history.result(self.key(task), task.output.name)
        if done is None or done.report.output is None:
            return None
        # The name alone: the folder may be mounted at another path today.
        output = task.output.with_name(Path(done.report.output).name)
        wants_frames = self.settings.keep_frames and not is_image(task.target)
        beside, manifest, frames = sidecar(output), done.report.manifest, frames_folder(output)
        for path in (output, beside, frames if wants_frames else None):
            if path is not None:
                refresh_placeholder(path)
        if beside and manifest and not (beside.is_file() and self._digest_of(beside) == manifest):
            return None
        has_frames = not wants_frames or frames.is_dir()
        if not (has_frames and output.is_file() and self._digest_of(output) == done.sha256):
            return None
        remarks = [*done.report.fallbacks, *([] if done.run == self.run else [tr(KEPT)])]
        if done.report.mark and done.stated not in (None, self.stated):
            remarks.append(tr("its manifest states the consent and disclosure of the run that made it"))
        update: dict[str, object] = {"output": str(output), "target": str(task.target), "fallbacks": remarks}
        if done.report.frames_folder:
            update["frames_folder"] = str(frames)
        return done.report.model_copy(update=update)

    def _digest_of(self, result: Path) -> str:
        """Return the digest of a result; one that is downloaded for it is not kept."""
        downloads = is_placeholder(result)
        try:
            return self.digests(result)
        finally:
            if downloads:
                unpin(result)

    def made(self, path: Path) -> bool:
        """Return whether an earlier run made the file at a path, and nobody has changed it since."""
        if path.name not in self.history.made:
            return False
        digests = self.history.made[path.name]
        return digests is None or (path.is_file() and self._digest_of(path) in digests)

    def set_aside(self, path: Path) -> str | None:
        """Rename a result that the user has changed and return a note; raise OutputError if that fails."""
        if not (self.history.made.get(path.name) and path.is_file()) or self.made(path) or address_of(path):
            return None
        kept = next(other for n in count(2) if not os.path.lexists(other := numbered(path, n)))
        try:
            path.rename(kept)
        except OSError as error:
            raise unwritable_error(path, error) from error
        note = mark("{name} was changed after an earlier run had made it: it is kept as {kept}")
        return tr(note, name=path.name, kept=kept.name)


@dataclass(eq=False)
class JournaledSegmentStore(SegmentStore):
    """The unfinished work on one file: its segments, noted in the journal, and its face index."""

    key: str
    target: str  # digest of the target
    # Folder beside the results to which segments are copied if the results are on a mounted drive, since the
    # local disk may not outlive the session. None if ``folder`` is beside the results.
    mirror: Path | None
    journal: JournalWriter
    history: History
    retry: RetryPolicy
    index: FaceIndexLocation
    heartbeat: Callable[[], None] = lambda: None  # called during long copies; may raise to cancel
    _claimed: Sequence[Path] = field(default=(), init=False)

    @property
    def bytes(self) -> int:
        """Size of the local segments."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*{SEGMENT_SUFFIX}"))

    def face_index(self) -> FaceIndex:
        """Open the target's face index, which earlier runs may have filled, with any sources."""
        return self.index.open(self.retry, self.heartbeat)

    def finished(self) -> list[FinishedSegment]:
        """Return the segments whose files are as the journal describes them."""
        noted = self.history.segments(self.key) | {part.segment.number: part for part in super().finished()}
        local = (replace(one, segment=replace(one.segment, path=self._path(one))) for one in noted.values())
        return [part for part in local if self._is_intact(part)]

    def _path(self, part: FinishedSegment) -> Path:
        return self.folder.absolute() / f"{part.segment.number:06d}{SEGMENT_SUFFIX}"

    def _is_intact(self, part: FinishedSegment) -> bool:
        """Return whether a segment is as noted; fetch it from mirror or store if the local one is gone."""
        path = part.segment.path
        self.heartbeat()
        try:
            if self.mirror is not None and not path.is_file():
                copy_in(self.mirror / path.name, path, heartbeat=self.heartbeat)
            elif is_placeholder(path) or not path.is_file():
                fetch(path, self.heartbeat)
            check_segment(part.segment)
        except (MediaError, OutputError):
            return False
        return True

    def keep(self, done: FinishedSegment) -> None:
        """Copy a segment beside the results if necessary, and note it; raise OutputError if retries fail."""
        path = done.segment.path
        if self.mirror is not None:
            target = self.mirror / path.name
            self.retry.attempt(lambda: copy_out(path, target, heartbeat=self.heartbeat))
        elif address_of(path):
            self.retry.attempt(lambda: send(path, self.heartbeat))
        part = replace(done, segment=replace(done.segment, path=Path(path.name)))
        self.retry.attempt(lambda: self.journal.append(SegmentDone(key=self.key, part=part)))
        super().keep(done)

    @property
    def _folders(self) -> list[Path]:
        return [self.folder, *([self.mirror] if self.mirror else [])]

    def claim(self, paths: Sequence[Path]) -> None:
        """Note the files about to be written, so that even after a crash they are known to be the batch's."""
        entry = OutputsClaimed(key=self.key, names=tuple(path.name for path in paths))
        self.retry.attempt(lambda: self.journal.append(entry))
        self._claimed = paths

    @contextmanager
    def cleanup_on_failure(self) -> Iterator[None]:
        """On failure keep what a later run can resume; after a ContentError remove everything."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, ContentError):
                self.discard()
            self._abort()
            raise

    def _abort(self) -> None:
        """Remove folders without segments; give up the claim on outputs that were not written."""
        with suppress(OutputError):  # a store that cannot be asked: keep everything
            refresh_placeholder(self.folder)
            if not any(any(folder.glob(f"[!.]*{SEGMENT_SUFFIX}")) for folder in self._folders):
                self.discard()
        claimed, self._claimed = self._claimed, ()
        if claimed and not any(map(os.path.lexists, claimed)):
            with suppress(OutputError):  # then the claim stays, as after a crash
                self.journal.append(OutputsClaimed(key=self.key, names=()))

    def discard(self) -> None:
        """Remove all unfinished work, beside the results, too."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OutputError):
            remove(self.folder, below=True)


@dataclass(eq=False)
class DigestCache:
    """SHA-256 digests of files, cached in the file ``path`` while size and modification time stay the same.

    Files in object storage are downloaded for it, under ``retry``.
    """

    path: Path
    heartbeat: Callable[[], None] = lambda: None
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(0.0))
    _known: dict[str, list[int | str]] = field(default_factory=dict, init=False)

    def __call__(self, path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
        """Return a file's digest; raise MissingFileError if it cannot be read.

        ``on_chunk`` is called instead of ``heartbeat``.
        """
        self.retry.attempt(lambda: needs_download(path))
        name, state = address_of(path) or str(path.absolute()), size_and_mtime(path)
        for reload in (False, True):
            known = self._load() if reload else self._known
            if state is not None and tuple(known.get(name, ())[:2]) == state:
                return str(known[name][2])
        if is_placeholder(path):
            self.retry.attempt(lambda: fetch(path, self.heartbeat))
        digest = file_digest(path, on_chunk=on_chunk or self.heartbeat)
        state = size_and_mtime(path)
        if state is not None:
            known = self._load()
            known[name] = [*state, digest]
            with suppress(OutputError):  # a cache only saves time
                write_text(self.path, json.dumps(known))
        return digest

    def learn(self, history: History) -> None:
        """Add the digests of files in object storage that a journal has noted."""
        for entry in history.entries:
            if isinstance(entry, FileDone):
                self._known |= {address: list(seen) for address, seen in entry.seen.items()}

    def _load(self) -> dict[str, list[int | str]]:
        """Merge in what other workers have written."""
        with suppress(OSError, ValueError, TypeError):
            self._known |= parse_json(self.path.read_bytes())
        return self._known


def model_digest(path: Path, digests: Callable[[Path], str] = file_digest) -> str:
    """Return a model file's SHA-256: from its verified record if that is current, else from ``digests``.

    Both are the same, so that a record written between two runs does not invalidate earlier work.
    """
    record = read_record(path)
    return record.sha256 if record is not None and record.still_describes(path) else digests(path)
