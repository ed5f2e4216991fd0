"""Subtitles, with a tiny Whisper model of random weights or a fake transcriber."""

from __future__ import annotations

import shutil
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from colab_helpers import errors, transcribe
from colab_helpers.__main__ import main
from colab_helpers.command_line import FAILURE, SUCCESS, WRONG_USAGE
from colab_helpers.errors import MediaError, ModelError, OutputError, UsageError
from colab_helpers.transcribe import (
    RATE,
    AudioSamples,
    Line,
    Transcript,
    audio_chunks,
    load_transcriber,
    srt,
    transcribe_audio,
)
from tests.helpers.marks import published, read_mark
from tests.media.make import Sound, Spec, Subtitle, make, packets_of

DEFAULT, COMMENT = int(Disposition.default), int(Disposition.comment)
LINES = [Line(0.2, 0.5, "hello"), Line(0.7, 1.4, "¿qué tal?")]


def fake_transcriber(_samples: AudioSamples, _language: str | None) -> Transcript:
    return Transcript(LINES, "es", 0.9)


def film(path: Path, **options: Any) -> Path:
    defaults = {"frames": 50, "sounds": (Sound(),), "options": {"bf": "2"}}
    return make(path, Spec(**({**defaults, "metadata": {"comment": "shot in Lima"}} | options)))


def test_default_audio_stream_is_transcribed(tmp_path: Path) -> None:
    sounds = (Sound(seconds=0.5, disposition=COMMENT), Sound(seconds=1.5, disposition=DEFAULT))
    (start, samples), *_ = audio_chunks(film(tmp_path / "clip.mkv", sounds=sounds))
    assert (start, len(samples) / RATE) == pytest.approx((0, 1.5), abs=0.1)
    (_, samples), *_ = audio_chunks(film(tmp_path / "none.mkv", sounds=(sounds[0], Sound(seconds=1.5))))
    assert len(samples) / RATE == pytest.approx(0.5, abs=0.1)


def test_srt_format() -> None:
    lines = [Line(0.0, 1.2345, "one"), Line(3661.5, 3662.0, "two")]
    first, second = "1\n00:00:00,000 --> 00:00:01,234\none\n", "2\n01:01:01,500 --> 01:01:02,000\ntwo\n"
    assert srt(lines) == f"{first}\n{second}"


