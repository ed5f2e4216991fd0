"""Certificates and their keys: made here, or read from what a user brings."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ROOT, _ORGANIZATION = "colab_helpers local root", "colab_helpers, made locally: cannot show who signed"
# No time stamp server is asked, so a mark can be checked only as long as its certificate is valid.
_VALID = datetime.timedelta(days=30 * 365)
_OTHER_USES = (
    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
    "encipher_only", "decipher_only",
)  # fmt: skip
_CURVES = {256: "ES256", 384: "ES384", 521: "ES512"}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def read_certificates(content: bytes) -> tuple[bytes, bytes, str, str]:
    """Take a PEM file apart: a certificate chain and the key of its first one, in any order.

    Returns chain and key, PEM, the key's algorithm, and whose the first certificate is. ValueError, TypeError
    or KeyError where the file holds something else.
    """
    chain = x509.load_pem_x509_certificates(content)
    key = serialization.load_pem_private_key(_key_part(content), None)
    if not isinstance(key, PrivateKey) or key.public_key() != chain[0].public_key():
        raise ValueError
    names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else chain[0].subject.rfc4514_string()
    return _pem(chain), _private(key), _algorithm(key), name


def last_certificate(content: bytes) -> bytes:
    """Return the last certificate of a PEM file, PEM; ValueError without one."""
    return _pem(x509.load_pem_x509_certificates(content)[-1:])


def _key_part(content: bytes) -> bytes:
    """The part of a PEM file from its key on: what reads keys takes the first part for one."""
    begin = content.find(b"-----BEGIN", max(0, content.find(b"PRIVATE KEY-----") - 40))
    return content[begin:]


def _algorithm(key: PrivateKey) -> str:
    """The algorithm of a kind of key (C2PA 2.2, 13.2); KeyError for a curve that has none."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES[key.curve.key_size]
    return "PS256" if isinstance(key, rsa.RSAPrivateKey) else "ED25519"


def make_certificates(name: str) -> bytes:
    """Make a certificate for signing, the one that vouches for it, whose key is forgotten, and its key, PEM.

    C2PA takes none that vouches for itself.
    """
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    anchor = _certificate(_ROOT, authority, authority, signs_others=True)
    leaf = _certificate(name, own, authority, signs_others=False)
    return _pem([leaf, anchor]) + _private(own)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, *, signs_others: bool
) -> x509.Certificate:
    """A certificate as C2PA 2.2, 14.5.1 asks for, issued by the root."""
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    none = dict.fromkeys(_OTHER_USES, False)
    usage = x509.KeyUsage(digital_signature=not signs_others, key_cert_sign=signs_others, **none)
    builder = (
        x509.CertificateBuilder(_name(_ROOT), _name(name), public, x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=signs_others, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
        )
    )
    if not signs_others:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _name(name: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ])  # fmt: skip


def _pem(chain: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)


def _private(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
