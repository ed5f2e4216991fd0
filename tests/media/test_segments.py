from __future__ import annotations

import hashlib
import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from colab_helpers.errors import EncoderError, MediaError, MissingFileError, OutputError, UsageError
from colab_helpers.media import index as indexing
from colab_helpers.media import reader as reading
from colab_helpers.media.copying import EVERYTHING
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.index import index_frames
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import FrameReader, read_frames
from colab_helpers.media.segments import (
    Segment,
    SegmentedWriter,
    SegmentWriter,
    check_segment,
    join_segments,
)
from colab_helpers.media.writer import ResultFile, VideoWriter
from tests.media.conftest import Clip
from tests.media.make import Sound, Spec, Subtitle, make, packets_of, samples, variable_pts
from tests.media.test_probe import start_edit_at
from tests.media.test_reader import PICTURES, damage

SIZE = (64, 48)
WHOLE_ROWS = (128, 48)
"""With AVX-512, x264 reads memory nobody set where a row is not a multiple of eight blocks of 16 pixels."""
LOSSLESS = EncoderChoice("libx264", "yuv420p", {"preset": "ultrafast", "crf": "0"})
LOSSY = EncoderChoice("libx264", "yuv420p", {"preset": "veryfast", "crf": "23"})


def x264(gop: int, bframes: int = 0, *, pyramid: str = "none", open_gop: bool = False, more: str = "") -> Any:
    """Options that give exactly this structure, whatever the pictures."""
    rest = f"b-adapt=0:b-pyramid={pyramid}:open-gop={open_gop:d}:keyint={gop}:min-keyint=1:scenecut=0{more}"
    return {"preset": "ultrafast", "crf": "20", "bf": str(bframes), "x264-params": rest}


OPEN = x264(12, 3, pyramid="normal", open_gop=True)


@pytest.fixture
def small(clip: Clip) -> Clip:
    def build(name: str, **settings: Any) -> Path:
        return clip(name, **({"size": SIZE, "frames": 90} | settings))

    return build


Shown = tuple[int, int, Fraction, int, bytes]


def shown(reader: FrameReader) -> list[Shown]:
    """Number, pts, time base, duration and samples of every frame."""
    with reader:
        return [
            (frame.index, frame.pts, frame.time_base, frame.duration, content(frame.video))
            for frame in reader
        ]


def content(video: av.VideoFrame) -> bytes:
    digest = hashlib.sha256(video.format.name.encode())
    for plane in video.planes:
        digest.update(np.ascontiguousarray(samples(plane)))
    return digest.digest()


# --- reading from the middle -----------------------------------------------------------------------------

SOUGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "only key frames": ("a.mp4", {"options": x264(1)}),
    "closed groups": ("a.mp4", {"options": x264(12, 3, pyramid="normal")}),
    "open groups": ("a.mp4", {"options": OPEN}),
    "open groups in QuickTime": ("a.mov", {"options": OPEN}),
    "open groups in Matroska": ("a.mkv", {"options": OPEN}),
    "open groups in a transport stream": ("a.ts", {"options": OPEN}),
    "open groups in Flash": ("a.flv", {"options": OPEN}),
    "deep pyramid": ("a.mp4", {"options": x264(25, 8, pyramid="strict", open_gop=True)}),
    "one group": ("a.mp4", {"options": x264(300, 2)}),
    "fragments": ("a.mp4", {"options": OPEN, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    "variable rate": (
        "a.mp4",
        {"options": OPEN, "pts": variable_pts(90), "time_base": Fraction(1, 1000)},
    ),
    "variable rate in Matroska": (
        "a.mkv",
        {"options": OPEN, "pts": variable_pts(90), "time_base": Fraction(1, 1000)},
    ),
    "late start": (
        "a.mp4",
        {"options": OPEN, "pts": [777 + 600 * n for n in range(90)], "time_base": Fraction(1, 15000)},
    ),
    "HEVC with open groups": (
        "a.mp4",
        {
            "codec": "libx265",
            "options": {
                "preset": "ultrafast",
                "x265-params": "log-level=none:keyint=20:min-keyint=1:bframes=3:open-gop=1:scenecut=0",
            },
        },
    ),
    "MPEG-2": ("a.ts", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "MPEG-4": ("a.avi", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    "VP9 with hidden pictures": (
        "a.webm",
        {
            "codec": "libvpx-vp9",
            "options": {"deadline": "good", "cpu-used": "8", "g": "24", "auto-alt-ref": "1"},
        },
    ),
    "ProRes": ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "options": {}}),
    "converted": ("a.mov", PICTURES),
}


@pytest.mark.parametrize("case", SOUGHT)
def test_reading_from_the_middle_by_seeking(small: Clip, case: str) -> None:
    name, settings = SOUGHT[case]
    info = probe(small(name, **settings))
    whole = shown(first := read_frames(info))
    index = index_frames(info)
    assert index.doubt == ""
    assert index.stamps.tolist() == [frame[1] for frame in whole]
    for start in (1, 11, 12, 13, 47, 89, 90):
        reader = read_frames(info, start=start, index=index)
        assert shown(reader) == whole[start:]
        assert reader.notes == first.notes


@pytest.mark.parametrize("gop", [100, 12])
def test_hidden_frames_do_not_count(small: Clip, gop: int) -> None:
    path = small("a.mp4", options=x264(gop, 2))
    start_edit_at(path, 10)
    info = probe(path)
    whole = shown(read_frames(info))
    assert len(whole) == 80
    for start in (1, 5, 40, 79):
        reader = read_frames(info, start=start, previous_pts=whole[start - 1][1])
        assert shown(reader) == whole[start:]
        assert reader.notes == []


@pytest.mark.parametrize("gap", [(20, 40), (25, 71)])
def test_frames_cut_out_by_an_edit_list_do_not_count(small: Clip, gap: tuple[int, int]) -> None:
    path = small("a.mp4", options=x264(12))
    cut_out(path, *gap)
    info = probe(path)
    whole = shown(read_frames(info))
    assert len(whole) == 90 - (gap[1] - gap[0])
    assert index_frames(info).stamps.tolist() == [frame[1] for frame in whole]
    for start in (5, gap[0], gap[0] + 1, gap[0] + 6, len(whole) - 1):
        reader = read_frames(info, start=start)
        assert shown(reader) == whole[start:]


def cut_out(path: Path, first: int, last: int) -> None:
    """Splits the only edit in two, so that players leave out frames ``first`` to ``last - 1``."""
    data = path.read_bytes()
    at = data.index(b"elst")
    duration, media_time, speed = struct.unpack_from(">IiI", data, at + 12)
    # Edits count in milliseconds and in 512ths of a frame.
    edits = [(first * 40, media_time, speed), (duration - last * 40, media_time + last * 512, speed)]
    table = struct.pack(">II", 0, 2) + b"".join(struct.pack(">IiI", *edit) for edit in edits)
    grown = bytearray(data[: at + 4] + table + data[at + 24 :])
    for box in (b"moov", b"trak", b"edts", b"elst"):
        place = data.rindex(box, 0, at + 4) - 4
        struct.pack_into(">I", grown, place, struct.unpack_from(">I", data, place)[0] + 12)
    path.write_bytes(grown)


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4"])
def test_a_recording_that_begins_inside_an_open_group(small: Clip, tmp_path: Path, name: str) -> None:
    """What is shown before the first key frame refers to pictures that are not there."""
    path = without_first_group(small(name, options=OPEN), tmp_path / name)
    info = probe(path)
    whole = shown(read_frames(info))
    for start in (1, 5, 20, len(whole) - 1):
        previous = whole[start - 1][1]
        reader = read_frames(info, start=start, previous_pts=previous)
        assert shown(reader) == whole[start:]
        assert reader.notes == []


def without_first_group(path: Path, target: Path) -> Path:
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0], opaque=True)
        groups = 0
        for packet in source.demux(video=0):
            groups += packet.is_keyframe and packet.size > 0
            if groups > 1 and packet.size:
                packet.stream = copy
                out.mux(packet)
    return target


