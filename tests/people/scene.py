"""Clips with exact ground truth in memory: rendered people over moving backgrounds, with audio.

A :class:`Scene` renders any frame independently, together with the true result of a swap: the same scene,
pose, expression, light, cover and noise with another inner face (see :mod:`tests.people.looks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from tests.people import actors
from tests.people.actors import U8, Head, Layer, Light, Pose
from tests.people.background import board, random_background
from tests.people.covers import Cover
from tests.people.covers import cover as draw_cover
from tests.people.layers import add_change, overlap, visibility
from tests.people.looks import IDENTITIES, Look, look_of
from tests.people.paint import F32, Expression

SAMPLE_RATE = 48_000
CLICK_SECONDS = 0.025
NOISE_DEVIATION = 1.8


@dataclass(frozen=True)
class FaceTruth:
    who: str  # owner of the body, also in a swapped frame
    box: F32  # (4,) xyxy frame pixels; may extend beyond the frame
    kps: F32  # (5, 2) frame pixels: eyes, nose, corners of the mouth, image-left first
    visible: float  # 0..1, share of the inner face neither covered nor outside the frame
    roll: float  # degrees, clockwise on the screen

    def as_json(self) -> dict[str, object]:
        """Return JSON values for the truth file."""
        return {
            "who": self.who,
            "box": [round(float(v), 2) for v in self.box],
            "kps": [[round(float(v), 2) for v in point] for point in self.kps],
            "visible": round(self.visible, 3),
            "roll": round(self.roll, 2),
        }


@dataclass(frozen=True)
class Rendered:
    """A frame (BGR uint8), its ground truth and true swaps."""

    frame: U8
    faces: tuple[FaceTruth, ...]  # at least partly visible, far ones first
    swapped: Mapping[str, U8]  # by name, the frame with every inner face replaced by that character's
    mask: F32  # (H, W) 0..1, visible inner faces
    covered: F32  # (H, W) 0..1, objects and boards in front of faces


@dataclass(frozen=True)
class _Track:
    """Motion of one person: base position and phases, drawn from the seed."""

    who: str
    look: Look
    x: float
    y: float
    scale: float
    side: int
    leaves: bool
    phase: tuple[float, ...]


def _wave(t: float, period: float, phase: float) -> float:
    return math.sin(2 * math.pi * (t / period + phase))


def _bump(u: float, start: float, end: float) -> float:
    inside = start < u < end
    return math.sin(math.pi * (u - start) / (end - start)) ** 2 if inside else 0.0


def _ease(u: float, start: float, end: float) -> float:
    """Smoothstep from 0 to 1 between two times."""
    along = min(max((u - start) / (end - start), 0.0), 1.0)
    return along * along * (3 - 2 * along)


class Scene:
    """A clip in memory; people, motion and background depend on the seed.

    ``cast`` names the people instead of a seeded choice. With ``crossing`` they change places once, the
    larger in front of the smaller, and nobody leaves. ``cover`` is an object in front of every face.
    """

    def __init__(
        self,
        seed: int = 0,
        size: tuple[int, int] = (640, 360),
        fps: Fraction = Fraction(25),
        seconds: float = 4.0,
        people: int = 2,
        *,
        cast: Sequence[str] | None = None,
        crossing: bool = False,
        cover: Cover | None = None,
    ) -> None:
        self.seed, self.size, self.fps = seed, size, fps
        self.frames = max(round(seconds * fps), 1)
        self.seconds = float(self.frames / fps)
        rng = np.random.default_rng([seed, 20_000])
        names = list(cast) if cast is not None else list(rng.permutation(list(IDENTITIES)))[:people]
        self.cast = tuple(str(name) for name in names)
        self._period = min(max(self.seconds, 2.0), 8.0)
        self._crossing = crossing
        self._cover_kind = cover
        self._tracks = [self._track(rng, k, name) for k, name in enumerate(self.cast)]
        self._light = _random_light(rng)
        self._drift = rng.random(4)
        self._board = rng.random(6)

    def _track(self, rng: np.random.Generator, k: int, who: str) -> _Track:
        width, height = self.size
        count = len(self.cast)
        room = min(0.24 * height, 0.3 * width / count)
        x = width * (k + 0.5) / count
        side = 1 if x >= width / 2 and not (count == 1 and rng.random() < 0.5) else -1
        return _Track(
            who,
            look_of(who),
            x,
            height * rng.uniform(0.38, 0.46),
            room * rng.uniform(0.78, 1.0),
            side,
            k == count - 1,
            tuple(rng.random(10)),
        )

    def _pose(self, track: _Track, t: float) -> Pose:
        p, width = track.phase, self.size[0]
        cycle = (t / self._period) % 1.0
        leaving = _bump(cycle, 0.62, 0.98) if track.leaves and not self._crossing else 0.0
        x = track.x + 0.05 * width * _wave(t, 5.3, p[0])
        if self._crossing:
            x += (width - 2 * track.x) * _ease(cycle, 0.3, 0.8)
        out = (width + 2 * track.scale - x) if track.side > 0 else -(x + 2 * track.scale)
        return Pose(
            x=x + out * min(1.25 * leaving, 1.0),
            y=track.y + 0.1 * track.scale * _wave(t, 2.9, p[1]),
            scale=track.scale * (1 + 0.08 * _wave(t, 4.1, p[2])),
            yaw=34 * _wave(t, 3.7, p[3]),
            pitch=9 * _wave(t, 3.1, p[4]),
            roll=19 * _wave(t, 4.7, p[5]),
        )

    def _expression(self, track: _Track, t: float) -> Expression:
        p = track.phase
        talk = max(_wave(t, 0.37, p[6]), 0.0) * (0.5 + 0.5 * _wave(t, 2.3, p[7]))
        return Expression(
            open=talk,
            smile=0.4 + 0.5 * _wave(t, 3.3, p[8]),
            blink=_bump((t / 2.1 + p[9]) % 1.0, 0.0, 0.09),
            gaze_x=0.8 * _wave(t, 1.9, p[0]),
            gaze_y=0.4 * _wave(t, 2.7, p[1]),
            brows=0.6 * _wave(t, 2.5, p[2]),
        )

    def flashes(self) -> tuple[int, ...]:
        """Return the first frame of each flash; an audio click coincides with it."""
        first = min(round(0.5 * self.fps), self.frames - 1)
        step = max(round(self.fps), 4)
        return tuple(range(first, self.frames, step))

    def flash_box(self) -> tuple[int, int, int, int]:
        height = self.size[1]
        edge, margin = max(round(0.06 * height), 8), max(round(0.015 * height), 2)
        return margin, height - margin - edge, margin + edge, height - margin

    def render(self, i: int, swap_to: str | None = None) -> tuple[U8, tuple[FaceTruth, ...]]:
        """Render frame ``i``, with every inner face replaced by that of ``swap_to``; also the faces."""
        result = self.render_all(i, [swap_to] if swap_to else [])
        return (result.swapped[swap_to] if swap_to else result.frame), result.faces

    def render_all(self, i: int, swaps: Sequence[str] = ()) -> Rendered:
        """Render a frame with ground truth and any number of true swaps, sharing common work."""
        t = float(i / self.fps)
        canvas = self._background(t)
        heads, layers = self._people(t)
        foreground = [*self._covers(heads, t), self._foreground(t)]
        layers += foreground
        for layer in layers:
            if layer is not None:
                actors.composite(canvas, layer)
        mask, clear_view = np.zeros(canvas.shape[:2], np.float32), np.ones(canvas.shape[:2], np.float32)
        for layer in foreground:
            shared = overlap(layer, Layer(0, 0, mask, mask)) if layer is not None else None
            if layer is not None and shared is not None:
                clear_view[shared[1]] *= 1 - layer.alpha[shared[0]]
        faces, seen = [], []
        for track, head, at in heads:
            clear = visibility(layers, at, self.size)
            seen.append(clear)
            truth = _truth(track, head, layers[at], clear, mask, self.size)
            faces += [truth] if truth.visible > 0 else []
        swapped = {who: self._finish(self._swapped(canvas, heads, seen, who), i) for who in swaps}
        return Rendered(self._finish(canvas, i), tuple(faces), swapped, np.clip(mask, 0, 1), 1 - clear_view)

    def _people(self, t: float) -> tuple[list[tuple[_Track, Head, int]], list[Layer | None]]:
        heads: list[tuple[_Track, Head, int]] = []
        layers: list[Layer | None] = []
        for track, pose in sorted(((k, self._pose(k, t)) for k in self._tracks), key=lambda kp: kp[1].scale):
            if not -2.2 * pose.scale < pose.x < self.size[0] + 2.2 * pose.scale:
                continue
            head = Head(track.look, pose, self._expression(track, t), self._light)
            layers += [head.behind(), actors.torso(track.look, pose, self.size, self._light)]
            heads.append((track, head, len(layers)))
            layers.append(head.draw())
        return heads, layers

    def _covers(self, heads: list[tuple[_Track, Head, int]], t: float) -> list[Layer | None]:
        """Objects in front of faces, moving slightly relative to them."""
        if self._cover_kind is None:
            return []
        layers: list[Layer | None] = []
        for track, head, _ in heads:
            draw = (
                np.random.default_rng([self.seed, 40_000, self._tracks.index(track)])
                .random(6)
                .astype(np.float32)
            )
            shift = (0.12 * _wave(t, 1.7, track.phase[0]), 0.08 * _wave(t, 1.3, track.phase[1]))
            kps = actors.landmarks(track.look.body, head.pose, head.act)
            place = (0.0, 0.0) if self._cover_kind == "glasses" else shift
            layers.append(draw_cover(self._cover_kind, kps, head.pose.scale, draw, place))
        return layers

    def _swapped(self, canvas: U8, heads: list[tuple[_Track, Head, int]], seen: list[F32], who: str) -> U8:
        out = canvas.copy()
        for (track, head, _), clear in zip(heads, seen, strict=True):
            if clear.size:
                add_change(out, head.change(track.look.with_face_of(look_of(who))), clear[head.inner])
        return out

    def _finish(self, canvas: U8, i: int) -> U8:
        """Add flash and noise, equal for a frame and its swaps."""
        if any(0 <= i - start < 2 for start in self.flashes()):
            x0, y0, x1, y1 = self.flash_box()
            canvas[y0:y1, x0:x1] = (250, 252, 255)
        tile = _noise_tile(self.size)
        dy, dx = np.random.default_rng([self.seed, i]).integers(0, 64, 2)
        noise = tile[dy : dy + self.size[1], dx : dx + self.size[0]]
        return np.asarray(cv2.add(canvas, noise, dtype=cv2.CV_8U), np.uint8)

    def _background(self, t: float) -> U8:
        panorama = _panorama(self.seed, self.size)
        spare_x, spare_y = panorama.shape[1] - self.size[0] - 2, panorama.shape[0] - self.size[1] - 2
        x = spare_x * (0.5 + 0.5 * _wave(t, 9.0 + 6 * self._drift[0], self._drift[1]))
        y = spare_y * (0.5 + 0.5 * _wave(t, 11.0 + 5 * self._drift[2], self._drift[3]))
        matrix = np.array([[1, 0, -x], [0, 1, -y]])
        image = cv2.warpAffine(panorama, matrix, self.size, flags=cv2.INTER_LINEAR)
        return np.asarray(image, np.uint8)

    def _foreground(self, t: float) -> Layer | None:
        """A board that crosses the frame once per cycle and partly occludes faces."""
        cycle = (t / self._period) % 1.0
        if not 0.22 < cycle < 0.6:
            return None
        width, height = self.size
        along = (cycle - 0.22) / 0.38
        along = along if self._board[0] < 0.5 else 1 - along
        half = np.array([0.05 + 0.05 * self._board[1], 0.2 + 0.12 * self._board[2]]) * height
        centre = np.array([(-0.15 + 1.3 * along) * width, (0.5 + 0.2 * self._board[3]) * height])
        return board(centre, half, 0.6 * (self._board[4] - 0.5), float(self._board[5]))

    def audio(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the audio track in chunks of a second: float32 (N,), -1..1, at 48 kHz."""
        total = round(self.frames / self.fps * SAMPLE_RATE)
        clicks = np.array([round(start / self.fps * SAMPLE_RATE) for start in self.flashes()])
        for start in range(0, total, SAMPLE_RATE):
            n = np.arange(start, min(start + SAMPLE_RATE, total))
            low, high = (np.sin(2 * np.pi * tone * n / SAMPLE_RATE) for tone in (110, 165))
            hum = 0.02 * low + 0.01 * high
            for click in clicks[(clicks > start - SAMPLE_RATE) & (clicks < start + SAMPLE_RATE)]:
                since = (n - click) / SAMPLE_RATE
                tone = np.sin(2 * np.pi * 1400 * since) * np.exp(-since.clip(0) / 0.008)
                hum += 0.8 * tone * ((since >= 0) & (since < CLICK_SECONDS))
            yield hum.astype(np.float32)


