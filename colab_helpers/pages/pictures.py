"""Pictures and video players of results, small enough to be embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from colab_helpers.batch.report import FileReport, PersonReport
from colab_helpers.batch.thumbnails import data_url
from colab_helpers.errors import MediaError
from colab_helpers.faces.types import ByteImage
from colab_helpers.language import tr
from colab_helpers.media.demuxing import demux_packets, open_source
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import is_image
from colab_helpers.media.probe import VideoInfo, probe

MAX_PLAYER_BYTES = 1_500_000
"""Maximum bytes of video in one page: Jupyter drops output above a data rate of some MB per second."""
MAX_PLAYERS = 6
CLIP_SECONDS = 4.0
# Positions to try in a video without quality data, as shares of its length.
_CANDIDATES = (0.5, 0.25, 0.75, 0.1, 0.9)
# Side of a portrait relative to the face's bounding box, and height in pixels.
_PORTRAIT_MARGIN, _PORTRAIT_HEIGHT = 1.5, 72
# Timestamps of target and result may differ by the container's rounding (Matroska counts milliseconds).
_TIME_TOLERANCE = 0.002
_CLIP_EDGE = 480
_RATE = 30
# The bit rate is capped so that a clip fits its share of MAX_PLAYER_BYTES, whatever it shows.
_ENCODING = {"preset": "veryfast", "crf": "26", "maxrate": "400k", "bufsize": "400k"}
_TICK = Fraction(1, 1000)
_PLAYABLE = (".mp4", ".m4v", ".mov")


Pair = tuple[ByteImage, ByteImage]
"""The same moment of a target and of its result, each ``(H, W, 3)`` uint8 BGR."""


@dataclass(frozen=True)
class Picture:
    """A picture in a page; ``url`` is empty if there is none, ``shape`` is width / height."""

    caption: str
    url: str = ""
    shape: float = 1.0

    @classmethod
    def of(cls, caption: str, image: ByteImage) -> Picture:
        """Encode an image."""
        return cls(caption, data_url(image), image.shape[1] / image.shape[0])


@dataclass(frozen=True)
class Player:
    """A video in a page; ``note`` says if it is only an excerpt."""

    path: Path
    url: str
    note: str


def pictures_of(file: FileReport) -> list[Picture]:
    """Return source, before and after of a finished file; raise MediaError if a file cannot be decoded."""
    before, after = pair_of(file)
    return [_source(file.source), Picture.of(tr("before"), before), Picture.of(tr("after"), after)]


def _source(sources: Sequence[str]) -> Picture:
    """Return the first source photo, or the reason why it cannot be shown."""
    if not sources or not Path(sources[0]).is_file():
        return Picture(tr("source (given in memory)"))
    try:
        return Picture.of(tr("source"), read_image(sources[0]))
    except (MediaError, OSError) as error:
        return Picture(tr("source: no picture ({error})", error=error))


def pair_of(file: FileReport) -> Pair:
    """Pick a moment of a file: in its longest span with a changed face, else where the change is largest."""
    target, output = Path(file.target), Path(file.output or "")
    if is_image(target):
        return read_image(target), read_image(output)
    length = float(probe(target).duration)
    # A keyframe of the result costs one decoded frame instead of hundreds.
    results = (_frame(output, best * length, earliest=first * length) for best, first in _positions(file))
    return max(((frame_at(target, time), after) for after, time in results), key=_change)


def _positions(file: FileReport) -> list[tuple[float, float]]:
    """Return positions to try as shares of a video's length: the best, and the earliest acceptable one."""
    if file.quality is not None and file.frames_out:
        edges = [0, *(edge for span in file.quality.missed_spans for edge in span), file.frames_out]
        spans = zip(edges[::2], edges[1::2], strict=True)
        length, start = max((stop - start, start) for start, stop in spans)
        if length > 0:
            return [((start + length / 2) / file.frames_out, start / file.frames_out)]
    return [(share, share) for share in _CANDIDATES]


def _change(pair: Pair) -> float:
    """Return the mean absolute difference in grey levels; 0 if the sizes differ."""
    before, after = pair
    return float(np.mean(cv2.absdiff(before, after))) if before.shape == after.shape else 0.0


def frame_at(path: Path, seconds: float) -> ByteImage:
    """Decode the frame shown ``seconds`` after the first one, upright: ``(H, W, 3)`` uint8 BGR.

    Beyond the end, return the last frame. Raise MediaError if the file cannot be decoded there.
    """
    return _frame(path, seconds, earliest=seconds)[0]


def portraits_of(file: FileReport) -> list[str]:
    """Return a portrait of each person as a data URL, empty if there is none.

    People seen for less than a second have no portrait in the report: theirs is cropped from the target.
    """
    return [_portrait(file, person) for person in (file.quality.people if file.quality else ())]


def _portrait(file: FileReport, person: PersonReport) -> str:
    if person.portrait or person.portrait_seconds is None or person.portrait_box is None:
        return person.portrait
    try:
        return portrait_of(Path(file.target), person.portrait_seconds, person.portrait_box)
    except (MediaError, OSError, ValueError):  # files change after a run
        return ""


