"""Model files on disk: verified, changed, unknown, damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from colab_helpers.errors import ModelError, OutputError
from colab_helpers.models import fetching, inventory
from colab_helpers.models.catalog import ModelEntry, load_catalog
from colab_helpers.models.inventory import inspect_model, record_path
from colab_helpers.models.session import Runtime
from tests.helpers.server import FaultServer, Route
from tests.models.conftest import (
    BODY,
    OTHER,
    assert_fetched,
    corrupt,
    fetch,
    model,
    network,
    put,
    record_of,
    sha256,
    source,
)


def refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_second_fetch_neither_requests_nor_hashes(
    tmp_path: Path, route: Route, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = fetch(tmp_path, entry, entry)  # duplicates are fetched once
    record = record_of(first.path)
    assert (record.sha256, record.bytes, record.url) == (sha256(BODY), len(BODY), entry.urls[0])
    assert record.licence == "MIT"
    assert (first.source, first.record) == ("downloaded", record)
    monkeypatch.setattr(inventory, "sha256_of", lambda path: pytest.fail("hashed"))
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, fetched.record.sha256, len(route.requests)) == ("present", sha256(BODY), 1)


def test_silent_corruption_is_detected_by_hashing(tmp_path: Path, entry: ModelEntry) -> None:
    path = put(tmp_path, network(2.0))
    fetch(tmp_path, entry)
    corrupt(path, network(3.0))  # loadable
    assert inspect_model(tmp_path, entry).state == "unknown"
    assert "although size and modification time have not" in str(
        inspect_model(tmp_path, entry, verify=True).problem
    )
    [again] = fetch(tmp_path, entry, verify=True)
    assert again.source == "downloaded"
    assert_fetched(tmp_path)


def test_manually_placed_file_is_verified(tmp_path: Path, route: Route, entry: ModelEntry) -> None:
    path = put(tmp_path)
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, fetched.record.url, route.requests) == ("present", "", [])
    assert record_of(path).sha256 == sha256(BODY)


@pytest.mark.parametrize("with_record", [True, False], ids=["changed later", "never right"])
def test_damaged_file_is_moved_only_when_replaced(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch, with_record: bool
) -> None:
    if with_record:
        fetch(tmp_path, entry)
    path = put(tmp_path, OTHER)
    for offline in (True, False):
        with pytest.raises(ModelError, match="ONNX Runtime cannot load"):
            fetch(tmp_path, model(source(server.url("/gone"))), offline=offline)
        assert path.read_bytes() == OTHER
        assert not (tmp_path / "quarantine").exists()
    with monkeypatch.context() as patch:
        patch.setattr(inventory, "publish", refuse)
        with pytest.raises(OutputError, match="Permission denied"):
            fetch(tmp_path, entry)
    assert path.read_bytes() == OTHER
    [fetched] = fetch(tmp_path, entry)
    assert_fetched(tmp_path)
    kept = tmp_path / "quarantine" / f"net.onnx.{sha256(OTHER)}"
    assert kept.read_bytes() == OTHER
    assert fetched.notes == (f"net.onnx: replaced; the previous file was moved to {kept}",)


def test_file_placed_by_the_user_during_the_download_is_kept(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fetching.download

    def download(*given: object) -> str:
        put(tmp_path, network(4.0))
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(fetching, "download", download)
    [fetched] = fetch(tmp_path, entry)
    assert "the previous file was moved to" in fetched.notes[0]
    [kept] = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == network(4.0)


def test_partial_file_of_a_browser_is_not_touched(tmp_path: Path, entry: ModelEntry) -> None:
    other = put(tmp_path, b"half of a file", name="net.onnx.part")
    fetch(tmp_path, entry)
    assert other.read_bytes() == b"half of a file"
    assert (tmp_path / "net.onnx").read_bytes() == BODY


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("verified_before", [True, False], ids=["put over a verified one", "from the start"])
def test_unknown_file_is_used_unchanged(
    tmp_path: Path, route: Route, restricted: ModelEntry, offline: bool, verified_before: bool
) -> None:
    """Its licence need not be accepted, as it is the user's own file."""
    if verified_before:
        fetch(tmp_path, restricted, accept_licences=True)
    route.requests.clear()
    path = put(tmp_path, network(2.0))
    for verify in (False, True, False):
        [fetched] = fetch(tmp_path, restricted, offline=offline, verify=verify)
        assert (fetched.source, fetched.record.sha256) == ("present", sha256(network(2.0)))
        assert fetched.notes == (
            f"net.onnx: not a published file (SHA-256 {sha256(network(2.0))}); used anyway, "
            "origin and licence unknown",
        )
        assert path.read_bytes() == network(2.0)
    assert route.requests == []
    assert not (tmp_path / "quarantine").exists()


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Sign in</title>", network()[:-40]])
def test_error_for_a_file_that_is_no_model_has_hash_and_size(
    tmp_path: Path, server: FaultServer, content: bytes
) -> None:
    entry = load_catalog().models["xseg_1"]
    path = put(tmp_path, content, "xseg_1.onnx")
    found = rf"ONNX Runtime cannot load.*{sha256(content)} \({len(content)} bytes\)"
    published = rf"published: {entry.sources[0].sha256[0]} \({entry.bytes} bytes\)"
    with pytest.raises(ModelError, match=rf"xseg_1\.onnx(?s:.*){found}.*{published}"):
        fetch(tmp_path, entry, offline=True)
    with pytest.raises(ModelError, match=f"{found}.*{published}") as caught:
        Runtime("cpu").open(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["", "{", '{"version": 7}', None])
def test_file_without_valid_record_is_hashed_and_kept(
    tmp_path: Path, route: Route, entry: ModelEntry, content: str | None
) -> None:
    [first] = fetch(tmp_path, entry)
    if content is None:
        os.utime(first.path, (1, 1))
    else:
        record_path(first.path).write_text(content)
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, len(route.requests)) == ("present", 1)
    assert fetched.record.url == (first.record.url if content is None else "")
    assert record_of(first.path).still_describes(first.path)


def test_present_file_in_an_unwritable_folder_is_used(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path)
    monkeypatch.setattr(inventory, "write_record", refuse)
    [fetched] = fetch(tmp_path, entry)
    assert fetched.source == "present"
    assert "Permission denied" in fetched.notes[0]
