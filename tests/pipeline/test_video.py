from __future__ import annotations

import io
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import pytest

from colab_helpers.diagnosis.bench_networks import write_constant_models
from colab_helpers.errors import ColabHelpersError, EncoderError, ModelError, NoFaceError, OutputError
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.pipeline import frames_folder, process_video
from colab_helpers.progress import Progress
from tests.media.make import Sound, Spec, Subtitle, add_cover, decoded, make, packets_of, variable_pts
from tests.pipeline.swapping import FACE, SOURCE, assert_same_pictures, engine, planes

SPECS = {
    "cfr": Spec(sounds=(Sound(),)),
    "ntsc": Spec(rate=Fraction(30000, 1001), frames=30, sounds=(Sound(),)),
    "vfr": Spec(time_base=Fraction(1, 1000), pts=variable_pts(20), frames=20, sounds=(Sound(),)),
    "rotated": Spec(rotation=90, sounds=(Sound(),)),
    "ten_bit": Spec(pix_fmt="yuv420p10le", sounds=(Sound(),)),
    "odd": Spec(size=(97, 63), pix_fmt="yuv444p", sounds=(Sound(),)),
    "silent": Spec(),
    "two_sounds": Spec(sounds=(Sound(language="eng"), Sound(language="spa", tone=880))),
    "subtitled": Spec(sounds=(Sound(),), subtitles=(Subtitle(),)),
    "b_frames": Spec(options={"preset": "medium", "bf": "3", "crf": "18"}, sounds=(Sound(),)),
}


@pytest.mark.parametrize("name", SPECS)
def test_frames_keep_timestamps_and_audio_is_copied(name: str, tmp_path: Path, constant_models: Path) -> None:
    spec = SPECS[name]
    target = make(tmp_path / "in.mp4", spec)
    output = tmp_path / "out.mp4"
    enhanced = {} if name in ("cfr", "odd") else {"frame_processors": "face_swapper"}
    result = process_video(engine(constant_models, **enhanced), SOURCE, target, output)
    _, times_in = decoded(target)
    _, times_out = decoded(output)
    assert times_in == times_out
    assert result.frames_in == result.frames_out == len(times_in) == result.faces_swapped
    assert result.frames_without_face == 0
    for number in range(len(spec.sounds)):
        assert packets_of(target, which=number) == packets_of(output, which=number)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pixels_outside_the_face_box_are_unchanged(tmp_path: Path, inverting_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), frames=8))
    output = tmp_path / "out.mp4"
    process_video(engine(inverting_models, frame_processors="face_swapper"), SOURCE, target, output)
    left, top, right, bottom = (value // 2 for value in FACE)  # 640 -> 320
    for before, after in zip(planes(target), planes(output), strict=True):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            step = 1 if number == 0 else 2
            inside = np.zeros(old.shape, bool)
            inside[top // step : bottom // step + 1, left // step : right // step + 1] = True
            np.testing.assert_array_equal(old[~inside], new[~inside])
        middle = (slice(top + 45, bottom - 45), slice(left + 45, right - 45))
        # Limited range: the negative of luma code y is 251 - y.
        assert np.abs(after[0][middle].astype(int) - (251 - before[0][middle].astype(int))).mean() < 12


def test_frames_without_face_are_unchanged(tmp_path: Path, faceless_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180)))
    output = tmp_path / "out.mp4"
    result = process_video(engine(faceless_models), SOURCE, target, output)
    assert (result.faces_swapped, result.frames_without_face) == (0, 25)
    assert any("no face" in note for note in result.notes)
    assert_same_pictures(target, output)


def test_threads_and_batch_size_do_not_change_the_result(tmp_path: Path, inverting_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), frames=23))
    for threads, batch in ((1, 1), (3, 2), (8, 5)):
        output = tmp_path / f"{threads}-{batch}.mp4"
        models = engine(inverting_models, execution_threads=threads, batch_size=batch)
        process_video(models, SOURCE, target, output)
        assert_same_pictures(tmp_path / "1-1.mp4", output)


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(60), Fraction(10)])
def test_without_keep_fps_rate_is_30_and_frames_change_once(
    rate: Fraction, tmp_path: Path, inverting_models: Path
) -> None:
    frames = int(rate)
    target = make(tmp_path / "in.mp4", Spec(size=(320, 180), rate=rate, frames=frames))
    output = tmp_path / "out.mp4"
    models = engine(inverting_models, keep_fps=False, frame_processors="face_swapper")
    result = process_video(models, SOURCE, target, output)
    _, times = decoded(output)
    assert times == [Fraction(number, 30) for number in range(30)]
    assert (result.frames_in, result.frames_out) == (frames, 30)
    before, after = planes(target), planes(output)
    middle = (slice(75, 105), slice(145, 175))
    # A face inverted twice would be the original.
    for number, frame in enumerate(after):
        shown = int(number * rate / 30)
        candidates = [before[min(frames - 1, near)][0][middle].astype(int) for near in (shown, shown + 1)]
        picture = frame[0][middle].astype(int)
        assert min(np.abs(picture - (251 - original)).mean() for original in candidates) < 20


