"""Where a face was between and beside its detections: a curve through them, as smooth as noise allows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from colab_helpers.faces.geometry import eye_distance
from colab_helpers.faces.types import Face

DoubleArray = npt.NDArray[np.float64]
# Smoothing: standard deviation of a detected point, and of the curve's change of speed per frame, in eye
# distances; half-widths of the windows tried, in frames.
_POINT_NOISE, _SPEED_CHANGE = 0.015, 0.012
_WINDOWS = (6.0, 4.0, 2.5, 1.5, 0.8)
_STIFFNESS = np.diag([0, 1e-6, (_POINT_NOISE / _SPEED_CHANGE) ** 2])


def smoothed(seen: Sequence[tuple[int, Face]], frame: int) -> Face:
    """Read a curve through detections around a frame there, by time alone.

    The widest window in which detections are no further from their curve than noise; where none is wide
    enough for that, the detection itself counts.
    """
    times = np.array([at - frame for at, _ in seen], np.float64)
    points = np.array([_values(face) for _, face in seen])
    nearest = seen[int(np.abs(times).argmin())][1]
    noise = _POINT_NOISE * eye_distance(nearest.kps)
    before, after = times[times <= 0], times[times >= 0]
    hole = float(after.min() - before.max()) if before.size and after.size else 0.0
    for window in _WINDOWS:
        fit, kernel, off = _fitted(times, points, max(window, 0.6 * hole))
        if off <= 1.5 * noise:
            break
    score = float(kernel @ [face.score for _, face in seen] / kernel.sum())
    here = np.flatnonzero(times == 0)
    if here.size:
        off = float(np.sqrt(np.square((points[here[0]] - fit)[:10]).mean()))
        fit += (points[here[0]] - fit) * max(0.0, 1 - (2 * noise / max(off, 1e-9)) ** 2)
        score = seen[here[0]][1].score
    values = fit.astype(np.float32)
    return Face(values[10:], values[:10].reshape(5, 2), score)


@lru_cache(maxsize=256)
def _values(face: Face) -> DoubleArray:
    """The five points and the box of a face; one is read in many frames."""
    return np.concatenate([face.kps.ravel(), face.box]).astype(np.float64)


def _fitted(times: DoubleArray, points: DoubleArray, window: float) -> tuple[DoubleArray, DoubleArray, float]:
    """Fit a local quadratic by weighted least squares (Cleveland 1979) and read it at time 0.

    Its curvature is held back as far as it may come from noise alone.

    Returns:
        The values there, the weights of the detections, and how far those are from the curve (root of the
        weighted mean square over the first ten values).
    """
    kernel, solver, off = _fitting(tuple(times.tolist()), window)
    error = off @ points[:, :10]
    error *= error
    return solver @ points, kernel, float(np.sqrt(kernel @ error.mean(1) / kernel.sum()))


@lru_cache(maxsize=1024)
def _fitting(times: tuple[float, ...], window: float) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Return detections' weights, and what makes the values at time 0 and the errors of them."""
    at = np.array(times)
    kernel = np.exp(-0.5 * np.square(at / window)) * (np.abs(at) <= 3 * window)
    basis = np.stack([np.ones_like(at), at, at * at / 2], 1)
    weighted = (basis * kernel[:, None]).T
    solver = np.linalg.solve(weighted @ basis + _STIFFNESS, weighted)
    return kernel, solver[0], np.eye(len(at)) - basis @ solver
