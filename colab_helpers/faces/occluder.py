"""The mask networks: the occluder, which finds what covers a face, and the parser of face regions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from colab_helpers.errors import ModelError
from colab_helpers.faces.types import ByteImage
from colab_helpers.language import mark, tr
from colab_helpers.models.session import Network

OCCLUDER_SIZE, PARSER_SIZE = 256, 512
_PARTS = 19
# Mean and standard deviation of ImageNet (RGB, 0 to 1), by which the parser's input is normalised.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Occluder:
    """An XSeg network: how much of the face is visible in each pixel.

    Args:
        network: Maps ``(1|N, 256, 256, 3)`` BGR, 0 to 1, to ``(1|N, 256, 256, 1)``, 1 where the face is seen.

    Raises:
        ModelError: The network has other inputs or outputs.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        _check(network, (OCCLUDER_SIZE, OCCLUDER_SIZE, 3), (OCCLUDER_SIZE, OCCLUDER_SIZE, 1), "xseg_1.onnx")

    def seen(self, crops: Sequence[ByteImage]) -> ByteImage:
        """Return the visibility ``(N, 256, 256)`` of ``(N, 256, 256, 3)`` BGR crops: 255 is fully visible."""
        blob = np.stack(crops, dtype=np.float32)
        blob *= np.float32(1 / 255)
        shares = self.network.run_stack(blob)[..., 0]
        seen = [cv2.addWeighted(share, 255, share, 0, 0, dtype=cv2.CV_8U) for share in shares]
        return np.stack(seen).astype(np.uint8, copy=False)


class FaceParser:
    """A BiSeNet network: which part of a head each pixel shows.

    Args:
        network: Maps ``(1|N, 3, 512, 512)`` RGB, normalised as for ImageNet, to logits
            ``(1|N, 19, 512, 512)``.

    Raises:
        ModelError: The network has other inputs or outputs.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        shape = (PARSER_SIZE, PARSER_SIZE)
        _check(network, (3, *shape), (_PARTS, *shape), "bisenet_resnet_34.onnx")

    def parts(self, crops: Sequence[ByteImage]) -> ByteImage:
        """Return the class of each pixel, ``(N, 512, 512)``, in ``(N, 512, 512, 3)`` BGR crops."""
        blob = cv2.dnn.blobFromImages(list(crops), 1 / 255, swapRB=True)
        blob = (blob - _MEAN[:, None, None]) / _STD[:, None, None]
        return np.asarray(self.network.run_stack(blob).argmax(1), np.uint8)


def _check(network: Network, source: tuple[int, ...], result: tuple[int, ...], example: str) -> None:
    """Raise ModelError unless the network has one input, and it and the first output have these shapes.

    Shapes exclude the batch; dynamic dimensions match any size.
    """
    items = [*network.session.get_inputs(), *network.session.get_outputs()[:1]]
    shapes = [tuple(item.shape[1:]) for item in items]
    if len(shapes) != 2 or not (_fits(shapes[0], source) and _fits(shapes[1], result)):
        text = mark("the network must map shape {input} to {output}, but its shapes are {shapes}")
        raise ModelError(
            tr(text, input=source, output=result, shapes=shapes),
            where=str(network.path),
            remedy=tr("use {name}", name=example),
        )


def _fits(shape: tuple[int | str, ...], expected: tuple[int, ...]) -> bool:
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(one == size or not isinstance(one, int) for one, size in pairs)
