"""What lies on disk: verified, tampered, copied, shared, accepted, refused."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from colab_helpers.errors import LicenceError, ModelError, OutputError, UsageError
from colab_helpers.models import download, origin, progress, records, transfer
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.download import DISK_RESERVE, Downloader
from colab_helpers.models.progress import Meter, Progress
from colab_helpers.models.records import read_record, record_path
from colab_helpers.models.session import Runtime
from colab_helpers.models.transfer import Limits, MirrorError, Transfer
from tests.models import server as faults
from tests.models.conftest import (
    BODY,
    FREE,
    QUICK,
    RESTRICTED,
    assert_clean,
    assert_nothing_in_place,
    assert_right,
    model,
    network,
    sha256,
    source,
)
from tests.models.server import FaultServer

OTHER = bytes(reversed(BODY))


@pytest.fixture
def entry(server: FaultServer) -> ModelEntry:
    server.add("/net", BODY)
    return model(source(server.url("/net")))


def put(root: Path, body: bytes = BODY, name: str = "net.onnx") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


# --- present files ------------------------------------------------------------------------------------------


def test_record_says_what_was_fetched(tmp_path: Path, server: FaultServer, entry: ModelEntry) -> None:
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    record = read_record(fetched.path)
    assert record is not None
    assert (record.sha256, record.bytes, record.url) == (sha256(BODY), len(BODY), server.url("/net"))
    assert record.mtime_ns == fetched.path.stat().st_mtime_ns
    assert (record.source, record.licence) == ("downloaded", "MIT")
    assert (fetched.source, fetched.origin, fetched.sha256) == ("downloaded", record.url, record.sha256)
    assert fetched.seconds > 0


def test_second_fetch_neither_asks_nor_hashes(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    Downloader(tmp_path, limits=QUICK).fetch([entry])
    for module in (download, origin):
        monkeypatch.setattr(module, "sha256_of", lambda path: pytest.fail("hashed"))
    route = server.add("/net", BODY)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert (fetched.source, fetched.sha256, route.requests) == ("present", sha256(BODY), [])


def test_verify_hashes(tmp_path: Path, entry: ModelEntry) -> None:
    downloader = Downloader(tmp_path, limits=QUICK)
    [fetched] = downloader.fetch([entry])
    times = fetched.path.stat()
    fetched.path.write_bytes(OTHER)
    os.utime(fetched.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert downloader.plan([entry]).missing == ()
    [item] = downloader.plan([entry], verify=True).missing
    assert item.status == "damaged"
    [again] = downloader.fetch([entry], verify=True)
    assert again.source == "downloaded"
    assert_right(tmp_path)


def test_file_put_there_by_hand_is_verified_once(
    tmp_path: Path, server: FaultServer, entry: ModelEntry
) -> None:
    path = put(tmp_path)
    route = server.add("/net", BODY)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert (fetched.source, fetched.origin, route.requests) == ("present", "", [])
    record = read_record(path)
    assert record is not None
    assert (record.source, record.sha256) == ("present", sha256(BODY))


@pytest.mark.parametrize("with_record", [True, False], ids=["changed later", "never right"])
def test_damaged_file_leaves_only_for_its_replacement(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, with_record: bool
) -> None:
    if with_record:
        Downloader(tmp_path, limits=QUICK).fetch([entry])
    path = put(tmp_path, OTHER)
    [item] = Downloader(tmp_path).plan([entry]).missing
    assert item.status == "damaged"
    assert "ONNX Runtime cannot load" in item.problem
    for options in ({"offline": True}, {}):
        gone = model(source(server.url("/gone")))
        with pytest.raises(ModelError, match="ONNX Runtime cannot load"):
            Downloader(tmp_path, limits=QUICK, **options).fetch([gone])  # type: ignore[arg-type]
        assert path.read_bytes() == OTHER
        assert not (tmp_path / "quarantine").exists()
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert_right(tmp_path)
    kept = tmp_path / "quarantine" / f"net.onnx.{sha256(OTHER)}"
    assert kept.read_bytes() == OTHER
    assert fetched.notes == (f"net.onnx: was replaced; what lay there before is kept as {kept}",)


def test_a_file_that_a_user_puts_there_meanwhile_is_kept(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Downloader._bring

    def bring(self: Downloader, *given: object) -> object:
        origin = real(self, *given)  # type: ignore[arg-type]
        put(tmp_path, network(4.0))
        return origin

    monkeypatch.setattr(Downloader, "_bring", bring)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert "what lay there before is kept as" in fetched.notes[0]
    [kept] = (tmp_path / "quarantine").iterdir()
    assert kept.read_bytes() == network(4.0)


def test_what_a_browser_is_fetching_is_not_touched(tmp_path: Path, entry: ModelEntry) -> None:
    other = put(tmp_path, b"half of a file", name="net.onnx.part")
    assert Downloader(tmp_path).plan([entry]).missing[0].resumable == 0
    Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert other.read_bytes() == b"half of a file"
    assert (tmp_path / "net.onnx").read_bytes() == BODY


def test_damaged_file_stays_where_its_replacement_cannot_be_put(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, OTHER)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "put_in_place", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("verified_before", [True, False], ids=["put over a verified one", "from the start"])
def test_a_file_that_nobody_knows_is_used_as_it_is(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, offline: bool, verified_before: bool
) -> None:
    """Also where its licence was not accepted: it is there, and it is the user's."""
    restricted = entry.model_copy(update={"licence": RESTRICTED, "licence_id": "research"})
    if verified_before:
        Downloader(tmp_path, limits=QUICK, accept_licences=True).fetch([restricted])
    path = put(tmp_path, network(2.0))
    route = server.add("/net", BODY)
    for verify in (False, True, False):
        [fetched] = Downloader(tmp_path, limits=QUICK, offline=offline).fetch([restricted], verify=verify)
        assert (fetched.source, fetched.known, fetched.sha256) == ("present", False, sha256(network(2.0)))
        assert fetched.notes == (
            f"net.onnx: none of the published files (SHA-256 {sha256(network(2.0))}); it is used as it is, "
            "its origin and licence are not known",
        )
        assert path.read_bytes() == network(2.0)
    assert route.requests == []
    assert not (tmp_path / "quarantine").exists()


