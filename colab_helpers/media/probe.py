"""What a video file holds, found from its header and a few frames.

At most a handful of frames is decoded, so probing costs little whatever the length of the file.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import math
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.format import VideoFormat
from av.video.stream import VideoStream
from numpy.typing import NDArray

from colab_helpers.errors import MediaError, MissingFileError
from colab_helpers.language import mark, tr

VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".flv", ".wmv", ".3gp", ".ogv", ".mxf",
))  # fmt: skip
"""Suffixes taken as videos; animated GIF is read as a video."""

IMAGE_KINDS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG",
    ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".heic": "HEIF",
    ".heif": "HEIF",
}  # fmt: skip
"""Suffixes taken as pictures, and Pillow's name of the format each stands for."""

# Modules that not every machine has, and what to install for them.
_READERS = {
    "HEIF": ("pillow_heif", "pip install pillow-heif"),
    "AVIF": ("PIL._avif", "pip install --upgrade pillow"),
}

UNSPECIFIED = 2
"""ISO/IEC 23091-4 code point "unspecified" of matrix, primaries and transfer."""

COVER = Disposition.attached_pic | Disposition.timed_thumbnails
"""Dispositions of pictures that stand for the file and are no video."""

SHOWN = 4096
"""Bytes at the start of a file that tell what it is."""

UNKNOWN_CODEC = "unknown"
"""Name given to the codec of a stream this FFmpeg knows nothing about."""

_MAX_PROBED_PACKETS = 600
"""Video packets tried before a stream counts as undecodable (ten seconds at 60 per second)."""

# Codecs whose pictures may change their size; formats whose times may come twice, so that places are sought
# in bytes; how many places are looked at for the largest size.
_RESIZABLE = frozenset(
    ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "vc1")
)
_BYTEWISE = frozenset(("mpegts", "mpeg"))
_SAMPLES = 8
# Codecs with frames stored out of order whose packets do not tell, and formats without presentation times.
_REORDERED = frozenset(("h264", "hevc"))
_WITHOUT_PTS = frozenset(("avi", "h264", "hevc"))

