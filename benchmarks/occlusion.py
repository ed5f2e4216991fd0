"""What is in front of faces: how much of it a swap paints over, and how much of the face it still changes.

``python -m benchmarks.occlusion``; seeds are drawn at random unless ``--seeds`` are given.
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
"""Grey levels from which a pixel counts as painted over."""
WAYS = {"box alone": ("box",), "box and occlusion": ("box", "occlusion")}


@dataclass
class OcclusionCounts:
    """Pixels counted over a clip: of what is in front of faces, and of what is seen of them."""

    cover: int = 0
    painted: int = 0
    face: int = 0
    kept: int = 0

    def add(
        self,
        shown: Rendered,
        before: npt.NDArray[np.uint8],
        work: FrameJob[int, BgrPicture],
        masks: FaceMasks,
    ) -> None:
        """Count a frame after it was changed."""
        size = shown.frame.shape[:2]
        weights, boxes = BgrPicture(np.zeros((*size, 3), np.uint8)), np.zeros(size, bool)
        for truth in shown.faces:
            left, top, right, bottom = truth.box.clip(0).astype(int)
            boxes[top:bottom, left:right] = True
        for job in map(work.face_job, work.faces):
            place = similarity_transform(job.face.kps, arcface_template(128))
            mask = masks.of(128, place, job.face, job.visibility)
            weights.paste(np.full((128, 128, 3), 255, np.uint8), place, mask, box=job.face.box)
        cover, face = boxes & (shown.covered > 0.5), shown.mask >= 0.5
        apart = np.abs(work.picture.image.astype(int) - before).max(2)
        self.cover += int(cover.sum())
        self.painted += int((apart[cover] > CHANGED).sum())
        self.face += int(face.sum())
        self.kept += int((weights.image[face][:, 0] >= 128).sum())

    @property
    def shares(self) -> tuple[float, float]:
        """Share of the cover that is painted over, and of the seen face that is changed, 0 to 1."""
        return self.painted / max(self.cover, 1), self.kept / max(self.face, 1)


def count_occlusion(
    engine: Engine, source: FloatArray, scene: Scene, found: Sequence[Sequence[Face]]
) -> OcclusionCounts:
    """Change the faces that were found in each frame of a scene, and count; frames without any do not."""
    changer, counted = engine.changer(Treatment(source=source)), OcclusionCounts()

    def works() -> Iterator[FrameJob[int, BgrPicture]]:
        for i, faces in enumerate(found):
            yield FrameJob(i, i, BgrPicture(scene.render(i)[0]), faces)

    for work in with_visibility(works(), engine.masks, workers=1):
        before = work.picture.image.copy()
        changer.change(list(map(work.face_job, work.faces)))
        if work.faces:
            counted.add(scene.render_all(work.index), before, work, engine.masks)
    return counted


def true_faces(scene: Scene) -> list[list[Face]]:
    """Where the faces are in every frame of a scene, whether they are covered or not."""
    truths = [scene.render(i)[1] for i in range(scene.frames)]
    people = list(scene.cast)
    return [[Face(t.box, t.kps, 0.9, track=people.index(t.who)) for t in faces] for faces in truths]


def table(models: Path, seed: int, *, seconds: float = 2.0) -> Iterator[str]:
    """Yield the lines of a table: each cover with and without occlusion."""
    yield f"{'before the face':16} {'way':18} cover painted over  face changed"
    whole = {name: OcclusionCounts() for name in WAYS}
    for number, cover in enumerate([*COVERS, None]):
        scene = Scene(100 * seed + 20 + number, (640, 360), seconds=seconds, people=1, cover=cover)
        for name, types in WAYS.items():
            engine = Engine.open(
                load_settings(execution_provider="cpu", face_mask_types=types), models_dir=models
            )
            source = engine.analyser.find(portrait("hanna"))[0].embedding
            assert source is not None
            counted = count_occlusion(engine, source, scene, true_faces(scene))
            for field in fields(OcclusionCounts):
                total = getattr(whole[name], field.name) + getattr(counted, field.name)
                setattr(whole[name], field.name, total)
            yield _line(cover or "a passing board", name, counted)
    for name, counted in whole.items():
        yield _line("all of them", name, counted)


def _line(cover: str, way: str, counted: OcclusionCounts) -> str:
    painted, kept = counted.shares
    return f"{cover:16} {way:18} {painted:17.1%} {kept:13.1%}"


def main() -> None:
    """Run from a shell."""
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
