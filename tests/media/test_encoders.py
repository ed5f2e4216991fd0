from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from colab_helpers.errors import EncoderError
from colab_helpers.media import encoders
from colab_helpers.media.colour_tags import LightLevels
from colab_helpers.media.encoders import EncoderChoice, usable_encoders
from colab_helpers.media.probe import probe
from tests.media.choosing import choose


@pytest.fixture(autouse=True)
def no_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same options on every processor."""
    monkeypatch.setattr(encoders, "has_avx512", lambda: False)


def pretend(monkeypatch: pytest.MonkeyPatch, problem: Callable[[str, str, int], str | None]) -> None:
    """NVENC that answers so to an encoder's name, a format and a width; the others are tried."""
    genuine = encoders._trial

    def trial(name: str, pix_fmt: str, width: int, height: int, options: Any) -> str | None:
        if name.endswith("_nvenc"):
            return problem(name, pix_fmt, width)
        return genuine(name, pix_fmt, width, height, options)

    monkeypatch.setattr(encoders, "_trial", trial)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVENC that takes 4:2:0 and 4:4:4 of 8 bit (HEVC also 10 bit 4:2:0), at least 128 pixels wide."""

    def problem(name: str, pix_fmt: str, width: int) -> str | None:
        taken = {"yuv420p", "nv12", "yuv444p"} | ({"p010le"} if name == "hevc_nvenc" else set())
        return None if pix_fmt in taken and width >= 128 else "InitializeEncoder failed"

    pretend(monkeypatch, problem)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, lambda *_: "Operation not permitted")


@pytest.mark.usefixtures("no_gpu")
def test_without_gpu_auto_is_x264_and_nvenc_says_why_not() -> None:
    assert choose() == EncoderChoice("libx264", "yuv420p", {"preset": "veryfast", "crf": "23"})
    for name in ("h264_nvenc", "hevc_nvenc"):
        with pytest.raises(EncoderError, match=rf"{name} cannot encode .* Operation not permitted") as caught:
            choose(name)
        assert "auto or libx264" in caught.value.remedy
        assert isinstance(caught.value, RuntimeError)


TOO_MUCH = "hevc_nvenc cannot keep yuv422p10le 320x240: encoded on the CPU by libx264"
TOO_SMALL = "h264_nvenc cannot keep yuv420p 64x64: encoded on the CPU by libx264"
NO_PRESET = "h264_nvenc has no preset 'veryfast': p4 used"
FINER = "chroma 422 became 444, which not every player shows: the encoder did not take 422 just then"
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
def test_with_gpu(wanted: Any, given: Any, name: str, pix_fmt: str, notes: tuple[str, ...]) -> None:
    choice = choose(wanted, **given)
    assert (choice.name, choice.pix_fmt, choice.notes) == (name, pix_fmt, notes)


@pytest.mark.usefixtures("fake_gpu")
def test_quality_and_preset_become_options() -> None:
    assert choose(quality=30).options == {"preset": "p4", "rc": "vbr", "cq": "30", "b": "0", "tune": "hq"}
    # NVENC's 0 is its automatic.
    assert choose(quality=0).options["cq"] == "1"
    assert choose("libx264", quality=0).options["crf"] == "0"
    assert choose("libx265", preset="ultrafast").options["preset"] == "ultrafast"
    with pytest.raises(EncoderError, match="libx264 has no preset 'p4'"):
        choose("libx264", preset="p4")


@pytest.mark.parametrize(
    ("size", "pix_fmt", "expected"),
    [
        ((97, 65), "yuv420p", "yuv444p"),
        ((97, 64), "yuv420p", "yuv444p"),
        ((96, 65), "yuv420p", "yuv444p"),
        ((97, 65), "yuv420p10le", "yuv444p10le"),
        ((97, 64), "yuv422p", "yuv444p"),
        ((96, 65), "yuv422p", "yuv422p"),
        ((97, 65), "yuv444p", "yuv444p"),
    ],
)
@pytest.mark.parametrize("name", ["libx264", "libx265"])
def test_odd_sizes_take_the_chroma_they_need(
    name: str, size: tuple[int, int], pix_fmt: str, expected: str
) -> None:
    choice = choose(name, width=size[0], height=size[1], pix_fmt=pix_fmt)
    assert choice.pix_fmt == expected
    assert bool(choice.notes) == (pix_fmt != expected)


@pytest.mark.parametrize("name", ["libx264", "libx265"])
@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv420p10le", "yuv444p10le"],
)
def test_cpu_encoders_keep_the_format(name: str, pix_fmt: str) -> None:
    choice = choose(name, pix_fmt=pix_fmt, width=64, height=64)
    assert (choice.name, choice.pix_fmt, choice.notes) == (name, pix_fmt, ())


@pytest.mark.parametrize(("source", "used"), [("p010le", "yuv420p10le"), ("bgr0", "yuv444p")])
def test_what_the_reader_hands_on_only_changes_its_order(source: str, used: str) -> None:
    choice = choose("libx264", pix_fmt=source)
    assert (choice.pix_fmt, choice.notes) == (used, ())


def test_an_answer_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    choose("libx264", width=98, height=66)

    def never(*_arguments: object) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr("colab_helpers.media.encoders.av.CodecContext.create", never)
    assert choose("libx264", width=98, height=66).name == "libx264"


def test_usable_encoders_names_them_all() -> None:
    usable = usable_encoders()
    assert set(usable) == {"h264_nvenc", "hevc_nvenc", "libx264", "libx265"}
    assert usable["libx264"] is None
    assert usable["libx265"] is None


def test_light_levels_become_options() -> None:
    light = LightLevels(
        primaries=((34000, 16000), (13250, 34500), (7500, 3000), (15635, 16450)),
        luminance=(10000000, 50),
        content=(1000, 400),
    )
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    x265 = choose("libx265", pix_fmt="yuv420p10le", light=light).options["x265-params"]
    assert x265 == f"log-level=error:master-display={display}:max-cll=1000,400"
    x264 = choose("libx264", pix_fmt="yuv420p10le", light=light).options["x264-params"]
    assert x264 == f"mastering-display={display}:cll=1000,400"


@pytest.mark.parametrize("name", [one for one, reason in usable_encoders().items() if reason is None])
def test_what_was_chosen_encodes(name: Any, tmp_path: Path) -> None:
    choice = choose(name, quality=20)
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(choice.name, rate=25, options=dict(choice.options))
        stream.width, stream.height, stream.pix_fmt = 320, 240, choice.pix_fmt
        for number in range(5):
            frame = av.VideoFrame(320, 240, choice.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert probe(path).codec == ("h264" if "264" in name else "hevc")


_ENCODE = """
import hashlib
from fractions import Fraction
import av, cv2
import numpy as np
from tests.media.choosing import choose
for width in (480, 640, 720):
    choice = choose("libx264", width=width, height=272, quality=25)
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, 272, choice.pix_fmt
    context.time_base, context.framerate, context.options = Fraction(1, 25), 25, dict(choice.options)
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
def test_the_result_does_not_depend_on_what_lay_in_memory_before() -> None:
    """x264 reads memory it never wrote at some widths; segments done again would differ."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _ENCODE],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "MALLOC_PERTURB_": str(fill)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for fill in (0, 1, 85, 170)
    }
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 3


def test_only_widths_and_processors_that_need_it_go_without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "has_avx512", lambda: True)
    assert list(encoders.repeatable_x264(1920)) == list(encoders.repeatable_x264(640)) == []
    assert list(encoders.repeatable_x264(720)) == ["asm=AVX2,FMA3,BMI2"]
    assert choose("libx264", width=720).options["x264-params"] == "asm=AVX2,FMA3,BMI2"
    monkeypatch.setattr(encoders, "has_avx512", lambda: False)
    assert list(encoders.repeatable_x264(720)) == []


def test_a_failure_is_tried_again_and_wider_chroma_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
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
