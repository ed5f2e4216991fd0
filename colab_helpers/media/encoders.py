"""Which encoder to use, found by trying: a listed encoder is not always a usable one.

NVENC is part of every FFmpeg build but works only with an NVIDIA GPU, its driver, a free session and a
picture size and format the chip can take. So a frame of the very size, format and options is encoded
once; a success is remembered for the life of the process, a failure (such as no free session) is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args

import av
from av.codec import Codec
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat

from colab_helpers.errors import EncoderError, SettingsError
from colab_helpers.language import mark, tr
from colab_helpers.machine import has_avx512
from colab_helpers.media.probe import LightLevels, VideoInfo, pixel_bits
from colab_helpers.media.reader import working_format

EncoderName = Literal["h264_nvenc", "hevc_nvenc", "libx264", "libx265"]
WantedEncoder = Literal["auto", "h264_nvenc", "hevc_nvenc", "libx264", "libx265"]

BEST_QUALITY, WORST_QUALITY = 0, 51
"""Range of CRF (x264, x265) and CQ (NVENC); lower is better."""

DEFAULT_PRESETS: Mapping[str, str] = {
    "libx264": "veryfast",
    "libx265": "veryfast",
    "h264_nvenc": "p4",
    "hevc_nvenc": "p4",
}

_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
_NVENC_PRESETS = ("p1", "p2", "p3", "p4", "p5", "p6", "p7", "fast", "medium", "slow")

# Sample formats by (chroma subsampling, bits), what each encoder family calls them.
_PLANAR = {
    ("420", 8): "yuv420p",
    ("422", 8): "yuv422p",
    ("444", 8): "yuv444p",
    ("420", 10): "yuv420p10le",
    ("422", 10): "yuv422p10le",
    ("444", 10): "yuv444p10le",
}
# NVENC reads deep samples from the high bits: 444 goes in as 16 bit, of which it keeps the top ten.
_NVENC = {
    ("420", 8): "yuv420p",
    ("422", 8): "nv16",
    ("444", 8): "yuv444p",
    ("420", 10): "p010le",
    ("422", 10): "p210le",
    ("444", 10): "yuv444p16le",
}
# Chroma that keeps everything first, then the next best.
_CHROMA_ORDER = {"420": ("420", "444"), "422": ("422", "444", "420"), "444": ("444", "420")}


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder that has proved to work for a given size and format.

    Attributes:
        name: FFmpeg's encoder name.
        pix_fmt: Pixel format its frames must have.
        options: Encoder options: quality, preset, HDR metadata.
        notes: What was lost or replaced, one sentence each; empty if nothing was.
    """

    name: str
    pix_fmt: str
    options: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Request:
    width: int
    height: int
    pix_fmt: str
    quality: int
    preset: str | None
    light: LightLevels | None


def encoder_for(
    info: VideoInfo, *, wanted: WantedEncoder = "auto", quality: int, preset: str | None = None
) -> EncoderChoice:
    """`choose_encoder` for the frames the reader yields of a video, its HDR10 metadata included."""
    return choose_encoder(
        wanted,
        width=info.width,
        height=info.height,
        pix_fmt=working_format(info)[0],
        quality=quality,
        preset=preset,
        light=info.light,
    )


def choose_encoder(
    wanted: WantedEncoder = "auto",
    *,
    width: int,
    height: int,
    pix_fmt: str,
    quality: int,
    preset: str | None = None,
    light: LightLevels | None = None,
) -> EncoderChoice:
    """Picks an encoder by trial encode of one frame of this size and format.

    ``auto`` is NVENC where it works and keeps depth and chroma (H.264 for 8 bit, HEVC for 10), else
    libx264. 4:2:0 needs even sizes, so an odd size goes out as 4:4:4.

    Args:
        wanted: ``auto`` or an encoder's name; a named encoder is never replaced by another.
        width: Pixels of a row.
        height: Rows.
        pix_fmt: Pixel format of the frames to come, one of the reader's formats.
        quality: CRF or CQ, 0 to 51, lower is better. NVENC's CQ 0 means "automatic", so 0 becomes 1 there.
        preset: The encoder's own preset; default ``veryfast`` (x264, x265) or ``p4`` (NVENC).
        light: HDR10 metadata to write into the stream.

    Returns:
        The encoder, the format it takes, its options, and notes on what was lost.

    Raises:
        SettingsError: Unknown encoder or quality out of range.
        EncoderError: The named encoder does not work here; says why and what to do.
    """
    _check(wanted, quality)
    request = _Request(width, height, pix_fmt, quality, preset, light)
    if wanted == "auto":
        return _automatic(request)
    return _named(wanted, request)


def usable_encoders() -> dict[str, str | None]:
    """Every supported encoder with None if it works on this machine, else the reason why not."""
    problems = {name: _usual_trial(name) for name in get_args(EncoderName)}
    return {name: tr(problem) if problem else None for name, problem in problems.items()}


