"""Measure how much of an occluder a swap paints over, and how much of the visible face it changes.

``python -m benchmarks.occlusion``; seeds are random unless ``--seeds`` is given.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.masks import FaceMasks
from colab_helpers.faces.types import Face, FloatArray
from colab_helpers.media.picture import BgrPicture
from colab_helpers.pipeline.frames import FrameJob
from colab_helpers.pipeline.visibility import with_visibility
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.covers import COVERS
from tests.people.scene import Rendered, Scene
from tests.people.standins import write_standins

CHANGED = 12
"""Pixels that change by more than this many grey levels count as painted over."""
WAYS = {"box alone": ("box",), "box and occlusion": ("box", "occlusion")}


@dataclass
class OcclusionCounts:
    """Pixel counts over a clip: of occluders and of the visible faces."""

    cover: int = 0
    painted: int = 0
    face: int = 0
    changed: int = 0

    def add(
        self,
        rendered: Rendered,
        before: npt.NDArray[np.uint8],
        job: FrameJob[int, BgrPicture],
        masks: FaceMasks,
    ) -> None:
        """Count the pixels of a swapped frame."""
        size = rendered.frame.shape[:2]
        weights, boxes = BgrPicture(np.zeros((*size, 3), np.uint8)), np.zeros(size, bool)
        for truth in rendered.faces:
            left, top, right, bottom = truth.box.clip(0).astype(int)
            boxes[top:bottom, left:right] = True
        for face_job in map(job.face_job, job.faces):
            matrix = similarity_transform(face_job.face.kps, arcface_template(128))
            mask = masks.of(128, matrix, face_job.face, face_job.visibility)
            weights.paste(np.full((128, 128, 3), 255, np.uint8), matrix, mask, box=face_job.face.box)
        cover, face = boxes & (rendered.covered > 0.5), rendered.mask >= 0.5
        difference = np.abs(job.picture.image.astype(int) - before).max(2)
        self.cover += int(cover.sum())
        self.painted += int((difference[cover] > CHANGED).sum())
        self.face += int(face.sum())
        self.changed += int((weights.image[face][:, 0] >= 128).sum())

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the occluder that is painted over and of the visible face that is changed, 0 to 1."""
        return self.painted / max(self.cover, 1), self.changed / max(self.face, 1)


def count_occlusion(
    engine: Engine, source: FloatArray, scene: Scene, detections: Sequence[Sequence[Face]]
) -> OcclusionCounts:
    """Swap the detected faces of every frame of a scene; return the counts of frames that have any."""
    changer, counts = engine.changer(Treatment(source=source)), OcclusionCounts()

    def jobs() -> Iterator[FrameJob[int, BgrPicture]]:
        for i, faces in enumerate(detections):
            yield FrameJob(i, i, BgrPicture(scene.render(i)[0]), faces)

    for job in with_visibility(jobs(), engine.masks, workers=1):
        before = job.picture.image.copy()
        changer.change(list(map(job.face_job, job.faces)))
        if job.faces:
            counts.add(scene.render_all(job.index), before, job, engine.masks)
    return counts


def true_faces(scene: Scene) -> list[list[Face]]:
    """Return the true faces of every frame of a scene, covered or not."""
    truths = [scene.render(i)[1] for i in range(scene.frames)]
    people = list(scene.cast)
    return [[Face(t.box, t.kps, 0.9, track=people.index(t.who)) for t in faces] for faces in truths]


def table(models: Path, seed: int, *, seconds: float = 2.0) -> Iterator[str]:
    """Yield the lines of a table: each occluder without and with the occlusion mask."""
    yield f"{'occluder':16} {'mask':18} occluder painted  face changed"
    totals = {name: OcclusionCounts() for name in WAYS}
    for number, cover in enumerate([*COVERS, None]):
        scene = Scene(100 * seed + 20 + number, (640, 360), seconds=seconds, people=1, cover=cover)
        for name, types in WAYS.items():
            settings = load_settings(execution_provider="cpu", face_mask_types=types)
            engine = Engine.open(settings, models_dir=models)
            source = engine.analyser.find(portrait("hanna"))[0].embedding
            assert source is not None
            counts = count_occlusion(engine, source, scene, true_faces(scene))
            for field in fields(OcclusionCounts):
                total = getattr(totals[name], field.name) + getattr(counts, field.name)
                setattr(totals[name], field.name, total)
            yield _line(cover or "a passing board", name, counts)
    for name, counts in totals.items():
        yield _line("all", name, counts)


def _line(cover: str, mask: str, counts: OcclusionCounts) -> str:
    painted, changed = counts.shares
    return f"{cover:16} {mask:18} {painted:16.1%} {changed:13.1%}"


def main() -> None:
    """Print a table per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=random.sample(range(1000), 4))
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        for seed in options.seeds:
            print(f"seed {seed}")
            for line in table(Path(folder), seed):
                print(line, flush=True)


if __name__ == "__main__":
    main()
