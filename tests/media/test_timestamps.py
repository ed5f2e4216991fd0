from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet

from colab_helpers.files import unwritable_error
from colab_helpers.media.containers import output_suffix
from colab_helpers.media.join import join_segments
from colab_helpers.media.probe import probe
from colab_helpers.media.timestamps import MonotonicTimestamps
from tests.media.conftest import Clip
from tests.media.damaged_files import joined
from tests.media.make import Sound, decoded, packets_of
from tests.media.roundtrip import LOSSLESS, round_trip, write_segments

B_FRAMES = {"preset": "veryfast", "crf": "16", "bf": "2"}
NO_B_FRAMES = {"preset": "veryfast", "crf": "16", "bf": "0"}
MPEG2 = {"codec": "mpeg2video", "options": {"bf": "2", "q": "2"}}
SOUND = {"sounds": (Sound("mp2"),)}
STEP = Fraction(1, 25)


def evenly(frames: int, start: Fraction) -> list[Fraction]:
    return [start + number * STEP for number in range(frames)]


RESTARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "transport stream": ("a.ts", {"options": B_FRAMES}),
    "transport stream without B-frames": ("a.ts", {"options": NO_B_FRAMES}),
    "transport stream with audio": ("a.ts", {"options": B_FRAMES, **SOUND}),
    "programme stream": ("a.mpg", MPEG2),
    "programme stream with audio": ("a.mpg", {**MPEG2, **SOUND}),
}


