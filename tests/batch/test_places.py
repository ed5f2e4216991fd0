"""Work on a local disk, results on a mounted one that may be slow, full or gone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch import places
from colab_helpers.batch.places import WORK_NAME, Patience, WorkPlaces, copy_in, copy_out, is_remote
from colab_helpers.batch.report import STATUS_NAME, BatchReport
from colab_helpers.batch.stop import STOP_NAME, Stop
from colab_helpers.errors import MissingFileError, OutputError
from colab_helpers.files import sha256_of
from colab_helpers.pipeline import report_progress
from tests.conftest import CONSENT
from tests.helpers.processes import SECONDS, Content, contents, entries, litter, repeated
from tests.media.make import Sound, Spec, make

NAMES = ("a.mp4", "b.mp4")
SEGMENTS = {"a.mp4": 3, "b.mp4": 4}
pytestmark = pytest.mark.xdist_group("places")


@pytest.mark.parametrize(
    ("folder", "remote"),
    [
        ("/content/drive/MyDrive/out", True),
        ("/content/drive", True),
        ("/content/drive/not/there/yet", True),
        ("/content/driver/out", False),
        ("/mnt/nas/films", True),
        ("/mnt/nas/local/films", False),
        ("/mnt/vm/films", True),
        ("/mnt/windows/films", False),
        ("/mnt/cifs", True),
        ("/home/me/out", False),
        ("/home/me/bucket/out", True),
        ("/var/lib/box/merged/out", False),
        ("/", False),
    ],
)
def test_whether_a_folder_is_remote_is_told_by_the_innermost_mount(folder, remote, monkeypatch) -> None:
    mounts = {
        "/": "overlay",
        "/content/drive": "fuse.drive",
        "/mnt/nas": "nfs4",
        "/mnt/nas/local": "ext4",
        "/mnt/vm": "9p",
        "/mnt/windows": "fuseblk",
        "/mnt/cifs": "cifs",
        "/home": "ext4",
        "/home/me/bucket": "fuse.gcsfuse",
        "/var/lib/box/merged": "fuse.overlayfs",
    }
    parts = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts.items()]
    monkeypatch.setattr(places.psutil, "disk_partitions", lambda **_: parts)
    assert is_remote(Path(folder)) is remote


def test_places_are_found_again_and_are_another_folders_own(tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    first = WorkPlaces.of(out, tmp_path / "local")
    assert first == WorkPlaces.of(out, tmp_path / "local")
    monkeypatch.chdir(tmp_path)
    assert WorkPlaces.of(Path("out"), tmp_path / "local").local == first.local
    assert WorkPlaces.of(tmp_path / "other", tmp_path / "local").local != first.local
    assert first.mirror == out / WORK_NAME
    assert tmp_path / "local" in first.local.parents
    assert WorkPlaces.of(out) == WorkPlaces(out / WORK_NAME, None)
    monkeypatch.setattr(places, "is_remote", lambda _folder: True)
    away = WorkPlaces.of(out)
    assert away.mirror == out / WORK_NAME
    assert out not in away.local.parents


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, where everybody may make what they like; results are away."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(folder))
    monkeypatch.setattr(places, "is_remote", lambda _folder: True)
    return folder


def test_work_in_a_folder_that_all_share_is_for_its_user_alone(temporary, tmp_path) -> None:
    found = WorkPlaces.of(tmp_path / "out")
    own = found.local.parent
    assert own.parent == temporary
    for _ in range(2):
        found.make()
        assert found.local.is_dir()
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        own.chmod(0o755)


@pytest.mark.parametrize("whose", ["another's", "a link", "a file"])
def test_a_folder_that_somebody_else_has_made_is_refused(temporary, tmp_path, monkeypatch, whose) -> None:
    found = WorkPlaces.of(tmp_path / "out")
    own = found.local.parent
    if whose == "another's":
        own.mkdir()
        genuine = Path.lstat
        theirs = SimpleNamespace(st_mode=genuine(own).st_mode, st_uid=os.getuid() + 1)
        monkeypatch.setattr(Path, "lstat", lambda path: theirs if path == own else genuine(path))
    elif whose == "a link":
        (tmp_path / "elsewhere").mkdir()
        own.symlink_to(tmp_path / "elsewhere")
    else:
        own.write_text("")
    with pytest.raises(OutputError, match=r"is not yours.*What to do: have it removed"):
        found.make()
    assert not found.local.exists()


def test_tidying_up_keeps_unfinished_work_and_what_is_the_users(tmp_path) -> None:
    local = tmp_path / "local"
    found = WorkPlaces.of(tmp_path / "out", local)
    assert found.mirror is not None
    for place in (found.local, found.mirror):
        (place / "key").mkdir(parents=True)
        (place / "digests.json").write_text("{}")
    (local / "mine.txt").write_text("mine")
    found.tidy("run")
    assert (found.local / "key").is_dir()
    assert (found.mirror / "key").is_dir()
    for place in (found.local, found.mirror):
        (place / "key").rmdir()
    found.tidy("run")
    assert not found.local.exists()
    assert not found.mirror.exists()
    assert (local / "mine.txt").read_text() == "mine"


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.told: list[str | None] = []

    def patience(self, longest: float, **given: Any) -> Patience:
        return Patience(
            longest, **({"tell": self.told.append, "sleep": self.sleep, "clock": lambda: self.now} | given)
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(times: int) -> Callable[[], str]:
    """Raises so many times, then works."""
    left = [times]

    def act() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OutputError("No space left on device", where="x.mp4", remedy="free some")
        return "done"

    return act


def test_patience_tells_what_it_waits_for_and_that_it_goes_on() -> None:
    clock = Clock()
    assert clock.patience(600).attempt(failing(3)) == "done"
    assert len(clock.told) == 4
    assert all(told and "waiting for room or access: x.mp4: No space left" in told for told in clock.told[:3])
    assert clock.told[3] is None
    assert clock.now > 1000


def test_patience_ends_after_the_longest_wait_with_the_last_error() -> None:
    clock = Clock()
    with pytest.raises(OutputError, match="No space left"):
        clock.patience(60).attempt(failing(10**6))
    assert 1060 <= clock.now <= 1065
    clock = Clock()
    with pytest.raises(OutputError):
        clock.patience(0).attempt(failing(1))
    assert (clock.now, clock.told) == (1000.0, [])


def test_patience_is_for_the_place_alone_and_ends_when_told_so() -> None:
    clock, tries = Clock(), []

    def stop(_what: str | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clock.patience(600, tell=stop).attempt(failing(9))
    assert clock.now == 1000.0

    def miss() -> None:
        tries.append(1)
        raise MissingFileError("gone")

    with pytest.raises(MissingFileError):
        clock.patience(600).attempt(miss)
    assert tries == [1]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten chunks."""
    monkeypatch.setattr(places, "CHUNK", 1000)
    path = tmp_path / "source.bin"
    path.write_bytes(os.urandom(9999))
    return path


