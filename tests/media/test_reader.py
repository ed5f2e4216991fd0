from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from colab_helpers.errors import MediaError, MissingFileError
from colab_helpers.media.containers import stream_tags
from colab_helpers.media.conversion import working_colour, working_format
from colab_helpers.media.formats import WORKING_FORMATS, ColourTags
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.media.truncation import TruncationCheck
from tests.media.conftest import Clip
from tests.media.harm import PICTURES, damage, start_edit_at
from tests.media.make import Sound, number_of, samples, variable_pts

LOOKAHEAD = {"preset": "veryfast", "crf": "16"}
"""With B-frames, so that MP4 needs an edit list."""
VP9 = {"deadline": "realtime", "cpu-used": "8"}
BASE = Fraction(1, 90000)


def every_frame(info: VideoInfo) -> list[Frame]:
    with read_frames(info) as reader:
        return list(reader)


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
        ("web.webm", {"codec": "libvpx-vp9", "options": VP9}),
        ("flash.flv", {"options": LOOKAHEAD}),
        ("anim.gif", {"codec": "gif", "pix_fmt": "rgb8", "options": {}}),
        ("mezzanine.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "options": {}}),
        ("fragmented.mp4", {"options": LOOKAHEAD, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    ],
)
def test_every_frame_once_in_order(clip: Clip, name: str, settings: dict[str, Any]) -> None:
    frames = every_frame(probe(clip(name, frames=40, **settings)))
    assert numbers(frames) == list(range(40))
    assert [frame.index for frame in frames] == list(range(40))
    if name != "old.avi":
        # That encoder starts AVI with a gap of one frame.
        steps = {after.time - before.time for before, after in pairwise(frames)}
        rate = settings.get("rate", Fraction(25))
        # Matroska rounds a film's 24th of a second to milliseconds.
        exact = {Fraction(41, 1000), Fraction(42, 1000)} if rate == 24 else {1 / rate}
        assert steps == exact


@pytest.mark.parametrize(("name", "base"), [("vfr.mp4", BASE), ("vfr.mkv", Fraction(1, 1000))])
def test_stamps_and_durations_of_variable_rate(clip: Clip, name: str, base: Fraction) -> None:
    unit = int(Fraction(1, 1000) / base)
    stamps = [stamp * unit + 137 * unit for stamp in variable_pts(20)]
    frames = every_frame(probe(clip(name, frames=20, time_base=base, pts=stamps, options=LOOKAHEAD)))
    assert [frame.time for frame in frames] == [stamp * base for stamp in stamps]
    gaps = [after - before for before, after in pairwise(stamps)]
    assert [frame.duration * frame.time_base for frame in frames[:-1]] == [gap * base for gap in gaps]
    # FFmpeg's own MP4 writer may leave the last frame half a step of another packet.
    assert Fraction(40, 1000) <= frames[-1].duration * base <= Fraction(60, 1000)


def test_picture_and_stamps_agree_with_the_object(clip: Clip) -> None:
    frame = every_frame(probe(clip("one.mp4", frames=3)))[1]
    assert (frame.video.pts, frame.video.time_base, frame.video.duration) == (
        frame.pts,
        frame.time_base,
        frame.duration,
    )


def test_frames_hidden_by_an_edit_list_stay_hidden(clip: Clip) -> None:
    path = clip("hidden.mp4", frames=30, options={"preset": "ultrafast", "g": "100"})
    start_edit_at(path, 10)
    frames = every_frame(probe(path))
    assert numbers(frames) == list(range(10, 30))
    assert frames[0].pts == 0


def test_reading_can_stop_at_any_frame(clip: Clip) -> None:
    info = probe(clip("long.mp4", frames=60))
    with read_frames(info) as reader:
        assert [next(reader).index for _ in range(5)] == [0, 1, 2, 3, 4]
    reader.close()
    assert list(reader) == []


def test_colour_tags_of_the_container_reach_the_frames(clip: Clip) -> None:
    info = probe(clip("tagged.mp4", frames=2, matrix=9, range=1, primaries=9, transfer=16))
    frame = every_frame(info)[0].video
    assert (frame.colorspace, frame.color_range) == (9, 1)


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
def test_other_formats_become_the_nearest_supported(clip: Clip, pix_fmt: str) -> None:
    info = probe(clip("raw.mkv", frames=3, codec="ffv1", pix_fmt=pix_fmt, options={}))
    assert info.pix_fmt == pix_fmt
    target, note = working_format(info)
    assert target == CONVERSIONS[pix_fmt]
    assert (note is None) == (pix_fmt in WORKING_FORMATS)
    with read_frames(info) as reader:
        frames = list(reader)
    assert {frame.video.format.name for frame in frames} == {target}
    assert numbers(frames) == [0, 1, 2]
    assert reader.notes == ([note] if note else [])
    assert_luma_kept(info.path, frames[2].video)


def assert_luma_kept(path: Path, video: av.VideoFrame) -> None:
    """The luma of the third frame is what the file's own samples say, at 8 bits."""
    with av.open(str(path)) as container:
        source = list(container.decode(video=0))[2]
    deep = video.format.name.endswith("10le")
    luma = samples(video.planes[0], np.uint16 if deep else np.uint8) / (4 if deep else 1)
    assert np.abs(luma - own_luma(source)).max() <= 1


def own_luma(source: av.VideoFrame) -> np.ndarray[Any, Any]:
    name, depth = source.format.name, source.format.components[0].bits
    if name in ("bgr0", "gbrp12le"):
        # BT.709 (ITU-R BT.709-6, 3.2 and 3.3), limited range.
        rgb = source.to_ndarray(format="rgb24").astype(np.float64)
        return np.asarray(16 + (rgb @ [0.2126, 0.7152, 0.0722]) * 219 / 255)
    return samples(source.planes[0], np.uint16 if depth > 8 else np.uint8) / 2.0 ** (depth - 8)


def test_rgb_is_tagged_as_what_it_became(clip: Clip) -> None:
    info = probe(clip("rgb.mkv", frames=1, codec="ffv1", pix_fmt="bgr0", options={}))
    assert working_colour(info) == ColourTags(matrix=1, range=1)
    frame = every_frame(info)[0].video
    assert (frame.colorspace, frame.color_range) == (1, 1)


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("fast.mp4", {"container": {"movflags": "faststart"}}, r"only \d+ of 60 frames"),
        ("a.mkv", {}, r"only \d+ of about 6\d frames"),
        ("a.webm", {"codec": "libvpx-vp9", "options": VP9, "sounds": (Sound("libopus"),)}, r"of about 6\d"),
        ("a.avi", {"codec": "mpeg4", "options": {}, "sounds": (Sound("mp3"),)}, r"of about 6\d"),
        ("a.flv", {}, r"of about 6\d"),
    ],
)
def test_a_truncated_file_is_an_error_with_a_count(
    clip: Clip, name: str, settings: dict[str, object], count: str
) -> None:
    whole = clip(name, frames=60, **({"options": LOOKAHEAD, "sounds": (Sound(),)} | settings))
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * 0.6)])
    info = probe(whole)
    frames: list[Frame] = []
    with read_frames(info) as reader, pytest.raises(MediaError, match=count):
        frames.extend(reader)
    assert 20 <= len(frames) < 60


