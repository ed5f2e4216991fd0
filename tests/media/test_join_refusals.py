"""Errors of joining: bad segments, wrong results, a stop, a full disk."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.errors import MediaError, MissingFileError, OutputError, UsageError
from colab_helpers.media.encoders import EncoderChoice
from colab_helpers.media.join import join_segments
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.media.segments import Segment, check_segment
from colab_helpers.media.stream_copy import StreamCopier
from colab_helpers.media.timeline import Timeline
from tests.media.make import Sound, Spec, make
from tests.media.roundtrip import LOSSY, OPEN, WHOLE_ROWS, cut

Parts = tuple[VideoInfo, list[Segment]]


@pytest.fixture(scope="module")
def shared_parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("whole")
    spec = Spec(frames=90, options=OPEN, sounds=(Sound(),), size=WHOLE_ROWS)
    info = probe(make(folder / "a.mp4", spec))
    return info, cut(info, folder / "work", LOSSY, 30)


@pytest.fixture
def parts(shared_parts: Parts, tmp_path: Path) -> Parts:
    """A copy of the segments for one test."""
    info, segments = shared_parts
    work = Path(shutil.copytree(segments[0].path.parent, tmp_path / "work"))
    return info, [replace(one, path=work / one.path.name) for one in segments]


def assert_refused(
    parts: Parts, tmp_path: Path, kind: type[BaseException], words: str, *, suffix: str = ".mp4", **given: Any
) -> None:
    """Joining fails, leaves no output, and keeps every segment."""
    info, segments = parts
    (tmp_path / "out").mkdir(exist_ok=True)
    before = sorted((tmp_path / "work").iterdir())
    with pytest.raises(kind, match=words or None):
        join_segments(segments, info, tmp_path / "out" / f"x{suffix}", choice=LOSSY, **given)
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted((tmp_path / "work").iterdir()) == before


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], type[Exception], str]] = {
    "cut": (lambda data: data[:-1], MediaError, "segment 2 .*has changed"),
    "flipped": (lambda data: data[:999] + b"x" + data[1000:], MediaError, "segment 2 .*has changed"),
    "missing": (lambda _: b"", MissingFileError, r"segment 2 \(frames 60 to 89\) is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_missing_or_damaged_segment_is_named(parts: Parts, tmp_path: Path, damage: str) -> None:
    change, kind, words = DAMAGE[damage]
    path = parts[1][2].path
    path.write_bytes(change(path.read_bytes()))
    if damage == "missing":
        path.unlink()
    with pytest.raises(kind, match=words):
        check_segment(parts[1][2])
    assert_refused(parts, tmp_path, kind, words)


def mismatched(segments: list[Segment]) -> Iterator[tuple[list[Segment], type[Exception], str]]:
    """Segments that are not consecutive, or differ from their record."""
    first, second, last = segments
    yield [first, last], UsageError, r"segment 2 .* does not follow segment 0"
    yield [first, second, replace(last, first_pts=second.last_pts)], UsageError, "does not follow"
    for field in ("frames", "last_pts"):
        changed = replace(last, **{field: getattr(last, field) - 1})
        yield [first, second, changed], MediaError, "does not hold the frames"


@pytest.mark.parametrize("which", range(4))
def test_mismatched_segments_are_refused(parts: Parts, tmp_path: Path, which: int) -> None:
    segments, kind, words = list(mismatched(parts[1]))[which]
    assert_refused((parts[0], segments), tmp_path, kind, words)


@pytest.mark.parametrize(
    "other",
    [
        EncoderChoice("libx264", "yuv444p", LOSSY.options),
        EncoderChoice("libx264", "yuv420p", {**LOSSY.options, "refs": "5"}),
        EncoderChoice("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    ],
)
def test_segment_of_another_encoder_is_named(parts: Parts, tmp_path: Path, other: EncoderChoice) -> None:
    info, (first, _, last) = parts
    (again,) = cut(info, tmp_path / "work", other, 30, after=first, stop=60)
    assert_refused((info, [first, again, last]), tmp_path, MediaError, "segment 1 .*another encoder")


# Muxing faults, each detected in the finished file.
FAULTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "89 frames, not 90": (".mp4", lambda packet: None),
    "it lasts": (".mp4", lambda packet: setattr(packet, "duration", 1)),
    "it lasts .* seconds": (".mkv", lambda packet: setattr(packet, "duration", packet.duration * 9)),
}


@pytest.mark.parametrize("words", FAULTS)
def test_wrong_result_fails_verification(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    suffix, fault = FAULTS[words]
    original = Timeline.packets

    def packets(self: Timeline, **given: Any) -> Iterator[Any]:
        for count, packet in enumerate(original(self, **given), 1):
            if words.startswith("89") and count == 40:
                continue
            if count == 90 or suffix == ".mkv":
                fault(packet)
            yield packet

    monkeypatch.setattr(Timeline, "packets", packets)
    assert_refused(parts, tmp_path, OutputError, f"failed verification: .*{words}", suffix=suffix)


def test_missing_stream_fails_verification(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StreamCopier.finish

    def finish(self: StreamCopier, output: Any) -> None:
        original(self, output)
        self.copied[9] = "audio"

    monkeypatch.setattr(StreamCopier, "finish", finish)
    assert_refused(parts, tmp_path, OutputError, "streams are missing: audio")


def test_interrupted_join_keeps_the_segments(parts: Parts, tmp_path: Path) -> None:
    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    assert_refused(parts, tmp_path, KeyboardInterrupt, "", on_frame=stop)


FULL_DISK = """
    import pickle, resource, signal, sys
    from pathlib import Path
    from colab_helpers.errors import OutputError
    from colab_helpers.media.reader import read_frames
    from colab_helpers.media.join import join_segments
    from colab_helpers.media.segments import SegmentWriter

    info, segments, choice, folder, limit = pickle.load(sys.stdin.buffer)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        if segments:
            join_segments(segments, info, folder / "x.mp4", choice=choice)
        else:
            writer = SegmentWriter(folder, info, choice=choice, length=30, on_segment=print)
            with read_frames(info) as reader, writer:
                for frame in reader:
                    writer.write(frame.video, pts=frame.pts, duration=frame.duration)
    except OutputError as error:
        print(error)
        sys.exit(7)
"""


@pytest.mark.parametrize("share", [0.0, 0.6, 0.99])
@pytest.mark.parametrize("joining", [True, False])
def test_full_disk_leaves_no_partial_file(parts: Parts, tmp_path: Path, joining: bool, share: float) -> None:
    """Simulated by a file size limit, reached in the header, in the middle or at the end."""
    info, segments = parts
    folder = tmp_path / "full"
    folder.mkdir()
    size = sum(one.bytes for one in segments) if joining else min(one.bytes for one in segments)
    arguments = (info, segments if joining else [], LOSSY, folder, int(size * share))
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK)]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, input=pickle.dumps(arguments), capture_output=True, check=False, env=env)
    assert done.returncode == 7, done.stderr.decode()
    assert b"cannot be written" in done.stdout
    assert list(folder.iterdir()) == []
    assert all(one.path.exists() for one in segments)