# Playlists and scripts (hls, dash, concat) could name other files or addresses; only formats whose data
# lies in the file itself are opened.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,"
    "mxf,h264,hevc,m4v,ivf,mjpeg,apng,nut,y4m,yuv4mpegpipe,dv,vc1,rm,obu,av1,wtv,gxf"
)
# Tags in an unknown encoding must not make a video unreadable: PyAV 18 has to be told, 19 always copes.
_TAG_DECODING: dict[str, Any] = {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


ByteImage = NDArray[np.uint8]


@dataclass(frozen=True)
class ColourTags:
    """Colour description of a stream as ISO/IEC 23091-4 (H.273) code points.

    Attributes:
        matrix: RGB-to-YUV matrix: 1 BT.709, 5/6 BT.601, 9 BT.2020, 0 RGB, 2 unspecified.
        range: 0 unspecified (taken as limited), 1 limited ("MPEG"), 2 full ("JPEG").
        primaries: 1 BT.709, 9 BT.2020, 12 Display P3, 2 unspecified.
        transfer: 1 BT.709, 16 PQ, 18 HLG, 2 unspecified.
    """

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED


_KINDS = {
    "audio": mark("audio"),
    "subtitle": mark("subtitle"),
    "data": mark("data"),
    "attachment": mark("attachment"),
    "video": mark("video"),
}


@dataclass(frozen=True)
class StreamInfo:
    """A stream beside the picture: sound, subtitles, data or an attached file.

    Attributes:
        index: Position in the file.
        kind: ``audio``, ``subtitle``, ``data``, ``attachment`` or ``video`` (a second picture or cover art).
        codec: FFmpeg's codec name, or ``unknown``.
        language: ISO 639-2 code as written in the file, or None.
        title: Title tag, or None.
        sample_rate: Samples per second of sound, else 0.
        channels: Channels of sound, else 0.
        disposition: FFmpeg's disposition bits (default, forced, attached picture, …).
    """

    index: int
    kind: str
    codec: str
    language: str | None = None
    title: str | None = None
    sample_rate: int = 0
    channels: int = 0
    disposition: int = 0

    def __str__(self) -> str:
        """Stream number, kind, codec and language, for messages."""
        codec = f"{self.codec}, {self.language}" if self.language else self.codec
        kind = tr(_KINDS.get(self.kind, self.kind))
        return tr("{kind} stream {index} ({codec})", kind=kind, index=self.index, codec=codec)


@dataclass(frozen=True)
class LightLevels:
    """HDR10 static metadata in the units of SMPTE ST 2086 and CTA-861.3.

    Attributes:
        primaries: Red, green, blue and white point, each (x, y) in units of 0.00002; empty if unknown.
        luminance: Maximum and minimum in units of 0.0001 cd/m²; empty if unknown.
        content: Maximum content and maximum frame-average light level in cd/m²; empty if unknown.
    """

    primaries: tuple[tuple[int, int], ...] = ()
    luminance: tuple[int, ...] = ()
    content: tuple[int, ...] = ()


@dataclass(frozen=True)
class VideoInfo:
    """A video file as its header and its first frame describe it.

    Attributes:
        path: The file, absolute.
        container: FFmpeg's demuxer name, e.g. ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: Codec of the picture stream, e.g. ``h264``.
        video_index: Position of the picture stream in the file.
        width: Pixels of a stored row, before rotation.
        height: Stored rows, before rotation.
        pix_fmt: FFmpeg's pixel format name of decoded frames.
        bit_depth: Bits of the deepest component (8, 10, 12, 16).
        time_base: Seconds per tick of the picture's time stamps.
        average_rate: Frames per second, or None if the file does not say.
        frames: Frames the file declares (edit lists honoured), else an estimate, else None.
        frames_declared: Whether ``frames`` is a count written in the file.
        start: Presentation time of the first frame in seconds.
        duration: Length of the picture stream in seconds; 0 if unknown.
        rotation: Clockwise degrees a player turns the picture by: 0, 90, 180 or 270.
        mirrored: Whether a player mirrors the stored picture left to right before it turns it.
        display_matrix: The nine integers behind ``rotation`` and ``mirrored``, or None.
        sample_aspect_ratio: Width of a pixel over its height, or None if unspecified.
        colour: Colour description.
        light: HDR10 static metadata, or None.
        interlaced: Whether the first frame is interlaced.
        is_vfr: Whether frame durations vary; None where only decoding could tell.
        in_coded_order: Whether times belong to places in the file and not to frames: the container has no
            presentation times, and its codec may store frames out of order (H.264 in AVI).
        alpha: Whether the picture has transparency, also where this FFmpeg does not decode it.
        audio: Sound streams.
        subtitles: Subtitle streams.
        others: Data, attachments, cover art and further pictures.
        metadata: Tags of the file.
        size_bytes: Size of the file.
    """

    path: Path
    container: str
    codec: str
    video_index: int
    width: int
    height: int
    pix_fmt: str
    bit_depth: int
    time_base: Fraction
    average_rate: Fraction | None
    frames: int | None
    frames_declared: bool
    start: Fraction
    duration: Fraction
    rotation: int
    display_matrix: tuple[int, ...] | None
    sample_aspect_ratio: Fraction | None
    colour: ColourTags
    light: LightLevels | None
    interlaced: bool
    is_vfr: bool | None
    size_bytes: int
    mirrored: bool = False
    in_coded_order: bool = False
    alpha: bool = False
    audio: tuple[StreamInfo, ...] = ()
    subtitles: tuple[StreamInfo, ...] = ()
    others: tuple[StreamInfo, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in pixels as shown: after rotation, sample aspect not applied."""
        turned = self.rotation in (90, 270)
        return (self.height, self.width) if turned else (self.width, self.height)

    @property
    def heads_up(self) -> int:
        """Clockwise degrees that bring heads up in the stored picture, which stays mirrored if it is."""
        return -self.rotation % 360 if self.mirrored else self.rotation

    def upright(self, image: NDArray[Any]) -> ByteImage:
        """A stored ``(H, W, 3)`` picture as players show it."""
        turned = np.rot90(image[:, ::-1] if self.mirrored else image, -(self.rotation // 90))
        return np.ascontiguousarray(turned, np.uint8)


def is_image(path: str | Path) -> bool:
    """Whether the suffix is that of a single picture."""
    return Path(path).suffix.lower() in IMAGE_KINDS


def reader_missing(path: str | Path) -> str:
    """The command that installs what reads pictures of this suffix; empty if they can be read, or never."""
    module, command = _READERS.get(IMAGE_KINDS.get(Path(path).suffix.lower(), ""), ("", ""))
    return command if module and find_spec(module) is None else ""


def is_video(path: str | Path) -> bool:
    """Whether the suffix is that of a video (animated GIF included)."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def probe(path: str | Path) -> VideoInfo:
    """Describes a video from its header and its first frame.

    Args:
        path: The video file.

    Returns:
        The description. ``width`` and ``height`` are the largest met at a few places, where they change.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is a folder, empty, not a video, cut off, without a picture, or undecodable.
    """
    path = existing_file(path)
    with open_source(path) as container:
        stream = picture_stream(container, path)
        frame, start = _first_frame(container, stream, path)
        info = _describe(path, container, stream, frame, start)
        width, height = _largest_size(container, stream, info)
        return replace(info, width=width, height=height)


def existing_file(path: str | Path) -> Path:
    """The absolute path of a readable, non-empty file.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is a folder or a pipe, empty, or cannot be read.
    """
    path = Path(path).absolute()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise _unreadable(path, error) from error
        what = tr("the link leads nowhere") if path.is_symlink() else tr("there is no such file")
        raise MissingFileError(
            what, where=str(path), remedy=tr("check the name, the folder and the suffix")
        ) from error
    if stat.S_ISDIR(mode):
        raise MediaError(
            tr("this is a folder, not a file"), where=str(path), remedy=tr("name a file inside it")
        )
    if not stat.S_ISREG(mode):  # reading a pipe might wait for ever
        raise MediaError(
            tr("this is a pipe or device, not a file"), where=str(path), remedy=tr("name a file")
        )
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if empty:
        raise MediaError(tr("the file is empty"), where=str(path), remedy=tr(_AGAIN))
    return path


def _unreadable(path: Path, error: OSError) -> MediaError:
    return MediaError(
        tr("the file cannot be read ({reason})", reason=error.strerror or error),
        where=str(path),
        remedy=tr("check your rights to it and the disk it lies on"),
    )


def open_source(path: Path) -> InputContainer:
    """Opens a media file for demuxing; only formats that carry their own data, never the network.

    Raises:
        MediaError: The file is no media file, or its index is missing because it was cut off.
    """
    try:
        container: InputContainer = av.open(
            str(path), "r", container_options=dict(_OPEN_OPTIONS), **_TAG_DECODING
        )
    except av.FFmpegError as error:
        raise _why_unopenable(path, error) from error
    return container


def picture_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream to work on: the default one, else the first; cover art does not count.

    Raises:
        MediaError: There is none.
    """
    pictures = [stream for stream in container.streams.video if not _is_cover(stream)]
    if pictures:
        marked = [stream for stream in pictures if stream.disposition & Disposition.default]
        chosen = (marked or pictures)[0]
        if chosen.codec_context is None:
            raise MediaError(tr("no decoder for this kind of video"), where=str(path), remedy=tr(_CONVERT))
        return chosen
    raise MediaError(_instead(container), where=str(path), remedy=tr("choose a file with a video stream"))


def _instead(container: InputContainer) -> str:
    """What a file holds that has no video."""
    if container.streams.video and container.streams.audio:
        return tr("the file holds only cover art beside its sound")
    if container.streams.video:
        return tr("the file holds only a still picture")
    return tr("the file holds only sound") if container.streams.audio else tr("the file holds no video")


def exact(value: Any) -> Fraction | None:
    """A rational of PyAV as a Fraction, None if unset; its own type rounds to 32 bits when it computes."""
    return Fraction(value.numerator, value.denominator) if value else None


def pixel_bits(pix_fmt: str) -> int:
    """Bits of the deepest component of a pixel format (8 for palettes)."""
    kind = VideoFormat(pix_fmt)
    return 8 if kind.has_palette else max(component.bits for component in kind.components)


_CONVERT = mark("convert it, e.g. to H.264 in MP4")
_AGAIN = mark("copy or download it again")
WRONG_SUFFIX = mark("give it the suffix of its kind, or choose another file")
_UNPACK = mark("unpack it and choose the file inside")
# How files begin that are often given a video's name by mistake.
_FOREIGN = (
    (b"\x89PNG\r\n\x1a\n", mark("it is a PNG picture"), WRONG_SUFFIX),
    (b"\xff\xd8\xff", mark("it is a JPEG picture"), WRONG_SUFFIX),
    (b"PK\x03\x04", mark("it is a ZIP archive"), _UNPACK),
    (b"Rar!", mark("it is a RAR archive"), _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", mark("it is a 7z archive"), _UNPACK),
    (b"\x1f\x8b", mark("it is a gzip archive"), _UNPACK),
    (b"%PDF", mark("it is a PDF document"), mark("choose another file")),
)
# Brands of still pictures among files that begin like an MP4 (ISO/IEC 23008-12, 10.2; AVIF 1.1, 8).
_HEIC, _AVIF = (mark("it is a HEIC picture"), ".heic"), (mark("it is an AVIF picture"), ".avif")
_STILL_BRANDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), _HEIC)
_STILL_BRANDS |= dict.fromkeys((b"avif", b"avis"), _AVIF)


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & COVER)


def _why_unopenable(path: Path, error: av.FFmpegError) -> MediaError:
    with path.open("rb") as file:
        kind, remedy = foreign_kind(file.read(SHOWN))
    boxes = {} if kind else dict(_boxes(path))
    if boxes.keys() & {b"ftyp", b"mdat"} and (b"moov" not in boxes or boxes[b"moov"] > path.stat().st_size):
        return MediaError(
            tr("the file is cut off: its index (moov) is missing, so nothing in it can be found")
            if b"moov" not in boxes
            else tr("the file is cut off: its index (moov) is not complete, so nothing in it can be found"),
            where=str(path),
            remedy=tr("copy or download it again; a recording that broke off needs a repair tool"),
        )
    if isinstance(error, EOFError):
        return MediaError(tr("no frame: the file ends with its header"), where=str(path), remedy=tr(_AGAIN))
    return MediaError(
        tr("this is not a video that can be read ({kind})", kind=tr(kind) or error.strerror),
        where=str(path),
        remedy=tr(remedy)
        or tr("check that the file is complete and really a video, or convert it, e.g. to H.264 in MP4"),
    )


def foreign_kind(start: bytes) -> tuple[str, str]:
    """What a file is that was taken for something else, and what to do; empty if that is not known.

    ``tr`` of both is shown.

    Args:
        start: Its first bytes, `SHOWN` of them if it has so many.
    """
    for signature, what, remedy in _FOREIGN:
        if start.startswith(signature):
            return what, remedy
    if start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS:
        what, suffix = _STILL_BRANDS[start[8:12]]
        command = reader_missing(f"x{suffix}")
        return what, tr("install what reads it: {command}", command=command) if command else WRONG_SUFFIX
    if not start.strip(b"\0"):
        return mark("it begins with nothing but zeros"), _AGAIN
    try:
        # A letter may be cut in two where this ends.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return "", ""
    if not all(letter.isprintable() or letter.isspace() for letter in text):
        return "", ""
    if text.lstrip()[:1] == "<":
        return mark("it is a web page or a drawing"), mark(
            "copy or download it again; a link may have asked for a login"
        )
    return mark("it is text"), _AGAIN


def _boxes(path: Path) -> Iterator[tuple[bytes, int]]:
    """Types and ends of the top-level boxes of an ISO base media file (ISO/IEC 14496-12, 4.2)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        while position + 8 <= size:
            length, kind = _box_header(file, position)
            yield kind, position + length
            if length < 8:
                return
            position += length


def _box_header(file: BinaryIO, position: int) -> tuple[int, bytes]:
    file.seek(position)
    head = file.read(16)
    length, kind = struct.unpack(">I4s", head[:8])
    if length == 1 and len(head) == 16:
        (length,) = struct.unpack(">Q", head[8:])
    return length, kind


def _first_frame(
    container: InputContainer, stream: VideoStream, path: Path
) -> tuple[av.VideoFrame, int | None]:
    """The first frame, and when it is shown in ticks."""
    last_error = ""
    first: int | None = None
    try:
        for tried, packet in enumerate(container.demux(stream)):
            first = packet.dts if tried == 0 else first
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                last_error = f" ({error.strerror})"
                frames = []
            if frames:
                return frames[0], first if _in_coded_order(container, stream) else frames[0].pts
            if tried >= _MAX_PROBED_PACKETS:
                break
    except av.FFmpegError as error:
        last_error = f" ({error.strerror})"
    raise MediaError(
        tr("no frame of the video can be decoded{error}", error=last_error),
        where=str(path),
        remedy=tr("check that the file is complete, or convert it, e.g. to H.264 in MP4"),
    )


def _largest_size(container: InputContainer, stream: VideoStream, info: VideoInfo) -> tuple[int, int]:
    """The largest size met at a few places: scaled to it nothing is lost."""
    if is_mov(container) or info.codec not in _RESIZABLE:
        return info.width, info.height
    bytewise = bool(_BYTEWISE & set(info.container.split(",")))
    begin = 0 if bytewise else int(info.start / info.time_base)
    whole = info.size_bytes if bytewise else int(info.duration / info.time_base)
    if not whole:
        # A recorder that was not stopped in order leaves no length: the packets tell.
        with contextlib.suppress(av.FFmpegError):
            whole = max((packet.pts or 0 for packet in container.demux(stream)), default=0) - begin
    sizes = Counter([(info.width, info.height)])
    for part in range(1, _SAMPLES):
        place = begin + whole * part // _SAMPLES
        try:
            if bytewise:
                container.seek(place, unsupported_byte_offset=True)
            else:
                container.seek(place, stream=stream)
        except av.FFmpegError:
            continue
        frame = _frame_after_seek(container, stream)
        if frame is not None:
            sizes[frame.width, frame.height] += 1
    return max(sizes, key=lambda size: (size[0] * size[1], sizes[size]))


def _frame_after_seek(container: InputContainer, stream: VideoStream) -> av.VideoFrame | None:
    """The first frame from the next key frame on; None if none comes soon."""
    begun = False
    with contextlib.suppress(av.FFmpegError):
        for packet in islice(container.demux(stream), _MAX_PROBED_PACKETS):
            begun = begun or packet.is_keyframe
            if begun and (frames := packet.decode()):
                return frames[0]
    return None


def _in_coded_order(container: InputContainer, stream: VideoStream) -> bool:
    codec = stream.codec_context.codec.canonical_name
    return codec in _REORDERED and container.format.name in _WITHOUT_PTS


def _describe(
    path: Path, container: InputContainer, stream: VideoStream, frame: av.VideoFrame, start: int | None
) -> VideoInfo:
    time_base = exact(stream.time_base) or Fraction(1, 1000)
    rate = exact(stream.average_rate) or exact(stream.guessed_rate)
    duration = _duration(container, stream, time_base)
    counted = _declared_frames(container, stream)
    matrix = _display_matrix(frame)
    beside = [_stream_info(other) for other in container.streams if other.index != stream.index]
    return VideoInfo(
        path=path,
        container=container.format.name,
        codec=stream.codec_context.name,
        video_index=stream.index,
        width=frame.width,
        height=frame.height,
        pix_fmt=frame.format.name,
        bit_depth=pixel_bits(frame.format.name),
        time_base=time_base,
        average_rate=rate,
        frames=counted or (round(duration * rate) if rate and duration else None),
        frames_declared=bool(counted),
        start=(start or 0) * time_base,
        duration=duration,
        rotation=_rotation(matrix) if matrix else 0,
        mirrored=_mirrors(matrix) if matrix else False,
        display_matrix=matrix,
        sample_aspect_ratio=exact(stream.sample_aspect_ratio),
        colour=_colour(stream, frame),
        light=_light(frame),
        interlaced=frame.interlaced_frame,
        is_vfr=_is_vfr(container, stream),
        size_bytes=path.stat().st_size,
        in_coded_order=_in_coded_order(container, stream),
        alpha=_has_alpha(frame, stream),
        audio=tuple(info for info in beside if info.kind == "audio"),
        subtitles=tuple(info for info in beside if info.kind == "subtitle"),
        others=tuple(info for info in beside if info.kind not in ("audio", "subtitle")),
        metadata=_tags(container.metadata),
    )


def _tags(found: Mapping[str, str]) -> dict[str, str]:
    """MP4 may state a tag in two places; newer FFmpeg gives both, joined by a semicolon."""
    return {key: _once(value) for key, value in found.items()}


def _once(value: str) -> str:
    half = value[: len(value) // 2]
    return half if half and value == f"{half};{half}" else value


def _stream_info(stream: Stream) -> StreamInfo:
    sound: Any = stream.codec_context if stream.type == "audio" else None
    return StreamInfo(
        index=stream.index,
        kind=stream.type,
        codec=_codec_name(stream),
        language=stream.language,
        title=stream.metadata.get("title"),
        sample_rate=sound.sample_rate if sound else 0,
        channels=sound.channels if sound else 0,
        disposition=int(stream.disposition),
    )


def _codec_name(stream: Stream) -> str:
    if stream.codec_context is not None:
        return stream.codec_context.name
    return (stream.name if stream.type in ("data", "attachment") else None) or UNKNOWN_CODEC


def _duration(container: InputContainer, stream: VideoStream, time_base: Fraction) -> Fraction:
    if stream.duration:
        return stream.duration * time_base
    tagged = tagged_duration(stream)
    if tagged:
        return tagged
    return Fraction(container.duration or 0, av.time_base)


def tagged_duration(stream: Stream) -> Fraction | None:
    """Length of a stream in seconds from the statistics tag Matroska writers leave, or None."""
    text = next((value for key, value in stream.metadata.items() if key.startswith("DURATION")), "")
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def is_mov(container: InputContainer) -> bool:
    """Whether the file is of the MP4 family, whose header lists every sample."""
    return "mp4" in container.format.name.split(",")


def _declared_frames(container: InputContainer, stream: VideoStream) -> int:
    if stream.frames and is_mov(container):
        # The sample table counts frames an edit list hides; the demuxer's index marks those.
        shown = sum(not entry.is_discard for entry in stream.index_entries)
        return shown or stream.frames
    return stream.frames


def _is_vfr(container: InputContainer, stream: VideoStream) -> bool | None:
    if not is_mov(container) or not stream.frames:
        return None
    stamps = [entry.timestamp for entry in stream.index_entries]
    return len({after - before for before, after in pairwise(stamps)}) > 1


def _side_data(frame: av.VideoFrame, name: str) -> bytes | None:
    data: Any = frame.side_data
    try:
        return bytes(data[name])
    except KeyError:
        return None


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    raw = _side_data(frame, "DISPLAYMATRIX")
    return struct.unpack("=9i", raw[:36]) if raw else None


def _mirrors(matrix: tuple[int, ...]) -> bool:
    """Whether the display matrix (ISO/IEC 14496-12, 6.2.2: a b u c d v x y w) has a negative determinant."""
    a, b, _, c, d = matrix[:5]
    return a * d < b * c


def _rotation(matrix: tuple[int, ...]) -> int:
    """Clockwise degrees by where the first axis goes; players know only quarter turns."""
    sign = -1 if _mirrors(matrix) else 1
    return round(math.degrees(math.atan2(sign * matrix[1], sign * matrix[0])) / 90) % 4 * 90


def _has_alpha(frame: av.VideoFrame, stream: VideoStream) -> bool:
    """VP8 and VP9 keep alpha in a second stream, which only a tag tells of."""
    tagged = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    return tagged or any(part.is_alpha for part in frame.format.components)


def _colour(stream: VideoStream, frame: av.VideoFrame) -> ColourTags:
    """The bitstream's word, else the container's."""
    context = stream.codec_context
    return ColourTags(
        matrix=_known(frame.colorspace, context.colorspace),
        range=frame.color_range or context.color_range,
        primaries=_known(frame.color_primaries, context.color_primaries),
        transfer=_known(frame.color_trc, context.color_trc),
    )


def _known(first: int, second: int) -> int:
    return int(second if first == UNSPECIFIED else first)


def _light(frame: av.VideoFrame) -> LightLevels | None:
    mastering = _side_data(frame, "MASTERING_DISPLAY_METADATA")
    content = _side_data(frame, "CONTENT_LIGHT_LEVEL")
    if mastering is None and content is None:
        return None
    primaries, luminance = _mastering(mastering) if mastering else ((), ())
    return LightLevels(
        primaries=primaries,
        luminance=luminance,
        content=struct.unpack("=2I", content[:8]) if content else (),
    )


def _mastering(raw: bytes) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """AVMasteringDisplayMetadata: ten rationals (r, g, b, white, min, max), then two flags."""
    numbers = struct.unpack("=22i", raw[:88])
    parts = [
        Fraction(top, bottom) if bottom else Fraction(0)
        for top, bottom in zip(numbers[0:20:2], numbers[1:20:2], strict=True)
    ]
    points = [round(part * 50000) for part in parts[:8]]
    has_primaries, has_luminance = numbers[20:]
    return (
        tuple(zip(points[0::2], points[1::2], strict=True)) if has_primaries else (),
        (round(parts[9] * 10000), round(parts[8] * 10000)) if has_luminance else (),
    )
