"""Compare our results with insightface's own classes on the CPU, and check one real photograph.

Done only for real weights, since importing insightface takes longer than all other checks.
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
"""Number of the best boxes that are compared, since a synthetic picture has no clear face."""
LIMITS = {"detector": 0.05, "recogniser": 0.001, "attributes": 0.6, "swapper": 2.0}
_DETAILS = {
    "detector": mark("{apart:.3g} pixels from insightface's own result ({limit:g} allowed)"),
    "recogniser": mark("{apart:.3g} of the cosine from insightface's own result ({limit:g} allowed)"),
    "attributes": mark("{apart:.3g} years from insightface's own result ({limit:g} allowed)"),
    "swapper": mark("{apart:.3g} grey levels from insightface's own result ({limit:g} allowed)"),
}

# The synthetic face: ArcFace's template, rotated a little and scaled by about two. Larger faces would be
# averaged before sampling, which insightface does not do.
_FACE_TRANSFORM = np.array([[1.9, -0.3, 150.0], [0.3, 1.9, 100.0]])
_PICTURE = 640
# Typical landmarks (eyes, nose, corners of the mouth) in the square that scikit-image's cascade returns for a
# face, and the allowed deviation, both relative to the square's edge.
_TYPICAL_LANDMARKS = np.array([(0.31, 0.36), (0.69, 0.36), (0.5, 0.6), (0.34, 0.76), (0.68, 0.76)])
_MAX_DEVIATION = 0.15


def photograph(network: Network, settings: Settings) -> Check:
    """Check that a detector finds the one face of a real photograph where scikit-image's cascade finds it.

    Photograph and cascade are part of scikit-image, which insightface requires; nothing is downloaded.
    """
    from skimage import data, feature

    files: Any = data
    image, size = files.astronaut(), settings.face_detector_size
    cascade = feature.Cascade(files.lbp_frontal_face_cascade_filename())
    sizes = {"min_size": (60, 60), "max_size": (300, 300)}
    (square,) = cascade.detect_multi_scale(img=image, scale_factor=1.2, step_ratio=1, **sizes)
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, landmarks = Detector(network).detect(bgr, size=size, score=0.5)
    expected = np.array([square["c"], square["r"]]) + square["width"] * _TYPICAL_LANDMARKS
    deviation = np.abs(landmarks - expected).max() / square["width"] if len(landmarks) == 1 else np.inf
    text = mark("a real photograph: {faces} face(s), {apart:.2f} face sizes from another detector's result")
    what = tr(text, faces=len(landmarks), apart=deviation)
    remedy = tr("fetch it again: python -m colab_helpers preload --accept-licences --verify")
    return finding("photograph", what, "" if deviation <= _MAX_DEVIATION else remedy)


def parity(role: str, network: Network, settings: Settings, models: Path) -> Check:
    """Measure the difference between our result of a network and that of insightface's class for it."""
    name = f"parity {network.name}"
    try:
        oracle = _insightface(network.path)
    except ImportError as error:
        what = tr("insightface cannot be imported: {error}", error=error)
        return finding(name, what, tr(INSTALL_REMEDY), warns=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # insightface calls a deprecated function
        difference = _MEASURES[role](oracle, network, settings, models)
    remedy = ""
    if not difference <= LIMITS[role]:  # written so that NaN is a problem
        remedy = tr(
            "fetch it again with 'python -m colab_helpers preload --accept-licences --verify'; if that does "
            "not help, report it"
        )
    what = tr(_DETAILS[role], apart=difference, limit=LIMITS[role])
    return finding(name, what, remedy, figures={"difference": difference})


def _insightface(path: Path) -> Any:
    """Load a file with insightface's class for it, with its own session."""
    import onnxruntime
    from insightface.model_zoo import get_model

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # as in our own sessions
    # insightface prints while loading, which would corrupt JSON output.
    with contextlib.redirect_stdout(io.StringIO()):
        return get_model(str(path), providers=["CPUExecutionProvider"], sess_options=options)


def _detector(oracle: Any, network: Network, settings: Settings, _: Path) -> float:
    """Return the largest difference of a box or landmark in pixels; infinite if the face count differs."""
    size = settings.face_detector_size
    # 16:9 like most videos, and as wide as the network's input, so that nothing is resized.
    image = np.ascontiguousarray(_smooth_picture(size)[: size * 9 // 16])
    score = _threshold(network, image, size)
    boxes, points = Detector(network).detect(image, size=size, score=score)
    oracle.prepare(ctx_id=-1, input_size=(size, size), det_thresh=score, nms_thresh=0.4)
    expected_boxes, expected_points = oracle.detect(image)
    if len(boxes) != len(expected_boxes) or not len(boxes):
        return float("inf")
    # The order of equal scores is arbitrary.
    ours, theirs = (np.lexsort(each[:, :4].T.round(2)) for each in (boxes, expected_boxes))
    differences = [boxes[ours] - expected_boxes[theirs], points[ours] - expected_points[theirs]]
    return float(max(np.abs(values).max() for values in differences))


def _threshold(network: Network, image: Any, size: int) -> float:
    """Return a score exceeded by ``BOXES`` anchors, midway between two so that rounding does not matter."""
    canvas = np.zeros((size, size, 3), np.float32)
    canvas[: image.shape[0]] = image[..., ::-1]
    outputs = network.run(((canvas - 127.5) / 128).transpose(2, 0, 1)[None].astype(np.float32))
    scores = np.sort(np.concatenate([output.ravel() for output in outputs[:3]]))[::-1]
    return float(scores[BOXES - 1] + scores[BOXES]) / 2


def _recogniser(oracle: Any, network: Network, settings: Settings, models: Path) -> float:
    """Return one minus the cosine similarity of both embeddings."""
    image, points = _smooth_picture(_PICTURE), _landmarks(112)
    analyser = FaceAnalyser(settings, models_dir=models, runtime=Runtime("cpu"))
    box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
    (face,) = analyser.embed(BgrPicture(image), [Face(box, points, 1.0)])
    expected = np.asarray(oracle.get(image, SimpleNamespace(kps=points, embedding=None)), np.float64)
    assert face.embedding is not None
    return float(1 - face.embedding @ expected / np.linalg.norm(expected))


def _attributes(oracle: Any, network: Network, settings: Settings, _: Path) -> float:
    """Return the difference in age (insightface's is in whole years); infinite if the sex differs."""
    from insightface.app.common import Face as InsightFace

    image, points = _smooth_picture(_PICTURE), _landmarks(112)
    box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
    male, age = sex_and_age(network, BgrPicture(image), Face(box, points, 1.0))
    expected_male, expected_age = oracle.get(image, InsightFace(bbox=box))
    return abs(age - np.clip(expected_age, 0, 100)) if male == expected_male else float("inf")


def _swapper(oracle: Any, network: Network, settings: Settings, _: Path) -> float:
    """Return the largest difference of a swapped crop, in grey levels."""
    swapper = Swapper(network)
    image, points = _smooth_picture(_PICTURE), _landmarks(swapper.size)
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


def _landmarks(size: int) -> Any:
    return transform_points(arcface_template(size), _FACE_TRANSFORM).astype(np.float32)


def _smooth_picture(size: int) -> Any:
    """Return a picture of smooth patches, ``(size, size, 3)`` uint8: like a photo, but without a face."""
    patches = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return cv2.resize(patches, (size, size), interpolation=cv2.INTER_CUBIC)
