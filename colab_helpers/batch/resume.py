"""What earlier runs into the same folder have left: what of it still stands is not done again."""

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
from colab_helpers.language import tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.segments import SEGMENT_SUFFIX, check_segment
from colab_helpers.models.inventory import read_record
from colab_helpers.pipeline import FinishedSegment, SegmentStore, frames_folder
from colab_helpers.settings import Settings
from colab_helpers.trust.manifests import sidecar


@dataclass(eq=False)
class EarlierWork:
    """What a folder's journal vouches for."""

    history: History
    run: str  # names the run; a worker started again goes on with it
    # Digests of the photos that count; ``models`` has those of the model files by name.
    sources: Sequence[str]
    person_filter: Sequence[str]  # digests of the photos that say who is changed, and who never is
    settings: Settings
    models: Mapping[str, str]
    digests: Callable[..., str] = file_digest  # finds out the digest of a target or result
    consent: str = ""  # what is stated today
    # What is done to whom in a target, by the key of its face index, where a map says it; then neither
    # sources nor who is sought count by themselves.
    decisions: Callable[[str], object] | None = None
    _keys: dict[Path, str] = field(default_factory=dict, init=False)

    @property
    def stated(self) -> tuple[str, str]:
        """What manifests made today say of consent and disclosure; neither changes a pixel."""
        return self.consent, self.settings.disclosure

    def key(self, task: Task) -> str:
        """Return the key of the work on a task; MissingFileError where the target cannot be read."""
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
        """Return the key of what is found in a target; MissingFileError where it cannot be read."""
        return index_key(target=self.digests(task.target), settings=self.settings, models=self.models)

    def result(self, task: Task) -> FileReport | None:
        """Return the report of a result that is there, byte for byte, and would come out the same today."""
        done = self.history.result(self.key(task), task.output.name)
        if done is None or done.report.output is None:
            return None
        # The name alone: the folder may be mounted elsewhere today.
        output = task.output.with_name(Path(done.report.output).name)
        wants_frames = self.settings.keep_frames and not is_image(task.target)
        for place in (output, sidecar(output), frames_folder(output) if wants_frames else None):
            if place is not None:
                refresh_placeholder(place)
        frames = not wants_frames or frames_folder(output).is_dir()
        beside, manifest = sidecar(output), done.report.manifest
        if beside and manifest and not (beside.is_file() and self._digest_of(beside) == manifest):
            return None
        if not (frames and output.is_file() and self._digest_of(output) == done.sha256):
            return None
        remarks = [*done.report.fallbacks, *([] if done.run == self.run else [tr(KEPT)])]
        if done.report.mark and done.stated not in (None, self.stated):
            remarks.append(tr("its manifest states the consent and disclosure of the run that made it"))
        here: dict[str, object] = {"output": str(output), "target": str(task.target), "fallbacks": remarks}
        if done.report.frames_folder:
            here["frames_folder"] = str(frames_folder(output))
        return done.report.model_copy(update=here)

    def _digest_of(self, result: Path) -> str:
        """Return the digest of a result; one that has to be brought for it does not stay."""
        waited = is_placeholder(result)
        try:
            return self.digests(result)
        finally:
            if waited:
                unpin(result)

    def made(self, path: Path) -> bool:
        """Whether an earlier run made what lies at a path, and nobody has changed it since."""
        if path.name not in self.history.made:
            return False
        digests = self.history.made[path.name]
        return digests is None or (path.is_file() and self._digest_of(path) in digests)

    def set_aside(self, path: Path) -> str | None:
        """Give a result that somebody changed another name, which a note tells; OutputError if it cannot."""
        if not (self.history.made.get(path.name) and path.is_file()) or self.made(path) or address_of(path):
            return None
        kept = next(other for n in count(2) if not os.path.lexists(other := numbered(path, n)))
        try:
            path.rename(kept)
        except OSError as error:
            raise unwritable_error(path, error) from error
        return tr(
            "{name} was changed after an earlier run had made it: it is kept as {kept}",
            name=path.name,
            kept=kept.name,
        )


