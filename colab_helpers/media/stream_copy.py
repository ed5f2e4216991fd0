"""Streams beside the picture, carried over packet by packet in step with it.

Everything that a copy loses is said here. Audio that the result's container does not take is encoded anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.codec import Codec
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from colab_helpers.language import mark, tr
from colab_helpers.media.containers import accepts_stream, stream_tags
from colab_helpers.media.demuxing import demux_packets
from colab_helpers.media.formats import is_mov
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.timestamps import ContinuousClock, MonotonicTimestamps

_AUDIO_CODEC = "aac"
_USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_BITS_PER_CHANNEL = 96_000


class StreamCopier:
    """Copies streams from an open source into an open output, as far as the picture has come.

    The source is read a second time, in file order and by nobody else, so nothing is held in memory but one
    packet. ``notes`` say what was left out or changed, one sentence each; ``copied`` are FFmpeg's types of
    the streams carried over, by their numbers in the source.
    """

    def __init__(self, source: InputContainer, info: VideoInfo, *, audio: bool = True) -> None:
        self.notes: list[str] = []
        self.copied: dict[int, str] = {}
        self._source, self._info, self._audio = source, info, audio
        self._clock = ContinuousClock(source, info.video_index)
        self._rising: dict[int, MonotonicTimestamps] = {}
        self._reencoders: dict[int, _Reencoder] = {}
        self._targets: dict[int, Stream] = {}
        self._audio_span: tuple[Fraction, Fraction] | None = None
        self._packets: Iterator[Packet[Any]] = iter(())
        self._waiting: Packet[Any] | None = None

    @property
    def audio_seconds(self) -> Fraction:
        """Span from the first to the last copied sample of audio, in seconds."""
        return self._audio_span[1] - self._audio_span[0] if self._audio_span else Fraction(0)

    def add(self, stream: Stream, output: OutputContainer) -> None:
        """Make room for a stream in the output, or note that its container has none."""
        suffix, name = Path(output.name).suffix.lower(), self._name(stream)
        if stream.type == "video":
            # Another angle, a preview or cover art.
            self.notes.append(tr("{stream} is left out: it may show the face as it was", stream=name))
        elif stream.type == "data":
            self.notes += (
                [] if self._is_rewritten(stream, output) else [tr("{stream} is left out", stream=name)]
            )
        elif stream.type == "audio" and not self._audio:
            pass
        elif accepts_stream(stream, output.format.name):
            self._take(stream, output.add_stream_from_template(stream, opaque=True))
        elif stream.type == "audio" and self._encode(stream, output):
            anew = mark("{suffix} cannot hold {stream}: its sound was encoded anew as AAC")
            self.notes.append(tr(anew, suffix=suffix, stream=name))
        else:
            self.notes.append(tr("{suffix} cannot hold {stream}: left out", suffix=suffix, stream=name))

    def start(self) -> None:
        """Begin to read; call when every stream has been added and the output's header is written."""
        # Attachments went into the header already.
        read = [
            stream
            for stream in self._source.streams
            if stream.index in self._targets and stream.type != "attachment"
        ]
        if not read:
            return
        if not self._clock.is_continuous:
            # The picture's clock is the file's.
            read.append(self._source.streams[self._info.video_index])
        for stream in self._source.streams:
            if stream not in read:
                stream.discard = Discard.all
        self._packets = (
            packet
            for packet in self._clock.correct_timestamps(demux_packets(self._source, read))
            # Empty ones mark the end of each stream.
            if packet.stream.index in self._targets and (packet.size or packet.pts is not None)
        )
        self._waiting = next(self._packets, None)

    def copy_until(self, output: OutputContainer, until: Fraction | None) -> None:
        """Copy every packet due up to ``until`` seconds; all that is left if None."""
        while self._waiting is not None:
            packet = self._waiting
            due = packet.dts if packet.dts is not None else packet.pts
            if until is not None and due is not None and due * packet.time_base > until:
                return
            if not _is_gap(packet):
                self._send(packet, output)
            self._waiting = next(self._packets, None)

    def finish(self, output: OutputContainer) -> None:
        """Copy all that is left, write what encoders of audio still hold, and note what had to be changed."""
        self.copy_until(output, None)
        for index, anew in self._reencoders.items():
            for packet in anew.packets(None):
                self._write(packet, index, output)
        self.notes += self._clock.notes()
        restamped = sum(rising.repaired for rising in self._rising.values())
        if restamped:
            told = mark("{number} copied packets had no rising timestamp: given one")
            self.notes.append(tr(told, number=restamped))

    def _take(self, stream: Stream, target: Stream) -> None:
        target.disposition = stream.disposition
        target.metadata.clear()
        target.metadata.update(stream_tags(stream, encoded=stream.index in self._reencoders))
        self._targets[stream.index] = target
        self._rising[stream.index] = MonotonicTimestamps(lambda: Fraction(target.time_base or 1))
        self.copied[stream.index] = stream.type

    def _encode(self, stream: Stream, output: OutputContainer) -> bool:
        """Make room for audio encoded anew; False if that does not work either."""
        if stream.codec_context is None:
            return False
        try:
            self._reencoders[stream.index] = anew = _Reencoder(cast(AudioStream, stream), output)
        except (av.FFmpegError, ValueError):
            return False
        self._take(stream, anew.target)
        return True

    def _send(self, packet: Packet[Any], output: OutputContainer) -> None:
        index = packet.stream.index
        self._measure(packet)
        for one in self._reencoders[index].packets(packet) if index in self._reencoders else (packet,):
            self._write(one, index, output)

    def _write(self, packet: Packet[Any], index: int, output: OutputContainer) -> None:
        self._rising[index].apply(packet)
        packet.stream = self._targets[index]
        output.mux_one(packet)

    def _measure(self, packet: Packet[Any]) -> None:
        if packet.stream.type != "audio" or packet.pts is None:
            return
        first = packet.pts * packet.time_base
        last = first + (packet.duration or 0) * packet.time_base
        known = self._audio_span or (first, last)
        self._audio_span = min(known[0], first), max(known[1], last)

    def _is_rewritten(self, stream: Stream, output: OutputContainer) -> bool:
        """MP4 has tracks for chapters and timecode, which its muxer makes anew from chapters and tags."""
        chapters = getattr(stream, "name", None) == "bin_data" and bool(self._source.chapters())
        return is_mov(output.format.name) and (chapters or "timecode" in stream.metadata)

    def _name(self, stream: Stream) -> str:
        beside = (*self._info.audio, *self._info.subtitles, *self._info.others)
        return next(str(one) for one in beside if one.index == stream.index)


