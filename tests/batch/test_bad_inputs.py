"""Unusual targets are processed, malformed ones fail with a clear error, and the batch goes on."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from colab_helpers.api import run_batch
from colab_helpers.batch.report import HTML_REPORT_NAME, REPORT_NAME, BatchReport, FileReport
from colab_helpers.batch.report import KEPT as KEPT_NOTE
from colab_helpers.errors import MediaError
from colab_helpers.language import printable
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import is_image, require_file
from colab_helpers.trust.manifests import sidecar
from colab_helpers.trust.verify import verify
from tests.conftest import CONSENT
from tests.helpers.processes import CPU, KEPT, BatchCommand
from tests.media.make import (
    Sound,
    Spec,
    Subtitle,
    decoded,
    make,
    make_cover_song,
    make_song,
    packets_of,
    variable_pts,
)

FAST = {"preset": "ultrafast", "crf": "16"}
PNG_CODED: dict[str, Any] = {"codec": "png", "pix_fmt": "rgb24", "options": {}}
Make = Callable[[Path], object]


@dataclass(frozen=True)
class Odd:
    """An unusual but intact target: what its result must have, and what the report must note.

    Audio, if expected, must be copied byte by byte. ``rough`` allows larger differences from scaling.
    """

    name: str
    make: Make
    frames: int = 5
    size: tuple[int, int] = (96, 64)
    sound: bool = False
    note: str = ""
    rough: bool = False


class Bad(NamedTuple):
    """A target that cannot be processed, and a pattern that its error must match."""

    name: str
    make: Make
    error: str


def clip(frames: int = 5, **given: Any) -> Make:
    return lambda path: make(path, Spec(frames=frames, **given))


def bytes_of(path: Path, spec: Spec) -> bytes:
    """The bytes of a clip, made under another name."""
    temporary = path.with_name(f".making{path.suffix}")
    try:
        return make(temporary, spec).read_bytes()
    finally:
        temporary.unlink()


def holding(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def changed(change: Callable[[bytearray], bytes | bytearray], **given: Any) -> Make:
    """A clip with changed bytes."""
    return lambda path: path.write_bytes(change(bytearray(bytes_of(path, Spec(frames=50, **given)))))


def cut(share: float, **given: Any) -> Make:
    """The first part of a clip."""
    return changed(lambda data: data[: int(len(data) * share)], **given)


def renamed(suffix: str) -> Make:
    """A clip with the suffix of another format."""
    return lambda path: path.write_bytes(bytes_of(path.with_suffix(suffix), Spec(frames=5)))


def broken_middle(data: bytearray) -> bytearray:
    at = data.index(b"mdat") + 4
    (length,) = struct.unpack_from(">I", data, at - 8)
    low, high = at + length // 4, at + length * 3 // 4
    data[low:high] = np.random.default_rng(5).bytes(high - low)
    return data


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("clip.mp4", b"no clip")


def bomb(path: Path) -> None:
    """A PNG of 100,000 x 100,000 pixels, as its header says."""
    Image.new("RGB", (9, 9)).save(path)
    data = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 100_000, 100_000) + data[24:29]
    path.write_bytes(data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:])


def picture_of(width: int = 96, height: int = 64) -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(width).integers(40, 200, (height, width, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3), np.uint8)


def picture(
    mode: str = "RGB", size: tuple[int, int] = (96, 64), kind: str | None = None, **save: Any
) -> Make:
    """A picture file as Pillow writes it."""
    pixels = picture_of(*size)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(pixels)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    return lambda path: image.save(path, kind, **save)


def animated(kind: str) -> Make:
    def write(path: Path) -> None:
        frames = [Image.fromarray(picture_of() // (k + 1)) for k in range(3)]
        frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)

    return write


def tampered_picture(kind: str, change: Callable[[bytes], bytes]) -> Make:
    memory = io.BytesIO()
    Image.fromarray(picture_of(200, 150)).save(memory, kind)
    return holding(change(memory.getvalue()))


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def wrong_checksum(data: bytes) -> bytes:
    """Flip one bit of the pixels, so that the checksum is wrong."""
    at = data.index(b"IDAT") + 40
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def linked(path: Path) -> None:
    """A link to a clip in another folder."""
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    path.symlink_to(make(elsewhere / "clip.mp4", Spec(frames=5)))


SOUND = {"sounds": (Sound(),)}
INTACT: tuple[Odd, ...] = (
    Odd("good 1.mp4", clip(**SOUND), sound=True),
    Odd("good 2.mkv", clip(6, **SOUND), 6, sound=True),
    Odd("good 3.mov", clip(7, **SOUND), 7, sound=True),
    Odd("good 4.m4v", clip(8, **SOUND), 8, sound=True),
    Odd("good 5.mp4", clip(9, sounds=(Sound(tone=300), Sound(tone=500))), 9, sound=True),
    Odd("  name with   spaces .mp4", clip()),
    Odd("ünïcödé 日本語 ñ.mp4", clip()),
    Odd("emoji 🎬👩‍🦰🏳️‍🌈.mp4", clip()),
    Odd("quotes '\" $HOME `ls` & ; <b> %20 #.mp4", clip()),
    Odd("-starts-with-a-dash.mp4", clip()),
    Odd("long " + "x" * 190 + ".mp4", clip()),
    Odd("longest " + "ü" * 118 + ".mp4", clip()),
    Odd("longest picture " + "z" * 235 + ".png", picture(), 1),
    Odd("UPPER.MP4", clip()),
    Odd("link.mp4", linked),
    Odd("sound of no length.mp4", clip(sounds=(Sound(seconds=1e-9),))),
    Odd("sound longer.mp4", clip(sounds=(Sound(seconds=2),)), sound=True),
    Odd("sound shorter.mp4", clip(30, sounds=(Sound(seconds=0.2),)), 30, sound=True),
    Odd("sound later.mp4", clip(30, sounds=(Sound(seconds=0.5, start=Fraction(1, 2)),)), 30, sound=True),
    Odd("one frame.mp4", clip(1), 1),
    Odd("one pixel.mkv", clip(size=(1, 1), pix_fmt="yuv444p"), size=(1, 1)),
    Odd("odd size.mp4", clip(size=(97, 65), pix_fmt="yuv444p"), size=(97, 65)),
    Odd("one row.mkv", clip(size=(64, 2)), size=(64, 2)),
    Odd("thousand a second.mp4", clip(20, rate=Fraction(1000)), 20),
    Odd("one in ten seconds.mp4", clip(3, rate=Fraction(1, 10), **SOUND), 3, sound=True),
    Odd("times below zero.mp4", clip(8, pts=range(-3, 5)), 5),
    Odd("starts after 100 hours.mkv", clip(pts=range(9_000_000, 9_000_005))),
    Odd("ten bit.mp4", clip(pix_fmt="yuv420p10le")),
    Odd("alpha.mov", clip(codec="qtrle", pix_fmt="argb", options={}), note="transparency"),
    Odd("palette.mov", clip(codec="qtrle", pix_fmt="rgb555be", options={})),
    Odd("uneven times.mkv", clip(8, pts=variable_pts(8), time_base=Fraction(1, 1000)), 8),
    Odd("chapters.mkv", clip(25, chapters=((0, 500, "one"), (500, 1000, "two"))), 25),
    Odd("subtitles.mkv", clip(25, subtitles=(Subtitle("subrip"),)), 25),
    Odd("transport stream.ts", clip(sounds=(Sound("mp2"),)), sound=True, note=".ts"),
    Odd("windows.avi", clip(codec="mpeg4", options={}, sounds=(Sound("libmp3lame"),)),
        sound=True, note=".avi"),
    Odd("flash.flv", clip(codec="flv1", options={}, time_base=Fraction(1, 25)), note=".flv"),
    Odd("web.webm", clip(codec="libvpx-vp9", options={"deadline": "realtime"}, sounds=(Sound("libopus"),)),
        sound=True, note=".webm"),
    Odd("disc.mpg", clip(codec="mpeg2video", options={}), note=".mpg"),
    Odd("media.wmv", clip(codec="wmv2", options={}), note=".wmv"),
    Odd("animation.gif", clip(codec="gif", pix_fmt="rgb8", options={}, rate=Fraction(10))),
    Odd("really mp4.avi", renamed(".mp4")),
    Odd("cut stream.ts", cut(0.9), 44),
    Odd(os.fsdecode(b"caf\xe9.mp4"), clip()),
    Odd(os.fsdecode(b"caf\xe9.png"), picture("RGB"), 1),
    Odd("cmyk.jpg", picture("CMYK"), 1, note="CMYK became RGB"),
    Odd("sixteen bit.png", picture("I;16"), 1, note="16 bits per sample became 8"),
    Odd("grey.png", picture("L"), 1, note="grey became RGB"),
    Odd("two colours.png", picture("1"), 1, rough=True),
    Odd("palette.png", picture("P"), 1, note="a palette of colours became RGB"),
    Odd("photo.jfif", picture(kind="JPEG"), 1),
    Odd("photo.avif", picture(kind="AVIF"), 1),
    Odd("alpha.png", picture("RGBA"), 1),
    Odd("one pixel.png", picture(size=(1, 1)), 1, (1, 1)),
    Odd("really png.jpg", picture(kind="PNG"), 1),
    Odd("animated.png", animated("PNG"), 3),
    Odd("animated.webp", animated("WEBP"), 3),
    Odd("really mp4.gif", renamed(".mp4")),
)  # fmt: skip
BAD: tuple[Bad, ...] = (
    Bad("folder.mp4", Path.mkdir, "the folder contains no video or image"),
    Bad("pipe.mp4", os.mkfifo, "pipe or device"),
    Bad("lost link.mp4", lambda path: path.symlink_to("nothing.mp4"), "link is broken"),
    Bad("link to itself.mp4", lambda path: path.symlink_to(path.name), "cannot be read|link is broken"),
    Bad(os.fsdecode(b"no v\xefdeo.mp4"), holding(b"Das ist kein Film.\n" * 100), "it is text"),
    Bad("no bytes.mp4", holding(b""), "empty"),
    Bad("no bytes.png", holding(b""), "empty"),
    Bad("one byte.mp4", holding(b"\0"), "not a video"),
    Bad("cut in the header.mp4", holding(b"\0\0\0\x20ftypisom"), "index|not a video"),
    Bad("cut at a tenth.mp4", cut(0.1), "index"),
    Bad("cut in half.mp4", cut(0.5), "index"),
    Bad("cut before its end.mp4", cut(0.97), "index .moov. is missing or incomplete"),
    Bad("cut in half.mkv", cut(0.5), "cut off"),
    Bad("cut in half.avi", cut(0.5, codec="mjpeg", pix_fmt="yuvj420p", options={}), "cut off"),
    Bad("cut in half.webm", cut(0.5, codec="libvpx-vp9", options={"deadline": "realtime"}), "cut off"),
    Bad("index first, cut in half.mp4", cut(0.5, container={"movflags": "faststart"}), "cut off"),
    Bad("index first, cut at a tenth.mp4", cut(0.13, container={"movflags": "faststart"}),
        "index .moov. is missing or incomplete"),
    Bad("broken middle.mov", changed(broken_middle, **PNG_CODED), "cut off or damaged"),
    Bad("random.mp4", holding(np.random.default_rng(1).bytes(50_000)), "not a video"),
    Bad("random.gif", holding(np.random.default_rng(4).bytes(5_000)), "not a video"),
    Bad("zeros.mp4", holding(bytes(50_000)), "zero bytes only"),
    Bad("text.mp4", holding(b"Das ist kein Film.\n" * 100), "it is text"),
    Bad("archive.mp4", archive, "ZIP archive"),
    Bad("page.mp4", holding(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"), "web page"),
    Bad("playlist.mp4", holding(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"), "it is text"),
    Bad("list of a neighbour.mp4", holding(b"#EXTM3U\n#EXTINF:1,\ngood 1.mp4\n#EXT-X-ENDLIST\n"),
        "it is text"),
    Bad("script.mp4", holding(b"ffconcat version 1.0\nfile 'good 1.mp4'\n"), "it is text"),
    Bad("archive.gif", archive, "ZIP archive"),
    Bad("archive.png", archive, "ZIP archive"),
    Bad("bomb.png", bomb, "too large"),
    Bad("only sound.mp4", make_song, "only audio"),
    Bad("only sound and cover.mp4", make_cover_song, "cover art"),
    Bad("really png.mp4", picture(kind="PNG"), "PNG picture"),
    Bad("really mp4.png", renamed(".mp4"),
        "not a picture"),
    Bad("head alone.gif", holding(b"GIF89a\x10\0\x10\0\x80\0\0"), "not a picture"),
    Bad("wrong checksum.png", tampered_picture("PNG", wrong_checksum), "damaged"),
    Bad("cut in half.png", tampered_picture("PNG", half), "damaged|cut off"),
    Bad("cut in half.jpg", tampered_picture("JPEG", half), "damaged|cut off"),
    Bad("cut in half.webp", tampered_picture("WEBP", half), "damaged|cut off"),
    Bad("head alone.jpg", holding(b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"), "damaged"),
    Bad("bomb.gif", holding(b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\1\0;"),
        "too large"),
    Bad("drawing.png", holding(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "drawing"),
    Bad("document.jpg", holding(b"%PDF-1.7\n" + b"0" * 500), "PDF"),
)  # fmt: skip
IGNORED = {".hidden.mp4", "._left by a mac.mp4", "notes.txt", "no suffix"}
pytestmark = [
    pytest.mark.xdist_group("bad_inputs"),
    # A picture of a few pixels has no readable bar code.
    pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered"),
]


@dataclass(frozen=True)
class Outcome:
    """One batch of all targets."""

    folder: Path
    out: Path
    photo: Path
    report: BatchReport

    def file(self, name: str) -> FileReport:
        (found,) = [file for file in self.report.files if Path(file.target).name == name]
        return found


def fill(folder: Path) -> None:
    folder.mkdir()
    for one in (*INTACT, *BAD):
        one.make(folder / one.name)
    for name in IGNORED:
        (folder / name).write_bytes(b"not to be touched")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, constant_models: Path) -> Outcome:
    place = tmp_path_factory.mktemp("bad_inputs")
    fill(place / "in")
    # The names of folder and photo are not UTF-8 either.
    photo, out = (place / os.fsdecode(name) for name in (b"ph\xf6to.png", b"\xf6ut"))
    photo.write_bytes(cv2.imencode(".png", np.full((256, 256, 3), 120, np.uint8))[1].tobytes())
    report = run_batch(
        [photo], [place / "in"], out, in_process=True,
        consent=CONSENT, settings=CPU, models_dir=constant_models,
    )  # fmt: skip
    return Outcome(place / "in", out, photo, report)


def test_all_targets_are_processed_and_counted(outcome) -> None:
    names = {Path(file.target).name for file in outcome.report.files}
    assert names == {one.name for one in (*INTACT, *BAD)}
    assert not names & IGNORED
    summary = outcome.report.summary
    assert (summary.succeeded, summary.failed, summary.skipped) == (len(INTACT), len(BAD), 0)
    assert not outcome.report.ok


@pytest.mark.parametrize("one", INTACT, ids=lambda one: ascii(one.name[:30]))
def test_intact_target_is_processed(outcome, one) -> None:
    file = outcome.file(one.name)
    assert file.status == "done", file.error
    assert (file.frames_in, file.frames_out) == (one.frames, one.frames)
    assert one.note in " ".join(file.fallbacks)
    target, result = outcome.folder / one.name, Path(file.output or "")
    if is_image(target):
        before, after = read_image(target), read_image(result)
        assert after.shape == (one.size[1], one.size[0], 3)
        assert np.abs(before.astype(int) - after).mean() < (20 if one.rough else 3)
    else:
        assert_same_video(target, result, one)


def assert_same_video(target: Path, result: Path, one: Odd) -> None:
    """All frames by bar code, with their timestamps, and all audio packets."""
    with av.open(str(result)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == one.size
    (numbers, times), (new_numbers, new_times) = (decoded(path) for path in (target, result))
    assert len(new_numbers) == one.frames
    assert new_numbers == numbers
    exact = {".mkv": 0.001, ".gif": 0.01}.get(result.suffix, 0)
    for old, new in zip(times, new_times, strict=True):
        assert abs((old - times[0]) - (new - new_times[0])) <= exact
    if one.sound:
        assert sounds(result) == sounds(target)
        for which in range(sounds(target)):
            before, after = packets_of(target, which=which), packets_of(result, which=which)
            assert [packet.data for packet in after] == [packet.data for packet in before]


def sounds(path: Path) -> int:
    with av.open(str(path)) as container:
        return len(container.streams.audio)


@pytest.mark.parametrize("one", BAD, ids=lambda one: ascii(one.name[:30]))
def test_malformed_target_fails_with_a_clear_error(outcome, one) -> None:
    file = outcome.file(one.name)
    assert file.status == "failed"
    error = file.error or ""
    assert printable(str(outcome.folder / one.name)) in error
    assert re.search(one.error, error), error
    assert "What to do: " in error
    assert "unexpected" not in error
    assert "Errno" not in error
    assert file.output is None
    assert file.bytes_out == 0


def test_only_results_and_records_are_left(outcome) -> None:
    results = [Path(file.output) for file in outcome.report.files if file.output]
    assert len(results) == len(INTACT)
    places = [place for path in results for place in (path, sidecar(path)) if place]
    assert {path.name for path in outcome.out.iterdir()} == {path.name for path in places} | KEPT
    assert all(verify(path, anchors=b"").state == "valid" for path in results)
    # Nothing is created in the target folder.
    assert {path.name for path in outcome.folder.iterdir()} == (
        {one.name for one in (*INTACT, *BAD)} | IGNORED
    )


def test_command_line_reports_the_same_and_exits_with_1(outcome, constant_models) -> None:
    before = {path: path.stat().st_mtime_ns for path in outcome.out.iterdir() if path.name not in KEPT}
    shell = BatchCommand(
        outcome.folder, outcome.photo, constant_models, CONSENT, outcome.out, "--segment-seconds", "20"
    )
    code, text = shell.run()
    assert (code, "Traceback" in text) == (1, False), text
    for one in BAD:
        assert printable(str(outcome.folder / one.name)) in text
    data = json.loads((outcome.out / REPORT_NAME).read_text())
    assert os.fsdecode(b"caf\xe9.mp4") in {Path(file["target"]).name for file in data["files"]}
    assert "caf\\xe9.mp4" in (outcome.out / HTML_REPORT_NAME).read_text(encoding="utf-8")
    assert (data["summary"]["succeeded"], data["summary"]["failed"]) == (len(INTACT), len(BAD))
    # Finished results are kept.
    after = {path: path.stat().st_mtime_ns for path in outcome.out.iterdir() if path.name not in KEPT}
    assert after == before


def test_unreadable_file_and_too_long_name_are_named_in_the_error(tmp_path, monkeypatch) -> None:
    with pytest.raises(MediaError, match=r"cannot be read .File name too long.*What to do"):
        require_file(tmp_path / ("x" * 300))
    path = make(tmp_path / "secret.mp4", Spec(frames=2))

    def refuse(*_given: Any, **_named: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(
        MediaError, match=r"secret\.mp4.*Permission denied.*What to do: check its permissions"
    ):
        require_file(path)


def test_copies_of_one_target_have_a_result_each(batch, tmp_path) -> None:
    """The journal identifies work by file content, but results by name."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        make(folder / name, Spec(frames=5))
    assert batch(folder).ok
    make(folder / "c.mp4", Spec(frames=5))
    (out / "a.mp4").unlink()
    report = batch(folder)
    assert [Path(file.output or "").name for file in report.files] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [KEPT_NOTE in file.fallbacks for file in report.files] == [False, True, False]
    assert sorted(path.name for path in out.glob("*.mp4")) == ["a.mp4", "b.mp4", "c.mp4"]
