from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from colab_helpers.errors import EncoderError, OutputError
from colab_helpers.media.copying import EVERYTHING, Kind
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from colab_helpers.media.writer import VideoWriter, output_suffix
from tests.media.conftest import Clip
from tests.media.make import Sound, Subtitle, add_cover, decoded, number_of, samples, variable_pts
from tests.media.roundtrip import trip

BFRAMES = {"preset": "veryfast", "crf": "16"}
NTSC = Fraction(30000, 1001)
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
HDR: dict[str, Any] = {
    "codec": "libx265",
    "pix_fmt": "yuv420p10le",
    "matrix": 9,
    "range": 1,
    "primaries": 9,
    "transfer": 16,
    "options": {"x265-params": f"log-level=none:master-display={MASTERING}:max-cll=1000,400"},
}

# Everything that must come out as it went in.
SAME: dict[str, tuple[str, dict[str, Any]]] = {
    "constant rate": ("a.mp4", {"options": BFRAMES}),
    "NTSC": ("a.mp4", {"rate": NTSC, "options": BFRAMES, "container": {"movie_timescale": "30000"}}),
    "NTSC in Matroska": ("a.mkv", {"rate": NTSC, "options": BFRAMES}),
    "variable rate": ("a.mp4", {"time_base": Fraction(1, 600), "pts": [x * 3 for x in variable_pts(25)]}),
    "variable rate in Matroska": ("a.mkv", {"time_base": Fraction(1, 1000), "pts": variable_pts(25)}),
    "late start": (
        "a.mp4",
        {
            "time_base": Fraction(1, 90000),
            "pts": [x * 90 + 12345 for x in variable_pts(25)],
            "options": BFRAMES,
            "container": {"movie_timescale": "90000"},
        },
    ),
    "late start in QuickTime": (
        "a.mov",
        {"time_base": Fraction(1, 600), "pts": [77 + 24 * x for x in range(25)]},
    ),
    "turned 90": ("a.mp4", {"rotation": 90}),
    "turned 180": ("a.mov", {"rotation": 180}),
    "turned 270": ("a.mp4", {"rotation": 270}),
    "turned 90 in Matroska": ("a.mkv", {"rotation": 90}),
    "ten bits": ("a.mp4", {"pix_fmt": "yuv420p10le"}),
    "4:2:2 ten bits": ("a.mov", {"pix_fmt": "yuv422p10le", "codec": "prores_ks", "options": {}, "matrix": 1}),
    "4:4:4": ("a.mp4", {"pix_fmt": "yuv444p"}),
    "4:4:4 of odd size": ("a.mp4", {"pix_fmt": "yuv444p", "size": (97, 65)}),
    "full range": ("a.mp4", {"pix_fmt": "yuvj420p", "range": 2, "matrix": 1, "primaries": 1, "transfer": 1}),
    "BT.709": ("a.mp4", {"matrix": 1, "range": 1, "primaries": 1, "transfer": 1}),
    "BT.601": ("a.mkv", {"matrix": 6, "range": 1, "primaries": 6, "transfer": 6}),
    "pixel shape": ("a.mp4", {"sar": Fraction(4, 3)}),
    "pixel shape in Matroska": ("a.mkv", {"sar": Fraction(12, 11)}),
    "HDR10": ("a.mp4", HDR),
    "interlaced": ("a.mp4", {"options": {"preset": "ultrafast", "flags": "+ilme+ildct"}}),
    "iTunes suffix": ("a.m4v", {}),
}


@pytest.mark.parametrize("case", SAME)
def test_picture_properties_survive(clip: Clip, case: str) -> None:
    name, settings = SAME[case]
    there = trip(clip(name, **settings))
    there.assert_same_frames()
    if case == "4:2:2 ten bits":
        # Limited range, stated by ProRes, is what H.264 means by not stating a range.
        assert there.differences() <= {"colour"}
    else:
        assert there.differences() == set()
    assert there.notes == []


