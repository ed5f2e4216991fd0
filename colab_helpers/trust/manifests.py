"""How a manifest is made and signed, and how it comes into a file or beside it.

The library takes 30 MB of memory: it is loaded where it is used, when no frames are held any more.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colab_helpers.files import manifest_beside
from colab_helpers.language import printable
from colab_helpers.trust.movies import copy_with_room, manifest_box, movie_binding
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
    made_from: bytes = b""  # the target, as `archived`

    def signed(self, *bound: dict[str, Any]) -> bytes:
        """Return the manifest of a file that is hashed already: the library is shown none.

        Args:
            bound: What binds it to the file, one of ``movies``; without, it is bound to none.

        Raises:
            C2paError: It cannot be made.
        """
        definition = self.definition | {"assertions": [*self.definition["assertions"], *bound]}
        return self._signed(definition, _OTHER, io.BytesIO(b"\0"), io.BytesIO(), embed=False)

    def embed(self, path: Path, signed: Path, beat: Callable[[], None]) -> None:
        """Write a copy of a file that holds its manifest.

        Args:
            path: The file.
            signed: The copy.
            beat: Called with each piece of a movie; may raise to give up.

        Raises:
            OSError: A file cannot be read or written.
            C2paError, ValueError: The file is none that can hold one.
        """
        kind = MIME[path.suffix.lower()]
        with path.open("rb") as read, signed.open("w+b") as written:
            if not kind.startswith("video/"):
                self._signed(self.definition, kind, read, written)
                return
            # Signed twice: how much room it takes does not depend on the hash.
            room = len(manifest_box(self.signed(movie_binding(bytes(32)))))
            begin, digest = copy_with_room(read, written, room, beat)
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
            if self.made_from:
                builder.add_ingredient_from_archive(io.BytesIO(self.made_from))
            manifest: bytes = builder.sign(signer, kind, read, written)
            return manifest


def archived(target: Path, beside: Path | None) -> bytes:
    """Return what manifests say of a target, with what its own says; OSError where it cannot be read.

    Args:
        target: The file; its head is read, and all of it where it has a manifest.
        beside: Where its manifest lies, if not in it.
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
