"""Who is who in a batch of rendered clips whose cast is known: ``python -m benchmarks.people``.

Clips of one to three people out of eight, each in another light and pose, are rendered once; batches of 3 to
12 of them with 2 to 6 people are drawn at random. Half of a batch is known first, and the other half joins. A
frame is wrong where somebody would be taken for somebody else: each group counts as the person it shows most,
as in a map in which every group has its right name. Seeds are drawn at random unless ``--seed`` is given.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from benchmarks.faces import Clip, Shot, tracked
from colab_helpers.batch.known_people import (
    UNKNOWN_PERSON,
    FaceVisibility,
    KnownPeople,
    KnownTarget,
    KnownTrack,
)
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.geometry import overlap
from colab_helpers.faces.person_clustering import TrackSummary, cluster_tracks
from colab_helpers.settings import load_settings
from tests.people.looks import IDENTITIES
from tests.people.scene import Scene
from tests.people.standins import write_standins

_RATE = 25.0


@dataclass
class ClipTracks:
    """A clip's tracks, and who each of them shows in how many frames; ``frames`` has those of every frame."""

    video: KnownTarget
    truth: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    frames: list[list[tuple[int, str]]] = field(default_factory=list)


def seen_in(analyser: FaceAnalyser, name: str, scene: Scene, light: np.ndarray) -> ClipTracks:
    """Find who is in a scene, in a light, ``(3,)`` factors of its colours."""

    def lit(i: int) -> Shot:
        image, faces = scene.render(i)
        return np.clip(image * light, 0, 255).astype(np.uint8), faces

    shots = [lit(i) for i in range(scene.frames)]
    found, tracks = tracked(analyser, Clip(name, scene.frames, shots.__getitem__))
    kept = {one.track: KnownTrack.of(one, chosen=False) for t in tracks if (one := TrackSummary.of(name, t))}
    numbers = dict.fromkeys((track.number for track in tracks), UNKNOWN_PERSON)
    sight = FaceVisibility(frames=len(shots), faces=1)
    target = KnownTarget(target=name, sha256=name, rate=_RATE, sight=sight, tracks=numbers, seen=kept)
    seen = ClipTracks(target)
    for (_, truths), faces in zip(shots, found, strict=True):
        there = []
        for face in faces:
            best = max(truths, key=lambda truth: overlap(truth.box, face.box), default=None)
            if best is not None and face.track is not None and overlap(best.box, face.box) > 0.3:
                there.append((face.track, best.who))
                seen.truth[face.track][best.who] += 1
        seen.frames.append(there)
    return seen


def score_grouping(known: KnownPeople, clips: Sequence[ClipTracks]) -> tuple[float, int, int]:
    """Return the B-cubed F1 of the tracks, and how many frames are wrong, of how many with a face."""
    group_of = [(video.video.tracks[n], truth) for video in clips for n, truth in video.truth.items()]
    shows = defaultdict[str, Counter[str]](Counter)
    for group, truth in group_of:
        shows[group].update(truth)
    names = {group: truth.most_common(1)[0][0] for group, truth in shows.items() if group != UNKNOWN_PERSON}
    wrong = frames = 0
    for clip in clips:
        for there in clip.frames:
            frames += bool(there)
            wrong += any(names.get(clip.video.tracks[track], who) != who for track, who in there)
    # Whoever belongs to nobody is a group alone.
    groups = [group or str(n) for n, (group, _) in enumerate(group_of)]
    numbers = [[n for n, one in enumerate(groups) if one == group] for group in dict.fromkeys(groups)]
    main = [truth.most_common(1)[0] for _, truth in group_of]
    return b_cubed(numbers, [who for who, _ in main], [count for _, count in main]), wrong, frames


