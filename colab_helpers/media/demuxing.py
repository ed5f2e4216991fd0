"""Open media files for demuxing and find their video stream."""

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
"""Dispositions of video streams that hold cover art or thumbnails."""

MAX_FRAME_PIXELS = 1 << 26
"""Largest frame accepted, by the header, before anything is decoded: 8192 x 8192 pixels."""
MAX_STREAMS, MAX_HOURS = 256, 24
"""Most streams in a file, and longest duration of a video in hours."""

UNKNOWN_CODEC = "unknown"
"""Name of a codec that this FFmpeg does not know."""

# Keys: whether there is cover art, whether there is audio.
_NO_VIDEO = {
    (True, True): mark("the file holds only audio and cover art"),
    (True, False): mark("the file holds only a still picture"),
    (False, True): mark("the file holds only audio"),
    (False, False): mark("the file holds no video"),
}
# Types of the first box of an MP4 or QuickTime file (ISO/IEC 14496-12, 4.3).
_FIRST_BOXES = (b"ftyp", b"mdat", b"moov", b"wide")
_CONVERT = mark("check that the file is complete and really a video, or convert it, e.g. to H.264 in MP4")
# Only formats with their own data: playlists and scripts (hls, dash, concat) may name other files or URLs.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,"
    "mxf,h264,hevc,m4v,ivf,mjpeg,apng,nut,y4m,yuv4mpegpipe,dv,vc1,rm,obu,av1,wtv,gxf"
)
# Tags in an unknown encoding must not make a video unreadable: PyAV 18 needs this option, 19 always replaces.
_TAG_DECODING: dict[str, Any] = {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


def open_source(path: Path) -> InputContainer:
    """Open a media file for demuxing, without ever following references to other files or the network.

    Raise MediaError if it is no media file, cannot be read, or was cut off before its index.
    """
    try:
        require_downloaded(path)
    except PermissionError as error:
        raise unreadable_file_error(path, error) from error
    try:
        options = {"container_options": dict(_OPEN_OPTIONS), **_TAG_DECODING}
        container: InputContainer = av.open(str(path), "r", **options)
    except av.FFmpegError as error:
        raise _open_error(path, error) from error
    return container


def demux_packets(container: InputContainer, *streams: Any) -> Iterator[Packet[Any]]:
    """Yield the packets of the given streams, or of all, and an empty one for each at the end.

    Streams that MPEG and FLV files start later without naming them in the header are ignored.
    """
    # PyAV 18 raises IndexError for such a stream after the last packet of those it knows.
    with suppress(IndexError):
        yield from container.demux(*streams)


def _open_error(path: Path, error: av.FFmpegError) -> MediaError:
    with path.open("rb") as file:
        start = file.read(SNIFF_BYTES)
    kind, remedy = sniff_file_type(start)
    if isinstance(error, EOFError) and not kind:
        what, remedy = tr("the file is cut off: it ends after its header"), COPY_AGAIN_REMEDY
    elif not kind and start[4:8] in _FIRST_BOXES:
        what = tr("the file is cut off: its index (moov) is missing or incomplete")
        remedy = mark("copy or download it again; an interrupted recording needs a repair tool")
    else:
        reason = tr(kind) or error.strerror or error
        what = tr("this is not a video that can be read ({kind})", kind=reason)
        remedy = remedy or _CONVERT
    return MediaError(what, where=str(path), remedy=tr(remedy))


def find_video_stream(container: InputContainer, path: Path) -> VideoStream:
    """Return the default video stream, else the first, ignoring cover art.

    Raise MediaError if there is none, it cannot be decoded, or the file exceeds a limit.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & COVER]
    if streams:
        chosen = next((one for one in streams if one.disposition & Disposition.default), streams[0])
        if chosen.codec_context is None:
            what, remedy = tr("there is no decoder for its codec"), tr("convert it, e.g. to H.264 in MP4")
            raise MediaError(what, where=str(path), remedy=remedy)
        if len(container.streams) > MAX_STREAMS:
            what = tr("it has more than {most} streams", most=MAX_STREAMS)
            raise MediaError(what, where=str(path), remedy=tr("copy the streams you need into another file"))
        # Frames may grow later in the video, and decoders count padded widths, too.
        chosen.codec_context.options = {"max_pixels": str(2 * MAX_FRAME_PIXELS)}
        if (pixels := chosen.codec_context.width * chosen.codec_context.height) > MAX_FRAME_PIXELS:
            what = tr("its frames are too large ({millions} million pixels)", millions=pixels // 10**6)
            raise MediaError(what, where=str(path), remedy=tr("scale it down first"))
        return chosen
    what = _NO_VIDEO[bool(container.streams.video), bool(container.streams.audio)]
    raise MediaError(tr(what), where=str(path), remedy=tr("choose a file with a video stream"))


def too_long_error(path: Path | str = "") -> MediaError:
    """Return the error for a video longer than `MAX_HOURS`."""
    what = tr("the video is longer than {hours} hours", hours=MAX_HOURS)
    return MediaError(what, where=str(path), remedy=tr("cut it into parts"))


def to_fraction(value: Any) -> Fraction | None:
    """Return a PyAV rational as a Fraction, or None if unset; PyAV's own type rounds to 32 bits."""
    return Fraction(value.numerator, value.denominator) if value else None


def codec_name(stream: Stream) -> str:
    """Return FFmpeg's name for a stream's codec, or `UNKNOWN_CODEC`."""
    if stream.codec_context is not None:
        return stream.codec_context.name
    return (stream.name if stream.type in ("data", "attachment") else None) or UNKNOWN_CODEC
