from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from colab_helpers.errors import EncoderError
from colab_helpers.media import encoders
from colab_helpers.media.colour_tags import ColourTags, LightLevels
from colab_helpers.media.encoders import EncoderChoice, encoder_for, usable_encoders
from colab_helpers.media.probe import VideoInfo, probe

PLAIN = VideoInfo(
    path=Path("a.mp4"), container="mov,mp4", codec="h264", video_index=0, width=320, height=240,
    pix_fmt="yuv420p", time_base=Fraction(1, 25), average_rate=Fraction(25), frames=1, frames_declared=True,
    start=Fraction(0), duration=Fraction(1), rotation=0, display_matrix=None, sample_aspect_ratio=None,
    colour=ColourTags(), light=None, interlaced=False,
)  # fmt: skip


def choose(
    wanted: Any = "auto", *, quality: int = 23, preset: str | None = None, **info: Any
) -> EncoderChoice:
    return encoder_for(replace(PLAIN, **info), wanted=wanted, quality=quality, preset=preset)


@pytest.fixture(autouse=True)
def no_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same options on every processor."""
    monkeypatch.setattr(encoders, "has_avx512", lambda: False)


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """NVENC that takes 4:2:0 and 4:4:4 of 8 bit (HEVC also 10 bit 4:2:0), at least 128 pixels wide."""
    asked: list[tuple[str, str]] = []
    genuine = encoders._trial

    def trial(name: str, pix_fmt: str, width: int, height: int, options: Any) -> str | None:
        if not name.endswith("_nvenc"):
            return genuine(name, pix_fmt, width, height, options)
        asked.append((name, pix_fmt))
        taken = {"yuv420p", "nv12", "yuv444p"} | ({"p010le"} if name == "hevc_nvenc" else set())
        return None if pix_fmt in taken and width >= 128 else "InitializeEncoder failed"

    monkeypatch.setattr(encoders, "_trial", trial)
    return asked


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = encoders._trial

    def trial(name: str, pix_fmt: str, width: int, height: int, options: Any) -> str | None:
        if name.endswith("_nvenc"):
            return "Operation not permitted"
        return genuine(name, pix_fmt, width, height, options)

    monkeypatch.setattr(encoders, "_trial", trial)


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_gpu_is_x264() -> None:
    assert choose() == EncoderChoice("libx264", "yuv420p", {"preset": "veryfast", "crf": "23"})


@pytest.mark.usefixtures("fake_gpu")
def test_auto_with_gpu_is_nvenc() -> None:
    choice = choose(quality=30)
    assert (choice.name, choice.pix_fmt, choice.notes) == ("h264_nvenc", "yuv420p", ())
    assert choice.options == {"preset": "p4", "rc": "vbr", "cq": "30", "b": "0", "tune": "hq"}


@pytest.mark.usefixtures("fake_gpu")
def test_best_quality_of_nvenc_is_not_its_automatic() -> None:
    assert choose(quality=0).options["cq"] == "1"
    assert choose("libx264", quality=0).options["crf"] == "0"


@pytest.mark.usefixtures("fake_gpu")
def test_ten_bits_go_to_hevc() -> None:
    choice = choose(pix_fmt="yuv420p10le")
    assert (choice.name, choice.pix_fmt, choice.notes) == ("hevc_nvenc", "p010le", ())


@pytest.mark.usefixtures("fake_gpu")
def test_auto_prefers_keeping_everything_to_speed() -> None:
    choice = choose(pix_fmt="yuv422p10le")
    assert (choice.name, choice.pix_fmt) == ("libx264", "yuv422p10le")
    assert choice.notes == ("hevc_nvenc cannot keep yuv422p10le 320x240: encoded on the CPU by libx264",)
    tiny = choose(width=64, height=64)
    assert (tiny.name, len(tiny.notes)) == ("libx264", 1)


@pytest.mark.usefixtures("fake_gpu")
def test_a_named_encoder_converts_and_says_so() -> None:
    choice = choose("h264_nvenc", pix_fmt="yuv420p10le")
    assert (choice.name, choice.pix_fmt) == ("h264_nvenc", "yuv420p")
    assert choice.notes == ("10 bits per sample became 8",)


@pytest.mark.usefixtures("fake_gpu")
def test_four_two_two_becomes_four_four_four_where_it_must() -> None:
    choice = choose("h264_nvenc", pix_fmt="yuv422p")
    assert choice.pix_fmt == "yuv444p"
    assert ["chroma 422 became 444" in note for note in choice.notes] == [True]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["h264_nvenc", "hevc_nvenc"])
def test_a_named_encoder_that_fails_says_why(name: str) -> None:
    with pytest.raises(EncoderError, match=rf"{name} cannot encode .* Operation not permitted") as caught:
        choose(name)
    assert "auto or libx264" in caught.value.remedy
    assert isinstance(caught.value, RuntimeError)


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


@pytest.mark.usefixtures("fake_gpu")
def test_a_preset_of_the_other_family_gives_way_in_auto() -> None:
    choice = choose(preset="veryfast")
    assert (choice.name, choice.options["preset"]) == ("h264_nvenc", "p4")
    assert choice.notes == ("h264_nvenc has no preset 'veryfast': p4 used",)


def test_a_wrong_preset_of_a_named_encoder_is_an_error() -> None:
    with pytest.raises(EncoderError, match="libx264 has no preset 'p4'"):
        choose("libx264", preset="p4")
    assert choose("libx265", preset="ultrafast").options["preset"] == "ultrafast"


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
from tests.media.test_encoders import choose
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
