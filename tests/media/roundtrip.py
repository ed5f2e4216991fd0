"""Read a clip's frames, encode and join them again, and compare the result with the source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from colab_helpers.media.containers import output_suffix
from colab_helpers.media.encoders import EncoderChoice, WantedEncoder, choose_encoder
from colab_helpers.media.formats import pixel_bits
from colab_helpers.media.join import JoinedVideo, join_segments
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.reader import FrameReader, read_frames
from colab_helpers.media.segments import Segment, SegmentWriter
from tests.media.make import decoded, packets_of, samples

KEPT = (
    "width", "height", "rotation", "display_matrix", "sample_aspect_ratio", "colour",
    "interlaced", "start", "duration", "average_rate", "frames",
)  # fmt: skip

WHOLE_ROWS = (128, 48)
"""With AVX-512, x264 reads uninitialized memory unless the width is a multiple of 128 pixels."""
LOSSLESS = EncoderChoice("libx264", "yuv420p", {"preset": "ultrafast", "crf": "0"})
LOSSY = EncoderChoice("libx264", "yuv420p", {"preset": "veryfast", "crf": "23"})


@dataclass(frozen=True)
class Trip:
    """A source and its re-encoded result."""

    source: VideoInfo
    result: VideoInfo
    notes: list[str]
    joined: JoinedVideo

    def assert_same_frames(self) -> None:
        numbers, times = decoded(self.result.path)
        wanted_numbers, wanted_times = decoded(self.source.path)
        assert numbers == wanted_numbers == list(range(len(numbers)))
        assert times == wanted_times
        assert self.joined.frames == len(numbers)

    def assert_same_packets(
        self, kind: str = "audio", change: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        """Every stream of a kind keeps its packets and their times; ``change`` is applied to the source's."""
        with av.open(str(self.source.path)) as container:
            count = sum(one.type == kind for one in container.streams)
        assert count > 0
        for which in range(count):
            before, after = (packets_of(info.path, kind, which) for info in (self.source, self.result))
            assert after == [replace(one, data=change(one.data)) for one in before]

    def differences(self) -> set[str]:
        """Names of the properties that changed."""
        kept = list(KEPT)
        times = decoded(self.source.path)[1]
        if len({round(after - before, 2) for before, after in pairwise(times)}) > 1:
            # MP4 readers sum decoding times, which B-frames shift.
            kept = [name for name in kept if name not in ("average_rate", "duration")]
        depths = {pixel_bits(one.pix_fmt) for one in (self.source, self.result)}
        found = {name for name in kept if getattr(self.source, name) != getattr(self.result, name)}
        return found | ({"depth"} if len(depths) > 1 else set())


def round_trip(
    path: Path,
    *,
    wanted: WantedEncoder = "libx264",
    suffix: str | None = None,
    quality: int = 16,
    length: int = 10**6,
) -> Trip:
    source = probe(path)
    suffix, note = output_suffix(source, suffix)
    choice = choose_encoder(source, wanted=wanted, quality=quality, preset="ultrafast")
    target = path.parent.parent / "out" / f"{path.stem}{suffix}"
    segments, read = write_segments(source, path.parent / f"work-{path.stem}", choice, length=length)
    joined = join_segments(segments, source, target, choice=choice)
    assert [one.name for one in target.parent.iterdir()] == [target.name]
    return Trip(source, probe(target), [*filter(None, [note]), *choice.notes, *read, *joined.notes], joined)


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
    """Encode the segments after ``after``; return them and the reader's notes."""
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


FrameData = tuple[int, int, Fraction, int, bytes]


def frame_data(reader: FrameReader) -> list[FrameData]:
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


def x264(gop: int, bframes: int = 0, *, pyramid: str = "none", open_gop: bool = False, more: str = "") -> Any:
    """Options of a fixed group-of-pictures structure."""
    rest = f"b-adapt=0:b-pyramid={pyramid}:open-gop={open_gop:d}:keyint={gop}:min-keyint=1:scenecut=0{more}"
    return {"preset": "ultrafast", "crf": "20", "bf": str(bframes), "x264-params": rest}


OPEN = x264(12, 3, pyramid="normal", open_gop=True)
