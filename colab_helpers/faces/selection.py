"""Which of a frame's faces are changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.types import Face, FloatArray
from colab_helpers.language import tr
from colab_helpers.settings import FaceOrder, Settings

_KEYS: dict[FaceOrder, Callable[[Face], float]] = {
    "largest": lambda face: -face.area,
    "smallest": lambda face: face.area,
    "left-right": lambda face: face.centre[0],
    "right-left": lambda face: -face.centre[0],
    "top-bottom": lambda face: face.centre[1],
    "bottom-top": lambda face: -face.centre[1],
    "best": lambda face: -face.score,
}


def order_faces(faces: Sequence[Face], order: FaceOrder) -> list[Face]:
    """Sort the faces of one frame."""
    return sorted(faces, key=_KEYS[order])


def face_distance(first: FloatArray, second: FloatArray) -> float:
    """Squared Euclidean distance of two unit embeddings, 0 (same) to 4: 2 - 2 cosine."""
    return float(np.sum(np.square(first - second)))


def needs_embeddings(settings: Settings) -> bool:
    """Whether the choice depends on who the faces are."""
    return not settings.many_faces and settings.face_selector == "reference"


def select_faces(
    faces: Sequence[Face], settings: Settings, *, reference: FloatArray | None = None
) -> list[Face]:
    """Keep the faces that are to be changed.

    Args:
        faces: All faces of one frame; with embeddings if ``needs_embeddings``.
        settings: ``many_faces``, ``face_selector``, ``face_order``, ``reference_face_position`` and
            ``similar_face_distance`` decide.
        reference: Unit embedding of the person to follow, where ``face_selector`` is ``reference``.
    """
    ordered = order_faces(faces, settings.face_order)
    if settings.many_faces:
        return ordered
    if settings.face_selector == "one":
        position = settings.reference_face_position
        return ordered[position : position + 1]
    if reference is None:
        raise ValueError("face_selector=reference needs the reference's embedding")
    return _nearest(ordered, reference, settings.similar_face_distance)


def _nearest(faces: Sequence[Face], reference: FloatArray, limit: float) -> list[Face]:
    """The one face nearest to the reference, if it is near enough."""
    distances = [
        (face_distance(face.embedding, reference), face) for face in faces if face.embedding is not None
    ]
    distance, face = min(distances, key=lambda pair: pair[0], default=(np.inf, None))
    return [face] if face is not None and distance <= limit else []


def reference_embedding(faces: Sequence[Face], settings: Settings, *, where: str) -> FloatArray:
    """The embedding of the face that the settings name as reference.

    Raises:
        NoFaceError: The reference frame shows fewer faces than ``reference_face_position`` asks for.
    """
    ordered = order_faces(faces, settings.face_order)
    position = settings.reference_face_position
    if position >= len(ordered) or ordered[position].embedding is None:
        raise NoFaceError(
            tr(
                "frame {frame} shows {faces} face(s), but reference_face_position is {position}",
                frame=settings.reference_frame_number,
                faces=len(ordered),
                position=position,
            ),
            where=where,
            remedy=tr("choose another reference_frame_number or reference_face_position"),
        )
    embedding = ordered[position].embedding
    assert embedding is not None
    return embedding
