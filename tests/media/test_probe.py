from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from colab_helpers.errors import ColabHelpersError, MediaError, MissingFileError
from colab_helpers.media.formats import ColourTags
from colab_helpers.media.inputs import is_image, is_video
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from tests.media.conftest import Clip
from tests.media.harm import start_edit_at
from tests.media.make import Sound, Subtitle, make_cover_song, make_song


def test_describes_a_plain_clip(clip: Clip) -> None:
    info = probe(clip("plain.mp4", frames=30, size=(96, 64), metadata={"title": "Ünïcode"}))
    assert (info.width, info.height, info.codec) == (96, 64, "h264")
    assert info.pix_fmt == "yuv420p"
    assert (info.frames, info.frames_declared, info.average_rate) == (30, True, Fraction(25))
    assert info.duration == Fraction(30, 25)
    assert info.start == 0
    assert (info.rotation, info.display_matrix, info.sample_aspect_ratio) == (0, None, None)
    assert (info.interlaced, info.light) == (False, None)
    assert info.metadata["title"] == "Ünïcode"
    assert info.audio == info.subtitles == info.others == ()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_clockwise_for_display(clip: Clip, suffix: str, rotation: int) -> None:
    info = probe(clip(f"turned{suffix}", frames=3, rotation=rotation))
    assert info.rotation == rotation
    assert info.display_size == ((96, 64) if rotation == 180 else (64, 96))


def test_ntsc_rate_and_length_are_exact(clip: Clip) -> None:
    exact = {"movie_timescale": "30000"}
    info = probe(clip("ntsc.mp4", frames=30, rate=Fraction(30000, 1001), container=exact))
    assert info.average_rate == Fraction(30000, 1001)
    assert info.duration == Fraction(1001, 1000)


def test_colour_and_pixel_shape(clip: Clip) -> None:
    info = probe(
        clip(
            "hdr.mp4",
            frames=3,
            pix_fmt="yuv420p10le",
            matrix=9,
            range=1,
            primaries=9,
            transfer=16,
            sar=Fraction(4, 3),
        )
    )
    assert info.colour == ColourTags(matrix=9, range=1, primaries=9, transfer=16)
    assert (info.pix_fmt, info.sample_aspect_ratio) == ("yuv420p10le", Fraction(4, 3))


def test_streams_beside_the_picture(clip: Clip) -> None:
    info = probe(
        clip(
            "rich.mkv",
            sounds=(Sound(language="eng", title="Main"), Sound("libopus", language="deu")),
            subtitles=(Subtitle("srt", "fra"),),
            attachments=(("font.ttf", "font/ttf", b"abc"),),
        )
    )
    assert [(one.codec, one.language, one.title) for one in info.audio] == [
        ("aac", "eng", "Main"),
        ("opus", "deu", None),
    ]
    assert [(one.index, one.language) for one in info.subtitles] == [(3, "fra")]
    assert [one.kind for one in info.others] == ["attachment"]
    assert str(info.audio[1]) == "audio stream 2 (opus, deu)"


def test_gif_is_a_video(clip: Clip) -> None:
    info = probe(clip("anim.gif", frames=5, codec="gif", pix_fmt="rgb8", options={}, rate=Fraction(10)))
    assert (info.frames, info.average_rate, info.duration) == (5, Fraction(10), Fraction(1, 2))


def test_frames_hidden_by_an_edit_list_do_not_count(clip: Clip) -> None:
    path = clip("hidden.mp4", frames=30, options={"preset": "ultrafast", "g": "100"})
    start_edit_at(path, 10)
    assert probe(path).frames == 20