def _check(wanted: str, quality: int) -> None:
    if wanted not in get_args(WantedEncoder):
        raise SettingsError(
            tr("unknown encoder {encoder!r}", encoder=wanted),
            remedy=tr("use one of {names}", names=", ".join(get_args(WantedEncoder))),
        )
    if not BEST_QUALITY <= quality <= WORST_QUALITY:
        raise SettingsError(
            tr(
                "the quality must be {best} to {worst}, but is {quality}",
                best=BEST_QUALITY,
                worst=WORST_QUALITY,
                quality=quality,
            ),
            remedy=tr("lower is better; 18 is near lossless, 23 usual"),
        )


def _automatic(request: _Request) -> EncoderChoice:
    gpu = "hevc_nvenc" if pixel_bits(request.pix_fmt) > 8 else "h264_nvenc"
    chosen = _first_working(gpu, request, lossless_only=True)
    notes: tuple[str, ...] = ()
    if chosen is None:
        if _usual_trial(gpu) is None:
            notes = (
                tr(
                    "{encoder} cannot keep {picture}: encoded on the CPU by libx264",
                    encoder=gpu,
                    picture=_picture(request),
                ),
            )
        chosen = _first_working("libx264", request)
    if chosen is None:
        raise _failure("libx264", request)
    return _with_notes(chosen, notes)


def _named(name: str, request: _Request) -> EncoderChoice:
    if request.preset is not None and request.preset not in _presets(name):
        raise EncoderError(
            tr("{name} has no preset {preset!r}", name=name, preset=request.preset),
            remedy=tr("use one of {names}", names=", ".join(_presets(name))),
        )
    chosen = _first_working(name, request)
    if chosen is None:
        raise _failure(name, request)
    return chosen


def _first_working(name: str, request: _Request, *, lossless_only: bool = False) -> EncoderChoice | None:
    preset, preset_note = _fitting_preset(name, request.preset)
    options = _options(name, request.quality, preset, request.light, request.width)
    refused = False
    for pix_fmt in _formats(name, request):
        loss = _loss(request, pix_fmt)
        if loss and lossless_only:
            return None
        if _trial(name, pix_fmt, request.width, request.height, tuple(options.items())) is None:
            wider = _wider_note(request, pix_fmt, refused=refused)
            notes = (*preset_note, *_size_note(request, pix_fmt), *wider, *loss)
            return EncoderChoice(name, pix_fmt, options, notes)
        refused = True
    return None


def _with_notes(choice: EncoderChoice, notes: tuple[str, ...]) -> EncoderChoice:
    return EncoderChoice(choice.name, choice.pix_fmt, choice.options, (*notes, *choice.notes))


def _failure(name: str, request: _Request) -> EncoderError:
    options = tuple(_options(name, request.quality, request.preset, request.light, request.width).items())
    formats = list(_formats(name, request))
    reason = mark("none of its formats fits")
    if formats:
        reason = _trial(name, formats[0], request.width, request.height, options) or reason
    remedy = tr("choose the encoder auto or libx264")
    if name.endswith("_nvenc"):
        remedy = tr(
            "choose the encoder auto or libx264; "
            "NVENC needs an NVIDIA GPU with its driver and a free encoding session"
        )
    what = tr(
        "{name} cannot encode {picture} here: {reason}",
        name=name,
        picture=_picture(request),
        reason=tr(reason),
    )
    return EncoderError(what, remedy=remedy)


def _picture(request: _Request) -> str:
    return f"{request.pix_fmt} {request.width}x{request.height}"


def _presets(name: str) -> tuple[str, ...]:
    return _NVENC_PRESETS if name.endswith("_nvenc") else _X26X_PRESETS


def _fitting_preset(name: str, preset: str | None) -> tuple[str | None, tuple[str, ...]]:
    """A preset of the other encoder family gives way to the default, and that is said."""
    if preset is None or preset in _presets(name):
        return preset, ()
    default = DEFAULT_PRESETS[name]
    return default, (
        tr("{name} has no preset {preset!r}: {default} used", name=name, preset=preset, default=default),
    )


def _options(
    name: str, quality: int, preset: str | None, light: LightLevels | None, width: int
) -> dict[str, str]:
    options = {"preset": preset or DEFAULT_PRESETS[name]}
    if name.endswith("_nvenc"):
        # Constant quality: variable rate without a target. CQ 0 would mean "automatic".
        return options | {"rc": "vbr", "cq": str(max(1, quality)), "b": "0", "tune": "hq"}
    options["crf"] = str(quality)
    if name == "libx265":
        options["x265-params"] = ":".join(["log-level=error", *_light_x265(light)])
    elif parameters := [*_light_x264(light), *repeatable_x264(width)]:
        options["x264-params"] = ":".join(parameters)
    return options


def repeatable_x264(width: int) -> Iterator[str]:
    """Keep x264 from AVX-512 where it would make the result depend on what lay in memory before.

    Its macroblock tree, in AVX-512, reads past the end of a row that is no multiple of eight macroblocks
    (seen with x264's core 165: MALLOC_PERTURB_ changes the pictures at 480 and 720 wide, not at 640). A
    segment encoded again must equal the first. Costs about 7 % of the encoder's speed, at such widths.
    """
    if math.ceil(width / 16) % 8 and has_avx512():
        yield "asm=AVX2,FMA3,BMI2"