class _Reencoder:
    """Audio decoded and encoded as AAC, at its own rate where AAC has that."""

    def __init__(self, source: AudioStream, output: OutputContainer) -> None:
        rates = Codec(_AUDIO_CODEC, "w").audio_rates or [source.rate]
        rate = min(rates, key=lambda one: (abs(one - source.rate), -one))
        if source.layout.name.endswith("channels"):
            # AVI tells only how many: the usual ones of that many.
            source.codec_context.layout = _USUAL_LAYOUTS.get(source.channels, source.layout)
        # Tried first: a stream once added cannot be taken out again.
        trial = cast(AudioCodecContext, av.CodecContext.create(_AUDIO_CODEC, "w"))
        trial.format, trial.sample_rate, trial.layout = "fltp", rate, source.layout
        trial.time_base = Fraction(1, rate)
        trial.open()
        self.target = cast(AudioStream, output.add_stream(_AUDIO_CODEC, rate=rate))
        context = self.target.codec_context
        context.layout = source.layout
        context.bit_rate = _BITS_PER_CHANNEL * source.channels
        context.open()
        self._source = source
        self._resampler = AudioResampler(
            format=context.format, layout=context.layout, rate=rate, frame_size=context.frame_size
        )

    def packets(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """Yield what comes out for a packet of the source; the rest if None."""
        try:
            frames: list[Any] = self._source.decode(packet)
        except av.FFmpegError:
            # One damaged packet: a pause.
            return
        for frame in frames if packet is not None else [*frames, None]:
            for block in self._resampler.resample(frame):
                yield from self.target.encode(block)
        if packet is None:
            yield from self.target.encode(None)


def _is_gap(packet: Packet[Any]) -> bool:
    """MP4 fills the pauses of a text track with empty samples; its muxer writes them itself."""
    return packet.size == 2 and packet.stream.codec_context.name == "mov_text" and bytes(packet) == b"\0\0"
