"""What is found, and how steadily, on rendered people whose truth is known: ``python -m benchmarks.faces``.

Each clip is done twice by the product's own detector stand-in: every frame by itself, as peers do, and
followed. Seeds are drawn at random unless ``--seed`` is given. What changed faces look like:
``benchmarks.blend_quality``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.occlusion import table
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.geometry import eye_distance, overlap
from colab_helpers.faces.index import FrameFaces
from colab_helpers.faces.sparse_detector import SparseDetector
from colab_helpers.faces.tracks import Track, Tracker, embed_missing
from colab_helpers.faces.types import Face
from colab_helpers.faces.views import View
from colab_helpers.media.picture import BgrPicture, Picture
from colab_helpers.settings import load_settings
from tests.people.scene import FaceTruth, Scene
from tests.people.standins import write_standins

Image = npt.NDArray[np.uint8]
Way = Callable[[FaceAnalyser, "Clip"], list[list[Face]]]
Shot = tuple[Image, Sequence[FaceTruth]]
DROPPED = 0.2
"""Share of detections that are taken away in the clips that try holes."""
MIN_HEIGHT, MIN_VISIBLE = 50.0, 0.9


@dataclass(frozen=True)
class Clip:
    """A clip to be tried: ``shot`` gives a frame and its faces, ``dropped`` the share of detections lost."""

    name: str
    frames: int
    shot: Callable[[int], Shot]
    dropped: float = 0.0


def clips(seed: int, size: tuple[int, int], seconds: float) -> Iterator[Clip]:
    """Yield one clip of each kind."""

    def scene(number: int, people: int, **how: Any) -> Scene:
        return Scene(100 * seed + number, size, seconds=seconds, people=people, **how)

    def plain(name: str, shot: Callable[[int], Shot], dropped: float = 0.0) -> Clip:
        return Clip(name, frames, shot, dropped)

    slow = Scene(100 * seed, size, Fraction(75), seconds / 3, 1)
    yield Clip("talking head", slow.frames, slow.render)
    frames = scene(0, 1).frames
    one, crossing = cache(scene(0, 1).render), cache(scene(1, 2, crossing=True).render)
    yield plain("one person", one)
    yield plain("one person, detections lost", one, DROPPED)
    yield plain("crossing", crossing)
    yield plain("crossing, detections lost", crossing, DROPPED)
    yield plain("three, one leaves", scene(2, 3).render)
    parts = [scene(3, 2), scene(4, 2)]
    yield plain("cut every second", lambda i: parts[i // 25 % 2].render(i))
    yield plain("dissolve", lambda i: _dissolved(parts, i, frames))
    yield plain("dark", lambda i: _darkened(one(i)))
    yield plain("turned by 90", lambda i: _turned(one(i), 1))
    yield plain("turned by 180", lambda i: _turned(one(i), 2))
    yield plain("turned by 270", lambda i: _turned(one(i), 3))


def rendered(clip: Clip) -> Clip:
    """The same clip with all its frames in memory."""
    shots = [clip.shot(i) for i in range(clip.frames)]
    return replace(clip, shot=shots.__getitem__)


def _dissolved(scenes: Sequence[Scene], i: int, frames: int) -> Shot:
    share = float(np.clip((i - frames / 2 + 6) / 13, 0, 1))
    shots = [scene.render(i) for scene in scenes]
    image = cv2.addWeighted(shots[0][0], 1 - share, shots[1][0], share, 0)
    seen = [faces for (_, faces), weight in zip(shots, (1 - share, share), strict=True) if weight > 0.7]
    return np.asarray(image, np.uint8), [face for faces in seen for face in faces]


def _darkened(shot: Shot) -> Shot:
    return (shot[0] * 0.1).astype(np.uint8), shot[1]


def _turned(shot: Shot, turns: int) -> Shot:
    """Turn a frame anticlockwise by quarters, and its truth with it."""
    image, faces = shot
    height, width = image.shape[:2]
    turned = []
    for face in faces:
        points = np.concatenate([face.kps, face.box.reshape(2, 2)])
        w, h = width, height
        for _ in range(turns):
            points = np.stack([points[:, 1], w - 1 - points[:, 0]], axis=1)
            w, h = h, w
        box = np.concatenate([points[5:].min(0), points[5:].max(0)]).astype(np.float32)
        turned.append(FaceTruth(face.who, box, points[:5].astype(np.float32), face.visible, face.roll))
    return np.ascontiguousarray(np.rot90(image, turns)), turned


class LossyAnalyser(FaceAnalyser):
    """An analyser that counts its looks, and loses a share of what it finds."""

    looks, dropped, chance = 0, 0.0, random.Random(0)

    def detect(self, picture: Picture, view: View = "plain") -> list[Face]:
        """See ``FaceAnalyser.detect``."""
        self.looks += 1
        return [face for face in super().detect(picture, view) if self.chance.random() >= self.dropped]

    def search_views(self, picture: Picture) -> tuple[list[Face], View]:
        """See ``FaceAnalyser.search_views``."""
        self.looks += 1
        faces, view = super().search_views(picture)
        return [face for face in faces if self.chance.random() >= self.dropped], view


@dataclass
class Figures:
    """What came out of one way to find the faces of a clip."""

    asked: int = 0
    missed: int = 0
    wrong: int = 0
    false: int = 0
    looks: int = 0
    frames: int = 0
    errors: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add those of another clip."""
        for one in fields(Figures):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


