"""Compare swapped faces with the rendered ground truth: ``python -m benchmarks.blend_quality``.

Prints three tables: faces cut off by the frame border, faces of several sizes, and a motionless face. The
reference is insightface's ``paste_back`` with the same landmarks. The seed is random unless ``--seed`` is
given.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.faces import Clip, Image, per_frame, tracked
from colab_helpers.faces.assignment import Treatment
from colab_helpers.faces.changer import FaceChanger
from colab_helpers.faces.crop_denoiser import CropDenoiser
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import eye_distance
from colab_helpers.faces.grain import Grain
from colab_helpers.faces.types import Face, FaceJob, FloatArray
from colab_helpers.media.affine import Matrix
from colab_helpers.media.blending import warp_crop
from colab_helpers.media.picture import BgrPicture
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.scene import Rendered, Scene
from tests.people.standins import write_standins

SOURCE = "hanna"
CUTS = (0.15, 0.3, 0.45, 0.6)
SIZES = ((640, 360), (1280, 720), (3376, 1900))
MIN_VISIBLE = 0.97
Method = Callable[[Image, Face], Image]
Inside = npt.NDArray[np.bool_]


class FaceMethods:
    """Ways to change a face; each returns a new image."""

    def __init__(self, folder: Path) -> None:
        settings = load_settings(execution_provider="cpu")
        self.engine = engine = Engine.open(settings, models_dir=folder)
        source = engine.analyser.find(portrait(SOURCE))[0].embedding
        assert source is not None
        assert engine.swapper is not None
        enhancing = engine.changer(Treatment(source=source))
        assert isinstance(enhancing, FaceChanger)
        self.enhancing = enhancing
        self.swapping = replace(enhancing, enhancer=None)
        self._source = SimpleNamespace(normed_embedding=source)
        from insightface.model_zoo.inswapper import INSwapper

        session = engine.swapper.network.session
        self._reference: Any = INSwapper(str(folder / "inswapper_128.onnx"), session=session)

    def paste_back(self, image: Image, face: Face) -> Image:
        """Swap with insightface's own blending."""
        target = SimpleNamespace(kps=face.kps)
        pasted = self._reference.get(image.copy(), target, self._source, paste_back=True)
        return np.asarray(pasted, np.uint8)

    def swapped(self, image: Image, face: Face) -> Image:
        """Swap without enhancement."""
        return _changed(BgrPicture(image.copy()), face, self.swapping)

    def enhanced(self, image: Image, face: Face) -> Image:
        """Swap and enhance."""
        return _changed(BgrPicture(image.copy()), face, self.enhancing)

    def without_grain(self, image: Image, face: Face) -> Image:
        """Swap and enhance without adding the shot's grain."""
        with patch.object(Grain, "of", return_value=None):
            return self.enhanced(image, face)


def _changed(picture: BgrPicture, face: Face, changer: FaceChanger) -> Image:
    changer.change([FaceJob(picture, face)])
    return picture.image


class UncroppedPicture(BgrPicture):
    """A picture cut out of a larger image; aligned crops include what lies beyond its border."""

    def __init__(self, image: Image, uncut: Image, corner: FloatArray) -> None:
        super().__init__(image)
        self._uncut, self._corner = uncut, corner

    def crop(self, matrix: Matrix, size: int, *, coarse: bool = False) -> Image:
        """See ``Picture.crop``."""
        moved = matrix.copy()
        moved[:, 2] -= matrix[:, :2] @ self._corner
        return np.asarray(warp_crop(self._uncut, moved, size), np.uint8)


def psnr(image: Image, truth: Image, inside: Inside) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    error = np.square(image.astype(np.float64) - truth).mean(2)[inside].mean()
    return float(10 * np.log10(255**2 / error))


