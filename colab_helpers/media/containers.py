"""Which container a result goes into, so that nothing of its source is lost.

Whether a container takes a stream is found by trying: a header is written to memory with that stream.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from math import lcm
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from colab_helpers.errors import OutputError
from colab_helpers.language import tr
from colab_helpers.media.probe import (
    UNKNOWN_CODEC,
    StreamInfo,
    VideoInfo,
    exact,
    existing_file,
    open_source,
)

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".gif": "gif"}
"""Suffixes of results, and the FFmpeg muxer that writes each."""

_MOV_FAMILY = frozenset(("mp4", "mov"))
_DEFAULT_MOVIE_SCALE = 1000
_MAX_MOVIE_SCALE = 50_000_000
_MATROSKA_TICK = Fraction(1, 1000)
_TRIAL_PACKETS = 3

# What the MP4 muxer stores in its own well-known atoms; any other key needs the general key list.
_MP4_KEYS = frozenset((
    "title", "artist", "album", "album_artist", "composer", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "episode_sort", "season_number", "media_type", "hd_video", "gapless_playback", "compilation", "track",
    "disc", "creation_time", "location",
))  # fmt: skip
# Facts about the old file, not about the work.
_FILE_KEYS = frozenset(("major_brand", "minor_version", "compatible_brands", "encoder"))
_STREAM_KEYS = frozenset(("encoder", "duration"))


def output_suffix(info: VideoInfo, wanted: str | None = None) -> tuple[str, str | None]:
    """The suffix a result should have, and a note if it differs from the source's.

    MP4, MOV, MKV and GIF stay what they are. WebM becomes MKV, since H.264 and HEVC are no part of WebM;
    others become MP4, else MOV, else MKV: the first that holds every sound and subtitle stream. Where none
    does, it is the one that loses the fewest subtitles; sound is encoded anew there.

    Args:
        info: The source.
        wanted: A suffix to insist on, such as ``.mp4``.

    Returns:
        The suffix, with its dot, and a note or None.

    Raises:
        OutputError: ``wanted`` is no container for results, or cannot hold a stream that another one can.
    """
    if wanted is not None:
        return _demanded(info, wanted.lower()), None
    own = info.path.suffix.lower()
    refusals: list[str] = []
    lost: dict[str, int] = {}
    for suffix in _candidates(info, own):
        refused = refused_streams(info, suffix)
        if not refused:
            return suffix, _suffix_note(own, suffix, refusals)
        refusals += [tr("{suffix} cannot hold {stream}", suffix=suffix, stream=refused[0])]
        lost[suffix] = sum(one.kind != "audio" for one in refused)
    best = min(lost, key=lambda suffix: lost[suffix])
    return best, _suffix_note(own, best, [])


def refused_streams(info: VideoInfo, suffix: str) -> list[StreamInfo]:
    """Sound and subtitle streams of the source a container does not take; all of them for GIF.

    A stream of a codec unknown to this FFmpeg fits nowhere; it is left out with a note, not counted here.
    """
    beside = [one for one in (*info.audio, *info.subtitles) if one.codec != UNKNOWN_CODEC]
    if not beside or suffix == ".gif":
        return beside
    with open_source(existing_file(info.path)) as source:
        return [one for one in beside if _refused(source.streams[one.index], one, suffix, info)]


def takes(stream: Stream, suffix: str, samples: Sequence[Packet[Any]] = ()) -> bool:
    """Whether the container completes a file with a copy of this stream and some of its packets."""
    with io.BytesIO() as memory:
        trial = av.open(memory, "w", format=MUXERS[suffix])
        try:
            copy = trial.add_stream_from_template(stream, opaque=True)
            copy.disposition = stream.disposition
            trial.start_encoding()
            for packet in samples:
                packet.stream = copy
                trial.mux_one(packet)
            trial.close()
        except (av.FFmpegError, ValueError):
            return False
    return True


def takes_data(info: VideoInfo, index: int, suffix: str) -> bool:
    """`takes` for a data stream: some muxers refuse those only when they finish."""
    with open_source(info.path) as source:
        stream = source.streams[index]
        for other in source.streams:
            if other.index != index:
                other.discard = Discard.all
        packets = (packet for packet in source.demux(stream) if packet.size)
        return takes(stream, suffix, list(islice(packets, _TRIAL_PACKETS)))


def muxer_options(
    source: InputContainer, suffix: str, *, time_base: Fraction, tags: dict[str, str]
) -> dict[str, str]:
    """Muxer options that keep start times, tags and quick starting playback in the MP4 family."""
    if MUXERS[suffix] not in _MOV_FAMILY:
        return {}
    flags = "+faststart"
    if not set(tags) <= _MP4_KEYS:
        flags += "+use_metadata_tags"
    scale = _movie_scale(source, time_base)
    return {"movflags": flags} | ({"movie_timescale": str(scale)} if scale != _DEFAULT_MOVIE_SCALE else {})


def file_tags(source: dict[str, str], extra: dict[str, str] | None) -> dict[str, str]:
    """Tags of the work: the source's without those about its file, then the given ones."""
    kept = {key: value for key, value in source.items() if key.lower() not in _FILE_KEYS}
    return kept | (extra or {})