def test_seeking_decodes_next_to_nothing(small: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    genuine = FrameReader._decode

    def counted(self: FrameReader, packet: Any) -> list[av.VideoFrame]:
        nonlocal decoded
        pictures = genuine(self, packet)
        decoded += len(pictures)
        return pictures

    monkeypatch.setattr(FrameReader, "_decode", counted)
    info = probe(small("a.mp4", frames=250, options=x264(10, 2)))
    assert [frame[0] for frame in shown(read_frames(info, start=240))] == list(range(240, 250))
    assert decoded <= 20


def broken_stamps(folder: Path) -> Path:
    """Two recordings behind one another: time begins anew in the middle."""
    parts = [make(folder / name, Spec(frames=45, size=SIZE, options=x264(9, 2))) for name in ("1.ts", "2.ts")]
    joined = folder / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    return joined


def built(**settings: Any) -> Callable[[Path], Path]:
    return lambda folder: make(folder / settings["name"], Spec(frames=90, size=SIZE, **settings["spec"]))


# What cannot be sought exactly, and why.
FROM_THE_START: dict[str, tuple[Callable[[Path], Path], str]] = {
    "time goes back": (broken_stamps, "damaged packets"),
    "two frames at a time": (
        built(name="a.mkv", spec={"options": OPEN, "rate": Fraction(2000)}),
        "several frames have one time stamp",
    ),
    "no time stamps": (built(name="a.h264", spec={"options": OPEN}), "without time stamp"),
    "VP8": (built(name="a.webm", spec={"codec": "libvpx", "options": {"cpu-used": "8"}}), "vp8"),
    "GIF": (built(name="a.gif", spec={"codec": "gif", "pix_fmt": "rgb8", "options": {}}), "gif"),
    "refreshed bit by bit": (
        built(name="a.mp4", spec={"options": x264(12, more=":intra-refresh=1")}),
        "frames are missing after a seek",
    ),
}


@pytest.mark.parametrize("case", FROM_THE_START)
def test_what_cannot_be_sought_is_decoded_from_the_start(tmp_path: Path, case: str) -> None:
    build, why = FROM_THE_START[case]
    info = probe(build(tmp_path))
    whole = shown(read_frames(info))
    assert len(whole) == 90
    for start in (30, 47, 89):
        reader = read_frames(info, start=start, previous_pts=whole[start - 1][1])
        assert shown(reader) == whole[start:]
        (note,) = (note for note in reader.notes if "from the start" in note)
        assert f"frame {start} " in note
        assert why in note


def test_a_file_that_cannot_be_searched_is_decoded_from_the_start(
    small: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = probe(small("a.mkv", options=OPEN))
    whole = shown(read_frames(info))
    genuine = reading.open_source

    class Unsearchable:
        def __init__(self, path: Path) -> None:
            self._container = genuine(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def seek(self, *_arguments: Any, **_options: Any) -> None:
            raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(reading, "open_source", Unsearchable)
    reader = read_frames(info, start=60)
    assert shown(reader) == whole[60:]
    assert reader.notes == ["frame 60 was reached by decoding from the start: seeking does not work"]


def test_a_search_that_ends_too_late_is_noticed(small: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    info = probe(small("a.mp4", options=OPEN))
    whole = shown(read_frames(info))
    genuine = reading.open_source

    class Overshooting:
        def __init__(self, path: Path) -> None:
            self._container = genuine(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def seek(self, _stamp: int, **options: Any) -> None:
            self._container.seek(whole[80][1], **options)

    monkeypatch.setattr(reading, "open_source", Overshooting)
    reader = read_frames(info, start=60)
    assert shown(reader) == whole[60:]
    assert any("seeking does not work" in note for note in reader.notes)


def test_damaged_pictures_do_not_shift_the_count(small: Clip) -> None:
    """Packets tell of 90 frames, a decoder of 89: the stamp of an earlier reading decides."""
    path = small("pictures.mov", **PICTURES)
    damage(path, range(10, 11))
    info = probe(path)
    whole = shown(read_frames(info))
    assert len(whole) == 89
    reader = read_frames(info, start=50, previous_pts=whole[49][1])
    assert shown(reader) == whole[50:]
    assert any("other numbers" in note for note in reader.notes)
    # Before the damage nothing speaks against seeking.
    reader = read_frames(info, start=8, previous_pts=whole[7][1])
    assert shown(reader) == whole[8:]
    assert not any("from the start" in note for note in reader.notes)


def test_a_damaged_picture_on_the_way_is_noticed(small: Clip) -> None:
    path = small("pictures.mov", **PICTURES)
    damage(path, range(49, 50))
    info = probe(path)
    whole = shown(read_frames(info))
    reader = read_frames(info, start=50)
    assert shown(reader) == whole[50:]
    assert any("frames are missing after a seek" in note for note in reader.notes)


@pytest.mark.parametrize("start", [1, 40])
def test_a_file_cut_off_is_the_same_error(small: Clip, start: int) -> None:
    path = small("a.mp4", options=x264(12, 2), container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    info = probe(path)
    messages = []
    for begin in (0, start):
        with read_frames(info, start=begin) as reader, pytest.raises(MediaError, match="only") as caught:
            list(reader)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_another_file_under_the_name_is_refused(small: Clip) -> None:
    info = probe(small("a.mp4", options=OPEN))
    with read_frames(info, start=20, previous_pts=5) as reader, pytest.raises(MediaError, match="not at 5"):
        next(reader)
    with read_frames(info, start=200) as reader, pytest.raises(MediaError, match="has 90 frames"):
        next(reader)
    with pytest.raises(UsageError, match="frame -1"):
        read_frames(info, start=-1)


def test_stamps_that_contradict_their_order() -> None:
    """Places of the key frames: 0 and 4."""
    keys = np.array([0, 4])
    for stamps, doubt in (
        ([0, 3, 1, 2, 4, 6, 5], ""),
        ([0, 3, 1, 5, 4, 6, 7], "time stamps go back"),
        ([0, 3, 1, 1, 4, 6, 5], "several frames have one time stamp"),
        ([*range(100, 120), 0], "time stamps are out of order"),
    ):
        coded = np.array(stamps)
        numbers = np.argsort(np.argsort(coded, kind="stable"))
        places = keys if stamps[0] == 0 else keys[:1]
        assert indexing._contradiction(coded, numbers, places) == doubt


def test_the_index_is_eight_bytes_a_frame(small: Clip) -> None:
    index = index_frames(probe(small("a.mp4", frames=200, options=x264(50))))
    assert index.stamps.nbytes == 200 * 8
    assert [key.number for key in index.keys_before(120)] == [100, 50]
    assert index.key_at(int(index.stamps[50])) == index.keys_before(51)[0]
    assert index.key_at(int(index.stamps[51])) is None


# --- writing segments ------------------------------------------------------------------------------------


def write_segments(
    info: VideoInfo,
    folder: Path,
    choice: EncoderChoice,
    *,
    length: int,
    start: int = 0,
    stop: int | None = None,
) -> list[Segment]:
    """Segments from frame ``start`` on, as one run of the pipeline makes them."""
    segments: list[Segment] = []
    with (
        read_frames(info, start=start) as reader,
        SegmentedWriter(
            folder, info, choice=choice, length=length, start=start, on_segment=segments.append
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration)
            if frame.index + 1 == stop:
                break
    return segments


def write_whole(info: VideoInfo, target: Path, choice: EncoderChoice) -> VideoInfo:
    with read_frames(info) as reader, VideoWriter(target, info, choice=choice) as writer:
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    return probe(target)


def test_a_segment_is_described_for_the_journal(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4", options=OPEN))
    whole = shown(read_frames(info))
    segments = write_segments(info, tmp_path / "work", LOSSLESS, length=40)
    assert [(one.number, one.start, one.stop, one.frames) for one in segments] == [
        (0, 0, 40, 40),
        (1, 40, 80, 40),
        (2, 80, 90, 10),
    ]
    for one in segments:
        frames = whole[one.start : one.stop]
        assert (one.first_pts, one.last_pts) == (frames[0][1], frames[-1][1])
        assert one.end_pts == frames[-1][1] + frames[-1][3]
        data = one.path.read_bytes()
        assert (one.bytes, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert [frame[4] for frame in shown(read_frames(probe(one.path)))] == [frame[4] for frame in frames]
        assert Segment(**asdict(one)) == one
        check_segment(one)
    names = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert names == ["000000.nut", "000001.nut", "000002.nut"]


@pytest.mark.parametrize("choice", [LOSSLESS, LOSSY])
def test_a_repeated_segment_is_the_same_file(small: Clip, tmp_path: Path, choice: EncoderChoice) -> None:
    info = probe(small("a.mp4", options=OPEN, size=WHOLE_ROWS))
    once = write_segments(info, tmp_path / "once", choice, length=20)
    again = write_segments(info, tmp_path / "again", choice, length=20, start=40, stop=60)
    assert [one.sha256 for one in again] == [once[2].sha256]


def test_a_segment_is_on_disk_before_it_has_its_name(
    small: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    genuine = os.fsync

    def watched(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, (tmp_path / "work" / "000000.nut").exists()))
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_segments(probe(small("a.mp4", frames=5)), tmp_path / "work", LOSSLESS, length=9)
    assert synced == [(".000000.part.nut", False), ("work", True)]


def test_what_a_killed_run_left_is_written_over(small: Clip, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".000000.part.nut").write_bytes(b"half a segment" * 9999)
    (segment,) = write_segments(probe(small("a.mp4", frames=5)), tmp_path / "work", LOSSLESS, length=9)
    assert list((tmp_path / "work").iterdir()) == [segment.path]
    check_segment(segment)


def test_an_interrupted_segment_leaves_the_finished_ones(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4", options=OPEN))
    segments: list[Segment] = []
    with pytest.raises(ZeroDivisionError):
        break_off(info, tmp_path / "work", segments)
    assert [one.stop for one in segments] == [20, 40]
    assert sorted(one.name for one in (tmp_path / "work").iterdir()) == ["000000.nut", "000001.nut"]


def break_off(info: VideoInfo, folder: Path, segments: list[Segment]) -> None:
    writer = SegmentedWriter(folder, info, choice=LOSSY, length=20, on_segment=segments.append)
    with read_frames(info) as reader, writer:
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration // min(1, 50 - frame.index))


def test_an_empty_segment_is_refused(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4", frames=5))
    writer = SegmentWriter(tmp_path / "work", 0, info, choice=LOSSLESS, start=0)
    with pytest.raises(UsageError, match="not finished"):
        _ = writer.segment
    with pytest.raises(UsageError, match="at least one frame"):
        writer.close()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("length", [5, 1])
def test_stamps_that_fall_are_refused_within_and_between_segments(
    small: Clip, tmp_path: Path, length: int
) -> None:
    info = probe(small("a.mp4", frames=5))
    with read_frames(info) as reader:
        frame = next(reader)
    segments: list[Segment] = []
    writer = SegmentedWriter(
        tmp_path / "work", info, choice=LOSSLESS, length=length, on_segment=segments.append
    )
    writer.write(frame.video, pts=10, duration=1)
    with pytest.raises(OutputError, match="later than the one before"):
        writer.write(frame.video, pts=10, duration=1)
    assert {one.path for one in segments} == set((tmp_path / "work").iterdir())
    assert len(segments) == (length == 1)


@pytest.mark.parametrize(("length", "start"), [(0, 0), (10, 5), (10, -10)])
def test_segments_begin_at_multiples_of_their_length(
    small: Clip, tmp_path: Path, length: int, start: int
) -> None:
    info = probe(small("a.mp4", frames=5))
    with pytest.raises(UsageError, match="cannot start"):
        SegmentedWriter(
            tmp_path, info, choice=LOSSLESS, length=length, start=start, on_segment=lambda _segment: None
        )


def test_an_encoder_that_does_not_open_leaves_nothing(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4", frames=5))
    choice = EncoderChoice("libx264", "yuv420p", {"preset": "no such preset"})
    with pytest.raises(EncoderError, match="does not open"):
        SegmentWriter(tmp_path / "work", 0, info, choice=choice, start=0)
    assert list((tmp_path / "work").iterdir()) == []


def test_an_unwritable_folder_is_named(small: Clip) -> None:
    info = probe(small("a.mp4", frames=5))
    with pytest.raises(OutputError, match="/proc/work") as caught:
        SegmentWriter(Path("/proc/work"), 0, info, choice=LOSSLESS, start=0)
    assert "cannot be written" in str(caught.value)


# --- joining ---------------------------------------------------------------------------------------------


def random_stream(seed: int) -> tuple[str, Spec, int]:
    """File name, contents and hidden frames of a stream with a structure of its own."""
    chance = random.Random(seed)
    gop = chance.choice((1, 2, chance.randint(3, 20), chance.randint(21, 80), chance.randint(81, 300)))
    bframes = chance.randint(0, 8) if gop > 1 else 0
    frames = chance.randint(60, 200)
    suffix = chance.choice((".mp4", ".mov", ".mkv", ".ts"))
    edited = suffix == ".mp4" and chance.random() < 0.5
    uneven = not edited and suffix != ".ts" and chance.random() < 0.5
    spec = Spec(
        frames=frames,
        size=SIZE,
        options=x264(
            gop,
            bframes,
            pyramid=chance.choice(("none", "strict", "normal")) if bframes > 1 else "none",
            open_gop=bframes > 0 and chance.random() < 0.5,
        ),
        pts=variable_pts(frames, step=2 * chance.randint(5, 40)) if uneven else None,
        time_base=Fraction(1, 1000) if uneven else None,
        rate=Fraction(25) if edited or uneven else chance.choice((Fraction(25), Fraction(30000, 1001))),
        sounds=(Sound("mp2" if suffix == ".ts" else "aac"),),
    )
    return f"{seed}{suffix}", spec, chance.randint(1, 20) if edited else 0


@pytest.mark.parametrize("seed", range(48))
def test_the_segmented_result_is_the_unsegmented_one(tmp_path: Path, seed: int) -> None:
    """Random structure, random cut, a run broken off at a random segment and taken up again."""
    name, spec, hidden = random_stream(seed)
    path = make(tmp_path / name, spec)
    if hidden:
        start_edit_at(path, hidden)
    info = probe(path)
    source = shown(read_frames(info))
    assert len(source) == spec.frames - hidden
    chance = random.Random(seed)
    suffix = chance.choice((".mp4", ".mov", ".mkv"))
    length = chance.randint(5, len(source) + 5)
    stop = length * chance.randint(0, len(source) // length)
    for choice in (LOSSLESS, LOSSY):
        whole = write_whole(info, tmp_path / f"whole{suffix}", choice)
        segments = write_segments(info, tmp_path / "work", choice, length=length, stop=stop) if stop else []
        segments += write_segments(info, tmp_path / "work", choice, length=length, start=stop)
        pieces = [frame[4] for one in segments for frame in shown(read_frames(probe(one.path)))]
        joined = join_segments(segments, info, tmp_path / f"joined{suffix}", choice=choice)
        result = probe(tmp_path / f"joined{suffix}")
        assert sorted((tmp_path / "work").iterdir()) == [one.path for one in segments]
        found, wanted = shown(read_frames(result)), shown(read_frames(whole))
        assert [frame[:3] for frame in found] == [frame[:3] for frame in wanted]
        if suffix != ".mkv":
            times = [(frame[1] * frame[2], frame[3] * frame[2]) for frame in source]
            assert [(frame[1] * frame[2], frame[3] * frame[2]) for frame in found] == times
        assert [frame[4] for frame in found] == pieces
        if choice is LOSSLESS:
            assert pieces == [frame[4] for frame in source]
        assert packets_of(result.path) == packets_of(whole.path)
        # Where frame durations vary, an encoder's decoding times need not add up to the length.
        uneven = len({frame[3] for frame in source}) > 1
        assert differences(result, whole) - ({"duration", "average_rate"} if uneven else set()) == set()
        assert joined.summary.frames == len(source)


def differences(one: VideoInfo, other: VideoInfo) -> set[str]:
    names = {field.name for field in fields(VideoInfo)} - {"path", "size_bytes"}
    return {name for name in names if getattr(one, name) != getattr(other, name)}


MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
X265 = EncoderChoice(
    "libx265",
    "yuv420p10le",
    {"preset": "ultrafast", "x265-params": f"log-level=none:master-display={MASTERING}:max-cll=1000,400"},
)
ARIB = {"matrix": 9, "range": 1, "primaries": 9, "transfer": 16, "pix_fmt": "yuv420p10le"}
LINES = ((0, 300, "one"), (1200, 300, "two"))
KEPT: dict[str, tuple[str, dict[str, Any], EncoderChoice]] = {
    "turned": ("a.mp4", {"rotation": 90, "sar": Fraction(4, 3), "matrix": 6, "range": 2}, LOSSY),
    "HDR10 in HEVC": ("a.mp4", ARIB, X265),
    "HDR10 in HEVC in Matroska": ("a.mkv", ARIB, X265),
    "sounds and text": (
        "a.mp4",
        {"sounds": (Sound(language="eng"), Sound("mp3", "deu")), "subtitles": (Subtitle(lines=LINES),)},
        LOSSY,
    ),
    "sounds and text in Matroska": (
        "a.mkv",
        {
            "sounds": (Sound("flac"), Sound("libopus"), Sound("pcm_s16le")),
            "subtitles": (Subtitle("srt", lines=LINES),),
            "attachments": (("font.ttf", "font/ttf", b"0123"),),
        },
        LOSSY,
    ),
    "PCM in QuickTime": ("a.mov", {"sounds": (Sound("pcm_s24le"),)}, LOSSY),
    "late sound": ("a.mp4", {"sounds": (Sound(start=Fraction(1001, 48000)),)}, LOSSY),
    "chapters and tags": (
        "a.mp4",
        {"chapters": ((0, 500, "first"), (500, 1000, "second")), "metadata": {"title": "T", "own": "x"}},
        LOSSY,
    ),
    "timecode": ("a.mov", {"metadata": {"timecode": "01:02:03:04"}}, LOSSY),
    "late start": (
        "a.mp4",
        {"time_base": Fraction(1, 90000), "pts": [n * 3600 + 12345 for n in range(60)]},
        LOSSY,
    ),
    "interlaced": ("a.mp4", {"options": {"preset": "ultrafast", "flags": "+ilme+ildct"}}, LOSSY),
    "FFV1": ("a.mkv", {"rate": Fraction(24)}, EncoderChoice("ffv1", "yuv420p", {"slices": "4"})),
}


@pytest.mark.parametrize("case", KEPT)
def test_everything_else_is_kept_as_without_segments(small: Clip, tmp_path: Path, case: str) -> None:
    name, settings, choice = KEPT[case]
    info = probe(small(name, **({"frames": 60} | settings)))
    whole = write_whole(info, tmp_path / f"whole{info.path.suffix}", choice)
    segments = write_segments(info, tmp_path / "work", choice, length=25)
    joined = join_segments(segments, info, tmp_path / f"joined{info.path.suffix}", choice=choice)
    result = probe(tmp_path / f"joined{info.path.suffix}")
    assert differences(result, whole) == set()
    assert not any("left out" in note for note in joined.notes)
    for kind, beside in (("audio", info.audio), ("subtitle", info.subtitles)):
        for which in range(len(beside)):
            assert packets_of(result.path, kind, which) == packets_of(whole.path, kind, which)
    assert headers(result.path) == headers(whole.path)


def headers(path: Path) -> Any:
    """What a file says of its streams and chapters."""
    with av.open(str(path)) as container:
        streams = [
            (one.type, one.disposition, one.time_base, one.metadata, getattr(one, "average_rate", None))
            for one in container.streams
        ]
        tags = [getattr(one.codec_context, "codec_tag", None) for one in container.streams]
        extradata = [getattr(one.codec_context, "extradata", None) for one in container.streams]
        return streams, tags, extradata, container.chapters(), dict(container.metadata)


PAUSE = [n * 3600 + (n >= 25) * 90_000 * 7200 for n in range(60)]


@pytest.mark.parametrize("length", [1, 2, 20, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_shortest_segments_and_longest_pauses(small: Clip, tmp_path: Path, length: int, suffix: str) -> None:
    """Two hours without a new picture, cut inside the pause, at its border and into single frames."""
    info = probe(small("a.mp4", frames=60, options=OPEN, time_base=Fraction(1, 90000), pts=PAUSE))
    source = shown(read_frames(info))
    segments = write_segments(info, tmp_path / "work", LOSSLESS, length=length)
    join_segments(segments, info, tmp_path / f"x{suffix}", choice=LOSSLESS)
    found = shown(read_frames(probe(tmp_path / f"x{suffix}")))
    assert [(frame[1] * frame[2], frame[4]) for frame in found] == [
        (frame[1] * frame[2], frame[4]) for frame in source
    ]


@pytest.mark.parametrize("steps", [(360, 36000), (36000, 360)])
def test_the_last_picture_lasts_as_long_as_it_did(
    small: Clip, tmp_path: Path, steps: tuple[int, int]
) -> None:
    """Slow after fast and fast after slow: coded and shown times drift apart most."""
    stamps = [n * steps[0] for n in range(30)] + [29 * steps[0] + n * steps[1] for n in range(1, 31)]
    info = probe(small("a.mp4", frames=60, options=OPEN, time_base=Fraction(1, 90000), pts=stamps))
    choice = EncoderChoice("libx264", "yuv420p", x264(250, 3))
    segments = write_segments(info, tmp_path / "work", choice, length=25)
    join_segments(segments, info, tmp_path / "x.mp4", choice=choice)
    found = shown(read_frames(result := probe(tmp_path / "x.mp4")))
    source = shown(read_frames(info))
    assert [frame[3] * frame[2] for frame in found] == [frame[3] * frame[2] for frame in source]
    assert result.duration == (segments[-1].end_pts - segments[0].first_pts) * info.time_base


def test_sound_can_be_left_out_and_tags_added(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4", sounds=(Sound(),)))
    segments = write_segments(info, tmp_path / "work", LOSSY, length=50)
    join_segments(
        segments,
        info,
        tmp_path / "x.mp4",
        choice=LOSSY,
        kinds=EVERYTHING - {"audio"},
        metadata={"comment": "made"},
    )
    result = probe(tmp_path / "x.mp4")
    assert (result.audio, result.metadata["comment"]) == ((), "made")


def test_frames_in_another_time_base(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4"))
    segments: list[Segment] = []
    base = Fraction(1, 30)
    with (
        read_frames(info) as reader,
        SegmentedWriter(
            tmp_path / "work", info, choice=LOSSY, length=40, time_base=base, on_segment=segments.append
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame.video, pts=frame.index, duration=1)
    with pytest.raises(MediaError, match="does not hold the frames"):
        join_segments(segments, info, tmp_path / "x.mp4", choice=LOSSY)
    join_segments(segments, info, tmp_path / "x.mp4", choice=LOSSY, time_base=base)
    times = [frame[1] * frame[2] for frame in shown(read_frames(probe(tmp_path / "x.mp4")))]
    assert times == [number * base for number in range(90)]


# --- what joining refuses --------------------------------------------------------------------------------


@pytest.fixture
def parts(small: Clip, tmp_path: Path) -> tuple[VideoInfo, list[Segment]]:
    info = probe(small("a.mp4", options=OPEN, sounds=(Sound(),), size=WHOLE_ROWS))
    return info, write_segments(info, tmp_path / "work", LOSSY, length=30)


Parts = tuple[VideoInfo, list[Segment]]


def assert_refused(parts: Parts, tmp_path: Path, kind: type[Exception], words: str) -> None:
    info, segments = parts
    (tmp_path / "out").mkdir(exist_ok=True)
    before = sorted((tmp_path / "work").iterdir())
    with pytest.raises(kind, match=words or None):
        join_segments(segments, info, tmp_path / "out" / "x.mp4", choice=LOSSY)
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted((tmp_path / "work").iterdir()) == before


def test_a_missing_segment_is_named(parts: Parts, tmp_path: Path) -> None:
    parts[1][1].path.unlink()
    assert_refused(parts, tmp_path, MissingFileError, r"segment 1 \(frames 30 to 59\) is missing")


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:999] + b"x" + data[1000:]])
def test_a_damaged_segment_is_named(parts: Parts, tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = parts[1][2].path
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(MediaError, match=r"segment 2 .*has changed"):
        check_segment(parts[1][2])
    assert_refused(parts, tmp_path, MediaError, "segment 2 .*has changed")


def wrong_orders(all_: list[Segment]) -> Iterator[tuple[list[Segment], str]]:
    yield [], "no segment"
    yield all_[1:], "not segment 0"
    yield [all_[0], all_[2]], r"segment 2 .* does not follow segment 0"
    yield [all_[0], all_[2], all_[1]], "does not follow"
    yield [all_[0], all_[1], replace(all_[2], first_pts=all_[1].last_pts)], "does not follow"


@pytest.mark.parametrize("which", range(5))
def test_segments_that_do_not_follow_one_another(parts: Parts, tmp_path: Path, which: int) -> None:
    segments, words = list(wrong_orders(parts[1]))[which]
    assert_refused((parts[0], segments), tmp_path, UsageError, words)


@pytest.mark.parametrize("field", ["frames", "last_pts"])
def test_a_record_that_does_not_fit_its_file(parts: Parts, tmp_path: Path, field: str) -> None:
    info, segments = parts
    last = replace(segments[2], **{field: getattr(segments[2], field) - 1})
    assert_refused((info, [*segments[:2], last]), tmp_path, MediaError, "does not hold the frames")


@pytest.mark.parametrize(
    "other",
    [
        EncoderChoice("libx264", "yuv444p", LOSSY.options),
        EncoderChoice("libx264", "yuv420p", {**LOSSY.options, "refs": "5"}),
        EncoderChoice("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    ],
)
def test_a_segment_of_another_encoder_is_named(parts: Parts, tmp_path: Path, other: EncoderChoice) -> None:
    info, segments = parts
    (again,) = write_segments(info, tmp_path / "work", other, length=30, start=30, stop=60)
    assert_refused(
        (info, [segments[0], again, segments[2]]), tmp_path, MediaError, "segment 1 .*another encoder"
    )


def test_remarks_of_the_encoder_do_not_matter(small: Clip, tmp_path: Path) -> None:
    """x265 writes down how many threads it had: another machine may go on where one broke off."""
    info = probe(small("a.mp4", frames=40))
    segments = []
    for pools, start in (("1", 0), ("2", 20)):
        params = f"log-level=none:pools={pools}:frame-threads={pools}"
        choice = EncoderChoice("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": params})
        segments += write_segments(info, tmp_path / "work", choice, length=20, start=start, stop=start + 20)
    with av.open(str(segments[0].path)) as one, av.open(str(segments[1].path)) as other:
        assert one.streams.video[0].codec_context.extradata != other.streams.video[0].codec_context.extradata
    join_segments(segments, info, tmp_path / "x.mp4", choice=choice)
    assert len(shown(read_frames(probe(tmp_path / "x.mp4")))) == 40


def test_a_gif_is_not_made_of_segments(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GIF"):
        join_segments(parts[1], parts[0], tmp_path / "x.gif", choice=LOSSY)


def test_an_impossible_container_is_refused(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mkv", frames=10, subtitles=(Subtitle("srt"),)))
    segments = write_segments(info, tmp_path / "work", LOSSY, length=30)
    with pytest.raises(OutputError, match="subtitle stream 1"):
        join_segments(segments, info, tmp_path / "out" / "x.mp4", choice=LOSSY)
    assert segments[0].path.exists()


# Faults between the muxer and the disk, each found when the joined file is read again.
Put = Callable[..., None]


def lose_a_picture(file: ResultFile, packets: Any, until: Fraction, put: Put, count: int) -> None:
    put(file, () if count == 40 else packets, until=until)


def move_a_picture(file: ResultFile, packets: Any, until: Fraction, put: Put, count: int) -> None:
    for packet in packets:
        if count == 40:
            packet.pts += 1
    put(file, packets, until=until)


def move_all(file: ResultFile, packets: Any, until: Fraction, put: Put, _count: int) -> None:
    for packet in packets:
        packet.pts, packet.dts = packet.pts + 512, packet.dts + 512
    put(file, packets, until=until)


def end_early(file: ResultFile, packets: Any, until: Fraction, put: Put, count: int) -> None:
    for packet in packets:
        packet.duration = 1 if count == 90 else packet.duration
    put(file, packets, until=until)


def count_a_sound_too_many(file: ResultFile, packets: Any, until: Fraction, put: Put, count: int) -> None:
    file.copier.copied[1].packets += count == 40
    put(file, packets, until=until)


FAULTS: dict[Any, str] = {
    lose_a_picture: "89 frames, not 90",
    move_a_picture: "other time stamps",
    move_all: "other time stamps",
    end_early: "it lasts",
    count_a_sound_too_many: "packets of sound",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_result_is_found_before_it_gets_its_name(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    genuine = ResultFile.put
    count = 0

    def put(self: ResultFile, packets: Any, *, until: Fraction) -> None:
        nonlocal count
        count += 1
        fault(self, packets, until, genuine, count)

    monkeypatch.setattr(ResultFile, "put", put)
    assert_refused(parts, tmp_path, OutputError, f"not what was joined: .*{FAULTS[fault]}")


def test_a_stop_while_joining_leaves_the_segments(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_self: ResultFile, _packets: Any, *, until: Fraction) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ResultFile, "put", stop)
    assert_refused(parts, tmp_path, KeyboardInterrupt, "")


FULL_DISK = """
    import pickle, resource, signal, sys
    from pathlib import Path
    from colab_helpers.errors import OutputError
    from colab_helpers.media.reader import read_frames
    from colab_helpers.media.segments import SegmentedWriter, join_segments

    info, segments, choice, folder, limit = pickle.load(sys.stdin.buffer)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        if segments:
            join_segments(segments, info, folder / "x.mp4", choice=choice)
        else:
            writer = SegmentedWriter(folder, info, choice=choice, length=30, on_segment=print)
            with read_frames(info) as reader, writer:
                for frame in reader:
                    writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    except OutputError as error:
        print(error)
        sys.exit(7)
"""


@pytest.mark.parametrize("share", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("joining", [True, False])
def test_a_full_disk_leaves_nothing_half_made(
    parts: Parts, tmp_path: Path, joining: bool, share: float
) -> None:
    """A limit on the file's size fails the same writes, at the header, in the middle or at the end."""
    info, segments = parts
    folder = tmp_path / "full"
    folder.mkdir()
    size = sum(one.bytes for one in segments) if joining else min(one.bytes for one in segments)
    order = (info, segments if joining else [], LOSSY, folder, int(size * share))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK)],
        input=pickle.dumps(order),
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 7, done.stderr.decode()
    assert b"cannot be written" in done.stdout
    assert list(folder.iterdir()) == []
    assert all(one.path.exists() for one in segments)
