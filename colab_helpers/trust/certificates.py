"""Signing certificates and their keys: made locally, or read from a user's PEM file."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ROOT_NAME, _ORGANIZATION = "colab_helpers local root", "colab_helpers, made locally: cannot show who signed"
# Without a time stamp server a mark can be verified only as long as its certificate is valid.
_VALID = datetime.timedelta(days=30 * 365)
_OTHER_USES = (
    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
    "encipher_only", "decipher_only",
)  # fmt: skip
_CURVES = {256: "ES256", 384: "ES384", 521: "ES512"}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def read_certificates(content: bytes) -> tuple[bytes, bytes, str, str]:
    """Parse a PEM file that holds, in any order, a certificate chain and the key of its first certificate.

    Return chain and key as PEM, the key's algorithm, and the common name of the first certificate. Raise
    ValueError, TypeError or KeyError if the file holds something else.
    """
    chain = x509.load_pem_x509_certificates(content)
    # The loader reads only the first block of a PEM file.
    begin = content.find(b"-----BEGIN", max(0, content.find(b"PRIVATE KEY-----") - 40))
    key = serialization.load_pem_private_key(content[begin:], None)
    if not isinstance(key, PrivateKey) or key.public_key() != chain[0].public_key():
        raise ValueError
    names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else chain[0].subject.rfc4514_string()
    return _pem(chain), _private(key), _algorithm(key), name


def last_certificate(content: bytes) -> bytes:
    """Return the last certificate of a PEM file as PEM; raise ValueError without one."""
    return _pem(x509.load_pem_x509_certificates(content)[-1:])


def _algorithm(key: PrivateKey) -> str:
    """Return the signing algorithm of a key (C2PA 2.2, 13.2); raise KeyError for an unsupported curve."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVES[key.curve.key_size]
    return "PS256" if isinstance(key, rsa.RSAPrivateKey) else "ED25519"


def make_certificates(name: str) -> bytes:
    """Make a signing certificate and its key, issued by a new root whose key is discarded; return all as PEM.

    C2PA does not accept self-signed certificates.
    """
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate(_ROOT_NAME, root_key, root_key, signs_others=True)
    leaf = _certificate(name, key, root_key, signs_others=False)
    return _pem([leaf, root]) + _private(key)


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: ec.EllipticCurvePrivateKey, *, signs_others: bool
) -> x509.Certificate:
    """Make a certificate as C2PA 2.2, 14.5.1 requires, issued by the root."""
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    unused = dict.fromkeys(_OTHER_USES, False)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    usage = x509.KeyUsage(digital_signature=not signs_others, key_cert_sign=signs_others, **unused)
    builder = (
        x509.CertificateBuilder(_name(_ROOT_NAME), _name(name), public, x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # tolerates clock differences
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=signs_others, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issuer_id, critical=False)
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
