"""Results made in segments, in one or several runs, equal those of one uninterrupted run."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.errors import MediaError
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.faces.quality import Brightness, FrameStats
from colab_helpers.media.probe import probe
from colab_helpers.pipeline import FinishedSegment, frames_folder, process_video
from colab_helpers.pipeline.plan import VideoPlan, plan_video
from colab_helpers.pipeline.video import SegmentMaker, join
from tests.media.make import Sound, Spec, Subtitle, decoded, make, number_of, packets_of, variable_pts
from tests.people.clip import write_target
from tests.people.scene import Scene
from tests.pipeline.swapping import SOURCE, Store, assert_same, assert_same_pictures, interrupted, segmented
from tests.pipeline.swapping import engine as any_engine

SPECS = {
    "cfr": Spec(sounds=(Sound(),)),
    "ntsc": Spec(rate=Fraction(30000, 1001), sounds=(Sound(),)),
    "vfr": Spec(time_base=Fraction(1, 1000), pts=variable_pts(60)),
    "rotated": Spec(rotation=90, sounds=(Sound(),)),
    "odd": Spec(size=(97, 63), pix_fmt="yuv444p"),
    "subtitled": Spec(sounds=(Sound(), Sound(language="spa")), subtitles=(Subtitle(),)),
    "b_frames": Spec(options={"preset": "medium", "bf": "3", "crf": "18"}, sounds=(Sound(),)),
    "one_group": Spec(options={"preset": "ultrafast", "g": "300", "crf": "18"}),
    "open_groups": Spec(options={"preset": "medium", "bf": "3", "g": "12", "x264-params": "open-gop=1"}),
}


SUFFIXES = {"vfr": ".mkv", "odd": ".mkv", "one_group": ".mkv"}
"""Containers of results that are not MP4."""


@pytest.mark.parametrize("name", SPECS)
def test_interrupted_run_equals_uninterrupted(name: str, tmp_path: Path, inverting_models: Path) -> None:
    suffix = SUFFIXES.get(name, ".mp4")
    rng = random.Random(f"{name}{suffix}")
    target = make(tmp_path / "in.mp4", replace(SPECS[name], frames=60))
    enhanced = {} if name in ("cfr", "odd") else {"frame_processors": "face_swapper"}
    models = segmented(inverting_models, execution_threads=2, batch_size=2, **enhanced)
    plain = tmp_path / f"plain{suffix}"
    whole = process_video(models, SOURCE, target, plain)
    stops = sorted(rng.sample(range(1, 60), 2))
    result, store = interrupted(models, target, tmp_path / f"joined{suffix}", stops)
    assert_same_pictures(plain, tmp_path / f"joined{suffix}")
    assert decoded(plain)[1] == decoded(tmp_path / f"joined{suffix}")[1]
    for number in range(len(SPECS[name].sounds)):
        assert packets_of(plain, which=number) == packets_of(tmp_path / f"joined{suffix}", which=number)
    assert_same(whole, result)
    numbers = [part.segment.number for part in store.parts]
    assert numbers == list(range(len(numbers))), "a finished segment was made again"
    assert result.segments == whole.segments == len(numbers)
    length = store.parts[0].segment.frames
    assert result.segments_kept >= max(0, stops[-1] // length - 1)


@pytest.mark.parametrize("keep_fps", [True, False])
@pytest.mark.parametrize("selection", [{}, {"many_faces": False}], ids=["all", "one"])
def test_run_resumes_from_face_index_without_segments(
    tmp_path: Path, inverting_models: Path, *, keep_fps: bool, selection: dict[str, Any]
) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    models = segmented(inverting_models, frame_processors="face_swapper", keep_fps=keep_fps, **selection)
    whole = process_video(models, SOURCE, target, tmp_path / "plain.mp4")
    store = Store(tmp_path / "work")

    def fail(_done: FinishedSegment) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "keep", fail)
        with pytest.raises(KeyboardInterrupt):
            process_video(models, SOURCE, target, tmp_path / "out.mp4", store=store)
    assert len(store.face_index()) > 30
    assert_same(whole, process_video(models, SOURCE, target, tmp_path / "out.mp4", store=store))
    assert_same_pictures(tmp_path / "plain.mp4", tmp_path / "out.mp4")


@pytest.mark.parametrize("stops", [[], [30], [30, 50, 80]])
def test_late_face_is_changed_as_without_skipped_frames(
    stops: list[int], tmp_path: Path, inverting_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = {"detect": FaceAnalyser.detect, "search_views": FaceAnalyser.search_views}
    empty = {"detect": [], "search_views": ([], "plain")}

    def late(name: str, *args: Any) -> Any:
        return originals[name](*args) if number_of(args[1].frame) >= 66 else empty[name]

    for name in originals:
        monkeypatch.setattr(FaceAnalyser, name, lambda *args, name=name: late(name, *args))
    target = make(tmp_path / "in.mp4", Spec(frames=100))
    models = segmented(inverting_models, frame_processors="face_swapper")
    with monkeypatch.context() as patch:
        patch.setattr(VideoPlan, "may_be_copy", False)
        whole = process_video(models, SOURCE, target, tmp_path / "plain.mp4")
    assert 100 - 68 <= whole.faces_swapped <= 100 - 64
    result, store = interrupted(models, target, tmp_path / "out.mp4", stops)
    assert_same(whole, result)
    assert_same_pictures(tmp_path / "plain.mp4", tmp_path / "out.mp4")
    assert [part.segment.number for part in store.parts] == [0, 1, 2, 3]
    assert result.segments_kept == (3 if 80 in stops else 0)


def test_finding_all_faces_first_when_ram_is_low_gives_same_result(
    tmp_path: Path, standins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "in.mp4"
    write_target(
        target, Scene(7, (320, 180), seconds=1.0, people=2, crossing=True), crf=18, preset="veryfast"
    )
    models = any_engine(standins, frame_processors="face_swapper")
    plain = process_video(models, SOURCE, target, tmp_path / "plain.mp4")
    assert plain.faces_swapped > 25
    stages: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("colab_helpers.pipeline.video_stages.LOOK_AHEAD", 10**9)
        found_first = process_video(
            models, SOURCE, target, tmp_path / "out.mp4", on_progress=lambda now: stages.append(now.stage)
        )
    assert "finding faces" in stages
    assert_same(plain, found_first)
    assert_same_pictures(tmp_path / "plain.mp4", tmp_path / "out.mp4")


def test_face_index_of_another_video_is_refused(tmp_path: Path, constant_models: Path) -> None:
    models = segmented(constant_models)
    for frames, others in ((30, 31), (31, 30)):
        store = Store(tmp_path / f"work{frames}")
        first = make(tmp_path / f"{frames}.mp4", Spec(frames=frames))
        process_video(models, SOURCE, first, tmp_path / "a.mp4", store=store)
        store.parts.clear()
        with pytest.raises(MediaError, match=r"does not match its face index.*\.faces"):
            process_video(
                models, SOURCE, make(tmp_path / "b.mp4", Spec(frames=others)), tmp_path / "c.mp4", store=store
            )
        assert not (tmp_path / "c.mp4").exists()


def test_run_interrupted_before_joining_detects_nothing_again(
    tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60, sounds=(Sound(),)))
    models = segmented(constant_models)
    store = Store(tmp_path / "work")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("colab_helpers.pipeline.video.join_segments", fail)
        with pytest.raises(KeyboardInterrupt):
            process_video(models, SOURCE, target, tmp_path / "out.mp4", store=store)
    assert [part.segment.frames for part in store.parts] == [25, 25, 10]
    monkeypatch.setattr(models.analyser, "detect", fail)
    result = process_video(models, SOURCE, target, tmp_path / "out.mp4", store=store)
    assert (result.frames_in, result.frames_out, result.segments_kept) == (60, 60, 3)
    assert result.faces_swapped == 60


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(60), Fraction(10)])
def test_interrupted_run_at_constant_rate(rate: Fraction, tmp_path: Path, inverting_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), rate=rate, frames=int(2 * rate)))
    models = segmented(inverting_models, keep_fps=False, frame_processors="face_swapper")
    whole = process_video(models, SOURCE, target, tmp_path / "plain.mp4")
    result, store = interrupted(models, target, tmp_path / "joined.mp4", [10, 41])
    assert_same_pictures(tmp_path / "plain.mp4", tmp_path / "joined.mp4")
    assert decoded(tmp_path / "joined.mp4")[1] == [Fraction(number, 30) for number in range(60)]
    assert [part.segment.start for part in store.parts] == [0, 30]
    assert (result.frames_in, result.frames_out) == (whole.frames_in, whole.frames_out)


@pytest.mark.parametrize("name", ["cfr", "vfr", "one_group", "open_groups"])
def test_segments_made_separately_in_any_order_equal_one_run(
    name: str, tmp_path: Path, inverting_models: Path
) -> None:
    target = make(tmp_path / "in.mp4", replace(SPECS[name], frames=60))
    models = segmented(inverting_models, frame_processors="face_swapper", execution_threads=2)
    output = tmp_path / "plain.mp4"
    whole, one_run = interrupted(models, target, output, [])
    store = Store(tmp_path / "apart")

    def planned() -> VideoPlan:
        return plan_video(models, SOURCE, probe(target), tmp_path / "joined.mp4", store, all_first=True)

    assert planned().is_divisible
    maker = SegmentMaker(planned())
    for number, has_successor in ((2, False), (0, True), (1, False)):
        part = maker.make(number, has_successor=has_successor)
        expected = one_run.parts[number]
        assert replace(part.segment, path=expected.segment.path) == expected.segment
        assert replace(part, segment=expected.segment) == expected
    assert replace(maker.make(1, has_successor=True), segment=part.segment) == part
    assert maker.make(2, has_successor=True).segment.sha256 == one_run.parts[2].segment.sha256
    maker.close()
    assert not list(store.folder.glob(".*"))
    del store.parts[3:]
    result = join(planned(), {part.segment.number: part for part in store.parts})
    assert result is not None
    assert_same(whole, result)
    assert output.read_bytes() == (tmp_path / "joined.mp4").read_bytes()
    del store.parts[2]
    again = process_video(models, SOURCE, target, tmp_path / "gap.mp4", store=store)
    assert [part.segment.number for part in store.parts] == [2, 0, 1]
    assert_same(whole, again)
    assert again.segments_kept == 2
    assert output.read_bytes() == (tmp_path / "gap.mp4").read_bytes()


def test_kept_frames_resume_and_segments_without_them_are_redone(
    tmp_path: Path, constant_models: Path
) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    models = segmented(constant_models, keep_frames=True)
    result, store = interrupted(models, target, tmp_path / "a.mp4", [30])
    assert result.segments_kept == 1
    names = sorted(path.name for path in frames_folder(tmp_path / "a.mp4").iterdir())
    assert names == [f"{number:06d}.png" for number in range(60)]
    assert not (store.folder / "frames").exists()
    assert process_video(models, SOURCE, target, tmp_path / "b.mp4", store=store).segments_kept == 0


def test_segments_of_another_encoder_or_length_are_redone(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    _, store = interrupted(segmented(constant_models), target, tmp_path / "a.mp4", [30])
    finer = process_video(
        segmented(constant_models, output_video_quality=10), SOURCE, target, tmp_path / "b.mp4", store=store
    )
    assert finer.segments_kept == 0
    store.parts = store.parts[3:]
    longer = process_video(
        segmented(constant_models, output_video_quality=10, segment_seconds=2.0),
        SOURCE,
        target,
        tmp_path / "c.mp4",
        store=store,
    )
    assert longer.segments_kept == 0


def test_change_of_provider_between_segments_is_noted(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    models = segmented(constant_models)
    _, store = interrupted(models, target, tmp_path / "a.mp4", [])
    store.parts = [replace(store.parts[0], provider="cuda")]
    result = process_video(models, SOURCE, target, tmp_path / "b.mp4", store=store)
    assert any("cuda up to segment 0, cpu up to segment 2" in note for note in result.notes)


def test_frames_without_face_are_reported_as_spans(tmp_path: Path, faceless_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    result, _ = interrupted(segmented(faceless_models), target, tmp_path / "a.mp4", [30])
    assert result.measured.spans == [(0, 60)]
    assert result.frames_without_face == 60
    assert any("no face to change was found" in note for note in result.notes)


def test_copying_swapper_has_no_flicker_and_valid_similarities(tmp_path: Path, constant_models: Path) -> None:
    # Grey levels survive the conversion to BGR and back unchanged.
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), frames=50, pix_fmt="gray"))
    models = segmented(constant_models, frame_processors="face_swapper")
    measured = process_video(models, SOURCE, target, tmp_path / "a.mp4").measured
    assert measured.pairs == 24 + 24
    assert measured.flicker_rms == pytest.approx(0.0, abs=0.5)
    assert len(measured.similarities) == 2
    assert measured.similarity_p5 is not None
    assert -1.0 <= measured.similarity_p5 <= (measured.similarity_mean or 0) <= 1.0


def test_inverting_swapper_flickers_in_moving_pictures(tmp_path: Path, inverting_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), frames=50))
    models = segmented(inverting_models, frame_processors="face_swapper")
    measured = process_video(models, SOURCE, target, tmp_path / "a.mp4").measured
    assert measured.flicker_rms is not None
    assert measured.flicker_rms > 0.5


def test_brightness_follows_only_adjacent_frames_of_a_still_face() -> None:
    before = Brightness(3, 100.0, (50.0, 50.0), 40.0)
    assert Brightness(4, 100.0, (60.0, 50.0), 40.0).follows(before)
    assert not Brightness(5, 100.0, (50.0, 50.0), 40.0).follows(before)
    assert not Brightness(4, 100.0, (80.0, 50.0), 40.0).follows(before)


def test_frame_stats_of_parts_add_up() -> None:
    first, second = FrameStats(), FrameStats()
    for index, faces in enumerate([1, 0, 0]):
        first.add_frame(index, faces)
    for index, faces in enumerate([0, 2], 3):
        second.add_frame(index, faces)
    first.similarities, second.similarities = [0.5], [0.9]
    first.flicker, first.pairs, second.flicker, second.pairs = 8.0, 1, 1.0, 3
    first.add(second)
    assert (first.faces, first.without_face, first.spans) == (3, 3, [(1, 4)])
    assert (first.similarity_mean, first.flicker_rms) == (pytest.approx(0.7), 1.5)
    assert FrameStats().flicker_rms is None
    assert FrameStats().similarity_mean is None
