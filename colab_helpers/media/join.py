"""Join segments into a result by stream copy, without decoding or encoding video.

Audio, subtitles, attachments, chapters and tags are copied from the target. The file is verified against its
segments before it is published.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from colab_helpers.errors import MediaError, OutputError, UsageError
from colab_helpers.files import Seal, atomic_output, no_seal, unwritable_error
from colab_helpers.language import tr
from colab_helpers.media.containers import (
    MUXERS,
    file_tags,
    muxer_options,
    output_suffix,
    stream_tags,
    timing_note,
)
from colab_helpers.media.demuxing import find_video_stream, open_source
from colab_helpers.media.encoders import EncoderChoice, add_video_stream
from colab_helpers.media.formats import is_mov
from colab_helpers.media.inputs import require_file
from colab_helpers.media.probe import VideoInfo, stated_duration
from colab_helpers.media.segments import Segment
from colab_helpers.media.stream_copy import StreamCopier
from colab_helpers.media.timeline import Timeline

_MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class JoinedVideo:
    """The contents of a result."""

    frames: int
    video_seconds: float  # from the first frame's start to the last frame's end
    audio_seconds: float  # span of its audio, 0 without
    notes: tuple[str, ...]  # what its container could not keep, one sentence each


def join_segments(
    segments: Sequence[Segment],
    info: VideoInfo,
    output: Path,
    *,
    choice: EncoderChoice,
    time_base: Fraction | None = None,
    audio: bool = True,
    on_frame: Callable[[int], None] = lambda _joined: None,
    comment: str = "",
    seal: Seal = no_seal,
) -> JoinedVideo:
    """Join segments into a result; on failure the partial result is removed and the segments are kept.

    Args:
        segments: All segments of the video, in order.
        info: The target.
        output: The result; its suffix (.mp4, .m4v, .mov, .mkv) determines the container.
        choice: The encoder the segments were written with.
        time_base: Seconds per tick of their timestamps; the target's if None.
        audio: Whether to copy audio.
        on_frame: Called with the number of frames joined so far; may raise to stop.
        comment: Appended to the target's comment tag.
        seal: Completes the verified file before it is published.

    Raises:
        UsageError: The segments are not consecutive.
        MissingFileError: A segment's file is missing.
        MediaError: A segment is damaged, or comes from another encoder.
        OutputError: The result cannot be written, or fails verification.
    """
    output, time_base = output.absolute(), time_base or info.time_base
    _check_order(segments, output)
    timeline = Timeline(segments, time_base)
    with atomic_output(output) as partial, open_source(require_file(info.path)) as source:
        copier = StreamCopier(source, info, audio=audio)
        tags = file_tags(info.metadata, comment=comment)
        with open_output(partial, output, source, tags, time_base) as result:
            video = _add_streams(result, source, info, choice, time_base, copier)
            timeline.check_same_encoder(video)
            result.start_encoding()
            copier.start()
            packets = timeline.packets(fill_last_duration=is_mov(result.format.name))
            for count, packet in enumerate(packets, 1):
                packet.stream = video
                result.mux_one(packet)
                copier.copy_until(result, cast(int, packet.pts) * time_base)
                on_frame(count)
            copier.finish(result)
        _check_result(partial, output, timeline, Counter(["video", *copier.copied.values()]))
        seal(partial)
    return JoinedVideo(
        frames=len(timeline.timestamps),
        video_seconds=float(timeline.span * time_base),
        audio_seconds=float(copier.audio_seconds),
        notes=(*filter(None, [timing_note(time_base, output.suffix.lower())]), *copier.notes),
    )


def check_output(output: Path, info: VideoInfo, *, audio: bool = True) -> None:
    """Raise OutputError if a result of this name could not hold the target's streams."""
    suffix = output.suffix.lower()
    if suffix not in MUXERS or audio:
        output_suffix(info, suffix)


@contextlib.contextmanager
def open_output(
    partial: Path, path: Path, source: InputContainer, tags: Mapping[str, str], time_base: Fraction
) -> Iterator[OutputContainer]:
    """Open ``partial``, the hidden name of ``path``, with ``tags`` and the chapters of ``source``.

    Raise OutputError if it cannot be written.
    """
    suffix = partial.suffix.lower()
    options = muxer_options(source, suffix, time_base=time_base, tags=tags)
    try:
        with av.open(str(partial), "w", format=MUXERS[suffix], container_options=options) as output:
            output.metadata.update(dict(tags))
            if source.chapters():
                output.set_chapters(source.chapters())
            yield output
    except av.FFmpegError as error:
        raise unwritable_error(path, error) from error


def _add_streams(
    output: OutputContainer,
    source: InputContainer,
    info: VideoInfo,
    choice: EncoderChoice,
    time_base: Fraction,
    copier: StreamCopier,
) -> VideoStream:
    """Add all streams in the target's order, so that they keep their numbers; return the video stream."""
    video: VideoStream | None = None
    for stream in source.streams:
        if stream.index == info.video_index:
            video = add_video_stream(output, info, choice, time_base)
            video.disposition = stream.disposition
            video.metadata.update(stream_tags(stream, encoded=True))
        else:
            copier.add(stream, output)
    assert video is not None
    return video


def _check_order(segments: Sequence[Segment], output: Path) -> None:
    for one, after in pairwise(segments):
        if after.start != one.stop or after.first_pts <= one.last_pts:
            what = tr("{after} does not follow {one}", after=after, one=one)
            raise UsageError(what, where=str(output), remedy=tr("run again to encode the missing segments"))


def _check_result(path: Path, output: Path, timeline: Timeline, kinds: Counter[str]) -> None:
    """Raise OutputError if the file's streams, frame count (if stated) or duration are not those joined."""
    try:
        with open_source(path) as container:
            mismatch = _mismatch(container, find_video_stream(container, path), timeline, kinds)
    except (MediaError, av.FFmpegError) as error:
        reason = error.what if isinstance(error, MediaError) else error.strerror
        mismatch = tr("it cannot be read ({reason})", reason=reason)
    if mismatch:
        what = tr("the joined file failed verification: {what}", what=mismatch)
        remedy = tr("run again; if it happens again, check the disk")
        raise OutputError(what, where=str(output), remedy=remedy)


def _mismatch(container: InputContainer, video: VideoStream, timeline: Timeline, kinds: Counter[str]) -> str:
    missing = kinds - Counter[str](stream.type for stream in container.streams)
    if missing:
        return tr("streams are missing: {streams}", streams=", ".join(missing))
    expected = len(timeline.timestamps)
    if video.frames not in (0, expected):
        return tr("it has {found} frames, not {expected}", found=video.frames, expected=expected)
    duration, span = stated_duration(container, video), timeline.span * timeline.time_base
    if not is_mov(container.format.name):
        # MP4 states the duration of the frames, Matroska the time at which the last one ends.
        duration -= (video.start_time or 0) * Fraction(video.time_base or 0)
    if abs(duration - span) > _MILLISECOND:
        return tr("it lasts {found} seconds, not {expected}", found=float(duration), expected=float(span))
    return ""
