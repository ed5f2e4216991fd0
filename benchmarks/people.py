"""Measure person clustering on rendered clips with known people: ``python -m benchmarks.people``.

Clips of one to three people out of eight, each with its own light and poses, are rendered once; batches of 3
to 12 clips with 2 to 6 people are drawn at random. Half of a batch is grouped first, then the other half is
added. Each group counts as the person it shows most often; a frame is wrong if somebody in it belongs to
another person's group. The seed is random unless ``--seed`` is given.
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

from benchmarks.faces import Clip, Shot, track_clip
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
    """A clip's tracks and their truth.

    Attributes:
        target: The clip as the people record holds it.
        truth: By track number, the people the track shows, with their numbers of frames.
        frames: For each frame, track number and person of every face.
    """

    target: KnownTarget
    truth: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    frames: list[list[tuple[int, str]]] = field(default_factory=list)


def track_scene(analyser: FaceAnalyser, name: str, scene: Scene, light: np.ndarray) -> ClipTracks:
    """Track the people of a scene whose BGR channels are multiplied by ``light``, of shape ``(3,)``."""

    def lit(i: int) -> Shot:
        image, faces = scene.render(i)
        return np.clip(image * light, 0, 255).astype(np.uint8), faces

    shots = [lit(i) for i in range(scene.frames)]
    detections, tracks = track_clip(analyser, Clip(name, scene.frames, shots.__getitem__))
    summaries = [summary for track in tracks if (summary := TrackSummary.of(name, track))]
    seen = {summary.track: KnownTrack.of(summary, chosen=False) for summary in summaries}
    people = dict.fromkeys((track.number for track in tracks), UNKNOWN_PERSON)
    sight = FaceVisibility(frames=len(shots), faces=1)
    clip = ClipTracks(
        KnownTarget(target=name, sha256=name, rate=_RATE, sight=sight, tracks=people, seen=seen)
    )
    for (_, truths), faces in zip(shots, detections, strict=True):
        shown = []
        for face in faces:
            best = max(truths, key=lambda truth: overlap(truth.box, face.box), default=None)
            if best is not None and face.track is not None and overlap(best.box, face.box) > 0.3:
                shown.append((face.track, best.who))
                clip.truth[face.track][best.who] += 1
        clip.frames.append(shown)
    return clip


def score_grouping(known: KnownPeople, clips: Sequence[ClipTracks]) -> tuple[float, int, int]:
    """Return the B-cubed F1 of the tracks, the number of wrong frames, and that of frames with a face."""
    tracks = [(clip.target.tracks[number], truth) for clip in clips for number, truth in clip.truth.items()]
    totals = defaultdict[str, Counter[str]](Counter)
    for group, truth in tracks:
        totals[group].update(truth)
    names = {group: truth.most_common(1)[0][0] for group, truth in totals.items() if group != UNKNOWN_PERSON}
    wrong = frames = 0
    for clip in clips:
        for shown in clip.frames:
            frames += bool(shown)
            wrong += any(names.get(clip.target.tracks[track], who) != who for track, who in shown)
    # A track without a group is a group of its own.
    labels = [group or str(n) for n, (group, _) in enumerate(tracks)]
    groups = [[n for n, other in enumerate(labels) if other == label] for label in dict.fromkeys(labels)]
    main = [truth.most_common(1)[0] for _, truth in tracks]
    return b_cubed(groups, [who for who, _ in main], [count for _, count in main]), wrong, frames


def cluster_thousand() -> tuple[float, float]:
    """Return the seconds and peak MB of clustering 1,000 tracks of 40 people in 25 clips."""
    rng = np.random.default_rng(0)
    people = rng.normal(size=(40, 512))
    embeddings = people[np.arange(1000) % 40] + 0.7 * rng.normal(size=(1000, 512))
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    tracks = [TrackSummary(str(n // 40), n, 0, 50, 50, row, 4) for n, row in enumerate(embeddings)]
    cluster_tracks(tracks[:9])  # import scipy outside the measurement
    started = time.perf_counter()
    groups = cluster_tracks(tracks)
    seconds = time.perf_counter() - started
    assert len(groups) == 40
    tracemalloc.start()
    cluster_tracks(tracks)
    return seconds, tracemalloc.get_traced_memory()[1] / 1e6


def b_cubed(groups: Sequence[Sequence[int]], names: Sequence[str], weights: Sequence[int]) -> float:
    """Return the F1 of B-cubed precision and recall (Bagga and Baldwin 1998), tracks weighted by frames."""
    group_of = {n: number for number, group in enumerate(groups) for n in group}
    group, name = np.array([group_of[n] for n in range(len(names))]), np.array(names)
    weight = np.array(weights, np.float64)
    same_group, same_name = group[:, None] == group, name[:, None] == name
    both = (same_group & same_name) @ weight
    precision = float(weight @ (both / (same_group @ weight)) / weight.sum())
    recall = float(weight @ (both / (same_name @ weight)) / weight.sum())
    return 2 * precision * recall / (precision + recall)


def people_in(clips: Sequence[ClipTracks]) -> set[str]:
    """Return everybody whom the clips show."""
    return {who for clip in clips for truth in clip.truth.values() for who in truth}


def draw_batch(rng: random.Random, pool: Sequence[ClipTracks]) -> list[ClipTracks]:
    """Draw a batch of 3 to 12 clips that show 2 to 6 people."""
    while True:
        batch = rng.sample(pool, rng.randint(3, min(12, len(pool))))
        if 2 <= len(people_in(batch)) <= 6:
            return [replace(clip, target=clip.target.model_copy(deep=True)) for clip in batch]


def render_clips(seed: int, clips: int, seconds: float) -> list[ClipTracks]:
    """Render clips and track the people in them."""
    rng, pool = random.Random(seed), list[ClipTracks]()
    people = rng.sample(list(IDENTITIES), 8)
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        analyser = FaceAnalyser(load_settings(execution_provider="cpu"), models_dir=Path(folder))
        for clip in range(clips):
            cast = rng.sample(people, rng.randint(1, 3))
            scene = Scene(1000 * seed + clip, (480, 270), seconds=seconds, people=len(cast), cast=cast)
            light = rng.uniform(0.5, 1.1) * np.array([rng.uniform(0.9, 1.1) for _ in range(3)])
            pool.append(track_scene(analyser, str(clip), scene, light))
    return pool


def main() -> None:
    """Print a row per batch, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    seconds, memory = cluster_thousand()
    print(f"1,000 tracks: {seconds:.2f} s, {memory:.0f} MB\nseed {options.seed}", flush=True)
    pool = render_clips(options.seed, options.clips, options.seconds)
    print(f"{sum(len(clip.frames) for clip in pool)} frames rendered")
    print("clips people tracks groups  B-cubed F1  wrong")
    rng, scores, total, wrong = random.Random(options.seed), list[float](), 0, 0
    for _ in range(options.batches):
        clips, known = draw_batch(rng, pool), KnownPeople()
        for part in (clips[: len(clips) // 2], clips[len(clips) // 2 :]):
            known.found = {clip.target.target: clip.target for clip in part}
            known.add(list(known.found))
        score, bad, frames = score_grouping(known, clips)
        people, groups = len(people_in(clips)), len(known.groups)
        tracks = sum(len(clip.truth) for clip in clips)
        print(f"{len(clips):5} {people:6} {tracks:6} {groups:6} {score:11.4f} {bad:4}/{frames}")
        scores, total, wrong = [*scores, score], total + frames, wrong + bad
    print(f"F1: minimum {min(scores):.4f}, mean {np.mean(scores):.4f}; {wrong} of {total} frames wrong")


if __name__ == "__main__":
    main()
