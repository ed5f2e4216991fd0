"""SCRFD's input and output, written for video: only anchors with a face are ever decoded.

insightface's own class converts a full letterbox and decodes all 16,800 anchors of every frame in fresh
buffers: about 3 ms of a core per frame beside the network, the largest single cost of a run. Here it is under
one. The tests hold both to the same boxes, points and scores on the same graphs.
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
"""Boxes that overlap a better one by more (intersection over union) are dropped, as in insightface."""

# Input is RGB, (x - 127.5) / 128 (insightface, model_zoo/scrfd.py); padding is black.
_MIDDLE, _SPREAD = 127.5, 128.0
_SCORES, _BOXES, _POINTS = 0, 3, 6
_OUTPUTS = 9


class Detector:
    """A network of SCRFD's contract: scores, boxes and five points at three strides.

    Args:
        network: ``(1, 3, ?, ?)`` to nine outputs, each ``(cells * anchors, 1 | 4 | 10)`` with or without a
            leading axis of one.
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
        """Find faces.

        Args:
            image: ``(h, w, 3)`` uint8 BGR, neither side longer than ``size``.
            size: Edge of the network's square input, a multiple of 32.
            score: Least score, 0 to 1.

        Returns:
            ``(N, 5)`` boxes (xyxy and score) and ``(N, 5, 2)`` points in pixels of ``image``, best first.
        """
        outputs = self.network.run(self._blob(image, size))
        parts = list(_candidates([output.reshape(-1, output.shape[-1]) for output in outputs], size, score))
        if not parts:
            return np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)
        boxes, points = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = boxes[:, 4].argsort()[::-1]
        boxes, points = boxes[order], points[order]
        kept = _suppress(boxes)
        return boxes[kept], points[kept]

    def _blob(self, image: ByteImage, size: int) -> FloatArray:
        """The image in the top left corner of this thread's ``(1, 3, size, size)`` input, RGB."""
        blob: FloatArray | None = getattr(self._buffers, "blob", None)
        if blob is None or blob.shape[-1] != size:
            blob = self._buffers.blob = np.empty((1, 3, size, size), np.float32)
            self._buffers.filled = None
        height, width = filled = image.shape[:2]
        if self._buffers.filled != filled:  # in place: another view is often a turned one
            blob.fill(-_MIDDLE / _SPREAD)
            self._buffers.filled = filled
        for channel, plane in zip(blob[0], reversed(cv2.split(image)), strict=True):
            part = channel[:height, :width]
            cv2.addWeighted(plane, 1 / _SPREAD, plane, 0, -_MIDDLE / _SPREAD, dst=part, dtype=cv2.CV_32F)
        return blob


def _candidates(
    outputs: Sequence[AnyArray], size: int, score: float
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Boxes with scores, and points, of the anchors that reach the score, stride by stride."""
    for level, stride in enumerate(STRIDES):
        scores = outputs[_SCORES + level].ravel()
        hits = np.flatnonzero(scores >= score)
        if not len(hits):
            continue
        rows, columns = np.divmod(hits // ANCHORS, size // stride)
        # Anchors lie on the cells' corners, not their centres.
        centres = (np.stack([columns, rows], axis=1) * stride).astype(np.float32)
        reach = outputs[_BOXES + level][hits] * stride
        corners = [centres - reach[:, :2], centres + reach[:, 2:]]
        points = centres[:, None] + outputs[_POINTS + level][hits].reshape(-1, 5, 2) * stride
        yield np.hstack([*corners, scores[hits, None]]).astype(np.float32), points.astype(np.float32)


def _suppress(boxes: FloatArray) -> list[int]:
    """Greedy non-maximum suppression over boxes sorted by score; areas count whole pixels (+1)."""
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    left = np.arange(len(boxes))
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:4], boxes[left, 2:4])
        shared = np.prod(np.maximum(0, high - low + 1), axis=1)
        left = left[shared / (areas[best] + areas[left] - shared) <= NMS_OVERLAP]
    return kept
