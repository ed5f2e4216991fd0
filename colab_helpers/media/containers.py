"""Which container a result goes into, so that nothing of its source is lost.

Whether a container takes a stream is found by trying: a header is written to memory with that stream.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from math import lcm

import av
from av.container import InputContainer
from av.stream import Stream

from colab_helpers.errors import OutputError
from colab_helpers.language import tr
from colab_helpers.media.demuxing import UNKNOWN_CODEC, open_source, to_fraction
from colab_helpers.media.formats import is_mov
from colab_helpers.media.inputs import require_file
from colab_helpers.media.probe import StreamInfo, VideoInfo

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffixes of results, and the FFmpeg muxer that writes each."""

_GENERAL = (".mp4", ".mov", ".mkv")
_DEFAULT_MOVIE_SCALE, _MAX_MOVIE_SCALE = 1000, 50_000_000
_MATROSKA_TICK = Fraction(1, 1000)

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
    """Return the suffix a result should have, and a note if it differs from the source's.

    MP4, MOV and MKV stay what they are. WebM becomes MKV, since H.264 and HEVC are no part of WebM; others
    become MP4, else MOV, else MKV: the first that holds every audio and subtitle stream. Where none does, the
    one that loses the fewest subtitles; audio is encoded anew there. A suffix that is ``wanted`` is insisted
    on: OutputError where it is none of a result, or cannot hold a stream that another one can.
    """
    if wanted is not None:
        return _demanded(info, wanted.lower()), None
    own = info.path.suffix.lower()
    first = [own] if own in MUXERS else [".mkv"] if "webm" in info.container.split(",") else []
    refused = {suffix: _refused_streams(info, suffix) for suffix in dict.fromkeys((*first, *_GENERAL))}
    lost = {suffix: sum(one.kind != "audio" for one in streams) for suffix, streams in refused.items()}
    best = min(refused, key=lambda suffix: (bool(refused[suffix]), lost[suffix]))
    if own == best:
        return best, None
    passed = list(refused)[: list(refused).index(best)] if not refused[best] else []
    reasons = [tr("{suffix} cannot hold {stream}", suffix=one, stream=refused[one][0]) for one in passed]
    note = tr(
        "the result is a {suffix} file, the source a {own} one{because}",
        suffix=best,
        own=own or tr("nameless"),
        because=tr(", since {reasons}", reasons="; ".join(reasons)) if reasons else "",
    )
    return best, note


def _demanded(info: VideoInfo, suffix: str) -> str:
    if suffix not in MUXERS:
        raise OutputError(
            tr("results cannot be written as {suffix}", suffix=suffix)
            if suffix
            else tr("results cannot be written as a file without suffix"),
            where=str(info.path),
            remedy=tr("use one of {suffixes}", suffixes=", ".join(MUXERS)),
        )
    refused = _refused_streams(info, suffix)
    fitting = [other for other in _GENERAL if not _refused_streams(info, other)] if refused else []
    if fitting:
        raise OutputError(
            tr("{suffix} cannot hold {stream} of the source", suffix=suffix, stream=refused[0]),
            where=str(info.path),
            remedy=tr("write {suffix} instead", suffix=fitting[0]),
        )
    return suffix


def _refused_streams(info: VideoInfo, suffix: str) -> list[StreamInfo]:
    """Audio and subtitle streams of the source that a container does not take.

    A stream of a codec unknown to this FFmpeg fits nowhere; it is left out with a note, not counted here.
    """
    beside = [one for one in (*info.audio, *info.subtitles) if one.codec != UNKNOWN_CODEC]
    if not beside:
        return []
    # The standard has PCM in MP4 (ISO/IEC 23003-5), but next to nothing plays it.
    silent = suffix in (".mp4", ".m4v") and info.path.suffix.lower() != suffix
    with open_source(require_file(info.path)) as source:
        return [
            one
            for one in beside
            if (silent and one.codec.startswith("pcm_"))
            or not accepts_stream(source.streams[one.index], MUXERS[suffix])
        ]


def accepts_stream(stream: Stream, muxer: str) -> bool:
    """Tell whether a muxer completes a file with a copy of this stream."""
    with io.BytesIO() as memory:
        trial = av.open(memory, "w", format=muxer)
        try:
            trial.add_stream_from_template(stream, opaque=True).disposition = stream.disposition
            trial.start_encoding()
            trial.close()
        except (av.FFmpegError, ValueError):
            return False
    return True


def muxer_options(
    source: InputContainer, suffix: str, *, time_base: Fraction, tags: Mapping[str, str]
) -> dict[str, str]:
    """Return muxer options that keep start times, tags and quick starting playback in the MP4 family.

    MP4 writes starts and lengths of edits in ticks of the movie's clock, a millisecond by default: it gets
    one in which the picture's timestamps and every stream's late start are whole numbers.
    """
    if not is_mov(MUXERS[suffix]):
        return {}
    options = {"movflags": "+faststart" + ("" if set(tags) <= _MP4_KEYS else "+use_metadata_tags")}
    starts = (Fraction(one.start_time or 0) * (to_fraction(one.time_base) or 0) for one in source.streams)
    scale = lcm(
        _DEFAULT_MOVIE_SCALE, time_base.denominator, *(start.denominator for start in starts if start > 0)
    )
    if _DEFAULT_MOVIE_SCALE < scale <= _MAX_MOVIE_SCALE:
        options["movie_timescale"] = str(scale)
    return options


def file_tags(source: Mapping[str, str], *, comment: str = "") -> dict[str, str]:
    """Return the tags of a work: the source's without those about its file; a comment is added to its own."""
    tags = {key: value for key, value in source.items() if key.lower() not in _FILE_KEYS}
    own = next((key for key in tags if key.lower() == "comment"), "comment")
    if comment and comment not in tags.get(own, ""):
        tags[own] = "; ".join(filter(None, [tags.get(own), comment]))
    return tags


def stream_tags(stream: Stream, *, encoded: bool) -> dict[str, str]:
    """Return the tags of a stream; of one encoded anew without the statistics of the old encoding."""

    def stale(key: str) -> bool:
        statistics = key.startswith(("bps", "number_of_", "_statistics", "duration-"))
        return key in _STREAM_KEYS or (encoded and (statistics or key == "alpha_mode"))

    return {key: value for key, value in stream.metadata.items() if not stale(key.lower())}


def timing_note(time_base: Fraction, suffix: str) -> str | None:
    """Return a note if the container rounds this time base; Matroska counts milliseconds."""
    if MUXERS[suffix] != "matroska" or (time_base / _MATROSKA_TICK).denominator == 1:
        return None
    return tr("Matroska stores times in milliseconds: time stamps were rounded to them")
