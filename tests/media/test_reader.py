from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from colab_helpers.errors import MediaError, MissingFileError
from colab_helpers.media.containers import stream_tags
from colab_helpers.media.conversion import working_format
from colab_helpers.media.formats import WORKING_FORMATS
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.media.truncation import TruncationCheck
from tests.media.conftest import Clip
from tests.media.damaged_files import PICTURES, damage, joined
from tests.media.make import Sound, number_of, samples, variable_pts

LOOKAHEAD = {"preset": "veryfast", "crf": "16"}
"""With B-frames, so that MP4 needs an edit list."""
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
BASE = Fraction(1, 90000)


def read(path: Path) -> tuple[list[Frame], list[str]]:
    """Frames and notes of a file."""
    with read_frames(probe(path)) as reader:
        return list(reader), reader.notes


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(frame.video) for frame in frames]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cfr.mp4", {"options": LOOKAHEAD}),
        ("ntsc.mp4", {"options": LOOKAHEAD, "rate": Fraction(30000, 1001)}),
        ("film.mkv", {"options": LOOKAHEAD, "rate": Fraction(24)}),
        ("old.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
        ("stream.ts", {"options": LOOKAHEAD}),
        ("web.webm", VP9),
        ("flash.flv", {"options": LOOKAHEAD}),
        ("anim.gif", {"codec": "gif", "pix_fmt": "rgb8", "options": {}}),
        ("mezzanine.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "options": {}}),
        ("fragmented.mp4", {"options": LOOKAHEAD, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_every_frame_is_read_once_and_in_order(clip: Clip, name: str, settings: dict[str, Any]) -> None:
    frames, _ = read(clip(name, frames=40, **settings))
    assert numbers(frames) == [frame.index for frame in frames] == list(range(40))
    for frame in frames:
        expected = frame.pts, frame.time_base, frame.duration
        assert (frame.video.pts, frame.video.time_base, frame.video.duration) == expected
    if name != "old.avi":
        # AVI starts with a gap of one frame.
        steps = {after.time - before.time for before, after in pairwise(frames)}
        rate = settings.get("rate", Fraction(25))
        # Matroska rounds to milliseconds.
        exact = {Fraction(41, 1000), Fraction(42, 1000)} if rate == 24 else {1 / rate}
        assert steps == exact


@pytest.mark.parametrize(("name", "base"), [("vfr.mp4", BASE), ("vfr.mkv", Fraction(1, 1000))])
def test_timestamps_and_durations_of_variable_frame_rate(clip: Clip, name: str, base: Fraction) -> None:
    unit = int(Fraction(1, 1000) / base)
    stamps = [stamp * unit + 137 * unit for stamp in variable_pts(20)]
    frames, _ = read(clip(name, frames=20, time_base=base, pts=stamps, options=LOOKAHEAD))
    assert [frame.time for frame in frames] == [stamp * base for stamp in stamps]
    gaps = [after - before for before, after in pairwise(stamps)]
    assert [frame.duration * frame.time_base for frame in frames[:-1]] == [gap * base for gap in gaps]
    # FFmpeg's MP4 muxer may give the last frame another packet's duration.
    assert Fraction(40, 1000) <= frames[-1].duration * base <= Fraction(60, 1000)


def test_reading_can_stop_early(clip: Clip) -> None:
    info = probe(clip("long.mp4", frames=60))
    with read_frames(info) as reader:
        assert [next(reader).index for _ in range(5)] == [0, 1, 2, 3, 4]
    reader.close()
    assert list(reader) == []
    info.path.unlink()
    with pytest.raises(MissingFileError):
        read_frames(info)


CONVERSIONS = {
    "bgr0": "yuv444p",
    "gbrp12le": "yuv444p10le",
    "gray": "yuv420p",
    "gray12le": "yuv420p10le",
    "yuva420p": "yuv420p",
    "yuv422p12le": "yuv422p10le",
    "yuv440p": "yuv444p",
    "yuv411p": "yuv422p",
    "yuv444p": "yuv444p",
    "yuv422p10le": "yuv422p10le",
}


@pytest.mark.parametrize("pix_fmt", CONVERSIONS)
def test_pixel_formats_are_converted_to_the_nearest_supported(clip: Clip, pix_fmt: str) -> None:
    info = probe(clip("raw.mkv", frames=3, codec="ffv1", pix_fmt=pix_fmt, options={}))
    assert info.pix_fmt == pix_fmt
    target, note = working_format(info)
    assert target == CONVERSIONS[pix_fmt]
    assert (note is None) == (pix_fmt in WORKING_FORMATS)
    frames, notes = read(info.path)
    assert {frame.video.format.name for frame in frames} == {target}
    assert numbers(frames) == [0, 1, 2]
    assert notes == ([note] if note else [])
    if "b" in pix_fmt:
        # Converted RGB is tagged BT.709, limited range.
        assert {(frame.video.colorspace, frame.video.color_range) for frame in frames} == {(1, 1)}
    # The third frame's luma matches the file's samples at 8 bits.
    with av.open(str(info.path)) as container:
        source = list(container.decode(video=0))[2]
    deep, plane = target.endswith("10le"), frames[2].video.planes[0]
    luma = samples(plane, np.uint16 if deep else np.uint8) / (4 if deep else 1)
    assert np.abs(luma - expected_luma(source)).max() <= 1


def expected_luma(source: av.VideoFrame) -> np.ndarray[Any, Any]:
    name, depth = source.format.name, source.format.components[0].bits
    if name in ("bgr0", "gbrp12le"):
        # BT.709 (ITU-R BT.709-6, 3.2 and 3.3), limited range.
        rgb = source.to_ndarray(format="rgb24").astype(np.float64)
        return np.asarray(16 + (rgb @ [0.2126, 0.7152, 0.0722]) * 219 / 255)
    return samples(source.planes[0], np.uint16 if depth > 8 else np.uint8) / 2.0 ** (depth - 8)


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("fast.mp4", {"container": {"movflags": "faststart"}}, r"only \d+ of 60 frames"),
        ("a.mkv", {}, r"only \d+ of about 6\d frames"),
        ("a.webm", {**VP9, "sounds": (Sound("libopus"),)}, r"of about 6\d"),
        ("a.avi", {"codec": "mpeg4", "options": {}, "sounds": (Sound("mp3"),)}, r"of about 6\d"),
        ("a.flv", {}, r"of about 6\d"),
    ],
)
def test_truncated_file_is_an_error_with_frame_counts(
    clip: Clip, name: str, settings: dict[str, object], count: str
) -> None:
    path = clip(name, frames=60, **({"options": LOOKAHEAD, "sounds": (Sound(),)} | settings))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    frames: list[Frame] = []
    with read_frames(probe(path)) as reader, pytest.raises(MediaError, match=count):
        frames.extend(reader)
    assert 20 <= len(frames) < 60


def test_one_lost_frame_is_noted_and_many_are_an_error(clip: Clip) -> None:
    path = clip("pictures.mov", frames=30, **PICTURES)
    damage(path, range(10, 11))
    frames, notes = read(path)
    assert numbers(frames) == [*range(10), *range(11, 30)]
    assert any("slightly damaged: about 1 frame" in note for note in notes)
    damage(path, range(10, 20))
    with pytest.raises(MediaError, match="only 20 of 30 frames"):
        read(path)


def test_frames_in_the_decoder_are_returned_before_a_read_error(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TruncationCheck.read_packets

    def read_packets(self: Any, container: Any) -> Iterator[Any]:
        yield from islice(original(self, container), 20)
        raise av.error.InvalidDataError(1, "damaged")

    monkeypatch.setattr(TruncationCheck, "read_packets", read_packets)
    info = probe(clip("long.mp4", frames=40, options={"preset": "ultrafast", "crf": "16"}))
    frames: list[Frame] = []
    with read_frames(info) as reader, pytest.raises(MediaError, match=r"20 of 40.*\(damaged\)"):
        frames.extend(reader)
    assert numbers(frames) == list(range(20))


@pytest.mark.parametrize("name", ["long.mkv", "long.mp4"])
def test_audio_longer_than_video_is_not_noted(clip: Clip, name: str) -> None:
    frames, notes = read(clip(name, frames=20, sounds=(Sound(seconds=4),)))
    assert (len(frames), notes) == (20, [])


def one_frame(path: Path, codec: str, pix_fmt: str, fill: Callable[[Any], None], **tags: str) -> Path:
    """Write one frame whose first plane is set by ``fill``."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        stream.metadata.update(tags)
        frame = av.VideoFrame(64, 48, pix_fmt)
        fill(frame.planes[0])
        frame.pts = 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@pytest.mark.parametrize("pix_fmt", ["gray9le", "gray9be", "gray10le", "gray10be", "gray12le", "gray16le"])
def test_grey_of_more_than_8_bits_keeps_its_brightness(tmp_path: Path, pix_fmt: str) -> None:
    bits = int(pix_fmt[4:].rstrip("lbe"))

    def fill(plane: Any) -> None:
        order = ">" if pix_fmt.endswith("be") else "<"
        grey = np.full(plane.buffer_size // 2, 180 << bits - 8, np.dtype(f"{order}u2"))
        plane.update(grey.tobytes())

    path = one_frame(tmp_path / "a.nut", "ffv1" if pix_fmt.endswith("le") else "rawvideo", pix_fmt, fill)
    assert probe(path).pix_fmt == pix_fmt
    ((frame,), _) = read(path)
    assert (samples(frame.video.planes[0], np.uint16) == 180 << 2).all()


@pytest.mark.parametrize("key", ["alpha_mode", "ALPHA_MODE"])
def test_dropped_transparency_is_noted_and_its_tag_removed(tmp_path: Path, key: str) -> None:
    path = one_frame(tmp_path / "a.webm", "libvpx-vp9", "yuv420p", lambda plane: None, **{key: "1"})
    assert probe(path).alpha
    assert any("transparency is dropped" in note for note in read(path)[1])
    with av.open(str(path)) as container:
        tags = stream_tags(container.streams.video[0], encoded=True)
    assert "alpha_mode" not in {name.lower() for name in tags}


def test_pixel_format_and_size_changes_are_noted(clip: Clip) -> None:
    large = {"frames": 5, "size": (128, 96), "pix_fmt": "yuv420p"}
    small = {"frames": 10, "size": (64, 48), "pix_fmt": "yuv422p"}
    frames, notes = read(joined(clip("a.ts", **large), clip("b.ts", **small)))
    shapes = {(frame.video.width, frame.video.height, frame.video.format.name) for frame in frames}
    assert shapes == {(128, 96, "yuv420p")}
    assert any("10 frames were scaled to 128x96" in note for note in notes)
    assert any("pixel format changes" in note and "10 frames" in note for note in notes)
