"""Pictures and players of results, small enough to stand inside a page."""

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
"""Bytes of video in one page at most: Jupyter drops what comes faster than some megabytes in seconds."""
MAX_PLAYERS = 6
CLIP_SECONDS = 4.0
# Where in a video to look for a telling frame if nothing is known of it, as shares of its length.
_MOMENTS = (0.5, 0.25, 0.75, 0.1, 0.9)
# A portrait shows so many times as much as the face's box, and is so many pixels high.
_PORTRAIT_MARGIN, _PORTRAIT_HEIGHT = 1.5, 72
# Time stamps of the two files may differ by a container's rounding (Matroska counts milliseconds).
_SAME_TIME = 0.002
_CLIP_EDGE = 480
_RATE = 30
# No clip takes more than its share of the room, whatever it shows.
_ENCODING = {"preset": "veryfast", "crf": "26", "maxrate": "400k", "bufsize": "400k"}
_TICK = Fraction(1, 1000)
_PLAYABLE = (".mp4", ".m4v", ".mov")


Pair = tuple[ByteImage, ByteImage]
"""The same moment of a target and of its result; ``(H, W, 3)`` uint8 BGR."""


@dataclass(frozen=True)
class Picture:
    """A picture in a page; ``url`` is empty where there is none, ``shape`` is width by height."""

    caption: str
    url: str = ""
    shape: float = 1.0

    @classmethod
    def of(cls, caption: str, image: ByteImage) -> Picture:
        """Encode an image."""
        return cls(caption, data_url(image), image.shape[1] / image.shape[0])


@dataclass(frozen=True)
class Player:
    """A video in a page, and a word on it if it is only a part."""

    path: Path
    url: str
    told: str


def pictures_of(file: FileReport) -> list[Picture]:
    """Make the pictures of a finished file: source, before and after; MediaError where there are none."""
    before, after = pair_of(file)
    return [_source(file.source), Picture.of(tr("before"), before), Picture.of(tr("after"), after)]


def _source(sources: Sequence[str]) -> Picture:
    """The first source photo; one given as data or as an array has no file to show again."""
    if not sources or not Path(sources[0]).is_file():
        return Picture(tr("source (given in memory)"))
    try:
        return Picture.of(tr("source"), read_image(sources[0]))
    except (MediaError, OSError) as error:
        return Picture(tr("source: no picture ({error})", error=error))


def pair_of(file: FileReport) -> Pair:
    """Find a telling moment of a file: in its longest stretch with a face, or where most was changed."""
    target, output = Path(file.target), Path(file.output or "")
    if is_image(target):
        return read_image(target), read_image(output)
    length = float(probe(target).duration)
    # A key frame of the result costs one decoded frame instead of hundreds.
    found = (_frame(output, best * length, earliest=first * length) for best, first in _moments(file))
    return max(((frame_at(target, moment), after) for after, moment in found), key=_change)


def _moments(file: FileReport) -> list[tuple[float, float]]:
    """Where to look: the best share of a video's length, and from where on an earlier one will do."""
    if file.quality is not None and file.frames_out:
        edges = [0, *(edge for span in file.quality.missed_spans for edge in span), file.frames_out]
        stretches = zip(edges[::2], edges[1::2], strict=True)
        length, start = max((stop - start, start) for start, stop in stretches)
        if length > 0:
            return [((start + length / 2) / file.frames_out, start / file.frames_out)]
    return [(share, share) for share in _MOMENTS]


def _change(pair: Pair) -> float:
    """How much was changed: mean absolute difference in grey levels."""
    before, after = pair
    return float(np.mean(cv2.absdiff(before, after))) if before.shape == after.shape else 0.0


def frame_at(path: Path, seconds: float) -> ByteImage:
    """Decode the frame shown at some seconds after the first frame, upright: ``(H, W, 3)`` uint8 BGR.

    Beyond the end the last frame is taken; MediaError where the file cannot be decoded there.
    """
    return _frame(path, seconds, earliest=seconds)[0]


