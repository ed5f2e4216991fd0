"""Enlarged results: every frame is enlarged, with or without faces and interruptions."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from colab_helpers.batch.drive import RetryPolicy
from colab_helpers.batch.face_indexes import FaceIndexLocation, FaceIndexMetadata
from colab_helpers.batch.journal import History, Journal
from colab_helpers.batch.resume import JournaledSegmentStore
from colab_helpers.errors import OutOfMemoryError
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.models.session import Network
from colab_helpers.pipeline import (
    FileResult,
    frames_folder,
    process_image,
    process_picture,
    process_video,
    video,
)
from colab_helpers.pipeline.indexed_frame import decide_faces, process_indexed_frame
from colab_helpers.pipeline.plan import VideoPlan, plan_video
from colab_helpers.pipeline.video import SegmentMaker, complete_video, join
from colab_helpers.pipeline.video_stages import SmallerTilesError
from tests.helpers.networks import with_enlarger
from tests.media.make import Sound, Spec, decoded, make, packets_of
from tests.pipeline.swapping import (
    SOURCE,
    Marks,
    Store,
    assert_same,
    assert_same_pictures,
    interrupted,
    planes,
    segmented,
    stop_at,
)

STEPS = "face_swapper,frame_enhancer"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, inverting_models: Path) -> Path:
    return with_enlarger(inverting_models, tmp_path_factory.mktemp("larger"))


def enlarging(models: Path, **overrides: Any) -> Engine:
    return segmented(models, **{"frame_processors": STEPS, "frame_enhancer_blend": 100, **overrides})


def test_enlarging_interlaced_video_is_noted(tmp_path: Path, models: Path) -> None:
    for name, options in (("fields", {"x264-params": "tff=1"}), ("frames", {})):
        target = make(tmp_path / f"{name}.mp4", Spec(size=(160, 96), frames=4, options=options))
        result = process_video(enlarging(models), SOURCE, target, tmp_path / f"{name}-large.mp4")
        assert any("interlaced target" in note for note in result.notes) == (name == "fields")


def test_enlarged_frames_equal_enlarged_frames_of_small_result(tmp_path: Path, models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(160, 96), frames=6, sounds=(Sound(),), rotation=90))
    small, large = tmp_path / "small.mp4", tmp_path / "large.mp4"
    process_video(segmented(models, frame_processors="face_swapper"), SOURCE, target, small)
    engine = enlarging(models, keep_frames=True)
    result = process_video(engine, SOURCE, target, large)
    assert (result.frames_out, result.faces_swapped) == (6, 6)
    assert any("enlarged 2 times by RealESRGAN_x2plus, to 320x192" in note for note in result.notes)
    info = probe(large)
    assert (info.width, info.height, info.rotation) == (320, 192, 90)
    assert decoded(large)[1] == decoded(target)[1]
    assert packets_of(large) == packets_of(target)
    assert [Image.open(path).size for path in sorted(frames_folder(large).iterdir())] == [(192, 320)] * 6
    assert engine.frame_enhancer is not None
    with read_frames(probe(small)) as reader:
        for frame, made in zip(reader, planes(large), strict=True):
            expected = engine.frame_enhancer.enlarge_frame(frame.video)
            luma = np.frombuffer(expected.planes[0], np.uint8).reshape(192, -1)[:, :320]
            assert np.abs(luma.astype(int) - made[0]).max() <= 3  # one more encoding


@pytest.mark.parametrize(
    ("rate", "keep_fps", "form"), [(Fraction(25), True, "always"), (Fraction(25, 3), False, "start")]
)
def test_interrupted_run_gives_the_same_frames(
    rate: Fraction, keep_fps: bool, form: str, tmp_path: Path, models: Path
) -> None:
    target = make(
        tmp_path / "in.mp4", Spec(size=(97, 63), pix_fmt="yuv444p", rate=rate, frames=int(3 * rate))
    )
    engine = enlarging(models, keep_fps=keep_fps)
    whole = process_video(engine, SOURCE, target, tmp_path / "whole.mkv", marks=Marks(visible_label=form))
    per_second = 25 if keep_fps else 30
    result, store = interrupted(
        engine, target, tmp_path / "joined.mkv", [10, 2 * per_second + 1], marks=Marks(visible_label=form)
    )
    assert_same_pictures(tmp_path / "whole.mkv", tmp_path / "joined.mkv")
    assert_same(whole, result)
    assert result.segments_kept == 2
    assert all(part.provider == "cpu (tiles: 320)" for part in store.parts)
    plain = tmp_path / "plain.mkv"
    process_video(engine, SOURCE, target, plain, marks=Marks(visible_label="off", disclosure="test"))
    differences = [
        np.abs(one[0].astype(int) - other[0])
        for one, other in zip(planes(plain), planes(tmp_path / "whole.mkv"), strict=True)
    ]
    assert {one.shape for one in differences} == {(126, 194)}
    labelled = [bool(one.max() > 60) for one in differences]
    last = labelled.index(False) if False in labelled else len(labelled)
    assert not any(labelled[last:])
    assert last == len(labelled) if form == "always" else 2 * per_second < last < 2 * per_second + 4
    assert not any(one[:-30].any() for one in differences), "changed outside the label"


def test_tile_size_is_constant_in_a_segment_and_kept_on_resume(tmp_path: Path, models: Path) -> None:
    """The network darkens large tiles, for which memory suffices for some frames only."""
    engine, budget = enlarging(models), [0]
    assert engine.frame_enhancer is not None
    network = engine.frame_enhancer.network

    class LimitedNetwork(Network):
        def run_stack(self, *inputs: Any, output: int = 0) -> Any:
            large = max(inputs[0].shape[2:]) > 200
            budget[0] -= large
            if large and budget[0] < 0:
                raise OutOfMemoryError("GPU memory ran out")
            return network.run_stack(*inputs, output=output) * (0.2 if large else 1)

    engine.frame_enhancer.network = LimitedNetwork(**vars(network))
    target = make(tmp_path / "in.mp4", Spec(size=(160, 96), frames=75))
    budget[0], journal = 30, Journal(tmp_path / "journal.jsonl")
    index = FaceIndexLocation("key", FaceIndexMetadata.of(target, ""), tmp_path / "faces", None)
    options: dict[str, Any] = {"target": "", "mirror": None, "retry": RetryPolicy(0.0), "index": index}
    store = JournaledSegmentStore(tmp_path / "kept", key="key", journal=journal, history=History(), **options)
    result = process_video(engine, SOURCE, target, tmp_path / "whole.mkv", store=store)
    assert sum("continuing with tiles of 192 pixels" in note for note in result.notes) == 1
    assert any(
        "cpu (tiles: 320) up to segment 0, cpu (tiles: 192) up to segment 2" in n for n in result.notes
    )
    levels = [frame[0].mean() for frame in planes(tmp_path / "whole.mkv")]
    assert max(levels[:25]) < 60 < min(levels[25:])

    store = Store(tmp_path / "work")
    for memory, stop in ((30, 28), (0, 55), (10**6, None)):
        budget[0] = memory
        engine.frame_enhancer.edge = 320
        stopping = pytest.raises(KeyboardInterrupt) if stop else nullcontext()
        with stopping:
            progress = stop_at(stop) if stop else None
            process_video(engine, SOURCE, target, tmp_path / "joined.mkv", on_progress=progress, store=store)
    assert_same_pictures(tmp_path / "whole.mkv", tmp_path / "joined.mkv")
    providers = [f"cpu (tiles: {edge})" for edge in (320, 192, 192)]
    assert [part.provider for part in store.parts] == providers

    budget[0], output = 30, tmp_path / "apart.mkv"
    engine.frame_enhancer.edge = 320
    plan = plan_video(engine, SOURCE, probe(target), output, Store(tmp_path / "apart"), all_first=True)
    maker = SegmentMaker(plan)
    parts = {number: maker.make(number, has_successor=number < 2) for number in range(3)}
    assert [part.provider for part in parts.values()] == providers
    join(maker.plan, parts)
    assert_same_pictures(tmp_path / "whole.mkv", output)

    budget[0], engine.frame_enhancer.edge = 30, 320
    process_video(engine, SOURCE, target, tmp_path / "plain.mkv")
    assert_same_pictures(tmp_path / "whole.mkv", tmp_path / "plain.mkv")

    budget[0], engine.frame_enhancer.edge = 5, 320
    process_video(engine, SOURCE, target, tmp_path / "swapped.mkv")
    assert min(frame[0].mean() for frame in planes(tmp_path / "swapped.mkv")) > 60


def test_video_without_faces_is_enlarged_not_copied(tmp_path: Path, faceless_models: Path) -> None:
    models = with_enlarger(faceless_models, tmp_path / "models")
    target = make(tmp_path / "in.mp4", Spec(frames=5))
    result = process_video(enlarging(models), SOURCE, target, tmp_path / "out.mp4")
    assert (probe(tmp_path / "out.mp4").width, result.faces_swapped) == (192, 0)
    assert any("only enlarged" in note for note in result.notes)
    Image.new("RGB", (40, 30), (10, 200, 90)).save(tmp_path / "in.png")
    result = process_picture(enlarging(models), SOURCE, tmp_path / "in.png", tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == (80, 60)
    assert any("only enlarged" in note for note in result.notes)


def test_preview_equals_the_rendered_frame(tmp_path: Path, models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(160, 96), frames=6))
    engine, index = enlarging(models), FaceIndex(tmp_path / "faces", "key")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("colab_helpers.pipeline.outcome.FaceIndex", lambda _folder: index)
        process_video(engine, SOURCE, target, tmp_path / "out.mp4")
    info = probe(target)
    before, after, faces = process_indexed_frame(engine, info, 3, decide_faces(engine, info, index, SOURCE))
    assert (before.shape, after.shape, faces) == ((96, 160, 3), (192, 320, 3), 1)
    with read_frames(probe(tmp_path / "out.mp4"), start=0) as reader:
        made = [frame.video.to_ndarray(format="bgr24") for frame in reader][3]
    assert np.abs(made.astype(int) - after).mean() < 2
    assert process_image(engine, SOURCE, before)[0].shape == (192, 320, 3)


def test_enlarged_picture_keeps_alpha_and_gets_label_of_its_size(tmp_path: Path, models: Path) -> None:
    rgba = np.full((180, 320, 4), 255, np.uint8)
    rgba[..., :3] = np.arange(320)[None, :, None] // 2 + 40
    rgba[..., 3] = np.arange(320)[None] // 2 + 90
    Image.fromarray(rgba).save(tmp_path / "in.png")
    engine, marks = enlarging(models), Marks(visible_label="always", visible_label_position="top-left")
    result = process_picture(engine, SOURCE, tmp_path / "in.png", tmp_path / "out.png", marks=marks)
    made = np.asarray(Image.open(tmp_path / "out.png"))
    assert made.shape == (360, 640, 4)
    assert result.faces_swapped == 1
    smooth = cv2.resize(rgba[..., 3], (640, 360), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(made[200:, :, 3], smooth[200:])
    assert (made[..., 3] == 255)[:60, :200].sum() > 2000, "the label's box is not opaque"
    assert engine.frame_enhancer is not None
    plain = enlarging(models, frame_processors="face_swapper")
    small = process_image(plain, SOURCE, rgba[..., 2::-1], rgba[..., 3].copy())[0]
    assert np.array_equal(made[200:, :, 2::-1], engine.frame_enhancer.enlarge(small)[200:])


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_every_frame_of_an_animation_is_enlarged(kind: str, tmp_path: Path, models: Path) -> None:
    frames = [Image.new("RGB", (90, 60), (40 * number + 20, 90, 200)) for number in range(3)]
    target, output = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=[100, 250, 40], loop=0)
    result = process_picture(enlarging(models), SOURCE, target, output)
    with Image.open(output) as image:
        assert (image.size, getattr(image, "n_frames", 1), result.frames_out) == ((180, 120), 3, 3)
        for number in range(3):
            image.seek(number)
            shown = np.asarray(image.convert("RGB"), int)[5:20, 5:20].mean((0, 1))
            assert np.abs(shown - (40 * number + 20, 90, 200)).max() < 12


def test_engine_reports_enlarger_growth_and_notes(models: Path) -> None:
    engine = enlarging(models)
    assert "RealESRGAN_x2plus" in [network.name for network in engine.networks]
    assert engine.growth == 4
    assert engine.provider_detail == "cpu (tiles: 320)"
    assert enlarging(models, frame_processors="face_swapper").growth == 1
    assert engine.frame_enhancer is not None
    engine.frame_enhancer.notes.append("less")
    assert engine.take_memory_notes() == ["less"]
    assert not engine.take_memory_notes()
    assert replace(engine, frame_enhancer=None).provider_detail == "cpu"


def test_retry_with_smaller_tiles_keeps_notes_and_start_time(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(160, 96), frames=4))
    plans: list[VideoPlan] = []

    def complete(plan: VideoPlan) -> FileResult:
        plans.append(plan)
        if len(plans) == 1:
            raise SmallerTilesError
        return complete_video(plan)

    monkeypatch.setattr(video, "complete_video", complete)
    marks = Marks(visible_label_text="W" * 80)
    result = process_video(enlarging(models), SOURCE, target, tmp_path / "out.mp4", marks=marks)
    assert plans[0].started == plans[1].started
    assert sum("label does not fit" in note for note in result.notes) == 1