def test_keep_frames_writes_an_image_per_frame(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=5))
    output = tmp_path / "out.mp4"
    models = engine(constant_models, keep_frames=True, temp_frame_format="jpg", temp_frame_quality=85)
    process_video(models, SOURCE, target, output)
    names = sorted(path.name for path in frames_folder(output).iterdir())
    assert names == [f"{number:06d}.jpg" for number in range(5)]


def test_skip_audio(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=5, sounds=(Sound(),)))
    output = tmp_path / "out.mp4"
    process_video(engine(constant_models, skip_audio=True), SOURCE, target, output)
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_progress_increases_to_the_end(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    seen: list[Progress] = []
    process_video(engine(constant_models), SOURCE, target, tmp_path / "out.mp4", on_progress=seen.append)
    last = seen[-1]
    assert (last.frame, last.frames, last.eta, last.file) == (60, 60, 0, "in.mp4")
    assert [item.frame for item in seen] == sorted(item.frame for item in seen)
    assert 0 < last.ram_percent < 100
    assert (last.provider, last.threads) == ("cpu", 1)


class BoomError(RuntimeError):
    pass


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("stage", ["analyser", "swapper", "progress"])
def test_error_in_any_stage_stops_all_threads_and_is_raised(
    stage: str, threads: int, tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=200))
    output = tmp_path / "out.mp4"
    models = engine(constant_models, execution_threads=threads)
    calls = [0]

    def fail_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] > count:
                raise BoomError
            return function(*arguments)

        return call

    if stage == "analyser":
        monkeypatch.setattr(models.analyser, "detect", fail_after(20, models.analyser.detect))
    if stage == "swapper":
        assert models.swapper is not None
        monkeypatch.setattr(models.swapper, "swap", fail_after(5, models.swapper.swap))
    progress = fail_after(0, lambda _: None) if stage == "progress" else None
    before = threading.active_count()
    with pytest.raises(BoomError):
        process_video(models, SOURCE, target, output, on_progress=progress)
    assert threading.active_count() == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_missing_reference_frame_or_face_is_an_error(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=5))
    select = {"many_faces": False, "face_selector": "reference"}
    result = process_video(engine(constant_models, **select), SOURCE, target, tmp_path / "a.mp4")
    assert result.faces_swapped == 5
    with pytest.raises(NoFaceError, match="ends before"):
        process_video(
            engine(constant_models, **select, reference_frame_number=5), SOURCE, target, tmp_path / "b.mp4"
        )
    with pytest.raises(NoFaceError, match=r"1 face\(s\)"):
        process_video(
            engine(constant_models, **select, reference_face_position=1), SOURCE, target, tmp_path / "b.mp4"
        )


def test_unavailable_explicit_encoder_is_an_error(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=5))
    models = engine(constant_models, output_video_encoder="h264_nvenc")
    if models.provider == "cuda":
        pytest.skip("this machine has NVENC")
    with pytest.raises(EncoderError, match="libx264"):
        process_video(models, SOURCE, target, tmp_path / "out.mp4")


def test_unwritable_output_folder_is_an_output_error(tmp_path: Path, constant_models: Path) -> None:
    target = make(tmp_path / "in.mp4", Spec(frames=5))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        process_video(engine(constant_models), SOURCE, target, tmp_path / "file" / "out.mp4")


@pytest.mark.parametrize("missing", ["buffalo_l/det_10g.onnx", "inswapper_128.onnx", "GFPGANv1.4.onnx"])
def test_missing_and_damaged_models_are_named(missing: str, tmp_path: Path) -> None:
    models = write_constant_models(tmp_path / "models", box=FACE)
    (models / missing).unlink()
    with pytest.raises(ModelError, match=r"missing.*COLAB_HELPERS_MODELS"):
        engine(models)
    (models / missing).write_bytes(b"not a network")
    with pytest.raises(ModelError, match="damaged"):
        engine(models)


def test_swapper_without_projection_matrix_is_refused(tmp_path: Path) -> None:
    models = write_constant_models(tmp_path / "models", box=FACE)
    model = onnx.load(models / "inswapper_128.onnx")
    del model.graph.initializer[:]
    onnx.save(model, models / "inswapper_128.onnx")
    with pytest.raises(ColabHelpersError, match="buff2fs"):
        engine(models)


