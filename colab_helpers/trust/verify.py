"""Verification of a file's marks: its manifest, embedded or beside it, and its plain metadata."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    "invalid": mark("the mark is invalid: file or mark was changed after signing"),
}
EXIT_CODES: dict[MarkState, int] = {"valid": 0, "unmarked": 1, "invalid": 2}
_SOURCE_TYPE = re.compile(r"digitalsourcetype/(\w+)")
_UNTRUSTED = "signingCredential.untrusted"  # reported with the signer, not as a failure


@dataclass(frozen=True)
class Verification:
    """Result of verifying one file."""

    path: Path
    state: MarkState  # whether it has a manifest that matches its content
    trusted: bool  # whether a trust anchor vouches for the signer
    lines: tuple[str, ...]  # findings, each sanitized and on one line as files may contain any text

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", tuple(one_line(printable(line)) for line in self.lines))

    @property
    def text(self) -> str:
        """State and findings with the file's name, on several lines."""
        return "\n  ".join([one_line(printable(f"{self.path.name}: {tr(STATES[self.state])}")), *self.lines])


def split_media(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split paths into those that may be marked, or do not exist, and those to be skipped.

    If all paths are folders, they stand for the files in them; else folders are skipped, since ``results/*``
    includes those that a batch keeps for itself.
    """
    if all(map(os.path.isdir, paths)):  # not Path.is_dir, which raises for invalid names
        paths = sorted(one for path in paths for one in path.glob("[!.]*"))
    media, others = list[Path](), list[Path]()
    for path in paths:
        (media if is_image(path) or is_video(path) or not os.path.lexists(path) else others).append(path)
    return media, others


def verify(path: Path, *, anchors: bytes) -> Verification:
    """Verify a file's marks; ``anchors`` are trusted certificates as PEM, see `load_anchors`.

    Raise MissingFileError if there is no such file, MediaError if it or its manifest cannot be read.
    """
    path = require_file(path)
    kind = _SOURCE_TYPE.search(_metadata(path))
    metadata = tr("its metadata says nothing about how it was made")
    if kind:
        metadata = tr("its metadata says: {kind}", kind=kind[1])
    try:
        trust = {"trust": {"user_anchors": anchors.decode()}} if anchors else {}
        settings = {**SETTINGS, **trust, "verify": SETTINGS["verify"] | {"verify_trust": True}}
        store = _read_manifest_store(path, Context.from_dict(settings))
    except C2paError as error:
        if str(error).startswith("Remote"):  # the library does not raise its own class for this error
            remote = tr("its manifest is stored remotely and was not fetched ({reason})", reason=error)
            return Verification(path, "unmarked", False, (remote, metadata))
        return Verification(path, "invalid", False, (str(error), metadata))
    if store is None:
        missing = tr("it has no manifest; websites and programs that re-save a file remove it")
        return Verification(path, "unmarked", False, (missing, metadata))
    validation = store["validation_state"]
    errors = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    failures = [one.get("explanation") or one["code"] for one in errors if one["code"] != _UNTRUSTED]
    state: MarkState = "valid" if validation in ("Valid", "Trusted") else "invalid"
    try:
        lines = [*_describe_actions(store), _signer_text(store, trusted=validation == "Trusted")]
    except (AttributeError, LookupError, TypeError):  # a valid signature does not imply a known structure
        lines = [tr("its manifest has an unknown structure")]
    return Verification(path, state, validation == "Trusted", (*failures, *lines, metadata))


def load_anchors(path: Path | None) -> bytes:
    """Return the trusted certificates of a PEM file and this machine's root, as PEM.

    Raise MissingFileError if there is no such file, SettingsError if it holds no certificate.
    """
    if path is None:
        return local_anchor()
    content = require_file(path).read_bytes()
    try:
        certificates = load_pem_x509_certificates(content)
    except ValueError as error:
        raise SettingsError(
            tr("there is no certificate in this file"), where=str(path), remedy=tr("name a PEM file")
        ) from error
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates) + local_anchor()


def _read_manifest_store(path: Path, context: Context) -> dict[str, Any] | None:
    """Read the manifest store of a file, embedded or beside it; None without one.

    Raise C2paError if it is damaged or stored remotely, MediaError if the file beside cannot be read.
    """
    kind, sidecar_path = MIME.get(path.suffix.lower(), "application/octet-stream"), sidecar(path)
    try:
        manifest = sidecar_path.read_bytes() if sidecar_path and sidecar_path.is_file() else None
    except OSError as error:
        raise MediaError(
            tr("the file cannot be read ({reason})", reason=error.strerror or error),
            where=str(sidecar_path),
            remedy=tr("check the disk or the mount"),
        ) from error
    with path.open("rb") as content:
        try:
            with Reader(kind, content, manifest, context) as reader:
                store: dict[str, Any] = json.loads(reader.json())
        except (C2paError.ManifestNotFound, C2paError.NotSupported):
            return None
    return store


def _describe_actions(store: dict[str, Any]) -> list[str]:
    """Describe the actions of the active manifest in order."""
    manifest = store["manifests"][store["active_manifest"]]
    sources = manifest.get("ingredients", [])
    assertions = [one for one in manifest.get("assertions", []) if one["label"].startswith("c2pa.actions")]
    actions = [action for one in assertions for action in one["data"]["actions"]]
    return [_opened_text(a, sources) if a["action"] == "c2pa.opened" else _action_text(a) for a in actions]


def _opened_text(action: dict[str, Any], ingredients: list[dict[str, Any]]) -> str:
    parameters = action.get("parameters", {})
    names = {url["url"].rpartition("/")[2] for url in parameters.get("ingredients", [])}
    opened = [one for one in ingredients if one.get("label") in names]
    text = tr("made from {names}", names=", ".join(str(one.get("title")) for one in opened) or "?")
    text += f", SHA-256 {parameters[DIGEST]}" if DIGEST in parameters else ""
    marked = any("active_manifest" in one for one in opened)
    return text + (tr(", whose own manifest is included") if marked else "")


def _action_text(action: dict[str, Any]) -> str:
    agent = action.get("softwareAgent", {})
    if isinstance(agent, dict):  # which may also hold an icon
        agent = " ".join(str(agent[part]) for part in ("name", "version") if part in agent)
    name = action["action"].removeprefix("c2pa.")
    kind = _SOURCE_TYPE.search(action.get("digitalSourceType", ""))
    parameters = action.get("parameters", {})
    details = [action.get("description"), kind and kind[1], ", ".join(parameters.get(NETWORKS, []))]
    details += [tr("visible label: {text}", text=parameters[LABEL])] if LABEL in parameters else []
    details += [tr("disclosed by: {text}", text=parameters[DISCLOSURE])] if DISCLOSURE in parameters else []
    return "; ".join([f"{name} ({agent})" if agent else name, *filter(None, details)])


def _signer_text(store: dict[str, Any], *, trusted: bool) -> str:
    info = store["manifests"][store["active_manifest"]].get("signature_info", {})
    name = f"{info.get('common_name', '?')} ({info.get('issuer', '?')})"
    if trusted:
        return tr("signed by {name}, vouched for by a trusted certificate", name=name)
    return tr("signed by {name}, not vouched for by any trusted certificate", name=name)


def _metadata(path: Path) -> str:
    """Return the XMP of an image, or the tags of a video, as text; empty if they cannot be read."""
    with suppress(ColabHelpersError):
        if is_image(path):
            with open_image(path) as (image, _):
                return str(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or "")
        with open_source(path) as container:
            return " ".join(container.metadata.values())
    return ""
