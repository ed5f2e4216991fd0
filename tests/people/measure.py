"""Quality metrics of the stand-ins on rendered scenes.

The stand-ins run in insightface's own classes, which also checks their contracts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.people.actors import portrait
from tests.people.looks import IDENTITIES
from tests.people.scene import FaceTruth, Scene

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

DETECTOR_SIZE = (640, 640)
MIN_HEIGHT, MAX_ROLL, MIN_VISIBLE = 80.0, 25.0, 0.99


@dataclass
class Figures:
    asked: int = 0  # faces that must be found
    found: int = 0  # those found
    false: int = 0  # detections that are no face
    frames: int = 0  # frames measured
    landmark: list[float] = field(default_factory=list)  # landmark error over eye distance
    same: list[float] = field(default_factory=list)  # cosines of portrait and face in a frame
    different: list[float] = field(default_factory=list)  # the same, of other people's portraits
    to_source: list[float] = field(default_factory=list)  # cosines of swapped face and source
    to_original: list[float] = field(default_factory=list)  # the same, and the person replaced
    psnr: list[float] = field(default_factory=list)  # inside the face, against the true swap, dB
    gain: list[float] = field(default_factory=list)  # the same less the unswapped frame's, dB

    @property
    def recall(self) -> float:
        """Share of the required faces that were found, 0..1."""
        return self.found / max(self.asked, 1)


class Tools:
    """The stand-ins of a models folder in insightface's classes, on the CPU."""

    def __init__(self, models: Path) -> None:
        import onnxruntime
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX
        from insightface.model_zoo.attribute import Attribute
        from insightface.model_zoo.inswapper import INSwapper
        from insightface.model_zoo.scrfd import SCRFD

        def load(kind: Any, name: str) -> Any:
            path, options = str(models / name), onnxruntime.SessionOptions()
            options.log_severity_level, options.intra_op_num_threads = 3, 1
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            return kind(model_file=path, session=session)

        self.detector = load(SCRFD, "buffalo_l/det_10g.onnx")
        self.detector.prepare(-1, input_size=DETECTOR_SIZE, det_thresh=0.5)
        self.recogniser = load(ArcFaceONNX, "buffalo_l/w600k_r50.onnx")
        self.attributes = load(Attribute, "buffalo_l/genderage.onnx")
        self.swapper = load(INSwapper, "inswapper_128.onnx")

    def faces(self, image: U8, *, embed: bool = True) -> list[Any]:
        """Detect faces and, by default, embed them."""
        from insightface.app.common import Face

        boxes, points = self.detector.detect(image, input_size=DETECTOR_SIZE)
        faces = [Face(bbox=b[:4], kps=k, det_score=b[4]) for b, k in zip(boxes, points, strict=True)]
        for face in faces if embed else ():
            self.recogniser.get(image, face)
        return faces

    def portraits(self) -> dict[str, Any]:
        """Return the largest face found in every character's portrait."""
        found = {who: self.faces(portrait(who)) for who in IDENTITIES}
        return {who: max(faces, key=lambda f: f.bbox[2] - f.bbox[0]) for who, faces in found.items() if faces}


def _match(truth: FaceTruth, faces: list[Any]) -> Any | None:
    """The detection with the largest IoU with a true face, if above 0.4."""
    best, score = None, 0.4
    for face in faces:
        low, high = np.maximum(truth.box[:2], face.bbox[:2]), np.minimum(truth.box[2:], face.bbox[2:])
        shared = float(np.prod(np.clip(high - low, 0, None)))
        areas = [float(np.prod(box[2:] - box[:2])) for box in (truth.box, face.bbox)]
        if shared / (sum(areas) - shared) > score:
            best, score = face, shared / (sum(areas) - shared)
    return best


def must_be_found(truth: FaceTruth) -> bool:
    """Whether the detector must find a face: large enough, fully visible, little roll."""
    height = float(truth.box[3] - truth.box[1])
    return height >= MIN_HEIGHT and truth.visible >= MIN_VISIBLE and abs(truth.roll) <= MAX_ROLL


def _touches(truth: FaceTruth, face: Any) -> bool:
    centre = (face.bbox[:2] + face.bbox[2:]) / 2
    reach = 0.35 * (truth.box[2:] - truth.box[:2])
    return bool(((centre > truth.box[:2] - reach) & (centre < truth.box[2:] + reach)).all())


def measure_detection(scene: Scene, frames: Iterable[int], tools: Tools, into: Figures) -> None:
    """Add recall, landmark errors and false faces of some frames."""
    for i in frames:
        image, truths = scene.render(i)
        faces = tools.faces(image, embed=False)
        into.frames += 1
        into.false += sum(not any(_touches(t, face) for t in truths) for face in faces)
        for truth in filter(must_be_found, truths):
            face = _match(truth, faces)
            into.asked += 1
            if face is not None:
                into.found += 1
                gap = float(np.linalg.norm(truth.kps[1] - truth.kps[0]))
                into.landmark.append(float(np.linalg.norm(face.kps - truth.kps, axis=1).mean()) / gap)


def _cosine(a: Any, b: Any) -> float:
    return float(a.normed_embedding @ b.normed_embedding)


def measure_identity(
    scene: Scene, frames: Iterable[int], tools: Tools, portraits: dict[str, Any], into: Figures
) -> None:
    """Add cosines between the faces of some frames and all portraits."""
    for i in frames:
        image, truths = scene.render(i)
        faces = tools.faces(image)
        for truth in filter(must_be_found, truths):
            face = _match(truth, faces)
            for who, other in portraits.items() if face is not None else ():
                (into.same if who == truth.who else into.different).append(_cosine(face, other))


def _psnr(a: U8, b: U8, inside: npt.NDArray[np.bool_]) -> float:
    error = a[inside].astype(np.float32) - b[inside].astype(np.float32)
    return float(10 * np.log10(255.0**2 / max(float((error**2).mean()), 1e-9)))


def measure_swap(
    scene: Scene, frames: Iterable[int], source: str, tools: Tools, portraits: dict[str, Any], into: Figures
) -> None:
    """Add the metrics of swapping every face of some frames to ``source``."""
    for i in frames:
        result = scene.render_all(i, [source])
        swapped = result.frame.copy()
        faces = tools.faces(result.frame, embed=False)
        known = [(t, f) for t in filter(must_be_found, result.faces) if (f := _match(t, faces)) is not None]
        known = [(t, f) for t, f in known if t.who != source]
        if len(known) < len(result.faces):
            continue
        for _, face in known:
            swapped = tools.swapper.get(swapped, face, portraits[source], paste_back=True)
        inside = result.mask > 0.5
        if known and inside.any():
            into.psnr.append(_psnr(swapped, result.swapped[source], inside))
            into.gain.append(into.psnr[-1] - _psnr(result.frame, result.swapped[source], inside))
        _add_cosines(swapped, known, portraits, source, tools, into)


def _add_cosines(
    swapped: U8,
    known: list[tuple[FaceTruth, Any]],
    portraits: dict[str, Any],
    source: str,
    tools: Tools,
    into: Figures,
) -> None:
    faces = tools.faces(swapped)
    for truth, _ in known:
        face = _match(truth, faces)
        if face is not None:
            into.to_source.append(_cosine(face, portraits[source]))
            into.to_original.append(_cosine(face, portraits[truth.who]))
