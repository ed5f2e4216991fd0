"""Batches in object storage, with a real server on the loopback: the results of a local run."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.__main__ import main
from colab_helpers.addresses import address_of, local_path_of, localize_paths, root
from colab_helpers.batch import object_store
from colab_helpers.batch.drive import RetryPolicy
from colab_helpers.batch.journal import FileDone, Journal, WorkStarted, read_journal, sync_journal
from colab_helpers.batch.keys import file_digest
from colab_helpers.batch.outputs import deliver_result
from colab_helpers.batch.people_edits import set_default
from colab_helpers.batch.people_map import PeopleMap
from colab_helpers.batch.report import KEPT, BatchReport, FileReport
from colab_helpers.batch.stop import request_stop
from colab_helpers.batch.write_policy import WritePolicy, file_identities
from colab_helpers.command_line import WRONG_USAGE
from colab_helpers.errors import MediaError, MissingFileError, OutputError, UsageError
from colab_helpers.files import sha256_of
from colab_helpers.language import with_store_addresses
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import require_file
from colab_helpers.media.probe import probe
from colab_helpers.pipeline import frames_folder
from colab_helpers.request import BatchRequest
from colab_helpers.trust.verify import verify
from tests.conftest import CONSENT, until
from tests.helpers import processes as helpers
from tests.helpers.processes import Content, repeated_segments, run_here, shared_clips, stop_at
from tests.media.make import Sound, Spec

SPECS = {
    "a.mp4": Spec(size=(160, 90), rate=Fraction(10), frames=44, sounds=(Sound(),)),
    "b.mkv": Spec(size=(160, 90), rate=Fraction(10), frames=5),
}
pytestmark = pytest.mark.xdist_group("store")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """Client of an object store on the loopback."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "unspoken")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield boto3.client("s3")
    running.stop()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Switches to the local disk of another machine, and returns its folder."""

    def change(name: str = "one") -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("TMPDIR", str(tmp_path / name))
        monkeypatch.setattr(tempfile, "tempdir", None)
        return tmp_path / name

    change()
    return change


@pytest.fixture
def bucket(server: Any, disk: Callable[[str], Path], shared_dir: Path) -> Iterator[Any]:
    """A bucket with two clips."""
    object_store._system.cache_clear()
    server.create_bucket(Bucket="films")
    for path in shared_clips(shared_dir / "stored", SPECS).iterdir():
        server.upload_file(str(path), "films", f"clips/{path.name}")
    yield server
    for name in names(server):
        server.delete_object(Bucket="films", Key=name)
    server.delete_bucket(Bucket="films")


def names(server: Any, prefix: str = "") -> list[str]:
    return [each["Key"] for each in server.list_objects_v2(Bucket="films", Prefix=prefix).get("Contents", [])]


def content(server: Any, name: str) -> bytes:
    return bytes(server.get_object(Bucket="films", Key=name)["Body"].read())


def downloaded(server: Any, place: Path) -> Path:
    """Download the results with another client."""
    place.mkdir()
    for name in names(server, "out/"):
        if name.count("/") == 1:
            (place / name.rpartition("/")[2]).write_bytes(content(server, name))
    (place / "journal.jsonl").write_bytes(content(server, "out/journal.jsonl.parts/000000"))
    return place


def films(folder: Path) -> dict[str, Content]:
    return {path.name: helpers.content(path) for path in folder.iterdir() if path.name in SPECS}


def fetched(disk: Path) -> set[str | None]:
    """Addresses of the films that a disk holds in full."""
    return {address_of(path) for path in disk.rglob("*.m[pk][4v]") if path.stat().st_mode & 0o777}


@pytest.fixture
def batch(bucket: Any, photo: Path, constant_models: Path) -> Callable[..., BatchReport]:
    def run(targets: Any = "s3://films/clips", out: Any = "s3://films/out", **given: Any) -> BatchReport:
        return run_here(photo, targets, out, constant_models, **given)

    return run


@pytest.fixture
def local(batch: Callable[..., BatchReport], shared_dir: Path) -> dict[str, Content]:
    """Results of a run on local disks."""
    out = shared_dir / "stored_out"
    if not out.exists():
        assert batch(shared_dir / "stored", out).ok
    return films(out)


def test_results_equal_a_local_run_and_no_film_stays(batch, bucket, local, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("colab_helpers.batch.worker.disk_free", lambda _place: 1)
    report = batch()
    assert report.ok, report.files
    assert "may not fit" not in " ".join(report.notes), "not all films are stored at once"
    results = downloaded(bucket, tmp_path / "down")
    assert films(results) == local
    assert (fetched(tmp_path / "one"), names(bucket, "out/.work")) == (set(), [])
    files = json.loads((results / "report.json").read_text())["files"]
    assert [file["output"] for file in files] == ["s3://films/out/a.mp4", "s3://films/out/b.mkv"]
    assert [file["target"] for file in files] == ["s3://films/clips/a.mp4", "s3://films/clips/b.mkv"]
    secrets = (b"unspoken", b"somebody", os.environ["AWS_ENDPOINT_URL"].encode())
    assert not [name for name in names(bucket) if any(each in content(bucket, name) for each in secrets)]


def test_another_machine_resumes_without_rework(batch, bucket, disk, local, tmp_path, monkeypatch) -> None:
    assert batch(on_progress=stop_at(15)).stopped
    assert 0 < (kept := len(names(bucket, "out/.work/"))) < 5
    disk("two")
    report = batch()
    assert (report.ok, report.files[0].segments_kept) == (True, kept), report.files
    results = downloaded(bucket, tmp_path / "down")
    assert (films(results), repeated_segments(results)) == (local, {})
    disk("three")
    read, chunks = [], object_store._chunks
    monkeypatch.setattr(
        object_store, "_chunks", lambda path, heartbeat: (read.append(str(path)), chunks(path, heartbeat))[1]
    )
    assert [file.fallbacks for file in batch().files] == [[KEPT], [KEPT]]
    assert not [address for address in read if address.endswith(("4", "v"))]
    for name in local:
        assert content(bucket, f"out/{name}") == (results / name).read_bytes(), "the result was made again"


def test_objects_of_the_user_are_never_overwritten(batch, bucket, monkeypatch) -> None:
    bucket.put_object(Bucket="films", Key="out/a.mp4", Body=b"mine")
    send = object_store.send

    def send_late(path: Path, *given: Any, **more: Any) -> str:
        if path.name == "b.mkv":
            bucket.put_object(Bucket="films", Key="out/b.mkv", Body=b"mine, too")
        return send(path, *given, **more)

    monkeypatch.setattr(object_store, "send", send_late)
    first, second = batch().files
    assert "no earlier run made it" in (first.error or "")
    assert "was created while the result was being made" in (second.error or "")
    assert (content(bucket, "out/a.mp4"), content(bucket, "out/b.mkv")) == (b"mine", b"mine, too")
    assert "out/b.mkv.c2pa" not in names(bucket)
    monkeypatch.setattr(object_store, "send", send)
    for name in ("a.mp4", "b.mkv"):
        bucket.delete_object(Bucket="films", Key=f"out/{name}")
    assert batch().ok


def test_temporary_network_loss_costs_nothing(batch, bucket, local, tmp_path, monkeypatch) -> None:
    original, left = object_store._system, [9]

    def lost(kind: str) -> Any:
        if names(bucket, "out/.work/") and left[0]:  # some segments are done
            left[0] -= 1
            raise ConnectionError("no route")
        return original(kind)

    monkeypatch.setattr(object_store, "_system", lost)
    monkeypatch.setattr("colab_helpers.batch.drive._POLL_INTERVAL", 0.01)
    report = batch(targets="s3://films/clips/a.mp4")
    assert (report.ok, left) == (True, [0]), report.files
    results = downloaded(bucket, tmp_path / "down")
    assert (films(results)["a.mp4"], repeated_segments(results)) == (local["a.mp4"], {})


KILLED = """
import os, signal, sys
from pathlib import Path
from colab_helpers.batch import object_store
object_store._BLOCK, sent = 5 << 20, []
def heartbeat():
    sent.append(1)
    if len(sent) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
