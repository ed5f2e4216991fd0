"""Marks in files, read with the C2PA library, and the media data that marking must not change."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from c2pa import Context, Reader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from colab_helpers.files import copy_atomically
from colab_helpers.media.inputs import is_image
from colab_helpers.trust.marking import Marks
from colab_helpers.trust.signing import LOCAL, load_credentials
from tests.media.make import Sound, Spec, make

PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)


def media(path: Path) -> list[Any]:
    """Every packet of a video, or the pixels of every picture."""
    if not is_image(path) and path.suffix != ".gif":
        with av.open(str(path)) as container:
            return [(one.stream_index, one.pts, one.dts, bytes(one)) for one in container.demux() if one.size]
    with Image.open(path) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append((image.info.get("duration"), np.asarray(image.convert("RGBA")).tobytes()))
        return frames


def made(path: Path) -> Path:
    """Write a small file of the type named by its suffix."""
    if path.suffix == ".webm":
        return make(path, Spec(frames=4, codec="libvpx-vp9", sounds=(Sound("libopus"),)))
    if path.suffix == ".avi":
        return make(path, Spec(frames=4, codec="mpeg4", sounds=(Sound("mp3"),)))
    if path.suffix in (".mp4", ".mov", ".mkv"):
        return make(path, Spec(frames=10, sounds=(Sound(),), metadata={"comment": "shot in Lima"}))
    pictures = [Image.fromarray(np.full((40, 64, 3), level, np.uint8)) for level in (30, 90, 200)]
    moving = {"save_all": True, "append_images": pictures[1:]} if path.suffix in (".gif", ".apng") else {}
    pictures[0].save(path, **moving)
    return path


def marks(target: Path, **options: Any) -> Marks:
    defaults = {"signed_by": load_credentials(LOCAL), "networks": {"swap": ["one"], "enhance": ["two"]}}
    return Marks(target=target, **(defaults | options))


def published(
    target: Path, output: Path, *, actions: Sequence[str] = ("swap", "enhance"), by: Marks | None = None
) -> Path:
    """Copy the target, marked and published like a result."""
    by = by or marks(target)
    with target.open("rb") as content:
        copy_atomically(output, content, lambda partial: by.seal(partial, output, actions))
    return output


class KilledError(BaseException):
    """Simulates a kill."""


class FaultInjector:
    """Raises ``KilledError`` at the n-th call that changes files and at each later one."""

    def __init__(self) -> None:
        self._left = 0
        sys.addaudithook(self._count)

    def _count(self, event: str, _: object) -> None:
        if self._left and event in {"open", "os.rename", "os.remove", "os.mkdir"}:
            self._left = max(1, self._left - 1)
            if self._left == 1:
                raise KilledError

    @contextmanager
    def before(self, step: int) -> Iterator[None]:
        """Fail in the block at a step, counted from 1."""
        self._left = step + 1
        try:
            yield
        finally:
            self._left = 0


def read_mark(path: Path, *, anchor: bytes = b"", beside: Path | None = None) -> tuple[str, dict[str, Any]]:
    """Validation state and manifest store of a file; ``anchor`` is a trusted root certificate."""
    trust = {"trust": {"user_anchors": anchor.decode()}} if anchor else {}
    context = Context.from_dict({**trust, "verify": {"verify_trust": True}})
    manifest = beside.read_bytes() if beside else None
    with path.open("rb") as file, Reader("application/octet-stream", file, manifest, context) as reader:
        return str(reader.get_validation_state()), json.loads(reader.json())


def actions(store: dict[str, Any]) -> list[dict[str, Any]]:
    """The actions of the active manifest."""
    found = store["manifests"][store["active_manifest"]]["assertions"]
    return [action for one in found if "actions" in one["label"] for action in one["data"]["actions"]]


def certificate(
    path: Path,
    *,
    key: Any = None,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    days: int = 30,
    name: str = "Ana Ruiz",
) -> bytes:
    """Write a user's certificate, its root certificate and key to a file; returns the root."""
    root, own = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP384R1())
    anchor = _issued("Root", root.public_key(), root, days=3650, purpose=None)
    leaf = _issued(name, own.public_key(), root, days=days, purpose=purpose)
    secret = own.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(leaf.public_bytes(PEM) + anchor.public_bytes(PEM) + secret)
    return anchor.public_bytes(PEM)


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _issued(name: str, public: Any, issuer: Any, *, days: int, purpose: Any) -> x509.Certificate:
    named = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
                x509.NameAttribute(NameOID.COMMON_NAME, one),
            ]
        )
        for one in ("Root", name)
    ]
    ends = NOW + datetime.timedelta(days=days)
    usage = x509.KeyUsage(purpose is not None, *[False] * 4, purpose is None, *[False] * 3)
    builder = (
        x509.CertificateBuilder(*named, public, x509.random_serial_number())
        .not_valid_before(min(NOW, ends) - datetime.timedelta(days=1))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=purpose is None, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer, hashes.SHA256())
