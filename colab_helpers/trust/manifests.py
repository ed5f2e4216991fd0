"""How a manifest is made and signed, and how it comes into a file or beside it.

The library takes 30 MB of memory: it is loaded where it is used, when no frames are held any more. It reads
and writes a file five times, some kilobytes a call: movies are copied and hashed here, once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from colab_helpers.files import manifest_beside
from colab_helpers.language import printable
from colab_helpers.trust.signing import Credentials

if TYPE_CHECKING:
    from c2pa import Builder, Context

MIME = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg", ".jpe": "image/jpeg", ".jfif": "image/jpeg", ".png": "image/png",
    ".apng": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".tif": "image/tiff",
    ".tiff": "image/tiff", ".avif": "image/avif", ".heic": "image/heic", ".heif": "image/heif",
}  # fmt: skip
"""Suffixes of files that hold a manifest, and the type of each."""
_OTHER = "application/octet-stream"
_MANIFEST = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # C2PA 2.2, A.5.1
_LEADS_TO_PLACES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_PLACES = {b"stco": ">u4", b"co64": ">u8"}
_NOT_BOUND = (b"ftyp", b"mfra")
_CHUNK = 256 << 10  # stays in the cache of the processor that hashes it: megabytes take half as long again

SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    # No network, whatever a file asks for; nor is read again what was hashed a moment ago.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
}


def sidecar(path: Path) -> Path | None:
    """Return where the manifest of a file lies: beside it, or None where the file holds it itself."""
    return None if path.suffix.lower() in MIME else manifest_beside(path)


@dataclass(frozen=True)
class Claim:
    """What is said of a result, ready to be signed."""

    definition: dict[str, Any]  # what `c2pa.Builder` takes
    by: Credentials  # whose certificate is used
    ingredient: bytes = b""  # the target, as `ingredient_archive`

    def signed(self, *bound: dict[str, Any]) -> bytes:
        """Return the manifest of a file that is hashed already: the library is shown none.

        What is ``bound`` ties it to the file; see `file_binding` and `movie_binding`. C2paError if it cannot
        be made.
        """
        definition = self.definition | {"assertions": [*self.definition["assertions"], *bound]}
        return self._signed(definition, _OTHER, io.BytesIO(b"\0"), io.BytesIO(), embed=False)

    def embed(self, path: Path, signed: Path, heartbeat: Callable[[], None]) -> None:
        """Write a copy of a file that holds its manifest; ``heartbeat``, called with each piece, may give up.

        OSError where a file cannot be read or written; C2paError, ValueError where it is none that can hold
        one.
        """
        kind = MIME[path.suffix.lower()]
        with path.open("rb") as read, signed.open("w+b") as written:
            if not kind.startswith("video/"):
                self._signed(self.definition, kind, read, written)
                return
            # Signed twice: how much room it takes does not depend on the hash.
            room = len(manifest_box(self.signed(movie_binding(bytes(32)))))
            begin, digest = copy_with_gap(read, written, room, heartbeat)
            box = manifest_box(self.signed(movie_binding(digest)))
            if len(box) != room:
                raise ValueError(f"{len(box)} bytes of manifest, not {room}")
            written.seek(begin)
            written.write(box)

    def _signed(
        self, definition: dict[str, Any], kind: str, read: Any, written: Any, *, embed: bool = True
    ) -> bytes:
        from c2pa import Builder

        with Builder(definition, context=context()) as builder, self.by.signer() as signer:
            if not embed:
                builder.set_no_embed()
            if self.ingredient:
                builder.add_ingredient_from_archive(io.BytesIO(self.ingredient))
            manifest: bytes = builder.sign(signer, kind, read, written)
            return manifest


def ingredient_archive(target: Path, beside: Path | None) -> bytes:
    """Return what manifests say of a target, with what its own says, in it or ``beside`` it.

    Its head is read, and all of it where it has a manifest; OSError where it cannot be.
    """
    from c2pa import Builder, C2paError

    named = {"title": printable(target.name), "relationship": "parentOf", "label": "target"}
    kind, archive = MIME.get(target.suffix.lower(), _OTHER), io.BytesIO()
    with Builder({"assertions": []}, context=context()) as builder:
        try:
            own = _said_beside(builder, target, kind, beside) if beside and beside.is_file() else {}
            with target.open("rb") as content:
                builder.add_ingredient(named | own, kind, content)
        except C2paError:
            builder.add_ingredient(named, _OTHER, io.BytesIO())  # not what its name says, or damaged
        builder.write_ingredient_archive("target", archive)
    return archive.getvalue()


def _said_beside(builder: Builder, target: Path, kind: str, beside: Path) -> dict[str, Any]:
    """Take a manifest beside a target into the builder; return how an ingredient names it."""
    from c2pa import Reader

    data = beside.read_bytes()
    with target.open("rb") as content, Reader(kind, content, data, context()) as reader:
        store = json.loads(reader.json())
    builder.add_resource(beside.name, io.BytesIO(data))
    return {
        "manifest_data": {"format": "application/c2pa", "identifier": beside.name},
        "active_manifest": store["active_manifest"],
        "validation_results": store["validation_results"],
    }


@lru_cache(maxsize=1)
def context() -> Context:
    """Return how manifests are made and read, unless somebody is to vouch for signers."""
    from c2pa import Context

    return Context.from_dict(SETTINGS)


# --- movies -------------------------------------------------------------------------------------------


class _Box(NamedTuple):
    """A box of ISO/IEC 14496-12, 4.2: where it begins, where its content does, and where it ends."""

    kind: bytes
    start: int
    content: int
    stop: int


def manifest_box(manifest: bytes) -> bytes:
    """Return the box that holds a manifest in a movie (C2PA 2.2, A.5)."""
    content = b"uuid" + _MANIFEST + bytes(4) + b"manifest\0" + bytes(8) + manifest
    return struct.pack(">I", 4 + len(content)) + content


def file_binding(sha256: str) -> dict[str, Any]:
    """Return the assertion that binds a manifest to a whole file (C2PA 2.2, 18.5)."""
    data = {"alg": "sha256", "hash": list(bytes.fromhex(sha256)), "name": "jumbf manifest", "pad": []}
    return {"label": "c2pa.hash.data", "data": data}


def movie_binding(digest: bytes) -> dict[str, Any]:
    """Return the assertion that binds a manifest to a movie of this hash (C2PA 2.2, 18.6)."""
    manifest = {"xpath": "/uuid", "data": [{"offset": 8, "value": list(_MANIFEST)}]}
    excluded = [manifest, *({"xpath": f"/{kind.decode()}"} for kind in _NOT_BOUND)]
    data = {"exclusions": excluded, "alg": "sha256", "hash": list(digest), "name": "jumbf manifest"}
    return {"label": "c2pa.hash.bmff.v3", "data": data}


def copy_with_gap(
    source: BinaryIO, target: BinaryIO, room: int, heartbeat: Callable[[], None]
) -> tuple[int, bytes]:
    """Copy a movie that is not in fragments, with so many bytes of room behind its first box.

    Return where the room begins, and the hash of what is bound: of each box its place, and all of it.
    ValueError where it is no such movie.
    """
    boxes, digest = list(_boxes(source, 0, source.seek(0, os.SEEK_END))), hashlib.sha256()
    if not boxes or boxes[0].kind != b"ftyp" or any(box.kind == b"moof" for box in boxes):
        raise ValueError("it does not say first which kind of movie it is, or is in fragments")
    for box in boxes:
        bound, begin = box.kind not in _NOT_BOUND, box.start + (room if box.start else 0)
        if bound:
            digest.update(struct.pack(">Q", begin))
        target.seek(begin)
        for piece in [_moved(source, box, room)] if box.kind == b"moov" else _pieces(source, box):
            if bound:
                digest.update(piece)
            target.write(piece)
            heartbeat()
    return boxes[0].stop, digest.digest()


def _pieces(file: BinaryIO, box: _Box) -> Iterator[memoryview]:
    """All of a box, in pieces that are good until the next one is asked for."""
    buffer, left = memoryview(bytearray(_CHUNK)), box.stop - box.start
    file.seek(box.start)
    while left and (count := file.readinto(buffer[:left])):  # type: ignore[attr-defined]
        left -= count
        yield buffer[:count]


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[_Box]:
    """The boxes in a part of a file, one after another; ValueError where they do not fill it."""
    while start < stop:
        file.seek(start)
        size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        content = 16 if size == 1 else 8
        size = {0: stop - start, 1: large}.get(size, size)
        if not content <= size <= stop - start:
            raise ValueError("its boxes do not fill it")
        yield _Box(kind, start, start + content, start + size)
        start += size


def _moved(file: BinaryIO, movie: _Box, room: int) -> bytearray:
    """What a movie says of itself, its places of samples so many bytes further on."""
    file.seek(movie.start)
    data = bytearray(file.read(movie.stop - movie.start))
    for table in _tables(file, movie):
        begin = table.content + 8  # behind version, flags and count
        kind: np.dtype[Any] = np.dtype(_PLACES[table.kind])
        places = np.frombuffer(data, kind, (table.stop - begin) // kind.itemsize, begin - movie.start)
        if places.size and int(places.max()) + room >= 256**kind.itemsize:
            raise ValueError("its places have too few digits")
        places += room
    return data


def _tables(file: BinaryIO, box: _Box) -> Iterator[_Box]:
    """The tables of places in a box."""
    for inner in _boxes(file, box.content, box.stop):
        if inner.kind in _PLACES:
            yield inner
        elif inner.kind in _LEADS_TO_PLACES:
            yield from _tables(file, inner)
