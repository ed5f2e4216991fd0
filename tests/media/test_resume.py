"""Reading from the middle gives the same frames as reading from the start."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from colab_helpers.errors import MediaError
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import FrameReader, read_frames
from tests.media.conftest import Clip
from tests.media.damaged_files import PICTURES, cut_out, damage, joined, start_edit_at, without_first_group
from tests.media.make import variable_pts
from tests.media.roundtrip import OPEN, FrameData, frame_data, x264


def resume(info: VideoInfo, whole: list[FrameData], start: int) -> list[str]:
    """Read from a frame, compare with the whole, and return the notes."""
    reader = read_frames(info, start=start, previous_pts=whole[start - 1][1])
    assert frame_data(reader) == whole[start:]
    return reader.notes


OPEN_HEVC = "log-level=none:keyint=20:min-keyint=1:bframes=3:open-gop=1:scenecut=0"
UNEVEN = {"options": OPEN, "pts": variable_pts(90), "time_base": Fraction(1, 1000)}
LATE = {"options": OPEN, "pts": [777 + 600 * n for n in range(90)], "time_base": Fraction(1, 15000)}
VP9 = {"deadline": "good", "cpu-used": "8", "g": "24", "auto-alt-ref": "1"}
HEVC = {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": OPEN_HEVC}}
RESUMABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "only key frames": ("a.mp4", {"options": x264(1)}),
    "closed groups": ("a.mp4", {"options": x264(12, 3, pyramid="normal")}),
    "open groups": ("a.mp4", {"options": OPEN}),
    "open groups in Matroska": ("a.mkv", {"options": OPEN}),
    "open groups in a transport stream": ("a.ts", {"options": OPEN}),
    "open groups in Flash": ("a.flv", {"options": OPEN}),
    "deep pyramid": ("a.mp4", {"options": x264(25, 8, pyramid="strict", open_gop=True)}),
    "one group": ("a.mp4", {"options": x264(300, 2)}),
    "fragments": ("a.mp4", {"options": OPEN, "container": {"movflags": "frag_keyframe+empty_moov"}}),
    "refreshed bit by bit": ("a.mp4", {"options": x264(12, more=":intra-refresh=1")}),
    "variable rate": ("a.mp4", UNEVEN),
    "variable rate in Matroska": ("a.mkv", UNEVEN),
    "late start": ("a.mp4", LATE),
    "HEVC with open groups": ("a.mp4", HEVC),
    "MPEG-2": ("a.ts", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "MPEG-4": ("a.avi", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    "VP8": ("a.webm", {"codec": "libvpx", "options": {"cpu-used": "8", "g": "24"}}),
    "VP9 with hidden pictures": ("a.webm", {"codec": "libvpx-vp9", "options": VP9}),
    "ProRes": ("a.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "options": {}}),
    "converted": ("a.mov", PICTURES),
}


@pytest.mark.parametrize("case", RESUMABLE)
def test_reading_from_the_middle_matches_reading_from_the_start(small: Clip, case: str) -> None:
    name, settings = RESUMABLE[case]
    info = probe(small(name, **settings))
    whole = frame_data(first := read_frames(info))
    assert len(whole) == 90
    for start in (1, 11, 12, 13, 47, 89, 90):
        assert resume(info, whole, start) == first.notes


ALTERED: dict[str, tuple[str, Callable[[Path], Path | None], int]] = {
    "hidden start, one group": ("a.mp4", lambda path: start_edit_at(path, 10), 80),
    "hidden middle": ("a.mp4", lambda path: cut_out(path, 20, 40), 70),
    "hidden middle, off the groups": ("a.mp4", lambda path: cut_out(path, 25, 71), 44),
    "begins inside a group": ("a.ts", without_first_group, 0),
    "begins inside a group, Matroska": ("a.mkv", without_first_group, 0),
    "begins inside a group, MP4": ("a.mp4", without_first_group, 0),
    "time starts again": ("a.ts", lambda path: joined(path, path), 180),
}


@pytest.mark.parametrize("case", ALTERED)
def test_hidden_and_missing_frames_are_not_counted(small: Clip, case: str) -> None:
    name, alter, frames = ALTERED[case]
    path = small(name, options=OPEN if "begins" in case else x264(12, 2 if "start" in case else 0))
    info = probe(alter(path) or path)
    whole = frame_data(read_frames(info))
    assert len(whole) == (frames or len(whole))
    for start in (1, 5, 20, 21, 26, len(whole) // 2 + 3, len(whole) - 1):
        notes = resume(info, whole, start)
        assert not any("from the start" in note for note in notes)


def test_resuming_decodes_few_frames_again(small: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = 0
    original = FrameReader._decode

    def counted(self: FrameReader, packet: Any) -> list[av.VideoFrame]:
        nonlocal decoded
        pictures = original(self, packet)
        decoded += len(pictures)
        return pictures

    info = probe(small("a.mp4", frames=250, options=x264(10, 2)))
    whole = frame_data(read_frames(info))
    monkeypatch.setattr(FrameReader, "_decode", counted)
    assert resume(info, whole, 240) == []
    assert decoded <= 30


# Files that cannot be resumed reliably, and the reason.
NOT_RESUMABLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "two frames at a time": ("a.mkv", {"options": OPEN, "rate": Fraction(2000)}, "one to one"),
    "no times": ("a.h264", {"options": OPEN}, "no presentation times"),
    "H.264 in AVI": ("a.avi", {"options": OPEN}, "no presentation times"),
    "GIF": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8", "options": {}}, "gif"),
}


@pytest.mark.parametrize("case", NOT_RESUMABLE)
def test_unresumable_file_is_decoded_from_the_start(small: Clip, case: str) -> None:
    name, settings, why = NOT_RESUMABLE[case]
    info = probe(small(name, **settings))
    whole = frame_data(read_frames(info))
    assert len(whole) == 90
    for start in (30, 47, 89):
        (note,) = (note for note in resume(info, whole, start) if "from the start" in note)
        assert f"frame {start} " in note
        assert why in note


def test_damaged_frames_do_not_shift_the_frame_count(small: Clip) -> None:
    """90 packets give 89 frames: the earlier timestamp decides."""
    path = small("pictures.mov", **PICTURES)
    damage(path, range(10, 11))
    info = probe(path)
    whole = frame_data(read_frames(info))
    assert len(whole) == 89
    assert any("one to one" in note for note in resume(info, whole, 50))
    # Before the damage, resuming is possible.
    assert not any("from the start" in note for note in resume(info, whole, 8))


def test_truncated_file_gives_the_same_error_when_resumed(small: Clip) -> None:
    path = small("a.mp4", options=x264(12, 2), container={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    info = probe(path)
    messages = set()
    for start in (0, 1, 40):
        reader = read_frames(info, start=start, previous_pts=512 * (start - 1) if start else None)
        with reader, pytest.raises(MediaError, match="only") as caught:
            list(reader)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_resuming_in_a_different_file_is_refused(small: Clip) -> None:
    info = probe(small("a.mp4", options=OPEN))
    with read_frames(info, start=20, previous_pts=5) as reader, pytest.raises(MediaError, match="not at 5"):
        next(reader)
    with read_frames(info, start=200) as reader, pytest.raises(MediaError, match="has 90 frames"):
        next(reader)
