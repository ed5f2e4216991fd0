"""Everything that must come out of a round trip as it went in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from colab_helpers.errors import OutputError
from colab_helpers.media.containers import output_suffix
from colab_helpers.media.join import check_output, join_segments
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from tests.media.conftest import Clip
from tests.media.make import Sound, Subtitle, number_of, samples, variable_pts
from tests.media.roundtrip import LOSSY, trip, write_segments

BFRAMES = {"preset": "veryfast", "crf": "16"}
NTSC = Fraction(30000, 1001)
VP9 = {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
LATE = {
    "time_base": Fraction(1, 90000),
    "pts": [x * 90 + 12345 for x in variable_pts(25)],
    "options": BFRAMES,
    "container": {"movie_timescale": "90000"},
}
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "constant rate": ("a.mp4", {"options": BFRAMES}),
    "NTSC": ("a.mp4", {"rate": NTSC, "options": BFRAMES, "container": {"movie_timescale": "30000"}}),
    "NTSC in Matroska": ("a.mkv", {"rate": NTSC, "options": BFRAMES}),
    "variable rate": ("a.mp4", {"time_base": Fraction(1, 600), "pts": [x * 3 for x in variable_pts(25)]}),
    "variable rate in Matroska": ("a.mkv", {"time_base": Fraction(1, 1000), "pts": variable_pts(25)}),
    "late start": ("a.mp4", LATE),
    "late start in QuickTime": (
        "a.mov",
        {"time_base": Fraction(1, 600), "pts": [77 + 24 * x for x in range(25)]},
    ),
    "turned 90": ("a.mp4", {"rotation": 90}),
    "turned 180": ("a.mov", {"rotation": 180}),
    "turned 270 in Matroska": ("a.mkv", {"rotation": 270}),
    "ten bits": ("a.mp4", {"pix_fmt": "yuv420p10le"}),
    "4:2:2 ten bits": ("a.mov", {"pix_fmt": "yuv422p10le", "codec": "prores_ks", "options": {}, "matrix": 1}),
    "4:4:4 of odd size": ("a.mp4", {"pix_fmt": "yuv444p", "size": (97, 65)}),
    "full range": ("a.mp4", {"pix_fmt": "yuvj420p", "range": 2, "matrix": 1, "primaries": 1, "transfer": 1}),
    "BT.709": ("a.mp4", {"matrix": 1, "range": 1, "primaries": 1, "transfer": 1}),
    "BT.601": ("a.mkv", {"matrix": 6, "range": 1, "primaries": 6, "transfer": 6}),
    "pixel shape": ("a.mp4", {"sar": Fraction(4, 3)}),
    "pixel shape in Matroska": ("a.mkv", {"sar": Fraction(12, 11)}),
    "interlaced": ("a.mp4", {"options": {"preset": "ultrafast", "flags": "+ilme+ildct"}}),
    "iTunes suffix": ("a.m4v", {}),
}


@pytest.mark.parametrize("case", SAME)
def test_picture_properties_survive(clip: Clip, case: str) -> None:
    name, settings = SAME[case]
    there = trip(clip(name, **settings), length=9)
    there.assert_same_frames()
    # Limited range, stated by ProRes, is what H.264 means by not stating a range.
    assert there.differences() <= ({"colour"} if case == "4:2:2 ten bits" else set())
    assert there.notes == []


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_hdr_survives_hevc_but_for_its_light_levels(clip: Clip, suffix: str) -> None:
    mastering = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    light = {"x265-params": f"log-level=none:master-display={mastering}:max-cll=1000,400"}
    colour = {"pix_fmt": "yuv420p10le", "matrix": 9, "range": 1, "primaries": 9, "transfer": 16}
    there = trip(clip(f"a{suffix}", codec="libx265", options=light, **colour), wanted="libx265", length=9)
    there.assert_same_frames()
    assert there.differences() == set()
    assert ["HDR10" in note for note in there.notes] == [True]
    with av.open(str(there.result.path)) as container:
        assert container.streams.video[0].codec_tag == "hvc1" or suffix == ".mkv"


MAIN, COMMENT = Disposition.default, Disposition.comment
LINES = ((0, 300, "0,0,Default,,0,0,0,,one"), (400, 300, "1,0,Default,,0,0,0,,two"))
BESIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "AAC": ("a.mp4", {"sounds": (Sound(),)}),
    "AAC starting late": ("a.mp4", {"sounds": (Sound(start=Fraction(1001, 48000)),)}),
    "longer than the picture": ("a.mp4", {"sounds": (Sound(seconds=3),)}),
    "shorter than the picture": ("a.mkv", {"sounds": (Sound(seconds=0.2),)}),
    "two languages": ("a.mp4", {"sounds": (Sound(language="eng"), Sound(language="deu", tone=880))}),
    "titles": ("a.mkv", {"sounds": (Sound("flac"), Sound("libopus", language="fra", title="Kommentar"))}),
    "roles": ("a.mkv", {"sounds": (Sound(disposition=COMMENT), Sound(disposition=MAIN))}),
    "PCM in QuickTime": ("a.mov", {"sounds": (Sound("pcm_s24le"),)}),
    "MP3 at 44.1 kHz": ("a.mp4", {"sounds": (Sound("mp3", rate=44100),), "rate": NTSC}),
    "Opus from WebM": ("a.webm", {**VP9, "sounds": (Sound("libopus"),)}),
    "text in MP4": ("a.mp4", {"sounds": (Sound(),), "subtitles": (Subtitle("mov_text", "fra", LINES),)}),
    "SubRip": ("a.mkv", {"sounds": (Sound(),), "subtitles": (Subtitle("srt", "fra", LINES),)}),
    "ASS": ("a.mkv", {"sounds": (Sound(),), "subtitles": (Subtitle("ass", "fra", LINES),)}),
}


def said_of(info: VideoInfo) -> list[object]:
    """What a file says of its audio and subtitles."""
    with av.open(str(info.path)) as container:
        return [
            (one.codec_context.name, one.language, one.metadata.get("title"), int(one.disposition))
            for one in (*container.streams.audio, *container.streams.subtitles)
        ]


@pytest.mark.parametrize("case", BESIDE)
def test_audio_and_subtitles_are_copied_to_the_bit(clip: Clip, case: str) -> None:
    name, settings = BESIDE[case]
    there = trip(clip(name, **{"options": BFRAMES, **settings}), length=9)
    there.assert_same_frames()
    there.assert_same_packets()
    if "subtitles" in settings:
        there.assert_same_packets("subtitle")
    assert said_of(there.result) == said_of(there.source)
    longest = max(sound.seconds or 1.0 for sound in settings["sounds"])
    if case != "MP3 at 44.1 kHz":
        assert there.joined.audio_seconds == pytest.approx(longest, abs=0.07)
    note = "the result is a .mkv file, the target a .webm one"
    assert there.notes == ([note] if name == "a.webm" else [])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_last_frame_lasts_as_long_as_said(clip: Clip, tmp_path: Path, suffix: str) -> None:
    info = probe(clip("a.mp4", frames=3))
    target = tmp_path / f"x{suffix}"

    def change(frame: Any) -> dict[str, int]:
        return {"pts": frame.pts, "duration": frame.duration * (10 if frame.index == 2 else 1)}

    parts, _ = write_segments(info, tmp_path / "work", LOSSY, length=9, change=change)
    joined = join_segments(parts, info, target, choice=LOSSY)
    assert probe(target).duration == Fraction(12, 25)
    with read_frames(probe(target)) as reader:
        assert [frame.duration * frame.time_base * 25 for frame in reader] == [1, 1, 10]
    assert joined.video_seconds == pytest.approx(12 / 25)


def test_transport_stream_loses_only_its_framing(clip: Clip) -> None:
    there = trip(clip("a.ts", options=BFRAMES, sounds=(Sound(),)), length=9)
    there.assert_same_frames()
    # MP4 holds bare AAC: the seven bytes of ADTS header stand before each frame in a transport stream.
    there.assert_same_packets(change=lambda data: data[7:])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_tags_chapters_timecode_and_attachments_survive(clip: Clip, suffix: str) -> None:
    tags = {"title": "Über", "creation_time": "2020-01-02T03:04:05.000000Z", "own": "x"}
    chapters = {"chapters": ((0, 500, "first"), (500, 1000, "second"))}
    font = bytes(range(256))
    settings: dict[str, Any] = {
        ".mp4": {**chapters, "container": {"movflags": "use_metadata_tags"}},
        ".mov": {"metadata": {"timecode": "01:02:03:04"}},
        ".mkv": {**chapters, "attachments": (("font.ttf", "font/ttf", font),)},
    }
    there = trip(clip(f"a{suffix}", **{"metadata": tags, **settings[suffix]}))
    assert there.notes == []
    with av.open(str(there.result.path)) as container:
        if suffix == ".mov":
            assert container.streams.video[0].metadata["timecode"] == "01:02:03:04"
            return
        found = container.chapters()
        assert [chapter["metadata"]["title"] for chapter in found] == ["first", "second"]
        assert found[1]["start"] * (found[1]["time_base"] or 0) == Fraction(1, 2)
        assert [(one.name, one.data) for one in container.streams.attachments] == (
            [("font.ttf", font)] if suffix == ".mkv" else []
        )
    kept = {key.lower(): value for key, value in there.result.metadata.items()}
    assert {key: kept[key] for key in tags} == tags


def test_audio_of_an_unknown_codec_is_left_out_with_a_note(clip: Clip) -> None:
    path = clip("a.mp4", sounds=(Sound(language="eng"), Sound("mp3", language="deu")))
    data = path.read_bytes()
    # The first sample entry of that kind is the English track's; its descriptor would give it away.
    path.write_bytes(data.replace(b"mp4a", b"xxxx", 1).replace(b"esds", b"xxxx", 1))
    there = trip(path)
    there.assert_same_frames()
    assert there.notes == [".mp4 cannot hold audio stream 1 (unknown, eng): dropped"]
    assert [one.language for one in there.result.audio] == ["deu"]


def test_odd_size_survives_by_full_chroma(clip: Clip) -> None:
    there = trip(clip("odd.webm", size=(97, 65), **VP9), quality=4)
    there.assert_same_frames()
    assert (there.result.width, there.result.height, there.result.pix_fmt) == (97, 65, "yuv444p")
    assert any("odd" in note for note in there.notes)
    assert peak_error(there.source, there.result) < 12


def peak_error(first: VideoInfo, second: VideoInfo) -> int:
    """Largest luma difference over all frames, edges included."""

    def luma(video: av.VideoFrame) -> np.ndarray[Any, Any]:
        return samples(video.planes[0]).astype(np.int16)

    with read_frames(first) as one, read_frames(second) as two:
        pairs = zip(one, two, strict=True)
        return max(int(np.abs(luma(a.video) - luma(b.video)).max()) for a, b in pairs)


def test_quality_is_the_encoder_s_and_the_source_s_key_frames_are_no_orders(clip: Clip) -> None:
    """An all-intra source must not make an all-intra result many times the size."""
    path = clip("intra.mp4", frames=40, options={"preset": "ultrafast", "crf": "16", "g": "1"})
    sizes, errors, keys = [], [], []
    for quality in (5, 25, 50):
        result = trip(path, quality=quality).result
        sizes.append(result.path.stat().st_size)
        errors.append(peak_error(probe(path), result))
        with av.open(str(result.path)) as container:
            keys.append(sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert errors[0] < errors[2]
    assert max(keys) <= 2


def test_audio_can_be_left_out(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mkv", frames=5, sounds=(Sound(),), subtitles=(Subtitle("srt"),)))
    parts, _ = write_segments(info, tmp_path / "work", LOSSY, length=9)
    join_segments(parts, info, tmp_path / "silent.mkv", choice=LOSSY, audio=False)
    result = probe(tmp_path / "silent.mkv")
    assert (len(result.audio), len(result.subtitles)) == (0, 1)


MPEG4: dict[str, Any] = {"codec": "mpeg4", "options": {}}
SUFFIXES: list[tuple[str, dict[str, Any], str, str]] = [
    ("a.mp4", {}, ".mp4", ""),
    ("a.mov", {"sounds": (Sound("pcm_s16le"),)}, ".mov", ""),
    ("a.mkv", {"subtitles": (Subtitle("srt"),)}, ".mkv", ""),
    ("a.avi", {**MPEG4, "sounds": (Sound("mp3"),)}, ".mp4", ".avi"),
    ("a.avi", {**MPEG4, "sounds": (Sound("pcm_s16le"),)}, ".mov", "pcm_s16le"),
    ("a.flv", {}, ".mp4", ".flv"),
    ("a.gif", {"codec": "gif", "pix_fmt": "rgb8", "options": {}}, ".mp4", ".gif"),
]


@pytest.mark.parametrize(("name", "settings", "suffix", "words"), SUFFIXES)
def test_the_container_holds_every_stream(
    clip: Clip, name: str, settings: dict[str, object], suffix: str, words: str
) -> None:
    chosen, note = output_suffix(probe(clip(name, frames=3, **settings)))
    assert (chosen, note is None) == (suffix, words == "")
    assert words in (note or "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.mp4", r"subtitle stream 1 \(.*fra\).*write \.mkv"),
        ("x.mov", r"subtitle stream 1 \(.*fra\).*write \.mkv"),
        ("x.webm", r"cannot be written as \.webm"),
        ("x.gif", r"cannot be written as \.gif"),
        ("x", "without suffix"),
    ],
)
def test_an_impossible_result_is_refused_before_any_work(
    clip: Clip, tmp_path: Path, name: str, words: str
) -> None:
    info = probe(clip("a.mkv", frames=3, subtitles=(Subtitle("srt", "fra"),)))
    with pytest.raises(OutputError, match=words):
        check_output(tmp_path / name, info)


def test_numbers_are_read_from_pictures(clip: Clip) -> None:
    """The proof itself: a bar code read back from an encoded frame is the frame's number."""
    with av.open(str(clip("a.mp4", frames=200))) as container:
        assert [number_of(frame) for frame in container.decode(video=0)] == list(range(200))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_audio_lies_beside_its_pictures_in_the_file(clip: Clip, suffix: str) -> None:
    late = ((0, 300, "one"), (19_000, 300, "two"))
    text = Subtitle("srt" if suffix == ".mkv" else "mov_text", lines=late)
    there = trip(clip(f"long{suffix}", frames=500, sounds=(Sound("mp3"),), subtitles=(text,)))
    with av.open(str(there.result.path)) as container:
        placed = [
            (packet.pos or 0, packet.stream.type, (packet.dts or 0) * packet.time_base)
            for packet in container.demux()
            if packet.size and packet.stream.type != "subtitle"
        ]
    reached = {"video": Fraction(0), "audio": Fraction(0)}
    # In the order of the bytes: an MP4's own order is that of its index.
    for _position, kind, time in sorted(placed):
        reached[kind] = time
        assert abs(reached["video"] - reached["audio"]) < 2
