"""Face alignment: reference landmarks of crops, the transforms between frame and crop, and face metrics."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from colab_helpers.faces.types import AnyArray, FloatArray
from colab_helpers.media.affine import Matrix
from colab_helpers.models.contracts import Template

# ArcFace reference landmarks for a 112 px crop (insightface, utils/face_align.py: arcface_dst).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
# Earlier ArcFace landmarks for a 112 px crop, which show the face smaller (FaceFusion: arcface_112_v1).
ARCFACE_112_V1 = np.array(
    [[39.730, 51.138], [72.270, 51.138], [56.000, 68.493], [42.463, 87.010], [69.537, 87.010]], np.float32
)
# FFHQ reference landmarks for a 512 px crop (facexlib, FaceRestoreHelper: face_template).
FFHQ_512 = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935],
     [201.26117, 371.41043], [313.08905, 371.15118]], np.float32
)  # fmt: skip
# How far the tip of the nose protrudes in front of the eyes, in eye distances, on the demo's heads.
_NOSE_DEPTH = 0.45


@cache
def arcface_template(size: int) -> FloatArray:
    """Return the reference landmarks ``(5, 2)`` for a square ArcFace crop.

    As in insightface, multiples of 112 scale the 112 px landmarks; multiples of 128 place them, shifted
    right by 8 px to stay centred, in a 128 px crop and scale that.

    Args:
        size: Edge of the crop in pixels, a multiple of 112 or 128 (else ValueError).
    """
    if size % 112 == 0:
        return _read_only(ARCFACE_112 * np.float32(size / 112))
    if size % 128 == 0:
        ratio = np.float32(size / 128)
        return _read_only(ARCFACE_112 * ratio + np.array([8 * ratio, 0], np.float32))
    raise ValueError(f"crop size must be a multiple of 112 or 128, but got {size}")


@cache
def template_of(template: Template, size: int) -> FloatArray:
    """Return the reference landmarks ``(5, 2)`` for a template and a square crop of ``size`` pixels."""
    if template == "arcface":
        return arcface_template(size)
    points, edge = (FFHQ_512, 512) if template == "ffhq" else (ARCFACE_112_V1, 112)
    return _read_only(points * np.float32(size / edge))


def _read_only(points: FloatArray) -> FloatArray:
    points.setflags(write=False)
    return points


def similarity_transform(points: AnyArray, template: AnyArray) -> Matrix:
    """Return the least-squares similarity (rotation, scale, translation) from ``points`` to ``template``.

    Umeyama (1991), eq. 40-42, in closed form for the plane, where a similarity without reflection is a
    multiplication by one complex number plus a translation.

    Args:
        points: ``(N, 2)``, in frame pixels.
        template: ``(N, 2)``, in crop pixels.

    Returns:
        ``(2, 3)`` float64; a pure translation if all points coincide.
    """
    # For five points, Python complex numbers are several times faster than numpy.
    source = [complex(x, y) for x, y in points.tolist()]
    target = [complex(x, y) for x, y in template.tolist()]
    source_mean, target_mean = sum(source) / len(source), sum(target) / len(target)
    centred = [(point - source_mean).conjugate() for point in source]
    variance = sum(point.real * point.real + point.imag * point.imag for point in centred)
    covariance = sum(a * (b - target_mean) for a, b in zip(centred, target, strict=True))
    factor = covariance / variance if variance > 0 else 1.0 + 0j
    shift = target_mean - factor * source_mean
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]], np.float64
    )


def eye_distance(kps: FloatArray) -> float:
    """Return the distance between the eyes of landmarks ``(5, 2)``, in pixels; at least 0.1."""
    return max(math.dist(kps[0].tolist(), kps[1].tolist()), 0.1)


def yaw_degrees(kps: FloatArray) -> float:
    """Estimate the yaw of a head from the offset of the nose from the midpoint between the eyes.

    Args:
        kps: ``(5, 2)`` landmarks in pixels.

    Returns:
        Degrees, about -60 to 60, positive if the nose is nearer to the image-right eye; 90 if the eyes
        coincide.
    """
    axis = (kps[1] - kps[0]).astype(np.float64)
    length = float(axis @ axis)
    if length == 0:
        return 90.0
    offset = float((kps[2] - (kps[0] + kps[1]) / 2) @ axis) / length
    return float(np.degrees(np.arctan(offset / _NOSE_DEPTH)))


def face_distance(first: FloatArray, second: FloatArray) -> float:
    """Return the squared Euclidean distance of two unit embeddings, 0 (same) to 4: 2 - 2 cosine."""
    return float(np.sum(np.square(first - second)))


def overlap(one: AnyArray, other: AnyArray) -> float:
    """Return the intersection over union of two xyxy boxes, 0 to 1."""
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    intersection = max(float(width), 0.0) * max(float(height), 0.0)
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return intersection / max(sum(areas) - intersection, 1e-6)
