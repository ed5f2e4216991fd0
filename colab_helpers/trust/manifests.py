"""Making and signing of C2PA manifests, embedded in a file or written beside it.

The c2pa library takes 30 MB of memory, so it is imported on use, when no frames are held any more. It reads
and writes a file five times, some kilobytes a call; movies are therefore copied and hashed here, once.
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
"""Media types, by suffix, of the files that can embed a manifest."""
_UNKNOWN_TYPE = "application/octet-stream"
_MANIFEST_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # C2PA 2.2, A.5.1
_OFFSET_TABLE_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_OFFSET_TABLES = {b"stco": ">u4", b"co64": ">u8"}
_UNHASHED = (b"ftyp", b"mfra")
_CHUNK_BYTES = 256 << 10  # fits into the CPU cache: hashing chunks of megabytes takes half as long again

SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    # No network access, whatever a file requests, and no reading back of what was just hashed.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
}


def sidecar(path: Path) -> Path | None:
    """Return the path of the manifest beside a file, or None if the format embeds it."""
    return None if path.suffix.lower() in MIME else manifest_beside(path)


@dataclass(frozen=True)
class Claim:
    """A manifest's content, ready to be signed."""

    definition: dict[str, Any]  # what `c2pa.Builder` takes
    credentials: Credentials
    ingredient: bytes = b""  # the target as from `ingredient_archive`

    def sign(self, *bindings: dict[str, Any]) -> bytes:
        """Return the manifest of a file hashed already, which the library does not read.

        ``bindings`` tie it to the file; see `file_binding` and `movie_binding`. Raise C2paError if it cannot
        be made.
        """
        definition = self.definition | {"assertions": [*self.definition["assertions"], *bindings]}
        return self._sign(definition, _UNKNOWN_TYPE, io.BytesIO(b"\0"), io.BytesIO(), embed=False)

    def embed(self, path: Path, signed: Path, heartbeat: Callable[[], None]) -> None:
        """Write a copy of a file with its manifest embedded.

        ``heartbeat`` is called with each chunk and may raise to stop. Raise OSError if a file cannot be read
        or written, C2paError or ValueError if the file cannot hold a manifest.
        """
        media_type = MIME[path.suffix.lower()]
        with path.open("rb") as original, signed.open("w+b") as copy:
            if not media_type.startswith("video/"):
                self._sign(self.definition, media_type, original, copy)
                return
            # Signed twice: the size of the manifest does not depend on the hash.
            gap = len(manifest_box(self.sign(movie_binding(bytes(32)))))
            offset, digest = copy_with_gap(original, copy, gap, heartbeat)
            box = manifest_box(self.sign(movie_binding(digest)))
            if len(box) != gap:
                raise ValueError(f"{len(box)} bytes of manifest, not {gap}")
            copy.seek(offset)
            copy.write(box)

    def _sign(
        self, definition: dict[str, Any], media_type: str, original: Any, copy: Any, *, embed: bool = True
    ) -> bytes:
        from c2pa import Builder

        with Builder(definition, context=context()) as builder, self.credentials.signer() as signer:
            if not embed:
                builder.set_no_embed()
            if self.ingredient:
                builder.add_ingredient_from_archive(io.BytesIO(self.ingredient))
            manifest: bytes = builder.sign(signer, media_type, original, copy)
            return manifest


def ingredient_archive(target: Path, manifest_path: Path | None) -> bytes:
    """Return a target as ingredient of a manifest, with its own manifest, embedded or at ``manifest_path``.

    Only the head of the target is read unless it has a manifest. Raise OSError if it cannot be read.
    """
    from c2pa import Builder, C2paError

    ingredient = {"title": printable(target.name), "relationship": "parentOf", "label": "target"}
    media_type, archive = MIME.get(target.suffix.lower(), _UNKNOWN_TYPE), io.BytesIO()
    with Builder({"assertions": []}, context=context()) as builder:
        try:
            fields = dict[str, Any]()
            if manifest_path and manifest_path.is_file():
                fields = _sidecar_fields(builder, target, media_type, manifest_path)
            with target.open("rb") as content:
                builder.add_ingredient(ingredient | fields, media_type, content)
        except C2paError:  # damaged, or not of the type that its suffix claims
            builder.add_ingredient(ingredient, _UNKNOWN_TYPE, io.BytesIO())
        builder.write_ingredient_archive("target", archive)
    return archive.getvalue()


def _sidecar_fields(builder: Builder, target: Path, media_type: str, manifest_path: Path) -> dict[str, Any]:
    """Add the manifest beside a target to the builder; return the ingredient's fields that refer to it."""
    from c2pa import Reader

    data = manifest_path.read_bytes()
    with target.open("rb") as content, Reader(media_type, content, data, context()) as reader:
        store = json.loads(reader.json())
    builder.add_resource(manifest_path.name, io.BytesIO(data))
    return {
        "manifest_data": {"format": "application/c2pa", "identifier": manifest_path.name},
        "active_manifest": store["active_manifest"],
        "validation_results": store["validation_results"],
    }