def portraits_of(file: FileReport) -> list[str]:
    """Return a portrait of each person as a data URL, empty where there is none.

    Whoever is seen for less than a second has none in the report: it is cut out of the target.
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
    """Cut a face out of the frame shown at some seconds after the first frame; return it as a data URL.

    The box is xyxy in pixels of the stored frame; some of what is around it is shown, too.

    Raises:
        MediaError: The file cannot be decoded there, or nothing of the box is in the frame.
    """
    info = probe(path)
    image, _ = _stored_frame(info, seconds, earliest=seconds)
    left, top, right, bottom = box
    x, y, half = (
        (left + right) / 2,
        (top + bottom) / 2,
        _PORTRAIT_MARGIN * max(right - left, bottom - top) / 2,
    )
    rows = slice(max(0, round(y - half)), max(0, round(y + half)))
    part = image[rows, max(0, round(x - half)) : max(0, round(x + half))]
    if not part.size:
        raise MediaError(tr("no frame could be decoded for a picture"), where=str(path))
    return data_url(info.upright(part), height=_PORTRAIT_HEIGHT)


def _frame(path: Path, seconds: float, *, earliest: float) -> tuple[ByteImage, float]:
    """The frame at a time, or the key frame before it if that is not before ``earliest``; and its time."""
    info = probe(path)
    image, found = _stored_frame(info, seconds, earliest=earliest)
    return info.upright(image), found


def _stored_frame(info: VideoInfo, seconds: float, *, earliest: float) -> tuple[ByteImage, float]:
    path = info.path
    start = float(info.start)
    try:
        with open_source(path) as container:
            stream = next(s for s in container.streams.video if s.index == info.video_index)
            stream.thread_type = "AUTO"
            container.seek(int((start + seconds) / info.time_base), stream=stream)
            frame = _first_frame_from(_decoded(container, stream), start + seconds, start + earliest)
            image = frame.to_ndarray(format="bgr24")
    except (av.FFmpegError, StopIteration) as error:
        raise MediaError(tr("no frame could be decoded for a picture"), where=str(path)) from error
    shown = frame.time if frame.time is not None else start + seconds
    return np.asarray(image, np.uint8), shown - start


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    return (frame for packet in demux_packets(container, stream) for frame in packet.decode())


def _first_frame_from(frames: Iterator[av.VideoFrame], wanted: float, earliest: float) -> av.VideoFrame:
    frame = next(frames)
    if earliest < wanted and frame.time is not None and earliest <= frame.time <= wanted:
        return frame
    for later in frames:
        if frame.time is not None and frame.time >= wanted - _SAME_TIME:
            break
        frame = later
    return frame


def players_of(results: Sequence[Path], *, room: int = MAX_PLAYER_BYTES) -> tuple[list[Player], list[str]]:
    """Make players of the first videos among some results, within ``room`` bytes; name those left out."""
    videos = [path for path in results if not is_image(path) and path.suffix.lower() != ".gif"]
    players, left_out = [], [path.name for path in videos[MAX_PLAYERS:]]
    for path in videos[:MAX_PLAYERS]:
        share = room // min(len(videos), MAX_PLAYERS)
        try:
            content, told = _content(path, share)
        except (MediaError, OSError) as error:
            left_out.append(f"{path.name} ({error})")
            continue
        if len(content) <= share:
            url = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
            players.append(Player(path, url, told))
        else:
            left_out.append(path.name)
    return players, left_out


def _content(path: Path, share: int) -> tuple[bytes, str]:
    """The file itself where a browser can play it and it is small; else a clip, and a word on that."""
    if path.suffix.lower() in _PLAYABLE and path.stat().st_size <= share and probe(path).codec == "h264":
        return path.read_bytes(), ""
    return clip_of(path), tr("the first {seconds:.0f} seconds, made smaller", seconds=CLIP_SECONDS)


def clip_of(path: Path) -> bytes:
    """Encode the beginning of a video as a small MP4 that any browser plays, upright and without sound."""
    info, made = probe(path), io.BytesIO()
    try:
        with open_source(path) as source, av.open(made, "w", format="mp4") as clip:
            track = clip.add_stream("libx264", rate=_RATE, options=_ENCODING)
            track.pix_fmt, track.codec_context.time_base = "yuv420p", _TICK
            for image, passed in _images(source, CLIP_SECONDS, info):
                if not track.codec_context.is_open:
                    track.height, track.width = image.shape[:2]
                frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                frame.pts, frame.time_base = round(passed / _TICK), _TICK
                clip.mux(track.encode(frame))
            clip.mux(track.encode(None))
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(tr("no clip could be made of it"), where=str(path)) from error
    return made.getvalue()


def _images(source: InputContainer, seconds: float, info: VideoInfo) -> Iterator[tuple[ByteImage, float]]:
    """Small upright pictures and their times from the first on; frames that come very fast are left out."""
    stream = source.streams.video[0]
    stream.thread_type = "AUTO"
    first, due = None, 0.0
    for frame in _decoded(source, stream):
        first = (frame.time or 0.0) if first is None else first
        passed = (frame.time or 0.0) - first
        if passed >= seconds:
            return
        if passed < due:
            continue
        due = passed + 0.9 / _RATE
        scale = min(1.0, _CLIP_EDGE / max(frame.width, frame.height))
        # The encoder's colour planes are half as wide and high: no odd sizes.
        width, height = (max(2, 2 * round(side * scale / 2)) for side in (frame.width, frame.height))
        small = frame.reformat(width=width, height=height, format="bgr24").to_ndarray()
        yield info.upright(small), passed
