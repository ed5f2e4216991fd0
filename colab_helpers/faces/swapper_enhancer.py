"""The networks that change aligned crops: the swapper and the enhancer."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from colab_helpers.errors import ModelError
from colab_helpers.faces.types import ByteImage, FloatArray
from colab_helpers.language import tr
from colab_helpers.models.emap import read_emap
from colab_helpers.models.session import Network


class Swapper:
    """inswapper's contract: a target crop and the source's latent give the crop with the new face.

    Args:
        network: ``target (1|N, 3, S, S)`` RGB 0 to 1 and ``source (1|N, 512)`` to the same crop.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        shape = network.session.get_inputs()[0].shape
        size = shape[2] if len(shape) == 4 else None
        if len(network.input_names) != 2 or not isinstance(size, int) or (size % 112 and size % 128):
            raise ModelError(
                tr(
                    "the swapper must take a target crop and a source latent, but its inputs are "
                    "{names} with target shape {shape}",
                    names=", ".join(network.input_names),
                    shape=shape,
                ),
                where=str(network.path),
                remedy=tr("use inswapper_128.onnx"),
            )
        self.size: int = size
        self._emap = read_emap(network.path)

    @property
    def network(self) -> Network:
        """The loaded network."""
        return self._network

    def latent(self, embedding: FloatArray) -> FloatArray:
        """Project a unit embedding ``(512,)`` to the unit latent ``(512,)`` the network wants."""
        latent = embedding @ self._emap
        return np.asarray(latent / np.linalg.norm(latent), np.float32)

    def swap(self, crops: Sequence[ByteImage] | ByteImage, latents: FloatArray) -> ByteImage:
        """Swap any number of crops.

        Args:
            crops: ``(N, S, S, 3)`` uint8 BGR, or a sequence of N of them.
            latents: ``(N, 512)`` float32 from ``latent``.

        Returns:
            ``(N, S, S, 3)`` uint8 BGR.
        """
        blob = cv2.dnn.blobFromImages(list(crops), 1 / 255, swapRB=True)
        output = self._network.run_stack(blob, np.ascontiguousarray(latents, np.float32))
        # Truncated as in insightface: with rounding, tiny differences could add up to two grey levels.
        return _to_bgr(output, low=0.0, high=1.0, truncate=True)


class Enhancer:
    """GFPGAN's contract: RGB crops from -1 to 1 in, the same out.

    Args:
        network: ``input (1|N, 3, 512, 512)`` to ``output`` of that shape.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        shape = network.session.get_inputs()[0].shape
        if len(network.input_names) != 1 or len(shape) != 4 or not isinstance(shape[2], int):
            raise ModelError(
                tr(
                    "the enhancer must take one square crop, but its inputs are {names} with shape {shape}",
                    names=", ".join(network.input_names),
                    shape=shape,
                ),
                where=str(network.path),
                remedy=tr("use GFPGANv1.4.onnx"),
            )
        self.size: int = shape[2]

    @property
    def network(self) -> Network:
        """The loaded network."""
        return self._network

    def enhance(self, crops: Sequence[ByteImage] | ByteImage) -> ByteImage:
        """Enhance any number of ``(S, S, 3)`` uint8 BGR crops; returns ``(N, S, S, 3)``."""
        blob = cv2.dnn.blobFromImages(list(crops), 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True)
        return _to_bgr(self._network.run_stack(blob), low=-1.0, high=1.0)


def _to_bgr(output: FloatArray, *, low: float, high: float, truncate: bool = False) -> ByteImage:
    """Turn RGB planes into BGR pixels: scaled, rounded (or truncated) and clipped.

    Args:
        output: ``(N, 3, S, S)`` float RGB.
        low: The value that is black.
        high: The value that is white.
        truncate: Drop the fraction instead of rounding.

    Returns:
        ``(N, S, S, 3)`` uint8 BGR.
    """
    scale = 255 / (high - low)
    shift = -low * scale - (0.5 if truncate else 0.0)
    images = np.empty((len(output), *output.shape[2:], 3), np.uint8)
    for image, planes in zip(images, output, strict=True):
        # convertScaleAbs rounds and saturates above; the maximum keeps its absolute value from mattering.
        channels = [
            cv2.convertScaleAbs(np.maximum(plane, low), alpha=scale, beta=shift) for plane in planes[::-1]
        ]
        cv2.merge(channels, dst=image)
    return images
