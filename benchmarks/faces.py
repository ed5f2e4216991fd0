"""Measure detection and tracking on rendered people with known truth: ``python -m benchmarks.faces``.

Each clip is processed twice with the stand-in detector: frame by frame, as similar tools do, and with
tracking. A table on occlusion follows. The seed is random unless ``--seed`` is given. For the quality of
swapped faces see ``benchmarks.blend_quality``.
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
Method = Callable[[FaceAnalyser, "Clip"], list[list[Face]]]
Shot = tuple[Image, Sequence[FaceTruth]]
DROPPED = 0.2
"""Share of detections dropped in the clips that test gaps."""
MIN_HEIGHT, MIN_VISIBLE = 50.0, 0.9


@dataclass(frozen=True)
class Clip:
    """A clip: ``shot`` returns a frame with its true faces; ``dropped`` is the share of detections lost."""

    name: str
    frames: int
    shot: Callable[[int], Shot]
    dropped: float = 0.0


def clips(seed: int, size: tuple[int, int], seconds: float) -> Iterator[Clip]:
    """Yield one clip of each kind."""

    def scene(number: int, people: int, **options: Any) -> Scene:
        return Scene(100 * seed + number, size, seconds=seconds, people=people, **options)

    def clip(name: str, shot: Callable[[int], Shot], dropped: float = 0.0) -> Clip:
        return Clip(name, frames, shot, dropped)

    slow = Scene(100 * seed, size, Fraction(75), seconds / 3, 1)
    yield Clip("talking head", slow.frames, slow.render)
    frames = scene(0, 1).frames
    one, crossing = cache(scene(0, 1).render), cache(scene(1, 2, crossing=True).render)
    yield clip("one person", one)
    yield clip("one person, detections drop", one, DROPPED)
    yield clip("crossing", crossing)
    yield clip("crossing, detections drop", crossing, DROPPED)
    yield clip("three, one leaves", scene(2, 3).render)
    parts = [scene(3, 2), scene(4, 2)]
    yield clip("cut every second", lambda i: parts[i // 25 % 2].render(i))
    yield clip("dissolve", lambda i: _dissolved(parts, i, frames))
    yield clip("dark", lambda i: _darkened(one(i)))
    yield clip("rotated by 90", lambda i: _rotated(one(i), 1))
    yield clip("rotated by 180", lambda i: _rotated(one(i), 2))
    yield clip("rotated by 270", lambda i: _rotated(one(i), 3))


def rendered(clip: Clip) -> Clip:
    """Return the clip with all its frames in memory."""
    shots = [clip.shot(i) for i in range(clip.frames)]
    return replace(clip, shot=shots.__getitem__)


def _dissolved(scenes: Sequence[Scene], i: int, frames: int) -> Shot:
    share = float(np.clip((i - frames / 2 + 6) / 13, 0, 1))
    shots = [scene.render(i) for scene in scenes]
    image = cv2.addWeighted(shots[0][0], 1 - share, shots[1][0], share, 0)
    visible = [faces for (_, faces), weight in zip(shots, (1 - share, share), strict=True) if weight > 0.7]
    return np.asarray(image, np.uint8), [face for faces in visible for face in faces]


def _darkened(shot: Shot) -> Shot:
    return (shot[0] * 0.1).astype(np.uint8), shot[1]


def _rotated(shot: Shot, turns: int) -> Shot:
    """Rotate a frame and its truth counter-clockwise by quarter turns."""
    image, faces = shot
    height, width = image.shape[:2]
    rotated = []
    for face in faces:
        points = np.concatenate([face.kps, face.box.reshape(2, 2)])
        w, h = width, height
        for _ in range(turns):
            points = np.stack([points[:, 1], w - 1 - points[:, 0]], axis=1)
            w, h = h, w
        box = np.concatenate([points[5:].min(0), points[5:].max(0)]).astype(np.float32)
        rotated.append(FaceTruth(face.who, box, points[:5].astype(np.float32), face.visible, face.roll))
    return np.ascontiguousarray(np.rot90(image, turns)), rotated


class LossyAnalyser(FaceAnalyser):
    """An analyser that counts detector runs and drops a random share of the detections."""

    detector_runs, dropped, rng = 0, 0.0, random.Random(0)

    def detect(self, picture: Picture, view: View = "plain") -> list[Face]:
        """See ``FaceAnalyser.detect``."""
        self.detector_runs += 1
        return [face for face in super().detect(picture, view) if self.rng.random() >= self.dropped]

    def search_views(self, picture: Picture) -> tuple[list[Face], View]:
        """See ``FaceAnalyser.search_views``."""
        self.detector_runs += 1
        faces, view = super().search_views(picture)
        return [face for face in faces if self.rng.random() >= self.dropped], view


@dataclass
class Figures:
    """Results of one method on one or more clips; errors and steps in eye distances."""

    expected: int = 0
    missed: int = 0
    wrong: int = 0
    false: int = 0
    detector_runs: int = 0
    frames: int = 0
    errors: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add the figures of another clip."""
        for entry in fields(Figures):
            setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))


def tracked(analyser: FaceAnalyser, clip: Clip) -> list[list[Face]]:
    """Return the faces of every frame as the pipeline tracks them."""
    return track_clip(analyser, clip)[0]


