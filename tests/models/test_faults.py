"""Server faults end with the right file or a clear error, never with a wrong file."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from colab_helpers.errors import ModelError
from colab_helpers.models import download
from colab_helpers.models.download import DownloadLimits
from colab_helpers.models.inventory import inspect_model, part_path
from tests.helpers import server as faults
from tests.helpers.server import FaultServer
from tests.models.conftest import (
    BODY,
    IMPATIENT,
    OTHER,
    QUICK,
    assert_clean,
    assert_fetched,
    assert_not_fetched,
    fetch,
    model,
    sha256,
    source,
)

HALF = len(BODY) // 2

# --- temporary faults: one URL is enough ----------------------------------------------------------------

TEMPORARY = {
    "drops mid-file": [faults.drop(HALF)],
    "drops after a few bytes": [faults.drop(10)] * 3,
    "drops often but gets on": [faults.drop(33_000)] * 5,
    "busy": [faults.status(503), faults.status(502), faults.status(504)],
    "too many requests": [faults.status(429)],
    "hangs up": [faults.hang_up],
    "no answer once": [faults.silent],
    "stuck half-way": [faults.stuck],
    "chunked": [faults.chunked],
    "chunked breaks": [faults.broken_chunked],
    "answers with another range": [faults.drop(HALF), faults.wrong_range],
    "416 with a part": [faults.drop(HALF), faults.status(416)],
}
TIMEOUTS = {"no answer once", "stuck half-way", "never answers"}
"""Faults detected only by a timeout."""


def limits_for(fault: str) -> DownloadLimits:
    return IMPATIENT if fault in TIMEOUTS else QUICK


@pytest.mark.parametrize("fault", TEMPORARY)
def test_fetch_succeeds_after_temporary_fault(tmp_path: Path, server: FaultServer, fault: str) -> None:
    server.add("/a", BODY, *TEMPORARY[fault])
    fetch(tmp_path, model(source(server.url("/a"))), limits=limits_for(fault))
    assert_fetched(tmp_path)


# --- permanent faults: an error without, the right file with a second mirror ----------------------------

PERMANENT = {
    "404": (faults.status(404), "HTTP 404"),
    "204": (faults.status(204), "HTTP 204"),
    "503 for ever": (faults.status(503), r"HTTP 503 .*tried 4 times"),
    "wrong checksum": (faults.other_bytes, "wrong checksum"),
    "short file": (faults.short, "has 100000 bytes instead of 200000"),
    "short file without length": (faults.short_unsized, "broke after 100000 of 200000"),
    "long file without length": (faults.long_unsized, "more than the expected 200000 bytes"),
    "content-length too small": (faults.says_length(-1000), "has 199000 bytes instead"),
    "html page": (faults.html, "bytes instead of 200000"),
    "html in disguise": (faults.disguised_html, "wrong checksum"),
    "empty": (faults.empty, "has 0 bytes"),
    "never answers": (faults.silent, "no connection"),
    "hangs up for ever": (faults.hang_up, "no connection"),
    "redirects to a file": (faults.redirect("file:///etc/passwd"), "the request failed"),
    "redirects to itself": (faults.redirect("/a"), "the request failed"),
}


@pytest.mark.parametrize("fault", PERMANENT)
def test_permanent_fault_needs_a_second_mirror(tmp_path: Path, server: FaultServer, fault: str) -> None:
    behaviour, message = PERMANENT[fault]
    route = server.add("/a", BODY, always=behaviour)
    limits = limits_for(fault)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(tmp_path, model(source(server.url("/a"))), limits=limits)
    assert f"{server.url('/a')}: " in str(caught.value)
    assert_not_fetched(tmp_path)
    if "wrong checksum" in message:
        assert_clean(tmp_path)
    requests = len(route.requests)
    server.add("/b", BODY)
    fetch(tmp_path, model(source(server.url("/a"), server.url("/b"))), limits=limits)
    assert len(route.requests) > requests
    assert_fetched(tmp_path)


def test_server_that_cannot_be_reached(tmp_path: Path, server: FaultServer) -> None:
    server.add("/b", BODY)
    with socket.socket() as bound:  # reserves a port without listening
        bound.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{bound.getsockname()[1]}/a"
        with pytest.raises(ModelError, match=r"Connection refused.*tried 4 times"):
            fetch(tmp_path, model(source(refused)))
        with pytest.raises(ModelError, match="no connection"):
            fetch(tmp_path, model(source("https://nowhere.invalid/a")))
        fetch(tmp_path, model(source(refused, server.url("/b"))))
    assert_fetched(tmp_path)


def test_each_source_has_its_own_hash(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", OTHER)
    server.add("/b", OTHER)
    first = source(server.url("/a"))
    with pytest.raises(ModelError, match="wrong checksum"):
        fetch(tmp_path, model(first, source(server.url("/gone"), body=OTHER)))
    assert_not_fetched(tmp_path)
    fetch(tmp_path, model(first, source(server.url("/b"), body=OTHER)))
    assert_fetched(tmp_path, OTHER)


def test_error_lists_every_mirror_and_other_files_are_fetched(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.status(404))
    server.add("/b", BODY, always=faults.html)
    server.add("/c", BODY)
    good, bad = source(server.url("/c")), source(server.url("/a"), server.url("/b"))
    with pytest.raises(ModelError, match=r"bad\.onnx") as caught:
        fetch(tmp_path, model(bad, name="bad"), model(good))
    assert f"{server.url('/a')}: HTTP 404" in str(caught.value)
    assert f"{server.url('/b')}: has " in str(caught.value)
    assert_fetched(tmp_path)


def test_token_is_sent_only_to_its_server(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = server.url("/store").replace("127.0.0.1", "localhost")
    routes = [
        server.add("/net", b"", always=faults.redirect("/moved")),
        server.add("/moved", b"", always=faults.redirect(elsewhere)),
        server.add("/store", BODY, faults.drop(HALF)),
        server.add("/stranger", OTHER),
    ]
    monkeypatch.setattr(download, "HUGGING_FACE", server.url("/net"))
    stranger = model(source(server.url("/stranger"), body=OTHER), name="other")
    fetch(tmp_path, model(source(server.url("/net"))), stranger, token="secret")
    assert_fetched(tmp_path)
    sent = [{request.get("Authorization") for request in route.requests} for route in routes]
    assert sent == [{"Bearer secret"}, {"Bearer secret"}, {None}, {None}]
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# --- resuming -------------------------------------------------------------------------------------------


def test_dropped_download_is_resumed(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/a", BODY, faults.drop(HALF))
    fetch(tmp_path, model(source(server.url("/a"))))
    assert (route.starts, route.sent) == ([0, HALF], len(BODY))


@pytest.fixture
def part(tmp_path: Path, server: FaultServer) -> Path:
    """The partial file of a failed fetch."""
    server.add("/a", BODY, faults.drop(HALF), always=faults.status(404))
    entry = model(source(server.url("/a")))
    with pytest.raises(ModelError):
        fetch(tmp_path, entry)
    assert inspect_model(tmp_path, entry).resumable == HALF
    return part_path(tmp_path / "net.onnx", sha256(BODY))


@pytest.mark.parametrize(
    ("content", "starts", "sent"),
    [
        (BODY[:HALF], [HALF], HALF),
        (bytes(HALF), [HALF, 0], HALF + len(BODY)),
        (BODY, [], 0),
        (BODY + b"more", [0], len(BODY)),
    ],
    ids=["the first half", "tampered", "complete", "too long"],
)
def test_next_fetch_resumes_the_partial_file(
    tmp_path: Path, server: FaultServer, part: Path, content: bytes, starts: list[int], sent: int
) -> None:
    part.write_bytes(content)
    route = server.add("/a", BODY)
    fetch(tmp_path, model(source(server.url("/a"))))
    assert (route.starts, route.sent) == (starts, sent)
    assert_fetched(tmp_path)


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize(("body", "start"), [(BODY, HALF), (OTHER, 0)], ids=["same bytes", "other bytes"])
def test_another_mirror_resumes_only_the_same_file(
    tmp_path: Path, server: FaultServer, body: bytes, start: int
) -> None:
    route = server.add("/b", body)
    fetch(tmp_path, model(source(server.url("/a")), source(server.url("/b"), body=body)))
    assert route.starts == [start]
    assert_fetched(tmp_path, body)


@pytest.mark.usefixtures("part")
def test_halves_of_different_files_are_not_joined(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", OTHER)
    with pytest.raises(ModelError, match="wrong checksum"):
        fetch(tmp_path, model(source(server.url("/a"))))
    assert_not_fetched(tmp_path)
    assert_clean(tmp_path)


@pytest.mark.usefixtures("part")
def test_download_restarts_without_range_support(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/a", BODY, ranges=False)
    fetch(tmp_path, model(source(server.url("/a"))))
    assert route.sent == len(BODY)
    assert_fetched(tmp_path)


@pytest.mark.usefixtures("part")
def test_repeated_416_is_an_error(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, *[faults.status(416), faults.drop(HALF)] * 10)
    with pytest.raises(ModelError, match=r"another byte range|broke"):
        fetch(tmp_path, model(source(server.url("/a"))))
    assert_not_fetched(tmp_path)
