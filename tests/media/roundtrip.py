"""Reads a clip and writes it again, in segments that are joined, and says how the two files differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from colab_helpers.media.containers import output_suffix
from colab_helpers.media.encoders import EncoderChoice, WantedEncoder, encoder_for
from colab_helpers.media.formats import pixel_bits
from colab_helpers.media.join import JoinedVideo, join_segments
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from colab_helpers.media.segments import Segment, SegmentWriter
from tests.media.make import Sent, decoded, packets_of

KEPT = (
    "width", "height", "rotation", "display_matrix", "sample_aspect_ratio", "colour",
    "interlaced", "start", "duration", "average_rate", "frames",
)  # fmt: skip

WHOLE_ROWS = (128, 48)
"""With AVX-512, x264 reads memory nobody set where a row is not a multiple of eight blocks of 16 pixels."""
LOSSLESS = EncoderChoice("libx264", "yuv420p", {"preset": "ultrafast", "crf": "0"})
LOSSY = EncoderChoice("libx264", "yuv420p", {"preset": "veryfast", "crf": "23"})


@dataclass(frozen=True)
class Trip:
    source: VideoInfo
    result: VideoInfo
    choice: EncoderChoice
    notes: list[str]
    joined: JoinedVideo

    def assert_same_frames(self) -> None:
        numbers, times = decoded(self.result.path)
        wanted_numbers, wanted_times = decoded(self.source.path)
        assert numbers == wanted_numbers == list(range(len(numbers)))
        assert times == wanted_times
        assert self.joined.frames == len(numbers)

    def assert_same_sound(self, kind: str = "audio") -> None:
        beside = self.source.audio if kind == "audio" else self.source.subtitles
        copies = self.result.audio if kind == "audio" else self.result.subtitles
        assert len(beside) == len(copies) > 0
        for which in range(len(beside)):
            assert self.sent(self.result, kind, which) == self.sent(self.source, kind, which)

    @staticmethod
    def sent(info: VideoInfo, kind: str, which: int) -> list[Sent]:
        return packets_of(info.path, kind, which)

    def differences(self) -> set[str]:
        """Names of the properties that are not what they were."""
        kept = list(KEPT)
        times = decoded(self.source.path)[1]
        if len({round(after - before, 2) for before, after in pairwise(times)}) > 1:
            # MP4 readers add up decoding times, which B-frames move.
            kept = [name for name in kept if name not in ("average_rate", "duration")]
        depths = {pixel_bits(one.pix_fmt) for one in (self.source, self.result)}
        found = {name for name in kept if getattr(self.source, name) != getattr(self.result, name)}
        return found | ({"depth"} if len(depths) > 1 else set())


def trip(
    path: Path,
    *,
    wanted: WantedEncoder = "libx264",
    suffix: str | None = None,
    quality: int = 16,
    length: int = 10**6,
) -> Trip:
    source = probe(path)
    suffix, note = output_suffix(source, suffix)
    choice = encoder_for(source, wanted=wanted, quality=quality, preset="ultrafast")
    target = path.parent.parent / "out" / f"{path.stem}{suffix}"
    notes = [*([note] if note else []), *choice.notes]
    work = path.parent / f"work-{path.stem}"
    segments, read = write_segments(source, work, choice, length=length)
    joined = join_segments(segments, source, target, choice=choice)
    assert sorted(one.name for one in target.parent.iterdir()) == [target.name]
    return Trip(source, probe(target), choice, [*notes, *read, *joined.notes], joined)


def write_segments(
    info: VideoInfo,
    folder: Path,
    choice: EncoderChoice,
    *,
    length: int,
    after: Segment | None = None,
    stop: int | None = None,
    change: Callable[[Any], dict[str, int]] | None = None,
    **options: Any,
) -> tuple[list[Segment], list[str]]:
    """Segments behind an earlier one, as a run of the pipeline makes them, and what the reader noted."""
    segments: list[Segment] = []
    start = after.stop if after else 0
    with (
        read_frames(info, start=start, previous_pts=after.last_pts if after else None) as reader,
        SegmentWriter(
            folder, info, choice=choice, length=length, start=start, on_segment=segments.append, **options
        ) as writer,
    ):
        for frame in reader:
            times = {"pts": frame.pts, "duration": frame.duration}
            writer.write(frame.video, **(change(frame) if change else times))
            if frame.index + 1 == stop:
                break
    return segments, reader.notes


def cut(info: VideoInfo, folder: Path, choice: EncoderChoice, length: int, **more: Any) -> list[Segment]:
    return write_segments(info, folder, choice, length=length, **more)[0]
