"""With whose certificate results are signed: the user's own, or one made here that cannot show who signed."""

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
"""In the folder of ``machine.home``: the certificate made here, the one that vouches for it, and its key."""
LOCAL_SIGNER = "colab_helpers local signer"
_KEY = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True)
class Credentials:
    """A certificate and what signs in its name; the key is never printed."""

    chain: bytes  # PEM, the signer's own certificate first
    key: bytes = field(repr=False)
    algorithm: str  # its name in ``c2pa.C2paSigningAlg``
    name: str  # whose it is, as it says itself
    local: bool  # whether it was made here

    def signer(self) -> Signer:
        """Return what signs; a context manager."""
        from c2pa import C2paSignerInfo, C2paSigningAlg, Signer  # see ``manifests``

        # No time stamp server: a result never makes this machine talk to another.
        return Signer.from_info(C2paSignerInfo(C2paSigningAlg[self.algorithm], self.chain, self.key, None))


def load_credentials(path: str) -> Credentials:
    """Return those of a PEM file with a certificate chain and its key, or, for `LOCAL`, of this machine.

    Raises:
        MissingFileError, SettingsError: The file cannot be read, or holds something else.
        OutputError: There is no certificate of this machine yet, and none can be kept.
    """
    local = path == LOCAL
    return _read(home() / LOCAL_NAME if local else absolute(path), local=local)


def local_anchor() -> bytes:
    """Return the certificate that vouches for this machine's own, PEM; empty before there is one."""
    from colab_helpers.trust.certificates import last_certificate

    try:
        return last_certificate((home() / LOCAL_NAME).read_bytes())
    except (OSError, ValueError):
        return b""


def _make(path: Path) -> None:
    """Make this machine's certificate, if there is none yet."""
    from filelock import FileLock  # slow, as what makes certificates, and needed once

    from colab_helpers.trust.certificates import make_certificates

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                write_atomically(path, make_certificates(LOCAL_SIGNER), private=True)
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
        chain, begin, key = content.partition(_KEY)
        signer = chain.partition(b"CERTIFICATE-----")[2].partition(b"-----")[0]
        # As `make_certificates` writes it: what takes others apart is slow to load.
        if local and LOCAL_SIGNER.encode() in base64.b64decode(signer):
            return Credentials(chain, begin + key, "ES256", LOCAL_SIGNER, local)
        from colab_helpers.trust.certificates import read_certificates

        return Credentials(*read_certificates(content), local)
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            tr("this is no PEM file with certificates and the unencrypted key of the first of them"),
            where=str(path),
            remedy=tr(
                "join them in one file, your own certificate first, or set signing_certificate to local"
            ),
        ) from error
