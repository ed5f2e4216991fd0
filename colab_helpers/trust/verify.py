"""Reading back what files say of themselves: manifest, manifest beside them, plain metadata."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, Literal

from c2pa import C2paError, Context, Reader
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificates

from colab_helpers.errors import ColabHelpersError, MediaError, SettingsError
from colab_helpers.language import mark, one_line, printable, tr
from colab_helpers.media.demuxing import open_source
from colab_helpers.media.images import open_image
from colab_helpers.media.inputs import is_image, is_video, require_file
from colab_helpers.trust.manifests import MIME, SETTINGS, sidecar
from colab_helpers.trust.marking import DIGEST, DISCLOSURE, LABEL, NETWORKS
from colab_helpers.trust.signing import local_anchor

MarkState = Literal["valid", "unmarked", "invalid"]
STATES: dict[MarkState, str] = {
    "valid": mark("marked, and unchanged since it was signed"),
    "unmarked": mark("not marked"),
    "invalid": mark("the mark does not hold: file or mark were changed since"),
}
EXIT_CODES: dict[MarkState, int] = {"valid": 0, "unmarked": 1, "invalid": 2}
_SOURCE_TYPE = re.compile(r"digitalsourcetype/(\w+)")


@dataclass(frozen=True)
class Verification:
    """What one file says of itself."""

    path: Path
    state: MarkState  # whether it has a manifest, and whether that fits its bytes
    trusted: bool  # whether somebody who is known vouches for the signer
    # What it says, a sentence each; what anybody may have written into it stays on its line.
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(one_line(printable(line)) for line in self.lines))

    @property
    def text(self) -> str:
        """All of it, with the file's name."""
        return "\n  ".join([one_line(printable(f"{self.path.name}: {tr(STATES[self.state])}")), *self.lines])


