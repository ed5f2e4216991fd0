"""What lies on disk: verified, tampered, unknown, damaged, elsewhere."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from colab_helpers.errors import ModelError, OutputError
from colab_helpers.models import inventory, records
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.inventory import look_at
from colab_helpers.models.records import record_path
from colab_helpers.models.session import Runtime
from colab_helpers.models.sources import ModelSources
from tests.helpers.server import FaultServer, Route
from tests.models.conftest import (
    BODY,
    OTHER,
    assert_right,
    fetch,
    model,
    network,
    put,
    record_of,
    rot,
    sha256,
    source,
)


def refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_second_fetch_neither_asks_nor_hashes(
    tmp_path: Path, route: Route, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = fetch(tmp_path, entry, entry)  # a file that is named twice is fetched once
    record = record_of(first.path)
    assert (record.sha256, record.bytes, record.url) == (sha256(BODY), len(BODY), entry.urls[0])
    assert (record.source, record.licence) == ("downloaded", "MIT")
    assert (first.source, first.record) == ("downloaded", record)
    monkeypatch.setattr(inventory, "sha256_of", lambda path: pytest.fail("hashed"))
    [fetched] = fetch(tmp_path, entry)
    assert (fetched.source, fetched.record.sha256, len(route.requests)) == ("present", sha256(BODY), 1)


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
    assert (fetched.source, fetched.record.url, route.requests) == ("present", "", [])
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
        assert (fetched.source, fetched.record.sha256) == ("present", sha256(network(2.0)))
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
    assert fetched.record.url == (first.record.url if content is None else "")
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
    assert (fetched.source, fetched.record.url) == ("copied", str(found))
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