def seam(image: Image, truth: Image, inside: Inside, face: Face) -> float:
    """Return the 99th percentile of the error's gradient around the inner face, in grey levels per pixel."""
    reach = max(int(0.12 * (face.box[3] - face.box[1])), 2)
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((reach, reach))) > 0) & ~inside
    error = cv2.GaussianBlur(image.astype(np.float32) - truth, (0, 0), 1.5).mean(2)
    gradient = np.hypot(cv2.Sobel(error, -1, 1, 0), cv2.Sobel(error, -1, 0, 1)) / 8
    return float(np.percentile(gradient[ring], 99))


def sharpness(image: Image, inside: Inside) -> float:
    """Return the standard deviation of the Laplacian inside the face."""
    within = cv2.erode(inside.astype(np.uint8), np.ones((9, 9))) > 0
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_32F)[within].std())


def shots(rng: random.Random, size: tuple[int, int], count: int) -> Iterator[Rendered]:
    """Yield random frames, each with one fully visible person."""
    while count:
        scene = Scene(rng.randrange(1_000_000), size, Fraction(25), 4.0, 1)
        shot = scene.render_all(rng.randrange(scene.frames), [SOURCE])
        if len(shot.faces) == 1 and shot.faces[0].visible > MIN_VISIBLE and shot.faces[0].who != SOURCE:
            count -= 1
            yield shot


def _cut(box: FloatArray, side: str, share: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the crop rectangle whose edge cuts off ``share`` of a box at one side (L, T, R or B)."""
    part, index = [0, 0, *size], "LTRB".index(side)
    near, far = float(box[index]), float(box[(index + 2) % 4])
    part[index] = round(near + share * (far - near))
    return part[0], part[1], part[2], part[3]


def cut_faces(methods: FaceMethods, rng: random.Random, count: int) -> None:
    """Print the PSNR inside the visible part of faces that the frame border cuts off."""
    rows: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for shot in shots(rng, SIZES[0], count):
        truth = shot.faces[0]
        true_face = Face(truth.box, truth.kps, 1.0)
        uncut = methods.swapped(shot.frame, true_face)
        for share in CUTS:
            for side in "LTRB":
                left, top, right, bottom = _cut(truth.box, side, share, SIZES[0])
                part = np.s_[top:bottom, left:right]
                frame = np.ascontiguousarray(shot.frame[part])
                target, inside = shot.swapped[SOURCE][part], shot.mask[part] > 0.5
                corner = np.array([left, top], np.float32)
                face = replace(true_face, box=truth.box - np.tile(corner, 2), kps=truth.kps - corner)
                uncropped = UncroppedPicture(frame.copy(), shot.frame, corner)
                row = rows[share]
                detections = methods.engine.analyser.find(frame, embed=False)
                row["detected"].append(float(bool(detections)))
                if not detections:
                    continue
                error = np.linalg.norm(detections[0].kps - face.kps, axis=1).mean()
                row["kps error"].append(float(error) / eye_distance(face.kps))
                for name, image in {
                    "unchanged": frame,
                    "paste_back": methods.paste_back(frame, detections[0]),
                    "product": methods.swapped(frame, detections[0]),
                    "true kps": methods.swapped(frame, face),
                    "uncut crop": _changed(uncropped, face, methods.swapping),
                    "uncut": uncut[part],
                }.items():
                    row[name].append(psnr(image, target, inside))
    _print("cut by the border", {f"{share:.0%}": row for share, row in rows.items()})


def sized_faces(methods: FaceMethods, rng: random.Random, count: int) -> None:
    """Print quality and CPU time for uncut faces of several sizes."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    compared: dict[str, Method] = {
        "paste_back": methods.paste_back,
        "swapped": methods.swapped,
        "enhanced": methods.enhanced,
        "without grain": methods.without_grain,
    }
    for size in SIZES:
        for shot in shots(rng, size, count):
            detections = methods.engine.analyser.find(shot.frame, embed=False)
            truth, inside = shot.swapped[SOURCE], shot.mask > 0.5
            for name, method in compared.items() if detections else ():
                method(shot.frame, detections[0])  # warm-up
                started = time.process_time()
                image = method(shot.frame, detections[0])
                row = rows[f"{size[1]} {name}"]
                row["ms"].append(1000 * (time.process_time() - started))
                row["height"].append(float(shot.faces[0].box[3] - shot.faces[0].box[1]))
                row["dB"].append(psnr(image, truth, inside))
                row["seam"].append(seam(image, truth, inside, detections[0]))
                row["sharpness"].append(sharpness(image, inside) / sharpness(truth, inside))
    _print("uncut faces", rows)


