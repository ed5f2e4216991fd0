"""Credentials for signing results: the user's certificate, or a local one that cannot identify the signer."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.errors import MissingFileError, OutputError, SettingsError
from colab_helpers.files import absolute, write_atomically
from colab_helpers.language import tr
from colab_helpers.machine import home

if TYPE_CHECKING:
    from c2pa import Signer

LOCAL = "local"
LOCAL_NAME = "signing.pem"
"""File in the folder of ``machine.home``: the local certificate, its root, and its key."""
LOCAL_SIGNER = "colab_helpers local signer"
_KEY = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True)
class Credentials:
    """A certificate chain and its private key, which is never printed."""

    chain: bytes  # PEM, the signer's own certificate first
    key: bytes = field(repr=False)  # PEM
    algorithm: str  # its name in ``c2pa.C2paSigningAlg``
    name: str  # common name of the signer's certificate
    local: bool  # whether it is this machine's own

    def signer(self) -> Signer:
        """Return a signer, which is a context manager."""
        from c2pa import C2paSignerInfo, C2paSigningAlg, Signer  # see ``manifests``

        # No time stamp server: signing must not need the network.
        return Signer.from_info(C2paSignerInfo(C2paSigningAlg[self.algorithm], self.chain, self.key, None))


def load_credentials(path: str) -> Credentials:
    """Load credentials from a PEM file with a certificate chain and its key, or this machine's for `LOCAL`.

    Raises:
        MissingFileError: The file cannot be read.
        SettingsError: The file holds something else.
        OutputError: The local certificate, made on first use, cannot be written.
    """
    local = path == LOCAL
    return _read(home() / LOCAL_NAME if local else absolute(path), local=local)


def local_anchor() -> bytes:
    """Return the root of this machine's certificate as PEM; empty before there is one."""
    from colab_helpers.trust.certificates import last_certificate

    try:
        return last_certificate((home() / LOCAL_NAME).read_bytes())
    except (OSError, ValueError):
        return b""


def _make(path: Path) -> None:
    """Make this machine's certificate if there is none yet."""
    from filelock import FileLock  # slow to import, as is `certificates`, and needed once

    from colab_helpers.trust.certificates import make_certificates

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                write_atomically(path, make_certificates(LOCAL_SIGNER), private=True)
    except OSError as error:
        raise OutputError(
            tr("the local signing certificate cannot be written ({reason})", reason=error.strerror or error),
            where=str(path),
            remedy=tr("set the environment variable COLAB_HELPERS_HOME to a writable folder"),
        ) from error


@lru_cache(maxsize=4)  # results can still be signed after a drive is unmounted
def _read(path: Path, *, local: bool) -> Credentials:
    """Read a PEM file; errors never quote its content."""
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
        chain, header, key = content.partition(_KEY)
        signer = chain.partition(b"CERTIFICATE-----")[2].partition(b"-----")[0]
        # The layout of `make_certificates`: the general parser is slow to import.
        if local and LOCAL_SIGNER.encode() in base64.b64decode(signer):
            return Credentials(chain, header + key, "ES256", LOCAL_SIGNER, local)
        from colab_helpers.trust.certificates import read_certificates

        return Credentials(*read_certificates(content), local)
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            tr("not a PEM file with a certificate chain and the unencrypted key of its first certificate"),
            where=str(path),
            remedy=tr("join both in one file, your certificate first, or set signing_certificate to local"),
        ) from error