def _random_light(rng: np.random.Generator) -> Light:
    warm = rng.uniform(-0.05, 0.05)
    return Light(
        direction=(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.7, -0.35)), 0.7),
        key=float(rng.uniform(0.5, 0.62)),
        fill=float(rng.uniform(0.42, 0.5)),
        tint=(1.0 + warm, 0.98, 0.95 - warm),
    )


@lru_cache(maxsize=4)
def _noise_tile(size: tuple[int, int]) -> npt.NDArray[np.int16]:
    rng = np.random.default_rng(4711)
    # Grey noise keeps the lossless truth files at a third of the size.
    noise = rng.standard_normal((size[1] + 64, size[0] + 64, 1), np.float32) * NOISE_DEVIATION
    return np.repeat(np.rint(noise).astype(np.int16), 3, axis=2)


@lru_cache(maxsize=2)
def _panorama(seed: int, size: tuple[int, int]) -> U8:
    rng = np.random.default_rng([seed, 30_000])
    return random_background(rng, (round(size[0] * 1.25), round(size[1] * 1.25)))


def _truth(
    track: _Track, head: Head, layer: Layer | None, clear: F32, mask: F32, size: tuple[int, int]
) -> FaceTruth:
    assert layer is not None
    assert layer.region is not None
    seen = layer.region * clear
    visible = float(seen.sum() / max(float(layer.region.sum()), 1e-6))
    inside = overlap(layer, Layer(0, 0, mask, mask))
    if inside is not None:
        mask[inside[1]] += seen[inside[0]]
    kps = actors.landmarks(track.look.body, head.pose, head.act)
    box = actors.face_box(track.look.body, head.pose)
    box = np.concatenate([np.minimum(box[:2], kps.min(0)), np.maximum(box[2:], kps.max(0))])
    return FaceTruth(track.who, box.astype(np.float32), kps, visible, head.pose.roll)
