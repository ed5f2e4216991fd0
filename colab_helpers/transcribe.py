"""Subtitles for videos: a file beside each, and optionally a track; needs the extra ``transcripts``.

faster-whisper recognizes speech on the CPU and offline: the model's files must be there already. Audio is
decoded in chunks of minutes, whatever the video's length; video packets are copied one by one.
"""

from __future__ import annotations

import io
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition
from numpy.typing import NDArray

from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.errors import MediaError, ModelError, OutputError
from colab_helpers.files import Seal, atomic_output, copy_atomically, sha256_of
from colab_helpers.language import tr
from colab_helpers.machine import cpu_count
from colab_helpers.media.containers import MUXERS, file_tags, stream_tags
from colab_helpers.media.demuxing import demux_packets, open_source
from colab_helpers.media.formats import is_mov
from colab_helpers.media.inputs import require_file
from colab_helpers.media.join import open_output
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.stream_copy import StreamCopier
from colab_helpers.trust.manifests import sidecar
from colab_helpers.trust.marking import Marks
from colab_helpers.trust.signing import LOCAL, load_credentials

RATE = 16_000
"""Sample rate of Whisper's input, in Hz."""
_LONGEST, _WINDOW, _STEP = 300 * RATE, 30 * RATE, RATE // 10
# A chunk is cut in the quietest tenth of a second of the last 30 of its 300 seconds.
_TICK = Fraction(1, 1000)
MODEL, _REVISION = "faster-whisper-base", "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66"
_FILES = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
_STYLE = b"[Script Info]\n[V4+ Styles]\nFormat: Name\nStyle: Default\n[Events]\nFormat: Text\n"

AudioSamples = NDArray[np.float32]


class Line(NamedTuple):
    """One subtitle; times in seconds."""

    start: float
    end: float
    text: str


class Transcript(NamedTuple):
    """Lines in order of time, their language (ISO 639-1) and its probability, 0 to 1."""

    lines: list[Line]
    language: str | None = None
    probability: float = 0.0


Transcriber = Callable[[AudioSamples, str | None], Transcript]
"""Transcribes ``(samples,)`` float32 at `RATE`, −1 to 1, in a given language; None detects it."""


def load_transcriber(folder: Path, *, named: bool, words: bool) -> Transcriber:
    """Load a Whisper model in CTranslate2 format; with ``words`` each word is a line.

    Unless the user ``named`` the folder, its files must have the hashes of `MODEL`. Raise ModelError if a
    file is missing or differs, or the model cannot be loaded.
    """
    for name, digest in _FILES.items():
        path = folder / name
        if not path.is_file() and not (named and name == "vocabulary.txt"):  # newer models have another file
            command = f"hf download Systran/{MODEL} --revision {_REVISION} --local-dir {folder}"
            what = tr("a file of the speech recognition model is missing")
            remedy = tr("fetch the model (145 MB, MIT licence) with '{command}'", command=command)
            raise ModelError(what, where=str(path), remedy=remedy)
        if not named and sha256_of(path) != digest:
            remedy = tr("remove it and fetch it again, or name a folder of your own with --model")
            raise ModelError(tr("not the expected file: its SHA-256 differs"), where=str(path), remedy=remedy)
    from faster_whisper import WhisperModel

    try:
        model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=cpu_count())
    except (RuntimeError, ValueError) as error:
        what = tr("the model cannot be loaded ({reason})", reason=error)
        raise ModelError(what, where=str(folder)) from error

    # Higher temperatures sample at random; with 0 the same audio always gives the same lines.
    deterministic: dict[str, Any] = {"temperature": 0.0, "condition_on_previous_text": False}

    def transcriber(samples: AudioSamples, language: str | None) -> Transcript:
        segments, info = model.transcribe(
            samples, language=language, vad_filter=True, word_timestamps=words, **deterministic
        )
        by_word = ((word.start, word.end, word.word) for segment in segments for word in segment.words or ())
        by_segment = ((segment.start, segment.end, segment.text) for segment in segments)
        lines = [Line(start, end, text.strip()) for start, end, text in (by_word if words else by_segment)]
        return Transcript([line for line in lines if line.text], info.language, info.language_probability)

    return transcriber


def transcribe(path: Path, transcriber: Transcriber, *, track: bool) -> tuple[Transcript, list[Path]]:
    """Write the subtitles of a video to ``.srt`` beside it, and with ``track`` a copy with a subtitle track.

    Returns the transcript and the files written.

    Raises:
        UsageError: A file to write exists already.
        MediaError: The file cannot be read, has no audio, or its kind cannot get a track.
        OutputError: A result cannot be written.
    """
    path = require_file(path)
    subtitles, copy = path.with_suffix(".srt"), path.with_name(f"{path.stem}.subtitled{path.suffix}")
    for result in filter(None, (subtitles, copy, sidecar(copy)) if track else (subtitles,)):
        WritePolicy().ensure_writable(result)
    if track and path.suffix.lower() not in MUXERS:
        what = tr("a subtitle track cannot be added to this kind of file")
        remedy = tr("use one of {suffixes}", suffixes=", ".join(MUXERS))
        raise MediaError(what, where=str(path), remedy=remedy)
    transcript = transcribe_audio(path, transcriber)
    if track:
        credentials = load_credentials(LOCAL)
        marks = Marks(signed_by=credentials, target=path, target_manifest=sidecar(path), networks={})
        add_subtitle_track(path, copy, transcript, lambda partial: marks.seal(partial, copy, ()))
    copy_atomically(subtitles, io.BytesIO(srt(transcript.lines).encode()))
    return transcript, [subtitles, copy][: 1 + track]