def test_a_copy_out_is_whole_and_told_by_its_hash(source, tmp_path) -> None:
    beats: list[int] = []
    target = tmp_path / "drive" / "deep" / "x.bin"
    digest = copy_out(source, target, beat=lambda: beats.append(1))
    assert target.read_bytes() == source.read_bytes()
    assert digest == sha256_of(source)
    assert len(beats) >= 10
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def swap_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not give back what was written."""
    genuine = os.fsync

    def sync(number: int) -> None:
        os.pwrite(number, b"\0\1", 500)
        genuine(number)

    monkeypatch.setattr(os, "fsync", sync)


def fill_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full after three chunks."""
    genuine = Path.open

    def opened(self: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        file = genuine(self, mode, *given, **named)
        return SlowlyFull(file) if mode == "wb" else file

    monkeypatch.setattr(Path, "open", opened)


class SlowlyFull:
    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 3

    def __enter__(self) -> SlowlyFull:
        return self

    def __exit__(self, *_error: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))


@pytest.mark.parametrize("old", [None, b"what was there"])
@pytest.mark.parametrize(
    ("fault", "words"), [(swap_bytes, "not what was written"), (fill_up, "No space left"), (None, "^$")]
)
def test_a_copy_out_that_fails_leaves_nothing_and_the_old_file(
    source, tmp_path, monkeypatch, old, fault, words
) -> None:
    target = tmp_path / "drive" / "x.bin"
    if old is not None:
        target.parent.mkdir()
        target.write_bytes(old)
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if fault is None and len(beats) == 4:
            raise KeyboardInterrupt

    if fault is not None:
        fault(monkeypatch)
    with pytest.raises(OutputError if fault else KeyboardInterrupt, match=words) as caught:
        copy_out(source, target, beat=beat)
    monkeypatch.undo()
    if fault:
        assert str(target) in str(caught.value)
        assert "What to do" in str(caught.value)
    assert [path.read_bytes() for path in target.parent.iterdir()] == ([old] if old is not None else [])


