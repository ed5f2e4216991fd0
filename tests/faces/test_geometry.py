from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from insightface.utils import face_align

from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.media.affine import compose, crop_bounds, invert, transform_points


@pytest.mark.parametrize("size", [112, 128, 224, 256, 512, 896])
@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
def test_alignment_equals_insightface(size: int) -> None:
    rng = np.random.default_rng(size)
    for _ in range(20):
        points = (rng.uniform(50, 900, 2) + rng.normal(0, 40, (5, 2))).astype(np.float32)
        ours = similarity_transform(points, arcface_template(size))
        np.testing.assert_allclose(ours, face_align.estimate_norm(points, size), atol=1e-3, rtol=1e-4)


def test_unsupported_template_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="100"):
        arcface_template(100)


@given(st.floats(-180, 180), st.floats(0.05, 20), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_similarity_transform_is_recovered(angle: float, scale: float, x: float, y: float) -> None:
    turn = np.radians(angle)
    true = np.array(
        [[scale * np.cos(turn), -scale * np.sin(turn), x], [scale * np.sin(turn), scale * np.cos(turn), y]]
    )
    template = arcface_template(128)
    points = transform_points(template, invert(true))
    moved = transform_points(points, similarity_transform(points, template))
    np.testing.assert_allclose(moved, template, atol=0.05)


def test_coincident_points_give_finite_matrix() -> None:
    assert np.isfinite(similarity_transform(np.full((5, 2), 7.0, np.float32), arcface_template(128))).all()


def test_compose_applies_inner_matrix_first() -> None:
    double = np.array([[2.0, 0, 0], [0, 2, 0]])
    shift = np.array([[1.0, 0, 5], [0, 1, 0]])
    point = np.array([[1.0, 1.0]])
    np.testing.assert_allclose(transform_points(point, compose(double, shift)), [[12, 2]])
    np.testing.assert_allclose(transform_points(point, compose(shift, double)), [[7, 2]])


def test_crop_bounds_of_rotated_and_degenerate_matrices() -> None:
    rotation = np.array([[0.0, 2, 4], [-2, 0, 6]])
    assert crop_bounds(rotation, 11) == pytest.approx((-2, -2, 3, 3))
    assert crop_bounds(np.array([[1e-9, 0, 0], [0, 1e-9, 0]]), 11) == (0, 0, 1e6, 1e6)
    assert crop_bounds(np.full((2, 3), np.nan), 11) == (0, 0, 0, 0)
