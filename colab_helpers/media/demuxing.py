"""Media files opened, and their streams told apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from colab_helpers.addresses import require_downloaded
from colab_helpers.errors import MediaError
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import COPY_AGAIN_REMEDY, SNIFF_BYTES, sniff_file_type, unreadable_file_error

COVER = Disposition.attached_pic | Disposition.timed_thumbnails
"""Dispositions of pictures that stand for the file and are no video."""

MAX_FRAME_PIXELS = 1 << 26
"""Largest picture of a video taken, as its header says, before any is decoded: 8192 x 8192."""
MAX_STREAMS, MAX_HOURS = 256, 24
"""Most streams of a file, and hours of a video."""

UNKNOWN_CODEC = "unknown"
"""Name given to the codec of a stream this FFmpeg knows nothing about."""

# By whether there is a still picture, and whether there is audio.
_NO_PICTURE = {
    (True, True): mark("the file holds only cover art beside its sound"),
    (True, False): mark("the file holds only a still picture"),
    (False, True): mark("the file holds only sound"),
    (False, False): mark("the file holds no video"),
}
# Boxes an MP4 or QuickTime file begins with (ISO/IEC 14496-12, 4.3).
_FIRST_BOXES = (b"ftyp", b"mdat", b"moov", b"wide")
_CONVERT = mark("check that the file is complete and really a video, or convert it, e.g. to H.264 in MP4")
# Playlists and scripts (hls, dash, concat) could name other files or addresses; only formats whose data
# lies in the file itself are opened.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,"
    "mxf,h264,hevc,m4v,ivf,mjpeg,apng,nut,y4m,yuv4mpegpipe,dv,vc1,rm,obu,av1,wtv,gxf"
)
# Tags in an unknown encoding must not make a video unreadable: PyAV 18 has to be told, 19 always copes.
_TAG_DECODING: dict[str, Any] = {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


def open_source(path: Path) -> InputContainer:
    """Open a media file for demuxing; only formats that carry their own data, never the network.

    MediaError where it is no media file, or its index is missing because it was cut off.
    """
    try:
        require_downloaded(path)
    except PermissionError as error:
        raise unreadable_file_error(path, error) from error
    try:
        container: InputContainer = av.open(
            str(path), "r", container_options=dict(_OPEN_OPTIONS), **_TAG_DECODING
        )
    except av.FFmpegError as error:
        raise _unopenable(path, error) from error
    return container


def demux_packets(container: InputContainer, *streams: Any) -> Iterator[Packet[Any]]:
    """Yield the packets of some streams, or of all, and an empty one for each at the end.

    In MPEG files and FLV a stream may begin that the header did not name; nothing of it is read.
    """
    # PyAV 18 stumbles over such a stream once it has yielded the last packet of those it knows.
    with suppress(IndexError):
        yield from container.demux(*streams)


def _unopenable(path: Path, error: av.FFmpegError) -> MediaError:
    with path.open("rb") as file:
        start = file.read(SNIFF_BYTES)
    kind, remedy = sniff_file_type(start)
    if isinstance(error, EOFError) and not kind:
        what, remedy = tr("no frame: the file ends with its header"), COPY_AGAIN_REMEDY
    elif not kind and start[4:8] in _FIRST_BOXES:
        what = tr("the file is cut off: its index (moov) is not complete, so nothing in it can be found")
        remedy = mark("copy or download it again; a recording that broke off needs a repair tool")
    else:
        reason = tr(kind) or error.strerror or error
        what = tr("this is not a video that can be read ({kind})", kind=reason)
        remedy = remedy or _CONVERT
    return MediaError(what, where=str(path), remedy=tr(remedy))


def find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the default picture's stream, else the first, but no cover art; MediaError without one."""
    pictures = [stream for stream in container.streams.video if not stream.disposition & COVER]
    if pictures:
        chosen = next((one for one in pictures if one.disposition & Disposition.default), pictures[0])
        if chosen.codec_context is None:
            what, remedy = tr("no decoder for this kind of video"), tr("convert it, e.g. to H.264 in MP4")
            raise MediaError(what, where=str(path), remedy=remedy)
        if len(container.streams) > MAX_STREAMS:
            what = tr("it has more than {most} streams", most=MAX_STREAMS)
            raise MediaError(what, where=str(path), remedy=tr("copy the streams you need into another file"))
        # Pictures may grow where the video goes on; decoders count what they round widths up by, too.
        chosen.codec_context.options = {"max_pixels": str(2 * MAX_FRAME_PIXELS)}
        if (pixels := chosen.codec_context.width * chosen.codec_context.height) > MAX_FRAME_PIXELS:
            what = tr("its pictures are too large ({millions} million pixels)", millions=pixels // 10**6)
            raise MediaError(what, where=str(path), remedy=tr("scale it down first"))
        return chosen
    what = _NO_PICTURE[bool(container.streams.video), bool(container.streams.audio)]
    raise MediaError(tr(what), where=str(path), remedy=tr("choose a file with a video stream"))


def too_long_error(path: Path | str = "") -> MediaError:
    """Return the error of a video that is longer than is taken."""
    what = tr("the video is longer than {hours} hours", hours=MAX_HOURS)
    return MediaError(what, where=str(path), remedy=tr("cut it into parts"))


def to_fraction(value: Any) -> Fraction | None:
    """Return a rational of PyAV as a Fraction, None if unset; its own type rounds to 32 bits."""
    return Fraction(value.numerator, value.denominator) if value else None


def codec_name(stream: Stream) -> str:
    """Return FFmpeg's name of a stream's codec, or ``unknown``."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    return (stream.name if stream.type in ("data", "attachment") else None) or UNKNOWN_CODEC
