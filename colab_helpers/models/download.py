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
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from requests import exceptions as failures

from colab_helpers.errors import OutputError, telling
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import ModelEntry, Source
from colab_helpers.models.records import size_of

HUGGING_FACE = "https://huggingface.co/"
UNWRITABLE = mark("cannot be written ({reason})")
_BLOCK = 1 << 18
_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)


class Cancelled(Exception):  # noqa: N818 - not an error
    """The whole fetch was stopped; what arrived is kept."""


class MirrorError(Exception):
    """An address that did not give the file; the text says why, and the next one may be tried."""


class Temporary(Exception):  # noqa: N818
    """Something that may go well the next time."""


@dataclass(frozen=True)
class Limits:
    """How long to wait and how often to try; seconds, bytes and bytes per second."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # longest silence in the middle of a body
    attempts: int = 4  # tries of one address without progress before the next is taken
    # First pause; it doubles each time, and is drawn between half and all of that, so that many machines do
    # not come back in step.
    backoff: float = 1.0
    progress: int = 1 << 20  # bytes gained that make the count of tries start over
    min_rate: float = 1024.0  # least rate over ``stall_seconds``; slower counts as broken
    stall_seconds: float = 60.0


@dataclass(frozen=True)
class FetchOptions:
    """How files may be brought."""

    accept_licences: bool = False  # the user accepts those that limit use; recorded beside each file
    offline: bool = False  # never touch the network; copies from disk are still made
    token: str | None = None  # of Hugging Face, where strangers may be kept waiting
    shared_cache: Path | None = None  # a folder that outlives this machine: copied from, and to
    limits: Limits = field(default_factory=Limits)

    def cached(self, model: ModelEntry) -> Path | None:
        """Where a model lies in the shared cache."""
        return self.shared_cache / model.path if self.shared_cache else None


class Transfer:
    """Fetches addresses; may be used from several threads. When ``cancelled`` is set, it stops soon."""

    def __init__(self, options: FetchOptions, cancelled: threading.Event) -> None:
        self._limits, self._token, self._cancelled = options.limits, options.token, cancelled

    def fetch(self, url: str, part: Path, source: Source) -> str:
        """Fetch an address into a growing file, resuming what an earlier try left; return the SHA-256.

        The file is complete and verified when this returns. It is kept for resuming when the connection
        failed, and removed when its bytes were wrong.

        Raises:
            MirrorError: The address does not give the file.
            Cancelled: The fetch was stopped.
            OutputError: The disk does not take it.
        """
        failed = furthest = 0
        while True:
            start = size_of(part)
            try:
                if start < source.bytes:
                    self._continue(url, part, start, source.bytes)
                return _verified(part, source, resumed=start > 0)
            except Temporary as problem:
                there = size_of(part)
                # Only going further than ever before counts, or starting over and over would never end.
                advanced = there >= furthest + self._limits.progress
                failed, furthest = (1, there) if advanced else (failed + 1, furthest)
                self._give_up_or_pause(problem, failed)

    def _give_up_or_pause(self, problem: Temporary, failed: int) -> None:
        if failed >= self._limits.attempts:
            text = tr("{problem} (tried {failures} times)", problem=problem, failures=failed)
            raise MirrorError(text) from problem
        if self._cancelled.wait(self._limits.backoff * 2 ** (failed - 1) * random.uniform(0.5, 1)):
            raise Cancelled

    def _continue(self, url: str, part: Path, start: int, size: int) -> None:
        """Append what is still missing, or all where the server knows no ranges."""
        with self._ask(url, start) as response:
            start = _begins_at(response, part, start, size)
            unwritable = telling(OutputError, UNWRITABLE, part, mark("free space on this disk"))
            # Unbuffered: what was received survives the death of the process.
            with unwritable, part.open("ab" if start else "wb", buffering=0) as file:
                self._copy_body(response, file, start, size)

    def _ask(self, url: str, start: int) -> requests.Response:
        if self._cancelled.is_set():
            raise Cancelled
        # A compressed body could neither be resumed nor compared with the size.
        headers = {"Accept-Encoding": "identity", "User-Agent": "colab-helpers"}
        if start:
            headers["Range"] = f"bytes={start}-"
        if self._token and url.startswith(HUGGING_FACE):  # requests drops it where another host is named
            headers["Authorization"] = f"Bearer {self._token}"
        waits = (self._limits.connect_timeout, self._limits.read_timeout)
        try:
            return requests.get(url, headers=headers, timeout=waits, stream=True)
        except failures.ReadTimeout as error:
            raise Temporary(tr("no answer within {seconds:g} s", seconds=waits[1])) from error
        except failures.ConnectionError as error:
            raise Temporary(tr("no connection ({reason})", reason=_innermost(error))) from error
        except (failures.RequestException, ValueError) as error:
            raise MirrorError(tr("cannot be asked ({reason})", reason=_innermost(error))) from error

    def _copy_body(self, response: requests.Response, file: BinaryIO, there: int, size: int) -> None:
        since, before = time.monotonic(), there
        while block := self._read(response, there):
            file.write(block)
            there += len(block)
            if there > size:
                raise MirrorError(tr("gives more than the {total} bytes it should", total=size))
            # A body that trickles: each byte comes in time, but the file never would.
            elapsed = time.monotonic() - since
            if elapsed >= self._limits.stall_seconds:
                rate = (there - before) / elapsed
                if rate < self._limits.min_rate:
                    text = mark("too slow ({rate:.0f} bytes/s after {there} bytes)")
                    raise Temporary(tr(text, rate=rate, there=there))
                since, before = time.monotonic(), there
        if there < size:
            text = mark("the connection broke after {there} of {total} bytes")
            raise Temporary(tr(text, there=there, total=size))

    def _read(self, response: requests.Response, there: int) -> bytes:
        if self._cancelled.is_set():
            raise Cancelled
        try:
            # read1 hands over what is there; read would wait for a whole block on a slow line.
            return response.raw.read1(_BLOCK, decode_content=False) or b""
        except urllib3.exceptions.ReadTimeoutError as error:
            silence = self._limits.read_timeout
            text = tr("no data for {seconds:g} s after {there} bytes", seconds=silence, there=there)
            raise Temporary(text) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise Temporary(tr("the connection broke after {there} bytes", there=there)) from error


def _begins_at(response: requests.Response, part: Path, start: int, size: int) -> int:
    """Where the body of an answer begins, which was asked to begin at ``start``.

    Raises:
        Temporary: Asking again may help.
        MirrorError: Another answer than one with the file.
    """
    code, headers = response.status_code, response.headers
    if code not in (200, 206, 416):
        reason = tr("HTTP {code} ({reason})", code=code, reason=response.reason)
        raise Temporary(reason) if code in _WORTH_RETRYING else MirrorError(reason)
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if code != 200 and (ranged is None or int(ranged[1]) != start):
        part.unlink(missing_ok=True)  # it has less than what had arrived, or answers something else
        raise Temporary(tr("answers with another range"))
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise MirrorError(tr("gives an HTML page instead of the file"))
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
    raise Temporary(problem) if resumed else MirrorError(problem)


def _innermost(error: BaseException) -> str:
    """The cause at the bottom, without the address that requests puts around it."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return str(getattr(error, "strerror", None) or type(error).__name__)
