"""Temporal smoothing and interpolation of a face: local quadratic fits to its detections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from colab_helpers.faces.geometry import eye_distance
from colab_helpers.faces.types import Face

DoubleArray = npt.NDArray[np.float64]
# Standard deviation of a detected landmark, and of the change of its speed per frame, both in eye distances;
# standard deviations of the Gaussian windows to try, in frames.
_POINT_NOISE, _SPEED_CHANGE = 0.015, 0.012
_WINDOWS = (6.0, 4.0, 2.5, 1.5, 0.8)
_STIFFNESS = np.diag([0, 1e-6, (_POINT_NOISE / _SPEED_CHANGE) ** 2])


def smooth_face(seen: Sequence[tuple[int, Face]], frame: int) -> Face:
    """Estimate a face in a frame from its detections, ``(frame, face)``, around it.

    The widest window in which the detections fit a quadratic up to noise is used. If none fits, the estimate
    is drawn to the frame's own detection.
    """
    times = np.array([at - frame for at, _ in seen], np.float64)
    points = np.array([_values(face) for _, face in seen])
    nearest = seen[int(np.abs(times).argmin())][1]
    noise = _POINT_NOISE * eye_distance(nearest.kps)
    before, after = times[times <= 0], times[times >= 0]
    gap = float(after.min() - before.max()) if before.size and after.size else 0.0
    for window in _WINDOWS:
        fit, kernel, error = _fit(times, points, max(window, 0.6 * gap))
        if error <= 1.5 * noise:
            break
    score = float(kernel @ [face.score for _, face in seen] / kernel.sum())
    own = np.flatnonzero(times == 0)
    if own.size:
        error = float(np.sqrt(np.square((points[own[0]] - fit)[:10]).mean()))
        fit += (points[own[0]] - fit) * max(0.0, 1 - (2 * noise / max(error, 1e-9)) ** 2)
        score = seen[own[0]][1].score
    values = fit.astype(np.float32)
    return Face(values[10:], values[:10].reshape(5, 2), score)


@lru_cache(maxsize=256)
def _values(face: Face) -> DoubleArray:
    """Return landmarks and box of a face as one vector; cached, as it is used for many frames."""
    return np.concatenate([face.kps.ravel(), face.box]).astype(np.float64)


def _fit(times: DoubleArray, points: DoubleArray, window: float) -> tuple[DoubleArray, DoubleArray, float]:
    """Fit a local quadratic by weighted least squares (Cleveland 1979) and evaluate it at time 0.

    Its curvature is regularised, so that noise alone does not bend it.

    Returns:
        The values at time 0, the weights of the detections, and the weighted root mean square residual of
        the landmarks.
    """
    kernel, solver, residual = _fit_maps(tuple(times.tolist()), window)
    errors = np.square(residual @ points[:, :10])
    return solver @ points, kernel, float(np.sqrt(kernel @ errors.mean(1) / kernel.sum()))


@lru_cache(maxsize=1024)
def _fit_maps(times: tuple[float, ...], window: float) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Return the detections' weights and the linear maps from values to the estimate and to the residuals."""
    at = np.array(times)
    kernel = np.exp(-0.5 * np.square(at / window)) * (np.abs(at) <= 3 * window)
    basis = np.stack([np.ones_like(at), at, at * at / 2], 1)
    weighted = (basis * kernel[:, None]).T
    solver = np.linalg.solve(weighted @ basis + _STIFFNESS, weighted)
    return kernel, solver[0], np.eye(len(at)) - basis @ solver