def test_audio_is_split_at_quiet_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=RATE)
        wave = (8000 * np.sin(np.arange(10 * RATE) / 20)).astype(np.int16)
        wave[RATE * 32 // 10 : RATE * 34 // 10] = 0
        for start in range(0, len(wave), 800):
            frame = av.AudioFrame.from_ndarray(wave[None, start : start + 800], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start + RATE, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    monkeypatch.setattr(transcribe, "_LONGEST", 4 * RATE)
    monkeypatch.setattr(transcribe, "_WINDOW", 2 * RATE)
    found = list(audio_chunks(path))
    assert len(found) >= 3
    assert 4.2 <= found[1][0] <= 4.4  # silence, and an offset of one second
    for (start, samples), (after, _) in pairwise(found):
        assert after == pytest.approx(start + len(samples) / RATE, abs=0.002)
        assert len(samples) <= 4.1 * RATE
    np.testing.assert_allclose(np.concatenate([each for _, each in found]), wave / 32768, atol=1e-4)
    languages = []

    def transcriber(samples: AudioSamples, language: str | None) -> Transcript:
        languages.append(language)
        lines = [] if len(languages) == 1 else [Line(0.5, 99.0, str(len(languages)))]
        return Transcript(lines, f"l{len(languages)}", 0.5)

    transcript = transcribe_audio(path, transcriber)
    assert languages[:3] == [None, None, "l2"]  # the first chunk has no lines
    assert (transcript.language, [line.text for line in transcript.lines][:2]) == ("l2", ["2", "3"])
    assert transcript.lines[0].start == pytest.approx(found[1][0] + 0.5)
    assert transcript.lines[0].end == pytest.approx(found[2][0], abs=0.002)


@pytest.mark.parametrize(("pause", "begins"), [(2, [0.0]), (50, [0.0, 52.0])])
def test_timestamps_are_kept_across_audio_gap(tmp_path: Path, pause: int, begins: list[float]) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=RATE)
        for start in (*range(0, 2 * RATE, 800), *range((2 + pause) * RATE, (4 + pause) * RATE, 800)):
            frame = av.AudioFrame.from_ndarray(np.full((1, 800), 99, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            container.mux(stream.encode(frame))
    found = list(audio_chunks(path))
    assert [start for start, _ in found] == pytest.approx(begins, abs=0.01)
    assert found[-1][0] + len(found[-1][1]) / RATE == pytest.approx(4 + pause, abs=0.01)


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "mov_text"), ("clip.mkv", "srt")])
def test_copy_with_subtitle_track_keeps_all_packets(tmp_path: Path, name: str, codec: str) -> None:
    own = (Subtitle(lines=((100, 200, "own"), (900, 300, "words"))),) if codec == "mov_text" else ()
    target = published(film(tmp_path / f"shot{name}", subtitles=own), tmp_path / name)
    before = target.read_bytes()
    transcript, written = transcribe.transcribe(target, fake_transcriber, track=True)
    assert transcript.language == "es"
    assert [path.name for path in written] == ["clip.srt", f"clip.subtitled{target.suffix}"]
    assert written[0].read_text(encoding="utf-8") == srt(LINES)
    assert target.read_bytes() == before
    for kind in ("video", "audio", *(["subtitle"] if own else [])):
        assert packets_of(written[1], kind) == packets_of(target, kind)
    with av.open(str(written[1])) as container:
        stream = container.streams.subtitles[-1]
        assert stream.codec_context.name == codec
        assert "es" in (stream.metadata.get("title"), stream.metadata.get("handler_name"))
        assert container.metadata.get("comment", container.metadata.get("COMMENT")) == "shot in Lima"
        texts = [packet for packet in container.demux(stream) if packet.size > 2]
        cut = 2 if codec == "mov_text" else 0
        assert [bytes(packet)[cut:].decode() for packet in texts] == [line.text for line in LINES]
        times = [(float(one.pts * one.time_base), float(one.duration * one.time_base)) for one in texts]  # type: ignore[operator]
        np.testing.assert_allclose(times, [(0.2, 0.3), (0.7, 0.7)])
    sidecar = written[1].with_name(f"{written[1].name}.c2pa") if name == "clip.mkv" else None
    state, store = read_mark(written[1], beside=sidecar)
    assert state == "Valid"
    (target_of,) = store["manifests"][store["active_manifest"]]["ingredients"]
    assert target_of["relationship"] == "parentOf"
    assert target_of["active_manifest"] in store["manifests"]  # the target's mark is kept
    with pytest.raises(UsageError, match="already"):
        transcribe.transcribe(target, fake_transcriber, track=False)


def test_failures_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, avi = make(tmp_path / "silent.mp4"), film(tmp_path / "clip.avi", codec="mpeg4", options={})
    with pytest.raises(MediaError, match="no audio"):
        transcribe.transcribe(silent, fake_transcriber, track=True)
    with pytest.raises(MediaError, match="track cannot be added"):
        transcribe.transcribe(avi, fake_transcriber, track=True)
    target, mine = film(tmp_path / "clip.mkv"), tmp_path / "clip.subtitled.mkv.c2pa"
    mine.write_text("mine")
    with pytest.raises(UsageError, match="already"):
        transcribe.transcribe(target, fake_transcriber, track=True)
    assert mine.read_text() == "mine"
    mine.unlink()
    target = target.rename(tmp_path / "clip.mp4")
    original = transcribe._content
    monkeypatch.setattr(transcribe, "_content", lambda packet: (original(packet), id(packet)))
    with pytest.raises(OutputError, match="copy differs"):
        transcribe.add_subtitle_track(target, tmp_path / "copy.mp4", Transcript(LINES), lambda _: None)
    assert {path.name for path in tmp_path.iterdir()} == {"silent.mp4", "clip.avi", "clip.mp4"}


