"""Every way a server can fail ends with the right file or with a clear error, never with a bad file."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from colab_helpers.errors import ModelError
from colab_helpers.models.download import Downloader
from colab_helpers.models.transfer import Limits
from tests.helpers import server as faults
from tests.helpers.server import Behaviour, FaultServer
from tests.models.conftest import (
    BODY,
    IMPATIENT,
    QUICK,
    assert_clean,
    assert_nothing_in_place,
    assert_right,
    model,
    source,
)

HALF = len(BODY) // 2


def fetch(root: Path, *sources: object, limits: Limits = QUICK) -> object:
    return Downloader(root, limits=limits).fetch([model(*sources)])  # type: ignore[arg-type]


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
    fetch(tmp_path, source(server.url("/a")), limits=limits_for(fault))
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
    behaviour, message = LASTING[fault]
    server.add("/a", BODY, always=behaviour)
    with pytest.raises(ModelError, match=message) as caught:
        fetch(tmp_path, source(server.url("/a")), limits=limits_for(fault))
    assert server.url("/a") in str(caught.value)
    assert_nothing_in_place(tmp_path)


@pytest.mark.parametrize("fault", LASTING)
def test_next_mirror(tmp_path: Path, server: FaultServer, fault: str) -> None:
    server.add("/a", BODY, always=LASTING[fault][0])
    server.add("/b", BODY)
    fetch(tmp_path, source(server.url("/a"), server.url("/b")), limits=limits_for(fault))
    assert_right(tmp_path)


def test_next_source_has_its_own_hash(tmp_path: Path, server: FaultServer) -> None:
    other = bytes(reversed(BODY))
    server.add("/a", other)
    server.add("/b", other)
    first, second = source(server.url("/a")), source(server.url("/b"), body=other)
    fetch(tmp_path, first, second)
    assert_right(tmp_path, other)


def test_hash_of_another_source_is_not_accepted(tmp_path: Path, server: FaultServer) -> None:
    other = bytes(reversed(BODY))
    server.add("/a", other)
    with pytest.raises(ModelError, match="wrong bytes"):
        fetch(tmp_path, source(server.url("/a")), source(server.url("/gone"), body=other))
    assert_nothing_in_place(tmp_path)


# --- addresses ----------------------------------------------------------------------------------------------


def test_redirect(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", b"", always=faults.redirect("/b"))
    server.add("/b", b"", always=faults.redirect(server.url("/c")))
    server.add("/c", BODY, faults.drop(HALF))
    fetch(tmp_path, source(server.url("/a")))
    assert_right(tmp_path)


def test_redirect_loop(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", b"", always=faults.redirect("/b"))
    server.add("/b", b"", always=faults.redirect("/a"))
    with pytest.raises(ModelError, match="redirects in a circle"):
        fetch(tmp_path, source(server.url("/a")))


def test_endless_redirects(tmp_path: Path, server: FaultServer) -> None:
    for number in range(30):
        server.add(f"/{number}", b"", always=faults.redirect(f"/{number + 1}"))
    with pytest.raises(ModelError, match="redirects too often"):
        fetch(tmp_path, source(server.url("/0")))


def test_connection_refused(tmp_path: Path, server: FaultServer) -> None:
    server.add("/b", BODY)
    with socket.socket() as deaf:  # it has a port, and nobody else can get that, but does not listen
        deaf.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{deaf.getsockname()[1]}/a"
        with pytest.raises(ModelError, match=r"Connection refused.*tried 2 times"):
            fetch(tmp_path, source(nobody))
        fetch(tmp_path, source(nobody, server.url("/b")))
    assert_right(tmp_path)


def test_unknown_host(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no connection"):
        fetch(tmp_path, source("https://nowhere.invalid/a"))
    assert_nothing_in_place(tmp_path)


def test_secrets_in_addresses_are_not_shown(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.status(404))
    address = server.url("/a").replace("http://", "http://me:secret@") + "?token=secret"
    with pytest.raises(ModelError) as caught:
        fetch(tmp_path, source(address))
    assert "secret" not in str(caught.value)


def test_error_lists_every_mirror_and_other_files_arrive(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.status(404))
    server.add("/b", BODY, always=faults.html)
    server.add("/c", BODY)
    good, bad = source(server.url("/c")), source(server.url("/a"), server.url("/b"))
    with pytest.raises(ModelError) as caught:
        Downloader(tmp_path, limits=QUICK).fetch([model(bad, name="bad"), model(good)])
    assert "bad.onnx" in str(caught.value)
    assert f"{server.url('/a')}: HTTP 404" in str(caught.value)
    assert f"{server.url('/b')}: gives an HTML page" in str(caught.value)
    assert_right(tmp_path)


# --- resuming -----------------------------------------------------------------------------------------------


def test_drop_is_resumed_and_not_started_over(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/a", BODY, faults.drop(HALF))
    fetch(tmp_path, source(server.url("/a")))
    assert route.starts == [0, HALF]
    assert route.sent == len(BODY)


def interrupted(root: Path, server: FaultServer, path: str, **known: object) -> None:
    """Leave the first half of a file, as a fetch that failed does."""
    server.add(path, BODY, faults.drop(HALF), always=faults.status(404))
    with pytest.raises(ModelError):
        fetch(root, source(server.url(path), **known))  # type: ignore[arg-type]
    assert (root / ".net.onnx.part").stat().st_size == HALF


def test_second_run_resumes(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    assert Downloader(tmp_path).plan([model(source(server.url("/a")))]).bytes_missing == len(BODY) - HALF
    route = server.add("/a", BODY)
    fetch(tmp_path, source(server.url("/a")))
    assert route.starts == [HALF]
    assert_right(tmp_path)


def test_another_mirror_resumes_the_same_bytes(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    route = server.add("/b", BODY, etag='"other"')
    fetch(tmp_path, source(server.url("/b")))
    assert route.starts == [HALF]
    assert_right(tmp_path)


def test_another_source_starts_over(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    other = bytes(reversed(BODY))
    route = server.add("/b", other)
    fetch(tmp_path, source(server.url("/b"), body=other))
    assert route.starts == [0]
    assert_right(tmp_path, other)


@pytest.mark.parametrize("behaviour", [faults.normal, faults.ignores_if_range], ids=["honest", "careless"])
def test_file_changed_meanwhile(tmp_path: Path, server: FaultServer, behaviour: Behaviour) -> None:
    """Halves of two files must never be joined."""
    other = bytes(reversed(BODY))
    interrupted(tmp_path, server, "/a")
    server.add("/a", other, always=behaviour, etag='"two"')
    with pytest.raises(ModelError, match="wrong bytes"):
        fetch(tmp_path, source(server.url("/a")))
    assert_nothing_in_place(tmp_path)
    assert_clean(tmp_path)


def test_without_range_support_it_starts_over(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    route = server.add("/a", BODY, ranges=False)
    fetch(tmp_path, source(server.url("/a")))
    assert route.sent == len(BODY)
    assert_right(tmp_path)


@pytest.mark.parametrize("content", [None, "", "0" * 64])
def test_without_a_fitting_mark_it_starts_over(
    tmp_path: Path, server: FaultServer, content: str | None
) -> None:
    interrupted(tmp_path, server, "/a")
    mark = tmp_path / ".net.onnx.part.sha256"
    mark.unlink() if content is None else mark.write_text(content)
    route = server.add("/a", BODY)
    fetch(tmp_path, source(server.url("/a")))
    assert route.starts == [0]
    assert_right(tmp_path)


def test_tampered_part_is_noticed_and_fetched_anew(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    (tmp_path / ".net.onnx.part").write_bytes(bytes(HALF))
    route = server.add("/a", BODY)
    fetch(tmp_path, source(server.url("/a")))
    assert route.starts == [HALF, 0]
    assert_right(tmp_path)


def test_complete_part_needs_no_request(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    (tmp_path / ".net.onnx.part").write_bytes(BODY)
    route = server.add("/a", BODY)
    fetch(tmp_path, source(server.url("/a")))
    assert route.requests == []
    assert_right(tmp_path)


def test_complete_part_of_unknown_size_is_recognised(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a", size=None)
    (tmp_path / ".net.onnx.part").write_bytes(BODY)
    route = server.add("/a", BODY)
    fetch(tmp_path, source(server.url("/a"), size=None))
    assert route.starts == [len(BODY)]
    assert route.sent == 0
    assert_right(tmp_path)


def test_part_that_is_too_long_is_discarded(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    (tmp_path / ".net.onnx.part").write_bytes(BODY + b"more")
    route = server.add("/a", BODY)
    fetch(tmp_path, source(server.url("/a")))
    assert route.starts == [0]
    assert_right(tmp_path)


def test_repeated_416_ends(tmp_path: Path, server: FaultServer) -> None:
    interrupted(tmp_path, server, "/a")
    server.add("/a", BODY, *[faults.status(416), faults.drop(HALF)] * 10)
    with pytest.raises(ModelError, match=r"416|broke"):
        fetch(tmp_path, source(server.url("/a")))
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
    ],
    ids=["no length", "html", "html in disguise", "empty", "chunked breaks", "claims more"],
)
def test_size_unknown_and_nothing_believed(
    tmp_path: Path, server: FaultServer, behaviour: Behaviour, message: str
) -> None:
    server.add("/a", BODY, always=behaviour)
    with pytest.raises(ModelError, match=message):
        fetch(tmp_path, source(server.url("/a"), size=None))
    assert_nothing_in_place(tmp_path)


def test_size_unknown_but_framed(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.chunked)
    fetch(tmp_path, source(server.url("/a"), size=None))
    assert_right(tmp_path)


def test_nothing_is_left_after_wrong_bytes(tmp_path: Path, server: FaultServer) -> None:
    server.add("/a", BODY, always=faults.other_bytes)
    with pytest.raises(ModelError):
        fetch(tmp_path, source(server.url("/a")))
    assert_clean(tmp_path)
