"""A video's pictures in pieces, each a finished file of its own.

A segment holds consecutive frames encoded from a fresh start, so it depends on no other. Segments are NUT
files: of the containers at hand only NUT keeps any time base and every encoded byte.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

from colab_helpers.errors import MediaError, MissingFileError
from colab_helpers.files import hidden_name, publish, sha256_of, unwritable_error
from colab_helpers.language import mark, tr
from colab_helpers.media.encoders import EncoderChoice, add_video_stream, encoder_error
from colab_helpers.media.formats import same_range
from colab_helpers.media.probe import VideoInfo

SEGMENT_SUFFIX = ".nut"
"""Suffix of segment files."""

_CONVERTER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_AGAIN = mark("delete it and run again: it is encoded anew")


@dataclass(frozen=True)
class Segment:
    """A finished segment, as a journal records it."""

    path: Path
    number: int  # 0, 1, 2, … in the order of the video
    start: int  # number of its first frame in the video
    frames: int  # frames it holds
    first_pts: int  # when its first frame is shown, in ticks of the writer's time base
    last_pts: int  # when its last frame is shown
    end_pts: int  # when its last frame ends
    bytes: int
    sha256: str  # hash of the file, in hexadecimal; ``bytes`` its size

    @property
    def stop(self) -> int:
        """Number of the frame after its last."""
        return self.start + self.frames

    def __str__(self) -> str:
        """Number and frames, for messages."""
        told = mark("segment {number} (frames {first} to {last})")
        return tr(told, number=self.number, first=self.start, last=self.stop - 1)


class SegmentWriter(contextlib.AbstractContextManager["SegmentWriter"]):
    """Writes consecutive frames into consecutive segments.

    A context manager: left by an exception, the segment at work is removed and the finished ones stay. A
    segment has ``length`` frames, the last one what is left, and ``on_segment`` is told of each when it is
    safe on disk. The ``start``-th frame is written first, a multiple of ``length``; timestamps are in ticks
    of ``time_base``, the source's if None.
    """

    def __init__(
        self,
        folder: Path,
        info: VideoInfo,
        *,
        choice: EncoderChoice,
        length: int,
        on_segment: Callable[[Segment], None],
        start: int = 0,
        time_base: Fraction | None = None,
    ) -> None:
        self._folder, self._info, self._choice = folder.absolute(), info, choice
        self._length, self._on_segment, self._start = length, on_segment, start
        self._time_base = time_base or info.time_base
        self._first_pts = self._last_pts = self._end_pts = self._frames = 0
        self._converter = VideoReformatter()
        self._output: OutputContainer | None = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the segment at work, or remove it if an exception ends the block."""
        if kind is not None:
            return self._abort()
        try:
            self._finish()
        except BaseException:
            self._abort()
            raise

    def write(self, video: av.VideoFrame, *, pts: int, duration: int) -> None:
        """Encode one frame, which may be changed or reused once this returns.

        ``pts`` must rise. A picture is shown until the next one, the last one for ``duration`` ticks.

        Raises:
            OutputError: The disk is full, or the folder has gone.
            EncoderError: The encoder does not open, or failed.
        """
        with self._naming_the_file():
            if self._output is None:
                self._begin(pts)
            self._last_pts, self._end_pts = pts, pts + duration
            self._frames += 1
            if video.format.name != self._choice.pix_fmt:
                # Same matrix, same range: only samples laid out anew.
                video = self._converter.reformat(
                    video, format=self._choice.pix_fmt, interpolation=_CONVERTER, **same_range(video)
                )
            # NUT has no negative timestamps, and the same frames make the same file wherever they stand.
            video.pts, video.time_base, video.duration = pts - self._first_pts, self._time_base, duration
            # Decoded frames carry the type they were coded as; the encoder would take it as an order.
            video.pict_type = PictureType.NONE
            self._encode(video)
        if self._frames == self._length:
            self._finish()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._start // self._length:06d}{SEGMENT_SUFFIX}"

    def _begin(self, pts: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._output = av.open(str(hidden_name(self._path)), "w", format="nut")
        self._first_pts = pts
        self._stream = add_video_stream(self._output, self._info, self._choice, self._time_base)
        self._output.start_encoding()

    def _encode(self, video: av.VideoFrame | None) -> None:
        """Write what is ready after a picture, or with None what is left."""
        assert self._output is not None
        try:
            packets = self._stream.encode(video)
        except av.FFmpegError as error:
            number = self._start + self._frames
            told = {"name": self._choice.name, "number": number, "reason": error.strerror}
            what = tr("{name} failed at frame {number} ({reason})", **told)
            raise encoder_error(what) from error
        self._output.mux(packets)

    def _finish(self) -> None:
        """Put the segment at work, if there is one, in its place, and tell of it."""
        if self._output is None:
            return
        path, partial = self._path, hidden_name(self._path)
        with self._naming_the_file():
            self._encode(None)
            self._output.close()
            segment = Segment(
                path=path,
                number=self._start // self._length,
                start=self._start,
                frames=self._frames,
                first_pts=self._first_pts,
                last_pts=self._last_pts,
                end_pts=self._end_pts,
                bytes=partial.stat().st_size,
                sha256=sha256_of(partial),
            )
            publish(partial, path)
        self._output, self._start, self._frames = None, segment.stop, 0
        self._on_segment(segment)

    def _abort(self) -> None:
        """Remove the segment at work."""
        if self._output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                # The trailer may fail for the very reason of giving up.
                self._output.close()
            self._output = None
            with contextlib.suppress(OSError):
                hidden_name(self._path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise unwritable_error(self._path, error) from error


def check_segment(segment: Segment) -> None:
    """Make sure that a segment's file is what was recorded; MissingFileError, MediaError if it is not."""
    try:
        same = segment.path.stat().st_size == segment.bytes and sha256_of(segment.path) == segment.sha256
    except FileNotFoundError as error:
        raise MissingFileError(
            tr("the file of {segment} is missing", segment=segment),
            where=str(segment.path),
            remedy=tr("run again"),
        ) from error
    except OSError as error:
        raise unreadable_segment_error(segment, error) from error
    if not same:
        raise damaged_segment_error(
            segment, tr("the file of {segment} has changed since it was written", segment=segment)
        )


def unreadable_segment_error(segment: Segment, error: OSError | av.FFmpegError) -> MediaError:
    """Return the error to raise for a segment whose file cannot be read."""
    what = tr("the file of {segment} cannot be read ({reason})", segment=segment, reason=error.strerror)
    return damaged_segment_error(segment, what)


def damaged_segment_error(segment: Segment, what: str) -> MediaError:
    """Return the error to raise for a segment that cannot be used."""
    return MediaError(what, where=str(segment.path), remedy=tr(_AGAIN))
