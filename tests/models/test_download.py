"""What lies on disk: verified, tampered, copied, shared, accepted, refused."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from colab_helpers.errors import LicenceError, ModelError, OutputError
from colab_helpers.models import download, inventory, records, transfer
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.download import DISK_RESERVE
from colab_helpers.models.inventory import look_at
from colab_helpers.models.progress import Meter, Progress
from colab_helpers.models.records import Record, part_path, read_record, record_path
from colab_helpers.models.session import Runtime
from colab_helpers.models.sources import ModelSources
from colab_helpers.models.transfer import Limits
from tests.helpers import server as faults
from tests.helpers.server import FaultServer, Route
from tests.models.conftest import (
    BODY,
    OTHER,
    RESTRICTED,
    assert_nothing_in_place,
    assert_right,
    fetch,
    model,
    network,
    put,
    rot,
    sha256,
    source,
)


@pytest.fixture
def restricted(entry: ModelEntry) -> ModelEntry:
    """A model under a licence that has to be accepted."""
    return model(*entry.sources, licence=RESTRICTED)


def record_of(path: Path) -> Record:
    record = read_record(path)
    assert record is not None
    return record


def refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


# --- present files --------------------------------------------------------------------------------------


def test_a_second_fetch_neither_asks_nor_hashes(
    tmp_path: Path, route: Route, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = fetch(tmp_path, entry, entry)  # a file that is named twice is fetched once
    record = record_of(first.path)
    assert (record.sha256, record.bytes, record.url) == (sha256(BODY), len(BODY), entry.urls[0])
    assert (record.source, record.licence) == ("downloaded", "MIT")
    assert (first.source, first.origin, first.sha256) == ("downloaded", record.url, record.sha256)
    monkeypatch.setattr(inventory, "sha256_of", lambda path: pytest.fail("hashed"))
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, fetched.sha256, len(route.requests)) == ("present", sha256(BODY), 1)


def test_bytes_that_changed_without_being_written_are_found_where_they_are_hashed(
    tmp_path: Path, entry: ModelEntry
) -> None:
    path = put(tmp_path, network(2.0))
    fetch(tmp_path, entry)
    rot(path, network(3.0))  # it loads
    assert look_at(tmp_path, entry).state == "unknown"
    assert "although nobody wrote to it" in look_at(tmp_path, entry, verify=True).problem
    [again] = fetch(tmp_path, entry, verify=True)
    assert again.source == "downloaded"
    assert_right(tmp_path)


def test_file_put_there_by_hand_is_verified_once(tmp_path: Path, route: Route, entry: ModelEntry) -> None:
    path = put(tmp_path)
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, fetched.origin, route.requests) == ("present", "", [])
    assert (record_of(path).source, record_of(path).sha256) == ("present", sha256(BODY))


@pytest.mark.parametrize("with_record", [True, False], ids=["changed later", "never right"])
def test_damaged_file_leaves_only_for_its_replacement(
    tmp_path: Path,
    server: FaultServer,
    entry: ModelEntry,
    monkeypatch: pytest.MonkeyPatch,
    with_record: bool,
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
        patch.setattr(records, "publish", refuse)
        with pytest.raises(OutputError, match="Permission denied"):
            fetch(tmp_path, entry)
    assert path.read_bytes() == OTHER
    [fetched] = fetch(tmp_path, entry)
    assert_right(tmp_path)
    kept = tmp_path / "quarantine" / f"net.onnx.{sha256(OTHER)}"
    assert kept.read_bytes() == OTHER
    assert fetched.notes == (f"net.onnx: was replaced; what lay there before is kept as {kept}",)


def test_a_file_that_a_user_puts_there_meanwhile_is_kept(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ModelSources.bring

    def bring(self: ModelSources, *given: object) -> object:
        brought = real(self, *given)  # type: ignore[arg-type]
        put(tmp_path, network(4.0))
        return brought

    monkeypatch.setattr(ModelSources, "bring", bring)
    [fetched] = fetch(tmp_path, entry)
    assert "what lay there before is kept as" in fetched.notes[0]
    [kept] = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == network(4.0)


def test_what_a_browser_is_fetching_is_not_touched(tmp_path: Path, entry: ModelEntry) -> None:
    other = put(tmp_path, b"half of a file", name="net.onnx.part")
    fetch(tmp_path, entry)
    assert other.read_bytes() == b"half of a file"
    assert (tmp_path / "net.onnx").read_bytes() == BODY


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("verified_before", [True, False], ids=["put over a verified one", "from the start"])
def test_a_file_that_nobody_knows_is_used_as_it_is(
    tmp_path: Path, route: Route, restricted: ModelEntry, offline: bool, verified_before: bool
) -> None:
    """Also where its licence was not accepted: it is there, and it is the user's."""
    if verified_before:
        fetch(tmp_path, restricted, accept_licences=True)
    route.requests.clear()
    path = put(tmp_path, network(2.0))
    for verify in (False, True, False):
        [fetched] = fetch(tmp_path, restricted, offline=offline, verify=verify)
        assert (fetched.source, fetched.sha256) == ("present", sha256(network(2.0)))
        assert fetched.notes == (
            f"net.onnx: none of the published files (SHA-256 {sha256(network(2.0))}); it is used as it is, "
            "its origin and licence are not known",
        )
        assert path.read_bytes() == network(2.0)
    assert route.requests == []
    assert not (tmp_path / "quarantine").exists()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "it is a Git LFS pointer"),
        (b"\n <!DOCTYPE html><html><title>Sign in</title>", "it is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "it is a web page"),
        (b'{"error": "Repository not found"}', "such as a server's answer"),
        (zipped("a/det_10g.onnx"), "it is a zip archive.*unpack it: a/det_10g.onnx"),
        (zipped("archive/data.pkl"), "weights of PyTorch.*convert"),
        (b"\x80\x02}q\x00.", "weights of PyTorch"),
        (b"\x1f\x8b\x08", "packed archive"),
        (network()[:-40], "ONNX Runtime cannot load.*cut off"),
    ],
    ids=["empty", "lfs", "html", "xml", "json", "zip", "pth", "old pth", "gz", "cut off"],
)
def test_a_file_that_is_no_model_is_called_what_it_is(
    tmp_path: Path, entry: ModelEntry, content: bytes, words: str
) -> None:
    path = put(tmp_path, content)
    with pytest.raises(ModelError, match=rf"net\.onnx(?s:.*){words}"):
        fetch(tmp_path, entry, offline=True)
    with pytest.raises(ModelError, match=words) as caught:
        Runtime("cpu").open(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", ["", "{", '{"version": 7}', None])
def test_a_file_without_a_fitting_record_is_hashed_and_kept(
    tmp_path: Path, route: Route, entry: ModelEntry, content: str | None
) -> None:
    [first] = fetch(tmp_path, entry)
    if content is None:
        os.utime(first.path, (1, 1))
    else:
        record_path(first.path).write_text(content)
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, len(route.requests)) == ("present", 1)
    assert fetched.origin == (first.origin if content is None else "")
    assert record_of(first.path).still_describes(first.path)


def test_folder_that_cannot_be_written_is_good_enough(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path)
    monkeypatch.setattr(inventory, "write_record", refuse)
    [fetched] = fetch(tmp_path, entry)
    assert fetched.source == "present"
    assert "Permission denied" in fetched.notes[0]


# --- models of other programs ---------------------------------------------------------------------------

PLACES = {
    "one folder deeper": "root/models/net.onnx",
    "two folders deeper": "root/pack/buffalo_l/net.onnx",
    "insightface": "home/.insightface/models/buffalo_l/net.onnx",
    "roop": "home/roop/models/net.onnx",
    "FaceFusion": "home/facefusion/.assets/models/net_1.4.onnx",
    "in a program's folder": "here/.assets/models/net.onnx",
    "beside a program": "here/VisoMaster/model_assets/net.onnx",
}


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working folder of the test's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.usefixtures("homes")
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_published_file_that_lies_elsewhere_is_taken_over(
    tmp_path: Path, server: FaultServer, place: str
) -> None:
    put(tmp_path / "home" / "other" / "models", OTHER)  # of that name, but another file
    found = put(tmp_path, BODY, place)
    entry = model(source(server.url("/gone/net.onnx"), server.url("/gone/net_1.4.onnx")))
    root = tmp_path / "root"
    item = look_at(root, entry)
    assert (item.state, item.found) == ("missing", found)
    with pytest.raises(ModelError, match=r"missing here, but .* may be it") as caught:
        Runtime("cpu").open(root / "net.onnx")
    assert "preload --offline" in caught.value.remedy
    [fetched] = fetch(root, entry, offline=True)
    assert (fetched.source, fetched.origin) == ("copied", str(found))
    assert fetched.notes == (f"net.onnx: taken over from {found}",)
    assert (root / "net.onnx").read_bytes() == found.read_bytes() == BODY


@pytest.mark.usefixtures("homes")
@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ("home/facefusion/.assets/models/gfpgan_1.4.onnx", "GFPGANv1.4.onnx"),
        ("root/buffalo_l/buffalo_l/det_10g.onnx", "buffalo_l/det_10g.onnx"),
    ],
)
def test_a_run_that_misses_a_model_says_where_one_lies(tmp_path: Path, place: str, missing: str) -> None:
    found = put(tmp_path, BODY, place)
    with pytest.raises(ModelError) as caught:
        Runtime("cpu").open(tmp_path / "root" / missing)
    assert caught.value.what == f"the model file is missing here, but {found} may be it"
    assert caught.value.where == str(tmp_path / "root" / missing)


