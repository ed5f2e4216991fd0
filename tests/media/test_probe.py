from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from colab_helpers.errors import MediaError, MissingFileError
from colab_helpers.media import demuxing
from colab_helpers.media.formats import ColourTags
from colab_helpers.media.inputs import is_image, is_video
from colab_helpers.media.probe import probe, stated_duration
from colab_helpers.media.reader import read_frames
from tests.media.conftest import Clip
from tests.media.damaged_files import joined, start_edit_at
from tests.media.make import Sound, Spec, Subtitle, make


def test_properties_of_a_plain_clip(clip: Clip) -> None:
    rate = Fraction(30000, 1001)
    timing = {"rate": rate, "container": {"movie_timescale": "30000"}}
    info = probe(clip("plain.mp4", frames=30, size=(96, 64), metadata={"title": "Ünïcode"}, **timing))
    assert (info.width, info.height, info.codec, info.pix_fmt) == (96, 64, "h264", "yuv420p")
    assert (info.frames, info.frames_declared, info.average_rate) == (30, True, rate)
    assert (info.start, info.duration) == (0, Fraction(1001, 1000))
    assert (info.rotation, info.display_matrix, info.sample_aspect_ratio) == (0, None, None)
    assert (info.interlaced, info.hdr10) == (False, False)
    assert info.metadata["title"] == "Ünïcode"
    assert info.audio == info.subtitles == info.others == ()


def test_colour_tags_and_pixel_aspect_ratio(clip: Clip) -> None:
    tags = {"matrix": 9, "range": 1, "primaries": 9, "transfer": 16}
    info = probe(clip("hdr.mp4", frames=3, pix_fmt="yuv420p10le", sar=Fraction(4, 3), **tags))
    assert info.colour == ColourTags(**tags)
    assert (info.pix_fmt, info.sample_aspect_ratio) == ("yuv420p10le", Fraction(4, 3))


def test_audio_subtitle_and_attachment_streams(clip: Clip) -> None:
    sounds = (Sound(language="eng"), Sound("libopus", language="deu"))
    font = (("font.ttf", "font/ttf", b"abc"),)
    info = probe(clip("rich.mkv", sounds=sounds, subtitles=(Subtitle("srt", "fra"),), attachments=font))
    assert [(stream.codec, stream.language) for stream in info.audio] == [("aac", "eng"), ("opus", "deu")]
    assert [(stream.index, stream.language) for stream in info.subtitles] == [(3, "fra")]
    assert [stream.kind for stream in info.others] == ["attachment"]
    assert str(info.audio[1]) == "audio stream 2 (opus, deu)"


def test_frames_hidden_by_an_edit_list_are_not_counted(clip: Clip) -> None:
    path = clip("hidden.mp4", frames=30, options={"preset": "ultrafast", "g": "100"})
    start_edit_at(path, 10)
    assert probe(path).frames == 20