def test_a_few_lost_frames_are_a_note(clip: Clip) -> None:
    path = clip("fast.mp4", frames=60, container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    with read_frames(probe(path)) as reader:
        count = len(list(reader))
    assert count in (59, 60)
    assert len(reader.notes) == 60 - count
    assert all("slightly damaged" in note for note in reader.notes)


def test_many_damaged_pictures_are_an_error(clip: Clip) -> None:
    path = clip("pictures.mov", frames=30, **PICTURES)
    damage(path, range(10, 20))
    with read_frames(probe(path)) as reader, pytest.raises(MediaError, match="only 20 of 30 frames"):
        list(reader)


def test_a_damaged_picture_is_a_note(clip: Clip) -> None:
    path = clip("pictures.mov", frames=30, **PICTURES)
    damage(path, range(10, 11))
    with read_frames(probe(path)) as reader:
        assert numbers(list(reader)) == [*range(10), *range(11, 30)]
    assert any("slightly damaged: about 1 frame" in note for note in reader.notes)


def test_what_the_decoder_holds_is_handed_on_when_the_file_breaks_off(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = TruncationCheck.watch

    def watch(self: Any, container: Any) -> Iterator[Any]:
        yield from islice(genuine(self, container), 20)
        raise av.error.InvalidDataError(1, "damaged")

    monkeypatch.setattr(TruncationCheck, "watch", watch)
    info = probe(clip("long.mp4", frames=40, options={"preset": "ultrafast", "crf": "16"}))
    frames: list[Frame] = []
    with read_frames(info) as reader, pytest.raises(MediaError, match=r"20 of 40.*\(damaged\)"):
        frames.extend(reader)
    assert numbers(frames) == list(range(20))


def test_longer_sound_is_no_damage(clip: Clip) -> None:
    for name in ("long.mkv", "long.mp4"):
        info = probe(clip(name, frames=20, sounds=(Sound(seconds=4),)))
        with read_frames(info) as reader:
            assert len(list(reader)) == 20
        assert reader.notes == []


def test_a_file_that_went_away(clip: Clip) -> None:
    path = clip("gone.mp4", frames=2)
    info = probe(path)
    path.unlink()
    with pytest.raises(MissingFileError):
        read_frames(info)


def test_odd_size_is_read_as_it_is(clip: Clip) -> None:
    info = probe(clip("odd.webm", frames=4, size=(97, 65), codec="libvpx-vp9", options=VP9))
    frames = every_frame(info)
    assert {(frame.video.width, frame.video.height, frame.video.format.name) for frame in frames} == {
        (97, 65, "yuv420p")
    }
    assert numbers(frames) == [0, 1, 2, 3]


def test_frames_of_another_size_are_scaled(clip: Clip, tmp_path: Path) -> None:
    small = clip("small.ts", frames=5, size=(64, 48))
    large = clip("large.ts", frames=5, size=(128, 96))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(large.read_bytes() + small.read_bytes())
    with read_frames(probe(joined)) as reader:
        sizes = {(frame.video.width, frame.video.height) for frame in reader}
    assert sizes == {(128, 96)}
    assert "5 frames were scaled to 128x96" in " ".join(reader.notes)


@pytest.mark.parametrize("pix_fmt", ["gray9le", "gray9be", "gray10le", "gray10be", "gray12le", "gray16le"])
def test_deep_grey_keeps_its_brightness(tmp_path: Path, pix_fmt: str) -> None:
    bits = int(pix_fmt[4:].rstrip("lbe"))
    path = tmp_path / "a.nut"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("ffv1" if pix_fmt.endswith("le") else "rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        frame = av.VideoFrame(64, 48, pix_fmt)
        order = ">" if pix_fmt.endswith("be") else "<"
        grey = np.full(frame.planes[0].buffer_size // 2, 180 << bits - 8, np.dtype(f"{order}u2"))
        frame.planes[0].update(grey.tobytes())
        frame.pts = 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    info = probe(path)
    assert info.pix_fmt == pix_fmt
    (read,) = every_frame(info)
    assert (samples(read.video.planes[0], np.uint16) == 180 << 2).all()


@pytest.mark.parametrize("key", ["alpha_mode", "ALPHA_MODE"])
def test_transparency_that_is_not_decoded_is_said_and_not_claimed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata[key] = "1"
        frame = av.VideoFrame(64, 48, "yuv420p")
        frame.pts = 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    info = probe(path)
    assert info.alpha
    with read_frames(info) as reader:
        list(reader)
    assert any("transparency is dropped" in note for note in reader.notes)
    with av.open(str(path)) as container:
        tags = stream_tags(container.streams.video[0], encoded=True)
    assert "alpha_mode" not in {name.lower() for name in tags}


def test_a_pixel_format_that_changes_in_mid_file_is_said(clip: Clip, tmp_path: Path) -> None:
    parts = [clip(f"{fmt}.ts", frames=10, pix_fmt=fmt) for fmt in ("yuv420p", "yuv422p")]
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with read_frames(probe(path)) as reader:
        formats = {frame.video.format.name for frame in reader}
    assert formats == {"yuv420p"}
    assert any("pixel format changes" in note and "10 frames" in note for note in reader.notes)
