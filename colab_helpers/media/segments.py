"""Encode a video's frames into segments, each a complete file.

A segment holds consecutive frames from a newly opened encoder, so it depends on no other. Segments are NUT
files: of the available containers only NUT keeps any time base and every encoded byte.
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
_INTERPOLATION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


@dataclass(frozen=True)
class Segment:
    """A finished segment, as a journal records it; times are in ticks of the writer's time base."""

    path: Path
    number: int  # 0, 1, 2, … in the order of the video
    start: int  # index of its first frame in the video
    frames: int  # number of frames
    first_pts: int  # presentation time of its first frame
    last_pts: int  # presentation time of its last frame
    end_pts: int  # end of its last frame
    bytes: int  # size of the file
    sha256: str  # hash of the file, in hexadecimal

    @property
    def stop(self) -> int:
        """Index of the frame after its last."""
        return self.start + self.frames

    def __str__(self) -> str:
        """Return number and frames, for messages."""
        text = mark("segment {number} (frames {first} to {last})")
        return tr(text, number=self.number, first=self.start, last=self.stop - 1)


class SegmentWriter(contextlib.AbstractContextManager["SegmentWriter"]):
    """Writes consecutive frames into consecutive segments; a context manager.

    If an exception ends the block, the current segment is removed; finished ones are kept.

    Args:
        folder: Folder of the segment files.
        info: The target.
        choice: The encoder.
        length: Frames per segment; the last segment may have fewer.
        on_segment: Called with each segment once it is published.
        start: Index of the first frame written, a multiple of ``length``.
        time_base: Seconds per tick of the timestamps; the target's if None.
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
        """Finish the current segment, or remove it if an exception ends the block."""
        if kind is not None:
            return self._abort()
        try:
            self._finish()
        except BaseException:
            self._abort()
            raise

    def write(self, video: av.VideoFrame, *, pts: int, duration: int) -> None:
        """Encode one frame, which may be changed or reused once this returns.

        ``pts`` must increase. A frame is shown until the next one, the last one for ``duration`` ticks.

        Raises:
            OutputError: The file cannot be written, for example because the disk is full.
            EncoderError: The encoder cannot be opened, or fails.
        """
        with self._output_errors():
            if self._output is None:
                self._begin(pts)
            self._last_pts, self._end_pts = pts, pts + duration
            self._frames += 1
            if video.format.name != self._choice.pix_fmt:
                # Matrix and range stay; only the sample layout changes.
                video = self._converter.reformat(
                    video, format=self._choice.pix_fmt, interpolation=_INTERPOLATION, **same_range(video)
                )
            # From 0: NUT has no negative timestamps, and equal frames make equal files at any position.
            video.pts, video.time_base, video.duration = pts - self._first_pts, self._time_base, duration
            # Decoded frames carry their old picture type, which would force the encoder's choice.
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
        """Encode a frame and write the packets that are ready; None flushes the encoder."""
        assert self._output is not None
        try:
            packets = self._stream.encode(video)
        except av.FFmpegError as error:
            failed = mark("{name} failed near frame {number} ({reason})")
            number = self._start + self._frames - 1
            what = tr(failed, name=self._choice.name, number=number, reason=error.strerror)
            raise encoder_error(what) from error
        self._output.mux(packets)

    def _finish(self) -> None:
        """Finish and publish the current segment, if there is one, and report it."""
        if self._output is None:
            return
        path, partial = self._path, hidden_name(self._path)
        with self._output_errors():
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
        """Remove the current segment."""
        if self._output is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                # Writing the trailer may fail for the same reason, such as a full disk.
                self._output.close()
            self._output = None
            with contextlib.suppress(OSError):
                hidden_name(self._path).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _output_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise unwritable_error(self._path, error) from error


def check_segment(segment: Segment) -> None:
    """Raise MissingFileError or MediaError unless a segment's file has the recorded size and hash."""
    try:
        unchanged = segment.path.stat().st_size == segment.bytes and sha256_of(segment.path) == segment.sha256
    except FileNotFoundError as error:
        what = tr("the file of {segment} is missing", segment=segment)
        raise MissingFileError(what, where=str(segment.path), remedy=tr("run again")) from error
    except OSError as error:
        raise unreadable_segment_error(segment, error) from error
    if not unchanged:
        what = tr("the file of {segment} has changed since it was written", segment=segment)
        raise damaged_segment_error(segment, what)


def unreadable_segment_error(segment: Segment, error: OSError | av.FFmpegError) -> MediaError:
    """Return the error for a segment whose file cannot be read."""
    what = tr("the file of {segment} cannot be read ({reason})", segment=segment, reason=error.strerror)
    return damaged_segment_error(segment, what)


def damaged_segment_error(segment: Segment, what: str) -> MediaError:
    """Return the error for a segment that cannot be used."""
    return MediaError(what, where=str(segment.path), remedy=tr("delete it and run again to re-encode it"))