def with_extra_video_streams(path: Path) -> Path:
    """A clip with audio, subtitles, a second video track and cover art."""
    suffix = path.suffix
    text = Subtitle("mov_text" if suffix == ".mp4" else "subrip")
    main = make(path.with_stem("main"), Spec(frames=10, sounds=(Sound(),), subtitles=(text,)))
    other = make(path.with_stem("other"), Spec(frames=10))
    with av.open(str(main)) as one, av.open(str(other)) as two, av.open(str(path), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream, opaque=True) for stream in one.streams}
        second = out.add_stream_from_template(two.streams.video[0], opaque=True)
        picture = add_cover(out) if suffix == ".mp4" else None
        if suffix == ".mkv":
            out.add_attachment("cover.jpg", "image/jpeg", a_jpeg())
        out.start_encoding()
        if picture is not None:
            out.mux(picture)
        for source in (one, two):
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream.index] if source is one else second
                    out.mux(packet)
    return path


def a_jpeg() -> bytes:
    with av.open(io.BytesIO(), "w", format="mp4") as scratch:
        return bytes(add_cover(scratch))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("silent", [False, True])
def test_streams_that_may_show_original_face_are_dropped_and_noted(
    suffix: str, silent: bool, tmp_path: Path, constant_models: Path
) -> None:
    target = with_extra_video_streams(tmp_path / f"in{suffix}")
    assert len(probe(target).others) == 2
    output = tmp_path / f"out{suffix}"
    result = process_video(engine(constant_models, skip_audio=silent), SOURCE, target, output)
    info = probe(output)
    assert (len(info.audio), len(info.subtitles), info.others) == (0 if silent else 1, 1, ())
    assert len([note for note in result.notes if "may show the original face" in note]) == 2


MIRRORS = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (0, 1, -1, 0), (-1, 0, 0, -1)]


@pytest.mark.parametrize("axes", MIRRORS)
def test_kept_frames_and_detector_input_are_upright(
    axes: tuple[int, int, int, int], tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = []
    view = VideoPicture.detector_view

    def seen(self: VideoPicture, size: int) -> Any:
        views.append(view(self, size))
        return views[-1]

    monkeypatch.setattr(VideoPicture, "detector_view", seen)
    target = make(tmp_path / "in.mp4", Spec(size=(96, 64), frames=2, axes=axes))
    output = tmp_path / "out.mp4"
    models = engine(
        constant_models, keep_frames=True, temp_frame_format="png", frame_processors="face_swapper"
    )
    process_video(models, SOURCE, target, output)
    info = probe(target)
    shown = info.upright(next(iter(read_frames(info))).video.to_ndarray(format="bgr24"))
    kept = cv2.imread(str(frames_folder(output) / "000000.png"))
    assert kept is not None
    assert kept.shape == shown.shape
    assert np.abs(kept.astype(int) - shown).mean() < 12
    wanted = shown[:, ::-1] if info.mirrored else shown
    small = cv2.resize(views[0].image, (wanted.shape[1], wanted.shape[0]))
    assert np.abs(small.astype(int) - wanted).mean() < 12
    assert probe(output).display_matrix == info.display_matrix


def test_times_kept_is_false_for_restarting_timestamps(tmp_path: Path, constant_models: Path) -> None:
    once = make(tmp_path / "once.ts", Spec(frames=10))
    target = tmp_path / "in.ts"
    target.write_bytes(once.read_bytes() * 2)
    models = engine(constant_models)
    assert process_video(models, SOURCE, once, tmp_path / "a.mp4").times_kept is True
    result = process_video(models, SOURCE, target, tmp_path / "b.mp4")
    assert (result.times_kept, result.frames_out, result.video_seconds) == (False, 20, 0.8)


@pytest.mark.parametrize(("keep_fps", "denoised"), [(True, 57), (False, 0)])
def test_frames_are_denoised_by_their_predecessor_within_a_segment(
    tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch, *, keep_fps: bool, denoised: int
) -> None:
    seen = []
    monkeypatch.setattr(
        "colab_helpers.faces.crop_denoiser._denoise", lambda crop, _before: seen.append(1) or crop
    )
    models = engine(constant_models, keep_fps=keep_fps, segment_seconds=1.0)
    target = make(tmp_path / "in.mp4", Spec(frames=60))
    assert process_video(models, SOURCE, target, tmp_path / "out.mp4").faces_swapped >= 60
    assert len(seen) == denoised
