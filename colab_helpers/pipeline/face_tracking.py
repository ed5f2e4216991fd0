"""A video's frames with the faces that are to be changed, found or taken from its index."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

from colab_helpers.errors import MediaError
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.index import DETECTION_INTERVAL, FaceIndex, FrameFaces
from colab_helpers.faces.quality import FrameStats
from colab_helpers.faces.selection import FacesDigest, Selection
from colab_helpers.faces.sparse_detector import SEARCH_INTERVAL, SparseDetector
from colab_helpers.faces.tracks import DECISION_LAG, Track, Tracker, embed_missing
from colab_helpers.faces.types import Face
from colab_helpers.language import tr
from colab_helpers.pipeline.frames import AnyPicture, FrameJob, Item, MeasuredFace

LOOK_AHEAD = DECISION_LAG + SEARCH_INTERVAL + 2 * DETECTION_INTERVAL + 1
"""Frames that may wait for what is found after them."""
_FLUSH_EVERY = 500
# Cosine to its track's mean from which a face is there although the detector missed it.
_SEEN = 0.25


@dataclass(eq=False)
class FaceTracking:
    """The faces of one video; those of frames that its index knows are not looked for.

    Attributes:
        selection: Which of them are changed. Where that depends on the whole video, `find_all` comes first.
        where: Its file, for messages.
        is_intact: Whether nothing of it was lost or repaired, as far as anybody saw when its faces were
            found.
    """

    analyser: FaceAnalyser
    index: FaceIndex
    selection: Selection
    where: str
    is_intact: bool = field(default=True, init=False)
    _tracks: list[Track] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._finder = SparseDetector(self.analyser, known=len(self.index))

    @property
    def tracks(self) -> list[Track]:
        """All its tracks; none before its index is complete."""
        if self._tracks is None:
            deque(self.known_faces(), maxlen=0)
        return self._tracks or []

    def _followed(self, tracker: Tracker, rows: Iterable[FrameFaces], start: int = 0) -> Iterator[list[Face]]:
        yield from tracker.follow(rows, start=start)
        if self.index.complete:
            self._tracks = tracker.tracks

    @property
    def begin(self) -> int:
        """First frame to be read in order to find faces: the one before the first that is not known."""
        return max(0, len(self.index) - 1)

    def look(self, work: FrameJob[Item, AnyPicture]) -> FrameJob[Item, AnyPicture]:
        """Look at a frame that is seen in any case; may run in several threads."""
        if not self.index.complete:
            self._finder.look(work.seen)
        return work

    def find_all(self, works: Iterable[FrameJob[Item, AnyPicture]]) -> Iterator[int]:
        """Complete the index and decide who is changed; yield the number of each frame that is known.

        Args:
            works: The frames from `begin` on, after `look`.
        """
        rows = self._rows(work.seen for work in works)
        for frame, _ in enumerate(self._followed(Tracker(self._embed, self._keep), rows, sys.maxsize)):
            if frame % _FLUSH_EVERY == 0:
                self.index.flush()
            yield frame
        self.index.flush()
        self.decide()

    def decide(self) -> None:
        """Decide who is changed, once all faces are known."""
        if self.selection.needs_all_tracks:
            self.selection.decide(self.tracks)

    def works(
        self, works: Generator[FrameJob[Item, AnyPicture], None, None], *, stop: int | None = None
    ) -> Generator[FrameJob[Item, AnyPicture], None, None]:
        """Yield frames with their faces.

        Args:
            works: Frames after `look`, from any on, but no later than `begin`.
            stop: The frame before which to end; None: at the video's end.

        Raises:
            MediaError: The video does not have the frames that its index knows.
        """
        waiting: deque[FrameJob[Item, AnyPicture]] = deque(islice(works, 1))
        start = waiting[0].index if waiting else 0

        def pulled() -> Iterator[FrameFaces]:
            yield from [work.seen for work in waiting]
            for work in works:
                waiting.append(work)
                yield work.seen

        tracker = Tracker(self._embed, self._keep)
        followed = self._followed(tracker, self._rows(pulled()), start)
        with closing(works):
            for frame, faces in enumerate(_kept(self._present(followed))):
                if frame < start:
                    continue
                if frame == stop:
                    return
                work = waiting.popleft() if waiting else next(works, None)
                if work is None or work.index != frame:
                    raise self._other_video(frame)
                work.chosen = self.selection.of(faces)
                work.faces = [face for face in work.chosen if self._is_seen(face, work, tracker)]
                work.shown = [] if work.repeats else [MeasuredFace(face) for face in faces]
                yield work
            if waiting or next(works, None) is not None:
                raise self._other_video(len(self.index))

    def _other_video(self, frame: int) -> MediaError:
        return MediaError(
            tr("the video has other frames than its face index knows, from frame {number} on", number=frame),
            where=self.where,
            remedy=tr("delete the folder .faces beside the results and run again"),
        )

    def known_faces(self) -> Iterator[list[Face]]:
        """Yield the faces of each frame that the index knows."""
        yield from self._present(self._followed(Tracker(self._embed, self._keep), self.index))

    @property
    def is_free_of_ai(self) -> bool:
        """Whether it is known already that networks change nobody, so that a label would not be true."""
        chosen = (self.selection.of(seen) for seen in self.known_faces())
        made = (FrameStats(actions=self.selection.actions(faces)) for faces in chosen)
        return self.index.complete and not any(one.by_ai for one in made)

    def digests(self, length: int) -> Iterator[str]:
        """Yield a digest of the faces of every ``length`` frames, as far as the index decides them."""
        digest, known = (
            FacesDigest(self.selection),
            len(self.index) - (0 if self.index.complete else DECISION_LAG),
        )
        for frame, faces in enumerate(self.known_faces(), 1):
            if frame > known:
                return
            digest.add(self.selection.of(faces))
            if frame % length == 0 or (self.index.complete and frame == known):
                yield digest.take()

    def _rows(self, unknown: Iterable[FrameFaces]) -> Iterator[FrameFaces]:
        """Yield what the index knows, then what is found."""
        for row in self.index:
            self._finder.observe_known(row)
            yield row
        if not self.index.complete:
            yield from self._finder.rows(unknown)
            self.index.finish()

    def _keep(self, row: FrameFaces) -> None:
        """Add what was found in a frame to the index, once the tracker is done with it."""
        if row.frame == len(self.index):
            self.index.append(row)

    def _is_seen(self, face: Face, work: FrameJob[Item, AnyPicture], tracker: Tracker) -> bool:
        """Whether a face that the detector missed is there, and not hidden behind something.

        Who is made unrecognisable is never shown in doubt.
        """
        if not face.filled or face.track is None or work.repeats or self._hides(face):
            return True  # what repeats is changed already
        (seen,) = self.analyser.embed(work.picture, [face])
        return tracker.tracks[face.track].similarity(seen) >= _SEEN

    def _hides(self, face: Face) -> bool:
        treatment = self.selection.treatment(face.track)
        return treatment is not None and treatment.action != "swap"

    def _present(self, frames: Iterable[list[Face]]) -> Iterator[list[Face]]:
        """Leave out who is behind somebody else, unless nothing of them may be seen."""
        for faces in frames:
            yield [face for face in faces if not face.behind or self._hides(face)]

    def _embed(self, row: FrameFaces) -> None:
        picture = row.picture
        if picture is not None:
            embed_missing(row, lambda faces: self.analyser.describe(picture, faces))


def _kept(frames: Iterable[list[Face]]) -> Iterator[list[Face]]:
    """Yield the faces of frames once the index will keep what decided them: it does up to every fourth frame.

    So nothing is written that a run taken up again decides anew; ``DECISION_LAG`` is a multiple of
    ``DETECTION_INTERVAL``.
    """
    held: list[list[Face]] = []
    for frame, faces in enumerate(frames):
        held.append(faces)
        if frame % DETECTION_INTERVAL == 0:
            yield from held
            held = []
    yield from held
