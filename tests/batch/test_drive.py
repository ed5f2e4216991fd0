"""Work on a local disk, with results on a mounted drive that may be slow, full or missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colab_helpers.batch import drive
from colab_helpers.batch.drive import WORK_NAME, RetryPolicy, WorkDirs, copy_in, copy_out, is_remote
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.stop import STATUS_NAME, STOP_NAME, StopToken
from colab_helpers.errors import MissingFileError, OutputError
from colab_helpers.files import sha256_of
from colab_helpers.pipeline import report_progress
from tests.helpers.processes import (
    Content,
    contents,
    draw_photo,
    journal_entries,
    leftover_files,
    repeated_segments,
    run_here,
    stop_at,
)
from tests.media.make import Sound, Spec, make

NAMES = ("a.mp4", "b.mp4")
SEGMENTS = {"a.mp4": 3, "b.mp4": 4}
pytestmark = pytest.mark.xdist_group("drive")

MOUNTS = {
    "/": "overlay", "/content/drive": "fuse.drive", "/mnt/nas": "nfs4", "/mnt/nas/local": "ext4",
    "/mnt/vm": "9p", "/mnt/windows": "fuseblk", "/mnt/cifs": "cifs", "/home": "ext4",
    "/home/me/bucket": "fuse.gcsfuse", "/var/lib/box/merged": "fuse.overlayfs",
}  # fmt: skip
REMOTE = (
    "/content/drive/MyDrive/out", "/content/drive", "/content/drive/not/there/yet", "/mnt/nas/films",
    "/mnt/vm/films", "/mnt/cifs", "/home/me/bucket/out",
)  # fmt: skip
LOCAL = (
    "/content/driver/out", "/mnt/nas/local/films", "/mnt/windows/films", "/home/me/out",
    "/var/lib/box/merged/out", "/",
)  # fmt: skip


@pytest.mark.parametrize("folder", [*REMOTE, *LOCAL])
def test_innermost_mount_decides_whether_a_folder_is_remote(folder, monkeypatch) -> None:
    parts = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in MOUNTS.items()]
    monkeypatch.setattr(drive.psutil, "disk_partitions", lambda **_: parts)
    assert is_remote(Path(folder)) is (folder in REMOTE)


def test_work_folder_is_stable_and_unique_per_output_folder(tmp_path, monkeypatch) -> None:
    out, local = tmp_path / "out", tmp_path / "local"
    first = WorkDirs.of(out, local)
    monkeypatch.chdir(tmp_path)
    assert (
        first.local == WorkDirs.of(Path("out"), local).local != WorkDirs.of(tmp_path / "other", local).local
    )
    assert (first.mirror, local in first.local.parents) == (out / WORK_NAME, True)
    assert WorkDirs.of(out) == WorkDirs(out / WORK_NAME, None)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world-writable folder for temporary files; all output folders count as remote."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(drive.tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.setattr(drive, "is_remote", lambda _folder: True)
    return folder


def test_work_folder_in_a_shared_folder_is_private(temporary, tmp_path) -> None:
    found = WorkDirs.of(tmp_path / "out")
    own = found.local.parent
    assert own.parent == temporary
    for _ in range(2):
        found.make()
        assert found.local.is_dir()
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        own.chmod(0o755)


@pytest.mark.parametrize("whose", ["another's", "a link", "a file"])
def test_work_folder_of_another_user_is_refused(temporary, tmp_path, monkeypatch, whose) -> None:
    found = WorkDirs.of(tmp_path / "out")
    own = found.local.parent
    if whose == "another's":
        own.mkdir()
        original = Path.lstat
        other = SimpleNamespace(st_mode=original(own).st_mode, st_uid=os.getuid() + 1)
        monkeypatch.setattr(Path, "lstat", lambda path: other if path == own else original(path))
    elif whose == "a link":
        (tmp_path / "elsewhere").mkdir()
        own.symlink_to(tmp_path / "elsewhere")
    else:
        own.write_text("")
    with pytest.raises(OutputError, match=r"belongs to another user.*What to do: have it removed"):
        found.make()
    assert not found.local.exists()


def test_clean_up_keeps_unfinished_work_user_files_and_waiting_jobs(tmp_path) -> None:
    found = WorkDirs.of(tmp_path / "out", tmp_path / "local")
    assert found.mirror is not None
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    for place in (found.local, found.mirror):
        (place / "key").mkdir(parents=True)
        for name in ("digests.json", "worker.log", f"job-killed-{dead.pid}.json"):
            (place / name).write_text("")
    waiting = found.local / f"job-other-{os.getpid()}.json"
    waiting.write_text("")
    (tmp_path / "local" / "mine.txt").write_text("mine")
    found.clean_up("mine")
    assert (found.local / "key").is_dir()
    assert (found.mirror / "key").is_dir()
    for place in (found.local, found.mirror):
        (place / "key").rmdir()
    found.clean_up("mine")
    assert (waiting.exists(), found.mirror.exists()) == (True, False)
    found.clean_up("other")
    assert not found.local.exists()
    assert (tmp_path / "local" / "mine.txt").read_text() == "mine"


def test_retry_does_not_check_for_stop_after_successful_work() -> None:
    def stop(_what: str | None) -> None:
        raise KeyboardInterrupt

    assert RetryPolicy(1.0, on_wait=stop).attempt(lambda: "done") == "done"


@pytest.mark.parametrize("longest", [0, 60])
def test_retry_raises_the_last_error_after_the_longest_wait(longest) -> None:
    now, messages = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def full() -> None:
        raise OutputError("No space left on device", where="x.mp4", remedy="free some")

    retry = RetryPolicy(longest, on_wait=messages.append, sleep=sleep, clock=lambda: now[0])
    with pytest.raises(OutputError, match="No space left"):
        retry.attempt(full)
    assert longest <= now[0] <= longest + 5 * bool(longest)
    assert all("waiting for free space or access: x.mp4: No space left" in message for message in messages)

    def missing() -> None:
        raise MissingFileError("it is not there")

    waited = now[0]
    with pytest.raises(MissingFileError):  # retried for the output folder only
        retry.attempt(missing)
    assert now[0] == waited


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten chunks."""
    monkeypatch.setattr(drive, "CHUNK", 1000)
    path = tmp_path / "source.bin"
    path.write_bytes(os.urandom(9999))
    return path


