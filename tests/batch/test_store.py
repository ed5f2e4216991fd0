"""Batches in object storage: the results of a local run, through a real server on the loopback."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.addresses import address_of
from colab_helpers.batch import store
from colab_helpers.batch.report import KEPT, BatchReport
from tests.helpers.processes import contents, made_once, run_here, stop_at
from tests.media.make import Sound, Spec

SPECS = {
    "a.mp4": Spec(size=(160, 90), rate=Fraction(10), frames=44, sounds=(Sound(),)),
    "b.mkv": Spec(size=(160, 90), rate=Fraction(10), frames=5),
}
pytestmark = pytest.mark.xdist_group("store")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A store on the loopback, and what it holds as its own client sees it."""
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
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the disk of this machine that of another."""

    def change(name: str = "one") -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setenv("TMPDIR", str(tmp_path / name))
        monkeypatch.setattr(tempfile, "tempdir", None)

    change()
    return change


@pytest.fixture
def bucket(server: Any, disk: Callable[[str], None], shared_dir: Path) -> Iterator[Any]:
    """A bucket with two clips."""
    store._system.cache_clear()
    server.create_bucket(Bucket="films")
    for path in made_once(shared_dir / "stored", SPECS).iterdir():
        server.upload_file(str(path), "films", f"clips/{path.name}")
    yield server
    for name in names(server):
        server.delete_object(Bucket="films", Key=name)
    server.delete_bucket(Bucket="films")


def names(server: Any, prefix: str = "") -> list[str]:
    return [each["Key"] for each in server.list_objects_v2(Bucket="films", Prefix=prefix).get("Contents", [])]


def content(server: Any, name: str) -> bytes:
    return server.get_object(Bucket="films", Key=name)["Body"].read()


@pytest.fixture
def batch(bucket: Any, photo: Path, constant_models: Path) -> Callable[..., BatchReport]:
    def run(targets: Any = "s3://films/clips", out: Any = "s3://films/out", **given: Any) -> BatchReport:
        return run_here(photo, targets, out, constant_models, **given)

    return run


def fetched(bucket: Any, place: Path) -> Path:
    """The results, as anybody else would download them."""
    place.mkdir()
    for name in names(bucket, "out/"):
        if name.count("/") == 1:
            (place / name.rpartition("/")[2]).write_bytes(content(bucket, name))
    return place


def brought(disk: Path) -> set[str]:
    """What of the films is on a disk in full, by its address."""
    files = (path for path in disk.rglob("*.m[pk][4v]") if path.stat().st_mode & 0o777)
    return {address for path in files if (address := address_of(path))}


def test_results_are_those_of_a_local_run_and_nothing_stays_on_the_disk(
    batch, bucket, shared_dir, tmp_path
) -> None:
    local = batch(shared_dir / "stored", tmp_path / "local")
    report = batch()
    assert (report.ok, local.ok) == (True, True), report.files
    results = fetched(bucket, tmp_path / "down")
    assert contents(results) == contents(tmp_path / "local")
    assert brought(tmp_path) == set()
    assert names(bucket, "out/.work") == []
    told = json.loads((results / "report.json").read_text())
    assert [file["output"] for file in told["files"]] == ["s3://films/out/a.mp4", "s3://films/out/b.mkv"]
    assert [file["target"] for file in told["files"]] == ["s3://films/clips/a.mp4", "s3://films/clips/b.mkv"]
    secrets = (b"unspoken", b"somebody", os.environ["AWS_ENDPOINT_URL"].encode())
    assert not [name for name in names(bucket) if any(each in content(bucket, name) for each in secrets)]


def test_another_machine_goes_on_where_one_was_lost_and_reads_nothing_twice(
    batch, bucket, disk, tmp_path, monkeypatch
) -> None:
    assert batch(on_progress=stop_at(15)).stopped
    assert 0 < (kept := len(names(bucket, "out/.work/"))) < 5
    disk("two")
    report = batch()
    assert (report.ok, report.files[0].segments_kept) == (True, kept), report.files
    disk("three")
    read, chunks = [], store._chunks
    monkeypatch.setattr(store, "_chunks", lambda address: (read.append(address), chunks(address))[1])
    before = {name: content(bucket, name) for name in names(bucket, "out/") if name.endswith(("4", "v"))}
    assert [file.fallbacks for file in batch().files] == [[KEPT], [KEPT]]
    assert not [address for address in read if address.endswith(("4", "v"))]
    assert {name: content(bucket, name) for name in before} == before
    batch("s3://films/clips", "s3://films/whole")
    for place in ("out", "whole"):
        bucket.download_file("films", f"{place}/a.mp4", str(tmp_path / f"{place}.mp4"))
    assert contents(tmp_path)["out.mp4"] == contents(tmp_path)["whole.mp4"]


def test_what_is_the_users_is_not_overwritten_whenever_it_came(batch, bucket, monkeypatch) -> None:
    bucket.put_object(Bucket="films", Key="out/a.mp4", Body=b"mine")

    def put(path: Path, *_: Any, **__: Any) -> str:
        bucket.put_object(Bucket="films", Key="out/b.mkv", Body=b"mine, too")
        return send(path, *_, **__)

    send = store.send
    deliver = store.deliver
    monkeypatch.setattr(store, "send", lambda path, *given, **more: (
        put if path.name == "b.mkv" else send)(path, *given, **more))  # fmt: skip
    assert deliver is store.deliver
    first, second = batch().files
    assert "no earlier run into this folder made it" in (first.error or "")
    assert "has come there while the result was made" in (second.error or "")
    assert (content(bucket, "out/a.mp4"), content(bucket, "out/b.mkv")) == (b"mine", b"mine, too")