def test_a_copy_in_is_not_made_twice(source, tmp_path, monkeypatch) -> None:
    target = tmp_path / "local" / "x.bin"
    copies: list[Path] = []
    genuine = places.copy_bytes

    def copy(source: Path, target: Path, beat: Callable[[], None]) -> str:
        copies.append(target)
        return genuine(source, target, beat)

    monkeypatch.setattr(places, "copy_bytes", copy)
    digest = copy_in(source, target)
    assert copy_in(source, target) == digest == sha256_of(source)
    assert len(copies) == 1
    # What has the same size and time but other bytes is seen by whoever compares the hash.
    found = target.stat()
    target.write_bytes(bytes(found.st_size))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert copy_in(source, target) != digest
    # A source that changed is copied anew, also where its size is the same.
    source.write_bytes(os.urandom(found.st_size))
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))
    assert copy_in(source, target) == sha256_of(source) == sha256_of(target)
    source.write_bytes(b"other")
    copy_in(source, target)
    assert target.read_bytes() == b"other"
    assert [path.name for path in target.parent.iterdir()] == ["x.bin"]


def test_a_copy_in_of_nothing_is_told(tmp_path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.bin.*cannot be read.*What to do.*mount"):
        copy_in(tmp_path / "none.bin", tmp_path / "local" / "x.bin")
    assert not (tmp_path / "local").exists()


@pytest.mark.parametrize("what", ["full", "stopped", "gone", "lost"])
def test_a_copy_in_that_fails_leaves_nothing_and_says_which_side(source, tmp_path, monkeypatch, what) -> None:
    target = tmp_path / "local" / "x.bin"
    genuine = Path.open

    class Failing:
        """The mount is lost after the first chunk."""

        def __init__(self, file: Any) -> None:
            self.file, self.reads = file, 0

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_error: object) -> None:
            self.file.close()

        def read(self, size: int) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return bytes(self.file.read(size))

    def opened(self: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
        if self == source and what == "gone":
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        file = genuine(self, mode, *given, **named)
        return Failing(file) if self == source and what == "lost" else file

    def beat() -> None:
        if what == "stopped":
            raise KeyboardInterrupt

    if what == "full":
        fill_up(monkeypatch)
    else:
        monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(KeyboardInterrupt if what == "stopped" else OutputError) as caught:
        copy_in(source, target, beat=beat)
    monkeypatch.undo()
    assert list(target.parent.iterdir()) == []
    if what != "stopped":
        side = target if what == "full" else source
        assert str(caught.value).startswith(f"{side}: ")
        assert ("cannot be written" in str(caught.value)) is (what == "full")


def test_names_as_long_as_names_can_be_are_copied(source, tmp_path) -> None:
    name = "ä" * 125 + ".mp4"
    copy_out(source, tmp_path / "drive" / name)
    copy_in(tmp_path / "drive" / name, tmp_path / "local" / name)
    assert [path.name for path in (tmp_path / "local").iterdir()] == [name]


# --- whole batches whose results go to a mounted drive -------------------------------------------------


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places_in")
    for k, name in enumerate(NAMES):
        make(folder / name, Spec(frames=60 + 30 * k, sounds=(Sound(),)))
    return folder


@pytest.fixture(scope="module")
def plain(
    targets: Path, tmp_path_factory: pytest.TempPathFactory, constant_models: Path
) -> dict[str, Content]:
    """What a batch gives that works beside its results."""
    place = tmp_path_factory.mktemp("places_plain")
    report = run_batch(
        [_photo(place)], [targets], place / "out", in_process=True,
        consent=CONSENT, settings=SECONDS, models_dir=constant_models,
    )  # fmt: skip
    assert report.ok
    return contents(place / "out")


def _photo(folder: Path) -> Path:
    import cv2
    import numpy as np

    path = folder / "photo.png"
    cv2.imwrite(str(path), np.full((256, 256, 3), 120, np.uint8))
    return path


class Away:
    """A batch that works in ``local`` for results in ``out``, which plays the mounted drive."""

    def __init__(self, folder: Path, targets: Path, models: Path) -> None:
        self.out, self.work = folder / "out", folder / "local"
        self.local = WorkPlaces.of(self.out, self.work).local
        self.photo, self.targets, self.models = _photo(folder), targets, models

    def run(self, **given: Any) -> BatchReport:
        settings = SECONDS.with_overrides(**given.pop("overrides", {}))
        return run_batch(
            [self.photo], [self.targets], self.out, in_process=True, work_dir=self.work,
            consent=CONSENT, settings=settings, models_dir=self.models, **given,
        )  # fmt: skip

    def segments(self, place: Path) -> Counter[str]:
        return Counter(path.parent.name for path in place.rglob("[!.]*.nut"))

    def assert_done(self, report: BatchReport, plain: dict[str, Content]) -> None:
        assert report.ok, [file.error for file in report.files]
        assert contents(self.out) == plain
        assert litter(self.out, *NAMES) == set()
        assert not self.local.exists()
        assert repeated(self.out) == {}


@pytest.fixture
def away(tmp_path: Path, targets: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch) -> Away:
    monkeypatch.setattr(report_progress, "PROGRESS_INTERVAL", 0.0)  # every frame is told
    return Away(tmp_path, targets, constant_models)


def stop_at(frame: int, file: int = 0) -> Callable[[Any], None]:
    def stop(progress: Any) -> None:
        if progress.file_index == file and progress.frame >= frame:
            raise KeyboardInterrupt

    return stop


def test_a_batch_works_on_the_local_disk_and_gives_the_same(away, plain) -> None:
    away.work.mkdir()
    (away.work / "mine.txt").write_text("mine")
    seen: set[tuple[int, int]] = set()

    def look(progress: Any) -> None:
        if progress.stage == "frames":
            seen.add((len(list(away.local.rglob("[!.]*.nut"))), len(list(away.out.rglob("[!.]*.nut")))))
            # On the drive lie copies of finished segments, and nothing is being written there.
            assert not [path for path in away.out.rglob(".*part*") if path.parent != away.out]

    report = away.run(on_progress=look)
    away.assert_done(report, plain)
    assert {file.segments for file in report.files} == set(SEGMENTS.values())
    assert seen >= {(0, 0), (1, 1), (2, 2)}
    assert (away.work / "mine.txt").read_text() == "mine"


def test_a_batch_goes_on_from_the_mirror_when_the_machine_is_gone(away, plain) -> None:
    first = away.run(on_progress=stop_at(55))
    assert [file.status for file in first.files] == ["skipped", "skipped"]
    assert list(away.segments(away.local).values()) == [2]
    assert away.segments(away.out / WORK_NAME) == away.segments(away.local)
    shutil.rmtree(away.work)
    report = away.run()
    assert [file.segments_kept for file in report.files] == [2, 0]
    away.assert_done(report, plain)


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_mirror_costs_only_what_was_damaged(away, plain, harm) -> None:
    away.run(on_progress=stop_at(55))
    shutil.rmtree(away.work)
    (second,) = (away.out / WORK_NAME).rglob("000001.nut")
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    if harm == "gone":
        second.unlink()
    else:
        second.write_bytes(data if harm == "flipped" else data[:-9])
    report = away.run()
    assert [file.segments_kept for file in report.files] == [1, 0]
    assert report.ok
    assert contents(away.out) == plain
    assert litter(away.out, *NAMES) == set()


class Drive:
    """Lets copies to the drive fail."""

    def __init__(self, away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self.times, self.suffix, self.after = away, 0, "", 0
        self.pauses: list[str | None] = []
        self.copies: list[str] = []
        self.genuine = places.copy_bytes
        monkeypatch.setattr(places, "copy_bytes", self.copy)
        monkeypatch.setattr(Stop, "sleep", lambda _stop, seconds, _tick: self.sleep(seconds))

    def copy(self, source: Path, target: Path, beat: Callable[[], None]) -> str:
        if self.away.out in target.parents and target.suffix.endswith(self.suffix):
            self.after -= 1
            if self.after < 0 and self.times > 0:
                self.times -= 1
                target.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.copies.append(target.name)
        return self.genuine(source, target, beat)

    def sleep(self, _seconds: float) -> None:
        self.pauses.append(json.loads((self.away.local / STATUS_NAME).read_text())["pause"])


def test_a_drive_that_is_full_for_a_while_is_waited_for(away, plain, monkeypatch) -> None:
    drive = Drive(away, monkeypatch)
    drive.times = 5
    report = away.run(overrides={"output_wait": 600.0})
    assert len(drive.pauses) == 5
    assert all(pause and "waiting for room or access" in pause for pause in drive.pauses)
    assert all("No space left" in (pause or "") for pause in drive.pauses)
    assert json.loads((away.out / STATUS_NAME).read_text())["pause"] is None
    away.assert_done(report, plain)
    # The work goes on from where it waited: no segment is copied twice.
    copies = [name for name in drive.copies if not name.endswith(".npz")]  # those are of the face index
    assert len(copies) == len(set(copies)) + SEGMENTS["a.mp4"] == 3 + 4 + 2


def test_a_drive_that_stays_full_fails_the_file_and_later_runs_go_on(away, plain, monkeypatch) -> None:
    drive = Drive(away, monkeypatch)
    drive.after, drive.times = 2 * 2, 10**6  # two segments get through, each with its piece of the face index
    report = away.run(overrides={"output_wait": 0.0})
    assert [file.status for file in report.files] == ["failed", "failed"]
    for file in report.files:
        assert "No space left on device" in (file.error or "")
        assert "What to do: free some space" in (file.error or "")
        assert str(away.out) in (file.error or "")
    assert not list(away.out.glob("*.mp4"))
    assert not [path for path in away.out.rglob(".*") if path.suffix == ".nut"]
    drive.times = 0
    report = away.run(overrides={"output_wait": 0.0})
    assert [file.segments_kept for file in report.files] == [2, 0]
    away.assert_done(report, plain)


@pytest.mark.parametrize("machine_gone", [False, True])
def test_when_only_the_result_found_no_room_a_later_run_only_joins(
    away, plain, monkeypatch, machine_gone
) -> None:
    drive = Drive(away, monkeypatch)
    drive.suffix, drive.times = ".mp4", 10**6
    report = away.run(overrides={"output_wait": 0.0})
    assert [file.status for file in report.files] == ["failed", "failed"]
    assert sorted(away.segments(away.local).values()) == sorted(SEGMENTS.values())
    assert away.segments(away.out / WORK_NAME) == away.segments(away.local)
    drive.times = 0
    if machine_gone:
        shutil.rmtree(away.work)
    encoded = len(list(entries(away.out, "segment")))
    report = away.run(overrides={"output_wait": 0.0})
    assert [file.segments_kept for file in report.files] == list(SEGMENTS.values())
    assert len(list(entries(away.out, "segment"))) == encoded
    away.assert_done(report, plain)


def test_waiting_ends_when_somebody_asks_to_stop(away, plain, monkeypatch) -> None:
    drive = Drive(away, monkeypatch)
    drive.times = 10**6
    monkeypatch.setattr(Stop, "sleep", lambda _stop, _seconds, _tick: ask(drive))

    def ask(drive: Drive) -> None:
        drive.sleep(0.0)
        if len(drive.pauses) == 3:
            (away.out / STOP_NAME).touch()
        time.sleep(0.01)  # another thread looks for it

    report = away.run()
    assert [file.status for file in report.files] == ["skipped", "skipped"]
    assert len(drive.pauses) >= 3
    assert json.loads((away.out / STATUS_NAME).read_text())["state"] == "cancelled"
    assert not (away.out / STOP_NAME).exists()
    monkeypatch.undo()
    away.assert_done(away.run(), plain)


def test_kept_frames_reach_the_drive_too(away, plain) -> None:
    away.run(overrides={"keep_frames": True}, on_progress=stop_at(55))
    shutil.rmtree(away.work)
    report = away.run(overrides={"keep_frames": True})
    assert report.ok, [file.error for file in report.files]
    assert contents(away.out) == plain
    assert len(list((away.out / "a.mp4_frames").iterdir())) == 60
    assert len(list((away.out / "b.mp4_frames").iterdir())) == 90
    assert litter(away.out, *NAMES) == {"a.mp4_frames", "b.mp4_frames"}
