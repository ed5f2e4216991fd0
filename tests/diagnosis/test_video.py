"""Encoder and decoder: what works is what was tried."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from colab_helpers.__main__ import FAILURE
from colab_helpers.diagnosis import video
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.media import encoders
from colab_helpers.settings import load_settings
from tests.diagnosis.conftest import NO_GPU, T4, Doctor

ALL = ("h264_nvenc", "hevc_nvenc", "libx264", "libx265")


@pytest.fixture
def on_t4(standins: Path) -> Subject:
    return Subject.here(load_settings(), models_dir=standins, folder=Path(), machine=T4)


@pytest.fixture
def without(standins: Path) -> Subject:
    return Subject.here(load_settings(), models_dir=standins, folder=Path(), machine=NO_GPU)


def hardware(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """NVDEC that gives the software decoder's frames, changed."""
    real = video.decode
    monkeypatch.setattr(
        video, "decode", lambda data, hwaccel=None: real(data) if hwaccel is None else change(real(data))
    )


def test_the_trial_video_comes_back(without: Subject) -> None:
    frames = video.decode(video.trial_video())
    assert len(frames) == video.FRAMES
    assert all(frame.shape == (video.HEIGHT, video.WIDTH) for frame in frames)
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)]
    assert min(apart) > video.TOLERANCE  # frames in another order would be noticed
    (check,) = video.decoder(without)
    assert check.status == "pass"


def test_nvdec_counts_when_its_pictures_are_equal(on_t4: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware(monkeypatch, lambda frames: frames)
    (check,) = video.decoder(on_t4)
    assert (check.status, "by NVDEC, with equal pictures" in check.detail) == ("pass", True)


def refuse(_: list) -> list:
    raise av.error.PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (refuse, "Operation not permitted"),
        (lambda frames: frames[1:], "of 8 frames it gave 7"),
        (lambda frames: frames[::-1], "grey levels on average"),
    ],
)
def test_nvdec_that_does_not_work_is_told_where_there_is_a_gpu(
    on_t4: Subject,
    without: Subject,
    monkeypatch: pytest.MonkeyPatch,
    change,
    reason: str,
) -> None:
    hardware(monkeypatch, change)
    (check,) = video.decoder(on_t4)
    assert check.status == "warn"
    assert "NVDEC is not usable" in check.detail
    assert reason in check.detail
    assert "NVIDIA_DRIVER_CAPABILITIES" in check.remedy
    (other,) = video.decoder(without)
    assert (other.status, "NVDEC is not usable" in other.detail) == ("pass", True)


def test_a_decoder_that_loses_frames_fails(without: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "decode", lambda *_: [])
    (check,) = video.decoder(without)
    assert check.status == "fail"


def only(monkeypatch: pytest.MonkeyPatch, *working: str) -> None:
    found = {name: None if name in working else "Operation not permitted" for name in ALL}
    monkeypatch.setattr(encoders, "usable_encoders", lambda: found)


@pytest.mark.parametrize(
    ("working", "gpu", "status"),
    [
        (ALL, True, "pass"),
        (("libx264",), True, "warn"),
        (("libx264",), False, "pass"),
        ((), False, "fail"),
    ],
)
def test_encoders(
    on_t4: Subject, without: Subject, monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], gpu: bool,
    status: str,
) -> None:  # fmt: skip
    only(monkeypatch, *working)
    (check,) = video.encoder(on_t4 if gpu else without)
    assert check.status == status
    assert ("NVENC is not usable (Operation not permitted)" in check.detail) == ("h264_nvenc" not in working)
    assert bool(check.remedy) == (status != "pass")


def test_an_encoder_asked_for_by_name_must_work(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "libx264")
    answer = doctor("--output-video-encoder", "hevc_nvenc")
    assert answer.code == FAILURE
    assert answer.names("fail") == ["encoder"]
