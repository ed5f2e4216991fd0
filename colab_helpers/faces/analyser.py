"""Finding faces and telling them apart, by the contracts of insightface's detector and recogniser.

insightface's own classes are the yardstick: the tests hold this module to their results on the same graphs.
They are not called in a run, because importing the package takes longer than starting everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from colab_helpers.faces.detector import Detector
from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.types import ByteImage, Face, FloatArray
from colab_helpers.faces.views import VIEWS, View, apply_view, is_dark, is_upright
from colab_helpers.media.affine import invert, transform_points
from colab_helpers.media.picture import BgrPicture, DetectorView, Picture
from colab_helpers.models.session import Network, Runtime, models_root
from colab_helpers.settings import Settings
from colab_helpers.stages import in_groups

_DETECTOR_FILE = Path("buffalo_l/det_10g.onnx")
_RECOGNISER_FILE = Path("buffalo_l/w600k_r50.onnx")
_ATTRIBUTES_FILE = Path("buffalo_l/genderage.onnx")
_RECOGNISER_SIZE, _ATTRIBUTES_SIZE = 112, 96
_BOX_SCALE = 1.5  # longer sides of a face's box make an edge of the crop by which sex and age are told
# A crowd must not become one huge tensor.
_RECOGNISER_STACK = 16
CONFIDENT_SCORE = 0.7
"""Score of a sure face: one on its side may be found upright in the wrong place, but with a lower one."""


class FaceAnalyser:
    """Detects faces and computes their embeddings; tells sex and age, too, where settings ask for it.

    Args:
        settings: Detector size and least score; where networks run; whether sex and age are asked for.
        models_dir: Folder that holds ``buffalo_l/``; by default see ``models.session.models_root``.
        runtime: Shares an existing runtime instead of making one from the settings.
    """

    def __init__(
        self, settings: Settings, *, models_dir: Path | None = None, runtime: Runtime | None = None
    ) -> None:
        self._settings = settings
        self._root = models_root(models_dir)
        self._runtime = runtime or Runtime(settings.execution_provider)
        network = self._runtime.open(self._root / _DETECTOR_FILE, edge=settings.face_detector_size)
        self._detector = Detector(network)
        asked = settings.asks_attributes
        self._attributes = self._runtime.open(self._root / _ATTRIBUTES_FILE) if asked else None

    @property
    def networks(self) -> tuple[Network, ...]:
        """Detector, recogniser and, where it is asked, the one that tells sex and age."""
        found = self._detector.network, self._recogniser
        return found if self._attributes is None else (*found, self._attributes)

    def load(self) -> None:
        """Load the recogniser, too, which otherwise waits until it is needed."""
        _ = self._recogniser

    @cached_property
    def _recogniser(self) -> Network:
        return self._runtime.open(self._root / _RECOGNISER_FILE)

    def find(self, image: ByteImage, *, embed: bool = True) -> list[Face]:
        """Find the faces of a single image, best score first; see `search`.

        Args:
            image: ``(H, W, 3)`` uint8 BGR.
            embed: Also compute each face's embedding.
        """
        picture = BgrPicture(image)
        faces = self.search(picture)
        return self.embed(picture, faces) if embed else faces

    def search(self, picture: Picture) -> list[Face]:
        """Find the faces of a single picture; where none is sure, look at other views of it, too."""
        return self.search_views(picture)[0]

    def search_views(self, picture: Picture) -> tuple[list[Face], View]:
        """Return the faces of the view in which one is surest, best score first, and that view.

        Other views count only where the plain one shows no sure face: a brighter one where the picture is
        dark, one with a margin (a face may fill the picture), and turned ones; and of what is found in them
        only what stands upright there.
        """
        plain = picture.detector_view(self._settings.face_detector_size)
        faces = self._in_view(plain)
        best, chosen = self._upright(faces, plain), (faces, VIEWS[0])
        if best and best[0].score >= CONFIDENT_SCORE:
            return chosen
        for view in VIEWS[1 if is_dark(plain) else 2 :]:
            found = self._standing(plain, view)
            if found and (not best or found[0].score > best[0].score):
                best, chosen = found, (found, view)
        return chosen

    def detect(self, picture: Picture, view: View = "plain") -> list[Face]:
        """Find the faces of a picture, best score first, without embeddings.

        Args:
            picture: What is looked at; one that is dark and shows no sure face is looked at brightened, too.
            view: How it is shown to the detector; in another one than the plain a face must stand upright.
        """
        plain = picture.detector_view(self._settings.face_detector_size)
        if view != "plain":
            return self._standing(plain, view)
        faces = self._in_view(plain)
        if is_dark(plain) and not (faces and faces[0].score >= CONFIDENT_SCORE):
            bright = self._in_view(apply_view("bright", plain))
            faces = max(faces, bright, key=lambda found: found[0].score if found else 0.0)
        return faces

    def _standing(self, plain: DetectorView, view: View) -> list[Face]:
        shown = apply_view(view, plain)
        return self._upright(self._in_view(shown), shown)

    @staticmethod
    def _upright(faces: Sequence[Face], view: DetectorView) -> list[Face]:
        to_view = invert(view.to_frame)
        return [face for face in faces if is_upright(transform_points(face.kps, to_view))]

    def _in_view(self, view: DetectorView) -> list[Face]:
        size = self._settings.face_detector_size
        boxes, kps = self._detector.detect(view.image, size=size, score=self._settings.face_detector_score)
        return [
            Face(
                box=_upright_box(transform_points(row[:4].reshape(2, 2), view.to_frame)),
                kps=transform_points(points, view.to_frame),
                score=float(row[4]),
            )
            for row, points in zip(boxes, kps, strict=True)
        ]

    def describe(self, picture: Picture, faces: Sequence[Face]) -> list[Face]:
        """Return the faces with embeddings and, where settings ask for them, with sex and age."""
        network, embedded = self._attributes, self.embed(picture, faces)
        if network is None:
            return embedded
        return [replace(face, attributes=sex_and_age(network, picture, face)) for face in embedded]

    def embed(self, picture: Picture, faces: Sequence[Face]) -> list[Face]:
        """Return the faces with embeddings, computed in stacks of bounded size."""
        groups = in_groups(faces, _RECOGNISER_STACK)
        return [face for group in groups for face in self._embed_stack(picture, group)]

    def _embed_stack(self, picture: Picture, faces: Sequence[Face]) -> list[Face]:
        features = self.features(picture, faces)
        return [replace(face, embedding=unit(one)) for face, one in zip(faces, features, strict=True)]

    def features(self, picture: Picture, faces: Sequence[Face]) -> FloatArray:
        """Return what the recogniser says of a few faces, ``(N, 512)``: embeddings that have their length."""
        template = arcface_template(_RECOGNISER_SIZE)
        crops = [picture.crop(similarity_transform(face.kps, template), _RECOGNISER_SIZE) for face in faces]
        blob = cv2.dnn.blobFromImages(crops, 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True)
        return np.asarray(self._recogniser.run_stack(blob), np.float32)


def sex_and_age(network: Network, picture: Picture, face: Face) -> FloatArray:
    """Ask insightface's ``genderage``: RGB from 0 to 255, upright, the face's box in the middle.

    Returns:
        ``(2,)``: 1 for a male face, else 0, and years from 0 to 100.
    """
    scale = _ATTRIBUTES_SIZE / (_BOX_SCALE * float(max(face.box[2:] - face.box[:2])))
    x, y = (_ATTRIBUTES_SIZE / 2 - scale * middle for middle in face.centre)
    crop = picture.crop(np.array([[scale, 0, x], [0, scale, y]]), _ATTRIBUTES_SIZE)
    (told,) = network.run_stack(cv2.dnn.blobFromImage(crop, swapRB=True))
    return np.array([told[1] > told[0], np.clip(100 * told[2], 0, 100)], np.float32)


def _upright_box(corners: FloatArray) -> FloatArray:
    """The xyxy box of two opposite corners, whichever they are (a rotated picture swaps them)."""
    return np.concatenate([corners.min(0), corners.max(0)]).astype(np.float32)


def unit(vector: FloatArray) -> FloatArray:
    """Return a vector at length 1; one without length as it is."""
    norm = float(np.linalg.norm(vector))
    return (vector / norm if norm > 0 else vector).astype(np.float32)
