"""Compare changed faces with the rendered true swap: ``python -m benchmarks.blend_quality``.

Three tables: faces cut by the frame's border, faces of several sizes, and a face that holds still. Beside the
product's own ways stands insightface's ``paste_back`` on the same points. Seeds are drawn at random unless
``--seed`` is given.
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

from benchmarks.faces import Clip, Image, alone, followed
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
Paint = Callable[[Image, Face], Image]
Inside = npt.NDArray[np.bool_]


class FaceMethods:
    """The ways to change a face, by name; each gives a new picture."""

    def __init__(self, folder: Path) -> None:
        settings = load_settings(execution_provider="cpu")
        self.engine = engine = Engine.open(settings, models_dir=folder)
        source = engine.analyser.find(portrait(SOURCE))[0].embedding
        assert source is not None
        assert engine.swapper is not None
        whole = engine.changer(Treatment(source=source))
        assert isinstance(whole, FaceChanger)
        self.whole = whole
        self.swap = replace(self.whole, enhancer=None)
        self._source = SimpleNamespace(normed_embedding=source)
        from insightface.model_zoo.inswapper import INSwapper

        self._oracle: Any = INSwapper(
            str(folder / "inswapper_128.onnx"), session=engine.swapper.network.session
        )

    def paste_back(self, image: Image, face: Face) -> Image:
        """As insightface does it."""
        pasted = self._oracle.get(image.copy(), SimpleNamespace(kps=face.kps), self._source, paste_back=True)
        return np.asarray(pasted, np.uint8)

    def swapped(self, image: Image, face: Face) -> Image:
        """Swapped by the product, and not enhanced."""
        return _changed(BgrPicture(image.copy()), face, self.swap)

    def enhanced(self, image: Image, face: Face) -> Image:
        """Swapped and enhanced by the product."""
        return _changed(BgrPicture(image.copy()), face, self.whole)

    def smooth(self, image: Image, face: Face) -> Image:
        """Swapped and enhanced, without the grain of the shot."""
        with patch.object(Grain, "of", return_value=None):
            return self.enhanced(image, face)


def _changed(picture: BgrPicture, face: Face, changer: FaceChanger) -> Image:
    changer.change([FaceJob(picture, face)])
    return picture.image


class UncroppedPicture(BgrPicture):
    """A picture cut out of a larger one, whose crops show what is beyond its border."""

    def __init__(self, image: Image, whole: Image, corner: FloatArray) -> None:
        super().__init__(image)
        self._all, self._corner = whole, corner

    def crop(self, matrix: Matrix, size: int, *, coarse: bool = False) -> Image:
        """See ``Picture.crop``."""
        moved = matrix.copy()
        moved[:, 2] -= matrix[:, :2] @ self._corner
        return np.asarray(warp_crop(self._all, moved, size), np.uint8)


def psnr(image: Image, truth: Image, inside: Inside) -> float:
    """Peak signal to noise in dB."""
    error = np.square(image.astype(np.float64) - truth).mean(2)[inside].mean()
    return float(10 * np.log10(255**2 / error))


def seam(image: Image, truth: Image, inside: Inside, face: Face) -> float:
    """Steepest step that a change leaves around the inner face, in grey levels a pixel: 99th percentile."""
    reach = max(int(0.12 * (face.box[3] - face.box[1])), 2)
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((reach, reach))) > 0) & ~inside
    error = cv2.GaussianBlur(image.astype(np.float32) - truth, (0, 0), 1.5).mean(2)
    return float(
        np.percentile(np.hypot(cv2.Sobel(error, -1, 1, 0), cv2.Sobel(error, -1, 0, 1))[ring] / 8, 99)
    )


def sharpness(image: Image, inside: Inside) -> float:
    """Deviation of the Laplacian inside the face."""
    within = cv2.erode(inside.astype(np.uint8), np.ones((9, 9))) > 0
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_32F)[within].std())


def shots(rng: random.Random, size: tuple[int, int], count: int) -> Iterator[Rendered]:
    """Yield pictures of one person each, who is wholly seen, at random."""
    while count:
        scene = Scene(rng.randrange(1_000_000), size, Fraction(25), 4.0, 1)
        shot = scene.render_all(rng.randrange(scene.frames), [SOURCE])
        if len(shot.faces) == 1 and shot.faces[0].visible > MIN_VISIBLE and shot.faces[0].who != SOURCE:
            count -= 1
            yield shot


def _cut(box: FloatArray, side: str, share: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a picture whose border cuts so much of a box off at one side."""
    left, top, right, bottom = (float(edge) for edge in box)
    part = [0, 0, *size]
    part["LTRB".index(side)] = round(
        {
            "L": left + share * (right - left),
            "T": top + share * (bottom - top),
            "R": right - share * (right - left),
            "B": bottom - share * (bottom - top),
        }[side]
    )
    return part[0], part[1], part[2], part[3]


