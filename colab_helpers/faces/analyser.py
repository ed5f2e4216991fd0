"""Face detection, embeddings, sex and age with insightface's networks.

The tests compare the results with those of insightface's own classes on the same graphs. A run does not use
these classes: importing insightface takes longer than all the rest of the start.
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
_BOX_SCALE = 1.5  # edge of the crop for sex and age, in longer sides of the face's box
_RECOGNISER_STACK = 16  # bounds the input tensor for a crowd
CONFIDENT_SCORE = 0.7
"""Minimum score of a sure face. One that lies on its side may be detected as an upright face in the wrong
place, but with a lower score."""


class FaceAnalyser:
    """Detects faces, computes their embeddings and, if the settings need them, estimates sex and age.

    Args:
        settings: Detector size, minimum score and execution provider; whether sex and age are needed.
        models_dir: Folder that holds ``buffalo_l/``; see ``models.session.models_root`` for the default.
        runtime: Existing runtime to share; by default one is made from the settings.
    """

    def __init__(
        self, settings: Settings, *, models_dir: Path | None = None, runtime: Runtime | None = None
    ) -> None:
        self._settings = settings
        self._root = models_root(models_dir)
        self._runtime = runtime or Runtime(settings.execution_provider)
        network = self._runtime.open(self._root / _DETECTOR_FILE, edge=settings.face_detector_size)
        self._detector = Detector(network)
        needed = settings.needs_attributes
        self._attributes = self._runtime.open(self._root / _ATTRIBUTES_FILE) if needed else None

    @property
    def networks(self) -> tuple[Network, ...]:
        """Detector, recogniser and, if the settings need it, the network for sex and age."""
        networks = self._detector.network, self._recogniser
        return networks if self._attributes is None else (*networks, self._attributes)

    def load(self) -> None:
        """Load the recogniser now instead of on first use."""
        _ = self._recogniser

    @cached_property
    def _recogniser(self) -> Network:
        return self._runtime.open(self._root / _RECOGNISER_FILE)

    def find(self, image: ByteImage, *, embed: bool = True) -> list[Face]:
        """Find the faces in a single image, best score first; see `search_views`.

        Args:
            image: ``(H, W, 3)`` uint8 BGR.
            embed: Also compute each face's embedding.
        """
        picture = BgrPicture(image)
        faces = self.search(picture)
        return self.embed(picture, faces) if embed else faces

    def search(self, picture: Picture) -> list[Face]:
        """Find the faces in a single picture, best score first; see `search_views`."""
        return self.search_views(picture)[0]

    def search_views(self, picture: Picture) -> tuple[list[Face], View]:
        """Return the faces found in the view with the most confident face, best score first, and that view.

        Other views are tried only if the plain one shows no sure face: a brightened one (if the picture is
        dark), one with a margin (for a face that fills the picture), and rotated ones. Only faces that are
        upright in such a view count.
        """
        plain = picture.detector_view(self._settings.face_detector_size)
        faces = self._in_view(plain)
        best, chosen = self._upright(faces, plain), (faces, VIEWS[0])
        if best and best[0].score >= CONFIDENT_SCORE:
            return chosen
        for view in VIEWS[1 if is_dark(plain) else 2 :]:
            upright = self._upright_in_view(plain, view)
            if upright and (not best or upright[0].score > best[0].score):
                best, chosen = upright, (upright, view)
        return chosen

    def detect(self, picture: Picture, view: View = "plain") -> list[Face]:
        """Find the faces in a picture, best score first, without embeddings.

        Args:
            picture: The picture; if it is dark and shows no sure face, it is also tried brightened.
            view: How it is shown to the detector; in all views but the plain one a face must be upright.
        """
        plain = picture.detector_view(self._settings.face_detector_size)
        if view != "plain":
            return self._upright_in_view(plain, view)
        faces = self._in_view(plain)
        if is_dark(plain) and not (faces and faces[0].score >= CONFIDENT_SCORE):
            bright = self._in_view(apply_view("bright", plain))
            faces = max(faces, bright, key=lambda each: each[0].score if each else 0.0)
        return faces

    def _upright_in_view(self, plain: DetectorView, view: View) -> list[Face]:
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
                # Sorted, because a rotation swaps the corners.
                box=np.sort(transform_points(row[:4].reshape(2, 2), view.to_frame), axis=0).ravel(),
                kps=transform_points(points, view.to_frame),
                score=float(row[4]),
            )
            for row, points in zip(boxes, kps, strict=True)
        ]

    def describe(self, picture: Picture, faces: Sequence[Face]) -> list[Face]:
        """Return the faces with embeddings and, if the settings need them, with sex and age."""
        network, embedded = self._attributes, self.embed(picture, faces)
        if network is None:
            return embedded
        return [replace(face, attributes=sex_and_age(network, picture, face)) for face in embedded]

    def embed(self, picture: Picture, faces: Sequence[Face]) -> list[Face]:
        """Return the faces with embeddings, computed in stacks of bounded size."""
        return [
            replace(face, embedding=unit(feature))
            for group in in_groups(faces, _RECOGNISER_STACK)
            for face, feature in zip(group, self.features(picture, group), strict=True)
        ]

    def features(self, picture: Picture, faces: Sequence[Face]) -> FloatArray:
        """Return the recogniser's raw output for a few faces, ``(N, 512)``: embeddings not yet normalised."""
        template = arcface_template(_RECOGNISER_SIZE)
        crops = [picture.crop(similarity_transform(face.kps, template), _RECOGNISER_SIZE) for face in faces]
        blob = cv2.dnn.blobFromImages(crops, 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True)
        return np.asarray(self._recogniser.run_stack(blob), np.float32)


def sex_and_age(network: Network, picture: Picture, face: Face) -> FloatArray:
    """Estimate sex and age with insightface's ``genderage``: RGB 0 to 255, upright crop around the box.

    Returns:
        ``(2,)``: 1 for a male face, else 0, and age in years, 0 to 100.
    """
    scale = _ATTRIBUTES_SIZE / (_BOX_SCALE * float(max(face.box[2:] - face.box[:2])))
    x, y = (_ATTRIBUTES_SIZE / 2 - scale * centre for centre in face.centre)
    crop = picture.crop(np.array([[scale, 0, x], [0, scale, y]]), _ATTRIBUTES_SIZE)
    ((female, male, age),) = network.run_stack(cv2.dnn.blobFromImage(crop, swapRB=True))
    return np.array([male > female, np.clip(100 * age, 0, 100)], np.float32)


def unit(vector: FloatArray) -> FloatArray:
    """Normalise a vector to length 1; a zero vector stays as it is."""
    norm = float(np.linalg.norm(vector))
    return (vector / norm if norm > 0 else vector).astype(np.float32)