def test_hdr_survives_hevc(clip: Clip) -> None:
    there = trip(clip("a.mp4", **HDR), wanted="libx265")
    there.assert_same_frames()
    assert there.differences() == set()
    assert there.source.light is not None
    assert there.source.light.content == (1000, 400)
    with av.open(str(there.result.path)) as container:
        assert container.streams.video[0].codec_tag == "hvc1"


SOUNDS: dict[str, tuple[str, dict[str, Any]]] = {
    "AAC": ("a.mp4", {"sounds": (Sound(),)}),
    "AAC starting late": ("a.mp4", {"sounds": (Sound(start=Fraction(1001, 48000)),)}),
    "sound longer than picture": ("a.mp4", {"sounds": (Sound(seconds=3),)}),
    "sound shorter than picture": ("a.mkv", {"sounds": (Sound(seconds=0.2),)}),
    "two languages": ("a.mp4", {"sounds": (Sound(language="eng"), Sound(language="deu", tone=880))}),
    "two codecs": ("a.mkv", {"sounds": (Sound("flac"), Sound("libopus", language="fra", title="Kommentar"))}),
    "PCM in QuickTime": ("a.mov", {"sounds": (Sound("pcm_s24le"),)}),
    "PCM in Matroska": ("a.mkv", {"sounds": (Sound("pcm_s16le"),)}),
    "MP3 at 44.1 kHz": ("a.mp4", {"sounds": (Sound("mp3", rate=44100),), "rate": NTSC}),
}


@pytest.mark.parametrize("case", SOUNDS)
def test_sound_is_copied_to_the_bit(clip: Clip, case: str) -> None:
    name, settings = SOUNDS[case]
    there = trip(clip(name, options=BFRAMES, **settings))
    there.assert_same_frames()
    there.assert_same_sound()
    described = [(one.codec, one.language, one.title, one.disposition) for one in there.source.audio]
    assert [(one.codec, one.language, one.title, one.disposition) for one in there.result.audio] == described
    longest = max(sound.seconds or 1.0 for sound in settings["sounds"])
    if case != "MP3 at 44.1 kHz":
        assert there.summary.audio_seconds == pytest.approx(longest, abs=0.07)
    assert there.notes == []


