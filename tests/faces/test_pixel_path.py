"""Faces sampled and blended by graphs on the network's device, compared with OpenCV; both on the CPU here."""

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

from colab_helpers.faces import path_choice, pixel_path
from colab_helpers.faces.changer import FaceChanger, FaceJob
from colab_helpers.faces.masks import FaceMasks
from colab_helpers.faces.path_choice import choose_path, make_verdict, try_path
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.sharpness import Sharpness
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.language import use_language
from colab_helpers.media.picture import BgrPicture, VideoPicture
from colab_helpers.models import model_conversion
from colab_helpers.models.cuda_graphs import DeviceBuffers, GpuSession
from colab_helpers.models.parity import Verdict, sample_inputs
from colab_helpers.models.session import Network, Runtime
from tests.helpers.networks import build, node
from tests.people.standins import enhancer

Job = Callable[[VideoPicture], FaceJob]
LATENT = np.full(512, 0.01, np.float32)
VISIBILITY = np.full((256, 256), 255, np.uint8)
VISIBILITY[:, :110] = np.linspace(0, 255, 110).astype(np.uint8)


@dataclass
class CountingRuntime:
    """A runtime that counts auxiliary sessions."""

    runtime: Runtime
    sessions: int = 0

    def auxiliary_session(self, model: bytes, *, capture: bool) -> Any:
        self.sessions += 1
        return self.runtime.auxiliary_session(model, capture=capture)


CPU = Runtime("cpu", threads=1)


def network(model: onnx.ModelProto, name: str) -> Network:
    """A network run with device buffers, as on a GPU."""

    def create(_: bool) -> Any:
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    session = GpuSession(
        create, example=partial(sample_inputs, name=name), capture=False, on_problem=str, device="cpu"
    )
    names = [tuple(item.name for item in items) for items in (session.get_inputs(), session.get_outputs())]
    return Network(name, Path(f"{name}.onnx"), session, "cuda", False, names[0], names[1])


def hyperswap() -> Network:
    """A swapper without projection matrix that exchanges red and blue and darkens slightly."""
    nodes = [
        node("Gather", "input order", "swapped", axis=1),
        node("Mul", "swapped factor", "output"),
        node("Identity", "swapped", "mask"),
    ]
    shape, tensor_info = (1, 3, 256, 256), onnx.helper.make_tensor_value_info
    model = build(nodes, shape, weights={"order": np.array([2, 1, 0]), "factor": np.float32(0.83)})
    model.graph.input.append(tensor_info("source", 1, [1, 512]))
    model.graph.output.append(tensor_info("mask", 1, shape))
    return network(model, "hyperswap")


SWAPPER = Swapper(hyperswap())
ENHANCER = Enhancer(network(enhancer(), "GFPGANv1.4"))


