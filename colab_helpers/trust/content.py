"""What a target shows, looked at before anything of it is delivered: sexual content is never worked on.

Looked at is one frame a second and the first of each shot, as the face index is made. Refused is a target

* of whose frames looked at more than ``MAX_HIT_SHARE`` hit, the rule of FaceFusion 3; in a picture, the only
one;
* of which `WINDOW_FRAMES` frames looked at in a row have ``WINDOW_HITS`` that hit: a scene in a long film;
* with a face, in it or put in, that seems younger than ``APPARENT_AGE`` in a frame that is only doubtful:
  half of a threshold is enough there.

A single frame that hits, however surely, is no reason in a longer video: single frames are where such
networks err. No switch turns this off.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, NonNegativeInt

from colab_helpers.errors import ContentError, OutputError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FrameFaces
from colab_helpers.faces.sparse_detector import CUT_LEVELS
from colab_helpers.files import copy_atomically, load_or_none, sha256_of, to_json
from colab_helpers.language import mark, tr
from colab_helpers.media.picture import Picture
from colab_helpers.models.catalog import missing_model_error
from colab_helpers.models.contracts import ContentContract, content_contracts
from colab_helpers.trust.records import ContentDecision

MAX_HIT_SHARE = 0.1
WINDOW_FRAMES, WINDOW_HITS = 20, 10
APPARENT_AGE = 25.0
"""Years: of age, and seven more as a margin. The network's maker publishes no error, and users report
children taken for adults (insightface, issue 2604)."""
CHECK_INTERVAL, CHECK_INTERVAL_AFTER_CUT = 1.0, 0.2
"""Seconds from one frame that is looked at to the next, and to one that begins a shot."""
MIN_FRAME_SECONDS = 0.1
"""Seconds that a picture of an animation counts at least: who shows one may be slower than its file says."""
_MAX_TIMES = 20
CONTENT_NAME = "content.json"


class _Seen(BaseModel):
    """What a check has seen so far; small whatever the target's length."""

    key: str = ""
    frames: NonNegativeInt = 0
    ended: bool = False
    first: float | None = None
    last: float = 0.0
    samples: int = 0
    hits: int = 0
    doubts: int = 0
    recent: list[bool] = []
    hit_at: list[float] = []
    doubt_at: list[float] = []
    scores: dict[str, float] = {}
    age: float | None = None


