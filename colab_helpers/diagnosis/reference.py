"""Our results held against insightface's own classes, on the same file, on the CPU; and one real photograph.

Only for real weights: importing insightface takes longer than all other checks, and nothing else does.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check, finding
from colab_helpers.faces.analyser import FaceAnalyser, sex_and_age
from colab_helpers.faces.detector import Detector
from colab_helpers.faces.geometry import arcface_template
from colab_helpers.faces.swapper_enhancer import Swapper
from colab_helpers.faces.types import Face
from colab_helpers.language import mark, tr
from colab_helpers.media.affine import transform_points
from colab_helpers.media.picture import BgrPicture
from colab_helpers.models.session import Network, Runtime
from colab_helpers.settings import Settings

BOXES = 20
"""How many of the best boxes are compared; a made-up picture has no face that would stand out."""
LIMITS = {"detector": 0.05, "recogniser": 0.001, "attributes": 0.6, "swapper": 2.0}
_DETAILS = {
    "detector": mark("{apart:.3g} pixels from insightface's own result ({limit:g} allowed)"),
    "recogniser": mark("{apart:.3g} of the cosine from insightface's own result ({limit:g} allowed)"),
    "attributes": mark("{apart:.3g} years from insightface's own result ({limit:g} allowed)"),
    "swapper": mark("{apart:.3g} grey levels from insightface's own result ({limit:g} allowed)"),
}

# The made-up face: ArcFace's reference points, turned a little and twice as large as in a crop.
# Larger ones are averaged before they are sampled, as insightface does not.
_TURNED = np.array([[1.9, -0.3, 150.0], [0.3, 1.9, 100.0]])
_PICTURE = 640
# Eyes, nose and corners of the mouth in the square that scikit-image's cascade puts on a face, and how far
# a detector may be from there, both in edges of the square: the cascade knows no points, only where they lie.
_SQUARE = np.array([(0.31, 0.36), (0.69, 0.36), (0.5, 0.6), (0.34, 0.76), (0.68, 0.76)])
_ASTRAY = 0.15


def photograph(network: Network, settings: Settings) -> Check:
    """Have a detector find the one face of a real photograph, where a cascade of another make sees it, too.

    Both come inside scikit-image, which insightface needs: nothing is fetched.
    """
    from skimage import data, feature

    files: Any = data
    image, size = files.astronaut(), settings.face_detector_size
    cascade = feature.Cascade(files.lbp_frontal_face_cascade_filename())
    reach = {"min_size": (60, 60), "max_size": (300, 300)}
    (square,) = cascade.detect_multi_scale(img=image, scale_factor=1.2, step_ratio=1, **reach)
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, points = Detector(network).detect(bgr, size=size, score=0.5)
    expected = np.array([square["c"], square["r"]]) + square["width"] * _SQUARE
    off = np.abs(points - expected).max() / square["width"] if len(points) == 1 else np.inf
    told = mark(
        "a real photograph: {faces} face(s), {apart:.2f} of its size from where another detector sees it"
    )
    what = tr(told, faces=len(points), apart=off)
    remedy = tr("fetch it again: python -m colab_helpers preload --accept-licences --verify")
    return finding("photograph", what, "" if off <= _ASTRAY else remedy)


def parity(role: str, network: Network, settings: Settings, models: Path) -> Check:
    """Measure how far a network's result on the CPU lies from that of insightface's own class for it."""
    name = f"parity {network.name}"
    try:
        oracle = _insightface(network.path)
    except ImportError as error:
        what = tr("insightface cannot be imported: {error}", error=error)
        return finding(name, what, tr(INSTALL_REMEDY), warns=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # insightface aligns with a function that is to go
        apart = _MEASURES[role](oracle, network, settings, models)
    remedy = ""
    if not apart <= LIMITS[role]:  # written so that NaN is a problem
        remedy = tr(
            "fetch it again with 'python -m colab_helpers preload --accept-licences --verify', and report it "
            "if that does not help"
        )
    what = tr(_DETAILS[role], apart=apart, limit=LIMITS[role])
    return finding(name, what, remedy, figures={"difference": apart})


def _insightface(path: Path) -> Any:
    """The class insightface takes for a file, with a session of its own."""
    import onnxruntime
    from insightface.model_zoo import get_model

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # as in our own sessions
    # It prints while it loads, into what may be JSON.
    with contextlib.redirect_stdout(io.StringIO()):
        return get_model(str(path), providers=["CPUExecutionProvider"], sess_options=options)


def _detector(oracle: Any, network: Network, settings: Settings, _: Path) -> float:
    """Largest distance of a box or point in pixels; infinite where not the same faces are found."""
    size = settings.face_detector_size
    # Wide as most videos, and exactly as large as the network's picture: nobody resizes anything.
    image = np.ascontiguousarray(_soft_picture(size)[: size * 9 // 16])
    score = _score_of_the_best(network, image, size)
    boxes, points = Detector(network).detect(image, size=size, score=score)
    oracle.prepare(ctx_id=-1, input_size=(size, size), det_thresh=score, nms_thresh=0.4)
    expected_boxes, expected_points = oracle.detect(image)
    if len(boxes) != len(expected_boxes) or not len(boxes):
        return float("inf")
    # Equal scores come in any order.
    ours, theirs = (np.lexsort(found[:, :4].T.round(2)) for found in (boxes, expected_boxes))
    off = [boxes[ours] - expected_boxes[theirs], points[ours] - expected_points[theirs]]
    return float(max(np.abs(values).max() for values in off))


def _score_of_the_best(network: Network, image: Any, size: int) -> float:
    """A score that about ``BOXES`` anchors reach, between two scores so that rounding decides nothing."""
    canvas = np.zeros((size, size, 3), np.float32)
    canvas[: image.shape[0]] = image[..., ::-1]
    outputs = network.run(((canvas - 127.5) / 128).transpose(2, 0, 1)[None].astype(np.float32))
    scores = np.sort(np.concatenate([output.ravel() for output in outputs[:3]]))[::-1]
    return float(scores[BOXES - 1] + scores[BOXES]) / 2


def _recogniser(oracle: Any, network: Network, settings: Settings, models: Path) -> float:
    """How far the cosine of both embeddings is from one."""
    image, points = _soft_picture(_PICTURE), _points(112)
    analyser = FaceAnalyser(settings, models_dir=models, runtime=Runtime("cpu"))
    box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
    (face,) = analyser.embed(BgrPicture(image), [Face(box, points, 1.0)])
    expected = np.asarray(oracle.get(image, SimpleNamespace(kps=points, embedding=None)), np.float64)
    assert face.embedding is not None
    return float(1 - face.embedding @ expected / np.linalg.norm(expected))


def _attributes(oracle: Any, network: Network, settings: Settings, _: Path) -> float:
    """How far an age is from insightface's, which are whole years; infinite where the sex is another."""
    from insightface.app.common import Face as Seen

    image, points = _soft_picture(_PICTURE), _points(112)
    box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
    told = sex_and_age(network, BgrPicture(image), Face(box, points, 1.0))
    male, age = oracle.get(image, Seen(bbox=box))
    return abs(told[1] - np.clip(age, 0, 100)) if told[0] == male else float("inf")


