"""Make small clips whose frames carry their own number as a bar code."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

BITS = 8
"""Bits of the bar code: numbers 0 to 255."""


@dataclass(frozen=True)
class Sound:
    """An audio stream."""

    codec: str = "aac"
    language: str | None = None
    seconds: float | None = None
    rate: int = 48000
    tone: int = 440
    title: str | None = None
    start: Fraction = Fraction(0)
    disposition: int = 0


@dataclass(frozen=True)
class Subtitle:
    """A subtitle stream: (start ms, duration ms, text) triples."""

    codec: str = "mov_text"
    language: str = "eng"
    lines: tuple[tuple[int, int, str], ...] = ((0, 300, "one"), (400, 300, "two"))


@dataclass(frozen=True)
class Spec:
    """Contents of a clip."""

    frames: int = 25
    size: tuple[int, int] = (96, 64)
    rate: Fraction = Fraction(25)
    time_base: Fraction | None = None
    pts: Sequence[int] | None = None
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "crf": "16"})
    container: dict[str, str] = field(default_factory=dict)
    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2
    sar: Fraction | None = None
    rotation: int = 0
    """Degrees clockwise by which a player rotates the picture."""
    axes: tuple[int, int, int, int] | None = None
    """Display matrix (a, b, c, d) in integers, instead of ``rotation``."""
    sounds: tuple[Sound, ...] = ()
    subtitles: tuple[Subtitle, ...] = ()
    attachments: tuple[tuple[str, str, bytes], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: tuple[tuple[int, int, str], ...] = ()


def picture(number: int, width: int, height: int, *, low: int = 16, high: int = 235) -> np.ndarray:
    """Luma (height, width) uint8: bar code of ``number`` in the upper half, moving ramp below."""
    ramp = np.linspace(low, high, width, dtype=np.float32)
    luma = np.tile(np.roll(ramp, number * 3), (height, 1)).astype(np.uint8)
    cell = width // BITS
    for bit in range(BITS):
        luma[: height // 2, bit * cell : (bit + 1) * cell] = high if number >> bit & 1 else low
    return luma


def number_of(frame: av.VideoFrame) -> int:
    """Read the bar code; any 8- or 10-bit planar or semi-planar YUV, RGB or grey format."""
    grey = frame.reformat(format="gray").to_ndarray()
    height, width = grey.shape
    cell = width // BITS
    row = grey[height // 8 : height // 3]
    means = [row[:, bit * cell + cell // 4 : bit * cell + 3 * cell // 4].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 128)


def frame_of(number: int, spec: Spec) -> av.VideoFrame:
    """The numbered picture in the spec's pixel format, with a fixed tint."""
    width, height = spec.size
    luma = picture(number, width, height)
    chroma_u, chroma_v = np.full_like(luma, 110), np.full_like(luma, 150)
    frame = av.VideoFrame.from_ndarray(np.stack([luma, chroma_u, chroma_v]), format="yuv444p")
    if spec.pix_fmt == "yuv444p":
        return frame
    full = spec.range == 2 or spec.pix_fmt.startswith("yuvj")
    color_range = ColorRange.JPEG if full else ColorRange.MPEG
    if "yuv" in spec.pix_fmt or spec.pix_fmt in ("nv12", "p010le"):
        return frame.reformat(format=spec.pix_fmt, src_color_range=color_range, dst_color_range=color_range)
    return frame.reformat(format=spec.pix_fmt)


def tone(sound: Sound, seconds: float) -> Iterable[av.AudioFrame]:
    """Stereo sine wave in frames of 1024 samples."""
    total = int(seconds * sound.rate)
    for start in range(0, total, 1024):
        count = min(1024, total - start)
        wave = np.sin(2 * np.pi * sound.tone * (start + np.arange(count)) / sound.rate) * 8000
        block = np.repeat(wave.astype(np.int16), 2).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
        frame.sample_rate, frame.time_base = sound.rate, Fraction(1, sound.rate)
        frame.pts = start + int(sound.start * sound.rate)
        yield frame


def make(path: Path, spec: Spec = Spec()) -> Path:
    """Write the clip and return its path."""
    with av.open(str(path), "w", container_options=spec.container) as out:
        out.metadata.update(spec.metadata)
        if spec.chapters:
            base = Fraction(1, 1000)
            out.set_chapters(
                [
                    {"id": k, "start": start, "end": end, "time_base": base, "metadata": {"title": title}}
                    for k, (start, end, title) in enumerate(spec.chapters)
                ]
            )
        video = _video_stream(out, spec)
        sounds = [_audio_stream(out, sound) for sound in spec.sounds]
        texts = [_subtitle_stream(out, subtitle) for subtitle in spec.subtitles]
        for name, mimetype, data in spec.attachments:
            out.add_attachment(name, mimetype, data)
        out.start_encoding()
        packets = _video_packets(video, spec)
        for stream, sound in zip(sounds, spec.sounds, strict=True):
            packets += _audio_packets(stream, sound, sound.seconds or float(spec.frames / spec.rate))
        for stream, subtitle in zip(texts, spec.subtitles, strict=True):
            packets += _text_packets(stream, subtitle)
        out.mux(sorted(packets, key=_decode_time))
    return path


def _decode_time(packet: Packet[Any]) -> Fraction:
    stamp = packet.dts if packet.dts is not None else packet.pts
    assert stamp is not None
    return stamp * packet.time_base


