"""Fetching one address into one growing file, over a network that breaks.

``requests`` carries the connections. Retrying is done here and not by urllib3's ``Retry``, because that one
ends with the headers: what breaks half a gigabyte is the body, and a retry has to resume it. What an
interrupted fetch left is resumed from any address that promises the same bytes; if the whole turns out wrong,
it is fetched once more from the beginning.
"""

from __future__ import annotations

import http.client
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests
import urllib3
from requests import exceptions as failures

from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import ModelEntry, Source
from colab_helpers.models.inventory import file_size

HUGGING_FACE = "https://huggingface.co/"
_BLOCK = 1 << 18
_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)


class MirrorError(Exception):
    """An address that did not give the file; the text says why, and the next one may be tried."""


class TemporaryError(Exception):
    """Something that may go well the next time."""


@dataclass(frozen=True)
class DownloadLimits:
    """How long to wait and how often to try; seconds and bytes."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # longest silence
    attempts: int = 4  # tries of one address without progress before the next is taken
    # First pause; it doubles each time, and is drawn between half and all of that, so that many machines do
    # not come back in step.
    backoff: float = 1.0
    progress: int = 1 << 20  # bytes gained that make the count of tries start over


@dataclass(frozen=True)
class FetchOptions:
    """How files may be brought."""

    accept_licences: bool = False  # the user accepts those that limit use; recorded beside each file
    offline: bool = False  # never touch the network; copies from disk are still made
    token: str | None = None  # of Hugging Face, where strangers may be kept waiting
    shared_cache: Path | None = None  # a folder that outlives this machine: copied from, and to
    limits: DownloadLimits = field(default_factory=DownloadLimits)

    def cache_path(self, model: ModelEntry) -> Path | None:
        """Where a model lies in the shared cache."""
        return self.shared_cache / model.path if self.shared_cache else None


def download(
    url: str, part: Path, source: Source, options: FetchOptions, arrived: Callable[[int], None]
) -> str:
    """Fetch an address into a growing file, resuming what an earlier try left; return the SHA-256.

    The file is complete and verified when this returns. It is kept for resuming when the connection failed,
    and removed when its bytes were wrong. ``arrived`` is told how many bytes are there.

    Raises:
        MirrorError: The address does not give the file.
        OSError: The disk does not take it.
    """
    limits, failed, furthest = options.limits, 0, 0
    while True:
        start = file_size(part)
        try:
            if start < source.bytes:
                _continue(url, part, source.bytes, options, arrived)
            return _verified(part, source, resumed=start > 0)
        except TemporaryError as problem:
            there = file_size(part)
            # Only going further than ever before counts, or starting over and over would never end.
            advanced = there >= furthest + limits.progress
            failed, furthest = (1, there) if advanced else (failed + 1, furthest)
            if failed >= limits.attempts:
                text = tr("{problem} (tried {failures} times)", problem=problem, failures=failed)
                raise MirrorError(text) from problem
        time.sleep(limits.backoff * 2 ** (failed - 1) * random.uniform(0.5, 1))


def _continue(url: str, part: Path, size: int, options: FetchOptions, arrived: Callable[[int], None]) -> None:
    """Append what is still missing, or all where the server knows no ranges."""
    there = file_size(part)
    try:
        with _ask(url, there, options) as response:
            there = _begins_at(response, part, there, size)
            # Unbuffered: what was received survives the death of the process.
            with part.open("ab" if there else "wb", buffering=0) as file:
                # read1 hands over what is there; read would wait for a whole block on a slow line.
                while block := response.raw.read1(_BLOCK, decode_content=False):
                    file.write(block)
                    there += len(block)
                    if there > size:
                        raise MirrorError(tr("gives more than the {total} bytes it should", total=size))
                    arrived(there)
    except (failures.ConnectionError, failures.ReadTimeout) as error:
        raise TemporaryError(tr("no connection ({reason})", reason=_innermost(error))) from error
    except (failures.RequestException, ValueError) as error:
        raise MirrorError(tr("cannot be asked ({reason})", reason=_innermost(error))) from error
    except (urllib3.exceptions.HTTPError, http.client.HTTPException):
        pass  # it broke, as where it ends too soon
    if there < size:
        text = mark("the connection broke after {there} of {total} bytes")
        raise TemporaryError(tr(text, there=there, total=size))


def _ask(url: str, start: int, options: FetchOptions) -> requests.Response:
    # A compressed body could neither be resumed nor compared with the size.
    headers = {"Accept-Encoding": "identity", "User-Agent": "colab-helpers"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if options.token and url.startswith(HUGGING_FACE):  # requests drops it where another host is named
        headers["Authorization"] = f"Bearer {options.token}"
    waits = (options.limits.connect_timeout, options.limits.read_timeout)
    return requests.get(url, headers=headers, timeout=waits, stream=True)


def _begins_at(response: requests.Response, part: Path, start: int, size: int) -> int:
    """Where the body of an answer begins, which was asked to begin at ``start``.

    Raises:
        Temporary: Asking again may help.
        MirrorError: Another answer than one with the file.
    """
    code, headers = response.status_code, response.headers
    if code not in (200, 206, 416):
        reason = tr("HTTP {code} ({reason})", code=code, reason=response.reason)
        raise TemporaryError(reason) if code in _WORTH_RETRYING else MirrorError(reason)
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if code != 200 and (ranged is None or int(ranged[1]) != start):
        part.unlink(missing_ok=True)  # it has less than what had arrived, or answers something else
        raise TemporaryError(tr("answers with another range"))
    told = ranged[2] if code == 206 and ranged is not None else headers.get("Content-Length", "")
    # Refused before half a gigabyte is spent on what cannot be right.
    if told.isdigit() and int(told) != size:
        raise MirrorError(tr("has {size} bytes instead of {expected}", size=told, expected=size))
    return start if code == 206 else 0


def _verified(part: Path, source: Source, *, resumed: bool) -> str:
    sha256 = sha256_of(part)
    if source.gives(part, sha256):
        return sha256
    part.unlink()
    text = mark("gives wrong bytes (sha256 {sha256}, expected {expected})")
    problem = tr(text, sha256=sha256, expected=tr(" or ").join(source.sha256) or f"crc32 {source.crc32}")
    # The fault may lie in what was there before this try: start over once before blaming the address.
    raise TemporaryError(problem) if resumed else MirrorError(problem)


def _innermost(error: BaseException) -> str:
    """The cause at the bottom, without the address that requests puts around it."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return str(getattr(error, "strerror", None) or type(error).__name__)
