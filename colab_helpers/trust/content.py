"""Content check of a target before any result is delivered: targets with sexual content are refused.

One frame per second and the first frame of each shot are checked while the face index is built. A frame is a
hit if a network, or two of three with ``content_check=vote``, exceeds its threshold; it is doubtful if any
exceeds half of its threshold. A target is refused if

* more than ``MAX_HIT_SHARE`` of its checked frames are hits (the rule of FaceFusion 3);
* ``WINDOW_HITS`` of ``WINDOW_FRAMES`` consecutive checked frames are hits: a scene in a long film;
* any frame is doubtful, and a face in a doubtful frame or of a source has an apparent age below
  ``APPARENT_AGE``.

A single hit does not refuse a longer video, however high its score: classifiers err in single frames. The
check cannot be turned off.
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
"""Years: full age and a margin of seven. The age network's error is not published, and users report children
taken for adults (insightface, issue 2604)."""
CHECK_INTERVAL, CHECK_INTERVAL_AFTER_CUT = 1.0, 0.2
"""Least seconds between two checked frames, and before one that begins a shot."""
MIN_FRAME_SECONDS = 0.1
"""Least seconds that a frame of an animation counts: viewers may be slower than the file says."""
_MAX_TIMES = 20  # times of hits and of doubtful frames that are recorded
CONTENT_NAME = "content.json"
_SEXUAL = mark("sexual content in {hits} of {samples} checked frames: {times}")
_MINOR = mark("a face that seems {age:.0f} years old (below {limit:.0f}) and doubtful content: {times}")


class _CheckState(BaseModel):
    """State of a check so far, in constant size whatever the target's length."""

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
    """Checks a target and decides; a `faces.index.Watcher`.

    Args:
        engine: The loaded networks.
        target: The target, for errors.
        ages: Apparent ages of the sources, in years; None if unknown.
        digest: Computes the SHA-256 of a network's file.
        state_path: File that keeps the state for a later run; None keeps nothing.
        key: Identifies the target's content and frames.
        attempt: Runs the write of that file, retrying if it cannot be written yet.

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
        state_path: Path | None = None,
        key: str = "",
        attempt: Callable[[Callable[[], None]], None] = lambda write: write(),
    ) -> None:
        self._engine, self._target, self._path, self._attempt = engine, target, state_path, attempt
        self._lock = threading.RLock()  # frames are checked in one thread, the state is saved in another
        self._ages = [age for age in ages if age is not None]
        require_networks(engine)
        contracts = content_contracts(engine.settings.content_check)
        self._classifiers = [(contract, engine.content[contract.name]) for contract in contracts]
        self._networks = {name: digest(network.path) for name, network in engine.content.items()}
        parts = [key, self._networks, contracts, CHECK_INTERVAL, CHECK_INTERVAL_AFTER_CUT, WINDOW_FRAMES]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        saved = load_or_none(_CheckState, state_path) if state_path else None
        self._state = saved if saved and saved.key == key else _CheckState(key=key)

    def begin(self) -> None:
        """Raise ContentError if an earlier run refused the target already."""
        self._raise_if_refused(final=self._state.ended)

    @property
    def frames(self) -> int:
        """Number of frames passed to `see`."""
        return self._state.frames

    def see(self, row: FrameFaces, seconds: float) -> None:
        """Check a frame if it is due; raise ContentError if the target is refused whatever follows."""
        with self._lock:
            state = self._state
            if row.frame < state.frames:
                return
            interval = CHECK_INTERVAL_AFTER_CUT if row.cut else CHECK_INTERVAL
            # Also if timestamps go back, so that they hide nothing.
            if state.first is None or not 0 <= seconds - state.last < interval:
                assert row.picture is not None
                first = seconds if state.first is None else state.first
                self._classify(row.picture, seconds - first)
                state.first, state.last = first, seconds
            state.frames = row.frame + 1
            self._raise_if_refused(final=False)

    def keep(self) -> None:
        """Save the state; if it cannot be saved, a later run checks again."""
        if (path := self._path) is not None:
            with self._lock, suppress(OutputError):
                content = io.BytesIO(to_json(self._state).encode())
                self._attempt(lambda: copy_atomically(path, content))

    def end(self) -> None:
        """Decide after the last frame; raise ContentError if the target is refused."""
        with self._lock:
            self._state.ended = True
            self.keep()
            self._raise_if_refused(final=True)

    @property
    def decision(self) -> ContentDecision | None:
        """The decision; None as long as it is open."""
        state = self._state
        refusal = self._refusal(final=state.ended)
        if not refusal and not state.ended:
            return None
        return ContentDecision(
            state="refused" if refusal else "allowed",
            reason=refusal[0] if refusal else "",
            seconds=tuple(state.doubt_at if refusal and not refusal[1] else state.hit_at),
            samples=state.samples,
            hits=state.hits,
            doubts=state.doubts,
            scores=state.scores,
            thresholds={one.name: one.threshold for one, _ in self._classifiers},
            networks=self._networks,
            age=self._lowest_age if state.doubts else None,
        )

    def _classify(self, picture: Picture, seconds: float) -> None:
        scores = {
            one.name: one.score(network.run(classifier_input(picture, one))[0])
            for one, network in self._classifiers
        }
        # "Not below" instead of "above", so that NaN counts as a hit.
        over = [not scores[one.name] <= one.threshold for one, _ in self._classifiers]
        hit = sum(over) >= min(2, len(over))
        doubtful = any(not scores[one.name] <= one.threshold / 2 for one, _ in self._classifiers)
        state, ages = self._state, list[float]()
        if doubtful:
            ages = self._engine.ages(picture, self._engine.analyser.detect(picture))
        state.samples += 1
        state.hits += hit
        state.doubts += doubtful
        state.recent = [*state.recent[1 - WINDOW_FRAMES :], hit]
        state.scores = {n: round(max(score, state.scores.get(n, score)), 4) for n, score in scores.items()}
        for times, counts in ((state.hit_at, hit), (state.doubt_at, doubtful)):
            if counts and len(times) < _MAX_TIMES:
                times.append(round(seconds, 3))
        state.age = min([*ages, *([] if state.age is None else [state.age])], default=None)

    @property
    def _lowest_age(self) -> float | None:
        ages = [*self._ages, *([] if self._state.age is None else [self._state.age])]
        return min(ages, default=None)

    def _refusal(self, *, final: bool) -> tuple[str, bool] | None:
        """Return why the target is refused, and whether for sexual content alone; None if it is not."""
        state, age = self._state, self._lowest_age
        if state.doubts and age is not None and age < APPARENT_AGE:
            times = self._evidence(state.doubt_at, 0.5)
            return tr(_MINOR, age=age, limit=APPARENT_AGE, times=times), False
        if sum(state.recent) >= WINDOW_HITS or (final and state.hits > MAX_HIT_SHARE * state.samples):
            times = self._evidence(state.hit_at, 1.0)
            return tr(_SEXUAL, hits=state.hits, samples=state.samples, times=times), True
        return None

    def _evidence(self, times: list[float], share: float) -> str:
        at = ", ".join(f"{t // 60:.0f}:{t % 60:04.1f}" for t in times[:5]) + (", …" if len(times) > 5 else "")
        limits = {one.name: share * one.threshold for one, _ in self._classifiers}
        scores = ", ".join(f"{name} {self._state.scores[name]:.2f}/{most:g}" for name, most in limits.items())
        return tr("{times} (highest score/threshold: {scores})", times=at, scores=scores)

    def _raise_if_refused(self, *, final: bool) -> None:
        refusal = self._refusal(final=final)
        if refusal is None:
            return
        self.keep()
        remedy = tr("leave this file out: it will not be processed")
        if refusal[1] and self._engine.settings.content_check == "single":
            remedy = tr(
                "leave this file out; if the network is wrong, set content_check=vote, by which two of three "
                "networks have to agree"
            )
        raise ContentError(refusal[0], where=str(self._target), remedy=remedy)


def require_networks(engine: Engine) -> None:
    """Make sure, before any work, that content can be checked; raise ModelError if a network is missing."""
    if engine.missing is not None:
        raise missing_model_error(engine.missing)


def check_pictures(check: ContentCheck, pictures: Iterable[tuple[float, Picture]]) -> None:
    """Check the pictures of a file, each with its time in seconds; raise ContentError if it is refused."""
    time, previous, last_grid = 0.0, 0.0, None
    for number, (seconds, picture) in enumerate(pictures):
        grid = picture.grid()
        cut = last_grid is not None and cv2.norm(grid, last_grid, cv2.NORM_L1) > CUT_LEVELS * grid.size
        # Rounded, so that ten tenths are one second.
        time = round(time + max(seconds - previous, MIN_FRAME_SECONDS if number else 0.0), 3)
        check.see(FrameFaces(number, 0, cut=cut, picture=picture), time)
        previous, last_grid = seconds, grid
    check.end()


def classifier_input(picture: Picture, contract: ContentContract) -> npt.NDArray[np.float32]:
    """Return a classifier's input ``(1, 3, S, S)`` float32: the picture centred on black, normalized."""
    size, small = contract.size, picture.detector_view(contract.size).image
    height, width = small.shape[:2]
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = small
    planes = cv2.dnn.blobFromImage(square, 1 / 255, swapRB=True)
    mean, std = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (contract.mean, contract.std))
    return np.asarray((planes - mean) / std, np.float32)
