from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from colab_helpers.errors import EncoderError
from colab_helpers.media import encoders
from colab_helpers.media.encoders import EncoderChoice, choose_encoder, usable_encoders
from colab_helpers.media.formats import ColourTags
from colab_helpers.media.probe import VideoInfo

PLAIN = VideoInfo(
    path=Path("a.mp4"), container="mov,mp4", codec="h264", video_index=0, width=320, height=240,
    pix_fmt="yuv420p", time_base=Fraction(1, 25), average_rate=Fraction(25), frames=1, frames_declared=True,
    start=Fraction(0), duration=Fraction(1), rotation=0, display_matrix=None, sample_aspect_ratio=None,
    colour=ColourTags(), interlaced=False,
)  # fmt: skip


def choose(
    wanted: Any = "auto", *, quality: int = 23, preset: str | None = None, **info: Any
) -> EncoderChoice:
    return choose_encoder(replace(PLAIN, **info), wanted=wanted, quality=quality, preset=preset)


@pytest.fixture(autouse=True)
def no_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options do not depend on the CPU."""
    monkeypatch.setattr(encoders, "has_avx512", lambda: False)


def fake_nvenc(monkeypatch: pytest.MonkeyPatch, problem: Callable[[str, str, int], str | None]) -> None:
    """Fake NVENC's problem for an encoder name, pixel format and width; other encoders are real."""
    original = encoders._trial

    def trial(name: str, pix_fmt: str, width: int, height: int, options: Any) -> str | None:
        if name.endswith("_nvenc"):
            return problem(name, pix_fmt, width)
        return original(name, pix_fmt, width, height, options)

    monkeypatch.setattr(encoders, "_trial", trial)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVENC with 8-bit 4:2:0 and 4:4:4 (HEVC also 10-bit 4:2:0), at least 128 pixels wide."""

    def problem(name: str, pix_fmt: str, width: int) -> str | None:
        supported = {"yuv420p", "nv12", "yuv444p"} | ({"p010le"} if name == "hevc_nvenc" else set())
        return None if pix_fmt in supported and width >= 128 else "InitializeEncoder failed"

    fake_nvenc(monkeypatch, problem)


def test_without_gpu_auto_is_x264_and_nvenc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvenc(monkeypatch, lambda *_: "Operation not permitted")
    assert choose() == EncoderChoice("libx264", "yuv420p", {"preset": "veryfast", "crf": "23"})
    for name in ("h264_nvenc", "hevc_nvenc"):
        with pytest.raises(EncoderError, match=rf"{name} cannot encode .* Operation not permitted") as caught:
            choose(name)
        assert "auto or libx264" in caught.value.remedy
    usable = usable_encoders()
    assert usable == dict.fromkeys(("h264_nvenc", "hevc_nvenc"), "Operation not permitted") | {
        "libx264": None,
        "libx265": None,
    }


TOO_MUCH = "hevc_nvenc cannot keep yuv422p10le 320x240: encoded on the CPU by libx264"
TOO_SMALL = "h264_nvenc cannot keep yuv420p 64x64: encoded on the CPU by libx264"
NO_PRESET = "h264_nvenc has no preset 'veryfast': p4 used"
FINER = "chroma 422 became 444, which fewer players support: 422 was refused this time"
DEEP, DEEPEST = {"pix_fmt": "yuv420p10le"}, {"pix_fmt": "yuv422p10le"}


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    ("wanted", "given", "name", "pix_fmt", "notes"),
    [
        ("auto", {}, "h264_nvenc", "yuv420p", ()),
        ("auto", DEEP, "hevc_nvenc", "p010le", ()),
        ("auto", DEEPEST, "libx264", "yuv422p10le", (TOO_MUCH,)),
        ("auto", {"width": 64, "height": 64}, "libx264", "yuv420p", (TOO_SMALL,)),
        ("auto", {"preset": "veryfast"}, "h264_nvenc", "yuv420p", (NO_PRESET,)),
        ("h264_nvenc", DEEP, "h264_nvenc", "yuv420p", ("10 bits per sample became 8",)),
        ("h264_nvenc", {"pix_fmt": "yuv422p"}, "h264_nvenc", "yuv444p", (FINER,)),
    ],
)
def test_choice_with_gpu(wanted: Any, given: Any, name: str, pix_fmt: str, notes: tuple[str, ...]) -> None:
    choice = choose(wanted, **given)
    assert (choice.name, choice.pix_fmt, choice.notes) == (name, pix_fmt, notes)


@pytest.mark.usefixtures("fake_gpu")
def test_quality_and_preset_become_options() -> None:
    assert choose(quality=30).options == {"preset": "p4", "rc": "vbr", "cq": "30", "b": "0", "tune": "hq"}
    # 0 means automatic to NVENC.
    assert choose(quality=0).options["cq"] == "1"
    assert choose("libx264", quality=0).options["crf"] == "0"
    assert choose("libx265", preset="ultrafast").options["preset"] == "ultrafast"
    with pytest.raises(EncoderError, match="libx264 has no preset 'p4'"):
        choose("libx264", preset="p4")


KEPT = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv420p10le", "yuv444p10le")


@pytest.mark.parametrize(
    ("pix_fmt", "size", "used"),
    [
        *((pix_fmt, (64, 64), pix_fmt) for pix_fmt in KEPT),
        # Same samples in another order.
        ("p010le", (64, 64), "yuv420p10le"),
        ("bgr0", (64, 64), "yuv444p"),
        ("yuv422p", (96, 65), "yuv422p"),
        ("yuv444p", (97, 65), "yuv444p"),
        # Odd sizes need unsubsampled chroma.
        ("yuv420p", (97, 65), "yuv444p"),
        ("yuv420p", (97, 64), "yuv444p"),
        ("yuv420p", (96, 65), "yuv444p"),
        ("yuv420p10le", (97, 65), "yuv444p10le"),
        ("yuv422p", (97, 64), "yuv444p"),
    ],
)
@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_cpu_encoders_keep_supported_pixel_formats(
    name: str, pix_fmt: str, size: tuple[int, int], used: str
) -> None:
    choice = choose(name, width=size[0], height=size[1], pix_fmt=pix_fmt)
    assert (choice.name, choice.pix_fmt) == (name, used)
    assert [("odd size" in note) for note in choice.notes] == [True] * (size[0] > 64 and used != pix_fmt)


_ENCODE = """
import hashlib
from fractions import Fraction
import av, cv2
import numpy as np
from colab_helpers.media.encoders import repeatable_x264
for width in (480, 640, 720):
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, 272, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 25), 25
    parameters = ":".join(repeatable_x264(width))
    context.options = {"preset": "veryfast", "crf": "25"}
    context.options |= {"x264-params": parameters} if parameters else {}
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    patches = rng.integers(0, 255, (40, 100), np.uint8)
    texture = cv2.resize(patches, (width + 80, 352), interpolation=cv2.INTER_CUBIC)
    for k in range(10):
        planes = np.full((408, width), 128, np.uint8)
        planes[:272] = texture[3 * k : 3 * k + 272, 5 * k : 5 * k + width]
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = k
        digest.update(b"".join(map(bytes, context.encode(frame))))
    digest.update(b"".join(map(bytes, context.encode(None))))
    print(width, digest.hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_x264_output_does_not_depend_on_uninitialized_memory() -> None:
    """At some widths x264 reads uninitialized memory; repeated segments would differ."""
    root, outputs = Path(__file__).parents[2], set()
    for fill in (0, 1, 85, 170):
        env = {**os.environ, "MALLOC_PERTURB_": str(fill)}
        outputs.add(subprocess.check_output([sys.executable, "-c", _ENCODE], cwd=root, env=env, text=True))
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 3


def test_avx512_is_disabled_only_for_affected_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "has_avx512", lambda: True)
    assert "x264-params" not in choose("libx264", width=640).options
    assert choose("libx264", width=720).options["x264-params"] == "asm=AVX2,FMA3,BMI2"
    monkeypatch.setattr(encoders, "has_avx512", lambda: False)
    assert "x264-params" not in choose("libx264", width=720).options


def test_successful_trial_is_cached_and_failed_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = av.CodecContext.create, []

    def busy_once(name: str, mode: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise ValueError("no free session")
        return real(name, mode)

    monkeypatch.setattr("colab_helpers.media.encoders.av.CodecContext.create", busy_once)
    first = choose("libx264", width=114, height=82)
    assert first.pix_fmt == "yuv444p"
    assert any("chroma 420 became 444" in note for note in first.notes)
    second = choose("libx264", width=114, height=82)
    assert (second.pix_fmt, second.notes) == ("yuv420p", ())
    assert choose("libx264", width=114, height=82) == second
    assert len(calls) == 3


def test_ffmpeg_without_nvenc_encodes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, mode: str) -> Any:
        if name.endswith("_nvenc"):
            raise av.codec.codec.UnknownCodecError(name)
        return original(name, mode)

    original = encoders.Codec
    monkeypatch.setattr(encoders, "Codec", create)
    fake_nvenc(monkeypatch, lambda *_: "this build of FFmpeg does not include it")
    assert choose().name == "libx264"
    with pytest.raises(EncoderError, match=r"h264_nvenc cannot encode .* does not include it"):
        choose("h264_nvenc")
