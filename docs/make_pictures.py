"""Create the README's picture: ``python docs/make_pictures.py``.

Swaps the demo clip of two people and places source, original and result side by side.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers import load_settings, run_batch
from colab_helpers.demo import copy_demo
from colab_helpers.media.images import read_image, write_image
from colab_helpers.pages.pictures import Pair, pair_of
from colab_helpers.trust.consent import DEMO_CONSENT

Image = npt.NDArray[np.uint8]

PICTURE = Path(__file__).with_name("demo.png")
HEIGHT, GAP = 270, 8


def main() -> None:
    """Write ``docs/demo.png``."""
    with tempfile.TemporaryDirectory() as folder:
        demo = copy_demo(Path(folder) / "demo")
        report = run_batch(
            [demo.source],
            [target for target in demo.targets if target.stem == "crossing"],
            Path(folder) / "results",
            consent=DEMO_CONSENT,
            settings=load_settings("quality"),
            models_dir=demo.models,
        )
        file = report.files[0]
        if file.output is None:
            raise SystemExit(f"the demo could not be swapped: {file.error}")
        pair = pair_of(file)
        write_image(PICTURE, side_by_side(read_image(demo.source), pair))


def side_by_side(source: Image, pair: Pair) -> Image:
    """Join source, original and result at the same height, with white gaps; ``(H, W, 3)`` uint8 BGR."""
    parts = [_at_height(image) for image in (source, *pair)]
    gap = np.full((HEIGHT, GAP, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def _at_height(image: Image) -> Image:
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    return np.asarray(cv2.resize(image, (width, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == "__main__":
    main()
