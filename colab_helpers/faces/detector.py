"""SCRFD face detection, with pre- and post-processing made fast enough for video.

insightface's own class converts a full letterboxed image and decodes all 16,800 anchors of every frame into
fresh buffers: about 3 ms of CPU time per frame besides the network, the largest single cost of a run. Here,
only anchors that reach the score are decoded, in under 1 ms. Tests compare the results of both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from colab_helpers.errors import ModelError
from colab_helpers.faces.types import AnyArray, ByteImage, FloatArray
from colab_helpers.language import tr
from colab_helpers.models.session import Network

STRIDES = (8, 16, 32)
ANCHORS = 2
NMS_OVERLAP = 0.4
"""Non-maximum suppression drops boxes whose IoU with a better one exceeds this, as insightface does."""

# Input is RGB, (x - 127.5) / 128 (insightface, model_zoo/scrfd.py); padding is black.
_MEAN, _SCALE = 127.5, 128.0
# Index of the first output of each kind; one per stride.
_SCORES, _BOXES, _LANDMARKS = 0, 3, 6
_OUTPUTS = 9


class Detector:
    """An SCRFD network, which gives scores, boxes and five landmarks at three strides.

    Args:
        network: Maps ``(1, 3, ?, ?)`` to nine outputs, each ``(cells * anchors, 1 | 4 | 10)`` with or without
            a leading axis of length 1.

    Raises:
        ModelError: The network has another number of inputs or outputs.
    """

    def __init__(self, network: Network) -> None:
        if len(network.output_names) != _OUTPUTS or len(network.input_names) != 1:
            raise ModelError(
                tr(
                    "the detector must have one input and {outputs} outputs "
                    "(scores, boxes and points at three strides), but has {found_inputs} and {found_outputs}",
                    outputs=_OUTPUTS,
                    found_inputs=len(network.input_names),
                    found_outputs=len(network.output_names),
                ),
                where=str(network.path),
                remedy=tr("use det_10g.onnx of buffalo_l"),
            )
        self.network = network
        self._buffers = threading.local()

    def detect(self, image: ByteImage, *, size: int, score: float) -> tuple[FloatArray, FloatArray]:
        """Detect faces.

        Args:
            image: ``(h, w, 3)`` uint8 BGR, neither side longer than ``size``.
            size: Edge of the network's square input, a multiple of 32.
            score: Minimum score, 0 to 1.

        Returns:
            ``(N, 5)`` boxes (xyxy and score) and ``(N, 5, 2)`` landmarks in pixels of ``image``, best first.
        """
        outputs = self.network.run(self._blob(image, size))
        levels = list(_candidates([output.reshape(-1, output.shape[-1]) for output in outputs], size, score))
        if not levels:
            return np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)
        boxes, kps = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        order = boxes[:, 4].argsort()[::-1]
        boxes, kps = boxes[order], kps[order]
        kept = _suppress(boxes)
        return boxes[kept], kps[kept]

    def _blob(self, image: ByteImage, size: int) -> FloatArray:
        """Place the image in the top left corner of this thread's ``(1, 3, size, size)`` RGB input buffer."""
        blob: FloatArray | None = getattr(self._buffers, "blob", None)
        if blob is None or blob.shape[-1] != size:
            blob = self._buffers.blob = np.empty((1, 3, size, size), np.float32)
            self._buffers.filled = None
        height, width = filled = image.shape[:2]
        if self._buffers.filled != filled:  # the previous image left pixels outside of this one
            blob.fill(-_MEAN / _SCALE)
            self._buffers.filled = filled
        for channel, plane in zip(blob[0], reversed(cv2.split(image)), strict=True):
            part = channel[:height, :width]
            cv2.addWeighted(plane, 1 / _SCALE, plane, 0, -_MEAN / _SCALE, dst=part, dtype=cv2.CV_32F)
        return blob


def _candidates(
    outputs: Sequence[AnyArray], size: int, score: float
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield, for each stride, boxes with scores and landmarks of the anchors that reach the score."""
    for level, stride in enumerate(STRIDES):
        scores = outputs[_SCORES + level].ravel()
        hits = np.flatnonzero(scores >= score)
        if not len(hits):
            continue
        rows, columns = np.divmod(hits // ANCHORS, size // stride)
        # SCRFD anchors lie on the top left corners of the cells, not on their centres.
        anchors = (np.stack([columns, rows], axis=1) * stride).astype(np.float32)
        distances = outputs[_BOXES + level][hits] * stride
        corners = [anchors - distances[:, :2], anchors + distances[:, 2:]]
        kps = anchors[:, None] + outputs[_LANDMARKS + level][hits].reshape(-1, 5, 2) * stride
        yield np.hstack([*corners, scores[hits, None]]).astype(np.float32), kps.astype(np.float32)


def _suppress(boxes: FloatArray) -> list[int]:
    """Return the indices that greedy NMS keeps of boxes sorted by score; areas count whole pixels (+1)."""
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    remaining = np.arange(len(boxes))
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[remaining, :2])
        high = np.minimum(boxes[best, 2:4], boxes[remaining, 2:4])
        intersection = np.prod(np.maximum(0, high - low + 1), axis=1)
        remaining = remaining[intersection / (areas[best] + areas[remaining] - intersection) <= NMS_OVERLAP]
    return kept
