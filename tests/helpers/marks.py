"""Marks in files, read by the library's own reader; and what a mark must leave alone."""

from __future__ import annotations

import datetime
import json
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

from colab_helpers.media.inputs import is_image

PEM = serialization.Encoding.PEM
NOW = datetime.datetime.now(datetime.UTC)


def media(path: Path) -> list[Any]:
    """Every packet of a video, or every picture's pixels: what a mark must not touch."""
    if not is_image(path) and path.suffix != ".gif":
        with av.open(str(path)) as container:
            return [(one.stream_index, one.pts, one.dts, bytes(one)) for one in container.demux() if one.size]
    with Image.open(path) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append((image.info.get("duration"), np.asarray(image.convert("RGBA")).tobytes()))
        return frames


def read_mark(path: Path, *, anchor: bytes = b"", beside: Path | None = None) -> tuple[str, dict[str, Any]]:
    """What the library says of a file, and the manifest; ``anchor`` vouches for signers."""
    trust = {"trust": {"user_anchors": anchor.decode()}} if anchor else {}
    context = Context.from_dict({**trust, "verify": {"verify_trust": True}})
    manifest = beside.read_bytes() if beside else None
    with path.open("rb") as file, Reader("application/octet-stream", file, manifest, context) as reader:
        return str(reader.get_validation_state()), json.loads(reader.json())


def actions(store: dict[str, Any]) -> list[dict[str, Any]]:
    """The actions of a file's own manifest."""
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
    """Write a user's certificate, the one that vouches for it, and its key to a file; return the second."""
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
    made = (
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
        made = made.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return made.sign(issuer, hashes.SHA256())
