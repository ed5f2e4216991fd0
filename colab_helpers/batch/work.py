"""Unfinished work on one video: its segments on disk, vouched for by the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.batch.journal import History, Journal, SegmentDone
from colab_helpers.batch.places import Patience, copy_in, copy_out, remove_folder
from colab_helpers.errors import MediaError, OutputError
from colab_helpers.media.segments import SUFFIX, Segment, check_segment
from colab_helpers.pipeline import FinishedSegment


@dataclass(eq=False)
class FileWork:
    """A video's segments; a ``pipeline.SegmentStore``.

    Attributes:
        key: Key of the work, from ``keys.work_key``.
        place: Folder on the local disk where segments are written.
        mirror: Folder beside the results where each is copied to, if those lie on a mounted drive: the
            local disk may be gone tomorrow. None where ``place`` is beside the results already.
        journal: Where finished segments are noted.
        history: The journal as this run found it.
        patience: Waits for the mounted drive.
        beat: Called during long copies.
        on_kept: Called with the number of frames of each segment that is safe.
    """

    key: str
    place: Path
    mirror: Path | None
    journal: Journal
    history: History
    patience: Patience
    beat: Callable[[], None] = lambda: None
    on_kept: Callable[[int], None] = lambda _frames: None

    @property
    def folder(self) -> Path:
        """Where segments are written."""
        return self.place

    def finished(self) -> list[FinishedSegment]:
        """Segments whose files are still what the journal says, up to the first gap."""
        parts: list[FinishedSegment] = []
        noted = self.history.segments(self.key)
        while (entry := noted.get(len(parts))) is not None:
            part = self._check(entry)
            if part is None:
                break
            parts.append(part)
        return parts

    def keep(self, done: FinishedSegment) -> None:
        """Copy a segment to safety if need be, and note it.

        Raises:
            OutputError: It cannot be copied or noted, even after waiting.
        """
        segment = done.segment
        if self.mirror is not None:
            target = self.mirror / segment.path.name
            self.patience.attempt(lambda: copy_out(segment.path, target, beat=self.beat))
        entry = SegmentDone(
            key=self.key,
            number=segment.number,
            start=segment.start,
            stop=segment.stop,
            length=done.length,
            first_pts=segment.first_pts,
            last_pts=segment.last_pts,
            end_pts=segment.end_pts,
            bytes=segment.bytes,
            sha256=segment.sha256,
            encoder=done.encoder,
            provider=done.provider,
            measured=done.measured,
            notes=done.notes,
            times_kept=done.times_kept,
        )
        self.patience.attempt(lambda: self.journal.append(entry))
        self.on_kept(segment.frames)

    def discard_unless_begun(self) -> None:
        """Remove everything if there is no finished segment that a later run could go on with."""
        if not any(path.suffix == SUFFIX and path.name[0] != "." for path in self.place.glob("*")):
            self.discard()

    def discard(self) -> None:
        """Remove everything: the work is finished, or cannot be."""
        remove_folder(self.place)
        if self.mirror is not None:
            remove_folder(self.mirror)

    def _check(self, entry: SegmentDone) -> FinishedSegment | None:
        """The segment, fetched from the mirror if the local one is gone; None if it does not stand."""
        segment = Segment(
            path=self.place.absolute() / f"{entry.number:06d}{SUFFIX}",
            number=entry.number,
            start=entry.start,
            frames=entry.stop - entry.start,
            first_pts=entry.first_pts,
            last_pts=entry.last_pts,
            end_pts=entry.end_pts,
            bytes=entry.bytes,
            sha256=entry.sha256,
        )
        self.beat()
        try:
            if self.mirror is not None and not segment.path.is_file():
                copy_in(self.mirror / segment.path.name, segment.path, beat=self.beat)
            check_segment(segment)
        except (MediaError, OutputError):
            return None
        return FinishedSegment(
            segment,
            entry.length,
            entry.measured,
            entry.encoder,
            entry.provider,
            entry.notes,
            entry.times_kept,
        )
