"""Runs of the pipeline with networks that are known to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from colab_helpers.faces.engine import Engine
from colab_helpers.settings import Settings, load_settings

SOURCE = np.ones(512, np.float32) / np.float32(512**0.5)
FACE = (200, 60, 440, 300)
"""The constant detector's face in its 640-pixel picture."""


def settings(**overrides: Any) -> Settings:
    base = {"output_video_quality": 0, "output_video_encoder": "libx264", "execution_provider": "cpu"}
    return load_settings("balanced", **{**base, **overrides})


def engine(models: Path, **overrides: Any) -> Engine:
    return Engine.open(settings(**overrides), models_dir=models)


def planes(path: Path) -> list[list[npt.NDArray[np.uint8]]]:
    """The visible samples of every plane of every frame."""
    with av.open(str(path)) as container:
        return [
            [
                np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].copy()
                for plane in frame.planes
            ]
            for frame in container.decode(video=0)
        ]


def assert_same_pictures(one: Path, other: Path) -> None:
    """Compares every sample of every plane."""
    for old, new in zip(planes(one), planes(other), strict=True):
        for first, second in zip(old, new, strict=True):
            np.testing.assert_array_equal(first, second)
