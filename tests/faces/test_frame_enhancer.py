"""Frame enlargement: tiles against the whole frame, memory, model contract, every pixel format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import pytest

from colab_helpers.errors import MediaError, ModelError, OutOfMemoryError
from colab_helpers.faces.frame_enhancer import EDGES, MARGIN, FrameEnhancer, edge_for
from colab_helpers.media.blending import plane_layouts, plane_samples
from colab_helpers.media.formats import WORKING_FORMATS
from colab_helpers.media.probe import probe
from colab_helpers.models.session import Network, Runtime
from colab_helpers.models.session_pool import SessionPool
from colab_helpers.settings import Settings
from tests.helpers.networks import build, enlarger, node
from tests.media.make import Spec, make

Opened = Callable[..., FrameEnhancer]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    def open_one(scale: int = 2, *, blend: int = 100, **kind: Any) -> FrameEnhancer:
        onnx.save(enlarger(scale, **kind), tmp_path / f"x{scale}.onnx")
        return FrameEnhancer(Runtime("cpu").open(tmp_path / f"x{scale}.onnx"), blend=blend)

    return open_one


def photo(height: int, width: int, *, seed: int = 3, kind: Any = np.uint8) -> np.ndarray:
    """Smooth patches with noise, over the full range."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.random((9, 12, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    values = np.clip(1.2 * soft - 0.1 + 0.05 * rng.standard_normal((height, width, 3)), 0, 1)
    return (values * np.iinfo(kind).max).astype(kind)


def untiled(enhancer: FrameEnhancer, image: np.ndarray) -> np.ndarray:
    """The network applied to the whole picture at once, in float64."""
    height, width = image.shape[:2]
    around = (MARGIN, MARGIN + height % 2, MARGIN, MARGIN + width % 2)
    padded = cv2.copyMakeBorder(image, *around, cv2.BORDER_REFLECT_101)
    peak, scale, cut = np.iinfo(image.dtype).max, enhancer.scale, MARGIN * enhancer.scale
    blob = (padded[..., ::-1].transpose(2, 0, 1)[None] / peak).astype(np.float32)
    (planes,) = enhancer.network.run(blob)
    made = planes[0, ::-1, cut : cut + scale * height, cut : cut + scale * width].transpose(1, 2, 0)
    return np.clip(made.astype(np.float64), 0, 1) * peak


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiled_output_matches_whole_picture_within_one_level(scale: int, kind: Any, opened: Opened) -> None:
    enhancer = opened(scale)
    enhancer.edge = EDGES[-1]
    image = photo(131, 150, kind=kind)
    made = enhancer.enlarge(image)
    assert made.dtype == kind
    assert made.shape == (131 * scale, 150 * scale, 3)
    assert np.abs(made - untiled(enhancer, image)).max() <= np.iinfo(kind).max / 255


def test_model_of_fixed_size_uses_that_tile_size(opened: Opened) -> None:
    enhancer, image = opened(edge=128), photo(70, 131)
    assert enhancer.edge == 128
    assert np.abs(enhancer.enlarge(image) - untiled(opened(), image)).max() <= 1


def test_blend_interpolates_between_bicubic_and_network_output(opened: Opened) -> None:
    image = photo(60, 90)
    bicubic = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).astype(float)
    none, half, full = (opened(blend=blend).enlarge(image).astype(float) for blend in (0, 50, 100))
    inner = slice(4, -4), slice(4, -4)  # OpenCV extends the border differently
    assert np.abs(none - bicubic)[inner].max() <= 1
    assert np.abs(half - (none + full) / 2).max() <= 1
    assert np.abs(full - bicubic).mean() > 5


@pytest.mark.parametrize("max_edge", [370, 200, 100])
def test_tiles_shrink_with_a_note_when_memory_runs_out(max_edge: int, opened: Opened) -> None:
    enhancer, image = opened(), photo(230, 600)
    enhancer.edge, expected = EDGES[0], untiled(enhancer, image)
    network, edges = enhancer.network, list[int]()

    class LimitedNetwork(Network):
        def run_stack(self, *inputs: Any, output: int = 0) -> Any:
            edges.append(max(inputs[0].shape[2:]))
            if edges[-1] > max_edge:
                raise OutOfMemoryError("GPU memory ran out")
            return network.run_stack(*inputs, output=output)

    enhancer.network = LimitedNetwork(**vars(network))
    if max_edge < EDGES[-1]:
        with pytest.raises(OutOfMemoryError):
            enhancer.enlarge(image)
        return
    assert np.abs(enhancer.enlarge(image) - expected).max() <= 1
    assert enhancer.edge == max(edge for edge in EDGES if edge <= max_edge)
    assert f"{enhancer.edge} pixels" in enhancer.notes[-1]
    before = len(edges)
    enhancer.enlarge(image)
    assert max(edges[before:]) <= max_edge, "a tile size that did not fit was tried again"


