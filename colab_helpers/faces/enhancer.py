"""The enhancer network: restores detail in aligned 512 px crops."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from colab_helpers.errors import ModelError
from colab_helpers.faces.tensors import to_bgr
from colab_helpers.faces.types import ByteImage
from colab_helpers.language import tr
from colab_helpers.models.session import Network


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
        return to_bgr(self._network.run_stack(blob), low=-1.0, high=1.0)
