"""Alignment: where a face's five points belong in a crop, and the transforms between frame and crop."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from colab_helpers.faces.types import AnyArray, FloatArray
from colab_helpers.media.affine import Matrix
from colab_helpers.models.contracts import Template

# ArcFace's reference points for a 112 px crop (insightface, utils/face_align.py: arcface_dst).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
# ArcFace's earlier points for a 112 px crop, where a face is smaller (FaceFusion: arcface_112_v1).
ARCFACE_112_V1 = np.array(
    [[39.730, 51.138], [72.270, 51.138], [56.000, 68.493], [42.463, 87.010], [69.537, 87.010]], np.float32
)
# FFHQ's reference points for a 512 px crop (facexlib, FaceRestoreHelper: face_template).
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ],
    np.float32,
)
# How far the tip of the nose stands before the eyes, over the distance of the eyes: as in the demo's heads.
_NOSE = 0.45


@cache
def arcface_template(size: int) -> FloatArray:
    """Reference points ``(5, 2)`` for a square ArcFace crop.

    As in insightface: sizes divisible by 112 scale the 112 px points; sizes divisible by 128 scale
    them to 128 with 8 px more on the left, so that the face stays centred.

    Args:
        size: Edge of the crop in pixels, a multiple of 112 or 128.
    """
    if size % 112 == 0:
        return _constant(ARCFACE_112 * np.float32(size / 112))
    if size % 128 == 0:
        ratio = np.float32(size / 128)
        return _constant(ARCFACE_112 * ratio + np.array([8 * ratio, 0], np.float32))
    raise ValueError(f"crop size must be a multiple of 112 or 128, but got {size}")


@cache
def template_of(template: Template, size: int) -> FloatArray:
    """Reference points ``(5, 2)`` of a network's square crop with an edge of ``size`` pixels."""
    if template == "arcface":
        return arcface_template(size)
    points, edge = (FFHQ_512, 512) if template == "ffhq" else (ARCFACE_112_V1, 112)
    return _constant(points * np.float32(size / edge))


def _constant(points: FloatArray) -> FloatArray:
    points.setflags(write=False)
    return points


def similarity_transform(points: AnyArray, template: AnyArray) -> Matrix:
    """Least-squares similarity (rotation, scale, shift) that maps ``points`` onto ``template``.

    Umeyama (1991), eq. 40-42, in its closed form for the plane, where a similarity without mirroring is
    multiplication by one complex number.

    Args:
        points: ``(N, 2)`` pixels of the frame.
        template: ``(N, 2)`` pixels of the crop.

    Returns:
        ``(2, 3)`` float64. Points that all coincide give a pure shift.
    """
    # Five points: Python's own numbers are several times faster than numpy's calls.
    source = [complex(x, y) for x, y in points.tolist()]
    target = [complex(x, y) for x, y in template.tolist()]
    middle, goal = sum(source) / len(source), sum(target) / len(target)
    centred = [(one - middle).conjugate() for one in source]
    spread = sum(one.real * one.real + one.imag * one.imag for one in centred)
    moved = sum(one * (other - goal) for one, other in zip(centred, target, strict=True))
    factor = moved / spread if spread > 0 else 1.0 + 0j
    shift = goal - factor * middle
    return np.array(
        [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]], np.float64
    )


def eye_distance(kps: FloatArray) -> float:
    """Distance of the eyes of five points ``(5, 2)``, in pixels; at least a tenth of one."""
    return max(math.dist(kps[0].tolist(), kps[1].tolist()), 0.1)


def yaw_degrees(kps: FloatArray) -> float:
    """Turn of a head to the side, from how far the nose stands off the middle of the eyes.

    Args:
        kps: ``(5, 2)`` points of a face in pixels.

    Returns:
        Degrees, about 0 to 60 either way; positive where the nose is nearer to the image-right eye.
    """
    axis = (kps[1] - kps[0]).astype(np.float64)
    length = float(axis @ axis)
    if length == 0:
        return 90.0
    offset = float((kps[2] - (kps[0] + kps[1]) / 2) @ axis) / length
    return float(np.degrees(np.arctan(offset / _NOSE)))


def face_distance(first: FloatArray, second: FloatArray) -> float:
    """Squared Euclidean distance of two unit embeddings, 0 (same) to 4: 2 - 2 cosine."""
    return float(np.sum(np.square(first - second)))


def overlap(one: AnyArray, other: AnyArray) -> float:
    """Intersection over union of two xyxy boxes, 0 to 1."""
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = max(float(width), 0.0) * max(float(height), 0.0)
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return shared / max(sum(areas) - shared, 1e-6)
