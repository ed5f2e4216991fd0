"""Reads a clip and writes it again, and says how the two files differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from colab_helpers.media.encoders import EncoderChoice, WantedEncoder, encoder_for
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import read_frames
from colab_helpers.media.writer import VideoWriter, WriteSummary, output_suffix
from tests.media.make import Sent, decoded, packets_of

KEPT = (
    "width", "height", "bit_depth", "rotation", "display_matrix", "sample_aspect_ratio", "colour", "light",
    "interlaced", "start", "duration", "average_rate", "frames", "is_vfr",
)  # fmt: skip


@dataclass(frozen=True)
class Trip:
    source: VideoInfo
    result: VideoInfo
    choice: EncoderChoice
    notes: list[str]
    summary: WriteSummary

    def assert_same_frames(self) -> None:
        numbers, times = decoded(self.result.path)
        wanted_numbers, wanted_times = decoded(self.source.path)
        assert numbers == wanted_numbers == list(range(len(numbers)))
        assert times == wanted_times
        assert self.summary.frames == len(numbers)

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
        if self.source.is_vfr:
            # MP4 readers add up decoding times, which B-frames move.
            kept = [name for name in kept if name not in ("average_rate", "duration")]
        return {name for name in kept if getattr(self.source, name) != getattr(self.result, name)}


def trip(
    path: Path,
    *,
    wanted: WantedEncoder = "libx264",
    suffix: str | None = None,
    quality: int = 16,
    metadata: dict[str, str] | None = None,
) -> Trip:
    source = probe(path)
    suffix, note = output_suffix(source, suffix)
    choice = encoder_for(source, wanted=wanted, quality=quality, preset="ultrafast")
    target = path.parent.parent / "out" / f"{path.stem}{suffix}"
    with (
        read_frames(source) as reader,
        VideoWriter(target, source, choice=choice, metadata=metadata) as writer,
    ):
        for frame in reader:
            writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    assert sorted(one.name for one in target.parent.iterdir()) == [target.name]
    notes = [*([note] if note else []), *choice.notes, *reader.notes, *writer.notes]
    return Trip(source, probe(target), choice, notes, writer.summary)
