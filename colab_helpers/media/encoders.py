"""Choose a video encoder by trial: one that FFmpeg lists may still not work on this machine.

NVENC is part of every FFmpeg build but works only with an NVIDIA GPU, its driver, a free session and a
frame size and format the chip supports. So one frame of the actual size and format is encoded with the actual
options. Successes are cached for the life of the process; failures, such as no free session, are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, cast, get_args

import av
from av.codec import Codec
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from colab_helpers.errors import EncoderError
from colab_helpers.language import mark, tr
from colab_helpers.machine import has_avx512
from colab_helpers.media.conversion import working_colour, working_format
from colab_helpers.media.formats import DEFAULT_RATE, chroma_of, is_mov, pixel_bits
from colab_helpers.media.probe import VideoInfo

EncoderName = Literal["h264_nvenc", "hevc_nvenc", "libx264", "libx265"]
WantedEncoder = Literal["auto", "h264_nvenc", "hevc_nvenc", "libx264", "libx265"]

_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
_NVENC_PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7", "fast", "medium", "slow")

_INTERLACED_DCT, _INTERLACED_ME = 1 << 18, 1 << 29
"""FFmpeg's AV_CODEC_FLAG_INTERLACED_DCT and _ME."""
# Pixel formats of each encoder family by (chroma subsampling, bits). NVENC reads 10-bit samples from the high
# bits: 4:4:4 is passed as 16 bits, of which it keeps the top ten.
_PLANAR = {
    ("420", 8): "yuv420p", ("422", 8): "yuv422p", ("444", 8): "yuv444p",
    ("420", 10): "yuv420p10le", ("422", 10): "yuv422p10le", ("444", 10): "yuv444p10le",
}  # fmt: skip
_NVENC = {
    ("420", 8): "yuv420p", ("422", 8): "nv16", ("444", 8): "yuv444p",
    ("420", 10): "p010le", ("422", 10): "p210le", ("444", 10): "yuv444p16le",
}  # fmt: skip
# Chroma subsampling to try, by the target's: lossless ones first, then the next best.
_CHROMA_ORDER = {"420": ("420", "444"), "422": ("422", "444", "420"), "444": ("444", "420")}


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder verified to work for a given size and format."""

    name: str  # FFmpeg's encoder name
    pix_fmt: str  # pixel format its frames must have
    options: Mapping[str, str] = field(default_factory=dict)  # encoder options: quality and preset
    notes: tuple[str, ...] = ()  # what is lost or replaced, one sentence each


@dataclass(frozen=True)
class _Request:
    """The frames to encode, and how."""

    width: int
    height: int
    pix_fmt: str
    quality: int
    preset: str | None

    def __str__(self) -> str:
        return f"{self.pix_fmt} {self.width}x{self.height}"


def choose_encoder(
    info: VideoInfo, *, wanted: WantedEncoder = "auto", quality: int, preset: str | None = None
) -> EncoderChoice:
    """Choose an encoder for a video's frames, as the reader yields them, by encoding one such frame.

    ``auto`` is NVENC if it works and keeps depth and chroma (H.264 for 8 bits, HEVC for 10), else libx264; an
    encoder chosen by name is never replaced. 4:2:0 needs even sizes, so odd sizes are encoded as 4:4:4.

    Args:
        info: The video.
        wanted: ``auto`` or an encoder's name.
        quality: CRF or CQ, 0 to 51, lower is better. NVENC's CQ 0 means "automatic", so 0 becomes 1 there.
        preset: The encoder's own preset; default ``veryfast`` (x264, x265) or ``p4`` (NVENC).

    Raises:
        EncoderError: The encoder does not work here, or has no such preset.
    """
    request = _Request(info.width, info.height, working_format(info)[0], quality, preset)
    if wanted != "auto":
        if preset is not None and preset not in _presets(wanted):
            what = tr("{name} has no preset {preset!r}", name=wanted, preset=preset)
            raise EncoderError(what, remedy=tr("use one of {names}", names=", ".join(_presets(wanted))))
        return _working(wanted, request)
    gpu = "hevc_nvenc" if pixel_bits(request.pix_fmt) > 8 else "h264_nvenc"
    if (chosen := _first_working(gpu, request, lossless_only=True)) is not None:
        return chosen
    chosen = _working("libx264", request)
    if _default_trial(gpu) is not None:
        return chosen
    note = tr("{encoder} cannot keep {picture}: encoded on the CPU by libx264", encoder=gpu, picture=request)
    return replace(chosen, notes=(note, *chosen.notes))


def add_video_stream(
    output: OutputContainer, info: VideoInfo, choice: EncoderChoice, time_base: Fraction
) -> VideoStream:
    """Add a video stream with ticks of ``time_base``; raise EncoderError if the encoder does not open."""
    rate = info.average_rate or DEFAULT_RATE
    stream = cast(VideoStream, output.add_stream(choice.name, rate=rate, options=dict(choice.options)))
    context, colour = stream.codec_context, working_colour(info)
    context.width, context.height, context.pix_fmt = info.width, info.height, choice.pix_fmt
    stream.time_base = context.time_base = time_base
    context.thread_type = "AUTO"
    context.sample_aspect_ratio = info.sample_aspect_ratio or Fraction(0)
    context.colorspace, context.color_range = colour.matrix, colour.range
    context.color_primaries, context.color_trc = colour.primaries, colour.transfer
    if info.interlaced:
        context.flags |= _INTERLACED_DCT | _INTERLACED_ME
    if is_mov(output.format.name) and ("hevc" in choice.name or "265" in choice.name):
        # Apple's players accept HEVC under this tag only.
        context.codec_tag = "hvc1"
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)
    try:
        context.open()
    except av.FFmpegError as error:
        what = tr("{name} cannot be opened ({reason})", name=choice.name, reason=error.strerror)
        raise encoder_error(what) from error
    return stream


def encoder_error(what: str) -> EncoderError:
    """Return the error for an encoder that fails, with the remedy to use libx264."""
    return EncoderError(what, remedy=tr("choose the encoder libx264"))


def default_encoder(wanted: WantedEncoder) -> str:
    """Return the encoder ``wanted`` yields for ordinary videos here; empty if the named one does not work."""
    if wanted == "auto":
        return default_encoder("h264_nvenc") or "libx264"
    return "" if _default_trial(wanted) else wanted


def usable_encoders() -> dict[str, str | None]:
    """Return for every supported encoder None if it works on this machine, else the reason why not."""
    problems = {name: _default_trial(name) for name in get_args(EncoderName)}
    return {name: tr(problem) if problem else None for name, problem in problems.items()}


def _working(name: str, request: _Request) -> EncoderChoice:
    if (chosen := _first_working(name, request)) is not None:
        return chosen
    pix_fmt = next(_formats(name, request), request.pix_fmt)
    reason = _trial(name, pix_fmt, request.width, request.height, _options(name, request)) or ""
    remedy = tr("choose the encoder auto or libx264")
    if name.endswith("_nvenc"):
        remedy = tr(
            "choose the encoder auto or libx264; "
            "NVENC needs an NVIDIA GPU with its driver and a free encoding session"
        )
    what = tr("{name} cannot encode {picture} here: {reason}", name=name, picture=request, reason=tr(reason))
    raise EncoderError(what, remedy=remedy)


def _first_working(name: str, request: _Request, *, lossless_only: bool = False) -> EncoderChoice | None:
    options = _options(name, request)
    notes = []
    if request.preset not in (None, options["preset"]):
        replaced = mark("{name} has no preset {preset!r}: {default} used")
        notes.append(tr(replaced, name=name, preset=request.preset, default=options["preset"]))
    for number, pix_fmt in enumerate(_formats(name, request)):
        losses = _losses(request, pix_fmt)
        if lossless_only and losses:
            return None
        if _trial(name, pix_fmt, request.width, request.height, options) is None:
            notes += [*_changes(request, pix_fmt, refused=number > 0), *losses]
            return EncoderChoice(name, pix_fmt, options, tuple(notes))
    return None


def _presets(name: str) -> tuple[str, ...]:
    return _NVENC_PRESETS if name.endswith("_nvenc") else _X26X_PRESETS


def _options(name: str, request: _Request) -> dict[str, str]:
    """Return an encoder's options; a preset it does not have is replaced by the default."""
    nvenc = name.endswith("_nvenc")
    wanted, default = request.preset, "p4" if nvenc else "veryfast"
    options = {"preset": wanted if wanted in _presets(name) else default}
    if nvenc:
        # Constant quality: variable bit rate without a target. CQ 0 would mean "automatic".
        return options | {"rc": "vbr", "cq": str(max(1, request.quality)), "b": "0", "tune": "hq"}
    options["crf"] = str(request.quality)
    if name == "libx265":
        # No encoder info in the stream: it names the thread count, and another machine may resume the work.
        options["x265-params"] = "log-level=error:info=0"
    elif parameters := list(repeatable_x264(request.width)):
        options["x264-params"] = ":".join(parameters)
    return options