def test_a_file_of_the_name_that_nobody_published_is_only_named(tmp_path: Path, entry: ModelEntry) -> None:
    other = put(tmp_path / "root" / "nets", OTHER)
    with pytest.raises(ModelError, match="has this name, but is none of the published files") as caught:
        fetch(tmp_path / "root", entry, offline=True)
    assert str(other) in str(caught.value)
    [fetched] = fetch(tmp_path / "root", entry)
    assert fetched.source == "downloaded"


# --- no network, no licence, no room --------------------------------------------------------------------


def test_offline_says_what_is_missing_and_asks_nobody(
    tmp_path: Path, restricted: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.requests, "get", lambda *_, **__: pytest.fail("asked"))
    other = model(source("https://example.com/a", "https://example.com/b"), name="other")
    where = {"offline": True, "shared_cache": tmp_path / "drive"}
    with pytest.raises(ModelError, match=r"2 model file\(s\) missing") as caught:
        fetch(tmp_path / "root", restricted, other, **where)  # a licence of what it cannot bring is not asked
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


def test_acceptance_is_recorded_lasts_and_travels_with_the_shared_cache(
    tmp_path: Path, restricted: ModelEntry
) -> None:
    root, cache = tmp_path / "one", tmp_path / "drive"
    [fetched] = fetch(root, restricted, shared_cache=cache, accept_licences=True)
    accepted = record_of(fetched.path).licence_accepted_at
    assert accepted is not None
    assert fetched.licence_accepted_at == accepted
    [again] = fetch(root, restricted)
    assert again.licence_accepted_at == accepted
    put(root, OTHER)  # the damaged file is replaced without asking again
    [replaced] = fetch(root, restricted)
    assert (replaced.source, replaced.licence_accepted_at) == ("downloaded", accepted)
    [elsewhere] = fetch(tmp_path / "two", restricted, shared_cache=cache)
    assert (elsewhere.source, elsewhere.licence_accepted_at) == ("copied", accepted)
    put(root, OTHER)
    changed = RESTRICTED.model_copy(update={"name": "Research only 2"})
    with pytest.raises(LicenceError, match="Research only 2"):
        fetch(root, restricted.model_copy(update={"licence": changed, "licence_id": "other"}))