@pytest.mark.parametrize("case", RESTARTS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_concatenated_recordings_have_continuous_timestamps(clip: Clip, case: str, suffix: str) -> None:
    """50 frames at 25/s last two seconds, and audio stays in sync."""
    name, settings = RESTARTS[case]
    once = clip(name, **settings)
    trip = round_trip(joined(once, once), suffix=suffix)
    numbers, times = decoded(trip.result.path)
    assert numbers == [*range(25), *range(25)]
    tolerance = 0 if suffix == ".mp4" else Fraction(1, 1000)
    for found, expected in zip(times, evenly(50, times[0]), strict=True):
        assert abs(found - expected) <= tolerance
    assert trip.joined.video_seconds == 2.0
    assert any("timestamps restart" in note for note in trip.notes)
    if "sounds" in settings:
        before, after = packets_of(once), packets_of(trip.result.path)
        assert [one.data for one in after] == [one.data for one in before] * 2
        stamps = [one.pts for one in after if one.pts is not None]
        assert all(one < later for one, later in pairwise(stamps))
        lead = decoded(once)[1][0] - (before[0].pts or 0)
        # The second half's audio is in sync, except where it overlaps the first half's.
        assert abs(times[49] - times[0] - STEP * 24 - 1) <= Fraction(1, 1000)
        second = times[25] - lead
        assert abs(stamps[-1] - second - ((before[-1].pts or 0) - (before[0].pts or 0))) < Fraction(1, 100)


def later_clip(start: int, jump: int = 0) -> dict[str, Any]:
    """A clip without B-frames that starts at a tick, with a jump in the middle."""
    ticks = [start + 3600 * number + (jump if number > 12 else 0) for number in range(25)]
    return {"options": NO_B_FRAMES, "time_base": Fraction(1, 90000), "pts": ticks}


# An overlap of one packet, and a jump of two hours.
@pytest.mark.parametrize("start", [3600 * 24, 90000 * 7200])
def test_second_recording_starts_where_the_first_ends(clip: Clip, start: int) -> None:
    sounds = (Sound("mp2", start=Fraction(7200)),) if start > 90000 else ()
    first = clip("a.ts", options=NO_B_FRAMES, **(SOUND if sounds else {}))
    trip = round_trip(joined(first, clip("b.ts", **later_clip(start), sounds=sounds)), suffix=".mp4")
    numbers, times = decoded(trip.result.path)
    assert numbers == [*range(25), *range(25)]
    assert times == evenly(50, times[0])
    assert trip.joined.audio_seconds < 2.2


@pytest.mark.parametrize("sounds", [(), (Sound("mp2", seconds=31),)])
def test_pause_in_video_is_kept_only_where_audio_continues(clip: Clip, sounds: tuple[Sound, ...]) -> None:
    trip = round_trip(clip("a.ts", **later_clip(0, jump=90000 * 30), sounds=sounds), suffix=".mp4")
    assert trip.joined.video_seconds == pytest.approx(31 if sounds else 1, abs=0.05)


@pytest.mark.parametrize("options", [B_FRAMES, NO_B_FRAMES])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_h264_in_avi_takes_times_from_packet_order(clip: Clip, options: dict[str, str], suffix: str) -> None:
    source = clip("a.avi", options=options, sounds=(Sound("mp3"),))
    trip = round_trip(source, suffix=suffix)
    numbers, times = decoded(trip.result.path)
    assert numbers == list(range(25))
    # Frames in presentation order get the times of the packets in file order.
    assert times == [one.dts for one in packets_of(source, "video")]
    assert times[-1] in (STEP * 24, STEP * 25)
    assert not any("timestamp" in note for note in trip.notes)


def test_resumed_concatenated_recording_has_the_same_times(clip: Clip, tmp_path: Path) -> None:
    once = clip("a.ts", options=B_FRAMES, **SOUND)
    info = probe(joined(once, once))
    parts, _ = write_segments(info, tmp_path / "work", LOSSLESS, length=10, stop=30)
    more, notes = write_segments(info, tmp_path / "work", LOSSLESS, length=10, after=parts[-1])
    assert any("timestamps restart" in note for note in notes)
    join_segments(parts + more, info, tmp_path / "x.mp4", choice=LOSSLESS)
    numbers, times = decoded(tmp_path / "x.mp4")
    assert numbers == [*range(25), *range(25)]
    assert times == evenly(50, times[0])


@pytest.mark.parametrize("tick", [Fraction(1, 90000), Fraction(1, 1000), Fraction(1, 48000)])
def test_decoding_times_increase_in_the_output_time_base(tick: Fraction) -> None:
    timestamps = MonotonicTimestamps(lambda: tick)
    written = []
    for dts in (0, 10, 10, 5, 11, 3000):
        packet: Packet[Any] = Packet(b"x")
        packet.time_base, packet.dts, packet.pts = Fraction(1, 90000), dts, dts
        timestamps.apply(packet)
        assert packet.dts is not None
        written.append(round(packet.dts * packet.time_base / tick))
    assert all(one < later for one, later in pairwise(written))
    assert timestamps.repaired >= 2
    assert written[-1] == round(Fraction(3000, 90000) / tick)


@pytest.mark.parametrize(
    ("name", "codec", "video"), [("a.avi", "adpcm_ms", "mpeg4"), ("a.wmv", "wmav2", "msmpeg4")]
)
def test_audio_that_no_container_holds_is_re_encoded(clip: Clip, name: str, codec: str, video: str) -> None:
    path = clip(name, frames=50, codec=video, options={}, sounds=(Sound(codec, rate=44100),))
    assert output_suffix(probe(path))[0] in (".mp4", ".mkv")
    trip = round_trip(path, suffix=".mp4")
    assert [one.codec for one in trip.result.audio] == ["aac"]
    assert any(f"({codec})" in note and "re-encoded" in note for note in trip.notes)
    assert trip.joined.audio_seconds == pytest.approx(2.0, abs=0.1)
    with av.open(str(trip.result.path)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 44100 == pytest.approx(2.0, abs=0.1)


def test_remedy_for_a_muxer_error_does_not_mention_space() -> None:
    remedy = unwritable_error(Path("x.mp4"), OSError(22, "Invalid argument")).remedy
    assert "space" not in remedy
    assert ".mkv" in remedy