@lru_cache(maxsize=1)
def context() -> Context:
    """Return the library's context without trust anchors."""
    from c2pa import Context

    return Context.from_dict(SETTINGS)


# --- movies -------------------------------------------------------------------------------------------


class _Box(NamedTuple):
    """A box of ISO/IEC 14496-12, 4.2, by its type and the offsets of box, content and end."""

    kind: bytes
    start: int
    content: int
    stop: int


def manifest_box(manifest: bytes) -> bytes:
    """Return the box that holds a manifest in a movie (C2PA 2.2, A.5)."""
    content = b"uuid" + _MANIFEST_UUID + bytes(4) + b"manifest\0" + bytes(8) + manifest
    return struct.pack(">I", 4 + len(content)) + content


def file_binding(sha256: str) -> dict[str, Any]:
    """Return the assertion that binds a manifest to a whole file (C2PA 2.2, 18.5)."""
    data = {"alg": "sha256", "hash": list(bytes.fromhex(sha256)), "name": "jumbf manifest", "pad": []}
    return {"label": "c2pa.hash.data", "data": data}


def movie_binding(digest: bytes) -> dict[str, Any]:
    """Return the assertion that binds a manifest to a movie of this hash (C2PA 2.2, 18.6)."""
    own_box = {"xpath": "/uuid", "data": [{"offset": 8, "value": list(_MANIFEST_UUID)}]}
    exclusions = [own_box, *({"xpath": f"/{kind.decode()}"} for kind in _UNHASHED)]
    data = {"exclusions": exclusions, "alg": "sha256", "hash": list(digest), "name": "jumbf manifest"}
    return {"label": "c2pa.hash.bmff.v3", "data": data}


def copy_with_gap(
    original: BinaryIO, copy: BinaryIO, gap: int, heartbeat: Callable[[], None]
) -> tuple[int, bytes]:
    """Copy an unfragmented movie with a gap of some bytes behind its first box.

    Return the offset of the gap and the hash for `movie_binding`, over each box's offset and content. Raise
    ValueError for any other file.
    """
    boxes, digest = list(_boxes(original, 0, original.seek(0, os.SEEK_END))), hashlib.sha256()
    if not boxes or boxes[0].kind != b"ftyp" or any(box.kind == b"moof" for box in boxes):
        raise ValueError("the file does not start with an ftyp box, or is fragmented")
    for box in boxes:
        is_hashed, start = box.kind not in _UNHASHED, box.start + (gap if box.start else 0)
        if is_hashed:
            digest.update(struct.pack(">Q", start))
        copy.seek(start)
        for chunk in [_shift_offsets(original, box, gap)] if box.kind == b"moov" else _chunks(original, box):
            if is_hashed:
                digest.update(chunk)
            copy.write(chunk)
            heartbeat()
    return boxes[0].stop, digest.digest()


def _chunks(file: BinaryIO, box: _Box) -> Iterator[memoryview]:
    """Read a box in chunks, each of which is valid until the next is requested."""
    buffer, left = memoryview(bytearray(_CHUNK_BYTES)), box.stop - box.start
    file.seek(box.start)
    while left and (count := file.readinto(buffer[:left])):  # type: ignore[attr-defined]
        left -= count
        yield buffer[:count]


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[_Box]:
    """Yield the consecutive boxes in a range of a file; raise ValueError if they do not fill it."""
    while start < stop:
        file.seek(start)
        size, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
        content = 16 if size == 1 else 8
        size = {0: stop - start, 1: large}.get(size, size)
        if not content <= size <= stop - start:
            raise ValueError("the file has an invalid box size")
        yield _Box(kind, start, start + content, start + size)
        start += size


def _shift_offsets(file: BinaryIO, movie: _Box, gap: int) -> bytearray:
    """Return a movie box with its chunk offsets shifted by ``gap`` bytes."""
    file.seek(movie.start)
    data = bytearray(file.read(movie.stop - movie.start))
    for table in _offset_tables(file, movie):
        start = table.content + 8  # behind version, flags and count
        dtype: np.dtype[Any] = np.dtype(_OFFSET_TABLES[table.kind])
        offsets = np.frombuffer(data, dtype, (table.stop - start) // dtype.itemsize, start - movie.start)
        if offsets.size and int(offsets.max()) + gap >= 256**dtype.itemsize:
            raise ValueError("a chunk offset would overflow")
        offsets += gap
    return data


def _offset_tables(file: BinaryIO, box: _Box) -> Iterator[_Box]:
    """Yield the chunk offset tables within a box."""
    for inner in _boxes(file, box.content, box.stop):
        if inner.kind in _OFFSET_TABLES:
            yield inner
        elif inner.kind in _OFFSET_TABLE_PARENTS:
            yield from _offset_tables(file, inner)