def test_file_that_is_there_needs_no_acceptance_but_gets_one(tmp_path: Path, restricted: ModelEntry) -> None:
    path = put(tmp_path)
    [fetched] = fetch(tmp_path, restricted)
    assert fetched.licence_accepted_at is None
    [fetched] = fetch(tmp_path, restricted, accept_licences=True)
    assert fetched.licence_accepted_at is not None
    assert record_of(path).licence_accepted_at == fetched.licence_accepted_at


def test_disk_is_checked_before_the_start(
    tmp_path: Path, route: Route, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, name="there.onnx")  # needs no room
    part_path(tmp_path / "net.onnx", sha256(BODY)).write_bytes(BODY[:1000])  # has some already
    models = [entry, model(*entry.sources, name="there")]
    monkeypatch.setattr(download, "disk_free", lambda path: DISK_RESERVE + len(BODY) - 1001)
    with pytest.raises(OutputError, match=r"2\.00 GB are free on the disk, but 2\.00 GB are needed"):
        fetch(tmp_path, *models)
    assert route.requests == []
    monkeypatch.setattr(download, "disk_free", lambda path: DISK_RESERVE + len(BODY) - 1000)
    fetch(tmp_path, *models)
    assert_right(tmp_path)
    monkeypatch.setattr(download, "disk_free", lambda path: 0)
    assert [file.source for file in fetch(tmp_path, *models)] == ["present"] * 2


