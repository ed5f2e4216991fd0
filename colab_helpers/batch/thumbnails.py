"""Pictures of a result: the same moment before and after, small enough to stand inside a page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import av.container
import cv2
import numpy as np
import numpy.typing as npt

from colab_helpers.batch.report import FileReport
from colab_helpers.errors import MediaError
from colab_helpers.language import tr
from colab_helpers.media.images import read_image
from colab_helpers.media.probe import is_image, probe

Image = npt.NDArray[np.uint8]

HEIGHT = 200
"""Height of a picture in a page, in pixels; keeps one near 10 kB."""
JPEG_QUALITY = 85
# Time stamps of the two files may differ by a container's rounding (Matroska counts milliseconds).
_SAME_TIME = 0.002


@dataclass(frozen=True)
class Pair:
    """The same moment of a target and of its result; ``(H, W, 3)`` uint8 BGR."""

    before: Image
    after: Image

    @property
    def change(self) -> float:
        """How much was changed: mean absolute difference in grey levels."""
        if self.before.shape != self.after.shape:
            return 0.0
        return float(np.mean(cv2.absdiff(self.before, self.after)))


@dataclass(frozen=True)
class Moment:
    """When to look, as shares of a video's length: best at ``best``, but from ``earliest`` on will do."""

    best: float
    earliest: float


MOMENTS = tuple(Moment(share, share) for share in (0.5, 0.25, 0.75, 0.1, 0.9))
"""Where in a video to look for a telling frame if nothing is known of it."""


def pair_of(file: FileReport) -> Pair:
    """A telling moment of a finished file: well within the longest stretch with a face.

    Raises:
        MediaError: Target or result cannot be read.
    """
    spans = file.quality.missed_spans if file.quality else None
    moments = MOMENTS if spans is None else (_moment_with_a_face(spans, file.frames_out),)
    return telling_pair(Path(file.target), Path(file.output or ""), moments=moments)


def telling_pair(target: Path, output: Path, *, moments: Sequence[Moment] = MOMENTS) -> Pair:
    """The moment, of a few, at which most was changed: likely one with a face.

    Args:
        target: A video or image.
        output: Its result.
        moments: Where in a video to look.

    Raises:
        MediaError: One of the files cannot be read.
    """
    pairs = _image_pair(target, output) if is_image(target) else _video_pairs(target, output, moments)
    return max(pairs, key=lambda pair: pair.change)


def _moment_with_a_face(missed: Sequence[tuple[int, int]], frames: int) -> Moment:
    """The middle of the longest stretch of frames that is not missed; any frame of it before will do."""
    borders = [0, *(edge for span in missed for edge in span), frames]
    stretches = [(stop - start, start) for start, stop in zip(borders[::2], borders[1::2], strict=True)]
    length, start = max(stretches)
    return Moment((start + length / 2) / frames, start / frames) if length and frames else MOMENTS[0]


def _image_pair(target: Path, output: Path) -> Iterator[Pair]:
    yield Pair(read_image(target), read_image(output))


def _video_pairs(target: Path, output: Path, moments: Sequence[Moment]) -> Iterator[Pair]:
    duration = float(probe(target).duration)
    for moment in moments:
        # A key frame of the result costs one decoded frame instead of hundreds.
        after, found = _frame(output, moment.best * duration, earliest=moment.earliest * duration)
        yield Pair(frame_at(target, found), after)


def frame_at(path: Path, seconds: float) -> Image:
    """The frame shown at a time after the first frame, upright.

    Args:
        path: A video.
        seconds: Time; beyond the end the last frame is taken.

    Returns:
        ``(H, W, 3)`` uint8 BGR.

    Raises:
        MediaError: The file cannot be decoded there.
    """
    return _frame(path, seconds, earliest=seconds)[0]


def _frame(path: Path, seconds: float, *, earliest: float) -> tuple[Image, float]:
    """The frame at a time, or the key frame before it if that is not before ``earliest``; and its time."""
    info = probe(path)
    start = float(info.start)
    try:
        with av.open(path) as container:
            stream = container.streams.video[_video_number(container, info.video_index)]
            stream.thread_type = "AUTO"
            container.seek(int((start + seconds) / info.time_base), stream=stream)
            frame = _first_frame_from(container.decode(stream), start + seconds, start + earliest)
            image = frame.to_ndarray(format="bgr24")
    except (av.FFmpegError, StopIteration) as error:
        raise MediaError(tr("no frame could be decoded for a picture"), where=str(path)) from error
    return info.upright(image), (frame.time if frame.time is not None else start + seconds) - start


def _video_number(container: av.container.InputContainer, index: int) -> int:
    """Which of the container's video streams is the one at ``index`` among all streams."""
    return [stream.index for stream in container.streams.video].index(index)


def _first_frame_from(frames: Iterator[av.VideoFrame], wanted: float, earliest: float) -> av.VideoFrame:
    frame = next(frames)
    if earliest < wanted and frame.time is not None and earliest <= frame.time <= wanted:
        return frame
    for later in frames:
        if frame.time is not None and frame.time >= wanted - _SAME_TIME:
            break
        frame = later
    return frame


def data_url(image: Image, *, height: int = HEIGHT) -> str:
    """A picture as a JPEG ``data:`` URL, made smaller if it is higher than ``height``.

    Args:
        image: ``(H, W, 3)`` uint8 BGR.
        height: Greatest height in pixels.
    """
    scale = min(1.0, height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"
