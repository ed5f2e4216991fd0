"""Decide whether a network's faces are sampled and blended on the GPU: tried once per machine and recorded.

The record lies beside the float16 copies (``models.model_conversion``). A resumed run follows it, so that all
frames are processed in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.faces.changer import FaceChanger
from colab_helpers.faces.geometry import FFHQ_512
from colab_helpers.faces.pixel_graph import VERSION
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import Face, FaceJob
from colab_helpers.language import mark, tr
from colab_helpers.media.picture import VideoPicture
from colab_helpers.models.model_conversion import (
    Conversion,
    ModelChoice,
    comparison_key,
    converted_path,
    remove_outdated,
)
from colab_helpers.models.parity import Reason, Verdict
from colab_helpers.models.session import Runtime
from colab_helpers.models.session_pool import PooledSession, first_line
from colab_helpers.settings import FrameProcessor

ALLOWED = 1, 3
"""Permitted mean and maximum difference in grey levels between the results of OpenCV and of a pixel path."""
_WIDTH, _HEIGHT, _FACE, _REPEATS = 1280, 720, 300, 5


def choose_paths(
    choices: Mapping[FrameProcessor, ModelChoice],
    swapper: Swapper | None,
    enhancer: Enhancer | None,
    runtime: Runtime,
) -> tuple[dict[FrameProcessor, PixelPath], list[str]]:
    """Return the pixel paths of the steps that can sample and blend on the GPU, and notes on the others."""
    paths: dict[FrameProcessor, PixelPath] = {}
    notes, parts = [], {"face_swapper": swapper, "face_enhancer": enhancer}
    text = mark("{name}: faces are sampled and blended on the CPU, because {reason}")
    for step, choice in choices.items():
        part = parts[step]
        if part is None or runtime.provider == "cpu":
            continue
        path, reason = choose_path(part, choice.original, runtime)
        if path is not None:
            paths[step] = path
        else:
            notes.append(tr(text, name=choice.name, reason=reason))
    return paths, notes


def choose_path(part: Swapper | Enhancer, original: Path, runtime: Runtime) -> tuple[PixelPath | None, str]:
    """Return a network's pixel path if it is accurate and saves CPU time; else None and the reason.

    Must be called before decoders and encoders are at work, see ``GpuSession``.

    Args:
        part: The network, on CUDA.
        original: Its original model file, beside which the record lies.
        runtime: The runtime that opened it.
    """
    if isinstance(part, Swapper) and part.boosted:
        return None, tr("it works in tiles")
    path, session = PixelPath(part, runtime), part.network.session
    with session.track_growth() if isinstance(session, PooledSession) else nullcontext():
        try:
            problem = _problem(path, original)
        except Exception as error:  # noqa: BLE001 - whatever fails, out of memory included, OpenCV can do it
            problem = first_line(error)
        if problem:
            path.drop()
    return (None, problem) if problem else (path, "")


def _problem(path: PixelPath, original: Path) -> str:
    """Return why the path must not be used, or ""; prepare its graphs, and try it if nothing is recorded."""
    graphs, target = path.runtime.graphs, converted_path(original, "pixels")
    key = f"{comparison_key(path.runtime)}, {'captured' if graphs else 'plain'} {VERSION}"
    record = Conversion.of(target)
    if key not in record.verdicts or not record.verdicts[key].reason:
        path.prepare(capture=graphs)
    if key not in record.verdicts:
        record = record.model_copy(update={"verdicts": {**record.verdicts, key: try_path(path)}})
        if not record.write(target):  # if writing fails, the verdict holds for this run only
            remove_outdated(target)
    return record.verdicts[key].problem


def try_path(path: PixelPath) -> Verdict:
    """Compare the pixel path with OpenCV on a synthetic face."""
    before, expected, usual = _measure(path.part, {})
    _, actual, own = _measure(path.part, {path.step: path})
    levels = np.abs(actual - expected)[(expected != before) | (actual != before)]
    return make_verdict(float(levels.mean()), float(levels.max()), usual, own)


def make_verdict(mean: float, most: float, usual: float, own: float) -> Verdict:
    """Judge the mean and maximum difference in grey levels and the CPU times of both ways in milliseconds."""
    differs = mean > ALLOWED[0] or most > ALLOWED[1]
    reason: Reason = "differs" if differs else "slower" if own >= usual else ""
    figures = {"mean": mean, "max": most, "mean_limit": ALLOWED[0], "max_limit": ALLOWED[1]}
    return Verdict(reason=reason, usual=usual, own=own, **figures)


def _measure(
    part: Swapper | Enhancer, paths: Mapping[FrameProcessor, PixelPath]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], float]:
    """Return a frame's samples before and after a change, and the CPU milliseconds per face."""
    if isinstance(part, Swapper):
        changer = FaceChanger(part, np.full(512, 512**-0.5, np.float32), None, paths=paths)
    else:
        changer = FaceChanger(None, None, part, paths=paths)
    seconds, results = [], []
    for _ in range(1 + _REPEATS):
        picture, face = _example()
        before = _samples(picture)
        started = time.process_time()
        changer.change([FaceJob(picture, face)])
        seconds.append(time.process_time() - started)
        results.append(_samples(picture))
    return before, results[0], 1000 * float(np.median(seconds[1:]))


def _samples(picture: VideoPicture) -> npt.NDArray[np.int16]:
    return np.concatenate([samples.ravel() for _, samples in picture.writable_planes()]).astype(np.int16)


def _example() -> tuple[VideoPicture, Face]:
    """Return a frame of soft random patches of colour and the position of an assumed face in it."""
    patches = np.random.default_rng(0).integers(30, 220, (18, 32, 3), np.uint8)
    image = np.asarray(cv2.resize(patches, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="yuv420p")
    corner = np.array([_WIDTH - _FACE, _HEIGHT - _FACE], np.float32) / 2
    kps = corner + _FACE * (0.2 + 0.6 * FFHQ_512 / 512) @ np.array([[1, 0.1], [-0.1, 1]])
    box = np.concatenate([corner, corner + _FACE])
    return VideoPicture(frame), Face(box, kps.astype(np.float32), 1.0)
