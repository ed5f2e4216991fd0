"""Face detection and tracking over the frames of a video, resumed from its face index."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
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
from colab_helpers.pipeline.frames import AnyPicture, FrameJob, Item, Jobs, MeasuredFace

LOOK_AHEAD = DECISION_LAG + SEARCH_INTERVAL + 2 * DETECTION_INTERVAL + 1
"""Most frames that wait for detections in later frames."""
_FLUSH_EVERY = 500
# Cosine similarity to its track's mean from which a face that the detector missed counts as visible.
_MIN_SIMILARITY = 0.25


@dataclass(eq=False)
class FaceTracking:
    """The faces of one video; frames in its index are not searched again.

    Attributes:
        selection: Which faces are changed. If that depends on the whole video, call `find_all` first.
        where: The file, for errors.
        is_intact: Whether decoding lost or repaired nothing while all faces were searched.
    """

    analyser: FaceAnalyser
    index: FaceIndex
    selection: Selection
    where: str
    is_intact: bool = field(default=True, init=False)
    _tracks: list[Track] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._detector = SparseDetector(self.analyser, known=len(self.index))

    @property
    def tracks(self) -> list[Track]:
        """All tracks of the video; empty before its index is complete."""
        if self._tracks is None:
            deque(self.known_faces(), maxlen=0)
        return self._tracks or []

    def _track(self, tracker: Tracker, rows: Iterable[FrameFaces], start: int = 0) -> Iterator[list[Face]]:
        yield from tracker.follow(rows, start=start)
        if self.index.complete:
            self._tracks = tracker.tracks

    @property
    def start(self) -> int:
        """First frame to read to continue the index: the last one it holds."""
        return max(0, len(self.index) - 1)

    def detect(self, job: FrameJob[Item, AnyPicture]) -> FrameJob[Item, AnyPicture]:
        """Detect faces in a frame ahead of `jobs` if it is one always searched; safe in several threads."""
        if not self.index.complete:
            self._detector.detect(job.detected)
        return job

    def find_all(self, jobs: Iterable[FrameJob[Item, AnyPicture]]) -> Iterator[int]:
        """Complete the index and decide who is changed; yield the number of each frame once it is indexed.

        ``jobs`` are the frames from `start` on, after `detect`.
        """
        rows = self._rows(job.detected for job in jobs)
        for frame, _ in enumerate(self._track(Tracker(self._embed, self._index_row), rows, sys.maxsize)):
            if frame % _FLUSH_EVERY == 0:
                self.index.flush()
            yield frame
        self.index.flush()
        self.decide()

    def decide(self) -> None:
        """Decide who is changed, once the index is complete."""
        if self.selection.needs_all_tracks:
            self.selection.decide(self.tracks)

    def jobs(self, jobs: Jobs[Item, AnyPicture], *, stop: int | None = None) -> Jobs[Item, AnyPicture]:
        """Yield frame jobs with their faces; raise MediaError if the video does not match its index.

        Args:
            jobs: Consecutive frames after `detect`, starting at `start` or earlier.
            stop: Frame before which to end; None for the end of the video.
        """
        waiting: deque[FrameJob[Item, AnyPicture]] = deque(islice(jobs, 1))
        start = waiting[0].index if waiting else 0

        def pull() -> Iterator[FrameFaces]:
            yield from [job.detected for job in waiting]
            for job in jobs:
                waiting.append(job)
                yield job.detected

        tracker = Tracker(self._embed, self._index_row)
        tracked = self._track(tracker, self._rows(pull()), start)
        with closing(jobs):
            for frame, faces in enumerate(_hold_until_indexed(self._without_occluded(tracked))):
                if frame < start:
                    continue
                if frame == stop:
                    return
                job = waiting.popleft() if waiting else next(jobs, None)
                if job is None or job.index != frame:
                    raise self._mismatch_error(frame)
                job.selected = self.selection.of(faces)
                job.faces = [face for face in job.selected if self._is_visible(face, job, tracker)]
                job.measured_faces = [] if job.repeats else [MeasuredFace(face) for face in faces]
                yield job
            if waiting or next(jobs, None) is not None:
                raise self._mismatch_error(len(self.index))

    def _mismatch_error(self, frame: int) -> MediaError:
        return MediaError(
            tr("the video does not match its face index from frame {number} on", number=frame),
            where=self.where,
            remedy=tr("delete the folder .faces in the output folder and run again"),
        )

    def known_faces(self) -> Iterator[list[Face]]:
        """Yield the faces of each frame in the index."""
        yield from self._without_occluded(self._track(Tracker(self._embed, self._index_row), self.index))

    @property
    def is_free_of_ai(self) -> bool:
        """Whether the index is complete and no face is changed by AI, so that a label would be false."""
        selected = map(self.selection.of, self.known_faces())
        stats = (FrameStats(actions=self.selection.actions(faces)) for faces in selected)
        return self.index.complete and not any(one.by_ai for one in stats)

    def digests(self, length: int) -> Iterator[str]:
        """Yield a digest of the faces of every ``length`` frames whose faces the index decides."""
        complete, digest = self.index.complete, FacesDigest(self.selection)
        decided = len(self.index) - (0 if complete else DECISION_LAG)
        for frame, faces in enumerate(self.known_faces(), 1):
            if frame > decided:
                return
            digest.add(self.selection.of(faces))
            if frame % length == 0 or (complete and frame == decided):
                yield digest.take()

    def _rows(self, new: Iterable[FrameFaces]) -> Iterator[FrameFaces]:
        """Yield the rows of the index, then those of ``new`` with their detections."""
        for row in self.index:
            self._detector.observe_known(row)
            yield row
        if not self.index.complete:
            yield from self._detector.rows(new)
            self.index.finish()

    def _index_row(self, row: FrameFaces) -> None:
        """Append the row of a frame to the index, once the tracker is done with it."""
        if row.frame == len(self.index):
            self.index.append(row)

    def _is_visible(self, face: Face, job: FrameJob[Item, AnyPicture], tracker: Tracker) -> bool:
        """Return whether a face is not hidden; one that the detector missed is compared with its track.

        A face to anonymize always counts as visible: in doubt it is not shown.
        """
        if not face.filled or face.track is None or job.repeats or self._is_anonymized(face):
            return True  # a repeated picture is changed already
        (embedded,) = self.analyser.embed(job.picture, [face])
        return tracker.tracks[face.track].similarity(embedded) >= _MIN_SIMILARITY

    def _is_anonymized(self, face: Face) -> bool:
        treatment = self.selection.treatment(face.track)
        return treatment is not None and treatment.action != "swap"

    def _without_occluded(self, frames: Iterable[list[Face]]) -> Iterator[list[Face]]:
        """Leave out faces behind somebody else, unless they are anonymized."""
        for faces in frames:
            yield [face for face in faces if not face.behind or self._is_anonymized(face)]

    def _embed(self, row: FrameFaces) -> None:
        picture = row.picture
        if picture is not None:
            embed_missing(row, lambda faces: self.analyser.describe(picture, faces))


def _hold_until_indexed(frames: Iterable[list[Face]]) -> Iterator[list[Face]]:
    """Hold back the faces of frames until the index keeps the detections that decided them.

    The index keeps rows up to a multiple of ``DETECTION_INTERVAL``, of which ``DECISION_LAG`` is one as well.
    So a resumed run never decides anew about frames that were written.
    """
    held: list[list[Face]] = []
    for frame, faces in enumerate(frames):
        held.append(faces)
        if frame % DETECTION_INTERVAL == 0:
            yield from held
            held = []
    yield from held