def _video_stream(out: OutputContainer, spec: Spec) -> VideoStream:
    stream = out.add_stream(spec.codec, rate=spec.rate, options=dict(spec.options))
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = spec.size
    stream.pix_fmt = spec.pix_fmt
    stream.time_base = spec.time_base or 1 / spec.rate
    context = stream.codec_context
    context.time_base = spec.time_base or 1 / spec.rate
    context.colorspace, context.color_range = spec.matrix, spec.range
    context.color_primaries, context.color_trc = spec.primaries, spec.transfer
    if spec.sar:
        context.sample_aspect_ratio = spec.sar
    if spec.rotation:
        stream.set_display_rotation(-spec.rotation)
    if spec.axes:
        a, b, c, d = (65536 * value for value in spec.axes)
        stream.set_display_matrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
    return stream


def _video_packets(stream: VideoStream, spec: Spec) -> list[Packet[Any]]:
    base = spec.time_base or 1 / spec.rate
    step = 1 / spec.rate / base
    packets: list[Packet[Any]] = []
    for number in range(spec.frames):
        frame = frame_of(number, spec)
        frame.time_base = base
        frame.pts = spec.pts[number] if spec.pts else round(number * step)
        frame.duration = round(step)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def _audio_stream(out: OutputContainer, sound: Sound) -> AudioStream:
    stream = out.add_stream(sound.codec, rate=sound.rate)
    assert isinstance(stream, AudioStream)
    stream.codec_context.layout = "stereo"
    stream.disposition = Disposition(sound.disposition)
    if sound.codec.startswith("wma"):
        stream.codec_context.bit_rate = 128_000
    if sound.language:
        stream.metadata["language"] = sound.language
    if sound.title:
        stream.metadata["title"] = sound.title
    return stream


def _audio_packets(stream: AudioStream, sound: Sound, seconds: float) -> list[Packet[Any]]:
    context = stream.codec_context
    resampler = av.AudioResampler(
        format=context.format, layout="stereo", rate=sound.rate, frame_size=context.frame_size or 1024
    )
    packets: list[Packet[Any]] = []
    for block in [*tone(sound, seconds), None]:
        for frame in resampler.resample(block):
            packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def _subtitle_stream(out: OutputContainer, subtitle: Subtitle) -> Any:
    stream: Any = out.add_stream(subtitle.codec)
    stream.codec_context.subtitle_header = _ASS_HEADER
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = subtitle.language
    return stream


_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def _text_packets(stream: Any, subtitle: Subtitle) -> list[Packet[Any]]:
    packets: list[Packet[Any]] = []
    for start, duration, text in subtitle.lines:
        raw = text.encode()
        packet: Packet[Any] = Packet(
            struct.pack(">H", len(raw)) + raw if subtitle.codec == "mov_text" else raw
        )
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts, packet.dts, packet.duration = start, start, duration
        packets.append(packet)
    return packets


def samples(plane: Any, kind: type[np.uint8] | type[np.uint16] = np.uint8) -> np.ndarray[Any, Any]:
    """A view of a plane's visible samples (rows, columns)."""
    return np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]


def variable_pts(frames: int, *, step: int = 40) -> list[int]:
    """Rising timestamps in steps of 1, 2, 1/2 and 3/2 times ``step``."""
    steps = (step, step * 2, step // 2, step * 3 // 2)
    stamps = [0]
    for number in range(frames - 1):
        stamps.append(stamps[-1] + steps[number % len(steps)])
    return stamps


def decoded(path: Path) -> tuple[list[int], list[Fraction]]:
    """Frame numbers and presentation times in seconds, read by PyAV alone."""
    numbers, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            numbers.append(number_of(frame))
            times.append(frame.pts * frame.time_base)
    return numbers, times


@dataclass(frozen=True)
class PacketData:
    """Payload and times in seconds of a packet."""

    data: bytes
    pts: Fraction | None
    dts: Fraction | None
    duration: Fraction


def packets_of(path: Path, kind: str = "audio", which: int = 0) -> list[PacketData]:
    """All packets of one stream, in file order."""
    with av.open(str(path)) as container:
        stream: Any = [stream for stream in container.streams if stream.type == kind][which]
        base = Fraction(stream.time_base)

        def seconds(value: int | None) -> Fraction | None:
            return None if value is None else value * base

        return [
            PacketData(bytes(one), seconds(one.pts), seconds(one.dts), (one.duration or 0) * base)
            for one in container.demux(stream)
            if one.size
        ]


def make_song(path: Path, *, cover: bool = False) -> Path:
    """Half a second of audio, optionally with cover art, which is not a video to players."""
    with av.open(str(path), "w") as out:
        stream = _audio_stream(out, Sound())
        if cover:
            packet = add_cover(out)
            out.start_encoding()
            out.mux(packet)
        out.mux(_audio_packets(stream, Sound(), 0.5))
    return path


def make_cover_song(path: Path) -> Path:
    """A song with cover art."""
    return make_song(path, cover=True)


def add_cover(out: OutputContainer) -> Packet[Any]:
    """Add a cover-art stream and return its only packet."""
    context: Any = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = 64, 64, "yuvj420p"
    context.time_base = Fraction(1, 25)
    frame = frame_of(5, Spec(size=(64, 64), pix_fmt="yuvj420p"))
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    stream: Any = out.add_mux_stream("mjpeg", width=64, height=64)
    stream.disposition, stream.time_base = Disposition.attached_pic, Fraction(1, 90000)
    packet: Packet[Any] = Packet(data)
    packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 90000), True
    packet.pts = packet.dts = 0
    return packet
