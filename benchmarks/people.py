"""Who is who in a batch of rendered clips whose cast is known: ``python -m benchmarks.people``.

Batches of 3 to 12 clips with 2 to 6 people, who return in other clips in another light and pose. Seeds are
drawn at random unless ``--seed`` is given.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.faces import Clip, tracked
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.geometry import overlap
from colab_helpers.faces.people import Appearance, grouped
from colab_helpers.settings import load_settings
from tests.people.looks import IDENTITIES
from tests.people.scene import Scene
from tests.people.standins import write_standins


def seen_in(analyser: FaceAnalyser, video: str, scene: Scene) -> Iterator[tuple[Appearance, str]]:
    """Yield each track of a scene, and who it shows most."""
    shots = [scene.render(i) for i in range(scene.frames)]
    clip = Clip(video, scene.frames, shots.__getitem__)
    found, tracks = tracked(analyser, clip)
    who = defaultdict[int, Counter[str]](Counter)
    for i, faces in enumerate(found):
        for face in faces:
            best = max(shots[i][1], key=lambda truth: overlap(truth.box, face.box), default=None)
            if best is not None and face.track is not None and overlap(best.box, face.box) > 0.3:
                who[face.track][best.who] += 1
    for track in tracks:
        one = Appearance.of(video, track)
        if one is not None and track.number in who:
            yield one, who[track.number].most_common(1)[0][0]


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


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"seed {options.seed}\nclips people  tracks groups  B-cubed F1")
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        analyser = FaceAnalyser(load_settings(execution_provider="cpu"), models_dir=Path(folder))
        for batch in range(options.batches):
            draw = random.Random(100 * options.seed + batch)
            cast = draw.sample(list(IDENTITIES), draw.randint(2, 6))
            clips = draw.randint(3, 12)
            found: list[tuple[Appearance, str]] = []
            for clip in range(clips):
                who = draw.sample(cast, draw.randint(1, min(3, len(cast))))
                seed = 10_000 * options.seed + 100 * batch + clip
                scene = Scene(seed, (640, 360), seconds=options.seconds, people=len(who), cast=who)
                found += seen_in(analyser, str(clip), scene)
            tracks, names = [one for one, _ in found], [name for _, name in found]
            groups = grouped(tracks)
            score = b_cubed(groups, names, [one.found for one in tracks])
            print(f"{clips:5} {len(set(names)):6} {len(tracks):7} {len(groups):6} {score:11.4f}", flush=True)


if __name__ == "__main__":
    main()