def test_roles_of_sound_streams_survive(clip: Clip) -> None:
    comment, default = Disposition.comment, Disposition.default
    sounds = (Sound(disposition=comment), Sound(disposition=default), Sound("libopus"))
    there = trip(clip("a.mkv", sounds=sounds))
    roles = [Disposition(one.disposition) for one in there.result.audio]
    assert roles == [comment, default, Disposition(0)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_last_frame_lasts_as_long_as_said(clip: Clip, tmp_path: Path, suffix: str) -> None:
    info = probe(clip("a.mp4", frames=3))
    target = tmp_path / f"x{suffix}"
    choice = encoder_for(info, wanted="libx264", quality=20)
    with read_frames(info) as reader, VideoWriter(target, info, choice=choice) as writer:
        for frame in reader:
            long = frame.duration * (10 if frame.index == 2 else 1)
            writer.write(frame.video, pts=frame.pts, duration=long)
    assert probe(target).duration == Fraction(12, 25)
    with read_frames(probe(target)) as reader:
        assert [frame.duration * frame.time_base * 25 for frame in reader] == [1, 1, 10]
    assert writer.summary.video_seconds == pytest.approx(12 / 25)


def test_opus_and_vorbis_from_webm(clip: Clip) -> None:
    options = {"deadline": "realtime", "cpu-used": "8"}
    there = trip(clip("a.webm", codec="libvpx-vp9", options=options, sounds=(Sound("libopus"),)))
    there.assert_same_frames()
    there.assert_same_sound()
    assert there.result.path.suffix == ".mkv"
    assert there.notes == ["the result is a .mkv file, the source a .webm one"]


def test_transport_stream_loses_only_its_framing(clip: Clip) -> None:
    there = trip(clip("a.ts", options=BFRAMES, sounds=(Sound(),)))
    there.assert_same_frames()
    before, after = (there.sent(info, "audio", 0) for info in (there.source, there.result))
    # MP4 holds bare AAC: the seven bytes of ADTS header stand before each frame in a transport stream.
    assert [one.data for one in after] == [one.data[7:] for one in before]
    assert [one.pts for one in after] == [one.pts for one in before]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mov_text"), ("a.mkv", "srt"), ("a.mkv", "ass")])
def test_subtitles_are_copied(clip: Clip, name: str, codec: str) -> None:
    lines = ((0, 300, "0,0,Default,,0,0,0,,one"), (400, 300, "1,0,Default,,0,0,0,,two"))
    there = trip(clip(name, sounds=(Sound(),), subtitles=(Subtitle(codec, "fra", lines),)))
    there.assert_same_sound("subtitle")
    assert [one.language for one in there.result.subtitles] == ["fra"]
    assert any(b"two" in one.data for one in there.sent(there.result, "subtitle", 0))


def test_tags_chapters_and_attachments_survive(clip: Clip) -> None:
    chapters = ((0, 500, "first"), (500, 1000, "second"))
    attached = (("font.ttf", "font/ttf", bytes(range(256))),)
    path = clip("a.mkv", chapters=chapters, attachments=attached, metadata={"title": "Über", "artist": "x"})
    there = trip(path, metadata={"comment": "made from consented footage"})
    with av.open(str(there.result.path)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["first", "second"]
        second = container.chapters()[1]
        assert second["start"] * (second["time_base"] or 0) == Fraction(1, 2)
        (attachment,) = container.streams.attachments
        assert (attachment.name, attachment.data) == ("font.ttf", bytes(range(256)))
    tags = {key.lower(): value for key, value in there.result.metadata.items()}
    assert (tags["title"], tags["artist"]) == ("Über", "x")
    assert tags["comment"] == "made from consented footage"


def test_tags_of_one_s_own_survive_in_mp4(clip: Clip) -> None:
    path = clip("a.mp4", metadata={"title": "T", "creation_time": "2020-01-02T03:04:05.000000Z"})
    there = trip(path, metadata={"face_swap": "yes"})
    tags = there.result.metadata
    assert (tags["title"], tags["face_swap"]) == ("T", "yes")
    assert tags["creation_time"] == "2020-01-02T03:04:05.000000Z"


def test_chapters_in_mp4_are_not_doubled(clip: Clip) -> None:
    there = trip(clip("a.mp4", chapters=((0, 500, "first"), (500, 1000, "second"))))
    with av.open(str(there.result.path)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["first", "second"]
    assert [one.kind for one in there.result.others] == ["data"]


def test_timecode_survives(clip: Clip) -> None:
    there = trip(clip("a.mov", metadata={"timecode": "01:02:03:04"}))
    with av.open(str(there.result.path)) as container:
        assert container.streams.video[0].metadata["timecode"] == "01:02:03:04"
    assert len(there.result.others) == len(there.source.others) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_art_survives(clip: Clip, tmp_path: Path, suffix: str) -> None:
    plain = clip("plain.mp4", frames=5)
    covered = tmp_path / "in" / f"covered{suffix}"
    with av.open(str(plain)) as source, av.open(str(covered), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0], opaque=True)
        cover = add_cover(out)
        out.start_encoding()
        out.mux(cover)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)
    there = trip(covered)
    there.assert_same_frames()
    assert [one.kind for one in there.result.others] == ["video"]
    before, after = (there.sent(info, "video", 1) for info in (there.source, there.result))
    assert [one.data for one in before] == [one.data for one in after]


def test_sound_of_an_unknown_codec_is_left_out_with_a_note(clip: Clip) -> None:
    path = clip("a.mp4", sounds=(Sound(language="eng"), Sound("mp3", language="deu")))
    data = path.read_bytes()
    # The first sample entry of that kind is the English track's; its descriptor would give it away.
    path.write_bytes(data.replace(b"mp4a", b"xxxx", 1).replace(b"esds", b"xxxx", 1))
    there = trip(path)
    there.assert_same_frames()
    assert there.notes == [".mp4 cannot hold audio stream 1 (unknown, eng): left out"]
    assert [one.language for one in there.result.audio] == ["deu"]


def test_a_stereo_downmix_is_never_made(clip: Clip) -> None:
    """Sound is not decoded at all: a broken packet passes through as it is."""
    path = clip("a.mkv", sounds=(Sound("pcm_s16le"),))
    digest = hashlib.sha256(b"".join(one.data for one in trip(path).sent(probe(path), "audio", 0)))
    assert digest.digest() == hashlib.sha256(_payload(path.parent.parent / "out" / "a.mkv")).digest()


def _payload(path: Path) -> bytes:
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(audio=0))