def test_a_network_of_another_role_is_damaged_for_this_one(tmp_path: Path, entry: ModelEntry) -> None:
    put(tmp_path, network())
    swapper = entry.model_copy(update={"role": "swapper"})
    [item] = Downloader(tmp_path).plan([swapper]).files
    assert item.status == "damaged"
    assert "it is a network, but no swapper: it has 1 inputs and 1 outputs" in item.problem


def test_bytes_that_changed_without_being_written_are_damaged_although_they_load(
    tmp_path: Path, entry: ModelEntry
) -> None:
    path = put(tmp_path, network(2.0))
    Downloader(tmp_path, limits=QUICK).fetch([entry])
    times = path.stat()
    path.write_bytes(network(3.0))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk leaves it
    [item] = Downloader(tmp_path).plan([entry], verify=True).files
    assert item.status == "damaged"
    assert "although nobody wrote to it" in item.problem


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
        Downloader(tmp_path, offline=True).fetch([entry])
    with pytest.raises(ModelError, match=words) as caught:
        Runtime("cpu").open(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy
    own = local_model(path)
    with pytest.raises(ModelError, match=words):
        Downloader(tmp_path / "root").fetch([own])
    assert path.read_bytes() == content


# --- models of other programs -------------------------------------------------------------------------------

PLACES = {
    "one folder deeper": "root/models/net.onnx",
    "two folders deeper": "root/pack/buffalo_l/net.onnx",
    "insightface": "home/.insightface/models/buffalo_l/net.onnx",
    "roop": "home/roop/models/net.onnx",
    "Deep-Live-Cam": "home/Deep-Live-Cam/models/net.onnx",
    "FaceFusion": "home/facefusion/.assets/models/net_1.4.onnx",
    "in a program's folder": "here/.assets/models/net.onnx",
    "beside a program": "here/VisoMaster/model_assets/net.onnx",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_published_file_that_lies_elsewhere_is_taken_over(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    put(tmp_path / "home" / "other" / "models", OTHER)  # of that name, but another file
    found = put(tmp_path, BODY, place)
    entry = model(source(server.url("/gone/net.onnx"), server.url("/gone/net_1.4.onnx")))
    root = tmp_path / "root"
    [item] = Downloader(root).plan([entry]).files
    assert (item.status, item.found) == ("missing", found)
    with pytest.raises(ModelError, match=r"missing here, but .* may be it") as caught:
        Runtime("cpu").open(root / "net.onnx")
    assert "preload --offline" in caught.value.remedy
    [fetched] = Downloader(root, offline=True).fetch([entry])
    assert (fetched.source, fetched.origin) == ("copied", str(found))
    assert fetched.notes == (f"net.onnx: taken over from {found}",)
    assert (root / "net.onnx").read_bytes() == found.read_bytes() == BODY


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        ("home/facefusion/.assets/models/gfpgan_1.4.onnx", "GFPGANv1.4.onnx"),
        ("home/.insightface/models/buffalo_l/det_10g.onnx", "buffalo_l/det_10g.onnx"),
        ("root/det_10g.onnx", "buffalo_l/det_10g.onnx"),
        ("root/buffalo_l/buffalo_l/det_10g.onnx", "buffalo_l/det_10g.onnx"),
    ],
)
def test_a_run_that_misses_a_model_says_where_one_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, missing: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    found = put(tmp_path, BODY, place)
    with pytest.raises(ModelError) as caught:
        Runtime("cpu").open(tmp_path / "root" / missing)
    assert caught.value.what == f"the model file is missing here, but {found} may be it"
    assert caught.value.where == str(tmp_path / "root" / missing)


def test_a_file_of_the_name_that_nobody_published_is_only_named(
    tmp_path: Path, server: FaultServer, entry: ModelEntry
) -> None:
    other = put(tmp_path / "root" / "nets", OTHER)
    with pytest.raises(ModelError, match="has this name, but is none of the published files") as caught:
        Downloader(tmp_path / "root", offline=True).fetch([entry])
    assert str(other) in str(caught.value)
    [fetched] = Downloader(tmp_path / "root", limits=QUICK).fetch([entry])
    assert fetched.source == "downloaded"


def test_touched_file_is_hashed_and_kept(tmp_path: Path, server: FaultServer, entry: ModelEntry) -> None:
    [first] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    os.utime(first.path, (1, 1))
    route = server.add("/net", BODY)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert (fetched.source, fetched.origin, route.requests) == ("present", first.origin, [])
    record = read_record(first.path)
    assert record is not None
    assert record.mtime_ns == 1_000_000_000


@pytest.mark.parametrize("content", ["", "{", '{"version": 7}'])
def test_unreadable_record_is_made_anew(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, content: str
) -> None:
    [first] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    record_path(first.path).write_text(content)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert fetched.source == "present"
    assert read_record(first.path) is not None


def test_folder_that_cannot_be_written_is_good_enough(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path)

    def refuse(path: Path, record: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download, "write_record", refuse)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert fetched.source == "present"
    assert "Permission denied" in fetched.notes[0]


def test_same_file_named_twice_is_fetched_once(
    tmp_path: Path, server: FaultServer, entry: ModelEntry
) -> None:
    route = server.add("/net", BODY)
    assert len(Downloader(tmp_path, limits=QUICK).fetch([entry, entry])) == 1
    assert len(route.requests) == 1


# --- no network, no licence, no room ------------------------------------------------------------------------


def test_offline_says_what_is_missing_and_asks_nobody(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = server.add("/net", BODY)
    monkeypatch.setattr(requests.Session, "get", lambda *_, **__: pytest.fail("asked"))
    missing = model(source(server.url("/net"), "https://example.com/net"))
    with pytest.raises(ModelError) as caught:
        Downloader(tmp_path, offline=True).fetch([missing, model(source(server.url("/b")), name="b")])
    message = str(caught.value)
    assert "2 model file(s) missing" in message
    for part in ("net.onnx", "200000 bytes", server.url("/net"), "https://example.com/net", server.url("/b")):
        assert part in message
    assert route.requests == []


def test_offline_asks_for_no_licence_of_what_it_cannot_bring(tmp_path: Path, server: FaultServer) -> None:
    restricted = model(source(server.url("/net")), licence=RESTRICTED)
    with pytest.raises(ModelError, match="missing"):
        Downloader(tmp_path / "root", offline=True, shared_cache=tmp_path / "drive").fetch([restricted])
    put(tmp_path / "drive")
    with pytest.raises(LicenceError):
        Downloader(tmp_path / "root", offline=True, shared_cache=tmp_path / "drive").fetch([restricted])


def test_offline_is_content_with_what_is_there(tmp_path: Path, entry: ModelEntry) -> None:
    put(tmp_path)
    [fetched] = Downloader(tmp_path, offline=True).fetch([entry])
    assert fetched.source == "present"


def test_licence_must_be_accepted(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/net", BODY)
    restricted = model(source(server.url("/net")), licence=RESTRICTED)
    with pytest.raises(LicenceError) as caught:
        Downloader(tmp_path, limits=QUICK).fetch([restricted, model(source(server.url("/net")), name="free")])
    message = str(caught.value)
    assert "python -m colab_helpers preload --accept-licences" in message
    for part in ("net", "Research only", "https://example.com/terms", "Selling it"):
        assert part in message
    assert "free" not in message.replace("'free", "")
    assert route.requests == []


def test_acceptance_is_recorded_and_lasts(tmp_path: Path, server: FaultServer) -> None:
    server.add("/net", BODY)
    restricted = model(source(server.url("/net")), licence=RESTRICTED)
    [fetched] = Downloader(tmp_path, limits=QUICK, accept_licences=True).fetch([restricted])
    record = read_record(fetched.path)
    assert record is not None
    assert record.licence_accepted_at is not None
    assert fetched.licence_accepted_at == record.licence_accepted_at
    [again] = Downloader(tmp_path, limits=QUICK).fetch([restricted])
    assert again.licence_accepted_at == record.licence_accepted_at
    put(tmp_path, OTHER)  # the damaged file is replaced without asking again
    [replaced] = Downloader(tmp_path, limits=QUICK).fetch([restricted])
    assert (replaced.source, replaced.licence_accepted_at) == ("downloaded", record.licence_accepted_at)


def test_acceptance_of_another_licence_does_not_count(tmp_path: Path, server: FaultServer) -> None:
    server.add("/net", BODY)
    restricted = model(source(server.url("/net")), licence=RESTRICTED)
    Downloader(tmp_path, limits=QUICK, accept_licences=True).fetch([restricted])
    put(tmp_path, OTHER)
    changed = model(
        source(server.url("/net")), licence=RESTRICTED.model_copy(update={"name": "Research only 2"})
    )
    with pytest.raises(LicenceError, match="Research only 2"):
        Downloader(tmp_path, limits=QUICK).fetch([changed])


def test_file_that_is_there_needs_no_acceptance_but_gets_one(tmp_path: Path, server: FaultServer) -> None:
    restricted = model(source(server.url("/net")), licence=RESTRICTED)
    path = put(tmp_path)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([restricted])
    assert fetched.licence_accepted_at is None
    [fetched] = Downloader(tmp_path, limits=QUICK, accept_licences=True).fetch([restricted])
    assert fetched.licence_accepted_at is not None
    record = read_record(path)
    assert record is not None
    assert record.licence_accepted_at == fetched.licence_accepted_at


def test_disk_is_checked_before_the_start(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = server.add("/net", BODY)
    monkeypatch.setattr(download, "disk_free", lambda path: DISK_RESERVE + len(BODY) - 1)
    with pytest.raises(OutputError, match=r"2\.00 GB are free on the disk, but 2\.00 GB are needed"):
        Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert route.requests == []
    monkeypatch.setattr(download, "disk_free", lambda path: DISK_RESERVE + len(BODY))
    Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert_right(tmp_path)


def test_disk_need_counts_what_is_missing_only(
    tmp_path: Path, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path)
    monkeypatch.setattr(download, "disk_free", lambda path: 0)
    [fetched] = Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert fetched.source == "present"


def test_plan_adds_up(tmp_path: Path, server: FaultServer) -> None:
    put(tmp_path, name="there.onnx")
    plan = Downloader(tmp_path).plan(
        [model(source("https://example.com/a"), name=name) for name in ("there", "one", "two")]
    )
    assert [item.model.name for item in plan.files if item.usable] == ["there"]
    assert [item.model.name for item in plan.missing] == ["one", "two"]
    assert plan.bytes_missing == 2 * len(BODY)
    assert plan.bytes_needed == 2 * len(BODY) + DISK_RESERVE


def test_disk_full_in_the_middle(
    tmp_path: Path, server: FaultServer, entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.Transfer, "_copy_body", full)
    with pytest.raises(OutputError, match="No space left on device"):
        Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert_nothing_in_place(tmp_path)


def test_models_folder_that_is_a_file(tmp_path: Path, entry: ModelEntry) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(OutputError):
        Downloader(tmp_path / "root", limits=QUICK).fetch([entry])


# --- proxies and mirrors ------------------------------------------------------------------------------------


def test_proxy(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/net", BODY)
    far = model(source("http://localhost:9/net"))
    [fetched] = Downloader(tmp_path, limits=QUICK, proxy=server.base).fetch([far])
    assert fetched.origin == "http://localhost:9/net"
    assert route.requests[0]["Host"] == "localhost:9"


def test_proxy_of_the_environment(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/net", BODY)
    monkeypatch.setenv("http_proxy", server.base)
    Downloader(tmp_path, limits=QUICK).fetch([model(source("http://localhost:9/net"))])
    assert_right(tmp_path)


def test_named_proxy_wins_over_the_environment(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("/net", BODY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    Downloader(tmp_path, limits=QUICK, proxy=server.base).fetch([model(source("http://localhost:9/net"))])
    assert_right(tmp_path)


def test_proxy_that_is_down(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="proxy failed"):
        Downloader(tmp_path, limits=QUICK, proxy="http://me:secret@127.0.0.1:9").fetch(
            [model(source("https://example.com/net"))]
        )


@pytest.mark.parametrize(("name", "value"), [("proxy", "host:80"), ("mirror_prefix", "mirror.example/")])
def test_addresses_need_a_scheme(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        Downloader(tmp_path, **{name: value})  # type: ignore[arg-type]


def test_mirror_prefix_is_asked_first(tmp_path: Path, server: FaultServer) -> None:
    server.add("/https://example.com/net", BODY)
    prefixed = Downloader(tmp_path, limits=QUICK, mirror_prefix=server.url("/"))
    [fetched] = prefixed.fetch([model(source("https://example.com/net"))])
    assert fetched.origin == server.url("/https://example.com/net")
    assert_right(tmp_path)


def test_address_itself_is_asked_after_the_mirror(tmp_path: Path, server: FaultServer) -> None:
    server.add("/net", BODY)
    prefixed = Downloader(tmp_path, limits=QUICK, mirror_prefix=server.url("/mirror/"))
    [fetched] = prefixed.fetch([model(source(server.url("/net")))])
    assert fetched.origin == server.url("/net")


class Answers:
    """Stands for a session that redirects from one address to another."""

    def __init__(self, target: str) -> None:
        self.asked: list[str] = []
        self._target = target

    def get(self, url: str, **_: object) -> requests.Response:
        self.asked.append(url)
        response = requests.Response()
        response.status_code = 302
        response.headers["Location"] = self._target
        response.raw = io.BytesIO()
        return response


@pytest.mark.parametrize("target", ["http://example.com/net", "http://127.0.0.1/net", "//example.org/net"])
def test_https_never_becomes_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    answers = Answers(target)
    monkeypatch.setattr(Transfer, "_session", lambda self: answers)
    moving = Transfer(limits=Limits(), mirror_prefix="http://mirror.example/")
    with pytest.raises(MirrorError, match=r"not https|circle"):
        moving.fetch(
            "https://example.com/net",
            tmp_path / "part",
            transfer.Expected(("0" * 64,)),
            report=lambda done, total: None,
        )
    assert all(url.startswith("https://") for url in answers.asked)


def test_a_token_is_shown_to_its_server_alone(tmp_path: Path, server: FaultServer) -> None:
    elsewhere = server.url("/store").replace("127.0.0.1", "localhost")
    asked = server.add("/net", b"", always=faults.redirect(elsewhere))
    store = server.add("/store", BODY)
    fetching = Downloader(tmp_path, limits=QUICK, tokens={"127.0.0.1": "secret"})
    fetching.fetch([model(source(server.url("/net")))])
    assert [request.get("Authorization") for request in asked.requests] == ["Bearer secret"]
    assert [request.get("Authorization") for request in store.requests] == [None]
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_token_is_never_sent_in_the_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, str | None] = {}

    class Listening(Answers):
        def get(self, url: str, *, headers: dict[str, str], **_: object) -> requests.Response:
            shown[url] = headers.get("Authorization")
            return super().get(url)

    monkeypatch.setattr(Transfer, "_session", lambda self: Listening("/elsewhere"))
    moving = Transfer(limits=Limits(), mirror_prefix="http://example.com/", tokens={"example.com": "secret"})
    for url in ("https://example.com/net", "http://example.com/net"):
        with pytest.raises(MirrorError, match="circle"):
            moving.fetch(
                url, tmp_path / "part", transfer.Expected(("0" * 64,)), report=lambda done, total: None
            )
    assert {(url.split(":")[0], token) for url, token in shown.items()} == {
        ("https", "Bearer secret"), ("http", None),
    }  # fmt: skip


# --- shared cache and own files -----------------------------------------------------------------------------


def test_shared_cache_is_filled_and_then_used(tmp_path: Path, server: FaultServer, entry: ModelEntry) -> None:
    cache = tmp_path / "drive"
    Downloader(tmp_path / "one", limits=QUICK, shared_cache=cache).fetch([entry])
    assert_right(cache)
    route = server.add("/net", BODY)
    [fetched] = Downloader(tmp_path / "two", limits=QUICK, shared_cache=cache, offline=True).fetch([entry])
    assert (fetched.source, fetched.origin) == ("copied", str(cache / "net.onnx"))
    assert route.requests == []
    assert_right(tmp_path / "two")


def test_damaged_shared_cache_is_noticed_and_repaired(tmp_path: Path, entry: ModelEntry) -> None:
    cache = tmp_path / "drive"
    put(cache, OTHER)
    [fetched] = Downloader(tmp_path / "root", limits=QUICK, shared_cache=cache).fetch([entry])
    assert fetched.source == "downloaded"
    assert "shared cache is damaged" in fetched.notes[0]
    assert_right(tmp_path / "root")
    assert_right(cache)
    assert (cache / "quarantine" / f"net.onnx.{sha256(OTHER)}").read_bytes() == OTHER


def test_a_file_of_the_shared_cache_that_nobody_knows_is_used_and_kept(
    tmp_path: Path, server: FaultServer, entry: ModelEntry
) -> None:
    cache = tmp_path / "drive"
    put(cache, network(5.0))
    route = server.add("/net", BODY)
    [fetched] = Downloader(tmp_path / "root", limits=QUICK, shared_cache=cache).fetch([entry])
    assert (fetched.source, fetched.known, route.requests) == ("copied", False, [])
    assert "none of the published files" in fetched.notes[0]
    assert (cache / "net.onnx").read_bytes() == (tmp_path / "root" / "net.onnx").read_bytes() == network(5.0)


def test_acceptance_travels_with_the_shared_cache(tmp_path: Path, server: FaultServer) -> None:
    cache = tmp_path / "drive"
    server.add("/net", BODY)
    restricted = model(source(server.url("/net")), licence=RESTRICTED)
    Downloader(tmp_path / "one", limits=QUICK, shared_cache=cache, accept_licences=True).fetch([restricted])
    [fetched] = Downloader(tmp_path / "two", limits=QUICK, shared_cache=cache).fetch([restricted])
    assert fetched.source == "copied"
    assert fetched.licence_accepted_at is not None


def test_shared_cache_that_cannot_be_written_is_noted(tmp_path: Path, entry: ModelEntry) -> None:
    (tmp_path / "drive").write_text("not a folder")
    root = tmp_path / "root"
    [fetched] = Downloader(root, limits=QUICK, shared_cache=tmp_path / "drive").fetch([entry])
    assert "could not be copied to the shared cache" in fetched.notes[0]
    assert_right(root)


def local_model(path: Path, hashes: tuple[str, ...] | None = None) -> ModelEntry:
    return ModelEntry(
        name="own",
        role="enhancer",
        description="",
        licence_id="MIT",
        licence=FREE,
        local=path,
        sha256=hashes,
    )


@pytest.mark.parametrize("hashes", [None, (sha256(network()),)], ids=["any bytes", "known hash"])
def test_own_file_is_copied(tmp_path: Path, hashes: tuple[str, ...] | None) -> None:
    own = local_model(put(tmp_path, network(), name="mine.bin"), hashes)
    [fetched] = Downloader(tmp_path / "root", offline=True).fetch([own])
    assert (fetched.source, fetched.origin, fetched.notes) == ("copied", str(tmp_path / "mine.bin"), ())
    assert_right(tmp_path / "root", network(), name="own")
    [again] = Downloader(tmp_path / "root", offline=True).fetch([own])
    assert again.source == "present"


def test_own_file_that_changed_is_copied_again(tmp_path: Path) -> None:
    path = put(tmp_path, network(), name="mine.bin")
    Downloader(tmp_path / "root").fetch([local_model(path)])
    put(tmp_path, network(2.0), name="mine.bin")
    os.utime(path, (5, 5))
    [fetched] = Downloader(tmp_path / "root").fetch([local_model(path)])
    assert fetched.source == "copied"
    assert_right(tmp_path / "root", network(2.0), name="own")


def test_a_copy_that_the_user_replaced_is_not_written_over(tmp_path: Path) -> None:
    path = put(tmp_path, network(), name="mine.bin")
    Downloader(tmp_path / "root").fetch([local_model(path)])
    put(tmp_path, network(2.0), name="mine.bin")
    put(tmp_path / "root", network(3.0), name="own.onnx")
    [fetched] = Downloader(tmp_path / "root").fetch([local_model(path)])
    assert fetched.source == "present"
    assert (tmp_path / "root" / "own.onnx").read_bytes() == network(3.0)


def test_copy_outlives_the_own_file(tmp_path: Path) -> None:
    path = put(tmp_path, network(), name="mine.bin")
    Downloader(tmp_path / "root").fetch([local_model(path)])
    path.unlink()
    [fetched] = Downloader(tmp_path / "root").fetch([local_model(path)])
    assert fetched.source == "present"


def test_own_file_already_in_the_models_folder(tmp_path: Path) -> None:
    own = local_model(put(tmp_path, network(), name="own.onnx"))
    for _ in range(2):
        [fetched] = Downloader(tmp_path).fetch([own])
        assert fetched.source == "present"
    assert_right(tmp_path, network(), name="own")


@pytest.mark.parametrize(
    ("exists", "hashes", "message"),
    [(False, None, "there is no such file"), (True, (sha256(OTHER),), "has wrong bytes")],
)
def test_own_file_that_will_not_do(
    tmp_path: Path, exists: bool, hashes: tuple[str, ...] | None, message: str
) -> None:
    if exists:
        put(tmp_path, network(), name="mine.bin")
    with pytest.raises(ModelError, match=message):
        Downloader(tmp_path / "root").fetch([local_model(tmp_path / "mine.bin", hashes)])
    assert_nothing_in_place(tmp_path / "root", name="own")
    assert_clean(tmp_path / "root")


# --- progress and interruption ------------------------------------------------------------------------------


def test_progress(tmp_path: Path, server: FaultServer) -> None:
    seen: list[Progress] = []
    names = ("a", "b")
    for name in names:
        server.add(f"/{name}", BODY, always=faults.paced(10_000, 0.05))
    entries = [model(source(server.url(f"/{name}")), name=name) for name in names]
    Downloader(tmp_path, limits=Limits(min_rate=1), on_progress=seen.append).fetch(entries)
    assert {item.bytes_total for item in seen} == {2 * len(BODY)}
    assert [item.bytes_done for item in seen] == sorted(item.bytes_done for item in seen)
    assert seen[-1].bytes_done == 2 * len(BODY)
    assert (seen[-1].files_done, seen[-1].files_total) == (2, 2)
    # A rate is known from the second on; on a busy machine there may be bytes before the first.
    under_way = [item for item in seen if seen[0].bytes_done < item.bytes_done < item.bytes_total]
    assert under_way
    assert all(item.eta is not None and item.eta > 0 for item in under_way)


def test_rate_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 12.0, 20.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    meter = Meter()
    found = []
    for done in (0, 400, 1200, 3600):
        meter.update("net", done, 10_000)
        found.append(meter.progress(0, 1))
    assert [item.rate for item in found] == [0, 100, 100, 300]  # the last over the ten seconds before
    assert [item.eta for item in found] == [None, 96, 88, pytest.approx(6400 / 300)]


def test_resumed_bytes_are_no_rate(tmp_path: Path) -> None:
    meter = Meter()
    meter.update("net", 1_000_000, 2_000_000)
    assert meter.progress(0, 1).rate == 0
    assert meter.progress(0, 1).eta is None


def test_keyboard_interrupt_stops_everything_and_can_be_resumed(tmp_path: Path, server: FaultServer) -> None:
    server.add("/net", BODY, always=faults.paced(5_000, 0.25))

    def interrupt(found: Progress) -> None:
        if found.bytes_done > 0:
            raise KeyboardInterrupt

    entry = model(source(server.url("/net")))
    with pytest.raises(KeyboardInterrupt):
        Downloader(tmp_path, limits=Limits(min_rate=1), on_progress=interrupt).fetch([entry])
    assert_nothing_in_place(tmp_path)
    there = (tmp_path / ".net.onnx.part").stat().st_size
    assert 0 < there < len(BODY)
    route = server.add("/net", BODY)
    Downloader(tmp_path, limits=QUICK).fetch([entry])
    assert route.starts == [there]
    assert_right(tmp_path)
