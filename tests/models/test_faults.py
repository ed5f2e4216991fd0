"""Every way a server can fail ends with the right file or with a clear error, never with a bad file."""

from __future__ import annotations

import io
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from colab_helpers.errors import ModelError
from colab_helpers.models import transfer
from colab_helpers.models.inventory import bytes_missing, look_at
from colab_helpers.models.responses import MirrorError
from colab_helpers.models.transfer import Expected, FetchOptions, Limits, Transfer
from tests.helpers import server as faults
from tests.helpers.server import Behaviour, FaultServer
from tests.models.conftest import (
    BODY,
    IMPATIENT,
    QUICK,
    assert_clean,
    assert_nothing_in_place,
    assert_right,
    fetch,
    model,
    source,
)

HALF = len(BODY) // 2
OTHER = bytes(reversed(BODY))


# --- faults that pass: one address is enough -------------------------------------------------------------

PASSING = {
    "fine": [],
    "drops mid-file": [faults.drop(HALF)],
    "drops thrice": [faults.drop(50_000)] * 3,
    "drops after a few bytes": [faults.drop(10)] * 3,
    "drops often but gets on": [faults.drop(33_000)] * 5,
    "503 thrice": [faults.status(503)] * 3,
    "502, 504, 500": [faults.status(502), faults.status(504), faults.status(500)],
    "429": [faults.status(429)],
    "retry-after seconds": [faults.status(503, Retry_After="0")],
    "retry-after date": [faults.status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")],
    "retry-after nonsense": [faults.status(429, Retry_After="soon")],
    "hangs up": [faults.hang_up],
    "no answer once": [faults.silent],
    "stuck half-way": [faults.stuck],
    "too slow at first": [faults.paced(500, 0.02)],
    "chunked": [faults.chunked],
    "chunked breaks": [faults.broken_chunked],
    "answers with another range": [faults.drop(HALF), faults.wrong_range],
    "416 with a part": [faults.drop(HALF), faults.status(416)],
}


@pytest.mark.parametrize("fault", PASSING)
def test_passing_fault(tmp_path: Path, server: FaultServer, fault: str) -> None:
    server.add("/a", BODY, *PASSING[fault])
    fetch(tmp_path, model(source(server.url("/a"))), limits=limits_for(fault))
    assert_right(tmp_path)


WAITING = {"no answer once", "stuck half-way", "too slow at first", "never answers", "trickles"}
"""Faults of which only the clock tells."""


def limits_for(fault: str) -> Limits:
    return IMPATIENT if fault in WAITING else QUICK


# --- faults that stay: a clear error alone, the right file with a second mirror -----------------------------

LASTING = {
    "404": (faults.status(404), "HTTP 404"),
    "403": (faults.status(403), "HTTP 403"),
    "410": (faults.status(410), "HTTP 410"),
    "204": (faults.status(204), "HTTP 204"),
    "503 for ever": (faults.status(503), r"HTTP 503 .*tried 4 times"),
    "retry-after an hour": (faults.status(503, Retry_After="3600"), "asks to wait 3600 s"),
    "wrong bytes": (faults.other_bytes, "wrong bytes"),
    "short file": (faults.short, "has 100000 bytes instead of 200000"),
    "short file without length": (faults.short_unsized, "broke after 100000 of 200000"),
    "long file without length": (faults.long_unsized, "more than the 200000 bytes"),
    "content-length too small": (faults.says_length(-1000), "has 199000 bytes instead"),
    "content-length too large": (faults.says_length(1000), "has 201000 bytes instead"),
    "html page": (faults.html, "HTML page"),
    "html in disguise": (faults.disguised_html, "HTML page"),
    "gzip": (faults.gzipped, "Content-Encoding gzip"),
    "empty": (faults.empty, "has 0 bytes"),
    "never answers": (faults.silent, "no answer within"),
    "hangs up for ever": (faults.hang_up, "no connection"),
    "trickles": (faults.paced(300, 0.02), "too slow"),
    "redirects to http elsewhere": (faults.redirect("http://example.com/a"), "not https"),
    "redirects to ftp": (faults.redirect("ftp://example.com/a"), "not https"),
    "redirects to a file": (faults.redirect("file:///etc/passwd"), "not https"),
    "redirects to itself": (faults.redirect("/a"), "in a circle"),
}


@pytest.mark.parametrize("fault", LASTING)
def test_lasting_fault(tmp_path: Path, server: FaultServer, fault: str) -> None:
    """Alone it is an error that names the address; then the next mirror is asked."""
    behaviour, message = LASTING[fault]
    route = server.add("/a", BODY, always=behaviour)
    limits = limits_for(fault)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(tmp_path, model(source(server.url("/a"))), limits=limits)
    assert server.url("/a") in str(caught.value)
    assert_nothing_in_place(tmp_path)
    if fault == "wrong bytes":
        assert_clean(tmp_path)
    asked = len(route.requests)
    server.add("/b", BODY)
    fetch(tmp_path, model(source(server.url("/a"), server.url("/b"))), limits=limits)
    assert len(route.requests) > asked
    assert_right(tmp_path)


def test_each_source_has_its_own_hash(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", OTHER)
    server.add("/b", OTHER)
    first = source(server.url("/a"))
    with pytest.raises(ModelError, match="wrong bytes"):
        fetch(tmp_path, model(first, source(server.url("/gone"), body=OTHER)))
    assert_nothing_in_place(tmp_path)
    fetch(tmp_path, model(first, source(server.url("/b"), body=OTHER)))
    assert_right(tmp_path, OTHER)


# --- addresses ----------------------------------------------------------------------------------------------


def test_redirect(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", b"", always=faults.redirect("/b"))
    server.add("/b", b"", always=faults.redirect(server.url("/c")))
    server.add("/c", BODY, faults.drop(HALF))
    fetch(tmp_path, model(source(server.url("/a"))))
    assert_right(tmp_path)


@pytest.mark.parametrize(("length", "words"), [(2, "redirects in a circle"), (30, "redirects too often")])
def test_redirects_that_lead_nowhere(tmp_path: Path, server: FaultServer, length: int, words: str) -> None:
    for number in range(length):
        server.add(f"/{number}", b"", always=faults.redirect(f"/{(number + 1) % length}"))
    with pytest.raises(ModelError, match=words):
        fetch(tmp_path, model(source(server.url("/0"))))


def test_connection_refused(tmp_path: Path, server: FaultServer) -> None:
    server.add("/b", BODY)
    with socket.socket() as deaf:  # it has a port, and nobody else can get that, but does not listen
        deaf.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{deaf.getsockname()[1]}/a"
        with pytest.raises(ModelError, match=r"Connection refused.*tried 2 times"):
            fetch(tmp_path, model(source(nobody)))
        fetch(tmp_path, model(source(nobody, server.url("/b"))))
    assert_right(tmp_path)


@pytest.mark.parametrize(
    ("url", "proxy", "words"),
    [
        ("https://nowhere.invalid/a", None, "no connection"),
        ("https://example.com/net", "http://me:secret@127.0.0.1:9", "proxy failed"),
    ],
)
def test_nobody_there(tmp_path: Path, url: str, proxy: str | None, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        fetch(tmp_path, model(source(url)), proxy=proxy)
    assert "secret" not in str(caught.value)
    assert_nothing_in_place(tmp_path)


def test_secrets_in_addresses_are_not_shown(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.status(404))
    address = server.url("/a").replace("http://", "http://me:secret@") + "?token=secret"
    with pytest.raises(ModelError) as caught:
        fetch(tmp_path, model(source(address)))
    assert "secret" not in str(caught.value)


def test_error_lists_every_mirror_and_other_files_arrive(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.status(404))
    server.add("/b", BODY, always=faults.html)
    server.add("/c", BODY)
    good, bad = source(server.url("/c")), source(server.url("/a"), server.url("/b"))
    with pytest.raises(ModelError) as caught:
        fetch(tmp_path, model(bad, name="bad"), model(good))
    assert "bad.onnx" in str(caught.value)
    assert f"{server.url('/a')}: HTTP 404" in str(caught.value)
    assert f"{server.url('/b')}: gives an HTML page" in str(caught.value)
    assert_right(tmp_path)


@pytest.mark.parametrize(
    ("environment", "named"),
    [(False, True), (True, False), (True, True)],
    ids=["named", "environment", "both"],
)
def test_proxy(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch, environment: bool, named: bool
) -> None:
    """Of the environment unless one is named, which wins."""
    route = server.add("/net", BODY)
    if environment:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9" if named else server.base)
    far = model(source("http://localhost:9/net"))
    [fetched] = fetch(tmp_path, far, proxy=server.base if named else None)
    assert fetched.origin == "http://localhost:9/net"
    assert route.requests[0]["Host"] == "localhost:9"


def test_mirror_prefix_is_asked_first_and_then_the_address_itself(
    tmp_path: Path, server: FaultServer
) -> None:
    mirrored = server.add("/https://example.com/net", BODY)
    [fetched] = fetch(tmp_path, model(source("https://example.com/net")), mirror_prefix=server.url("/"))
    assert fetched.origin == server.url("/https://example.com/net")
    assert len(mirrored.requests) == 1
    server.add("/net", BODY)
    entry = model(source(server.url("/net")), name="other")
    [fetched] = fetch(tmp_path, entry, mirror_prefix=server.url("/mirror/"))
    assert fetched.origin == server.url("/net")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Each address that is asked, and the token it was shown; it redirects to ``/elsewhere`` there."""
    seen: list[tuple[str, str | None]] = []

    def get(url: str, *, headers: dict[str, str], **_: object) -> requests.Response:
        seen.append((url, headers.get("Authorization")))
        response = requests.Response()
        response.status_code = 302
        response.headers["Location"] = REDIRECTED.get(url, url)
        response.raw = io.BytesIO()
        return response

    monkeypatch.setattr(transfer.requests, "get", get)
    return seen


REDIRECTED = {
    "https://example.com/1": "http://example.com/net",
    "https://example.com/2": "http://127.0.0.1/net",
    "https://example.com/3": "//example.org/net",
}


def ask(url: str, tmp_path: Path, **options: Any) -> None:
    moving = Transfer(FetchOptions(**options), threading.Event())
    with pytest.raises(MirrorError, match=r"not https|circle"):
        moving.fetch(url, tmp_path / "part", Expected(("0" * 64,)), report=lambda done, total: None)


@pytest.mark.parametrize("url", REDIRECTED)
def test_https_never_becomes_http(tmp_path: Path, asked: list[tuple[str, str | None]], url: str) -> None:
    ask(url, tmp_path, mirror_prefix="http://mirror.example/")
    assert all(url.startswith("https://") for url, _ in asked)


def test_a_token_is_never_sent_in_the_clear(
    tmp_path: Path, asked: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "HUGGING_FACE", "example.com")
    for url in ("https://example.com/net", "http://example.com/net"):
        ask(url, tmp_path, mirror_prefix="http://example.com/", token="secret")
    assert asked == [("https://example.com/net", "Bearer secret"), ("http://example.com/net", None)]


def test_a_token_is_shown_to_its_server_alone(
    tmp_path: Path, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = server.url("/store").replace("127.0.0.1", "localhost")
    route = server.add("/net", b"", always=faults.redirect(elsewhere))
    store = server.add("/store", BODY)
    monkeypatch.setattr(transfer, "HUGGING_FACE", "127.0.0.1")
    fetch(tmp_path, model(source(server.url("/net"))), token="secret")
    assert [request.get("Authorization") for request in route.requests] == ["Bearer secret"]
    assert [request.get("Authorization") for request in store.requests] == [None]
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


# --- resuming -----------------------------------------------------------------------------------------------


def test_drop_is_resumed_and_not_started_over(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/a", BODY, faults.drop(HALF))
    fetch(tmp_path, model(source(server.url("/a"))))
    assert route.starts == [0, HALF]
    assert route.sent == len(BODY)


def interrupted(root: Path, server: FaultServer, *, size: int | None = -1) -> None:
    """Leave the first half of a file, as a fetch that failed does."""
    server.add("/a", BODY, faults.drop(HALF), always=faults.status(404))
    entry = model(source(server.url("/a"), size=size))
    with pytest.raises(ModelError):
        fetch(root, entry)
    assert look_at(root, entry).resumable == HALF


PART, MARK = ".net.onnx.part", ".net.onnx.part.sha256"
LEFT: dict[str, tuple[dict[str, bytes | None], int | None, list[int], int]] = {
    # What is changed of what was left, the size that is known, where requests start, and bytes sent.
    "the first half": ({}, -1, [HALF], HALF),
    "no mark": ({MARK: None}, -1, [0], len(BODY)),
    "an empty mark": ({MARK: b""}, -1, [0], len(BODY)),
    "another file's mark": ({MARK: b"0" * 64}, -1, [0], len(BODY)),
    "tampered": ({PART: bytes(HALF)}, -1, [HALF, 0], HALF + len(BODY)),
    "complete": ({PART: BODY}, -1, [], 0),
    "complete, size unknown": ({PART: BODY}, None, [len(BODY)], 0),
    "too long": ({PART: BODY + b"more"}, -1, [0], len(BODY)),
}


@pytest.mark.parametrize("left", LEFT)
def test_the_next_run_goes_on_with_what_was_left(tmp_path: Path, server: FaultServer, left: str) -> None:
    changes, size, starts, sent = LEFT[left]
    interrupted(tmp_path, server, size=size)
    for name, content in changes.items():
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_bytes(content)
    entry = model(source(server.url("/a"), size=size))
    if left == "the first half":
        assert bytes_missing([look_at(tmp_path, entry)]) == len(BODY) - HALF
    route = server.add("/a", BODY)
    fetch(tmp_path, entry)
    assert (route.starts, route.sent) == (starts, sent)
    assert_right(tmp_path)


@pytest.mark.parametrize(("body", "start"), [(BODY, HALF), (OTHER, 0)], ids=["same bytes", "other bytes"])
def test_another_mirror_resumes_the_same_bytes_only(
    tmp_path: Path, server: FaultServer, body: bytes, start: int
) -> None:
    interrupted(tmp_path, server)
    route = server.add("/b", body)
    fetch(tmp_path, model(source(server.url("/b"), body=body)))
    assert route.starts == [start]
    assert_right(tmp_path, body)


def test_file_changed_meanwhile(tmp_path: Path, server: FaultServer) -> None:
    """Halves of two files must never be joined."""
    interrupted(tmp_path, server)
    server.add("/a", OTHER)
    with pytest.raises(ModelError, match="wrong bytes"):
        fetch(tmp_path, model(source(server.url("/a"))))
    assert_nothing_in_place(tmp_path)
    assert_clean(tmp_path)


def test_without_range_support_it_starts_over(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server)
    route = server.add("/a", BODY, ranges=False)
    fetch(tmp_path, model(source(server.url("/a"))))
    assert route.sent == len(BODY)
    assert_right(tmp_path)


def test_repeated_416_ends(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server)
    server.add("/a", BODY, *[faults.status(416), faults.drop(HALF)] * 10)
    with pytest.raises(ModelError, match=r"416|broke"):
        fetch(tmp_path, model(source(server.url("/a"))))
    assert_nothing_in_place(tmp_path)


# --- sizes that are not known -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (faults.short_unsized, "wrong bytes"),
        (faults.html, "HTML page"),
        (faults.disguised_html, "HTML page"),
        (faults.empty, "empty file"),
        (faults.broken_chunked, "broke"),
        (faults.says_length(1000), "broke after 200000"),
        (faults.chunked, ""),
    ],
    ids=["no length", "html", "html in disguise", "empty", "chunked breaks", "claims more", "framed"],
)
def test_size_unknown_and_nothing_believed(
    tmp_path: Path, server: FaultServer, behaviour: Behaviour, message: str
) -> None:
    server.add("/a", BODY, always=behaviour)
    entry = model(source(server.url("/a"), size=None))
    if not message:
        fetch(tmp_path, entry)
        assert_right(tmp_path)
        return
    with pytest.raises(ModelError, match=message):
        fetch(tmp_path, entry)
    assert_nothing_in_place(tmp_path)