def test_odd_size_survives_by_full_chroma(clip: Clip) -> None:
    options = {"deadline": "realtime", "cpu-used": "8"}
    there = trip(clip("odd.webm", codec="libvpx-vp9", size=(97, 65), options=options), quality=4)
    there.assert_same_frames()
    assert (there.result.width, there.result.height, there.result.pix_fmt) == (97, 65, "yuv444p")
    assert any("odd" in note for note in there.notes)
    assert peak_error(there.source, there.result) < 12


def peak_error(first: VideoInfo, second: VideoInfo) -> int:
    """Largest luma difference over all frames, edges included."""
    with read_frames(first) as one, read_frames(second) as two:
        pairs = zip(one, two, strict=True)
        return max(int(np.abs(luma(a.video) - luma(b.video)).max()) for a, b in pairs)


def luma(video: av.VideoFrame) -> np.ndarray[Any, Any]:
    return samples(video.planes[0]).astype(np.int16)


def test_quality_is_the_encoder_s(clip: Clip) -> None:
    path = clip("a.mp4", frames=20)
    sizes, errors = [], []
    for quality in (5, 25, 50):
        there = trip(path, quality=quality)
        sizes.append(there.summary.bytes)
        errors.append(peak_error(there.source, there.result))
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert errors[0] < errors[2]


def test_a_frame_may_be_reused_after_write(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=12))
    target = tmp_path / "reused.mp4"
    canvas = av.VideoFrame(info.width, info.height, "yuv420p")
    with (
        read_frames(info) as reader,
        VideoWriter(target, info, choice=encoder_for(info, wanted="libx264", quality=10)) as writer,
    ):
        for frame in reader:
            for plane, source in zip(canvas.planes, frame.video.planes, strict=True):
                plane.update(padded(source, plane))
            writer.write(canvas, pts=frame.pts, duration=frame.duration)
            for plane in canvas.planes:
                plane.update(bytes(plane.buffer_size))
    assert decoded(target)[0] == list(range(12))


def padded(source: Any, like: Any) -> bytes:
    full = np.zeros((like.height, like.line_size), np.uint8)
    full[:, : source.width] = samples(source)
    return full.tobytes()


def test_frames_in_another_time_base(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=10))
    target = tmp_path / "thirty.mp4"
    choice = encoder_for(info, wanted="libx264", quality=20)
    with (
        read_frames(info) as reader,
        VideoWriter(target, info, choice=choice, time_base=Fraction(1, 30)) as writer,
    ):
        for frame in reader:
            writer.write(frame.video, pts=frame.index, duration=1)
    assert decoded(target)[1] == [Fraction(number, 30) for number in range(10)]


