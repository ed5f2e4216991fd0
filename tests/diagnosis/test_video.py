"""Encoder and decoder: what works is what was tried."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from colab_helpers.__main__ import FAILURE
from colab_helpers.diagnosis import video
from colab_helpers.diagnosis.doctor import Question
from colab_helpers.diagnosis.findings import Check
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.machine import Machine
from colab_helpers.media import encoders
from colab_helpers.settings import load_settings
from tests.diagnosis.conftest import NO_GPU, T4, Doctor

Change = Callable[[list], list]
ALL = ("h264_nvenc", "hevc_nvenc", "libx264", "libx265")


def seen_by(question: Question, machine: Machine) -> Check:
    subject = Subject.here(load_settings(), models_dir=None, folder=Path(), machine=machine)
    (check,) = question(subject)
    return check


def hardware(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """NVDEC that gives the software decoder's frames, changed."""
    real = video.decode
    monkeypatch.setattr(
        video, "decode", lambda data, hwaccel=None: real(data) if hwaccel is None else change(real(data))
    )


def test_the_trial_video_comes_back_and_nvdec_counts_when_its_pictures_are_equal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = video.decode(video.trial_video())
    assert len(frames) == video.FRAMES
    assert all(frame.shape == (video.HEIGHT, video.WIDTH) for frame in frames)
    apart = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)]
    assert min(apart) > video.TOLERANCE  # frames in another order would be noticed
    assert seen_by(video.decoder, NO_GPU).status == "pass"
    hardware(monkeypatch, lambda frames: frames)
    assert "by NVDEC, with equal pictures" in seen_by(video.decoder, T4).detail
    monkeypatch.setattr(video, "decode", lambda *_: [])
    assert seen_by(video.decoder, T4).status == "fail"


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
    monkeypatch: pytest.MonkeyPatch, change: Change, reason: str
) -> None:
    hardware(monkeypatch, change)
    check = seen_by(video.decoder, T4)
    assert check.status == "warn"
    assert "NVDEC is not usable" in check.detail
    assert reason in check.detail
    assert "NVIDIA_DRIVER_CAPABILITIES" in check.remedy
    other = seen_by(video.decoder, NO_GPU)
    assert (other.status, "NVDEC is not usable" in other.detail) == ("pass", True)


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
def test_encoders(monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], gpu: bool, status: str) -> None:
    only(monkeypatch, *working)
    check = seen_by(video.encoder, T4 if gpu else NO_GPU)
    assert check.status == status
    assert ("NVENC is not usable (Operation not permitted)" in check.detail) == ("h264_nvenc" not in working)
    assert bool(check.remedy) == (status != "pass")


def test_an_encoder_asked_for_by_name_must_work(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "libx264")
    answer = doctor("--output-video-encoder", "hevc_nvenc")
    assert answer.code == FAILURE
    assert answer.names("fail") == ["encoder"]
