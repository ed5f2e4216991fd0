"""Synthetic faces with known positions and identities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from colab_helpers.faces.geometry import ARCFACE_112, eye_distance
from colab_helpers.faces.types import Face

Points = npt.NDArray[np.float32]
EYES = eye_distance(ARCFACE_112)
NOISE = 0.02 * EYES


def person(number: int) -> Points:
    rng = np.random.default_rng(number)
    vector = rng.normal(size=512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def face(
    x: float, y: float = 100.0, *, who: int | None = None, size: float = 1.0, score: float = 0.9
) -> Face:
    kps = (ARCFACE_112 - ARCFACE_112.mean(0)) * size + np.array([x, y])
    half = 56 * size
    box = np.array([x - half, y - half, x + half, y + half], np.float32)
    embedding = None if who is None else person(who)
    return Face(box, kps.astype(np.float32), score, embedding)