def _swapper(oracle: Any, network: Network, settings: Settings, _: Path) -> float:
    """Largest difference of a swapped crop, in grey levels."""
    swapper = Swapper(network)
    image, points = _soft_picture(_PICTURE), _points(swapper.size)
    identity = np.random.default_rng(1).standard_normal(512).astype(np.float32)
    identity /= np.float32(np.linalg.norm(identity))
    expected, matrix = oracle.get(
        image, SimpleNamespace(kps=points), SimpleNamespace(normed_embedding=identity), paste_back=False
    )
    crop = BgrPicture(image).crop(np.asarray(matrix, np.float64), swapper.size)
    (ours,) = swapper.swap([crop], swapper.latent(identity)[None])
    return float(np.abs(ours.astype(int) - expected).max())


_MEASURES: Mapping[str, Callable[[Any, Network, Settings, Path], float]] = {
    "detector": _detector,
    "recogniser": _recogniser,
    "attributes": _attributes,
    "swapper": _swapper,
}


def _points(size: int) -> Any:
    return transform_points(arcface_template(size), _TURNED).astype(np.float32)


def _soft_picture(size: int) -> Any:
    """A picture of large soft patches, ``(size, size, 3)`` uint8: like a photo, and like nobody."""
    patches = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(patches, (size, size), interpolation=cv2.INTER_CUBIC)
