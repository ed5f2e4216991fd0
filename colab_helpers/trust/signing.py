"""With whose certificate results are signed: the user's own, or one made here that cannot show who signed."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from c2pa import C2paSignerInfo, C2paSigningAlg, Signer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from colab_helpers.errors import MissingFileError, OutputError, SettingsError
from colab_helpers.files import absolute, publish
from colab_helpers.language import tr
from colab_helpers.machine import home

LOCAL = "local"
LOCAL_NAME = "signing.pem"
"""In the folder of ``machine.home``: the certificate made here, the one that vouches for it, and its key."""
_ORGANIZATION = "colab_helpers, made locally: cannot show who signed"
# No time stamp server is asked, so a mark can be checked only as long as its certificate is valid.
_VALID = datetime.timedelta(days=30 * 365)
_CURVES = {256: C2paSigningAlg.ES256, 384: C2paSigningAlg.ES384, 521: C2paSigningAlg.ES512}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Credentials:
    """A certificate and what signs in its name; the key is never printed.

    Attributes:
        chain: PEM, the signer's own certificate first.
        name: Whose it is, as it says itself.
        local: Whether it was made here.
    """

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: C2paSigningAlg
    name: str
    local: bool

    def signer(self) -> Signer:
        """Return what signs; a context manager."""
        # No time stamp server: a result never makes this machine talk to another.
        return Signer.from_info(C2paSignerInfo(self.algorithm, self.chain, self.key, None))


def credentials(path: str) -> Credentials:
    """Return those of a PEM file with a certificate chain and its key, or, for `LOCAL`, of this machine.

    Raises:
        MissingFileError, SettingsError: The file cannot be read, or holds something else.
        OutputError: There is no certificate of this machine yet, and none can be kept.
    """
    local = path == LOCAL
    return _read(home() / LOCAL_NAME if local else absolute(path), local=local)


def local_anchor() -> bytes:
    """Return the certificate that vouches for this machine's own, PEM; empty before there is one."""
    try:
        *_, anchor = x509.load_pem_x509_certificates((home() / LOCAL_NAME).read_bytes())
    except (OSError, ValueError):
        return b""
    return anchor.public_bytes(serialization.Encoding.PEM)


def _make(path: Path) -> None:
    """Make this machine's certificate, if there is none yet."""
    from filelock import FileLock  # slow, and needed once

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _write_private(path, _made_here())
    except OSError as error:
        raise OutputError(
            tr("the certificate made here cannot be kept ({reason})", reason=error.strerror or error),
            where=str(path),
            remedy=tr("name a folder that can be written to in the variable COLAB_HELPERS_HOME"),
        ) from error


@lru_cache(maxsize=4)  # a drive that is gone later must not keep results from being signed
def _read(path: Path, *, local: bool) -> Credentials:
    """Read a PEM file; what is wrong with it is never told with its content."""
    if local and not path.exists():
        _make(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingFileError(
            tr("the signing certificate cannot be read ({reason})", reason=error.strerror or error),
            where=str(path),
            remedy=tr("correct signing_certificate, or set it to local"),
        ) from error
    try:
        chain = x509.load_pem_x509_certificates(content)
        key = serialization.load_pem_private_key(_key_part(content), None)
        if not isinstance(key, PrivateKey) or key.public_key() != chain[0].public_key():
            raise ValueError
        algorithm = _algorithm(key)
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            tr("this is no PEM file with certificates and the unencrypted key of the first of them"),
            where=str(path),
            remedy=tr(
                "join them in one file, your own certificate first, or set signing_certificate to local"
            ),
        ) from error
    names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else chain[0].subject.rfc4514_string()
    return Credentials(_pem(chain), _private(key), algorithm, name, local)


def _key_part(content: bytes) -> bytes:
    """The part of a PEM file from its key on: what reads keys takes the first part for one."""
    begin = content.find(b"-----BEGIN", max(0, content.find(b"PRIVATE KEY-----") - 40))
    return content[begin:]


def _algorithm(key: PrivateKey) -> C2paSigningAlg:
    """The algorithm of a kind of key (C2PA 2.2, 13.2); KeyError for a curve that has none."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES[key.curve.key_size]
    return C2paSigningAlg.PS256 if isinstance(key, rsa.RSAPrivateKey) else C2paSigningAlg.ED25519


def _made_here() -> bytes:
    """A certificate for signing, and the one that vouches for it, whose key is forgotten.

    C2PA takes none that vouches for itself.
    """
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    anchor = _certificate("root", authority, authority, signs_others=True)
    leaf = _certificate("signer", own, authority, signs_others=False)
    return _pem([leaf, anchor]) + _private(own)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, *, signs_others: bool
) -> x509.Certificate:
    """A certificate as C2PA 2.2, 14.5.1 asks for, issued by ``root``."""
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    builder = (
        x509.CertificateBuilder(_name("root"), _name(name), public, x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=signs_others, path_length=None), critical=True)
        .add_extension(_usage(signs_others=signs_others), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    )
    if not signs_others:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _usage(*, signs_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_others,
        key_cert_sign=signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
        x509.NameAttribute(NameOID.COMMON_NAME, f"colab_helpers local {name}"),
    ])  # fmt: skip


def _pem(chain: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)


def _private(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read, all of it or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)
