"""The picture's stream in a file: set up for an encoder, with all that the source says of its picture."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from colab_helpers.errors import EncoderError
from colab_helpers.language import tr
from colab_helpers.media.conversion import working_colour
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.formats import DEFAULT_RATE, is_mov
from colab_helpers.media.probe import VideoInfo

_INTERLACED_DCT, _INTERLACED_ME = 1 << 18, 1 << 29
"""FFmpeg's AV_CODEC_FLAG_INTERLACED_DCT and _ME."""


def add_picture(
    output: OutputContainer, info: VideoInfo, choice: EncoderChoice, time_base: Fraction
) -> VideoStream:
    """Add the picture's stream to a file; its encoder is open.

    Args:
        output: The file.
        info: The source, for size, rate, colour and rotation.
        choice: The encoder.
        time_base: Seconds per tick of the frames' timestamps.

    Raises:
        EncoderError: The encoder does not open.
    """
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
        # Apple's players take HEVC under this name only; others take both.
        context.codec_tag = "hvc1"
    if info.display_matrix:
        stream.set_display_matrix(info.display_matrix)
    try:
        context.open()
    except av.FFmpegError as error:
        what = tr("{name} does not open ({reason})", name=choice.name, reason=error.strerror)
        raise encoder_failed(what) from error
    return stream


def encoder_failed(what: str) -> EncoderError:
    """Return the error to raise for an encoder that does not do its work."""
    return EncoderError(what, remedy=tr("choose the encoder libx264"))