def test_excessive_durations_and_streams_are_refused(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    day = {"time_base": Fraction(1, 1000), "pts": [0, 40, 24 * 3600 * 1000]}
    with pytest.raises(MediaError, match=r"longer than 24 hours.*into parts"):
        probe(clip("day.mkv", frames=3, **day))
    path = clip("two.mkv", frames=2, sounds=(Sound(),))
    assert probe(path).audio
    monkeypatch.setattr(demuxing, "MAX_STREAMS", 1)
    with pytest.raises(MediaError, match="more than 1 streams"):
        probe(clip("more.mkv", frames=2, sounds=(Sound(),)))


@pytest.mark.parametrize("limit", [96 * 64, 192 * 128])
def test_frames_larger_than_the_limit_are_not_decoded(
    clip: Clip, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(demuxing, "MAX_FRAME_PIXELS", limit)
    path = joined(clip("a.ts", size=(96, 64)), clip("b.ts", size=(192, 128)))
    found = set()
    with demuxing.open_source(path) as container:
        for packet in demuxing.demux_packets(container, demuxing.find_video_stream(container, path)):
            with suppress(av.FFmpegError):
                found |= {frame.width for frame in packet.decode()}
    assert found == ({96} if limit == 96 * 64 else {96, 192})


def video_without_frames(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 64
        out.start_encoding()


def undecodable_video(path: Path) -> None:
    data = bytearray(make(path, Spec()).read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes((7 * number * number + 13) % 251 for number in range(end - start))
    path.write_bytes(data)


# Cases that are not in tests/batch/test_bad_inputs.py.
BAD: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "none.mp4": (lambda path: None, MissingFileError, "no such file"),
    "hollow.avi": (video_without_frames, MediaError, r"no (frame|video)"),
    "noise.mp4": (undecodable_video, MediaError, "no frame"),
}


@pytest.mark.parametrize("name", BAD)
def test_error_for_bad_input_names_the_file(tmp_path: Path, name: str) -> None:
    write, kind, words = BAD[name]
    write(tmp_path / name)
    with pytest.raises(kind, match=words) as caught:
        probe(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_images_and_videos_are_told_apart_by_suffix() -> None:
    assert is_video("a/B.MP4")
    assert is_video(Path("x.gif"))
    assert is_image("photo.JPEG")
    assert not is_image("x.gif")
    assert not is_video("notes.txt")


def test_tags_in_unknown_encoding_are_tolerated(clip: Clip) -> None:
    path = clip("latin.mp4", frames=2, metadata={"title": "caf-"})
    path.write_bytes(path.read_bytes().replace(b"caf-", b"caf\xe9"))
    assert probe(path).metadata["title"].startswith("caf")


# Display matrix (a, b, c, d): mirrored horizontally, degrees clockwise.
ORIENTATIONS = {
    (1, 0, 0, 1): (False, 0),
    (0, 1, -1, 0): (False, 90),
    (-1, 0, 0, -1): (False, 180),
    (0, -1, 1, 0): (False, 270),
    (-1, 0, 0, 1): (True, 0),
    (0, -1, -1, 0): (True, 90),
    (1, 0, 0, -1): (True, 180),
    (0, 1, 1, 0): (True, 270),
}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_all_eight_orientations(clip: Clip, suffix: str, axes: tuple[int, int, int, int]) -> None:
    info = probe(clip(f"a{suffix}", frames=2, axes=axes))
    assert (info.mirrored, info.rotation) == ORIENTATIONS[axes]
    a, b, c, d = axes
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    displayed = {}
    for y in range(2):
        for x in range(3):
            displayed[a * x + c * y, b * x + d * y] = stored[y, x, 0]
    left, top = min(x for x, _ in displayed), min(y for _, y in displayed)
    upright = info.upright(stored)
    assert {(x - left, y - top): value for (x, y), value in displayed.items()} == {
        (x, y): upright[y, x, 0] for y in range(upright.shape[0]) for x in range(upright.shape[1])
    }
    # The detector gets an upright picture, possibly mirrored.
    turned = np.rot90(stored, -info.upright_rotation // 90)
    assert np.array_equal(turned, upright[:, ::-1] if info.mirrored else upright)


@pytest.mark.parametrize("recorder", [False, True])
def test_frames_are_scaled_to_the_largest_size(clip: Clip, recorder: bool) -> None:
    settings = {"codec": "libvpx", "options": {}} if recorder else {}
    suffix = ".webm" if recorder else ".ts"
    small = clip(f"small{suffix}", frames=25, size=(160, 120), **settings)
    large = clip(f"large{suffix}", frames=30, size=(320, 240), **settings)
    info = probe(concatenate_packets(small, large) if recorder else joined(small, large))
    assert (info.width, info.height) == (320, 240)
    with read_frames(info) as reader:
        sizes = [(frame.video.width, frame.video.height) for frame in reader]
    assert sizes == [(320, 240)] * 55
    assert any("25 frames were scaled to 320x240" in note for note in reader.notes)


def concatenate_packets(first: Path, second: Path) -> Path:
    """One track of two files' packets and no duration, as a browser records a call."""
    path = first.with_stem("followed")
    with (
        av.open(str(path), "w", container_options={"live": "1"}) as out,
        av.open(str(first)) as one,
        av.open(str(second)) as two,
    ):
        stream = out.add_stream_from_template(one.streams.video[0])
        for later, source in ((0, one), (1000, two)):
            for packet in source.demux(video=0):
                if packet.size and packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts = packet.pts + later, packet.dts + later
                    packet.stream = stream
                    out.mux(packet)
    return path


def test_file_replaced_within_a_clock_tick_is_probed_again(clip: Clip) -> None:
    path, other = clip("a.mp4", frames=9), clip("b.mp4", frames=2)
    state = path.stat()
    assert probe(path).frames == 9
    path.write_bytes(other.read_bytes().ljust(state.st_size, b"\0"))
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))  # same clock tick
    assert probe(path).frames == 2


@pytest.mark.parametrize("text", ["0:0:1/0", "0:0:1e999999999", "1:2", "-1:00:00.0", "00:00:00.0", "x"])
def test_duration_tag_with_any_text_is_accepted(text: str) -> None:
    stream: Any = SimpleNamespace(metadata={"DURATION-eng": text}, duration=0)
    assert stated_duration(SimpleNamespace(duration=2_500_000), stream) == Fraction(5, 2)  # type: ignore[arg-type]
    stream.metadata["DURATION-eng"] = "01:00:02.500000000"
    assert stated_duration(SimpleNamespace(duration=0), stream) == Fraction(7205, 2)  # type: ignore[arg-type]