class ContentCheck:
    """Looks at a target and decides; a `faces.index.Watcher`.

    Args:
        engine: Its networks are asked.
        target: For messages.
        ages: How old those who are put in seem, in years; None of whom nobody knows.
        digest: Finds out the SHA-256 of a network's file.
        place: Where what was seen is kept, so that it is not asked again; None keeps nothing.
        key: Names the target's bytes and frames.
        attempt: Writes what is to be kept, and waits where it cannot be written yet.

    Raises:
        ModelError: A network is missing.
    """

    def __init__(
        self,
        engine: Engine,
        target: Path | str,
        ages: Iterable[float | None] = (),
        *,
        digest: Callable[[Path], str] = sha256_of,
        place: Path | None = None,
        key: str = "",
        attempt: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> None:
        self._engine, self._target, self._place, self._attempt = engine, target, place, attempt
        self._lock = threading.RLock()  # frames are shown in one thread, what was seen is kept in another
        self._ages = [age for age in ages if age is not None]
        require_networks(engine)
        contracts = content_contracts(engine.settings.content_check)
        self._asked = [(one, engine.content[one.name]) for one in contracts]
        self._networks = {name: digest(network.path) for name, network in engine.content.items()}
        asked = [key, self._networks, contracts, CHECK_INTERVAL, CHECK_INTERVAL_AFTER_CUT, WINDOW_FRAMES]
        self._seen = self._kept(hashlib.sha256(json.dumps(asked).encode()).hexdigest())

    def begin(self) -> None:
        """Refuse a target that was seen to be so before; ContentError."""
        self._judge(final=self._seen.ended)

    def _kept(self, key: str) -> _Seen:
        kept = load_or_none(_Seen, self._place) if self._place is not None else None
        return kept if kept is not None and kept.key == key else _Seen(key=key)

    @property
    def frames(self) -> int:
        """How many frames it has seen."""
        return self._seen.frames

    def see(self, row: FrameFaces, seconds: float) -> None:
        """Look at a frame, if it is its turn; ContentError where the target is refused, whatever comes."""
        with self._lock:
            seen = self._seen
            if row.frame < seen.frames:
                return
            # A clock that goes back hides nothing.
            if seen.first is None or not 0 <= seconds - seen.last < (
                CHECK_INTERVAL_AFTER_CUT if row.cut else CHECK_INTERVAL
            ):
                assert row.picture is not None
                first = seconds if seen.first is None else seen.first
                self._look(row.picture, seconds - first)
                seen.first, seen.last = first, seconds
            seen.frames = row.frame + 1
            self._judge(final=False)

    def keep(self) -> None:
        """Keep what was seen; where that cannot be done, a later run looks again."""
        if (place := self._place) is not None:
            with self._lock, suppress(OutputError):
                seen = io.BytesIO(to_json(self._seen).encode())
                self._attempt(lambda: copy_atomically(place, seen))

    def end(self) -> None:
        """Decide, once all was seen; ContentError where the target is refused."""
        with self._lock:
            self._seen.ended = True
            self.keep()
            self._judge(final=True)

    @property
    def decision(self) -> ContentDecision | None:
        """What follows; None as long as that is open."""
        seen = self._seen
        refused = self._reason(final=seen.ended)
        if not refused and not seen.ended:
            return None
        return ContentDecision(
            state="refused" if refused else "allowed",
            reason=refused[0] if refused else "",
            seconds=tuple(seen.doubt_at if refused and not refused[1] else seen.hit_at),
            samples=seen.samples,
            hits=seen.hits,
            doubts=seen.doubts,
            scores=seen.scores,
            thresholds={one.name: one.threshold for one, _ in self._asked},
            networks=self._networks,
            age=self._youngest if seen.doubts else None,
        )

    def _look(self, picture: Picture, seconds: float) -> None:
        scores = {
            one.name: one.score(network.run(classifier_input(picture, one))[0])
            for one, network in self._asked
        }
        # Not above, so that what is no number does not pass.
        over = [not scores[one.name] <= one.threshold for one, _ in self._asked]
        hit = sum(over) >= min(2, len(over))
        doubt = any(not scores[one.name] <= one.threshold / 2 for one, _ in self._asked)
        seen, ages = self._seen, list[float]()
        if doubt:
            ages = self._engine.ages(picture, self._engine.analyser.detect(picture))
        seen.samples += 1
        seen.hits += hit
        seen.doubts += doubt
        seen.recent = [*seen.recent[1 - WINDOW_FRAMES :], hit]
        seen.scores = {n: round(max(score, seen.scores.get(n, score)), 4) for n, score in scores.items()}
        for times, counts in ((seen.hit_at, hit), (seen.doubt_at, doubt)):
            if counts and len(times) < _MAX_TIMES:
                times.append(round(seconds, 3))
        seen.age = min([*ages, *([] if seen.age is None else [seen.age])], default=None)

    @property
    def _youngest(self) -> float | None:
        ages = [*self._ages, *([] if self._seen.age is None else [self._seen.age])]
        return min(ages, default=None)

    def _reason(self, *, final: bool) -> tuple[str, bool] | None:
        """Why the target is refused, and whether for sexual content alone; None where it is not."""
        seen, young = self._seen, self._youngest
        if seen.doubts and young is not None and young < APPARENT_AGE:
            text = mark(
                "a face that seems {age:.0f} years old (below {limit:.0f}) and doubtful content: {times}"
            )
            return tr(text, age=young, limit=APPARENT_AGE, times=self._times(seen.doubt_at, 0.5)), False
        if sum(seen.recent) >= WINDOW_HITS or (final and seen.hits > MAX_HIT_SHARE * seen.samples):
            text = mark("sexual content in {hits} of {samples} frames that were looked at: {times}")
            return tr(text, hits=seen.hits, samples=seen.samples, times=self._times(seen.hit_at, 1.0)), True
        return None

    def _times(self, times: list[float], share: float) -> str:
        at = ", ".join(f"{t // 60:.0f}:{t % 60:04.1f}" for t in times[:5]) + (", …" if len(times) > 5 else "")
        limits = {one.name: share * one.threshold for one, _ in self._asked}
        scores = ", ".join(f"{name} {self._seen.scores[name]:.2f}/{most:g}" for name, most in limits.items())
        return tr("{times} (highest score/threshold: {scores})", times=at, scores=scores)

    def _judge(self, *, final: bool) -> None:
        refused = self._reason(final=final)
        if refused is None:
            return
        self.keep()
        remedy = tr("leave this file out: it is not worked on")
        if refused[1] and self._engine.settings.content_check == "single":
            remedy = tr(
                "leave this file out; where the network is wrong, content_check=vote asks three, "
                "of which two have to agree"
            )
        raise ContentError(refused[0], where=str(self._target), remedy=remedy)


def require_networks(engine: Engine) -> None:
    """Make sure, before any work, that content can be checked; ModelError where a network is missing."""
    if engine.missing is not None:
        raise missing_model_error(engine.missing)


def check_pictures(check: ContentCheck, pictures: Iterable[tuple[float, Picture]]) -> None:
    """Look at the pictures of a file, each with its second; ContentError where it is refused."""
    shown, before, last = 0.0, 0.0, None
    for number, (seconds, picture) in enumerate(pictures):
        grid = picture.grid()
        cut = last is not None and cv2.norm(grid, last, cv2.NORM_L1) > CUT_LEVELS * grid.size
        # Rounded, so that ten of a tenth are a second.
        shown = round(shown + max(seconds - before, MIN_FRAME_SECONDS if number else 0.0), 3)
        check.see(FrameFaces(number, 0, cut=cut, picture=picture), shown)
        before, last = seconds, grid
    check.end()


def classifier_input(picture: Picture, contract: ContentContract) -> npt.NDArray[np.float32]:
    """Return what a classifier is shown: ``(1, 3, S, S)``, the picture in the middle of black."""
    size, small = contract.size, picture.detector_view(contract.size).image
    height, width = small.shape[:2]
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = small
    planes = cv2.dnn.blobFromImage(square, 1 / 255, swapRB=True)
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (contract.mean, contract.std))
    return np.asarray((planes - mean) / std, np.float32)