def still_faces(methods: FaceMethods, rng: random.Random, count: int) -> None:
    """Print how much a motionless face flickers after a swap, relative to the input clip.

    Flicker: RMS difference of consecutive frames inside the face, after a Gaussian blur with sigma 4.
    """
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    analyser = methods.engine.analyser
    for _ in range(count):
        scene = Scene(rng.randrange(1_000_000), SIZES[0], Fraction(1000), 0.05, 1)
        rendered = [scene.render_all(i, [SOURCE]) for i in range(scene.frames)]
        if not rendered[0].faces or rendered[0].faces[0].visible < MIN_VISIBLE:
            continue
        inside, frames = rendered[0].mask > 0.5, [shot.frame for shot in rendered]
        clip = Clip("still", len(rendered), [(shot.frame, shot.faces) for shot in rendered].__getitem__)
        images = {"true swap": [shot.swapped[SOURCE] for shot in rendered]}
        detections = {"per frame": per_frame(analyser, clip), "tracked": tracked(analyser, clip)}
        for how, faces in detections.items():
            for name, changer in {"swapped": methods.swapping, "enhanced": methods.enhancing}.items():
                images[f"{how}, {name}"] = _changed_clip(frames, faces, changer, denoise=False)
                if how == "tracked":
                    images[f"denoised, {name}"] = _changed_clip(frames, faces, changer, denoise=True)
        pairs = zip(frames, detections["per frame"], strict=True)
        images["paste_back"] = [methods.paste_back(frame, faces[0]) for frame, faces in pairs if faces]
        for name, changed in images.items():
            rows[name]["flicker"].append(_flicker(changed, inside) / _flicker(frames, inside))
    _print("holding still", rows)


def _changed_clip(
    frames: Sequence[Image], detections: Sequence[Sequence[Face]], changer: FaceChanger, *, denoise: bool
) -> list[Image]:
    denoiser, changed = CropDenoiser(changer.crop), []
    for i, (frame, faces) in enumerate(zip(frames, detections, strict=True)):
        picture = BgrPicture(frame.copy())
        crops = denoiser.crops(picture, faces, first=i == 0 or not denoise)
        changer.change([FaceJob(picture, face, crop=crops.get(face.track)) for face in faces])
        changed.append(picture.image)
    return changed


def _flicker(images: Sequence[Image], inside: Inside) -> float:
    smooth = [cv2.GaussianBlur(image, (0, 0), 4).astype(np.float32)[inside] for image in images]
    return float(np.sqrt(np.mean([np.square(b - a).mean() for a, b in pairwise(smooth)])))


def _print(title: str, rows: dict[str, dict[str, list[float]]]) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"{title:24}" + "".join(f"{column:>13}" for column in columns))
    for name, row in rows.items():
        print(f"{name:24}" + "".join(f"{np.mean(row[column]):13.3f}" for column in columns), flush=True)
    print()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--count", type=int, default=12, help="frames (or clips) per row")
    parser.add_argument("--only", default="", help="only one table: cut, sized or still")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        methods = FaceMethods(Path(folder))
        for table in (cut_faces, sized_faces, still_faces):
            if options.only in table.__name__:
                table(methods, random.Random(options.seed), options.count)


if __name__ == "__main__":
    main()
