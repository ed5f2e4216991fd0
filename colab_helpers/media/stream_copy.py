"""Copy the streams other than video packet by packet, interleaved with the video.

Notes list everything that a copy loses. Audio that the result's container does not take is re-encoded.
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
_DEFAULT_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_BIT_RATE_PER_CHANNEL = 96_000


class StreamCopier:
    """Copies streams from an open source into an open output, keeping pace with the video.

    The source is opened for this alone and read in file order, so only one packet is held in memory.

    Attributes:
        notes: What was dropped or changed, one sentence each.
        copied: FFmpeg's stream type by index in the source, of every stream copied.
    """

    def __init__(self, source: InputContainer, info: VideoInfo, *, audio: bool = True) -> None:
        self.notes: list[str] = []
        self.copied: dict[int, str] = {}
        self._source, self._info, self._audio = source, info, audio
        self._clock = ContinuousClock(source, info.video_index)
        self._monotonic: dict[int, MonotonicTimestamps] = {}
        self._reencoders: dict[int, _Reencoder] = {}
        self._targets: dict[int, Stream] = {}
        self._audio_span: tuple[Fraction, Fraction] | None = None
        self._packets: Iterator[Packet[Any]] = iter(())
        self._next: Packet[Any] | None = None

    @property
    def audio_seconds(self) -> Fraction:
        """Seconds from the start of the first to the end of the last copied audio packet."""
        return self._audio_span[1] - self._audio_span[0] if self._audio_span else Fraction(0)

    def add(self, stream: Stream, output: OutputContainer) -> None:
        """Add a stream to the output; if it is dropped or re-encoded, add a note."""
        suffix, name = Path(output.name).suffix.lower(), self._name(stream)
        if stream.type == "video":
            # Another angle, a preview or cover art.
            self.notes.append(tr("{stream} was dropped: it may show the original face", stream=name))
        elif stream.type == "data":
            if not self._is_rewritten(stream, output):
                self.notes.append(tr("{stream} was dropped", stream=name))
        elif stream.type == "audio" and not self._audio:
            pass
        elif accepts_stream(stream, output.format.name):
            self._register(stream, output.add_stream_from_template(stream, opaque=True))
        elif stream.type == "audio" and self._add_reencoder(stream, output):
            reencoded = mark("{suffix} cannot hold {stream}: it was re-encoded as AAC")
            self.notes.append(tr(reencoded, suffix=suffix, stream=name))
        else:
            self.notes.append(tr("{suffix} cannot hold {stream}: dropped", suffix=suffix, stream=name))

    def start(self) -> None:
        """Begin reading; call it once every stream has been added and the output's header is written."""
        # Attachments are part of the header.
        streams = [
            stream
            for stream in self._source.streams
            if stream.index in self._targets and stream.type != "attachment"
        ]
        if not streams:
            return
        if not self._clock.is_continuous:
            # The clock is corrected by the video's timestamps.
            streams.append(self._source.streams[self._info.video_index])
        for stream in self._source.streams:
            if stream not in streams:
                stream.discard = Discard.all
        self._packets = (
            packet
            for packet in self._clock.correct_timestamps(demux_packets(self._source, streams))
            # Empty packets mark the end of a stream.
            if packet.stream.index in self._targets and (packet.size or packet.pts is not None)
        )
        self._next = next(self._packets, None)

    def copy_until(self, output: OutputContainer, until: Fraction | None) -> None:
        """Copy every packet up to ``until`` seconds of decoding time; all remaining ones if None."""
        while (packet := self._next) is not None:
            due = packet.dts if packet.dts is not None else packet.pts
            if until is not None and due is not None and due * packet.time_base > until:
                return
            if not _is_gap(packet):
                self._send(packet, output)
            self._next = next(self._packets, None)

    def finish(self, output: OutputContainer) -> None:
        """Copy all remaining packets, flush the audio encoders, and note what had to be repaired."""
        self.copy_until(output, None)
        for index, reencoder in self._reencoders.items():
            for packet in reencoder.packets(None):
                self._write(packet, index, output)
        self.notes += self._clock.notes()
        if repaired := sum(timestamps.repaired for timestamps in self._monotonic.values()):
            text = mark("{number} copied packets had missing or non-increasing timestamps: replaced")
            self.notes.append(tr(text, number=repaired))

    def _register(self, stream: Stream, target: Stream) -> None:
        target.disposition = stream.disposition
        target.metadata.clear()
        target.metadata.update(stream_tags(stream, encoded=stream.index in self._reencoders))
        self._targets[stream.index] = target
        self._monotonic[stream.index] = MonotonicTimestamps(lambda: Fraction(target.time_base or 1))
        self.copied[stream.index] = stream.type

    def _add_reencoder(self, stream: Stream, output: OutputContainer) -> bool:
        """Add a stream for re-encoded audio; return False if the audio cannot be decoded or encoded."""
        if stream.codec_context is None:
            return False
        try:
            self._reencoders[stream.index] = reencoder = _Reencoder(cast(AudioStream, stream), output)
        except (av.FFmpegError, ValueError):
            return False
        self._register(stream, reencoder.target)
        return True

    def _send(self, packet: Packet[Any], output: OutputContainer) -> None:
        index = packet.stream.index
        self._update_audio_span(packet)
        for one in self._reencoders[index].packets(packet) if index in self._reencoders else (packet,):
            self._write(one, index, output)

    def _write(self, packet: Packet[Any], index: int, output: OutputContainer) -> None:
        self._monotonic[index].apply(packet)
        packet.stream = self._targets[index]
        output.mux_one(packet)

    def _update_audio_span(self, packet: Packet[Any]) -> None:
        if packet.stream.type == "audio" and packet.pts is not None:
            start = packet.pts * packet.time_base
            end = start + (packet.duration or 0) * packet.time_base
            span = self._audio_span or (start, end)
            self._audio_span = min(span[0], start), max(span[1], end)

    def _is_rewritten(self, stream: Stream, output: OutputContainer) -> bool:
        """Return whether the MP4 muxer writes this data track itself, from chapters or the timecode tag."""
        chapters = getattr(stream, "name", None) == "bin_data" and bool(self._source.chapters())
        return is_mov(output.format.name) and (chapters or "timecode" in stream.metadata)

    def _name(self, stream: Stream) -> str:
        others = (*self._info.audio, *self._info.subtitles, *self._info.others)
        return next(str(info) for info in others if info.index == stream.index)