def test_sound_can_be_left_out(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mkv", frames=5, sounds=(Sound(),), subtitles=(Subtitle("srt"),)))
    target = write_some(info, tmp_path / "silent.mkv", kinds=EVERYTHING - {"audio"})
    result = probe(target)
    assert (len(result.audio), len(result.subtitles)) == (0, 1)


def write_some(
    info: VideoInfo, target: Path, *, frames: int = 5, kinds: frozenset[Kind] = EVERYTHING
) -> Path:
    choice = encoder_for(info, wanted="libx264", quality=30, preset="ultrafast")
    with (
        read_frames(info) as reader,
        VideoWriter(target, info, choice=choice, kinds=kinds) as writer,
    ):
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration)
            if frame.index + 1 == frames:
                break
    return target


SUFFIXES = [
    ("a.mp4", {}, ".mp4", ""),
    ("a.mov", {"sounds": (Sound("pcm_s16le"),)}, ".mov", ""),
    ("a.mkv", {"subtitles": (Subtitle("srt"),)}, ".mkv", ""),
    ("a.avi", {"codec": "mpeg4", "options": {}, "sounds": (Sound("mp3"),)}, ".mp4", ".avi"),
    ("a.avi", {"codec": "mpeg4", "options": {}, "sounds": (Sound("pcm_s16le"),)}, ".mov", "pcm_s16le"),
    ("a.flv", {}, ".mp4", ".flv"),
]


@pytest.mark.parametrize(("name", "settings", "suffix", "words"), SUFFIXES)
def test_the_container_holds_every_stream(
    clip: Clip, name: str, settings: dict[str, object], suffix: str, words: str
) -> None:
    chosen, note = output_suffix(probe(clip(name, frames=3, **settings)))
    assert chosen == suffix
    assert (note is None) == (words == "")
    assert words in (note or "")


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_an_impossible_container_is_refused_before_any_work(clip: Clip, tmp_path: Path, suffix: str) -> None:
    info = probe(clip("a.mkv", frames=3, subtitles=(Subtitle("srt", "fra"),)))
    with pytest.raises(OutputError, match=r"subtitle stream 1 \(.*fra\)") as caught:
        output_suffix(info, suffix)
    assert ".mkv" in caught.value.remedy
    target = tmp_path / "new" / f"x{suffix}"
    with pytest.raises(OutputError, match="subtitle stream 1"):
        write_some(info, target)
    assert not target.parent.exists()


def test_an_unknown_container_is_refused(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=3))
    with pytest.raises(OutputError, match=r"\.avi"):
        output_suffix(info, ".avi")
    with pytest.raises(OutputError, match=r"\.webm"):
        write_some(info, tmp_path / "x.webm")


def test_the_source_is_never_overwritten(clip: Clip) -> None:
    info = probe(clip("a.mp4", frames=3))
    before = info.path.read_bytes()
    with pytest.raises(OutputError, match="its own source"):
        write_some(info, info.path)
    assert info.path.read_bytes() == before


def test_missing_folders_are_made(clip: Clip, tmp_path: Path) -> None:
    target = write_some(probe(clip("a.mp4", frames=3)), tmp_path / "x" / "y" / "z.mp4")
    assert target.is_file()


def unwritable_places(folder: Path) -> Iterator[Path]:
    (folder / "file").write_bytes(b"x")
    yield folder / "file" / "out.mp4"
    yield Path("/proc/nothing/out.mp4")
    yield Path("/proc/out.mp4")


@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_unwritable_place_is_named(clip: Clip, tmp_path: Path, which: int) -> None:
    target = list(unwritable_places(tmp_path))[which]
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_some(probe(clip("a.mp4", frames=3)), target)
    assert str(target) in str(caught.value)


def test_an_error_in_the_block_leaves_nothing(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=10, sounds=(Sound(),)))
    target = tmp_path / "out" / "x.mp4"
    target.parent.mkdir()
    target.write_bytes(b"an older result")
    with pytest.raises(ZeroDivisionError):
        break_off(info, target, after=5)
    assert [one.name for one in target.parent.iterdir()] == ["x.mp4"]
    assert target.read_bytes() == b"an older result"


