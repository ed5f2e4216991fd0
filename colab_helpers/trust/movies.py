"""Movies of the MP4 family as they are signed: copied with room for a manifest, and hashed on the way.

The library that makes manifests reads and writes a file five times, some kilobytes a call; here it is once.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MANIFEST = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # C2PA 2.2, A.5.1
_LEADS_TO_PLACES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_PLACES = {b"stco": ">u4", b"co64": ">u8"}
_NOT_BOUND = (b"ftyp", b"mfra")
_CHUNK = 256 << 10  # stays in the cache of the processor that hashes it: megabytes take half as long again


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


def copy_with_room(
    source: BinaryIO, target: BinaryIO, room: int, beat: Callable[[], None]
) -> tuple[int, bytes]:
    """Copy a movie that is not in fragments, with so many bytes of room behind its first box.

    Returns:
        Where the room begins, and the hash of what is bound: of each box its place, and all of it.

    Raises:
        ValueError: It is no such movie.
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
            beat()
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