def tiny_whisper(folder: Path) -> Path:
    """Write a Whisper model with one layer of width 16, random weights and a vocabulary of the real size."""
    from ctranslate2.specs import WhisperSpec
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from tokenizers import Tokenizer, decoders, models

    width, rng = 16, np.random.default_rng(3)
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    times = (f"{number / 50:.2f}" for number in range(1501))
    names = ("endoftext", "startoftranscript", *_LANGUAGE_CODES, *tasks, *times)
    special = [f"<|{name}|>" for name in names]
    words = ["", *(f"w{number}" for number in range(1, 51866 - len(special)))]
    numbers = {word: number for number, word in enumerate(words + special)}
    sizes = {
        "encoder/position": (1500, width), "decoder/position": (448, width), "conv1/weight": (width, 80, 3),
        "conv2/weight": (width, width, 3), "conv": (width,), "embeddings": (51866, width),
        "linear_0/weight": (4 * width, width), "linear_1/weight": (width, 4 * width),
        "self_attention/linear_0/weight": (3 * width, width), "self_attention/linear_0/bias": (3 * width,),
        "self_attention/linear_1/weight": (width, width), "/attention/linear_0/weight": (width, width),
        "/attention/linear_0/bias": (width,), "/attention/linear_1/weight": (2 * width, width),
        "/attention/linear_1/bias": (2 * width,), "linear_2/weight": (width, width),
        "ffn/linear_0/bias": (4 * width,),
    }  # fmt: skip

    def fill(spec: Any, name: str, value: Any) -> None:
        if value is None or "position_encodings" in name:
            fitting = [part for part in sizes if part in name]
            size = sizes[max(fitting, key=len)] if fitting else (width,)
            setattr(spec, name.rsplit("/", 1)[-1], rng.normal(0, 0.3, size).astype(np.float32))

    spec = WhisperSpec(1, 2, 1, 2)
    spec._visit(fill)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.register_vocabulary(words + special)
    spec.config.lang_ids = [numbers[f"<|{code}|>"] for code in _LANGUAGE_CODES]
    spec.config.suppress_ids, spec.config.alignment_heads = [], [[0, 0]]
    spec.config.suppress_ids_begin = [numbers["<|endoftext|>"]]
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="w1"))
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_transcribe_with_tiny_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words are random; loading, language detection, timestamps and command are real."""
    pytest.importorskip("faster_whisper", reason="the extra transcripts is not installed (160 MB)")
    pytest.importorskip("ctranslate2", reason="the extra transcripts is not installed (160 MB)")
    import faster_whisper.transcribe as library

    clip, model = film(tmp_path / "clip.mp4"), tiny_whisper(tmp_path / "model")
    command = ["transcribe", str(clip), str(tmp_path / "none.mp4"), "--model", str(model), "--words"]
    assert main(command) == FAILURE  # one of the two is missing
    printed = capsys.readouterr()
    assert "0 line(s)" in printed.out  # a tone is not speech
    assert "there is no such file" in printed.err
    assert (tmp_path / "clip.srt").read_text() == ""
    (tmp_path / "clip.srt").unlink()
    monkeypatch.setattr(
        library, "get_speech_timestamps", lambda audio, *_, **__: [{"start": 0, "end": len(audio)}]
    )
    assert main(command[:2] + command[3:]) == SUCCESS
    first = (tmp_path / "clip.srt").read_text()
    assert "-->" in first
    transcript = transcribe_audio(clip, load_transcriber(model, named=True, words=True))
    assert srt(transcript.lines) == first
    assert transcript.language is not None
    assert all(0 <= line.start < line.end <= 2.1 for line in transcript.lines)
    with pytest.raises(ModelError, match="not the expected file"):
        load_transcriber(model, named=False, words=False)
    shutil.copy(clip, model / "model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_transcriber(model, named=True, words=False)


def test_missing_model_or_packages_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ModelError, match=r"config\.json: a file .* is missing.*hf download Systran/\S+ --revision"
    ):
        load_transcriber(tmp_path, named=False, words=False)
    monkeypatch.setattr(errors, "find_spec", lambda _name: None)
    assert main(["transcribe", str(tmp_path / "clip.mp4")]) == WRONG_USAGE
    assert "run 'bash setup.sh install transcripts'" in capsys.readouterr().err