def test_copy_out_is_complete_and_returns_its_hash(source, tmp_path) -> None:
    heartbeats: list[int] = []
    target = tmp_path / "drive" / "deep" / ("ä" * 125 + ".mp4")  # the longest possible name
    digest = copy_out(source, target, heartbeat=lambda: heartbeats.append(1))
    assert digest == sha256_of(source) == sha256_of(target)
    assert len(heartbeats) >= 10
    copy_in(target, tmp_path / "local" / target.name)
    for folder in (target.parent, tmp_path / "local"):
        assert [path.name for path in folder.iterdir()] == [target.name]


class FailingFile:
    """A file that fails after some chunks: the disk is full or the mount is lost."""

    def __init__(self, file: Any, room: int, code: int) -> None:
        self.file, self.room, self.code = file, room, code

    def __enter__(self) -> FailingFile:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()

    def _next(self) -> Any:
        self.room -= 1
        if self.room < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.file

    def write(self, data: bytes) -> int:
        return int(self._next().write(data))

    def read(self, size: int) -> bytes:
        return bytes(self._next().read(size))


def inject_fault(monkeypatch: pytest.MonkeyPatch, fault: str, source: Path) -> None:
    """Make a copy fail on one side, or the disk return other bytes than were written."""
    original_open, original_sync = Path.open, os.fsync

    def opened(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        if path == source and fault == "gone":
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        file = original_open(path, mode, *given, **named)
        if fault == "full" and mode == "wb":
            return FailingFile(file, 3, errno.ENOSPC)
        return FailingFile(file, 1, errno.EIO) if fault == "lost" and path == source else file

    def sync(number: int) -> None:
        if fault == "swapped":
            os.pwrite(number, b"\0\1", 500)
        original_sync(number)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.parametrize("old", [[], [b"what was there"]], ids=["new", "old"])
@pytest.mark.parametrize(
    ("copy", "fault", "message"),
    [
        (copy_out, "swapped", "differs from what was written"),
        (copy_out, "full", "No space left"),
        (copy_out, "stopped", "^$"),
        (copy_in, "full", "cannot be written"),
        (copy_in, "stopped", "^$"),
        (copy_in, "gone", "cannot be read"),
        (copy_in, "lost", "cannot be read"),
    ],
)
def test_failed_copy_keeps_the_old_file_and_names_the_faulty_side(
    source, tmp_path, monkeypatch, copy, fault, message, old
) -> None:
    target = tmp_path / "there" / "x.bin"
    target.parent.mkdir()
    for data in old:
        target.write_bytes(data)
    heartbeats: list[int] = []

    def heartbeat() -> None:
        heartbeats.append(1)
        if fault == "stopped" and len(heartbeats) == 4:
            raise KeyboardInterrupt

    inject_fault(monkeypatch, fault, source)
    with pytest.raises(KeyboardInterrupt if fault == "stopped" else OutputError, match=message) as caught:
        copy(source, target, heartbeat=heartbeat)
    monkeypatch.undo()
    assert [path.read_bytes() for path in target.parent.iterdir()] == old
    if fault != "stopped":
        side = source if fault in ("gone", "lost") else target
        assert str(caught.value).startswith(f"{side}: ")
        assert "What to do" in str(caught.value)


def test_copy_in_is_not_repeated(source, tmp_path, monkeypatch) -> None:
    target = tmp_path / "local" / "x.bin"
    copies: list[Path] = []
    original = drive.copy_bytes

    def copy(source: Path, target: Path, heartbeat: Callable[[], None]) -> str:
        copies.append(target)
        return original(source, target, heartbeat)

    monkeypatch.setattr(drive, "copy_bytes", copy)
    digest = copy_in(source, target)
    assert copy_in(source, target) == digest == sha256_of(source)
    assert len(copies) == 1
    # Other bytes with the same size and time are detected by the hash.
    found = target.stat()
    target.write_bytes(bytes(found.st_size))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert copy_in(source, target) != digest
    # A changed source is copied again, even with the same size.
    source.write_bytes(os.urandom(found.st_size))
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))
    assert copy_in(source, target) == sha256_of(source) == sha256_of(target)
    with pytest.raises(MissingFileError, match=r"none\.bin.*cannot be read.*What to do.*mount"):
        copy_in(tmp_path / "none.bin", tmp_path / "nowhere" / "x.bin")
    assert not (tmp_path / "nowhere").exists()