def transcribe_audio(path: Path, transcriber: Transcriber) -> Transcript:
    """Transcribe a whole file; its language is that of the first chunk with speech."""
    result = Transcript([])
    for start, samples in audio_chunks(path):
        chunk = transcriber(samples, result.language)
        end = start + len(samples) / RATE  # models may give times beyond the chunk
        timed = (Line(start + line.start, min(start + line.end, end), line.text) for line in chunk.lines)
        lines = [line for line in timed if line.start < line.end]
        first = result if result.language or not lines else chunk
        result = first._replace(lines=result.lines + lines)
    return result


def audio_chunks(path: Path) -> Iterator[tuple[float, AudioSamples]]:
    """Yield start and samples of a file's audio in chunks of at most five minutes, cut where it is quiet.

    Raise MediaError if there is no readable audio.
    """
    with open_source(path) as container:
        streams = [stream for stream in container.streams.audio if stream.codec_context]
        stream = min(streams, key=lambda each: not each.disposition & Disposition.default, default=None)
        if stream is None:
            raise MediaError(tr("the file has no audio that can be read"), where=str(path))
        resampler, end, count = AudioResampler(format="flt", layout="mono", rate=RATE), 0.0, 0
        blocks: list[AudioSamples] = []
        for packet in demux_packets(container, stream):
            with suppress(av.FFmpegError):  # a damaged packet becomes silence
                for frame in stream.decode(packet):
                    begin = end if frame.time is None else frame.time
                    if blocks and (gap := round((begin - end) * RATE)) > _STEP:  # a gap becomes silence
                        if gap > _WINDOW:
                            yield end - count / RATE, np.concatenate(blocks)
                            blocks, count, gap = [], 0, 0
                        blocks.append(np.zeros(gap, np.float32))
                        count += gap
                    end = begin + frame.samples / frame.sample_rate
                    parts = [part.to_ndarray()[0] for part in resampler.resample(frame)]
                    blocks += parts
                    count += sum(map(len, parts))
            if count >= _LONGEST:
                samples = np.concatenate(blocks)
                steps = samples[-_WINDOW:].reshape(-1, _STEP)
                quietest = int(np.square(steps).mean(1).argmin())
                cut = len(samples) - _WINDOW + quietest * _STEP + _STEP // 2
                yield end - len(samples) / RATE, samples[:cut]
                blocks, count = [samples[cut:]], len(samples) - cut
        if blocks:
            samples = np.concatenate([*blocks, *(part.to_ndarray()[0] for part in resampler.resample(None))])
            yield max(0.0, end - len(samples) / RATE), samples


def srt(lines: Iterable[Line]) -> str:
    """Format lines as SubRip (``.srt``)."""
    cues = (f"{n}\n{_timecode(x.start)} --> {_timecode(x.end)}\n{x.text}\n" for n, x in enumerate(lines, 1))
    return "\n".join(cues)


def _timecode(seconds: float) -> str:
    ms = max(0, round(seconds * 1000))
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def add_subtitle_track(path: Path, output: Path, transcript: Transcript, seal: Seal) -> None:
    """Copy a video with an added subtitle track; raise OutputError if the copied video packets differ."""
    info = probe(path)
    with atomic_output(output) as partial, open_source(path) as source, open_source(path) as video:
        copier = StreamCopier(source, info)
        with open_output(partial, output, source, file_tags(info.metadata), info.time_base) as result:
            for stream in source.streams:
                if stream.index != info.video_index:
                    copier.add(stream, result)
                    continue
                video_stream = result.add_stream_from_template(stream, opaque=True)
                video_stream.disposition = stream.disposition
                video_stream.metadata.update(stream_tags(stream, encoded=False))
            due = deque(_subtitle_packets(result, transcript))
            result.start_encoding()
            copier.start()
            for packet in _packets(video, info):
                time = Fraction(packet.pts or 0) * (packet.time_base or 1)
                packet.stream = video_stream
                result.mux_one(packet)
                copier.copy_until(result, time)
                while due and (due[0].dts or 0) * _TICK <= time:
                    result.mux_one(due.popleft())
            copier.finish(result)
            for subtitle in due:
                result.mux_one(subtitle)
        with open_source(partial) as copy:
            video.seek(0)
            pairs = zip_longest(_packets(video, info), _packets(copy, probe(partial)))
            if not all(one and other and _content(one) == _content(other) for one, other in pairs):
                raise OutputError(tr("the copy differs from the original video"), where=str(output))
        seal(partial)


def _packets(container: Any, info: VideoInfo) -> Iterator[Packet[Any]]:
    return (packet for packet in demux_packets(container, container.streams[info.video_index]) if packet.size)


def _content(packet: Packet[Any]) -> tuple[object, ...]:
    return Fraction(packet.pts or 0) * (packet.time_base or 1), packet.is_keyframe, bytes(packet)


def _subtitle_packets(result: OutputContainer, transcript: Transcript) -> Iterator[Packet[Any]]:
    """Add a subtitle track; yield its packets."""
    mov = is_mov(result.format.name)
    stream: Any = result.add_stream("mov_text" if mov else "subrip")
    stream.codec_context.subtitle_header = _STYLE
    stream.codec_context.time_base = stream.time_base = _TICK
    stream.metadata["handler_name" if mov else "title"] = transcript.language or "?"  # players show it
    for line in transcript.lines:
        raw, start, end = line.text.encode(), round(line.start * 1000), round(line.end * 1000)
        packet: Packet[Any] = Packet(struct.pack(">H", len(raw)) + raw if mov else raw)
        packet.stream, packet.time_base = stream, _TICK
        packet.pts = packet.dts = start
        packet.duration = max(1, end - start)
        yield packet
