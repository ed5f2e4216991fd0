"""Files that come out of a zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from colab_helpers.errors import ModelError
from colab_helpers.models.catalog import Archive, Source
from tests.helpers import server as faults
from tests.helpers.server import FaultServer
from tests.models.conftest import BODY, assert_nothing_in_place, assert_right, fetch, model, sha256, source


def zipped(members: Mapping[str, bytes], *, pack: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", pack) as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return buffer.getvalue()


def in_zip(url: str, body: bytes, *, member: str = "net.onnx", content: bytes = BODY) -> Source:
    archive = Archive(member=member, sha256=sha256(body), bytes=len(body))
    return source(url, body=content, archive=archive)


@pytest.mark.parametrize("name", ["net.onnx", "antelopev2/net.onnx", "a/b/net.onnx"])
def test_member(tmp_path: Path, server: FaultServer, name: str) -> None:
    body = zipped({"other.onnx": b"other", name: BODY, "x_net.onnx": b"x"}, pack=zipfile.ZIP_DEFLATED)
    server.add("/pack.zip", body, faults.drop(1000))
    [fetched] = fetch(tmp_path, model(in_zip(server.url("/pack.zip"), body)))
    assert fetched.origin == server.url("/pack.zip")
    assert_right(tmp_path)


def test_one_zip_serves_several_models_and_is_fetched_once(tmp_path: Path, server: FaultServer) -> None:
    bodies = {name: BODY + name.encode() for name in "abcd"}
    body = zipped({f"{name}.onnx": content for name, content in bodies.items()})
    route = server.add("/pack.zip", body, always=faults.paced(100_000, 0.02))
    sources = {
        name: in_zip(server.url("/pack.zip"), body, member=f"{name}.onnx", content=content)
        for name, content in bodies.items()
    }
    fetch(tmp_path, *(model(where, name=name) for name, where in sources.items()))
    assert route.sent == len(body)
    for name, content in bodies.items():
        assert_right(tmp_path, content, name)


def damaged() -> bytes:
    body = bytearray(zipped({"net.onnx": BODY}))
    body[1000] ^= 0xFF  # inside the stored member, so its CRC no longer fits
    return bytes(body)


BAD = {
    "missing": (zipped({"other.onnx": BODY}), "0 times instead of once"),
    "twice": (zipped({"a/net.onnx": BODY, "b/net.onnx": BODY}), "2 times instead of once"),
    "damaged": (damaged(), "zip is damaged"),
    "not a zip": (BODY, "zip is damaged"),
    "cut off": (zipped({"net.onnx": BODY})[:-500], "zip is damaged"),
    "larger than expected": (zipped({"net.onnx": BODY + b"more"}), "200004 bytes instead of 200000"),
    "other bytes": (zipped({"net.onnx": bytes(reversed(BODY))}), "wrong bytes"),
}


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_bad_zip(tmp_path: Path, server: FaultServer, body: bytes, message: str) -> None:
    root, where = tmp_path / "root", in_zip(server.url("/pack.zip"), body)
    server.add("/pack.zip", body)
    server.add("/net", BODY)
    with pytest.raises(ModelError, match=message):
        fetch(root, model(where))
    assert_nothing_in_place(root)
    fetch(root, model(where, source(server.url("/net"))))
    assert_right(root)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_wrong_zip_is_refused_by_its_hash_and_serves_nothing(tmp_path: Path, server: FaultServer) -> None:
    body = zipped({"net.onnx": BODY})
    where = in_zip(server.url("/pack.zip"), body)
    server.add("/pack.zip", body, faults.other_bytes)
    with pytest.raises(ModelError, match="wrong bytes"):
        fetch(tmp_path, model(where))
    assert_nothing_in_place(tmp_path)
    fetch(tmp_path, model(source(server.url("/gone")), where))  # as the fallback of a single file
    assert_right(tmp_path)