object_store.send(Path(sys.argv[1]), heartbeat)
"""


def test_process_killed_during_an_upload_leaves_no_object(bucket) -> None:
    result = local_path_of("s3://films/out/a.mp4")
    result.parent.mkdir(parents=True)
    result.write_bytes(os.urandom(18 << 20))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(result)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert bucket.list_multipart_uploads(Bucket="films")["Uploads"], "it was killed during the upload"
    assert names(bucket, "out/") == []

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        object_store.deliver(result, interrupt, new=True)
    assert names(bucket, "out/") == []
    object_store.deliver(result, new=True)
    assert (names(bucket, "out/"), object_store.is_placeholder(result)) == (["out/a.mp4"], True)


DYING = """
if "colab_helpers.batch.worker" in sys.orig_argv:
    import os, signal
    from colab_helpers.batch import outputs
    deliver = outputs.deliver
    def die():
        if not os.path.exists(os.environ["DIED"]):
            open(os.environ["DIED"], "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
    outputs.deliver = lambda path, heartbeat, *, new: deliver(path, die, new=new)
"""


def test_batch_killed_before_a_result_is_journaled_resumes(
    bucket, local, photo, constant_models, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    helpers.run_at_worker_start(monkeypatch, tmp_path, DYING)
    arguments = "s3://films/clips", photo, constant_models, CONSENT, "s3://films/out"
    shell = helpers.BatchCommand(*arguments)
    code, output = shell.run()
    assert (code, (tmp_path / "died").exists()) == (0, True), output
    results = downloaded(bucket, tmp_path / "down")
    assert (films(results), repeated_segments(results)) == (local, {})
    assert json.loads((results / "report.json").read_text())["summary"]["restarts"] == 1
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = [sys.executable, "-m", "colab_helpers", "status", "s3://films/out"]
    assert b"2 of 2 files" in subprocess.run(words, check=True, capture_output=True).stdout


def test_upload_that_reads_back_differently_is_refused(bucket, monkeypatch) -> None:
    result = local_path_of("s3://films/out/a.mp4")
    result.parent.mkdir(parents=True)
    result.write_bytes(b"right")
    monkeypatch.setattr(object_store, "_chunks", lambda _path, _beat: iter([b"wrong"]))
    with pytest.raises(UsageError, match="another object with this name was created"):
        object_store.deliver(result, new=True)


def entry(number: int) -> WorkStarted:
    return WorkStarted(key=f"{number}" * 300, time=0.0, run="r", target="t", pid=number)


def test_journal_in_the_store_is_synchronised_between_machines(bucket, disk, monkeypatch) -> None:
    monkeypatch.setattr("colab_helpers.batch.journal._PART", 1000)  # one and a half entries
    path = local_path_of("s3://films/out/journal.jsonl")
    with Journal(path) as journal:
        for number in range(4):
            journal.append(entry(number))
    first = disk("two")
    path = local_path_of("s3://films/out/journal.jsonl")
    assert read_journal(path).entries == [entry(number) for number in range(4)]
    sync_journal(path)
    with Journal(path) as journal, monkeypatch.context() as cut:
        cut.setattr(object_store, "_system", lambda _kind: 1 / 0)
        with pytest.raises(OutputError):
            journal.append(entry(4))
    assert read_journal(path).entries[4:] == [], "entries missing in the store do not count"
    unsent = path.read_bytes() + b"written here, and killed before the upload"
    path.write_bytes(unsent)
    sync_journal(path)
    assert b"".join(content(bucket, name) for name in names(bucket, "out/")) == path.read_bytes() == unsent
    path.write_bytes(unsent[:900] + b"#" * 9000)  # another machine has continued since
    sync_journal(path)
    assert path.read_bytes() == unsent
    assert first != path.parents[3]


def test_reading_a_journal_does_not_replace_the_writers_file(bucket, disk, monkeypatch) -> None:
    path, original = local_path_of("s3://films/out/journal.jsonl"), object_store._system
    with Journal(path) as journal:
        journal.append(entry(1))

        def meanwhile(kind: str) -> Any:
            monkeypatch.setattr(object_store, "_system", original)
            journal.append(entry(2))
            return original(kind)

        monkeypatch.setattr(object_store, "_system", meanwhile)
        assert read_journal(path).entries == [entry(1), entry(2)]
        journal.append(entry(3))
    disk("two")
    path = local_path_of("s3://films/out/journal.jsonl")
    assert read_journal(path).entries == [entry(number) for number in (1, 2, 3)]


def test_journal_parts_are_retried_while_replaced(bucket, disk, monkeypatch) -> None:
    """A store may list a part while neither its old nor its new version can be read."""
    path = local_path_of("s3://films/out/journal.jsonl")
    with Journal(path) as journal:
        journal.append(entry(1))
    system, failures = object_store._system("s3"), [2]
    cat_file = system.cat_file

    def read_replaced_part(part: str) -> bytes:
        failures[0] -= 1
        if failures[0] >= 0:
            raise FileNotFoundError(part)
        return bytes(cat_file(part))

    monkeypatch.setattr(system, "cat_file", read_replaced_part)
    assert read_journal(path).entries == [entry(1)]
    failures[0] = 99
    with pytest.raises(OutputError, match="nothing at this address"):
        read_journal(path)


def test_partial_entry_of_an_aborted_upload_damages_no_other_entry(bucket, disk, monkeypatch) -> None:
    monkeypatch.setattr("colab_helpers.batch.journal._PART", 500)
    path = local_path_of("s3://films/out/journal.jsonl")
    with Journal(path) as journal:
        journal.append(entry(1))
        length = path.stat().st_size
    (last,) = (name for name in names(bucket, "out/") if name.endswith("0"))
    bucket.put_object(Bucket="films", Key=last[:-1] + "1", Body=b"x" * (600 - length) + b"\n")
    disk("two")
    path = local_path_of("s3://films/out/journal.jsonl")
    for number in (2, 3):
        sync_journal(path)
        with Journal(path) as journal:
            journal.append(entry(number))
    assert read_journal(path).entries == [entry(number) for number in (1, 2, 3)]


def test_journal_uploaded_by_the_user_is_used(batch, bucket, disk, tmp_path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        for number in range(1, 9):
            journal.append(
                entry(number) if number > 1 else WorkStarted(**{**vars(entry(1)), "run": "r" * 70_000})
            )
    bucket.upload_file(str(tmp_path / "journal.jsonl"), "films", "out/journal.jsonl")
    assert batch("s3://films/clips/b.mkv").ok
    disk("two")
    entries = read_journal(local_path_of("s3://films/out/journal.jsonl")).entries
    assert entries[1:8] == [entry(number) for number in range(2, 9)]
    assert [one.report.status for one in entries if isinstance(one, FileDone)] == ["done"]


def test_inputs_are_protected_by_their_address(bucket, disk) -> None:
    target = local_path_of("s3://films/clips/a.mp4")
    object_store.refresh_placeholder(target)
    inputs = file_identities([target])
    object_store.fetch(target)
    assert file_identities([target]) == inputs, "fetching replaces the local file"
    with pytest.raises(UsageError, match="is an input of the run"):
        WritePolicy(inputs, overwrite=True).ensure_writable(target)


def test_removal_keeps_objects_of_the_user(bucket, disk) -> None:
    mine = {"out/STOP/mine.txt", "out/a.mp4_frames/mine.txt", "out/a.mp4.txt", "out/.work/k2/000000.mkv"}
    for name in (*mine, "out/STOP", "out/a.mp4_frames/000009.png", "out/.work/k/000000.mkv"):
        bucket.put_object(Bucket="films", Key=name, Body=b"x")
    result = local_path_of("s3://films/out/a.mp4")
    frames = frames_folder(result)
    frames.mkdir(parents=True)
    for path in (result, frames / "000000.png"):
        path.write_bytes(b"made")
    report = FileReport(target="t", status="done", output=str(result), frames_folder=str(frames))
    deliver_result(report, [result], RetryPolicy(0.0), lambda: None)
    object_store.remove(result.with_name("STOP"))
    object_store.remove(result.parent / ".work" / "k", below=True)
    assert {*names(bucket, "out/")} == {*mine, "out/a.mp4", "out/a.mp4_frames/000000.png"}
    assert all(map(object_store.is_placeholder, (result, frames / "000000.png", frames / "mine.txt")))


def test_edited_map_counts_on_every_machine(batch, bucket, disk) -> None:
    folder = local_path_of("s3://films/out")
    bucket.put_object(Bucket="films", Key="out/people.yaml", Body=b"default: blur\n")
    set_default(folder, ["pixelate"])
    disk("two")
    object_store.sync_inputs(folder := local_path_of("s3://films/out"), (), ())
    assert PeopleMap.load(folder).default == ("pixelate",)

    def meanwhile(_progress: Any) -> None:
        bucket.put_object(Bucket="films", Key="out/people.yaml", Body=b"default: leave\n")

    assert batch("s3://films/clips/b.mkv", on_progress=meanwhile).ok
    assert content(bucket, "out/people.yaml") == b"default: leave\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "s3://films/none"}, "s3://films/none: there is nothing at this address"),
        ({"targets": "s3://films/clips/*.mov"}, "no file matches it as a pattern"),
        ({"out": "s3://nobody/out"}, "s3://nobody/out: there is nothing at this address"),
        ({"out": "s3://films/out", "work_dir": "/tmp"}, "work_dir cannot be used"),
        ({"targets": "s3://films/clips", "out": "s3://films/clips"}, "overwrite its own target"),
    ],
)
def test_impossible_addresses_are_refused_before_any_work(batch, bucket, arguments, message) -> None:
    before = names(bucket)
    with pytest.raises((UsageError, MissingFileError, OutputError), match=message.replace("*", r"\*")):
        batch(**arguments)
    assert names(bucket) == before


def test_missing_credentials_raise_access_denied(batch, monkeypatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(os.environ, "AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setitem(os.environ, "AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    object_store._system.cache_clear()
    with pytest.raises(OutputError, match=r"denied access.*Credentials"):
        batch()
    s3fs.S3FileSystem.clear_instance_cache()


def test_missing_package_is_refused_with_the_install_command(disk, monkeypatch) -> None:
    object_store._system.cache_clear()
    monkeypatch.setattr("colab_helpers.errors.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"s3fs.*bash setup.sh install s3"):
        object_store.refresh_placeholder(local_path_of("s3://films/clips"))


@pytest.mark.parametrize(
    "address", ["s3://key:hush@films/a.mp4", "s3://films/../../etc/passwd", "s3:///a.mp4"]
)
def test_address_with_a_secret_or_parent_folder_is_refused_unquoted(address) -> None:
    with pytest.raises(UsageError) as error:
        BatchRequest(sources="me.jpg", targets=address, output_dir="out").check()
    assert "hush" not in str(error.value)
    assert local_path_of(address) is None


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "s3://films/out/a.mp4"],
        ["transcribe", "s3://films/out/a.mp4"],
        ["portraits", "crowd", "an adult", "--library", "s3://films/library"],
        ["demo", "s3://films/demo"],
        ["batch", "-t", "a", "-o", "b", "--report", "s3://films/report.json"],
    ],
)
def test_commands_for_local_files_refuse_addresses(disk, words, capsys) -> None:
    assert main(words) == WRONG_USAGE
    assert "s3://films/" in (message := capsys.readouterr().err)
    assert "only files can be read and written" in message
    assert not [*disk().rglob("*")]


def test_placeholders_cannot_be_read(bucket, disk) -> None:
    for name in ("a.mp4", "b.png"):
        bucket.put_object(Bucket="films", Key=f"shown/{name}", Body=b"\0" * 5000)
    object_store.refresh_placeholder(folder := local_path_of("s3://films/shown"))
    for path in folder.iterdir():
        for read in (sha256_of, file_digest, require_file, probe, read_image, partial(verify, anchors=[])):
            with pytest.raises((PermissionError, MediaError, MissingFileError)):
                read(path)
    with pytest.raises(MediaError, match=r"^s3://films/shown/a.mp4: .*this object has not been downloaded"):
        probe(folder / "a.mp4")


def test_targets_are_removed_from_disk_for_any_outcome_and_worker(batch, bucket, local, tmp_path) -> None:
    bucket.put_object(Bucket="films", Key="clips/c.mp4", Body=b"no film at all")
    report = batch(overrides={"gpus": "cpu,cpu"})
    assert [file.status for file in report.files] == ["done", "done", "failed"]
    assert films(downloaded(bucket, tmp_path / "down")) == local
    assert fetched(tmp_path / "one") == set()


def test_file_in_use_by_another_process_is_not_released(bucket, disk) -> None:
    target = local_path_of("s3://films/clips/a.mp4")
    object_store.pin(target)
    with target.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        object_store.unpin(target)
        assert not object_store.is_placeholder(target)
    object_store.unpin(target)
    assert object_store.is_placeholder(target)


def test_object_created_during_an_upload_is_kept(bucket, disk, monkeypatch) -> None:
    result, refresh_placeholder = local_path_of("s3://films/out/a.mp4"), object_store.refresh_placeholder
    result.parent.mkdir(parents=True)

    def create(body: bytes) -> None:
        if "out/a.mp4" not in names(bucket) or body == b"later":
            bucket.put_object(Bucket="films", Key="out/a.mp4", Body=body)

    result.write_bytes(os.urandom(18 << 20))  # in parts
    with pytest.raises(UsageError, match="was created while the result"):
        object_store.deliver(result, lambda: create(b"mine"), new=True)
    assert content(bucket, "out/a.mp4") == b"mine"
    bucket.delete_object(Bucket="films", Key="out/a.mp4")
    monkeypatch.setattr(
        object_store, "refresh_placeholder", lambda path: (create(b"later"), refresh_placeholder(path))
    )
    result.write_bytes(b"made")
    with pytest.raises(UsageError, match="was created while the result"):
        object_store.deliver(result, new=True)
    assert content(bucket, "out/a.mp4") == b"later"


def test_store_errors_are_shown_without_secrets(bucket, disk, monkeypatch) -> None:
    def lost(_kind: str) -> Any:
        raise ConnectionError("cannot connect to http://somebody:hush@host:1/films")

    monkeypatch.setattr(object_store, "_system", lost)
    with pytest.raises(OutputError, match="//…@host:1") as error:
        object_store.refresh_placeholder(local_path_of("s3://films/clips"))
    assert "hush" not in str(error.value)


def test_leftovers_of_killed_processes_are_removed(bucket, disk) -> None:
    out, dead = local_path_of("s3://films/out"), subprocess.Popen(["true"])
    dead.wait()
    (out / "deep").mkdir(parents=True)
    leftover, own = (out / "deep" / f".a.{pid}-1.part.mp4" for pid in (dead.pid, os.getpid()))
    leftover.touch(), own.touch()
    object_store.sync_inputs(out, (), ())
    assert (leftover.exists(), own.exists()) == (False, True)


def test_folder_of_another_user_is_refused(bucket, disk, batch, tmp_path) -> None:
    disk("one").chmod(0o1777)
    (tmp_path / "other").mkdir()
    root().symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match="belongs to another user"):
        batch(tmp_path / "a.mp4")
    assert not [*(tmp_path / "other").iterdir()]


def test_objects_with_invalid_file_names_are_left_out(bucket, disk) -> None:
    for name in ("../up.mp4", "./here.mp4", "a//b.mp4", "", "nul\0.mp4", "l" * 252 + ".mp4", "sub/c.mp4"):
        with suppress(Exception):  # the server's own client refuses some
            bucket.put_object(Bucket="films", Key=f"clips/{name}", Body=b"x")
    assert {"clips/../up.mp4", "clips/sub/c.mp4"} <= {*names(bucket)}, names(bucket)
    folder = local_path_of("s3://films/clips")
    object_store.refresh_placeholder(folder)
    found = {str(path.relative_to(disk("one"))) for path in disk("one").rglob("*") if path.is_file()}
    assert found == {str((folder / name).relative_to(disk("one"))) for name in SPECS}
    bucket.delete_object(Bucket="films", Key="clips/a.mp4")
    object_store.refresh_placeholder(folder)
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["b.mkv"]


def test_paths_stand_for_addresses_on_every_machine(disk) -> None:
    path = local_path_of(address := "s3://films/my clips/a.mp4")
    assert local_path_of(Path(address)) == path
    assert (address_of(path), address_of("/mnt/s3:/a")) == (address, None)
    text = json.dumps({"target": str(path), "other": "/mnt/a.mp4"})
    assert json.loads(with_store_addresses(text)) == {"target": address, "other": "/mnt/a.mp4"}
    disk("two")
    assert json.loads(localize_paths(text))["target"] == str(local_path_of(address)) != str(path)


def test_batch_is_stopped_from_another_machine(batch, bucket, disk, monkeypatch) -> None:
    monkeypatch.setattr("colab_helpers.batch.status._REMOTE_INTERVAL", 0.05)
    monkeypatch.setattr("colab_helpers.pipeline.report_progress.PROGRESS_INTERVAL", 0.0)
    requested, first = list[bool](), disk("one")

    def stop_elsewhere(_progress: Any) -> None:
        if not requested:
            until(lambda: "out/status.json" in names(bucket))
            disk("two")
            requested.append(request_stop(local_path_of("s3://films/out")))
            disk("one")
            until(lambda: [*first.rglob("STOP")])

    assert batch(on_progress=stop_elsewhere).stopped
    assert requested == [True]
    assert "out/STOP" not in names(bucket)
