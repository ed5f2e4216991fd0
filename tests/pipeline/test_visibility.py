"""Masks are smoothed over neighbouring frames, with equal results for any order of processing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.faces.masks import FaceMasks, RawVisibility
from colab_helpers.pipeline import process_video
from colab_helpers.pipeline.frames import FrameJob
from colab_helpers.pipeline.image import process_image
from colab_helpers.pipeline.video_stages import _skip_to
from colab_helpers.pipeline.visibility import VISIBILITY_WINDOW, with_visibility
from tests.helpers.faces import face
from tests.media.make import Spec, make, variable_pts
from tests.pipeline.swapping import SOURCE, Store, assert_same_pictures, engine, planes, stop_at


@pytest.fixture(scope="session")
def varying_models(inverting_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inverting swapper, and an occluder that depends on green, so each frame differs."""
    folder = Path(shutil.copytree(inverting_models, tmp_path_factory.mktemp("fickle") / "models"))
    nodes = [
        helper.make_node("Gather", ["input", "one"], ["green"], axis=3),
        helper.make_node("Sub", ["green", "half"], ["apart"]),
        helper.make_node("Mul", ["apart", "much"], ["sure"]),
        helper.make_node("Sigmoid", ["sure"], ["output"]),
    ]
    values = {"one": np.array([1]), "half": np.float32(0.45), "much": np.float32(12)}
    graph = helper.make_graph(
        nodes,
        "fickle_occluder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 256, 256, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 256, 256, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, folder / "xseg_1.onnx")
    return folder


SPECS = {
    "every frame": (Spec(size=(320, 180), frames=60), {}),
    "its own times": (
        Spec(size=(320, 180), frames=60, time_base=Fraction(1, 1000), pts=variable_pts(60)),
        {},
    ),
    "thrice each": (Spec(size=(320, 180), rate=Fraction(10), frames=20), {"keep_fps": False}),
    "twice or thrice": (Spec(size=(320, 180), rate=Fraction(11), frames=22), {"keep_fps": False}),
    "half of them": (Spec(size=(320, 180), rate=Fraction(60), frames=120), {"keep_fps": False}),
}


@pytest.mark.parametrize("name", SPECS)
def test_interrupted_run_gives_the_same_pictures(name: str, tmp_path: Path, varying_models: Path) -> None:
    spec, overrides = SPECS[name]
    target = make(tmp_path / "in.mp4", spec)
    options = {"segment_seconds": 1.0, "frame_processors": "face_swapper", **overrides}
    models = engine(varying_models, **options, execution_threads=3)
    whole = process_video(models, SOURCE, target, tmp_path / "plain.mp4")
    assert whole.faces_swapped >= 20
    store = Store(tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        process_video(models, SOURCE, target, tmp_path / "out.mp4", on_progress=stop_at(42), store=store)
    one_thread = engine(varying_models, **options, execution_threads=1, batch_size=1)
    result = process_video(one_thread, SOURCE, target, tmp_path / "out.mp4", store=store)
    assert 0 < result.segments_kept < result.segments
    assert_same_pictures(tmp_path / "plain.mp4", tmp_path / "out.mp4")
    assert result.measured.faces == whole.measured.faces
    first = store.parts.pop(0)  # the redone segment ends before the kept ones
    again = process_video(models, SOURCE, target, tmp_path / "out.mp4", store=store)
    assert again.segments_kept == result.segments - 1
    assert store.parts[-1].segment == first.segment
    assert store.parts[-1].measured == first.measured


def test_repeated_picture_resumes_at_its_first_frame() -> None:
    """The face keeps its position, so its mask stays the same."""
    shown = "aaabbbbccd"
    frames = [SimpleNamespace(index=index, video=shown[shown.index(one)]) for index, one in enumerate(shown)]
    for begin, first in {0: 0, 2: 0, 3: 3, 5: 3, 8: 7, 9: 9}.items():
        resumed = list(_skip_to(iter(frames), begin))  # type: ignore[arg-type]
        assert [frame.index for frame in resumed] == list(range(first, 10))


def test_occluder_runs_once_per_face_and_keeps_covered_pixels(
    tmp_path: Path, varying_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), rate=Fraction(10), frames=12))
    models = engine(varying_models, keep_fps=False)  # swaps and enhances; every frame is repeated twice
    assert models.occluder is not None
    batches, original = [], models.occluder.seen
    monkeypatch.setattr(
        type(models.occluder), "seen", lambda _self, crops: batches.append(len(crops)) or original(crops)
    )
    result = process_video(models, SOURCE, target, tmp_path / "out.mp4")
    assert result.frames_out == 36
    assert sum(batches) == result.faces_swapped == 12
    box_only = engine(varying_models, keep_fps=False, face_mask_types="box")
    process_video(box_only, SOURCE, target, tmp_path / "boxed.mp4")
    masked, plain = (planes(tmp_path / name)[5][0].astype(int) for name in ("out.mp4", "boxed.mp4"))
    assert (np.abs(masked - plain) > 20).mean() > 0.02


def test_occlusion_mask_in_an_image(varying_models: Path) -> None:
    image = np.full((640, 640, 3), 40, np.uint8)
    image[:, :320, 1] = 255
    models = engine(varying_models, frame_processors="face_swapper")
    changed, _, measured, _ = process_image(models, SOURCE, image)
    assert measured.faces == 1
    difference = np.abs(changed.astype(int) - image).max(2)
    assert difference[150:200, 250:310].min() > 100
    assert difference[:, 325:].max() <= 1


class FrameNumberMasks(FaceMasks):
    """Masks that contain the frame number."""

    @property
    def uses_networks(self) -> bool:
        return True

    def raw_visibility(self, picture: Any, faces: Any) -> Any:
        return [RawVisibility(np.full((1, 1), picture, np.uint8), np.zeros((1, 1), np.uint8)) for _ in faces]


def test_neighbours_are_taken_by_track_and_repeats_share_masks() -> None:
    pulled = []

    def jobs() -> Iterator[FrameJob[int, Any]]:
        for index in range(9):
            pulled.append(index)
            tracks = (0,) if index < 6 else (1,)  # a cut
            faces = [replace(face(0), track=track) for track in tracks]
            yield FrameJob(index, index, index, faces, repeats=index == 4)

    neighbours: list[list[int | None]] = []
    for number, job in enumerate(with_visibility(jobs(), FrameNumberMasks(), workers=1)):
        assert job.index == number
        assert len(pulled) <= number + 1 + VISIBILITY_WINDOW
        masks = [by_track.get(job.faces[0].track) for by_track in job.neighbours]
        neighbours.append([None if mask is None else int(mask.visibility[0, 0]) for mask in masks])
    assert neighbours == [
        [1, 2],
        [0, 2, 3],
        [0, 1, 3, 3],
        [1, 2, 3, 5],
        [2, 3, 5, None],
        [3, 3, None, None],
        [None, None, 7, 8],
        [None, 6, 8],
        [6, 7],
    ]
