"""Licences, free space, the shared cache, progress, and resuming after an interruption."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from colab_helpers.errors import LicenceError, ModelError, OutputError
from colab_helpers.models import download, fetching
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.fetching import DISK_RESERVE, Progress
from colab_helpers.models.inventory import ModelRecord, part_path, write_record
from tests.helpers import server as faults
from tests.helpers.server import FaultServer, Route
from tests.models.conftest import (
    BODY,
    OTHER,
    RESTRICTED,
    assert_fetched,
    assert_not_fetched,
    corrupt,
    fetch,
    model,
    network,
    put,
    record_of,
    sha256,
    source,
)


def test_offline_lists_missing_files_without_a_request(
    tmp_path: Path, restricted: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.requests, "get", lambda *_, **__: pytest.fail("requested"))
    other = model(source("https://example.com/a", "https://example.com/b"), name="other")
    where = {"offline": True, "shared_cache": tmp_path / "drive"}
    with pytest.raises(ModelError, match=r"2 model file\(s\) missing") as caught:
        fetch(tmp_path / "root", restricted, other, **where)  # no licence for a missing file
    for part in ("net.onnx", "other.onnx", "200000 bytes", *restricted.urls, *other.urls):
        assert part in str(caught.value)
    put(tmp_path / "drive")
    with pytest.raises(LicenceError):
        fetch(tmp_path / "root", restricted, **where)


def test_licence_must_be_accepted(tmp_path: Path, route: Route, restricted: ModelEntry) -> None:
    with pytest.raises(LicenceError) as caught:
        fetch(tmp_path, restricted, model(*restricted.sources, name="free"))
    for part in (
        *("net", "Research only", "https://example.com/terms", "Selling it"),
        "python -m colab_helpers preload --accept-licences",
    ):
        assert part in str(caught.value)
    assert "free:" not in str(caught.value)
    assert route.requests == []


def test_licence_acceptance_is_recorded_and_copied_with_the_cache(
    tmp_path: Path, restricted: ModelEntry
) -> None:
    root, cache = tmp_path / "one", tmp_path / "drive"
    [fetched] = fetch(root, restricted, shared_cache=cache, accept_licences=True)
    accepted = record_of(fetched.path).licence_accepted_at
    assert accepted is not None
    assert fetched.record.licence_accepted_at == accepted
    [again] = fetch(root, restricted)
    assert again.record.licence_accepted_at == accepted
    put(root, OTHER)  # the damaged file is replaced without asking again
    [replaced] = fetch(root, restricted)
    assert (replaced.source, replaced.record.licence_accepted_at) == ("downloaded", accepted)
    [elsewhere] = fetch(tmp_path / "two", restricted, shared_cache=cache)
    assert (elsewhere.source, elsewhere.record.licence_accepted_at) == ("copied", accepted)
    put(root, OTHER)
    changed = RESTRICTED.model_copy(update={"name": "Research only 2"})
    with pytest.raises(LicenceError, match="Research only 2"):
        fetch(root, restricted.model_copy(update={"licence": changed, "licence_id": "other"}))


def test_present_file_needs_no_acceptance_but_records_one(tmp_path: Path, restricted: ModelEntry) -> None:
    path = put(tmp_path)
    [fetched] = fetch(tmp_path, restricted)
    assert fetched.record.licence_accepted_at is None
    [fetched] = fetch(tmp_path, restricted, accept_licences=True)
    assert fetched.record.licence_accepted_at is not None
    assert record_of(path).licence_accepted_at == fetched.record.licence_accepted_at


def test_free_disk_space_is_checked_before_any_request(
    tmp_path: Path, route: Route, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, name="there.onnx")  # needs no space
    part_path(tmp_path / "net.onnx", sha256(BODY)).write_bytes(BODY[:1000])  # a partial file
    models = [entry, model(*entry.sources, name="there")]
    monkeypatch.setattr(fetching, "disk_free", lambda path: DISK_RESERVE + len(BODY) - 1001)
    with pytest.raises(OutputError, match=r"2\.00 GB are free on the disk, but 2\.00 GB are needed"):
        fetch(tmp_path, *models)
    assert route.requests == []
    monkeypatch.setattr(fetching, "disk_free", lambda path: DISK_RESERVE + len(BODY) - 1000)
    fetch(tmp_path, *models)
    assert_fetched(tmp_path)
    monkeypatch.setattr(fetching, "disk_free", lambda path: 0)
    assert [file.source for file in fetch(tmp_path, *models)] == ["present"] * 2


def test_write_errors_are_reported(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        fetch(tmp_path / "file", entry)
    monkeypatch.setattr(download, "_body_offset", full)
    with pytest.raises(OutputError, match="No space left on device"):
        fetch(tmp_path, entry)
    assert_not_fetched(tmp_path)


# --- shared cache ----------------------------------------------------------------------------------------


def test_shared_cache_is_filled_and_then_used(tmp_path: Path, route: Route, entry: ModelEntry) -> None:
    cache = tmp_path / "drive"
    fetch(tmp_path / "one", entry, shared_cache=cache)
    assert_fetched(cache)
    [fetched] = fetch(tmp_path / "two", entry, shared_cache=cache, offline=True)
    assert (fetched.source, fetched.record.url) == ("copied", str(cache / "net.onnx"))
    assert len(route.requests) == 1
    assert_fetched(tmp_path / "two")


@pytest.mark.parametrize("recorded", [False, True], ids=["does not load", "changed without being written"])
def test_damaged_shared_cache_is_detected_and_repaired(
    tmp_path: Path, entry: ModelEntry, recorded: bool
) -> None:
    cache, damaged = tmp_path / "drive", network() if recorded else OTHER
    path = put(cache, bytes(len(damaged)))
    if recorded:
        times = path.stat()
        known = {"sha256": sha256(BODY), "bytes": times.st_size, "mtime_ns": times.st_mtime_ns}
        write_record(path, ModelRecord(**known, licence="MIT"))
    corrupt(path, damaged)
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=cache)
    assert fetched.source == "downloaded"
    assert "shared cache is damaged" in fetched.notes[0]
    assert_fetched(tmp_path / "root")
    assert_fetched(cache)
    assert (cache / "quarantine" / f"net.onnx.{sha256(damaged)}").read_bytes() == damaged


def test_unknown_file_in_the_shared_cache_is_used_and_kept(
    tmp_path: Path, route: Route, entry: ModelEntry
) -> None:
    cache = tmp_path / "drive"
    put(cache, network(5.0))
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=cache)
    assert (fetched.source, route.requests) == ("copied", [])
    assert "not a published file" in fetched.notes[0]
    assert (cache / "net.onnx").read_bytes() == (tmp_path / "root" / "net.onnx").read_bytes() == network(5.0)


def test_unwritable_shared_cache_is_noted(tmp_path: Path, entry: ModelEntry) -> None:
    (tmp_path / "drive").write_text("not a folder")
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=tmp_path / "drive")
    assert "could not be copied to the shared cache" in fetched.notes[0]
    assert_fetched(tmp_path / "root")


def test_failed_copy_to_the_shared_cache_leaves_no_files(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copyfile(_: Path, part: Path) -> None:
        part.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=tmp_path / "drive")
    assert "No space left" in fetched.notes[0]
    assert [path for path in (tmp_path / "drive").rglob("*") if path.is_file()] == []
    assert_fetched(tmp_path / "root")


# --- progress and interruption --------------------------------------------------------------------------


def test_progress_covers_all_files(tmp_path: Path, server: FaultServer) -> None:
    seen: list[Progress] = []
    for name in ("a", "b"):
        server.add(f"/{name}", BODY, always=faults.paced(10_000, 0.05))
    entries = [model(source(server.url(f"/{name}")), name=name) for name in ("a", "b")]
    fetch(tmp_path, *entries, on_progress=seen.append)
    assert {item.bytes_total for item in seen} == {2 * len(BODY)}
    assert [item.bytes_done for item in seen] == sorted(item.bytes_done for item in seen)
    assert seen[-1].bytes_done == 2 * len(BODY)
    assert (seen[-1].files_done, seen[-1].files_total) == (2, 2)


def test_interrupted_fetch_can_be_resumed(tmp_path: Path, server: FaultServer, entry: ModelEntry) -> None:
    server.add("/net", BODY, always=faults.paced(5_000, 0.25))

    def interrupt(progress: Progress) -> None:
        if progress.bytes_done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, entry, on_progress=interrupt)
    assert_not_fetched(tmp_path)
    size = part_path(tmp_path / "net.onnx", sha256(BODY)).stat().st_size
    assert 0 < size < len(BODY)
    route = server.add("/net", BODY)
    fetch(tmp_path, entry)
    assert route.starts == [size]
    assert_fetched(tmp_path)