def break_off(info: VideoInfo, target: Path, *, after: int) -> None:
    choice = encoder_for(info, wanted="libx264", quality=20)
    with read_frames(info) as reader, VideoWriter(target, info, choice=choice) as writer:
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration // (after - frame.index))


FULL_DISK = """
    import resource, signal, sys
    from pathlib import Path
    from colab_helpers.errors import OutputError
    from colab_helpers.media.probe import probe
    from colab_helpers.media.encoders import encoder_for
    from colab_helpers.media.reader import read_frames
    from colab_helpers.media.writer import VideoWriter

    info, target, limit = probe(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    choice = encoder_for(info, wanted="libx264", quality=1, preset="ultrafast")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with read_frames(info) as reader, VideoWriter(target, info, choice=choice) as writer:
            for frame in reader:
                writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    except OutputError as error:
        print(error)
        sys.exit(7)
"""


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_leaves_nothing(clip: Clip, tmp_path: Path, share: float, suffix: str) -> None:
    """A limit on the file's size fails the same writes, at the header, in the middle or at the end."""
    source = clip(f"a{suffix}", frames=50, sounds=(Sound("mp3"),))
    target = tmp_path / "out" / f"x{suffix}"
    limit = int(trip(source, quality=1).summary.bytes * share)
    (tmp_path / "out" / f"a{suffix}").unlink()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), source, target, str(limit)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stdout
    assert list(target.parent.iterdir()) == []


def test_no_space_is_said_with_a_remedy(clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colab_helpers.media.writer.os.fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write_some(probe(clip("a.mp4", frames=3)), tmp_path / "out" / "x.mp4")
    assert "free some space" in caught.value.remedy
    assert list((tmp_path / "out").iterdir()) == []


def test_an_encoder_that_does_not_open(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=3))
    choice = EncoderChoice("h264_nvenc", "yuv420p", {"preset": "no such preset"})
    with pytest.raises(EncoderError, match="h264_nvenc does not open"):
        VideoWriter(tmp_path / "x.mp4", info, choice=choice)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_stamps_that_fall_are_refused(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=6))
    choice = encoder_for(info, wanted="libx264", quality=20, preset="ultrafast")
    with read_frames(info) as reader:
        first, second = next(reader), next(reader)
    writer = VideoWriter(tmp_path / "x.mp4", info, choice=choice)
    writer.write(second.video, pts=second.pts, duration=second.duration)
    with pytest.raises(OutputError, match="later than the one before"):
        writer.write(first.video, pts=first.pts, duration=first.duration)
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_the_summary_waits_for_the_end(clip: Clip, tmp_path: Path) -> None:
    info = probe(clip("a.mp4", frames=3))
    writer = VideoWriter(tmp_path / "x.mp4", info, choice=encoder_for(info, wanted="libx264", quality=20))
    with pytest.raises(OutputError, match="not finished"):
        _ = writer.summary
    with read_frames(info) as reader:
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    writer.close()
    writer.close()
    assert writer.summary.frames == 3
    assert writer.summary.video_seconds == pytest.approx(3 / 25)
    assert writer.summary.bytes == (tmp_path / "x.mp4").stat().st_size


def test_numbers_are_read_from_pictures(clip: Clip) -> None:
    """The proof itself: a bar code read back from an encoded frame is the frame's number."""
    with av.open(str(clip("a.mp4", frames=200))) as container:
        assert [number_of(frame) for frame in container.decode(video=0)] == list(range(200))


def test_the_source_s_keyframes_are_no_orders(clip: Clip) -> None:
    """An all-intra source must not make an all-intra result many times the size."""
    path = clip("intra.mp4", frames=40, options={"preset": "ultrafast", "crf": "16", "g": "1"})
    assert keyframes(path) == 40
    assert keyframes(trip(path).result.path) <= 2


def keyframes(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_lies_beside_its_pictures_in_the_file(clip: Clip, suffix: str) -> None:
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