def followed(analyser: FaceAnalyser, clip: Clip) -> list[list[Face]]:
    """Find the faces of all frames as a run does."""
    return tracked(analyser, clip)[0]


def tracked(analyser: FaceAnalyser, clip: Clip) -> tuple[list[list[Face]], list[Track]]:
    """Find the faces of all frames as a run does; also return their tracks."""
    finder = SparseDetector(analyser)

    def rows() -> Iterator[FrameFaces]:
        for i in range(clip.frames):
            row = FrameFaces(i, i, picture=BgrPicture(clip.shot(i)[0]))
            finder.detect(row)
            yield row

    def embed(row: FrameFaces) -> None:
        picture = row.picture
        assert picture is not None
        embed_missing(row, lambda faces: analyser.embed(picture, faces))

    tracker = Tracker(embed)
    found = tracker.follow(finder.rows(rows()))
    return [[face for face in faces if not face.behind] for faces in found], tracker.tracks


def alone(analyser: FaceAnalyser, clip: Clip) -> list[list[Face]]:
    """Find the faces of every frame by itself."""
    return [analyser.detect(BgrPicture(clip.shot(i)[0])) for i in range(clip.frames)]


def measured(clip: Clip, found: Sequence[Sequence[Face]]) -> Figures:
    """Compare what was found with the truth."""
    figures, before = Figures(frames=clip.frames), dict[str, tuple[int, Any]]()
    who: dict[int, Counter[str]] = defaultdict(Counter)
    for i, faces in enumerate(found):
        truths = clip.shot(i)[1]
        figures.false += (
            0
            if clip.name == "dissolve"
            else sum(not any(overlap(f.box, t.box) > 0.1 for t in truths) for f in faces)
        )
        for face in faces:
            # Who is seen there: of two people in one place the one before the other.
            seen = max(truths, key=lambda truth: truth.visible * overlap(face.box, truth.box), default=None)
            if seen is not None and face.track is not None and overlap(face.box, seen.box) > 0.4:
                who[face.track][seen.who] += 1
        for truth in truths:
            found_here = [face for face in faces if overlap(face.box, truth.box) > 0.4]
            best = max(found_here, key=lambda face: overlap(face.box, truth.box), default=None)
            if truth.visible < MIN_VISIBLE or truth.box[3] - truth.box[1] < MIN_HEIGHT:
                continue
            figures.asked += 1
            figures.missed += best is None
            if best is None:
                continue
            off = (best.kps - truth.kps) / eye_distance(truth.kps)
            figures.errors.append(float(np.linalg.norm(off, axis=1).mean()))
            if truth.who in before and before[truth.who][0] == i - 1:
                step = np.linalg.norm(off - before[truth.who][1], axis=1)
                figures.steps.append(float(step.mean()))
            before[truth.who] = i, off
    figures.wrong = sum(sum(names.values()) - max(names.values()) for names in who.values())
    return figures


def tried(analyser: LossyAnalyser, clip: Clip, way: Way, seed: int) -> Figures:
    """Find the faces of a clip, some of which get lost by a seed, and compare them with the truth."""
    analyser.looks, analyser.dropped, analyser.chance = 0, clip.dropped, random.Random(seed)
    figures = measured(clip, way(analyser, clip))
    figures.looks = analyser.looks
    return figures


def counted(analyser: LossyAnalyser, options: argparse.Namespace) -> None:
    """Follow clips of all kinds, a new seed each round, until enough faces were asked for; print sums."""
    sums, draw = dict[str, Figures](), random.Random(options.seed)
    print(f"seed {options.seed}\n{HEAD}")
    while sum(one.asked for one in sums.values()) < options.count:
        seed = draw.randrange(100_000)
        for clip in clips(seed, (640, 360), options.seconds):
            if options.only not in clip.name:
                continue
            one = tried(analyser, rendered(clip), followed, seed)
            sums.setdefault(clip.name, Figures()).add(one)
            if one.wrong or one.missed or clip.name == "talking head":
                print(_line(clip.name, str(seed), one), flush=True)
    whole = Figures()
    for name, one in sums.items():
        print(_line(name, "all", one))
        whole.add(one)
    print(_line("all of them", "all", whole))


HEAD = f"{'clip':28} {'way':9}  faces missed wrong false   error    step  looks"


def _line(clip: str, way: str, one: Figures) -> str:
    return (
        f"{clip:28} {way:9} {one.asked:6} {one.missed:6} {one.wrong:5} {one.false:5}"
        f"  {_mean(one.errors)}  {_mean(one.steps)} {one.looks / one.frames:6.2f}"
    )


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):6.4f}" if values else "     -"


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", default="", help="part of a clip's name")
    parser.add_argument("--count", type=int, default=0, help="faces to be followed in clips at random")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        settings = load_settings(execution_provider="cpu")
        if options.count:
            counted(LossyAnalyser(settings, models_dir=Path(folder)), options)
            return
        print(f"seed {options.seed}\n{HEAD}")
        for clip in clips(options.seed, (640, 360), options.seconds):
            if options.only not in clip.name:
                continue
            clip = rendered(clip)
            for way in (alone, followed):
                analyser = LossyAnalyser(settings, models_dir=Path(folder))
                print(_line(clip.name, way.__name__, tried(analyser, clip, way, options.seed)))
        for line in table(Path(folder), options.seed):
            print(line)


if __name__ == "__main__":
    main()