# --- whole batches whose results go to a mounted drive -------------------------------------------------


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive_in")
    for k, name in enumerate(NAMES):
        make(folder / name, Spec(frames=12 + 6 * k, rate=Fraction(5), sounds=(Sound(),)))
    return folder


@pytest.fixture(scope="module")
def plain(
    targets: Path, tmp_path_factory: pytest.TempPathFactory, constant_models: Path
) -> dict[str, Content]:
    """Results of a batch that works in its output folder."""
    place = tmp_path_factory.mktemp("drive_plain")
    assert run_here(draw_photo(place), targets, place / "out", constant_models).ok
    return contents(place / "out")


class Away:
    """A batch that works in ``local``, with results in ``out`` as on a mounted drive."""

    def __init__(self, folder: Path, targets: Path, models: Path) -> None:
        self.out, self.work = folder / "out", folder / "local"
        self.local = WorkDirs.of(self.out, self.work).local
        self.photo, self.targets, self.models = draw_photo(folder), targets, models

    def run(self, **given: Any) -> BatchReport:
        return run_here(self.photo, self.targets, self.out, self.models, work_dir=self.work, **given)

    def segments(self, place: Path) -> Counter[str]:
        return Counter(path.parent.name for path in place.rglob("[!.]*.nut"))

    def assert_done(self, report: BatchReport, plain: dict[str, Content], *, repeated: int = 0) -> None:
        """Only the expected results exist, and ``repeated`` segments were repeated."""
        assert report.ok, [file.error for file in report.files]
        assert contents(self.out) == plain
        assert leftover_files(self.out, *NAMES) == set()
        assert not self.local.exists()
        assert len(repeated_segments(self.out)) == repeated