def test_a_disk_that_takes_nothing_is_told(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        fetch(tmp_path / "file", entry)
    monkeypatch.setattr(transfer.Transfer, "_copy_body", full)
    with pytest.raises(OutputError, match="No space left on device"):
        fetch(tmp_path, entry)
    assert_nothing_in_place(tmp_path)


# --- shared cache ----------------------------------------------------------------------------------------


def test_shared_cache_is_filled_and_then_used(tmp_path: Path, route: Route, entry: ModelEntry) -> None:
    cache = tmp_path / "drive"
    fetch(tmp_path / "one", entry, shared_cache=cache)
    assert_right(cache)
    [fetched] = fetch(tmp_path / "two", entry, shared_cache=cache, offline=True)
    assert (fetched.source, fetched.origin) == ("copied", str(cache / "net.onnx"))
    assert len(route.requests) == 1
    assert_right(tmp_path / "two")


@pytest.mark.parametrize("recorded", [False, True], ids=["does not load", "changed without being written"])
def test_damaged_shared_cache_is_noticed_and_repaired(
    tmp_path: Path, entry: ModelEntry, recorded: bool
) -> None:
    cache, wrong = tmp_path / "drive", network() if recorded else OTHER
    path = put(cache, bytes(len(wrong)))
    if recorded:
        times = path.stat()
        known = {"sha256": sha256(BODY), "bytes": times.st_size, "mtime_ns": times.st_mtime_ns}
        records.write_record(path, Record(**known, source="downloaded", licence="MIT"))
    rot(path, wrong)
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=cache)
    assert fetched.source == "downloaded"
    assert "shared cache is damaged" in fetched.notes[0]
    assert_right(tmp_path / "root")
    assert_right(cache)
    assert (cache / "quarantine" / f"net.onnx.{sha256(wrong)}").read_bytes() == wrong


def test_a_file_of_the_shared_cache_that_nobody_knows_is_used_and_kept(
    tmp_path: Path, route: Route, entry: ModelEntry
) -> None:
    cache = tmp_path / "drive"
    put(cache, network(5.0))
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=cache)
    assert (fetched.source, route.requests) == ("copied", [])
    assert "none of the published files" in fetched.notes[0]
    assert (cache / "net.onnx").read_bytes() == (tmp_path / "root" / "net.onnx").read_bytes() == network(5.0)


def test_shared_cache_that_cannot_be_written_is_noted(tmp_path: Path, entry: ModelEntry) -> None:
    (tmp_path / "drive").write_text("not a folder")
    [fetched] = fetch(tmp_path / "root", entry, shared_cache=tmp_path / "drive")
    assert "could not be copied to the shared cache" in fetched.notes[0]
    assert_right(tmp_path / "root")


# --- progress and interruption --------------------------------------------------------------------------


def test_progress(tmp_path: Path, server: FaultServer) -> None:
    seen: list[Progress] = []
    for name in ("a", "b"):
        server.add(f"/{name}", BODY, always=faults.paced(10_000, 0.05))
    entries = [model(source(server.url(f"/{name}")), name=name) for name in ("a", "b")]
    fetch(tmp_path, *entries, limits=Limits(min_rate=1), on_progress=seen.append)
    assert {item.bytes_total for item in seen} == {2 * len(BODY)}
    assert [item.bytes_done for item in seen] == sorted(item.bytes_done for item in seen)
    assert seen[-1].bytes_done == 2 * len(BODY)
    assert (seen[-1].files_done, seen[-1].files_total) == (2, 2)


def test_rate_and_eta() -> None:
    clock = iter([0.0, 4.0, 10.0])
    meter = Meter(lambda: next(clock))
    found = []
    for done in (1000, 1400, 3000):  # what was resumed is no rate
        meter.update("net", done, 10_000)
        found.append(meter.progress(0, 1))
    assert [item.rate for item in found] == [0, 100, 200]
    assert [item.eta for item in found] == [None, 86, 35]


def test_keyboard_interrupt_stops_everything_and_can_be_resumed(
    tmp_path: Path, server: FaultServer, entry: ModelEntry
) -> None:
    server.add("/net", BODY, always=faults.paced(5_000, 0.25))

    def interrupt(found: Progress) -> None:
        if found.bytes_done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, entry, limits=Limits(min_rate=1), on_progress=interrupt)
    assert_nothing_in_place(tmp_path)
    there = part_path(tmp_path / "net.onnx", sha256(BODY)).stat().st_size
    assert 0 < there < len(BODY)
    route = server.add("/net", BODY)
    fetch(tmp_path, entry)
    assert route.starts == [there]
    assert_right(tmp_path)
