"""Detect damaged and truncated videos by comparing what was read with what the file states."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from colab_helpers.errors import MediaError
from colab_helpers.language import mark, tr
from colab_helpers.media.demuxing import demux_packets, to_fraction
from colab_helpers.media.formats import DEFAULT_RATE, is_mov, states_length
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.timestamps import ContinuousClock

# What may be missing before a file counts as truncated: writers disagree by a frame or two.
_MISSING_FRAMES, _MISSING_SHARE = 2, Fraction(1, 50)
_MISSING_SECONDS = Fraction(1, 2)


class TruncationCheck:
    """Counts a file's packets and decides at the end whether the video is complete.

    The caller, who decodes, adds packets that the decoder rejected to ``undecodable``.
    """

    def __init__(self, info: VideoInfo, container: InputContainer, stream: VideoStream) -> None:
        self.undecodable = 0
        self.clock = ContinuousClock(container, stream.index)
        self._info, self._stream = info, stream
        self._length = _stated_length(container, stream)
        indexed = is_mov(container.format.name) and bool(stream.frames)
        self._indexed = len(stream.index_entries) if indexed else 0
        self._packets = 0
        self._end = Fraction(0)
        self._error = ""

    def read_packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Yield the video packets; those of other streams only show where the file ends."""
        packets = demux_packets(container, *([self._stream] if self._indexed else []))
        for packet in self.clock.correct_timestamps(packets):
            if packet.pts is not None:
                self._end = max(self._end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            # Flush packets know their stream only as an object, so compare ``stream.index``.
            if packet.stream.index == self._stream.index:
                self._packets += packet.size > 0
                yield packet

    def note_read_error(self, error: av.FFmpegError) -> None:
        """Record that the file cannot be read any further."""
        self._error = error.strerror or type(error).__name__

    def check_complete(self, frames: int) -> list[str]:
        """Return notes on small damage; raise MediaError if too few ``frames`` were decoded."""
        missing = max(self._missing(frames), self.undecodable)
        expected = max(frames + missing, self._info.frames or 0)
        if not frames or missing > max(_MISSING_FRAMES, int(_MISSING_SHARE * expected)):
            raise self._truncated_error(frames, expected)
        if self._indexed:
            missing = max(missing, (self._info.frames or 0) - frames)
        note = tr("the file is slightly damaged: about {frames} frame(s) could not be read", frames=missing)
        return [note] if missing or self._error else []

    def _missing(self, frames: int) -> int:
        if self._indexed:
            return max(0, self._indexed - self._packets)
        seconds = self._length - self._end
        if seconds <= max(_MISSING_SECONDS, self._length * _MISSING_SHARE):
            return 0
        rate = self._info.average_rate or DEFAULT_RATE
        return max(_MISSING_FRAMES + 1, (self._info.frames or 0) - frames, int(seconds * rate))

    def _truncated_error(self, frames: int, expected: int) -> MediaError:
        counted = mark(
            "the file is cut off or damaged: only {frames} of {expected} frames could be read{reason}"
        )
        estimated = mark(
            "the file is cut off or damaged: only {frames} of about {expected} frames could be read{reason}"
        )
        text, reason = counted if self._indexed else estimated, f" ({self._error})" if self._error else ""
        what = tr(text, frames=frames, expected=expected, reason=reason)
        remedy = tr("copy or download it again, or cut it to the readable part")
        return MediaError(what, where=str(self._info.path), remedy=remedy)


def _stated_length(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return the file's duration in seconds as its header states it; 0 if FFmpeg only estimates it."""
    if not states_length(container.format.name):
        return Fraction(0)
    stated = Fraction(container.duration or 0, av.time_base)
    rate = to_fraction(stream.average_rate)
    if container.format.name == "avi" and rate:
        # FFmpeg adjusts an AVI's duration to the data present, but keeps the header's frame count.
        return max(stated, stream.frames / rate)
    return stated