def cut_faces(ways: FaceMethods, rng: random.Random, count: int) -> None:
    """Print how faces come out that the border cuts, in dB inside what is seen of them."""
    figures: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for shot in shots(rng, SIZES[0], count):
        truth = shot.faces[0]
        true = Face(truth.box, truth.kps, 1.0)
        uncut = ways.swapped(shot.frame, true)
        for share in CUTS:
            for side in "LTRB":
                left, top, right, bottom = _cut(truth.box, side, share, SIZES[0])
                part = np.s_[top:bottom, left:right]
                frame = np.ascontiguousarray(shot.frame[part])
                target, inside = shot.swapped[SOURCE][part], shot.mask[part] > 0.5
                corner = np.array([left, top], np.float32)
                there = replace(true, box=true.box - np.tile(corner, 2), kps=true.kps - corner)
                beyond = UncroppedPicture(frame.copy(), shot.frame, corner)
                row = figures[share]
                found = ways.engine.analyser.find(frame, embed=False)
                row["found"].append(float(bool(found)))
                if not found:
                    continue
                off = np.linalg.norm(found[0].kps - there.kps, axis=1).mean()
                row["points"].append(float(off) / eye_distance(there.kps))
                for name, image in {
                    "untouched": frame,
                    "paste_back": ways.paste_back(frame, found[0]),
                    "product": ways.swapped(frame, found[0]),
                    "true points": ways.swapped(frame, there),
                    "shown whole": _changed(beyond, there, ways.swap),
                    "uncut": uncut[part],
                }.items():
                    row[name].append(psnr(image, target, inside))
    _print("cut by the border", {f"{share:.0%}": row for share, row in figures.items()})


def sized_faces(ways: FaceMethods, rng: random.Random, count: int) -> None:
    """Print how whole faces of several sizes come out, and what that costs."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    paints: dict[str, Paint] = {
        "paste_back": ways.paste_back,
        "per frame": ways.swapped,
        "enhanced": ways.enhanced,
        "without grain": ways.smooth,
    }
    for size in SIZES:
        for shot in shots(rng, size, count):
            found = ways.engine.analyser.find(shot.frame, embed=False)
            truth, inside = shot.swapped[SOURCE], shot.mask > 0.5
            for name, paint in paints.items() if found else ():
                paint(shot.frame, found[0])
                begun = time.process_time()
                image = paint(shot.frame, found[0])
                row = rows[f"{size[1]} {name}"]
                row["ms"].append(1000 * (time.process_time() - begun))
                row["pixels"].append(float(shot.faces[0].box[3] - shot.faces[0].box[1]))
                row["dB"].append(psnr(image, truth, inside))
                row["seam"].append(seam(image, truth, inside, found[0]))
                row["sharpness"].append(sharpness(image, inside) / sharpness(truth, inside))
    _print("whole faces", rows)


def still_faces(ways: FaceMethods, rng: random.Random, count: int) -> None:
    """Print how much more a face that holds still flickers than it did.

    Root mean square, over the inner face, of the steps in what a blur of 4 pixels leaves, over the clip's.
    """
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    analyser = ways.engine.analyser
    for _ in range(count):
        scene = Scene(rng.randrange(1_000_000), SIZES[0], Fraction(1000), 0.05, 1)
        seen = [scene.render_all(i, [SOURCE]) for i in range(scene.frames)]
        if not seen[0].faces or seen[0].faces[0].visible < MIN_VISIBLE:
            continue
        inside, frames = seen[0].mask > 0.5, [shot.frame for shot in seen]
        clip = Clip("still", len(seen), [(shot.frame, shot.faces) for shot in seen].__getitem__)
        own = _steps(frames, inside)
        found = {"by itself": alone(analyser, clip), "followed": followed(analyser, clip)}
        for where, faces in found.items():
            for name, changer in {"swapped": ways.swap, "enhanced": ways.whole}.items():
                row = rows[f"{where}, {name}"]
                row["flicker"].append(_steps(_played(frames, faces, changer, steady=False), inside) / own)
                if where == "followed":
                    played = _played(frames, faces, changer, steady=True)
                    rows["steadied, " + name]["flicker"].append(_steps(played, inside) / own)
        pasted = [
            ways.paste_back(f, one[0]) for f, one in zip(frames, found["by itself"], strict=True) if one
        ]
        rows["paste_back"]["flicker"].append(_steps(pasted, inside) / own)
        true = _steps([shot.swapped[SOURCE] for shot in seen], inside)
        rows["true swap"]["flicker"].append(true / own)
    _print("holding still", rows)


def _played(
    frames: Sequence[Image], found: Sequence[Sequence[Face]], changer: FaceChanger, *, steady: bool
) -> list[Image]:
    steadier, played = CropDenoiser(changer.crop), []
    for i, (frame, faces) in enumerate(zip(frames, found, strict=True)):
        picture = BgrPicture(frame.copy())
        crops = steadier.crops(picture, faces, first=i == 0 or not steady)
        changer.change([FaceJob(picture, face, crop=crops.get(face.track)) for face in faces])
        played.append(picture.image)
    return played


def _steps(images: Sequence[Image], inside: Inside) -> float:
    smooth = [cv2.GaussianBlur(image, (0, 0), 4).astype(np.float32)[inside] for image in images]
    return float(np.sqrt(np.mean([np.square(b - a).mean() for a, b in pairwise(smooth)])))


def _print(title: str, rows: dict[str, dict[str, list[float]]]) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"{title:24}" + "".join(f"{column:>13}" for column in columns))
    for name, row in rows.items():
        print(f"{name:24}" + "".join(f"{np.mean(row[column]):13.3f}" for column in columns), flush=True)
    print()


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    parser.add_argument("--count", type=int, default=12, help="pictures of each kind")
    parser.add_argument("--only", default="", help="cut, sized or still")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        write_standins(Path(folder))
        ways = FaceMethods(Path(folder))
        for table in (cut_faces, sized_faces, still_faces):
            if options.only in table.__name__:
                table(ways, random.Random(options.seed), options.count)


if __name__ == "__main__":
    main()
