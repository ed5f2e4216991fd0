"""Batches in object storage: the results of a local run, through a real server on the loopback."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.addresses import address_of, here, in_words, stand_in
from colab_helpers.batch import store
from colab_helpers.batch.drive import Patience
from colab_helpers.batch.report import BatchReport
from colab_helpers.errors import ColabHelpersError, MissingFileError, OutputError, UsageError
from tests.helpers.processes import contents, made_once, run_here
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


def test_try(batch, bucket):
    report = batch()
    print(names(bucket))
    print([f.model_dump(include={"target", "output", "error", "status", "fallbacks"}) for f in report.files])
    assert 0