def stream_tags(stream: Stream, *, encoded: bool) -> dict[str, str]:
    """Tags of a stream; of one encoded anew without the statistics of the old encoding."""
    return {key: value for key, value in stream.metadata.items() if not _stale(key, encoded)}


def timing_note(time_base: Fraction, suffix: str) -> str | None:
    """A note if the container rounds this time base; Matroska counts milliseconds."""
    if MUXERS[suffix] != "matroska" or (time_base / _MATROSKA_TICK).denominator == 1:
        return None
    return tr("Matroska stores times in milliseconds: time stamps were rounded to them")


def _demanded(info: VideoInfo, suffix: str) -> str:
    if suffix not in MUXERS:
        raise OutputError(
            tr("results cannot be written as {suffix}", suffix=suffix)
            if suffix
            else tr("results cannot be written as a file without suffix"),
            where=str(info.path),
            remedy=tr("use one of {suffixes}", suffixes=", ".join(MUXERS)),
        )
    refused = refused_streams(info, suffix) if suffix != ".gif" else []
    fitting = _first_fitting(info) if refused else None
    if fitting is not None:
        raise OutputError(
            tr("{suffix} cannot hold {stream} of the source", suffix=suffix, stream=refused[0]),
            where=str(info.path),
            remedy=tr("write {suffix} instead", suffix=fitting),
        )
    return suffix


def _first_fitting(info: VideoInfo) -> str | None:
    return next((suffix for suffix in (".mp4", ".mov", ".mkv") if not refused_streams(info, suffix)), None)


def _candidates(info: VideoInfo, own: str) -> Iterator[str]:
    if own in MUXERS:
        yield own
    if own == ".gif":
        return
    if "webm" in info.container.split(","):
        yield ".mkv"
    yield from (suffix for suffix in (".mp4", ".mov", ".mkv") if suffix != own)


def _suffix_note(own: str, suffix: str, refusals: list[str]) -> str | None:
    if own == suffix:
        return None
    because = tr(", since {reasons}", reasons="; ".join(refusals)) if refusals else ""
    return tr(
        "the result is a {suffix} file, the source a {own} one{because}",
        suffix=suffix,
        own=own or tr("nameless"),
        because=because,
    )


def _refused(stream: Stream, about: StreamInfo, suffix: str, info: VideoInfo) -> bool:
    # The standard has PCM in MP4 (ISO/IEC 23003-5), but next to nothing plays it.
    unplayable = about.codec.startswith("pcm_") and suffix in (".mp4", ".m4v")
    if unplayable and info.path.suffix.lower() != suffix:
        return True
    return not takes(stream, suffix)


def _stale(key: str, encoded: bool) -> bool:
    lower = key.lower()
    statistics = lower.startswith(("bps", "number_of_", "_statistics", "duration-"))
    return lower in _STREAM_KEYS or (encoded and (statistics or lower == "alpha_mode"))


def _movie_scale(source: InputContainer, time_base: Fraction) -> int:
    """Ticks per second in which the picture's stamps and every stream's late start are whole numbers.

    MP4 writes starts and lengths of edits in units of the movie's clock, a millisecond by default.
    """
    starts = [start for start in map(_start, source.streams) if start > 0]
    scale = lcm(_DEFAULT_MOVIE_SCALE, time_base.denominator, *(start.denominator for start in starts))
    return scale if scale <= _MAX_MOVIE_SCALE else _DEFAULT_MOVIE_SCALE


def _start(stream: Any) -> Fraction:
    return (stream.start_time or 0) * (exact(stream.time_base) or Fraction(0))
