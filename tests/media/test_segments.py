"""Writing segments and joining them, whatever the stream's structure."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.errors import EncoderError, MediaError, OutputError
from colab_helpers.media.encoders import EncoderChoice, choose_encoder
from colab_helpers.media.join import join_segments
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from colab_helpers.media.segments import Segment, check_segment
from tests.media.conftest import Clip
from tests.media.damaged_files import start_edit_at
from tests.media.make import Sound, Spec, make, packets_of, variable_pts
from tests.media.roundtrip import LOSSLESS, LOSSY, OPEN, WHOLE_ROWS, cut, frame_data, x264

# --- writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True])
def test_segment_records_match_the_written_files(small: Clip, tmp_path: Path, killed: bool) -> None:
    if killed:  # the partial file of a killed run is overwritten
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / ".000000.part.nut").write_bytes(b"half a segment" * 9999)
    info = probe(small("a.mp4", options=OPEN))
    whole = frame_data(read_frames(info))
    segments = cut(info, tmp_path / "work", LOSSLESS, 40)
    assert [(one.number, one.start, one.stop) for one in segments] == [(0, 0, 40), (1, 40, 80), (2, 80, 90)]
    for one in segments:
        frames = whole[one.start : one.stop]
        assert (one.first_pts, one.last_pts) == (frames[0][1], frames[-1][1])
        assert one.end_pts == frames[-1][1] + frames[-1][3]
        data = one.path.read_bytes()
        assert (one.bytes, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        found = frame_data(read_frames(probe(one.path)))
        assert [frame[4] for frame in found] == [frame[4] for frame in frames]
        assert Segment(**asdict(one)) == one
        check_segment(one)
    names = sorted(path.name for path in (tmp_path / "work").iterdir())
    assert names == ["000000.nut", "000001.nut", "000002.nut"]


@pytest.mark.parametrize("choice", [LOSSLESS, LOSSY])
def test_repeated_segment_is_the_same_file(small: Clip, tmp_path: Path, choice: EncoderChoice) -> None:
    info = probe(small("a.mp4", options=OPEN, size=WHOLE_ROWS))
    once = cut(info, tmp_path / "once", choice, 20)
    again = cut(info, tmp_path / "again", choice, 20, after=once[1], stop=60)
    assert [one.sha256 for one in again] == [once[2].sha256]


def test_segment_is_synced_before_it_is_renamed(
    small: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    original = os.fsync

    def watched(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        synced.append((name, (tmp_path / "work" / "000000.nut").exists()))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    cut(probe(small("a.mp4", frames=5)), tmp_path / "work", LOSSLESS, 9)
    assert synced == [(".000000.part.nut", False), ("work", True)]


def test_error_leaves_only_finished_segments(small: Clip, tmp_path: Path) -> None:
    def change(frame: Any) -> dict[str, int]:
        return {"pts": frame.pts, "duration": frame.duration // (frame.index != 50)}

    info = probe(small("a.mp4", options=OPEN))
    with pytest.raises(ZeroDivisionError):
        cut(info, tmp_path / "work", LOSSY, 20, change=change)
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["000000.nut", "000001.nut"]


def test_unusable_encoder_and_folder_are_named(small: Clip, tmp_path: Path) -> None:
    info = probe(small("a.mp4", frames=5))
    choice = EncoderChoice("libx264", "yuv420p", {"preset": "no such preset"})
    with pytest.raises(EncoderError, match="cannot be opened"):
        cut(info, tmp_path / "work", choice, 9)
    assert list((tmp_path / "work").iterdir()) == []
    with pytest.raises(OutputError, match=r"/proc/work.*cannot be written"):
        cut(info, Path("/proc/work"), LOSSLESS, 9)


# --- joining ---------------------------------------------------------------------------------------------


def random_stream(seed: int) -> tuple[str, Spec, int]:
    """File name, contents and hidden frames of a stream of random structure."""
    chance = random.Random(seed)
    gop = chance.choice((1, 2, chance.randint(3, 20), chance.randint(21, 80), chance.randint(81, 300)))
    bframes = chance.randint(0, 8) if gop > 1 else 0
    frames = chance.randint(60, 200)
    suffix = chance.choice((".mp4", ".mov", ".mkv", ".ts"))
    edited = suffix == ".mp4" and chance.random() < 0.5
    uneven = not edited and suffix != ".ts" and chance.random() < 0.5
    pyramid = chance.choice(("none", "strict", "normal")) if bframes > 1 else "none"
    spec = Spec(
        frames=frames,
        size=(64, 48),
        options=x264(gop, bframes, pyramid=pyramid, open_gop=bframes > 0 and chance.random() < 0.5),
        pts=variable_pts(frames, step=2 * chance.randint(5, 40)) if uneven else None,
        time_base=Fraction(1, 1000) if uneven else None,
        rate=Fraction(25) if edited or uneven else chance.choice((Fraction(25), Fraction(30000, 1001))),
        sounds=(Sound("mp2" if suffix == ".ts" else "aac"),),
    )
    return f"{seed}{suffix}", spec, chance.randint(1, 20) if edited else 0


SEEDS = (4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 18, 22, 23, 26, 27, 29)
"""They cover all pairs of containers, structures, constant and variable rates, long and short segments."""


@pytest.mark.parametrize("seed", SEEDS)
def test_many_segments_give_the_same_result_as_one(tmp_path: Path, seed: int) -> None:
    """Random structure, random segment length, resumed at a random segment."""
    name, spec, hidden = random_stream(seed)
    path = make(tmp_path / name, spec)
    if hidden:
        start_edit_at(path, hidden)
    info = probe(path)
    source = frame_data(read_frames(info))
    assert len(source) == spec.frames - hidden
    chance = random.Random(seed)
    suffix = chance.choice((".mp4", ".mov", ".mkv"))
    length = chance.randint(5, len(source) + 5)
    stop = length * chance.randint(0, len(source) // length)
    for choice in (LOSSLESS, LOSSY):
        one = cut(info, tmp_path / "one", choice, 10**6)
        join_segments(one, info, tmp_path / f"whole{suffix}", choice=choice)
        whole = probe(tmp_path / f"whole{suffix}")
        segments = cut(info, tmp_path / "work", choice, length, stop=stop) if stop else []
        segments += cut(info, tmp_path / "work", choice, length, after=segments[-1] if segments else None)
        pieces = [frame[4] for one in segments for frame in frame_data(read_frames(probe(one.path)))]
        joined = join_segments(segments, info, tmp_path / f"joined{suffix}", choice=choice)
        result = probe(tmp_path / f"joined{suffix}")
        assert sorted((tmp_path / "work").iterdir()) == [one.path for one in segments]
        found, expected = frame_data(read_frames(result)), frame_data(read_frames(whole))
        assert [frame[:3] for frame in found] == [frame[:3] for frame in expected]
        if suffix != ".mkv":
            times = [(frame[1] * frame[2], frame[3] * frame[2]) for frame in source]
            assert [(frame[1] * frame[2], frame[3] * frame[2]) for frame in found] == times
        assert [frame[4] for frame in found] == pieces
        if choice is LOSSLESS:
            assert pieces == [frame[4] for frame in source]
        assert packets_of(result.path) == packets_of(whole.path)
        # With variable frame durations, decoding times need not add up to the duration.
        uneven = len({frame[3] for frame in source}) > 1
        assert differences(result, whole) - ({"duration", "average_rate"} if uneven else set()) == set()
        assert joined.frames == len(source)


def differences(one: VideoInfo, other: VideoInfo) -> set[str]:
    names = {field.name for field in fields(VideoInfo)} - {"path"}
    return {name for name in names if getattr(one, name) != getattr(other, name)}


PAUSE = [n * 3600 + (n >= 25) * 90_000 * 7200 for n in range(60)]


@pytest.mark.parametrize("length", [1, 2, 20, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pause_is_kept_for_any_segment_length(small: Clip, tmp_path: Path, length: int, suffix: str) -> None:
    """Two hours without a new frame, cut inside the pause, at its border and into single frames."""
    info = probe(small("a.mp4", frames=60, options=OPEN, time_base=Fraction(1, 90000), pts=PAUSE))
    segments = cut(info, tmp_path / "work", LOSSLESS, length)
    join_segments(segments, info, tmp_path / f"x{suffix}", choice=LOSSLESS)
    found, source = frame_data(read_frames(probe(tmp_path / f"x{suffix}"))), frame_data(read_frames(info))
    assert [(one[1] * one[2], one[4]) for one in found] == [(one[1] * one[2], one[4]) for one in source]


@pytest.mark.parametrize("steps", [(360, 36000), (36000, 360)])
def test_frames_keep_their_durations_where_the_rate_jumps(
    small: Clip, tmp_path: Path, steps: tuple[int, int]
) -> None:
    """Decoding and presentation times differ most where the rate jumps."""
    ticks = [n * steps[0] for n in range(30)] + [29 * steps[0] + n * steps[1] for n in range(1, 31)]
    info = probe(small("a.mp4", frames=60, options=OPEN, time_base=Fraction(1, 90000), pts=ticks))
    choice = EncoderChoice("libx264", "yuv420p", x264(250, 3))
    segments = cut(info, tmp_path / "work", choice, 25)
    join_segments(segments, info, tmp_path / "x.mp4", choice=choice)
    found = frame_data(read_frames(result := probe(tmp_path / "x.mp4")))
    assert [one[3] * one[2] for one in found] == [one[3] * one[2] for one in frame_data(read_frames(info))]
    assert result.duration == (segments[-1].end_pts - segments[0].first_pts) * info.time_base


def test_join_needs_the_time_base_of_the_segments(small: Clip, tmp_path: Path) -> None:
    info, base = probe(small("a.mp4")), Fraction(1, 30)
    options = {"time_base": base, "change": lambda frame: {"pts": frame.index, "duration": 1}}
    segments = cut(info, tmp_path / "work", LOSSY, 40, **options)
    with pytest.raises(MediaError, match="does not hold the frames"):
        join_segments(segments, info, tmp_path / "x.mp4", choice=LOSSY)
    join_segments(segments, info, tmp_path / "x.mp4", choice=LOSSY, time_base=base)
    times = [frame[1] * frame[2] for frame in frame_data(read_frames(probe(tmp_path / "x.mp4")))]
    assert times == [number * base for number in range(90)]


def test_x265_segments_of_different_thread_counts_can_be_joined(small: Clip, tmp_path: Path) -> None:
    """By default x265 writes its thread count into the stream."""
    info = probe(small("a.mp4", frames=40))
    wanted = choose_encoder(info, wanted="libx265", quality=23, preset="ultrafast")
    segments: list[Segment] = []
    for pools in ("1", "2"):
        params = f"{wanted.options['x265-params']}:pools={pools}:frame-threads={pools}"
        choice = EncoderChoice("libx265", "yuv420p", {**wanted.options, "x265-params": params})
        after = segments[-1] if segments else None
        segments += cut(info, tmp_path / "work", choice, 20, after=after, stop=20 * int(pools))
    join_segments(segments, info, tmp_path / "x.mp4", choice=wanted)
    assert len(frame_data(read_frames(probe(tmp_path / "x.mp4")))) == 40
