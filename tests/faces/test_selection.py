from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.geometry import face_distance
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.selection import needs_embeddings, order_faces, reference_embedding, select_faces
from colab_helpers.faces.types import Face
from colab_helpers.settings import load_settings


def face(x: float, y: float, size: float, *, score: float = 0.9, angle: float | None = None) -> Face:
    embedding = None
    if angle is not None:
        embedding = np.zeros(512, np.float32)
        embedding[:2] = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    box = np.array([x, y, x + size, y + size], np.float32)
    return Face(box, np.zeros((5, 2), np.float32), score, embedding)


LEFT = face(0, 50, 10, score=0.7, angle=0)
MIDDLE = face(40, 0, 30, score=0.8, angle=30)
RIGHT = face(90, 100, 20, score=0.95, angle=90)
FACES = [RIGHT, LEFT, MIDDLE]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("largest", [MIDDLE, RIGHT, LEFT]),
        ("smallest", [LEFT, RIGHT, MIDDLE]),
        ("left-right", [LEFT, MIDDLE, RIGHT]),
        ("right-left", [RIGHT, MIDDLE, LEFT]),
        ("top-bottom", [MIDDLE, LEFT, RIGHT]),
        ("bottom-top", [RIGHT, LEFT, MIDDLE]),
        ("best", [RIGHT, MIDDLE, LEFT]),
    ],
)
def test_face_orders(order: Any, expected: list[Face]) -> None:
    assert order_faces(FACES, order) == expected


def test_many_faces_selects_all() -> None:
    assert len(select_faces(FACES, load_settings())) == 3


@pytest.mark.parametrize(("position", "expected"), [(0, [LEFT]), (2, [RIGHT]), (3, [])])
def test_single_face_is_selected_by_position(position: int, expected: list[Face]) -> None:
    settings = load_settings(many_faces=False, face_order="left-right", reference_face_position=position)
    assert select_faces(FACES, settings) == expected
    assert not needs_embeddings(settings)


@pytest.mark.parametrize(
    ("angle", "distance", "expected"),
    [(25, 0.85, [MIDDLE]), (0, 0.85, [LEFT]), (60, 0.1, []), (60, 4.0, [RIGHT, MIDDLE]), (180, 0.85, [])],
)
def test_reference_selects_nearest_face_within_distance(
    angle: float, distance: float, expected: list[Face]
) -> None:
    settings = load_settings(many_faces=False, face_selector="reference", similar_face_distance=distance)
    assert needs_embeddings(settings)
    wanted = face(0, 0, 1, angle=angle).embedding
    chosen = select_faces(FACES, settings, person_filter=PersonFilter(wanted))
    assert len(chosen) == min(1, len(expected))
    assert all(item in expected for item in chosen)


def test_face_distance_of_equal_and_orthogonal_embeddings() -> None:
    assert LEFT.embedding is not None
    assert RIGHT.embedding is not None
    assert face_distance(LEFT.embedding, LEFT.embedding) == 0
    assert face_distance(LEFT.embedding, RIGHT.embedding) == pytest.approx(2)


def test_missing_reference_face_error_names_count_and_position() -> None:
    settings = load_settings(many_faces=False, face_selector="reference", reference_face_position=3)
    with pytest.raises(NoFaceError, match=r"3 face\(s\).*position is 3"):
        reference_embedding(FACES, settings, where="clip.mp4")