@pytest.fixture
def away(tmp_path: Path, targets: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setattr(report_progress, "PROGRESS_INTERVAL", 0.0)  # every frame is reported
    return Away(tmp_path, targets, constant_models)


def test_batch_on_the_local_disk_gives_the_same_results(away, plain) -> None:
    away.work.mkdir()
    (away.work / "mine.txt").write_text("mine")
    counts: set[tuple[int, int]] = set()

    def look(progress: Any) -> None:
        if progress.stage == "frames":
            counts.add((len(list(away.local.rglob("[!.]*.nut"))), len(list(away.out.rglob("[!.]*.nut")))))
            # The drive has copies of finished segments only, and no file that is being written.
            assert not [path for path in away.out.rglob(".*part*") if path.parent != away.out]

    report = away.run(on_progress=look)
    away.assert_done(report, plain)
    assert {file.segments for file in report.files} == set(SEGMENTS.values())
    assert counts >= {(0, 0), (1, 1), (2, 2)}
    assert (away.work / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("damage", "kept"), [("", 2), ("flipped", 1), ("cut", 1), ("gone", 1)])
def test_batch_resumes_from_intact_mirrored_segments_without_local_files(away, plain, damage, kept) -> None:
    first = away.run(on_progress=stop_at(11))
    assert [file.status for file in first.files] == ["skipped", "skipped"]
    assert list(away.segments(away.local).values()) == [2]
    assert away.segments(away.out / WORK_NAME) == away.segments(away.local)
    shutil.rmtree(away.work)
    (second,) = (away.out / WORK_NAME).rglob("000001.nut")
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= damage == "flipped"
    second.write_bytes(data[:-9] if damage == "cut" else data)
    if damage == "gone":
        second.unlink()
    report = away.run()
    assert [file.segments_kept for file in report.files] == [kept, 0]
    away.assert_done(report, plain, repeated=2 - kept)


class Drive:
    """Makes copies to the drive fail."""

    def __init__(self, away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self.failures, self.suffix, self.after = away, 0, "", 0
        self.pauses: list[str | None] = []
        self.copies: list[str] = []
        self.original = drive.copy_bytes
        monkeypatch.setattr(drive, "copy_bytes", self.copy)
        monkeypatch.setattr(StopToken, "sleep", lambda _stop, seconds, _tick: self.sleep(seconds))

    def copy(self, source: Path, target: Path, heartbeat: Callable[[], None]) -> str:
        if self.away.out in target.parents and target.suffix.endswith(self.suffix):
            self.after -= 1
            if self.after < 0 and self.failures > 0:
                self.failures -= 1
                target.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.copies.append(target.name)
        return self.original(source, target, heartbeat)

    def sleep(self, _seconds: float) -> None:
        self.pauses.append(json.loads((self.away.local / STATUS_NAME).read_text())["pause"])


def test_batch_waits_while_the_drive_is_full(away, plain, monkeypatch) -> None:
    drive = Drive(away, monkeypatch)
    drive.failures = 5
    report = away.run(overrides={"output_wait": 600.0})
    assert len(drive.pauses) == 5
    assert all(pause and "waiting for free space or access" in pause for pause in drive.pauses)
    assert all("No space left" in (pause or "") for pause in drive.pauses)
    assert json.loads((away.out / STATUS_NAME).read_text())["pause"] is None
    away.assert_done(report, plain)
    # The work continues after the wait: no segment is copied twice.
    copies = [name for name in drive.copies if not name.endswith(".npz")]  # the face index
    assert len(copies) == len(set(copies)) + SEGMENTS["a.mp4"] == 3 + 4 + 2


@pytest.mark.parametrize(
    ("suffix", "copied", "kept", "machine_gone"),
    [(".nut", 2, [2, 0], False), (".mp4", 0, [3, 4], False), (".mp4", 0, [3, 4], True)],
    ids=["segments", "results", "results, machine gone"],
)
def test_drive_that_stays_full_fails_the_file_and_later_runs_resume(
    away, plain, monkeypatch, suffix, copied, kept, machine_gone
) -> None:
    drive = Drive(away, monkeypatch)
    drive.suffix, drive.after, drive.failures = suffix, copied, 10**6
    report = away.run(overrides={"output_wait": 0.0})
    assert [file.status for file in report.files] == ["failed", "failed"]
    for file in report.files:
        assert "No space left on device" in (file.error or "")
        assert "What to do: free some space" in (file.error or "")
        assert str(away.out) in (file.error or "")
    assert not list(away.out.glob("*.mp4"))
    assert not [path for path in away.out.rglob(".*") if path.suffix == ".nut"]
    if suffix == ".mp4":
        assert away.segments(away.out / WORK_NAME) == away.segments(away.local)
    drive.failures = 0
    if machine_gone:
        shutil.rmtree(away.work)
    encoded = len(list(journal_entries(away.out, "segment")))
    report = away.run(overrides={"output_wait": 0.0})
    assert [file.segments_kept for file in report.files] == kept
    assert len(list(journal_entries(away.out, "segment"))) == encoded + sum(SEGMENTS.values()) - sum(kept)
    away.assert_done(report, plain)


def test_stop_request_ends_the_wait(away, plain, monkeypatch) -> None:
    drive = Drive(away, monkeypatch)
    drive.failures = 10**6
    monkeypatch.setattr(StopToken, "sleep", lambda _stop, _seconds, _tick: ask(drive))

    def ask(drive: Drive) -> None:
        drive.sleep(0.0)
        if len(drive.pauses) == 3:
            (away.out / STOP_NAME).touch()
        time.sleep(0.01)  # another thread checks for the file

    report = away.run()
    assert [file.status for file in report.files] == ["skipped", "skipped"]
    assert len(drive.pauses) >= 3
    assert json.loads((away.out / STATUS_NAME).read_text())["state"] == "cancelled"
    assert not (away.out / STOP_NAME).exists()
    monkeypatch.undo()
    away.assert_done(away.run(), plain)


def test_kept_frames_are_copied_to_the_drive(away, plain) -> None:
    away.run(overrides={"keep_frames": True}, on_progress=stop_at(11))
    shutil.rmtree(away.work)
    report = away.run(overrides={"keep_frames": True})
    assert report.ok, [file.error for file in report.files]
    assert contents(away.out) == plain
    assert len(list((away.out / "a.mp4_frames").iterdir())) == 12
    assert len(list((away.out / "b.mp4_frames").iterdir())) == 18
    assert leftover_files(away.out, *NAMES) == {"a.mp4_frames", "b.mp4_frames"}
