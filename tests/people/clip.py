"""Demo clips with exact ground truth: rendered people over moving backgrounds, with sound.

A :class:`Scene` renders any of its frames on its own, together with the true result of a swap: the
same scene, pose, expression, light, cover and noise with another inner face (see
:mod:`tests.people.looks` for what belongs to it). :func:`make_demo` writes a whole folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

from colab_helpers.files import sha256_of
from colab_helpers.machine import cpu_count
from colab_helpers.media.encoders import repeatable_x264
from colab_helpers.trust.consent import DEMO_MANIFEST
from tests.people import actors
from tests.people.actors import Head, Layer, Light, Pose
from tests.people.looks import IDENTITIES, Look, look_of
from tests.people.paint import F32, Expression
from tests.people.standins import write_standins

U8 = npt.NDArray[np.uint8]

SAMPLE_RATE = 48_000
CLICK_SECONDS = 0.025
NOISE_DEVIATION = 1.8


@dataclass(frozen=True)
class FaceTruth:
    """One face of one frame, known exactly.

    Attributes:
        who: Name of the character whose body it is (also in a swapped frame).
        box: float32 (4,), xyxy frame pixels; may reach out of the frame.
        kps: float32 (5, 2), frame pixels: eyes, nose, corners of the mouth, image-left first.
        visible: 0..1, the part of the inner face neither covered nor outside the frame.
        roll: Degrees, clockwise on the screen.
    """

    who: str
    box: F32
    kps: F32
    visible: float
    roll: float

    def as_json(self) -> dict[str, object]:
        """Return plain numbers for the truth file."""
        return {
            "who": self.who,
            "box": [round(float(v), 2) for v in self.box],
            "kps": [[round(float(v), 2) for v in point] for point in self.kps],
            "visible": round(self.visible, 3),
            "roll": round(self.roll, 2),
        }


@dataclass(frozen=True)
class Rendered:
    """A frame, its truth and its true swaps.

    Attributes:
        frame: BGR uint8 (H, W, 3).
        faces: The faces of which anything is visible, far ones first.
        swapped: By name, the frame with every inner face replaced by that character's.
        mask: float32 (H, W) 0..1, visible inner faces.
    """

    frame: U8
    faces: tuple[FaceTruth, ...]
    swapped: Mapping[str, U8]
    mask: F32


@dataclass(frozen=True)
class DemoPaths:
    """Where a demo was written."""

    directory: Path
    sources: tuple[Path, ...]
    targets: tuple[Path, ...]
    truths: tuple[Path, ...]
    models: Path


@dataclass(frozen=True)
class _Track:
    """How one person moves: base position and phases, drawn from the seed."""

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
    """Rise from 0 to 1 between two moments, gently at both ends."""
    along = min(max((u - start) / (end - start), 0.0), 1.0)
    return along * along * (3 - 2 * along)


class Scene:
    """A seeded clip in memory.

    Args:
        seed: Another seed gives other people, motion and background.
        size: Width and height in pixels.
        fps: Frames per second.
        seconds: Length; the number of frames is rounded.
        people: How many people are in the clip, 0 to 8.
        cast: Names of the people instead of a seeded choice.
        crossing: Have them change places once, the larger in front of the smaller; nobody leaves.

    Raises:
        ValueError: If a value is out of range or a name unknown.
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
    ) -> None:
        _check(size, fps, seconds, people)
        self.seed, self.size, self.fps = seed, size, fps
        self.frames = max(round(seconds * fps), 1)
        self.seconds = float(self.frames / fps)
        rng = np.random.default_rng([seed, 20_000])
        names = list(cast) if cast is not None else list(rng.permutation(list(IDENTITIES)))[:people]
        self.cast = tuple(str(name) for name in names)
        self._period = min(max(self.seconds, 2.0), 8.0)
        self._crossing = crossing
        self._tracks = [self._track(rng, k, name) for k, name in enumerate(self.cast)]
        self._light = _random_light(rng)
        self._drift = rng.random(4)
        self._cover = rng.random(6)

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
        away = _bump(cycle, 0.62, 0.98) if track.leaves and not self._crossing else 0.0
        x = track.x + 0.05 * width * _wave(t, 5.3, p[0])
        if self._crossing:
            x += (width - 2 * track.x) * _ease(cycle, 0.3, 0.8)
        out = (width + 2 * track.scale - x) if track.side > 0 else -(x + 2 * track.scale)
        return Pose(
            x=x + out * min(1.25 * away, 1.0),
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
        """Return the frames in which a flash begins; a click sounds at the same time."""
        first = min(round(0.5 * self.fps), self.frames - 1)
        step = max(round(self.fps), 4)
        return tuple(range(first, self.frames, step))

    def flash_box(self) -> tuple[int, int, int, int]:
        """Return the corner that flashes, xyxy."""
        height = self.size[1]
        edge, margin = max(round(0.06 * height), 8), max(round(0.015 * height), 2)
        return margin, height - margin - edge, margin + edge, height - margin

    def render(self, i: int, swap_to: str | None = None) -> tuple[U8, tuple[FaceTruth, ...]]:
        """Render a frame.

        Args:
            i: Frame number from 0.
            swap_to: Replace every inner face by this character's.

        Returns:
            BGR uint8 (H, W, 3) and the faces.
        """
        result = self.render_all(i, [swap_to] if swap_to else [])
        return (result.swapped[swap_to] if swap_to else result.frame), result.faces

    def face_mask(self, i: int) -> F32:
        """Return the visible inner faces of a frame, float32 (H, W) 0..1."""
        return self.render_all(i).mask

    def render_all(self, i: int, swaps: Sequence[str] = ()) -> Rendered:
        """Render a frame, its truth and any number of true swaps, sharing what is equal."""
        t = float(i / self.fps)
        canvas = self._background(t)
        heads, layers = self._people(t)
        layers.append(self._foreground(t))
        for layer in layers:
            if layer is not None:
                actors.lay(canvas, layer)
        mask = np.zeros(canvas.shape[:2], np.float32)
        faces, seen = [], []
        for track, head, at in heads:
            clear = _uncovered(layers, at, self.size)
            seen.append(clear)
            truth = _truth(track, head, layers[at], clear, mask, self.size)
            faces += [truth] if truth.visible > 0 else []
        swapped = {who: self._finish(self._swapped(canvas, heads, seen, who), i) for who in swaps}
        return Rendered(self._finish(canvas, i), tuple(faces), swapped, np.clip(mask, 0, 1))

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

    def _swapped(self, canvas: U8, heads: list[tuple[_Track, Head, int]], seen: list[F32], who: str) -> U8:
        out = canvas.copy()
        for (track, head, _), clear in zip(heads, seen, strict=True):
            if clear.size:
                add_change(out, head.change(track.look.wearing(look_of(who))), clear[head.inner])
        return out

    def _finish(self, canvas: U8, i: int) -> U8:
        """Flash and noise; equal for a frame and its swaps."""
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
        """A board that crosses the picture once a cycle and covers parts of the faces."""
        cycle = (t / self._period) % 1.0
        if not 0.22 < cycle < 0.6:
            return None
        width, height = self.size
        along = (cycle - 0.22) / 0.38
        along = along if self._cover[0] < 0.5 else 1 - along
        half = np.array([0.05 + 0.05 * self._cover[1], 0.2 + 0.12 * self._cover[2]]) * height
        centre = np.array([(-0.15 + 1.3 * along) * width, (0.5 + 0.2 * self._cover[3]) * height])
        return board(centre, half, 0.6 * (self._cover[4] - 0.5), float(self._cover[5]))

    def sound(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the sound track a second at a time: float32 (N,), -1..1, at 48 kHz."""
        total = round(self.frames / self.fps * SAMPLE_RATE)
        clicks = np.array([round(start / self.fps * SAMPLE_RATE) for start in self.flashes()])
        for start in range(0, total, SAMPLE_RATE):
            n = np.arange(start, min(start + SAMPLE_RATE, total))
            hum = 0.02 * np.sin(2 * np.pi * 110 * n / SAMPLE_RATE) + 0.01 * np.sin(
                2 * np.pi * 165 * n / SAMPLE_RATE
            )
            for click in clicks[(clicks > start - SAMPLE_RATE) & (clicks < start + SAMPLE_RATE)]:
                since = (n - click) / SAMPLE_RATE
                tone = np.sin(2 * np.pi * 1400 * since) * np.exp(-since.clip(0) / 0.008)
                hum += 0.8 * tone * ((since >= 0) & (since < CLICK_SECONDS))
            yield hum.astype(np.float32)


def _check(size: tuple[int, int], fps: Fraction, seconds: float, people: int) -> None:
    bad = ""
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        bad = f"size {size[0]}x{size[1]} is not even or below 64"
    elif fps <= 0 or seconds <= 0:
        bad = f"{seconds} seconds at {fps} frames per second is no clip"
    elif not 0 <= people <= len(IDENTITIES):
        bad = f"{people} people were asked for, of {len(IDENTITIES)}"
    if bad:
        raise ValueError(bad)


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
    # Grey noise, so that the lossless truth files stay a third of the size.
    noise = rng.standard_normal((size[1] + 64, size[0] + 64, 1), np.float32) * NOISE_DEVIATION
    return np.repeat(np.rint(noise).astype(np.int16), 3, axis=2)


def _skinlike(rng: np.random.Generator) -> tuple[int, int, int]:
    light = rng.uniform(0.35, 1.0)
    blue, green, red = (np.array([165, 190, 235]) * light * rng.uniform(0.93, 1.07, 3)).clip(0, 255)
    return int(blue), int(green), int(red)


def _hue(rng: np.random.Generator) -> tuple[int, int, int]:
    if rng.random() < 0.35:
        return _skinlike(rng)
    colour = rng.integers(25, 235, 3)
    blue, green, red = colour.mean() + rng.uniform(0.25, 1.0) * (colour - colour.mean())
    return int(blue), int(green), int(red)


def random_background(rng: np.random.Generator, size: tuple[int, int]) -> U8:
    """Paint a faceless background of wall, stripes, discs, ovals and blocks, some skin-coloured.

    Args:
        rng: Source of all choices.
        size: Width and height in pixels.

    Returns:
        BGR uint8 (H, W, 3).
    """
    width, height = size
    corners = np.array([[_hue(rng), _hue(rng)], [_hue(rng), _hue(rng)]], np.float32)
    corners = rng.uniform(80, 170) + rng.uniform(0.2, 0.7) * (corners - corners.mean())
    wall = cv2.resize(corners, size, interpolation=cv2.INTER_CUBIC)
    for cells, strength in ((6, 18), (24, 10), (90, 6)):
        grid = rng.standard_normal((cells, cells * width // height + 1)).astype(np.float32)
        wall += strength * cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[..., None]
    image = np.clip(wall, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(10, 26))):
        _shape(rng, image)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6))), np.uint8)


def _shape(rng: np.random.Generator, image: U8) -> None:
    height, width = image.shape[:2]
    x, y = int(rng.integers(width)), int(rng.integers(height))
    size = int(height * rng.uniform(0.03, 0.22))
    colour, other, kind = _hue(rng), _hue(rng), rng.random()
    if kind < 0.25:
        cv2.ellipse(
            image,
            (x, y),
            (size, round(size * rng.uniform(0.9, 1.4))),
            rng.uniform(-30, 30),
            0,
            360,
            colour,
            -1,
            cv2.LINE_AA,
        )
        if rng.random() < 0.6:
            _dots(rng, image, x, y, size, other)
    elif kind < 0.45:
        cv2.circle(image, (x, y), size, colour, -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), max(size // 2, 1), other, -1, cv2.LINE_AA)
    elif kind < 0.7:
        for k in range(int(rng.integers(3, 9))):
            at = x + k * max(size // 3, 2)
            cv2.line(
                image,
                (at, y),
                (at + int(size * rng.uniform(-0.1, 0.1)), y + 3 * size),
                colour,
                max(size // 7, 1),
                cv2.LINE_AA,
            )
    else:
        cv2.rectangle(image, (x, y), (x + 2 * size, y + round(size * rng.uniform(0.5, 2.5))), colour, -1)
        cv2.rectangle(image, (x, y), (x + 2 * size, y + size), other, max(size // 10, 1))


def _dots(
    rng: np.random.Generator, image: U8, x: int, y: int, size: int, colour: tuple[int, int, int]
) -> None:
    """Dots and bars on an oval, but never laid out as a face."""
    for _ in range(int(rng.integers(1, 6))):
        dx, dy = (size * rng.uniform(-0.6, 0.6, 2)).astype(int)
        if rng.random() < 0.6:
            cv2.circle(image, (x + int(dx), y + int(dy)), max(size // 7, 1), colour, -1, cv2.LINE_AA)
        else:
            cv2.line(image, (x + int(dx), y + int(dy)), (x - int(dx), y + int(dy)), colour, max(size // 9, 1))


@lru_cache(maxsize=2)
def _panorama(seed: int, size: tuple[int, int]) -> U8:
    rng = np.random.default_rng([seed, 30_000])
    return random_background(rng, (round(size[0] * 1.25), round(size[1] * 1.25)))


def board(centre: npt.NDArray[np.float64], half: npt.NDArray[np.float64], angle: float, hue: float) -> Layer:
    """Draw a striped board: half sizes in pixels, turned by ``angle`` radians."""
    reach = float(np.hypot(*half)) + 2
    left, top = math.floor(centre[0] - reach), math.floor(centre[1] - reach)
    size = math.ceil(2 * reach)
    px = (np.arange(left, left + size) - centre[0])[None, :]
    py = (np.arange(top, top + size) - centre[1])[:, None]
    c, s = math.cos(angle), math.sin(angle)
    u, v = c * px + s * py, c * py - s * px
    alpha = np.clip(half[0] - np.abs(u) + 0.5, 0, 1) * np.clip(half[1] - np.abs(v) + 0.5, 0, 1)
    stripe = 0.5 + 0.5 * np.sign(np.sin(v / half[1] * 14 + u / half[0]))
    one = np.array([60 + 150 * hue, 120, 200 - 150 * hue], np.float32)
    two = np.array([225, 215 - 120 * hue, 120 + 60 * hue], np.float32)
    colour = one + stripe[..., None].astype(np.float32) * (two - one)
    return Layer(left, top, colour.astype(np.float32), alpha.astype(np.float32))


def _overlap(layer: Layer, other: Layer) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Return the part two layers share, as slices into each."""
    height, width = layer.alpha.shape
    x0, y0 = max(layer.left, other.left), max(layer.top, other.top)
    x1 = min(layer.left + width, other.left + other.alpha.shape[1])
    y1 = min(layer.top + height, other.top + other.alpha.shape[0])
    if x1 <= x0 or y1 <= y0:
        return None
    mine = (slice(y0 - layer.top, y1 - layer.top), slice(x0 - layer.left, x1 - layer.left))
    return mine, (slice(y0 - other.top, y1 - other.top), slice(x0 - other.left, x1 - other.left))


def _uncovered(layers: list[Layer | None], at: int, size: tuple[int, int]) -> F32:
    """Return how much of each pixel of a layer is seen: not behind later layers, inside the frame."""
    layer = layers[at]
    assert layer is not None
    clear = np.zeros_like(layer.alpha)
    frame = Layer(0, 0, np.empty(0, np.float32), np.broadcast_to(np.float32(1), (size[1], size[0])))
    inside = _overlap(layer, frame)
    if inside is not None:
        clear[inside[0]] = 1
    for other in layers[at + 1 :]:
        shared = _overlap(layer, other) if other is not None else None
        if other is not None and shared is not None:
            clear[shared[0]] *= 1 - other.alpha[shared[1]]
    return clear


def _truth(
    track: _Track, head: Head, layer: Layer | None, clear: F32, mask: F32, size: tuple[int, int]
) -> FaceTruth:
    assert layer is not None
    assert layer.region is not None
    seen = layer.region * clear
    visible = float(seen.sum() / max(float(layer.region.sum()), 1e-6))
    inside = _overlap(layer, Layer(0, 0, mask, mask))
    if inside is not None:
        mask[inside[1]] += seen[inside[0]]
    kps = actors.landmarks(track.look.body, head.pose, head.act)
    box = actors.face_box(track.look.body, head.pose)
    box = np.concatenate([np.minimum(box[:2], kps.min(0)), np.maximum(box[2:], kps.max(0))])
    return FaceTruth(track.who, box.astype(np.float32), kps, visible, head.pose.roll)


def add_change(frame: U8, change: Layer, clear: F32) -> None:
    """Add a signed change where it is seen, in place."""
    inside = _overlap(
        change, Layer(0, 0, np.empty(0, np.float32), np.broadcast_to(np.float32(1), frame.shape[:2]))
    )
    if inside is None:
        return
    mine, theirs = inside
    part = frame[theirs]
    delta = change.colour[mine][..., ::-1] * clear[mine][..., None]
    part[:] = np.clip(part + delta + np.float32(0.5), 0, 255).astype(np.uint8)


def _video_stream(
    container: OutputContainer, codec: str, scene: Scene, pix_fmt: str, options: dict[str, str]
) -> VideoStream:
    stream = container.add_stream(codec, rate=scene.fps, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = scene.size
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = 1 / scene.fps
    return stream


def _put(container: OutputContainer, stream: VideoStream, image: U8 | None, i: int, fps: Fraction) -> None:
    """Encode one picture, or flush with None."""
    if image is None:
        container.mux(stream.encode(None))
        return
    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
    if stream.pix_fmt == "yuv420p":
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
    frame.pts, frame.time_base = i, 1 / fps
    container.mux(stream.encode(frame))


class _TargetWriter:
    """The mp4 of a scene: H.264 and AAC."""

    def __init__(self, path: Path, scene: Scene, *, crf: int = 16, preset: str = "veryfast") -> None:
        self._scene = scene
        self._box = av.open(str(path), "w")
        options = {"crf": str(crf), "preset": preset}
        if parameters := list(repeatable_x264(scene.size[0])):
            options["x264-params"] = ":".join(parameters)
        self._video = _video_stream(self._box, "libx264", scene, "yuv420p", options)
        context = self._video.codec_context
        context.color_range, context.colorspace = 1, 1  # limited range, BT.709
        context.color_primaries, context.color_trc = 1, 1
        audio = self._box.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        assert isinstance(audio, AudioStream)
        self._audio, self._sound, self._written = audio, scene.sound(), 0

    def put(self, image: U8, i: int) -> None:
        """Write a frame and the sound up to it."""
        _put(self._box, self._video, image, i, self._scene.fps)
        while self._written <= (i + 1) / self._scene.fps * SAMPLE_RATE and self._put_sound():
            pass

    def _put_sound(self) -> bool:
        chunk = next(self._sound, None)
        if chunk is None:
            return False
        frame = av.AudioFrame.from_ndarray(chunk[None, :], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._written, Fraction(1, SAMPLE_RATE)
        self._box.mux(self._audio.encode(frame))
        self._written += len(chunk)
        return True

    def close(self) -> None:
        """Flush and finish the file."""
        while self._put_sound():
            pass
        _put(self._box, self._video, None, 0, self._scene.fps)
        self._box.mux(self._audio.encode(None))
        self._box.close()


def write_target(path: Path, scene: Scene, *, crf: int, preset: str) -> None:
    """Write a scene alone, without its truth, by x264's quality and speed preset."""
    writer = _TargetWriter(path, scene, crf=crf, preset=preset)
    for i in range(scene.frames):
        writer.put(scene.render(i)[0], i)
    writer.close()


class _TruthWriter:
    """One FFV1 file of true swaps."""

    def __init__(self, path: Path, scene: Scene) -> None:
        self._fps = scene.fps
        self._box = av.open(str(path), "w")
        self._video = _video_stream(
            self._box, "ffv1", scene, "bgr0", {"level": "3", "slices": "4", "slicecrc": "1"}
        )

    def put(self, image: U8, i: int) -> None:
        """Write a frame."""
        _put(self._box, self._video, image, i, self._fps)

    def close(self) -> None:
        """Flush and finish the file."""
        _put(self._box, self._video, None, 0, self._fps)
        self._box.close()


@dataclass(frozen=True)
class _Job:
    """One worker's share of a clip: the target itself if ``main``, and some of the true swaps."""

    directory: Path
    name: str
    seed: int
    size: tuple[int, int]
    fps: Fraction
    seconds: float
    people: int
    cast: tuple[str, ...] | None
    crossing: bool
    swaps: tuple[str, ...]
    main: bool


def _write_clip(job: _Job) -> int:
    """Render a job's files; return the number of frames."""
    cv2.setNumThreads(1)
    scene = Scene(job.seed, job.size, job.fps, job.seconds, job.people, cast=job.cast, crossing=job.crossing)
    target = _TargetWriter(job.directory / "targets" / f"{job.name}.mp4", scene) if job.main else None
    truth = job.directory / "truth"
    writers = {who: _TruthWriter(truth / f"{job.name}.swap-{who}.mkv", scene) for who in job.swaps}
    frames = []
    for i in range(scene.frames):
        result = scene.render_all(i, job.swaps)
        frames.append({"i": i, "faces": [face.as_json() for face in result.faces]})
        if target is not None:
            target.put(result.frame, i)
        for who, writer in writers.items():
            writer.put(result.swapped[who], i)
    for file in (target, *writers.values()):
        if file is not None:
            file.close()
    if job.main:
        rate = f"{scene.fps.numerator}/{scene.fps.denominator}"
        text = json.dumps({"fps": rate, "size": list(job.size), "frames": frames})
        (truth / f"{job.name}.json").write_text(text, encoding="utf-8")
    return scene.frames


def _jobs(
    directory: Path,
    seed: int,
    seconds: float,
    size: tuple[int, int],
    fps: Fraction,
    people: int,
    cast: tuple[str, ...] | None,
    crossing: bool,
    clips: int,
    workers: int,
    swaps: tuple[str, ...],
) -> list[_Job]:
    parts = min(max(math.ceil(workers / max(clips, 1)), 1), 4) if swaps else 1
    jobs = []
    for k in range(clips):
        count = people if k % 2 == 0 else max(people - 1, min(people, 1))
        for part in range(parts):
            jobs.append(
                _Job(
                    directory,
                    f"clip{k + 1}",
                    seed * 1000 + k,
                    size,
                    fps,
                    seconds,
                    count,
                    cast,
                    crossing,
                    swaps[part::parts],
                    part == 0,
                )
            )
    return jobs


def make_demo(
    directory: Path,
    *,
    seed: int = 0,
    seconds: float = 4.0,
    size: tuple[int, int] = (640, 360),
    fps: Fraction = Fraction(25),
    people: int = 2,
    clips: int = 2,
    cast: Sequence[str] | None = None,
    crossing: bool = False,
    true_swaps: bool | Collection[str] = True,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DemoPaths:
    """Write portraits, clips, ground truth and stand-in models.

    Every second clip shows one person fewer, so that people are seen alone and in pairs.

    Args:
        directory: Where to; made if missing, files of the same names are replaced.
        seed: Another seed gives other clips.
        seconds: Length of each clip.
        size: Width and height in pixels, even.
        fps: Frames per second, exact.
        people: Most people in a clip; 0 gives clips without people.
        clips: How many clips.
        cast: Names of the people of every clip instead of a seeded choice.
        crossing: Have them change places.
        true_swaps: Also write the true result for every identity, most of the time and 60 MB a clip; or for
            those named.
        workers: Processes; default: one for each core, at most 8. 1 works in this process.
        on_progress: Called with steps done and steps in all.

    Returns:
        Where everything is.

    Raises:
        ValueError: If a value is out of range, or an identity unknown.
        OSError: If the folder cannot be written.
    """
    _check(size, fps, seconds, people)
    directory = Path(directory)
    for name in ("source", "targets", "truth", "models"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    workers = workers or min(cpu_count(), 8)
    if isinstance(true_swaps, bool):
        true_swaps = tuple(IDENTITIES) if true_swaps else ()
    for who in true_swaps:
        look_of(who)  # refuses one that nobody knows
    names = None if cast is None else tuple(cast)
    swaps = tuple(true_swaps)
    jobs = _jobs(directory, seed, seconds, size, fps, people, names, crossing, clips, workers, swaps)
    report = on_progress or (lambda done, total: None)
    total = len(jobs) + 2
    write_standins(directory / "models")
    report(1, total)
    sources = tuple(_write_portrait(directory / "source", who) for who in IDENTITIES)
    report(2, total)
    for done, _ in enumerate(_run(jobs, workers), 3):
        report(done, total)
    clip_names = [f"clip{k + 1}" for k in range(clips)]
    targets = tuple(directory / "targets" / f"{name}.mp4" for name in clip_names)
    write_manifest(directory, (*sources, *targets))
    return DemoPaths(
        directory,
        sources,
        targets,
        tuple(directory / "truth" / f"{name}.json" for name in clip_names),
        directory / "models",
    )


def write_manifest(directory: Path, files: Sequence[Path]) -> None:
    """List the demo's sources and targets by hash: its statement of consent covers just these."""
    hashes = {path.relative_to(directory).as_posix(): sha256_of(path) for path in files}
    (directory / DEMO_MANIFEST).write_text(json.dumps({"files": hashes}, indent=2), encoding="utf-8")


def _write_portrait(folder: Path, who: str) -> Path:
    path = folder / f"{who}.png"
    done, data = cv2.imencode(".png", actors.portrait(who))
    assert done
    path.write_bytes(data.tobytes())
    return path


def _run(jobs: list[_Job], workers: int) -> Iterator[int]:
    if workers == 1 or len(jobs) < 2:
        yield from map(_write_clip, jobs)
        return
    # Forking a process that runs threads (a notebook, an ONNX session) can deadlock; spawning cannot.
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_write_clip, job) for job in jobs]):
            yield future.result()