def repeatable_x264(width: int) -> Iterator[str]:
    """Yield a parameter that disables AVX-512 where x264's output would depend on uninitialised memory.

    The AVX-512 macroblock tree reads past the end of rows that are no multiple of eight macroblocks (seen
    with x264 core 165: MALLOC_PERTURB_ changes the output at widths 480 and 720, not at 640). A segment
    encoded again must be identical to the first. Costs about 7 % of the encoder's speed at such widths.
    """
    if math.ceil(width / 16) % 8 and has_avx512():
        yield "asm=AVX2,FMA3,BMI2"


def _formats(name: str, request: _Request) -> Iterator[str]:
    """Yield the pixel formats to try, best first: those that the encoder lists and the frame size allows."""
    try:
        listed = {video_format.name for video_format in Codec(name, "w").video_formats or ()}
    except ValueError:  # this build of FFmpeg does not include the encoder
        return
    names = _NVENC if name.endswith("_nvenc") else _PLANAR
    ranked = [
        names[chroma, bits]
        for bits in ((10, 8) if pixel_bits(request.pix_fmt) > 8 else (8,))
        for chroma in _CHROMA_ORDER[chroma_of(request.pix_fmt)]
    ]
    for pix_fmt in dict.fromkeys((request.pix_fmt, *ranked)):
        if pix_fmt in listed and _size_fits(pix_fmt, request.width, request.height):
            yield pix_fmt


