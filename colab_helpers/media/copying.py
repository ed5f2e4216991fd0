"""Streams beside the picture, carried over packet by packet in step with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from colab_helpers.language import tr
from colab_helpers.media.containers import stream_tags, takes, takes_data
from colab_helpers.media.probe import VideoInfo

_KINDS = ("audio", "subtitle", "attachment", "video")
_MOV_SUFFIXES = (".mp4", ".m4v", ".mov")


@dataclass
class CopiedStream:
    """A stream of the output and what has been written to it.

    Attributes:
        kind: ``audio``, ``subtitle``, ``attachment``, ``video`` or ``data``.
        codec: FFmpeg's codec name; empty where there is no codec.
        packets: Packets written.
        bytes: Their payload as it stands in the source.
    """

    kind: str
    codec: str
    packets: int = 0
    bytes: int = 0


class StreamCopier:
    """Copies streams from an open source into an open output, as far as the picture has come.

    The source is read a second time, in file order, so nothing is held in memory but one packet.

    Attributes:
        notes: Streams that could not be carried over, one sentence each.
        copied: The streams carried over, in the output's order, by their number in the source.
    """

    def __init__(self, source: InputContainer, info: VideoInfo) -> None:
        self.notes: list[str] = []
        self._source = source
        self._info = info
        self.copied: dict[int, CopiedStream] = {}
        self._targets: dict[int, Stream] = {}
        self._last: dict[int, int] = {}
        self._sound: tuple[Fraction, Fraction] | None = None
        self._packets: Iterator[Packet[Any]] = iter(())
        self._waiting: Packet[Any] | None = None
        self._restamped = 0

    @property
    def sound_seconds(self) -> Fraction:
        """Span from the first to the last copied sample of sound, in seconds."""
        return self._sound[1] - self._sound[0] if self._sound else Fraction(0)

    @property
    def sound_start(self) -> Fraction:
        """When the first copied sample of sound is heard, in seconds; 0 without sound."""
        return self._sound[0] if self._sound else Fraction(0)

    def add(self, stream: Stream, output: OutputContainer, suffix: str) -> None:
        """Makes room for a stream in the output, or notes that its container has none."""
        if self._is_rewritten(stream, suffix):
            return
        if not self._fits(stream, suffix):
            self.notes.append(
                tr("{suffix} cannot hold {stream}: left out", suffix=suffix, stream=self._name(stream))
            )
            return
        target = output.add_stream_from_template(stream, opaque=True)
        target.disposition = stream.disposition
        target.metadata.clear()
        target.metadata.update(stream_tags(stream, encoded=False))
        self._targets[stream.index] = target
        codec = stream.codec_context.name if stream.codec_context is not None else ""
        self.copied[stream.index] = CopiedStream(stream.type, codec)

    def start(self) -> None:
        """Begins to read; call when every stream has been added."""
        moving = [stream for stream in self._source.streams if self._has_packets(stream)]
        for stream in self._source.streams:
            if stream not in moving:
                stream.discard = Discard.all
        if moving:
            self._packets = (packet for packet in self._source.demux(moving) if _holds_data(packet))
            self._waiting = next(self._packets, None)

    def pump(self, output: OutputContainer, until: Fraction | None) -> None:
        """Copies every packet due up to ``until`` seconds; all that is left if None."""
        while self._waiting is not None:
            packet = self._waiting
            due = _due(packet)
            if until is not None and due is not None and due > until:
                return
            if not _is_gap(packet):
                self._send(packet, output)
            self._waiting = next(self._packets, None)

    def finish(self) -> None:
        """Says what had to be changed."""
        if self._restamped:
            self.notes.append(
                tr("{number} copied packets had no rising time stamp: given one", number=self._restamped)
            )

    def _has_packets(self, stream: Stream) -> bool:
        """Attachments went into the header already."""
        return stream.index in self._targets and stream.type != "attachment"

    def _send(self, packet: Packet[Any], output: OutputContainer) -> None:
        index = packet.stream.index
        self._measure(packet)
        self._restamp(packet, index)
        packet.stream = self._targets[index]
        self.copied[index].packets += 1
        self.copied[index].bytes += packet.size
        output.mux_one(packet)

    def _measure(self, packet: Packet[Any]) -> None:
        if packet.stream.type != "audio" or packet.pts is None:
            return
        first = packet.pts * packet.time_base
        last = first + (packet.duration or 0) * packet.time_base
        known = self._sound or (first, last)
        self._sound = min(known[0], first), max(known[1], last)

    def _restamp(self, packet: Packet[Any], index: int) -> None:
        """Muxers refuse decoding times that do not rise, as broken recordings have them."""
        if packet.dts is None and packet.pts is None and index not in self._last:
            packet.pts = packet.dts = 0
        stamp = packet.dts if packet.dts is not None else packet.pts
        last = self._last.get(index)
        if last is not None and (stamp is None or stamp <= last):
            self._restamped += 1
            stamp = packet.dts = last + 1
            packet.pts = max(packet.pts or stamp, stamp)
        assert stamp is not None
        self._last[index] = stamp

    def _fits(self, stream: Stream, suffix: str) -> bool:
        if stream.type == "data":
            return takes_data(self._info, stream.index, suffix)
        return stream.type in _KINDS and takes(stream, suffix)

    def _is_rewritten(self, stream: Stream, suffix: str) -> bool:
        """MP4 has tracks for chapters and timecode, which its muxer makes anew from chapters and tags."""
        if stream.type != "data" or suffix not in _MOV_SUFFIXES:
            return False
        chapters = getattr(stream, "name", None) == "bin_data" and bool(self._source.chapters())
        return chapters or "timecode" in stream.metadata

    def _name(self, stream: Stream) -> str:
        beside = (*self._info.audio, *self._info.subtitles, *self._info.others)
        return next(
            (str(one) for one in beside if one.index == stream.index),
            tr("stream {index}", index=stream.index),
        )


def _holds_data(packet: Packet[Any]) -> bool:
    """False for the empty packets that mark the end of each stream."""
    return packet.size > 0 or packet.pts is not None


def _is_gap(packet: Packet[Any]) -> bool:
    """MP4 fills the pauses of a text track with empty samples; its muxer writes them itself."""
    return packet.size == 2 and packet.stream.codec_context.name == "mov_text" and bytes(packet) == b"\0\0"


def _due(packet: Packet[Any]) -> Fraction | None:
    stamp = packet.dts if packet.dts is not None else packet.pts
    return None if stamp is None else stamp * packet.time_base
