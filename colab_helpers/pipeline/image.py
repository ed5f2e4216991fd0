"""Faces of one picture: found, selected, changed."""

from __future__ import annotations

from dataclasses import dataclass

from colab_helpers.faces.compositor import FaceJob
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.selection import needs_embeddings, reference_embedding, select_faces
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.media.picture import BgrPicture, Picture


@dataclass(frozen=True, eq=False)
class FaceFinder:
    """Finds and selects the faces of a picture; the reference stays that of its first frame asked for."""

    engine: Engine
    reference: FloatArray | None

    def find(self, picture: Picture) -> list[Face]:
        """The faces that are to be changed."""
        analyser, settings = self.engine.analyser, self.engine.settings
        faces = analyser.detect(picture)
        if needs_embeddings(settings):
            faces = analyser.embed(picture, faces)
        return select_faces(faces, settings, reference=self.reference)


def process_image(engine: Engine, source: FloatArray | None, image: ByteImage) -> tuple[ByteImage, int]:
    """Change the faces of one image.

    Args:
        engine: The loaded networks.
        source: Unit embedding of the source; None where nothing is swapped.
        image: ``(H, W, 3)`` uint8 BGR; not changed.

    Returns:
        The new image and how many faces were changed.
    """
    picture = BgrPicture(image.copy())
    reference = None
    if needs_embeddings(engine.settings):
        reference = reference_embedding(engine.analyser.find(image), engine.settings, where="image")
    faces = FaceFinder(engine, reference).find(picture)
    engine.changer(source).change([FaceJob(picture, face) for face in faces])
    return picture.image, len(faces)