@dataclass(eq=False)
class JournaledSegmentStore(SegmentStore):
    """The work on one file as long as it is not finished; segments are written to the local disk."""

    key: str
    target: str  # digest of the target
    # Folder beside the results where each is copied to, if those lie on a mounted drive: the local disk may
    # be gone tomorrow. None where ``folder`` is beside the results already.
    mirror: Path | None
    journal: JournalWriter
    history: History
    retry: RetryPolicy
    index: FaceIndexLocation  # where the target's face index lies
    heartbeat: Callable[[], None] = lambda: None  # called during long copies; may raise to give up
    _claimed: Sequence[Path] = field(default=(), init=False)

    @property
    def bytes(self) -> int:
        """Size of the segments that are there."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*{SEGMENT_SUFFIX}"))

    def face_index(self) -> FaceIndex:
        """Return what earlier runs know of the target's faces, with the other sources, too."""
        return self.index.open(self.retry, self.heartbeat)

    def finished(self) -> list[FinishedSegment]:
        """Return the segments whose files are still what the journal says."""
        noted = self.history.segments(self.key) | {one.segment.number: one for one in super().finished()}
        here = (replace(one, segment=replace(one.segment, path=self._path(one))) for one in noted.values())
        return [part for part in here if self._is_intact(part)]

    def _path(self, part: FinishedSegment) -> Path:
        return self.folder.absolute() / f"{part.segment.number:06d}{SEGMENT_SUFFIX}"

    def _is_intact(self, part: FinishedSegment) -> bool:
        """Whether a segment is as it was noted; it is fetched from the mirror if the local one is gone."""
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
        """Copy a segment to safety if need be, and note it; OutputError where even waiting does not help."""
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

    def claim(self, places: Sequence[Path]) -> None:
        """Note what is about to be made, so that it is known for our own even after a crash."""
        entry = OutputsClaimed(key=self.key, names=tuple(place.name for place in places))
        self.retry.attempt(lambda: self.journal.append(entry))
        self._claimed = places

    @contextmanager
    def cleanup_on_failure(self) -> Iterator[None]:
        """Leave of work that breaks off what a later run can go on with, and nothing of what is refused."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, ContentError):
                self.discard()
            self._abort()
            raise

    def _abort(self) -> None:
        """A place where nothing was made is noted as the user's."""
        with suppress(OutputError):  # of a store: nobody knows then, and all stays
            refresh_placeholder(self.folder)
            if not any(any(folder.glob(f"[!.]*{SEGMENT_SUFFIX}")) for folder in self._folders):
                self.discard()
        claimed, self._claimed = self._claimed, ()
        if claimed and not any(map(os.path.lexists, claimed)):
            with suppress(OutputError):  # as after a crash
                self.journal.append(OutputsClaimed(key=self.key, names=()))

    def discard(self) -> None:
        """Remove everything: the work is finished, or cannot be."""
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OutputError):
            remove(self.folder, below=True)


@dataclass(eq=False)
class DigestCache:
    """SHA-256 of files, remembered at ``path`` as long as their size and time of change stay the same.

    What lies in object storage is brought for it; ``retry`` waits for that.
    """

    path: Path
    heartbeat: Callable[[], None] = lambda: None
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(0.0))
    _known: dict[str, list[int | str]] = field(default_factory=dict, init=False)

    def __call__(self, path: Path, *, on_chunk: Callable[[], None] | None = None) -> str:
        """Return the digest of a file; MissingFileError where it cannot be read.

        ``on_chunk`` is called instead of ``heartbeat``.
        """
        self.retry.attempt(lambda: needs_download(path))
        name, state = address_of(path) or str(path.absolute()), size_and_mtime(path)
        for known in self._looked_up():
            if state is not None and tuple(known.get(name, ())[:2]) == state:
                return str(known[name][2])
        if is_placeholder(path):
            self.retry.attempt(lambda: fetch(path, self.heartbeat))
        digest = file_digest(path, on_chunk=on_chunk or self.heartbeat)
        state = size_and_mtime(path)
        if state is not None:
            known = self._loaded()
            known[name] = [*state, digest]
            with suppress(OutputError):  # it only saves time
                write_text(self.path, json.dumps(known))
        return digest

    def learn(self, history: History) -> None:
        """Know what a journal tells of files in object storage."""
        for entry in history.entries:
            if isinstance(entry, FileDone):
                self._known |= {address: list(seen) for address, seen in entry.seen.items()}

    def _looked_up(self) -> Iterator[dict[str, list[int | str]]]:
        yield self._known
        yield self._loaded()

    def _loaded(self) -> dict[str, list[int | str]]:
        """Read what other workers have found, too."""
        with suppress(OSError, ValueError, TypeError):
            self._known |= parse_json(self.path.read_bytes())
        return self._known


def model_digest(path: Path, digests: Callable[[Path], str] = file_digest) -> str:
    """Return a model file's SHA-256: the verified one of its record, else that which ``digests`` finds.

    The same either way: a record that is written between two runs must not make all work be done again.
    """
    record = read_record(path)
    return record.sha256 if record is not None and record.still_describes(path) else digests(path)