def test_gpu_pool_knows_memory_of_a_tile(tmp_path: Path) -> None:
    onnx.save(enlarger(2, reach=1, mode="linear"), tmp_path / "RealESRGAN_x2plus.onnx")
    gigabyte, calls = 1 << 30, list[int]()
    pool = SessionPool(budget=gigabyte, used=lambda: 1000 * len(calls), free=lambda: gigabyte)
    pool.ceiling = 4 * gigabyte
    runtime = Runtime("cpu").pooled(pool, graphs=False)
    settings = Settings(frame_processors="face_swapper,frame_enhancer", frame_enhancer_blend=30)
    with pytest.MonkeyPatch.context() as patch:
        run = FrameEnhancer.enlarge
        patch.setattr(FrameEnhancer, "enlarge", lambda *args: (calls.append(1), run(*args))[1])
        enhancer = FrameEnhancer.open(settings, runtime, tmp_path)
    assert enhancer is not None
    assert (enhancer.scale, enhancer.edge, len(calls)) == (2, 320, 1)
    assert enhancer.network.session.auxiliary == 1000
    assert FrameEnhancer.open(Settings(), runtime, tmp_path) is None


def test_heartbeat_is_called_before_each_tile_and_may_interrupt(opened: Opened) -> None:
    enhancer, beats = opened(reach=1), list[int]()
    enhancer.edge, enhancer.heartbeat = EDGES[-1], lambda: beats.append(1)
    enhancer.enlarge(photo(130, 250))
    assert len(beats) == 2 * 3

    def stop() -> None:
        raise KeyboardInterrupt

    enhancer.heartbeat = stop
    with pytest.raises(KeyboardInterrupt):
        enhancer.enlarge(photo(130, 250))


def test_tile_size_depends_on_gpu_memory_and_scale_only() -> None:
    assert [edge_for(gigabytes << 30, 2) for gigabytes in (0, 2, 4, 8, 80)] == [320, 192, 320, 512, 512]
    assert [edge_for(gigabytes << 30, 4) for gigabytes in (0, 1, 8, 15, 80)] == [320, 192, 192, 320, 512]


@pytest.mark.parametrize(
    "model",
    [
        enlarger(3),
        build([node("Identity", "input", "output")], (1, 3, "h", "w")),
        build([node("Identity", "input", "output")], (1, 1, "h", "w")),
        build([node("Flatten", "input", "output")], (1, 3, "h", "w"), out=("a", "b")),
    ],
    ids=["three times", "not at all", "grey", "no picture"],
)
def test_networks_with_another_contract_are_refused(model: Any, tmp_path: Path) -> None:
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"RealESRGAN_x2plus\.onnx"):
        FrameEnhancer(Runtime("cpu").open(tmp_path / "other.onnx"))


@pytest.mark.parametrize("name", WORKING_FORMATS)
def test_enlarged_frames_keep_format_colours_and_timestamps(name: str, opened: Opened) -> None:
    enhancer = opened(reach=1, mode="linear")
    layout, frame = WORKING_FORMATS[name], av.VideoFrame(96, 64, name)
    unit = 1 << (layout.depth - 8 + layout.shift)
    finest = 1 << layout.shift
    # Left and right half; between 8-bit levels where the depth is greater.
    colours = np.array([(100, 150, 110), (180, 100, 140)]) * unit + (unit > finest) * finest
    channels = ([0], [1, 2]) if layout.interleaved else ([0], [1], [2])
    for plane, grid, chosen in zip(frame.planes, plane_layouts(name), channels, strict=True):
        values = plane_samples(plane, grid)
        for half, colour in zip(np.split(values, 2, axis=1), colours, strict=True):
            half[...] = colour[chosen]
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 1, 9, 16
    frame.pts, frame.time_base = 7, Fraction(1, 25)
    made = enhancer.enlarge_frame(frame)
    assert (made.width, made.height, made.format.name, made.pts) == (192, 128, name, 7)
    assert (made.colorspace, made.color_primaries, made.color_trc) == (9, 9, 16)
    assert made.color_range == frame.color_range
    for plane, grid, chosen in zip(made.planes, plane_layouts(name), channels, strict=True):
        values = plane_samples(plane, grid).astype(float)
        for side, colour in zip((values[:, :10], values[:, -10:]), colours, strict=True):
            assert np.abs(side - colour[chosen]).max() <= 2 * finest
            assert np.abs(side.mean((0, 1)) - colour[chosen]).max() <= finest


def test_enlarged_info_states_colour_matrix_and_limits_size(tmp_path: Path, opened: Opened) -> None:
    info = replace(probe(make(tmp_path / "in.mp4", Spec(frames=2))), width=1024, height=540)
    info = replace(info, colour=replace(info.colour, matrix=2))
    large = opened().enlarged_info(replace(info, interlaced=True))
    assert not large.interlaced  # enlarged fields do not alternate by line
    assert (large.width, large.height, large.colour.matrix) == (2048, 1080, 6)
    frame = av.VideoFrame(64, 300, "yuv420p")
    frame.colorspace, frame.time_base = 2, Fraction(1, 25)
    assert opened(reach=1, mode="linear").enlarge_frame(frame).colorspace == 6
    with pytest.raises(
        MediaError, match=r"2160x2000 pixels, enlarged 4 times, exceed the limit of 67 million"
    ):
        opened(4).enlarged_info(replace(info, width=2160, height=2000))