def bad_files(folder: Path, whole: Path) -> dict[str, tuple[Path, type[ColabHelpersError], str]]:
    """Every kind of unusable input with the error and a word of its message."""

    def write(name: str, data: bytes) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    data = whole.read_bytes()
    playlist = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"
    script = f"ffconcat version 1.0\nfile {whole.name}\n".encode()
    return {
        "missing": (folder / "none.mp4", MissingFileError, "no such file"),
        "directory": (folder, MediaError, "folder"),
        "empty": (write("empty.mp4", b""), MediaError, "empty"),
        "text": (write("text.mp4", b"hello world, not a film\n" * 50), MediaError, "not a video"),
        "zeros": (write("zeros.mp4", bytes(20_000)), MediaError, "not a video"),
        "no moov": (write("cut.mp4", data[: len(data) // 2]), MediaError, "moov"),
        "playlist": (write("list.mp4", playlist), MediaError, "not a"),
        "script": (write("list2.mp4", script), MediaError, "not a"),
        "song": (make_song(folder / "song.mp4"), MediaError, "only sound"),
        "cover": (make_cover_song(folder / "cover.mp4"), MediaError, "cover art"),
    }


@pytest.mark.parametrize(
    "kind",
    ["missing", "directory", "empty", "text", "zeros", "no moov", "playlist", "script", "song", "cover"],
)
def test_bad_input_is_named(clip: Clip, kind: str) -> None:
    whole = clip("whole.mp4", frames=50, sounds=(Sound(),))
    path, error, words = bad_files(whole.parent, whole)[kind]
    with pytest.raises(error, match=words) as caught:
        probe(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.mp4"):
        probe(tmp_path / "none.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_no_frame_at_all(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hollow{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 64
        out.start_encoding()
    with pytest.raises(MediaError, match=r"no (frame|video)"):
        probe(path)


def test_undecodable_picture(clip: Clip) -> None:
    path = clip("noise.mp4", frames=20)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes((7 * number * number + 13) % 251 for number in range(end - start))
    path.write_bytes(data)
    with pytest.raises(MediaError, match="no frame"):
        probe(path)


def test_suffixes() -> None:
    assert is_video("a/B.MP4")
    assert is_video(Path("x.gif"))
    assert is_image("photo.JPEG")
    assert not is_image("x.gif")
    assert not is_video("notes.txt")


def test_tags_in_an_unknown_encoding_do_no_harm(clip: Clip) -> None:
    path = clip("latin.mp4", frames=2, metadata={"title": "caf-"})
    path.write_bytes(path.read_bytes().replace(b"caf-", b"caf\xe9"))
    assert probe(path).metadata["title"].startswith("caf")


# Display matrix (a, b, c, d); then what a player does: mirror left to right, turn clockwise.
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
    shown = {}
    for y in range(2):
        for x in range(3):
            shown[a * x + c * y, b * x + d * y] = stored[y, x, 0]
    left, top = min(x for x, _ in shown), min(y for _, y in shown)
    upright = info.upright(stored)
    assert {(x - left, y - top): value for (x, y), value in shown.items()} == {
        (x, y): upright[y, x, 0] for y in range(upright.shape[0]) for x in range(upright.shape[1])
    }
    # The detector's picture is that of a player, or its mirror image; never upside down or on its side.
    turned = np.rot90(stored, -info.heads_up // 90)
    assert np.array_equal(turned, upright[:, ::-1] if info.mirrored else upright)


@pytest.mark.parametrize("case", ["joined", "recorder"])
def test_a_size_that_changes_is_the_largest(clip: Clip, case: str, tmp_path: Path) -> None:
    settings = {"codec": "libvpx", "options": {}} if case == "recorder" else {}
    suffix = ".webm" if case == "recorder" else ".ts"
    small = clip(f"small{suffix}", frames=25, size=(160, 120), **settings)
    large = clip(f"large{suffix}", frames=60, size=(640, 480), **settings)
    path = tmp_path / f"a{suffix}"
    if case == "joined":
        path.write_bytes(small.read_bytes() + large.read_bytes())
    else:
        follow(path, small, large)
    info = probe(path)
    assert (info.width, info.height) == (640, 480)
    with read_frames(info) as reader:
        sizes = [(frame.video.width, frame.video.height) for frame in reader]
    assert sizes == [(640, 480)] * 85
    assert any("25 frames were scaled to 640x480" in note for note in reader.notes)


def follow(path: Path, first: Path, second: Path) -> None:
    """One track with the packets of two files, as a browser records a call; without a length."""
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
