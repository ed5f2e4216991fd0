"""Faces sampled and blended where their network runs, held against OpenCV's way: here both on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from av.video.reformatter import ColorRange

from colab_helpers.faces.changer import FaceChanger, FaceJob
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.media.formats import WORKING_FORMATS
from colab_helpers.media.picture import VideoPicture
from colab_helpers.models.cuda_graphs import GpuSession
from colab_helpers.models.parity import sample_inputs
from colab_helpers.models.session import Network, Runtime
from tests.helpers.networks import build, node
from tests.people.standins import enhancer

Job = Callable[[VideoPicture], FaceJob]
LATENT = np.full(512, 0.01, np.float32)
COVER = np.full((256, 256), 255, np.uint8)
COVER[:, :110] = np.linspace(0, 255, 110).astype(np.uint8)


@dataclass
class Counted:
    """A runtime that counts the sessions made beside a network."""

    runtime: Runtime
    made: int = 0

    def beside(self, model: bytes, *, capture: bool) -> Any:
        self.made += 1
        return self.runtime.beside(model, capture=capture)


CPU = Runtime("cpu", threads=1)


def network(model: onnx.ModelProto, name: str) -> Network:
    """A network that is run as on a GPU: at places of its own."""

    def create(_: bool) -> Any:
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    session = GpuSession(
        create, example=partial(sample_inputs, name=name), capture=False, on_problem=str, device="cpu"
    )
    names = [tuple(item.name for item in items) for items in (session.get_inputs(), session.get_outputs())]
    return Network(name, Path(f"{name}.onnx"), session, "cuda", False, names[0], names[1])


def hyperswap() -> Network:
    """A swapper without a matrix of its own: the picture with red and blue exchanged, a bit darker."""
    nodes = [
        node("Gather", "input order", "turned", axis=1),
        node("Mul", "turned factor", "output"),
        node("Identity", "turned", "mask"),
    ]
    shape, about = (1, 3, 256, 256), onnx.helper.make_tensor_value_info
    model = build(nodes, shape, weights={"order": np.array([2, 1, 0]), "factor": np.float32(0.83)})
    model.graph.input.append(about("source", 1, [1, 512]))
    model.graph.output.append(about("mask", 1, shape))
    return network(model, "hyperswap")


SWAPPER = Swapper(hyperswap())
ENHANCER = Enhancer(network(enhancer(), "GFPGANv1.4"))


def frame(fmt: str, width: int, height: int, *, matrix: int = 1, full: bool = False) -> av.VideoFrame:
    """Soft patches with some texture and noise, as a shot has."""
    rng = np.random.default_rng(4)
    image = cv2.resize(
        rng.integers(30, 225, (9, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    texture = cv2.GaussianBlur(rng.normal(0, 60, image.shape).astype(np.float32), (0, 0), 2.0)
    image = np.clip(image + texture + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    made = av.VideoFrame.from_ndarray(image, format="bgr24")
    wanted = ColorRange.JPEG if full or fmt.startswith("yuvj") else ColorRange.MPEG
    converted = made.reformat(format=fmt, dst_colorspace=min(matrix, 9), dst_color_range=wanted)
    converted.colorspace, converted.color_range = matrix, wanted
    return converted


def face(x: float, y: float, size: float, *, degrees: float = 0.0, weight: float = 1.0) -> Face:
    """A face whose box is centred at a place, turned about it."""
    shape = np.array([[-0.18, -0.1], [0.18, -0.1], [0, 0.08], [-0.15, 0.26], [0.15, 0.26]])
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    kps = (np.array([x, y]) + size * shape @ turn).astype(np.float32)
    box = np.array([x - size / 2, y - 0.6 * size, x + size / 2, y + 0.6 * size], np.float32)
    return Face(box, kps, 0.9, weight=weight)


def planes(picture: VideoPicture) -> list[npt.NDArray[np.int32]]:
    return [plane.samples.astype(np.int32) >> plane.shift for plane in picture.writable_planes()]


def changer(swapper: Swapper | None, enhancer: Enhancer | None, **more: Any) -> FaceChanger:
    return FaceChanger(swapper, None if swapper is None else LATENT, enhancer, **{"blend": 80, **more})


def both(
    made: av.VideoFrame, faces: Sequence[Face], change: FaceChanger, *, cover: ByteImage | None = None
) -> tuple[list[Any], list[Any], list[Any], int]:
    """Planes before, by OpenCV, in graphs; and how many graphs were made for those."""
    counted, found = Counted(CPU), []
    parts = [part for part in (change.swapper, change.enhancer) if part is not None]
    paths = [PixelPath(part, counted) for part in parts]  # type: ignore[arg-type]
    for ways in ({}, {path.step: path for path in paths}):
        copy = av.VideoFrame(made.width, made.height, made.format.name)
        copy.colorspace, copy.color_range = made.colorspace, made.color_range
        for plane, own in zip(copy.planes, made.planes, strict=True):
            plane.update(bytes(own))
        picture = VideoPicture(copy)
        before = planes(picture)
        replace(change, paths=ways).change([FaceJob(picture, one, cover) for one in faces])
        found.append(planes(picture))
    for part in parts:
        part.network.session._places = None  # what is kept there goes with it
    return before, found[0], found[1], counted.made


def assert_near(made: av.VideoFrame, before: list[Any], one: list[Any], other: list[Any]) -> None:
    """No further apart than the issue allows where something changed, and equal where nothing did."""
    level = 1 << (WORKING_FORMATS[made.format.name].depth - 8)
    for old, expected, found in zip(before, one, other, strict=True):
        changed = expected != old
        apart = np.abs(found - expected) / level
        assert changed.mean() > 0.005
        assert np.median(apart[changed]) <= 1
        assert apart.max() <= 3
        assert np.abs(expected - old)[changed].mean() > 3 * apart[changed].mean()


WHOLE = changer(SWAPPER, ENHANCER)


@pytest.mark.parametrize("fmt", WORKING_FORMATS)
def test_all_formats(fmt: str) -> None:
    made = frame(fmt, 640, 480)
    before, one, other, graphs = both(made, [face(320, 240, 200, degrees=15)], WHOLE)
    assert graphs == 3  # before and behind the enhancer, behind the swapper
    assert_near(made, before, one, other)
