"""The journal: intact entries are read back, torn or damaged ones are ignored."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colab_helpers.batch import keys
from colab_helpers.batch.journal import (
    FileDone,
    FileFailed,
    Journal,
    OutputsClaimed,
    SegmentDone,
    WorkStarted,
    read_journal,
)
from colab_helpers.batch.report import FileReport
from colab_helpers.errors import MissingFileError, OutputError
from colab_helpers.faces.quality import FrameStats
from colab_helpers.media.segments import Segment
from colab_helpers.pipeline import FinishedSegment
from colab_helpers.settings import Settings


def segment(number: int, key: str = "a", *, sha256: str = "0", **values) -> SegmentDone:
    times = {"first_pts": 100 * number, "last_pts": 100 * number + 90, "end_pts": 100 * number + 100}
    file = Segment(Path("x.mkv"), number, start=10 * number, frames=10, bytes=7, sha256=sha256, **times)
    facts = {"length": 10, "measured": FrameStats(faces=10), "encoder": "libx264", "provider": "cpu"}
    return SegmentDone(key=key, part=FinishedSegment(file, **{**facts, "faces": "digest", **values}))


def done(key: str = "a") -> FileDone:
    report = FileReport(source=["s.png"], target="t.mp4", output="o.mp4", status="done", frames_out=20)
    return FileDone(key=key, sha256="1", report=report)


def write(path: Path, *entries) -> None:
    with Journal(path) as journal:
        for entry in entries:
            journal.append(entry)


def test_journal_without_entries_leaves_no_file(tmp_path) -> None:
    write(path := tmp_path / "journal.jsonl")
    assert not path.exists()
    write(path, done())
    write(path)
    assert [entry.key for entry in read_journal(path).entries] == ["a"]


def test_entries_are_read_in_order(tmp_path) -> None:
    path = tmp_path / "work" / "journal.jsonl"
    written = [
        WorkStarted(key="a", run="r", target="t.mp4", pid=3),
        segment(0),
        segment(1, measured=FrameStats(spans=[(10, 12)]), notes=("ü\n",)),
        done(),
    ]
    write(path, *written[:2])
    write(path, *written[2:])
    history = read_journal(path)
    assert history.entries == written
    assert history.damaged == 0
    assert [json.loads(line)["entry"]["event"] for line in path.read_text().splitlines()] == [
        "started", "segment", "segment", "done",
    ]  # fmt: skip


def test_manifest_is_known_after_a_later_attempt_failed(tmp_path) -> None:
    report = FileReport(target="t.mkv", output="o.mkv", status="done", manifest="2")
    claimed = OutputsClaimed(key="a", names=("o.mkv", "o.mkv.c2pa"))
    failed = FileFailed(key="a", run="r", report=report)
    write(tmp_path / "j", claimed, FileDone(key="a", sha256="1", report=report), claimed, failed)
    assert read_journal(tmp_path / "j").made == {"o.mkv": {"1"}, "o.mkv.c2pa": {"2"}}


def test_missing_journal_is_empty(tmp_path) -> None:
    assert read_journal(tmp_path / "none").entries == []


def test_latest_entry_of_a_segment_counts_for_its_key_only(tmp_path) -> None:
    path = tmp_path / "j"
    write(path, segment(0), segment(0, sha256="new"), segment(1, key="b"), done("b"), done("b"))
    history = read_journal(path)
    assert {n: part.segment.sha256 for n, part in history.segments("a").items()} == {0: "new"}
    assert set(history.segments("b")) == {1}
    assert history.result("a") is None
    assert history.result("b").report.frames_out == 20


def test_interruptions_are_counted_until_there_is_progress(tmp_path) -> None:
    path = tmp_path / "j"
    start = WorkStarted(key="a", run="r", target="t", pid=1)
    write(path, start, start.model_copy(update={"key": "b"}), start)
    assert read_journal(path).interruptions("a", "r") == 2
    write(path, segment(0), start)
    assert read_journal(path).interruptions("a", "r") == 1
    write(path, start.model_copy(update={"run": "s"}))
    assert read_journal(path).interruptions("a", "r") == 0
    assert read_journal(path).interruptions("a", "s") == 1
    write(path, FileFailed(key="a", run="s", report=done().report))
    assert read_journal(path).interruptions("a", "s") == 0


def test_failure_counts_in_its_run_until_work_restarts(tmp_path) -> None:
    path = tmp_path / "j"
    failed = FileFailed(key="a", run="r", report=done().report.model_copy(update={"error": "it broke"}))
    write(path, WorkStarted(key="a", run="r", target="t", pid=1), failed)
    assert read_journal(path).failure("a", "r").report.error == "it broke"
    assert read_journal(path).failure("a", "s") is None
    write(path, WorkStarted(key="a", run="s", target="t", pid=1))
    assert read_journal(path).failure("a", "r") is None


@settings(max_examples=60)
@given(share=st.floats(0, 1))
def test_torn_tail_loses_the_last_entry_at_most(tmp_path_factory, share) -> None:
    path = tmp_path_factory.mktemp("torn") / "j"
    write(path, segment(0), segment(1))
    intact = path.read_bytes()
    second = intact.index(b"\n") + 1
    cut = second + round(share * (len(intact) - second))
    path.write_bytes(intact[:cut])
    # A line that lacks only its line break is intact.
    expected = {0, 1} if cut >= len(intact) - 1 else {0}
    assert set(read_journal(path).segments("a")) == expected
    write(path, segment(2))
    history = read_journal(path)
    assert set(history.segments("a")) == expected | {2}
    assert history.damaged == (second < cut < len(intact) - 1)


@settings(max_examples=60)
@given(share=st.floats(0, 1), change=st.integers(1, 255))
def test_changed_byte_damages_only_the_entries_it_touches(tmp_path_factory, share, change) -> None:
    path = tmp_path_factory.mktemp("changed") / "j"
    entries = [segment(n) for n in range(4)]
    write(path, *entries)
    content = bytearray(path.read_bytes())
    content[round(share * (len(content) - 1))] ^= change
    path.write_bytes(content)
    left = read_journal(path).entries
    assert all(entry in entries for entry in left)
    # A changed line break joins two lines; any other byte damages its own line only.
    assert len(left) >= 2


def test_full_disk_raises_and_later_entries_are_written(tmp_path, monkeypatch) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(segment(0))
        original = os.fsync

        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            journal.append(segment(1))
        monkeypatch.setattr(os, "fsync", original)
        journal.append(segment(2))
    history = read_journal(path)
    assert (set(history.segments("a")), history.damaged) == ({0, 2}, 0), "the failed entry is not read"


def test_journal_that_cannot_be_opened_raises(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="run again"):
        Journal(tmp_path / "file" / "j")


def test_entry_of_another_version_counts_as_damaged(tmp_path) -> None:
    path = tmp_path / "j"
    write(path, segment(0))
    import zlib

    body = json.dumps({"event": "started", "key": "a", "run": "r", "target": "t", "pid": 1, "surprise": True})
    with path.open("a") as file:
        file.write(f'{{"crc":"{zlib.crc32(body.encode()):08x}","entry":{body}}}\n')
    history = read_journal(path)
    assert set(history.segments("a")) == {0}
    assert history.damaged == 1


PARTS = {
    "target": "t", "sources": ["s", "r"], "person_filter": [], "settings": Settings(),
    "models": {"inswapper_128": "m"}, "encoder": "libx264",
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"target": "u"},
        {"sources": ["s"]},
        {"person_filter": ["target s"]},
        {"settings": Settings(output_video_quality=20)},
        {"settings": Settings(enhancer_blend=79)},
        {"settings": Settings(enhancer_weight=0.4)},
        {"settings": Settings(face_swapper_pixel_boost=256)},
        {"settings": Settings(face_mask_types=("box", "occlusion"))},
        {"settings": Settings(face_mask_regions=("skin", "lips"))},
        {"models": {"inswapper_128": "n"}},
        {"encoder": "libx265"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_key_depends_on_everything_that_affects_the_result(change) -> None:
    assert keys.work_key(**(PARTS | change)) != keys.work_key(**PARTS)


def test_key_depends_on_the_code(monkeypatch) -> None:
    before = keys.work_key(**PARTS)
    monkeypatch.setattr(keys, "code_digest", lambda: "other")
    assert keys.work_key(**PARTS) != before


def test_key_ignores_resources_and_the_order_of_photos() -> None:
    lighter = Settings(batch_size=1, max_memory=1.0, execution_threads=1)
    changed = PARTS | {"sources": ["r", "s"], "settings": lighter}
    assert keys.work_key(**changed) == keys.work_key(**PARTS)


def test_digest_of_a_file(tmp_path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert keys.file_digest(path).startswith("ba7816bf")
    with pytest.raises(MissingFileError):
        keys.file_digest(tmp_path / "none")


def test_entries_of_many_targets_are_found_in_one_pass(tmp_path) -> None:
    class Counted(list[Any]):
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            self.passes += 1
            return super().__iter__()

    write(path := tmp_path / "journal.jsonl", *(done(str(n)) for n in range(20)))
    history = read_journal(path)
    history.entries = Counted(history.entries)
    assert all(history.result(str(n)) and not history.interruptions(str(n), "r") for n in range(20))
    assert (history.result("20"), history.segments("20"), history.entries.passes) == (None, {}, 1)