class _Reencoder:
    """Decodes audio and encodes it as AAC, at the nearest sample rate that AAC supports."""

    def __init__(self, source: AudioStream, output: OutputContainer) -> None:
        rates = Codec(_AUDIO_CODEC, "w").audio_rates or [source.rate]
        rate = min(rates, key=lambda candidate: (abs(candidate - source.rate), -candidate))
        if source.layout.name.endswith("channels"):
            # AVI states only the number of channels: assume its default layout.
            source.codec_context.layout = _DEFAULT_LAYOUTS.get(source.channels, source.layout)
        # A trial, since a stream cannot be removed from the output again.
        trial = cast(AudioCodecContext, av.CodecContext.create(_AUDIO_CODEC, "w"))
        trial.format, trial.sample_rate, trial.layout = "fltp", rate, source.layout
        trial.time_base = Fraction(1, rate)
        trial.open()
        self.target = cast(AudioStream, output.add_stream(_AUDIO_CODEC, rate=rate))
        context = self.target.codec_context
        context.layout = source.layout
        context.bit_rate = _BIT_RATE_PER_CHANNEL * source.channels
        context.open()
        self._source = source
        self._resampler = AudioResampler(
            format=context.format, layout=context.layout, rate=rate, frame_size=context.frame_size
        )

    def packets(self, packet: Packet[Any] | None) -> Iterator[Packet[Any]]:
        """Yield the packets encoded from a packet of the source; None flushes the encoder."""
        try:
            frames: list[Any] = self._source.decode(packet)
        except av.FFmpegError:  # a damaged packet leaves a gap
            return
        for frame in frames if packet is not None else [*frames, None]:
            for block in self._resampler.resample(frame):
                yield from self.target.encode(block)
        if packet is None:
            yield from self.target.encode(None)


def _is_gap(packet: Packet[Any]) -> bool:
    """Return whether a packet is an MP4 text track's filler for a gap, which the muxer writes itself."""
    return packet.size == 2 and packet.stream.codec_context.name == "mov_text" and bytes(packet) == b"\0\0"