def frame(fmt: str, width: int, height: int, *, matrix: int = 1, full: bool = False) -> av.VideoFrame:
    """Smooth patches with texture and noise."""
    rng = np.random.default_rng(4)
    image = cv2.resize(
        rng.integers(30, 225, (9, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    texture = cv2.GaussianBlur(rng.normal(0, 60, image.shape[:2]).astype(np.float32), (0, 0), 2.0)[..., None]
    image = np.clip(image + texture + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    made = av.VideoFrame.from_ndarray(image, format="bgr24")
    wanted = ColorRange.JPEG if full or fmt.startswith("yuvj") else ColorRange.MPEG
    converted = made.reformat(format=fmt, dst_colorspace=min(matrix, 9), dst_color_range=wanted)
    converted.colorspace, converted.color_range = matrix, wanted
    return converted


def face(x: float, y: float, size: float, *, degrees: float = 0.0, weight: float = 1.0) -> Face:
    """A face with its box centred at (x, y) and its points rotated about that."""
    shape = np.array([[-0.18, -0.1], [0.18, -0.1], [0, 0.08], [-0.15, 0.26], [0.15, 0.26]])
    angle = np.deg2rad(degrees)
    rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    kps = (np.array([x, y]) + size * shape @ rotate).astype(np.float32)
    box = np.array([x - size / 2, y - 0.6 * size, x + size / 2, y + 0.6 * size], np.float32)
    return Face(box, kps, 0.9, weight=weight)


def planes(picture: VideoPicture) -> list[npt.NDArray[np.int32]]:
    return [part.astype(np.int32) for _, part in picture.writable_planes()]


def changer(swapper: Swapper | None, enhancer: Enhancer | None, **overrides: Any) -> FaceChanger:
    return FaceChanger(swapper, None if swapper is None else LATENT, enhancer, **{"blend": 80, **overrides})


def copied(made: av.VideoFrame) -> av.VideoFrame:
    copy = av.VideoFrame(made.width, made.height, made.format.name)
    copy.colorspace, copy.color_range = made.colorspace, made.color_range
    for plane, own in zip(copy.planes, made.planes, strict=True):
        plane.update(bytes(own))
    return copy


def both_paths(
    made: av.VideoFrame,
    faces: Sequence[Face],
    change: FaceChanger,
    *,
    visibility: ByteImage | None = None,
    rotation: int = 0,
) -> tuple[list[Any], list[Any], list[Any], int]:
    """Planes before, by OpenCV and by graphs, and the number of graphs created."""
    counted, found = CountingRuntime(CPU), []
    parts = [part for part in (change.swapper, change.enhancer) if part is not None]
    paths = [PixelPath(part, counted) for part in parts]  # type: ignore[arg-type]
    for paths_used in ({}, {path.step: path for path in paths}):
        picture = VideoPicture(copied(made), rotation=rotation)
        before = planes(picture)
        replace(change, paths=paths_used).change([FaceJob(picture, one, visibility) for one in faces])
        found.append(planes(picture))
    for part in parts:
        part.network.session._device_buffers = None  # frees what it holds
    return before, found[0], found[1], counted.sessions


def assert_near(before: list[Any], one: list[Any], other: list[Any]) -> None:
    """Changed pixels within tolerance, unchanged pixels equal."""
    for old, expected, found in zip(before, one, other, strict=True):
        changed = expected != old
        difference = np.abs(found - expected)
        assert changed.mean() > 0.005
        assert np.median(difference[changed]) <= 1
        assert difference.max() <= 3
        assert np.abs(expected - old)[changed].mean() > 3 * difference[changed].mean()


SWAP_AND_ENHANCE = changer(SWAPPER, ENHANCER)
FACE = face(320, 240, 200, degrees=15)


@pytest.mark.parametrize(
    ("fmt", "matrix", "full"), [("yuv420p", 1, True), ("yuvj420p", 6, True), ("nv12", 9, False)]
)
def test_pixel_formats(fmt: str, matrix: int, full: bool) -> None:
    made = frame(fmt, 480, 400, matrix=matrix, full=full)
    before, one, other, graphs = both_paths(made, [face(240, 200, 150, degrees=15)], SWAP_AND_ENHANCE)
    assert graphs == 3  # before and after the enhancer, after the swapper
    assert_near(before, one, other)


@pytest.mark.parametrize(
    ("where", "graphs"),
    [
        (face(30, 200, 260, degrees=-20), 3),  # cut by the frame's edges
        (face(600, 440, 240, degrees=5), 3),
        (face(320, 240, 60, degrees=90), 3),
        (face(320, 240, 90, degrees=180), 3),
        (face(320, 240, 400), 3),  # larger than the smaller sampling area
    ],
)
def test_faces_at_any_position_and_angle(where: Face, graphs: int) -> None:
    before, one, other, found = both_paths(frame("yuv420p", 640, 480), [where], SWAP_AND_ENHANCE, rotation=90)
    assert found == graphs
    assert_near(before, one, other)


def test_large_face_is_swapped_in_a_graph() -> None:
    made = frame("yuv420p", 1400, 1080)
    before, one, other, graphs = both_paths(made, [face(700, 500, 800, degrees=8)], changer(SWAPPER, None))
    assert graphs == 1
    assert_near(before, one, other)


@pytest.mark.parametrize(
    "change",
    [
        changer(SWAPPER, None, masks=FaceMasks(blur=0.1, padding=(20, 0, 0, 10))),
        changer(None, ENHANCER, blend=100),
        changer(SWAPPER, ENHANCER, blend=30, masks=FaceMasks(box=False)),
    ],
)
def test_weight_masks_and_blend_limit_the_change(change: FaceChanger) -> None:
    made = frame("yuv420p", 640, 480)
    faces = [replace(FACE, weight=0.6), face(80, 80, 70)]
    before, one, other, graphs = both_paths(made, faces, change, visibility=VISIBILITY)
    assert graphs == (change.swapper is not None) + 2 * (change.enhancer is not None)
    assert_near(before, one, other)
    unlimited = both_paths(made, [FACE], replace(change, masks=FaceMasks()))[2]
    assert not np.array_equal(unlimited[0], other[0])


def test_sharpness_is_limited_to_that_of_the_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.zeros((3, 3, 3, 3), np.float32)
    weights[[0, 1, 2], [0, 1, 2]] = np.array([[0, -4, 0], [-4, 17, -4], [0, -4, 0]], np.float32)
    model = build([node("Conv", "input w", "output", pads=[1] * 4)], (1, 3, 512, 512), weights={"w": weights})
    shares: list[float] = []
    share = Sharpness.share

    def recorded(*given: Any) -> float:
        shares.append(share(*given))
        return shares[-1]

    monkeypatch.setattr(Sharpness, "share", recorded)
    change = changer(SWAPPER, Enhancer(network(model, "gfpgan")), blend=100)
    before, one, other, _ = both_paths(frame("yuv420p", 640, 480), [face(320, 240, 330)], change)
    assert len(shares) == 1  # of OpenCV's path
    assert 0.05 < shares[0] < 0.9
    luma = one[0] != before[0]
    assert np.abs(one[0] - other[0])[luma].mean() < 0.3


@pytest.mark.parametrize(
    ("faces", "change", "fmt"),
    [
        ([FACE, face(420, 240, 150)], SWAP_AND_ENHANCE, "yuv420p"),  # overlapping
        ([FACE], changer(SWAPPER, None, colour_match=True), "yuv420p"),
        ([face(-400, -400, 50)], SWAP_AND_ENHANCE, "yuv420p"),  # outside the frame
        ([face(700, 500, 1300)], SWAP_AND_ENHANCE, "yuv420p"),
        ([FACE], SWAP_AND_ENHANCE, "yuv422p"),
        ([FACE], SWAP_AND_ENHANCE, "yuv420p10le"),
    ],
)
def test_cases_left_to_opencv(faces: list[Face], change: FaceChanger, fmt: str) -> None:
    _, one, other, graphs = both_paths(frame(fmt, 1400, 1060), faces, change)
    assert graphs == 0
    for expected, found in zip(one, other, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_bgr_picture_is_left_to_opencv() -> None:
    job = FaceJob(BgrPicture(np.zeros((480, 640, 3), np.uint8)), FACE)
    assert PixelPath(SWAPPER, CPU).change([job], FaceMasks(), extra={"vector": LATENT[None]}) == [0]


def test_swapped_crop_is_reported_as_by_opencv() -> None:
    seen: list[ByteImage] = []
    made = frame("yuv420p", 640, 480)
    paths = [PixelPath(part, CPU) for part in (SWAPPER, ENHANCER)]
    for paths_used in ({}, {path.step: path for path in paths}):
        job = FaceJob(VideoPicture(copied(made)), FACE, on_swapped=lambda crop, _: seen.append(crop))
        replace(SWAP_AND_ENHANCE, paths=paths_used).change([job])
    for path in paths:
        path.part.network.session._device_buffers = None
    expected, found = seen  # before enhancement
    np.testing.assert_array_equal(found, expected)


def test_only_face_pixels_and_parameters_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied_bytes: list[int] = []
    run = DeviceBuffers.run

    def counting(self: DeviceBuffers, feed: dict[str, npt.NDArray[Any]]) -> None:
        copied_bytes.append(sum(array.nbytes for array in feed.values()))
        run(self, feed)

    monkeypatch.setattr(DeviceBuffers, "run", counting)
    path = PixelPath(ENHANCER, CPU)
    change = replace(changer(None, ENHANCER), paths={path.step: path})
    for _ in range(2):
        change.change([FaceJob(VideoPicture(frame("yuv420p", 640, 480)), FACE)])
    ENHANCER.network.session._device_buffers = None
    before, network, behind = copied_bytes[3:]  # second frame: the mask is already on the device
    assert before == pytest.approx(512 * 512 * 1.5, abs=500)
    assert network == 0
    assert behind < 15_000


def buffers_of(part: Swapper | Enhancer) -> DeviceBuffers:
    buffers: DeviceBuffers = part.network.run_on_device(lambda buffers: buffers)
    return buffers


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"original model")
    return path


def test_path_is_tried_once_and_verdict_is_reused(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = try_path(PixelPath(SWAPPER, CPU))
    assert trial.mean <= 1
    assert trial.max <= 3
    assert trial.reason == "slower"
    assert 0 < trial.usual < trial.own  # on a CPU
    path, problem = choose_path(SWAPPER, original, CPU)
    assert path is None
    assert "ms of CPU time there" in problem
    assert not buffers_of(SWAPPER).cache
    with use_language("es"):  # numbers are recorded, not texts
        assert choose_path(SWAPPER, original, CPU)[1] not in ("", problem)
    for name in ("try_path", "PixelPath.prepare"):
        monkeypatch.setattr(
            f"{path_choice.__name__}.{name}", lambda *_, **__: pytest.fail("the verdict was recorded")
        )
    assert choose_path(SWAPPER, original, CPU) == (None, problem)


@pytest.mark.parametrize("other", ["captured", "version"])
def test_verdict_on_other_graphs_is_ignored(
    original: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(path_choice, "try_path", lambda _: make_verdict(0, 1, 2, 1))
    assert choose_path(SWAPPER, original, CPU)[0] is not None
    monkeypatch.setattr(path_choice, "try_path", lambda _: make_verdict(0, 9, 2, 1))
    assert choose_path(SWAPPER, original, CPU)[0] is not None
    if other == "version":
        monkeypatch.setattr(path_choice, "VERSION", path_choice.VERSION + 1)
    assert choose_path(SWAPPER, original, replace(CPU, graphs=other == "captured"))[0] is None


def test_unwritable_verdict_holds_for_the_run(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(model_conversion, "write_json", denied)
    monkeypatch.setattr(path_choice, "try_path", lambda _: make_verdict(0, 1, 2, 1))
    path, problem = choose_path(SWAPPER, original, CPU)
    assert path is not None
    assert not problem


def test_graphs_that_run_out_of_memory_are_freed_and_not_used(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: PixelPath) -> Verdict:
        assert buffers_of(SWAPPER).cache
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(path_choice, "try_path", full)
    assert choose_path(SWAPPER, original, CPU) == (None, "CUDA out of memory")
    assert not buffers_of(SWAPPER).cache


def test_path_with_different_output_is_not_used(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_path, "_STEPS", 20)
    path, problem = choose_path(SWAPPER, original, CPU)
    assert path is None
    assert problem.startswith("the output differs by")


def test_path_that_cannot_be_created_is_not_used(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SWAPPER.network.session._device_buffers = None
    monkeypatch.setattr(pixel_path, "tail", lambda *_, **__: b"nothing")
    path, problem = choose_path(SWAPPER, original, CPU)
    assert path is None
    assert problem
    assert list(original.parent.iterdir()) == [original]  # so the next run tries again