def portrait_of(path: Path, seconds: float, box: Sequence[float]) -> str:
    """Crop a face, with a margin, from the frame shown ``seconds`` after the first; return a data URL.

    The box is xyxy in pixels of the stored frame (before rotation). Raise MediaError if the file cannot be
    decoded there, or the box is outside the frame.
    """
    info = probe(path)
    image, _ = _stored_frame(info, seconds, earliest=seconds)
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    half = _PORTRAIT_MARGIN * max(right - left, bottom - top) / 2
    rows = slice(max(0, round(y - half)), max(0, round(y + half)))
    crop = image[rows, max(0, round(x - half)) : max(0, round(x + half))]
    if not crop.size:
        raise MediaError(tr("no frame could be decoded for a picture"), where=str(path))
    return data_url(info.upright(crop), height=_PORTRAIT_HEIGHT)


def _frame(path: Path, seconds: float, *, earliest: float) -> tuple[ByteImage, float]:
    """Decode the frame at ``seconds``, or the keyframe before it if not before ``earliest``, and its time."""
    info = probe(path)
    image, time = _stored_frame(info, seconds, earliest=earliest)
    return info.upright(image), time


def _stored_frame(info: VideoInfo, seconds: float, *, earliest: float) -> tuple[ByteImage, float]:
    path = info.path
    start = float(info.start)
    try:
        with open_source(path) as container:
            stream = next(s for s in container.streams.video if s.index == info.video_index)
            stream.thread_type = "AUTO"
            container.seek(int((start + seconds) / info.time_base), stream=stream)
            frame = _pick_frame(_decode(container, stream), start + seconds, start + earliest)
            image = frame.to_ndarray(format="bgr24")
    except (av.FFmpegError, StopIteration) as error:
        raise MediaError(tr("no frame could be decoded for a picture"), where=str(path)) from error
    time = frame.time if frame.time is not None else start + seconds
    return np.asarray(image, np.uint8), time - start


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    return (frame for packet in demux_packets(container, stream) for frame in packet.decode())


def _pick_frame(frames: Iterator[av.VideoFrame], wanted: float, earliest: float) -> av.VideoFrame:
    frame = next(frames)
    if earliest < wanted and frame.time is not None and earliest <= frame.time <= wanted:
        return frame
    for following in frames:
        if frame.time is not None and frame.time >= wanted - _TIME_TOLERANCE:
            break
        frame = following
    return frame


def players_of(
    results: Sequence[Path], *, max_bytes: int = MAX_PLAYER_BYTES
) -> tuple[list[Player], list[str]]:
    """Return players of the first videos, within ``max_bytes`` in total, and the names of those left out."""
    videos = [path for path in results if not is_image(path) and path.suffix.lower() != ".gif"]
    players, left_out = [], [path.name for path in videos[MAX_PLAYERS:]]
    for path in videos[:MAX_PLAYERS]:
        share = max_bytes // min(len(videos), MAX_PLAYERS)
        try:
            content, note = _content(path, share)
        except (MediaError, OSError) as error:
            left_out.append(f"{path.name} ({error})")
            continue
        if len(content) <= share:
            url = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
            players.append(Player(path, url, note))
        else:
            left_out.append(path.name)
    return players, left_out


def _content(path: Path, share: int) -> tuple[bytes, str]:
    """Return the file itself if it is small and any browser plays it, else a clip with a note."""
    if path.suffix.lower() in _PLAYABLE and path.stat().st_size <= share and probe(path).codec == "h264":
        return path.read_bytes(), ""
    return clip_of(path), tr("the first {seconds:.0f} seconds, scaled down", seconds=CLIP_SECONDS)


def clip_of(path: Path) -> bytes:
    """Encode the beginning of a video as a small, silent, upright H.264 MP4; raise MediaError on failure."""
    info, buffer = probe(path), io.BytesIO()
    try:
        with open_source(path) as source, av.open(buffer, "w", format="mp4") as clip:
            stream = clip.add_stream("libx264", rate=_RATE, options=_ENCODING)
            stream.pix_fmt, stream.codec_context.time_base = "yuv420p", _TICK
            for image, time in _images(source, CLIP_SECONDS, info):
                if not stream.codec_context.is_open:
                    stream.height, stream.width = image.shape[:2]
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = round(time / _TICK), _TICK
                clip.mux(stream.encode(frame))
            clip.mux(stream.encode(None))
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(tr("no preview clip could be encoded"), where=str(path)) from error
    return buffer.getvalue()


def _images(source: InputContainer, seconds: float, info: VideoInfo) -> Iterator[tuple[ByteImage, float]]:
    """Yield small upright images and their times after the first one, at most about ``_RATE`` per second."""
    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    first, next_time = None, 0.0
    for frame in _decode(source, stream):
        first = (frame.time or 0.0) if first is None else first
        time = (frame.time or 0.0) - first
        if time >= seconds:
            return
        if time < next_time:
            continue
        next_time = time + 0.9 / _RATE
        scale = min(1.0, _CLIP_EDGE / max(frame.width, frame.height))
        # 4:2:0 chroma planes are half as wide and high: no odd sizes.
        width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
        small = frame.reformat(width=width, height=height, format="bgr24").to_ndarray()
        yield info.upright(small), time
