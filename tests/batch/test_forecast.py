"""How long files will take: reckoned from measured frames, and said in a sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.batch import forecast as room
from colab_helpers.batch.forecast import CALIBRATION, Forecast, forecast
from colab_helpers.faces.engine import Engine
from colab_helpers.pipeline import FileResult, VideoRun
from colab_helpers.settings import load_settings
from tests.media.make import Sound, Spec, make

A, B, C = Path("a.mp4"), Path("b.mp4"), Path("c.mp4")
FOUND = Forecast({A: 300.0, B: 60.0, C: 120.0})


def test_what_fits_is_counted_in_order() -> None:
    assert FOUND.fitting([A, B, C], 6) == 2
    assert FOUND.fitting([A, B, C], 1) == 0
    assert FOUND.fitting([A, B, C], 8) == 3
    order = FOUND.shortest_first([A, B, C, Path("unreadable.mp4")])
    assert order == [1, 2, 0, 3]
    assert FOUND.fitting([B, C, A], 6) == 2


def test_the_sentence() -> None:
    assert FOUND.line([A, B, C], 0) == "3 file(s) will take about 8 minutes"
    assert FOUND.line([A, B, C], 6).startswith("2 of 3 file(s) fit the 6 minutes that are left; all will")


def test_one_video_of_each_size_is_measured_and_the_rest_is_reckoned(
    tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, int]] = []
    genuine = VideoRun.run

    def run(self: VideoRun) -> FileResult:
        result = genuine(self)
        assert self.excerpt is CALIBRATION
        measured.append((self.target.name, result.frames_out))
        return replace(result, seconds=result.frames_out / 20)

    monkeypatch.setattr(room.VideoRun, "run", run)
    make(tmp_path / "long.mp4", Spec(frames=200, sounds=(Sound(),)))
    make(tmp_path / "short.mp4", Spec(frames=40))
    make(tmp_path / "large.mp4", Spec(size=(320, 180), frames=60))
    (tmp_path / "text.mp4").write_text("no video")
    cv2.imwrite(str(tmp_path / "still.png"), np.zeros((64, 64, 3), np.uint8))
    settings = load_settings("balanced", execution_provider="cpu", output_video_encoder="libx264")
    engine = Engine.open(settings, models_dir=constant_models)
    beats: list[None] = []
    names = ["long.mp4", "short.mp4", "text.mp4", "large.mp4", "still.png"]
    targets = [tmp_path / name for name in names]
    source = np.ones(512, np.float32) / np.float32(512**0.5)
    found = forecast(engine, source, targets, beat=lambda: beats.append(None))
    assert measured == [("long.mp4", 50), ("large.mp4", 50)]
    assert len(beats) == 2
    seconds = {path.name: value for path, value in found.seconds.items()}
    assert seconds == {
        "long.mp4": pytest.approx(10.0),
        "short.mp4": pytest.approx(2.0),
        "large.mp4": pytest.approx(3.0),
        "still.png": pytest.approx(2.0),
    }


def test_a_slow_machine_is_not_kept_longer_than_it_takes_to_know(
    tmp_path: Path, constant_models: Path
) -> None:
    target = make(tmp_path / "a.mp4", Spec(frames=80))
    settings = load_settings("balanced", execution_provider="cpu", output_video_encoder="libx264")
    engine = Engine.open(settings, models_dir=constant_models)
    excerpt = replace(CALIBRATION, seconds=0.0)
    run = VideoRun(engine, None, target, tmp_path / "x.mkv", excerpt=replace(excerpt, seconds=0.2, frames=3))
    assert run.run().frames_out == 3
