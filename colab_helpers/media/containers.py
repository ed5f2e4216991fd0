"""Choose the container of a result so that no stream of the target is lost, and its muxer options and tags.

Whether a container takes a stream is found by a trial: a file with that stream is written to memory.
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
from colab_helpers.language import mark, tr
from colab_helpers.media.demuxing import UNKNOWN_CODEC, open_source, to_fraction
from colab_helpers.media.formats import is_mov
from colab_helpers.media.inputs import require_file
from colab_helpers.media.probe import StreamInfo, VideoInfo

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Suffixes of results, with the FFmpeg muxer for each."""

_FALLBACKS = (".mp4", ".mov", ".mkv")
_DEFAULT_MOVIE_SCALE, _MAX_MOVIE_SCALE = 1000, 50_000_000

# Tags for which the MP4 muxer has atoms of their own; others need ``use_metadata_tags``.
_MP4_KEYS = frozenset((
    "title", "artist", "album", "album_artist", "composer", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "episode_sort", "season_number", "media_type", "hd_video", "gapless_playback", "compilation", "track",
    "disc", "creation_time", "location",
))  # fmt: skip
# Tags that describe the target's file or encoding, not the work.
_FILE_KEYS = frozenset(("major_brand", "minor_version", "compatible_brands", "encoder"))
_STREAM_KEYS = frozenset(("encoder", "duration"))


def output_suffix(info: VideoInfo, wanted: str | None = None) -> tuple[str, str | None]:
    """Return the suffix a result should have, and a note if it differs from the target's.

    Candidates are the target's own suffix if it is MP4, MOV or MKV, MKV for WebM (which allows neither H.264
    nor HEVC), then MP4, MOV and MKV. The first that holds every audio and subtitle stream is taken; if none
    does, the one that loses the fewest subtitle streams, with audio re-encoded.

    Raises:
        OutputError: ``wanted`` is no suffix of a result, or cannot hold a stream that another suffix can.
    """
    if wanted is not None:
        return _check_wanted(info, wanted.lower()), None
    own = info.path.suffix.lower()
    first = [own] if own in MUXERS else [".mkv"] if "webm" in info.container.split(",") else []
    refused = {suffix: _refused_streams(info, suffix) for suffix in dict.fromkeys((*first, *_FALLBACKS))}
    lost = {suffix: sum(stream.kind != "audio" for stream in refused[suffix]) for suffix in refused}
    best = min(refused, key=lambda suffix: (bool(refused[suffix]), lost[suffix]))
    if own == best:
        return best, None
    rejected = list(refused)[: list(refused).index(best)] if not refused[best] else []
    reasons = [tr("{suffix} cannot hold {stream}", suffix=one, stream=refused[one][0]) for one in rejected]
    because = tr(", since {reasons}", reasons="; ".join(reasons)) if reasons else ""
    note = mark("the result is a {suffix} file, the target a {own} one{because}")
    return best, tr(note, suffix=best, own=own or tr("suffixless"), because=because)


def _check_wanted(info: VideoInfo, suffix: str) -> str:
    if suffix not in MUXERS:
        bare = mark("results cannot be written as a file without suffix")
        what = tr("results cannot be written as {suffix}", suffix=suffix) if suffix else tr(bare)
        remedy = tr("use one of {suffixes}", suffixes=", ".join(MUXERS))
        raise OutputError(what, where=str(info.path), remedy=remedy)
    refused = _refused_streams(info, suffix)
    alternatives = [other for other in _FALLBACKS if not _refused_streams(info, other)] if refused else []
    if alternatives:
        what = tr("{suffix} cannot hold {stream} of the target", suffix=suffix, stream=refused[0])
        remedy = tr("write {suffix} instead", suffix=alternatives[0])
        raise OutputError(what, where=str(info.path), remedy=remedy)
    return suffix


def _refused_streams(info: VideoInfo, suffix: str) -> list[StreamInfo]:
    """Return the audio and subtitle streams of the target that a container does not take.

    Codecs unknown to this FFmpeg are not counted: no container takes them, and a note tells of them later.
    """
    streams = [stream for stream in (*info.audio, *info.subtitles) if stream.codec != UNKNOWN_CODEC]
    if not streams:
        return []
    # MP4 allows PCM (ISO/IEC 23003-5), but hardly any player supports it.
    refuse_pcm = suffix in (".mp4", ".m4v") and info.path.suffix.lower() != suffix
    with open_source(require_file(info.path)) as source:
        return [
            stream
            for stream in streams
            if (refuse_pcm and stream.codec.startswith("pcm_"))
            or not accepts_stream(source.streams[stream.index], MUXERS[suffix])
        ]


def accepts_stream(stream: Stream, muxer: str) -> bool:
    """Return whether a muxer can write a file with a copy of this stream."""
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
    """Return muxer options that keep start times and tags, and let playback start early, in the MP4 family.

    Edit lists count in ticks of the movie's time scale, by default milliseconds: a scale is chosen in which
    the video's timestamps and the streams' start times are whole numbers.
    """
    if not is_mov(MUXERS[suffix]):
        return {}
    options = {"movflags": "+faststart" + ("" if set(tags) <= _MP4_KEYS else "+use_metadata_tags")}
    starts = (Fraction(one.start_time or 0) * (to_fraction(one.time_base) or 0) for one in source.streams)
    denominators = [start.denominator for start in starts if start > 0]
    scale = lcm(_DEFAULT_MOVIE_SCALE, time_base.denominator, *denominators)
    if _DEFAULT_MOVIE_SCALE < scale <= _MAX_MOVIE_SCALE:
        options["movie_timescale"] = str(scale)
    return options


def file_tags(source: Mapping[str, str], *, comment: str = "") -> dict[str, str]:
    """Return a file's tags without those about the file itself, with ``comment`` appended to its comment."""
    tags = {key: value for key, value in source.items() if key.lower() not in _FILE_KEYS}
    own = next((key for key in tags if key.lower() == "comment"), "comment")
    if comment and comment not in tags.get(own, ""):
        tags[own] = "; ".join(filter(None, [tags.get(own), comment]))
    return tags


def stream_tags(stream: Stream, *, encoded: bool) -> dict[str, str]:
    """Return a stream's tags; if it is ``encoded`` again, without the statistics of the old encoding."""

    def is_stale(key: str) -> bool:
        statistics = key.startswith(("bps", "number_of_", "_statistics", "duration-"))
        return key in _STREAM_KEYS or (encoded and (statistics or key == "alpha_mode"))

    return {key: value for key, value in stream.metadata.items() if not is_stale(key.lower())}


def timing_note(time_base: Fraction, suffix: str) -> str | None:
    """Return a note if the container rounds timestamps of this time base, as Matroska's milliseconds do."""
    if MUXERS[suffix] != "matroska" or (time_base * 1000).denominator == 1:
        return None
    return tr("Matroska stores times in milliseconds: timestamps were rounded")
