"""The picture's stream in a file: set up for an encoder, with all that the source says of its picture."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from colab_helpers.errors import EncoderError
from colab_helpers.language import tr
from colab_helpers.media.conversion import working_colour
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.formats import DEFAULT_RATE, is_mov, same_range
from colab_helpers.media.probe import VideoInfo

_CONVERTER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
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
        raise _failed(
            tr("{name} does not open ({reason})", name=choice.name, reason=error.strerror)
        ) from error
    return stream


class FrameEncoder:
    """Encodes frames into packets of a stream made by `add_picture`."""

    def __init__(self, stream: VideoStream, choice: EncoderChoice) -> None:
        self._stream, self._choice = stream, choice
        self._converter = VideoReformatter()
        self._count = 0

    def packets(self, video: av.VideoFrame | None) -> Iterator[Packet[Any]]:
        """Yield what is ready after a picture, or with None what is left.

        Raises:
            EncoderError: The encoder failed.
        """
        if video is not None:
            # Decoded frames carry the type they were coded as; the encoder would take it as an order.
            video.pict_type = PictureType.NONE
            self._count += 1
        try:
            yield from self._stream.encode(video if video is None else self._fitting(video))
        except av.FFmpegError as error:
            what = tr(
                "{name} failed at frame {number} ({reason})",
                name=self._choice.name,
                number=self._count,
                reason=error.strerror,
            )
            raise _failed(what) from error

    def _fitting(self, video: av.VideoFrame) -> av.VideoFrame:
        """The picture in the encoder's format: same matrix, same range, only samples laid out anew."""
        if video.format.name == self._choice.pix_fmt:
            return video
        return self._converter.reformat(
            video, format=self._choice.pix_fmt, interpolation=_CONVERTER, **same_range(video)
        )


def _failed(what: str) -> EncoderError:
    return EncoderError(what, remedy=tr("choose the encoder libx264"))