def split_media(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return what of some paths may be marked, and what is passed over.

    Folders stand for what is in them where nothing but folders is named: ``results/*`` also names those that
    a batch keeps for itself.
    """
    if all(map(os.path.isdir, paths)):  # not Path.is_dir: it raises for names that no system takes
        paths = sorted(one for path in paths for one in path.glob("[!.]*"))
    kinds = [is_image(path) or is_video(path) or not os.path.lexists(path) for path in paths]
    return [*compress(paths, kinds)], [path for path, media in zip(paths, kinds, strict=True) if not media]


def verify(path: Path, *, anchors: bytes) -> Verification:
    """Read what a file says of itself; ``anchors`` vouch for signers, see `anchors_of`.

    MissingFileError, MediaError where there is no such file, or it cannot be read.
    """
    path = require_file(path)
    kind = _SOURCE_TYPE.search(_metadata(path))
    plain = tr("its metadata says: {kind}", kind=kind[1]) if kind else tr("its metadata says nothing of it")
    try:
        trust = {"trust": {"user_anchors": anchors.decode()}} if anchors else {}
        asked = {**SETTINGS, **trust, "verify": SETTINGS["verify"] | {"verify_trust": True}}
        store = _store(path, Context.from_dict(asked))
    except C2paError as error:
        if str(error).startswith("Remote"):  # the library has a class for it, but does not raise it
            elsewhere = tr("its manifest lies elsewhere, where nobody was asked ({reason})", reason=error)
            return Verification(path, "unmarked", False, (elsewhere, plain))
        return Verification(path, "invalid", False, (str(error), plain))
    if store is None:
        lost = tr("it has no manifest; sites and programs that store a file anew remove it")
        return Verification(path, "unmarked", False, (lost, plain))
    said = store["validation_state"]
    failed = [one.get("explanation") or one["code"] for one in _failures(store)]
    state: MarkState = "valid" if said in ("Valid", "Trusted") else "invalid"
    try:
        told = [*_describe_actions(store), _signer(store, trusted=said == "Trusted")]
    except (AttributeError, LookupError, TypeError):  # anybody may sign anything
        told = [tr("what its manifest says is not in a form that is read here")]
    lines = (*failed, *told, plain)
    return Verification(path, state, said == "Trusted", lines)


def load_anchors(path: Path | None) -> bytes:
    """Return the certificates of a PEM file that vouch for signers, and the one made on this machine.

    MissingFileError, SettingsError where the file cannot be read, or holds none.
    """
    if path is None:
        return local_anchor()
    content = require_file(path).read_bytes()
    try:
        given = load_pem_x509_certificates(content)
    except ValueError as error:
        raise SettingsError(
            tr("there is no certificate in this file"), where=str(path), remedy=tr("name a PEM file")
        ) from error
    return b"".join(one.public_bytes(Encoding.PEM) for one in given) + local_anchor()


def _store(path: Path, context: Context) -> dict[str, Any] | None:
    """Return what the library reads, in a file or beside it; None without a manifest.

    C2paError where it is damaged or lies elsewhere, MediaError where what lies beside cannot be read.
    """
    kind, beside = MIME.get(path.suffix.lower(), "application/octet-stream"), sidecar(path)
    try:
        manifest = beside.read_bytes() if beside and beside.is_file() else None
    except OSError as error:
        raise MediaError(
            tr("the file cannot be read ({reason})", reason=error.strerror or error),
            where=str(beside),
            remedy=tr("check the disk or the mount"),
        ) from error
    with path.open("rb") as content:
        try:
            with Reader(kind, content, manifest, context) as reader:
                store: dict[str, Any] = json.loads(reader.json())
        except (C2paError.ManifestNotFound, C2paError.NotSupported):
            return None
    return store


def _failures(store: dict[str, Any]) -> list[dict[str, str]]:
    found = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    return [one for one in found if one["code"] != "signingCredential.untrusted"]


def _describe_actions(store: dict[str, Any]) -> list[str]:
    """Say what was done, in the order in which it was."""
    manifest = store["manifests"][store["active_manifest"]]
    sources = manifest.get("ingredients", [])
    stated = [one for one in manifest.get("assertions", []) if one["label"].startswith("c2pa.actions")]
    actions = [action for one in stated for action in one["data"]["actions"]]
    return [_opened(one, sources) if one["action"] == "c2pa.opened" else _done(one) for one in actions]


def _opened(action: dict[str, Any], sources: list[dict[str, Any]]) -> str:
    given = action.get("parameters", {})
    names = {url["url"].rpartition("/")[2] for url in given.get("ingredients", [])}
    opened = [one for one in sources if one.get("label") in names]
    told = tr("made from {names}", names=", ".join(str(one.get("title")) for one in opened) or "?")
    told += f", SHA-256 {given[DIGEST]}" if DIGEST in given else ""
    marked = any("active_manifest" in one for one in opened)
    return told + (tr(", whose own manifest is kept within") if marked else "")


def _done(action: dict[str, Any]) -> str:
    agent = action.get("softwareAgent", {})
    if isinstance(agent, dict):  # it may have an icon, too
        agent = " ".join(str(agent[part]) for part in ("name", "version") if part in agent)
    what = action["action"].removeprefix("c2pa.")
    kind = _SOURCE_TYPE.search(action.get("digitalSourceType", ""))
    given = action.get("parameters", {})
    beside = [action.get("description"), kind and kind[1], ", ".join(given.get(NETWORKS, []))]
    beside += [tr("visible label: {text}", text=given[LABEL])] if LABEL in given else []
    beside += [tr("disclosed by: {text}", text=given[DISCLOSURE])] if DISCLOSURE in given else []
    return "; ".join([f"{what} ({agent})" if agent else what, *filter(None, beside)])


def _signer(store: dict[str, Any], *, trusted: bool) -> str:
    info = store["manifests"][store["active_manifest"]].get("signature_info", {})
    name = f"{info.get('common_name', '?')} ({info.get('issuer', '?')})"
    if trusted:
        return tr("signed by {name}, for whom a certificate that is known here vouches", name=name)
    return tr("signed by {name}, for whom no certificate that is known here vouches", name=name)


def _metadata(path: Path) -> str:
    """What is written beside the pixels, as a text; empty where nothing can be read."""
    with suppress(ColabHelpersError):
        if is_image(path):
            with open_image(path) as (image, _):
                return str(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or "")
        with open_source(path) as container:
            return " ".join(container.metadata.values())
    return ""