def _light_x265(light: LightLevels | None) -> Iterator[str]:
    if light is not None and light.primaries and light.luminance:
        yield f"master-display={_mastering(light)}"
    if light is not None and light.content:
        yield "max-cll={},{}".format(*light.content)


def _light_x264(light: LightLevels | None) -> Iterator[str]:
    if light is not None and light.primaries and light.luminance:
        yield f"mastering-display={_mastering(light)}"
    if light is not None and light.content:
        yield "cll={},{}".format(*light.content)


def _mastering(light: LightLevels) -> str:
    """The notation x264 and x265 share; green comes first as in the SEI message."""
    red, green, blue, white = light.primaries
    points = {"G": green, "B": blue, "R": red, "WP": white, "L": light.luminance}
    return "".join(f"{key}({pair[0]},{pair[1]})" for key, pair in points.items())


def _formats(name: str, request: _Request) -> Iterator[str]:
    """Formats to try, the most faithful first; only those the encoder lists and the size allows."""
    listed = {known.name for known in Codec(name, "w").video_formats or ()}
    for pix_fmt in dict.fromkeys((request.pix_fmt, *_ranked(name, request.pix_fmt))):
        if pix_fmt in listed and _size_fits(pix_fmt, request.width, request.height):
            yield pix_fmt


def _ranked(name: str, pix_fmt: str) -> Iterator[str]:
    names = _NVENC if name.endswith("_nvenc") else _PLANAR
    for bits in (10, 8) if pixel_bits(pix_fmt) > 8 else (8,):
        for chroma in _CHROMA_ORDER[chroma_of(pix_fmt)]:
            yield names[chroma, bits]


def chroma_of(pix_fmt: str) -> str:
    """``420``, ``422`` or ``444`` of a YUV pixel format."""
    kind = VideoFormat(pix_fmt, 64, 64)
    if kind.chroma_width() == 64:
        return "444"
    return "422" if kind.chroma_height() == 64 else "420"


def _size_fits(pix_fmt: str, width: int, height: int) -> bool:
    """H.264 and HEVC store and crop in whole chroma samples."""
    chroma = chroma_of(pix_fmt)
    return not (width % 2 and chroma != "444") and not (height % 2 and chroma == "420")


def _loss(request: _Request, pix_fmt: str) -> tuple[str, ...]:
    notes = []
    if pixel_bits(pix_fmt) < pixel_bits(request.pix_fmt):
        notes.append(
            tr(
                "{before} bits per sample became {after}",
                before=pixel_bits(request.pix_fmt),
                after=pixel_bits(pix_fmt),
            )
        )
    before, after = chroma_of(request.pix_fmt), chroma_of(pix_fmt)
    if after < before:
        notes.append(tr("chroma {before} became {after}", before=before, after=after))
    return tuple(notes)


def _wider_note(request: _Request, pix_fmt: str, *, refused: bool) -> tuple[str, ...]:
    """Finer chroma loses nothing, but fewer players take it: said where a trial was ``refused``."""
    before, after = chroma_of(request.pix_fmt), chroma_of(pix_fmt)
    if after <= before or not refused:
        return ()
    return (
        tr(
            "chroma {before} became {after}, which not every player shows: "
            "the encoder did not take {before} just then",
            before=before,
            after=after,
        ),
    )


def _size_note(request: _Request, pix_fmt: str) -> tuple[str, ...]:
    if _size_fits(request.pix_fmt, request.width, request.height):
        return ()
    size = f"{request.width}x{request.height}"
    return (
        tr(
            "{size} is odd, which {format} cannot store: encoded as {used}",
            size=size,
            format=request.pix_fmt,
            used=pix_fmt,
        ),
    )


def _usual_trial(name: str) -> str | None:
    return _trial(name, "yuv420p", 640, 360, tuple(_options(name, 23, None, None, 640).items()))


_proved: set[tuple[object, ...]] = set()


def _trial(
    name: str, pix_fmt: str, width: int, height: int, options: tuple[tuple[str, str], ...]
) -> str | None:
    """None if one frame goes through, else the reason it does not; ``tr`` of it is shown."""
    request = name, pix_fmt, width, height, options
    problem = None if request in _proved else _try(*request)
    if problem is None:
        _proved.add(request)
    return problem


def _try(
    name: str, pix_fmt: str, width: int, height: int, options: tuple[tuple[str, str], ...]
) -> str | None:
    try:
        context = av.CodecContext.create(name, "w")
    except (av.FFmpegError, ValueError):
        return mark("this build of FFmpeg does not contain it")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = dict(options)
    # One frame needs no second thread; starting them would take most of the time.
    context.thread_count = 1
    try:
        packets = [*context.encode(_blank(pix_fmt, width, height)), *context.encode(None)]
    except av.FFmpegError as error:
        return error.strerror or type(error).__name__
    return None if packets else mark("it gave nothing back")


def _blank(pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane in frame.planes:
        plane.update(b"\x80" * plane.buffer_size)
    frame.pts = 0
    return frame