def _size_fits(pix_fmt: str, width: int, height: int) -> bool:
    """Return whether the size is a whole number of chroma samples, as H.264 and HEVC require."""
    chroma = chroma_of(pix_fmt)
    return not (width % 2 and chroma != "444") and not (height % 2 and chroma == "420")


def _losses(request: _Request, pix_fmt: str) -> list[str]:
    notes = []
    bits_before, bits_after = pixel_bits(request.pix_fmt), pixel_bits(pix_fmt)
    if bits_after < bits_before:
        notes.append(tr("{before} bits per sample became {after}", before=bits_before, after=bits_after))
    before, after = chroma_of(request.pix_fmt), chroma_of(pix_fmt)
    if after < before:
        notes.append(tr("chroma {before} became {after}", before=before, after=after))
    return notes


def _changes(request: _Request, pix_fmt: str, *, refused: bool) -> list[str]:
    """Return notes on lossless changes; ``refused``: the encoder failed with a format tried earlier."""
    notes = []
    if not _size_fits(request.pix_fmt, request.width, request.height):
        size = f"{request.width}x{request.height}"
        odd = mark("{format} cannot store the odd size {size}: encoded as {used}")
        notes.append(tr(odd, size=size, format=request.pix_fmt, used=pix_fmt))
    before, after = chroma_of(request.pix_fmt), chroma_of(pix_fmt)
    if after > before and refused:
        finer = mark(
            "chroma {before} became {after}, which fewer players support: {before} was refused this time"
        )
        notes.append(tr(finer, before=before, after=after))
    return notes


def _default_trial(name: str) -> str | None:
    return _trial(name, "yuv420p", 640, 360, _options(name, _Request(640, 360, "yuv420p", 23, None)))


_verified: set[tuple[object, ...]] = set()


def _trial(name: str, pix_fmt: str, width: int, height: int, options: Mapping[str, str]) -> str | None:
    """Return None if one frame can be encoded, else the untranslated reason; successes are cached."""
    request = name, pix_fmt, width, height, tuple(options.items())
    problem = None if request in _verified else _encode_frame(name, pix_fmt, width, height, options)
    if problem is None:
        _verified.add(request)
    return problem


def _encode_frame(name: str, pix_fmt: str, width: int, height: int, options: Mapping[str, str]) -> str | None:
    try:
        context = av.CodecContext.create(name, "w")
    except (av.FFmpegError, ValueError):
        return mark("this build of FFmpeg does not include it")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.framerate = 1 / DEFAULT_RATE, DEFAULT_RATE
    context.options = dict(options)
    # Starting more threads would take most of the time of encoding one frame.
    context.thread_count = 1
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        plane.update(b"\x80" * plane.buffer_size)
    frame.pts = 0
    try:
        packets = [*context.encode(frame), *context.encode(None)]
    except av.FFmpegError as error:
        return error.strerror or type(error).__name__
    return None if packets else mark("it returned no data")