def thousand() -> tuple[float, float]:
    """Return the seconds and the MB that it takes to group 1,000 tracks of 40 people in 25 clips."""
    chance = np.random.default_rng(0)
    people = chance.normal(size=(40, 512))
    looks = people[np.arange(1000) % 40] + 0.7 * chance.normal(size=(1000, 512))
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    seen = [
        TrackSummary(str(n // 40), n, 0, 50, 50, look.astype(np.float32), 4) for n, look in enumerate(looks)
    ]
    cluster_tracks(seen[:9])  # scipy is imported
    began = time.perf_counter()
    groups = cluster_tracks(seen)
    took = time.perf_counter() - began
    assert len(groups) == 40
    tracemalloc.start()
    cluster_tracks(seen)
    return took, tracemalloc.get_traced_memory()[1] / 1e6


def b_cubed(groups: Sequence[Sequence[int]], names: Sequence[str], weights: Sequence[int]) -> float:
    """F1 of B-cubed precision and recall (Bagga and Baldwin 1998), each track by its frames."""
    place = {n: number for number, group in enumerate(groups) for n in group}
    group, name = np.array([place[n] for n in range(len(names))]), np.array(names)
    weight = np.array(weights, np.float64)
    same_group, same_name = group[:, None] == group, name[:, None] == name
    both = (same_group & same_name) @ weight
    precision = float(weight @ (both / (same_group @ weight)) / weight.sum())
    recall = float(weight @ (both / (same_name @ weight)) / weight.sum())
    return 2 * precision * recall / (precision + recall)


def drawn(draw: random.Random, pool: Sequence[ClipTracks]) -> list[ClipTracks]:
    """Draw a batch of 3 to 12 clips that show 2 to 6 people."""
    while True:
        batch = draw.sample(pool, draw.randint(3, min(12, len(pool))))
        if 2 <= len({who for clip in batch for truth in clip.truth.values() for who in truth}) <= 6:
            return [replace(clip, video=clip.video.model_copy(deep=True)) for clip in batch]


def rendered(seed: int, clips: int, seconds: float) -> list[ClipTracks]:
    """Render clips, and find who is in them."""
    draw, pool = random.Random(seed), list[ClipTracks]()
    people = draw.sample(list(IDENTITIES), 8)
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        analyser = FaceAnalyser(load_settings(execution_provider="cpu"), models_dir=Path(folder))
        for clip in range(clips):
            who = draw.sample(people, draw.randint(1, 3))
            scene = Scene(1000 * seed + clip, (480, 270), seconds=seconds, people=len(who), cast=who)
            light = draw.uniform(0.5, 1.1) * np.array([draw.uniform(0.9, 1.1) for _ in range(3)])
            pool.append(seen_in(analyser, str(clip), scene, light))
    return pool


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    took, memory = thousand()
    print(f"1,000 tracks: {took:.2f} s, {memory:.0f} MB\nseed {options.seed}", flush=True)
    pool, draw = rendered(options.seed, options.clips, options.seconds), random.Random(options.seed)
    print(f"{sum(len(clip.frames) for clip in pool)} frames rendered")
    print("clips people tracks groups  B-cubed F1  wrong")
    scores, total, wrong = list[float](), 0, 0
    for _ in range(options.batches):
        clips, known = drawn(draw, pool), KnownPeople()
        for part in (clips[: len(clips) // 2], clips[len(clips) // 2 :]):
            known.found = {clip.video.target: clip.video for clip in part}
            known.add(list(known.found))
        score, bad, frames = score_grouping(known, clips)
        people = len({who for clip in clips for truth in clip.truth.values() for who in truth})
        tracks = sum(len(clip.truth) for clip in clips)
        print(f"{len(clips):5} {people:6} {tracks:6} {len(known.groups):6} {score:11.4f} {bad:4}/{frames}")
        scores, total, wrong = [*scores, score], total + frames, wrong + bad
    print(f"F1 {min(scores):.4f} at least, {np.mean(scores):.4f} on average; {wrong} of {total} frames wrong")


if __name__ == "__main__":
    main()