def track_clip(analyser: FaceAnalyser, clip: Clip) -> tuple[list[list[Face]], list[Track]]:
    """Detect and track as the pipeline does; return the faces of every frame, and the tracks."""
    detector = SparseDetector(analyser)

    def rows() -> Iterator[FrameFaces]:
        for i in range(clip.frames):
            row = FrameFaces(i, i, picture=BgrPicture(clip.shot(i)[0]))
            detector.detect(row)
            yield row

    def embed(row: FrameFaces) -> None:
        picture = row.picture
        assert picture is not None
        embed_missing(row, lambda faces: analyser.embed(picture, faces))

    tracker = Tracker(embed)
    detections = tracker.follow(detector.rows(rows()))
    return [[face for face in faces if not face.behind] for faces in detections], tracker.tracks


def per_frame(analyser: FaceAnalyser, clip: Clip) -> list[list[Face]]:
    """Detect the faces of every frame independently."""
    return [analyser.detect(BgrPicture(clip.shot(i)[0])) for i in range(clip.frames)]


def evaluate(clip: Clip, detections: Sequence[Sequence[Face]]) -> Figures:
    """Compare detections with the truth."""
    figures, previous = Figures(frames=clip.frames), dict[str, tuple[int, Any]]()
    people: dict[int, Counter[str]] = defaultdict(Counter)
    for i, faces in enumerate(detections):
        truths = clip.shot(i)[1]
        if clip.name != "dissolve":
            figures.false += sum(not any(overlap(f.box, t.box) > 0.1 for t in truths) for f in faces)
        for face in faces:
            # Of two overlapping people, the more visible one counts as the person shown.
            shown = max(truths, key=lambda truth: truth.visible * overlap(face.box, truth.box), default=None)
            if shown is not None and face.track is not None and overlap(face.box, shown.box) > 0.4:
                people[face.track][shown.who] += 1
        for truth in truths:
            if truth.visible < MIN_VISIBLE or truth.box[3] - truth.box[1] < MIN_HEIGHT:
                continue
            matches = [face for face in faces if overlap(face.box, truth.box) > 0.4]
            best = max(matches, key=lambda face: overlap(face.box, truth.box), default=None)
            figures.expected += 1
            figures.missed += best is None
            if best is None:
                continue
            error = (best.kps - truth.kps) / eye_distance(truth.kps)
            figures.errors.append(float(np.linalg.norm(error, axis=1).mean()))
            if truth.who in previous and previous[truth.who][0] == i - 1:
                step = np.linalg.norm(error - previous[truth.who][1], axis=1)
                figures.steps.append(float(step.mean()))
            previous[truth.who] = i, error
    figures.wrong = sum(names.total() - max(names.values()) for names in people.values())
    return figures


def run_clip(analyser: LossyAnalyser, clip: Clip, method: Method, seed: int) -> Figures:
    """Process a clip, dropping detections by a seed, and compare the result with the truth."""
    analyser.detector_runs, analyser.dropped, analyser.rng = 0, clip.dropped, random.Random(seed)
    figures = evaluate(clip, method(analyser, clip))
    figures.detector_runs = analyser.detector_runs
    return figures


def run_until_count(analyser: LossyAnalyser, options: argparse.Namespace) -> None:
    """Track clips of all kinds, with a new seed per round, until ``--count`` faces; print the totals."""
    totals, rng = dict[str, Figures](), random.Random(options.seed)
    print(f"seed {options.seed}\n{HEADER}")
    while sum(total.expected for total in totals.values()) < options.count:
        seed = rng.randrange(100_000)
        for clip in clips(seed, (640, 360), options.seconds):
            if options.only not in clip.name:
                continue
            figures = run_clip(analyser, rendered(clip), tracked, seed)
            totals.setdefault(clip.name, Figures()).add(figures)
            if figures.wrong or figures.missed or clip.name == "talking head":
                print(_line(clip.name, str(seed), figures), flush=True)
    total = Figures()
    for name, figures in totals.items():
        print(_line(name, "total", figures))
        total.add(figures)
    print(_line("all clips", "total", total))


HEADER = f"{'clip':28} {'method':9}  faces missed wrong false   error    step  detector runs per frame"


def _line(clip: str, label: str, one: Figures) -> str:
    return (
        f"{clip:28} {label:9} {one.expected:6} {one.missed:6} {one.wrong:5} {one.false:5}"
        f"  {_mean(one.errors)}  {_mean(one.steps)} {one.detector_runs / one.frames:6.2f}"
    )


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):6.4f}" if values else "     -"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", default="", help="only clips whose name contains this text")
    parser.add_argument(
        "--count", type=int, default=0, help="run random clips until so many faces were tracked"
    )
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        settings = load_settings(execution_provider="cpu")
        if options.count:
            run_until_count(LossyAnalyser(settings, models_dir=Path(folder)), options)
            return
        print(f"seed {options.seed}\n{HEADER}")
        for clip in clips(options.seed, (640, 360), options.seconds):
            if options.only not in clip.name:
                continue
            clip = rendered(clip)
            for method in (per_frame, tracked):
                analyser = LossyAnalyser(settings, models_dir=Path(folder))
                print(_line(clip.name, method.__name__, run_clip(analyser, clip, method, options.seed)))
        for line in table(Path(folder), options.seed):
            print(line)


if __name__ == "__main__":
    main()
