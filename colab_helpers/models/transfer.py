"""Fetching one address into one growing file, over a network that breaks.

``requests`` carries the connections. Retrying is done here and not by urllib3's ``Retry``, because that one
ends with the headers: what breaks half a gigabyte is the body, and a retry has to resume it. What an
interrupted fetch left is resumed from any address that promises the same bytes; if the whole turns out wrong,
it is fetched once more from the beginning.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests import exceptions as failures

from colab_helpers.errors import OutputError
from colab_helpers.files import sha256_of, write_atomically
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import LOOPBACK, ModelEntry
from colab_helpers.models.records import size_of
from colab_helpers.models.responses import MirrorError, Temporary, nothing_left, understood

HUGGING_FACE = "huggingface.co"
_BLOCK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be, if known."""


class Cancelled(Exception):  # noqa: N818 - not an error
    """The whole fetch was stopped; what arrived is kept."""


@dataclass(frozen=True)
class Limits:
    """How long to wait and how often to try; seconds, bytes and bytes per second."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # longest silence in the middle of a body
    attempts: int = 5  # tries of one address without progress before the next is taken
    connect_attempts: int = 2  # the same where nobody even answers
    backoff: float = 1.0  # first pause; it doubles each time, and is drawn between half and all of that,
    backoff_max: float = 30.0  # so that many machines do not come back in step
    retry_after_max: float = 120.0  # a server that wants a longer pause is left for the next one
    progress: int = 1 << 20  # bytes gained that make the count of tries start over
    min_rate: float = 1024.0  # least rate over ``stall_seconds``; slower counts as broken
    stall_seconds: float = 60.0


@dataclass(frozen=True)
class Expected:
    """What the bytes must be: accepted hashes, and how many there are where that is known."""

    sha256: tuple[str, ...]
    bytes: int | None = None

    @property
    def words(self) -> str:
        """What an unfinished file is marked with."""
        return " ".join(self.sha256)


def _mark_of(part: Path) -> Path:
    """Where it is noted which bytes an unfinished file is to become."""
    return part.with_name(part.name + ".sha256")


def discard(part: Path) -> None:
    """Remove an unfinished file and what is known about it."""
    part.unlink(missing_ok=True)
    _mark_of(part).unlink(missing_ok=True)


def public_url(url: str) -> str:
    """An address without user name, password and query, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class FetchOptions:
    """How files may be brought."""

    accept_licences: bool = False  # the user accepts those that limit use; recorded beside each file
    offline: bool = False  # never touch the network; copies from disk are still made
    proxy: str | None = None  # ``http://host:port`` for everything; by default the environment's
    mirror_prefix: str | None = None  # put before every address, which is tried itself after that
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
        self._proxies = {"http": options.proxy, "https": options.proxy} if options.proxy else None
        # The user named it: then others may be plain http, too.
        self._http_named = (options.mirror_prefix or "").startswith("http://")

    def fetch(self, url: str, part: Path, expected: Expected, *, report: Report) -> str:
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
            try:
                start = _resume_at(part, expected)
                if start == 0 or start != expected.bytes:
                    self._continue(url, part, start, expected, report)
                return _verified(part, expected, resumed=start > 0)
            except Temporary as problem:
                if problem.unusable:
                    discard(part)
                there = size_of(part)
                # Only going further than ever before counts, or starting over and over would never end.
                advanced = there >= furthest + self._limits.progress
                failed, furthest = (1, there) if advanced else (failed + 1, furthest)
                self._give_up_or_pause(problem, failed)

    def _give_up_or_pause(self, problem: Temporary, failed: int) -> None:
        limits = self._limits
        if failed >= (limits.attempts if problem.connected else limits.connect_attempts):
            text = tr("{problem} (tried {failures} times)", problem=problem, failures=failed)
            raise MirrorError(text) from problem
        if problem.wait is not None and problem.wait > limits.retry_after_max:
            text = tr("{problem}, and asks to wait {wait:.0f} s", problem=problem, wait=problem.wait)
            raise MirrorError(text) from problem
        pause = min(limits.backoff * 2 ** (failed - 1), limits.backoff_max) * random.uniform(0.5, 1)
        if self._cancelled.wait(max(pause, problem.wait or 0)):
            raise Cancelled

    # --- asking -------------------------------------------------------------------------------------

    def _follow(self, url: str, start: int) -> requests.Response:
        """Send a request and follow redirects, never from https to http."""
        # A compressed body could neither be resumed nor compared with the size.
        headers = {"Accept-Encoding": "identity", "User-Agent": "colab-helpers"}
        if start:
            headers["Range"] = f"bytes={start}-"
        seen: list[str] = []
        while url not in seen and len(seen) <= _MOST_REDIRECTS:
            self._check_scheme(url, previous=seen[-1] if seen else "http://")
            seen.append(url)
            response = self._send(url, headers)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            url = urljoin(url, response.headers["Location"])
            response.close()
        raise MirrorError(tr("redirects in a circle") if url in seen else tr("redirects too often"))

    def _check_scheme(self, url: str, *, previous: str) -> None:
        parts = urlsplit(url)
        may_be_http = previous.startswith("http://") and (parts.hostname in LOOPBACK or self._http_named)
        if parts.scheme != "https" and not (parts.scheme == "http" and may_be_http):
            raise MirrorError(tr("leads to an address that is not https ({url})", url=public_url(url)))

    def _send(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        if self._cancelled.is_set():
            raise Cancelled
        try:
            return requests.get(
                url,
                headers={**headers, **self._credentials(url)},
                proxies=self._proxies,
                timeout=(self._limits.connect_timeout, self._limits.read_timeout),
                stream=True,
                allow_redirects=False,
            )
        except (failures.RequestException, ValueError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> MirrorError | Temporary:
        """What it means that there is no answer; the reason is without the address around it."""
        reason = _innermost(error)
        if isinstance(error, failures.SSLError):
            return MirrorError(tr("no secure connection ({reason})", reason=reason))
        if isinstance(error, failures.ReadTimeout):
            return Temporary(tr("no answer within {seconds:g} s", seconds=self._limits.read_timeout))
        if isinstance(error, failures.ConnectTimeout):
            text = tr("no connection within {seconds:g} s", seconds=self._limits.connect_timeout)
        elif isinstance(error, failures.ProxyError):
            text = tr("the proxy failed ({reason})", reason=reason)
        elif isinstance(error, failures.ConnectionError):
            text = tr("no connection ({reason})", reason=reason)
        else:
            return MirrorError(tr("cannot be asked ({reason})", reason=reason))
        return Temporary(text, connected=False)

    def _credentials(self, url: str) -> dict[str, str]:
        """What Hugging Face asks for; told to nobody else, so not to where it redirects, nor in the clear."""
        parts = urlsplit(url)
        safe = parts.scheme == "https" or parts.hostname in LOOPBACK
        shown = self._token and safe and parts.hostname == HUGGING_FACE
        return {"Authorization": f"Bearer {self._token}"} if shown else {}

    # --- receiving ----------------------------------------------------------------------------------

    def _continue(self, url: str, part: Path, start: int, expected: Expected, report: Report) -> None:
        """Append what is still missing."""
        with self._follow(url, start) as response:
            if nothing_left(response, start):
                return
            start, total = understood(response, start, expected.bytes)
            try:
                write_atomically(_mark_of(part), expected.words.encode())
                # Unbuffered: what was received survives the death of the process.
                with part.open("ab" if start else "wb", buffering=0) as file:
                    self._copy_body(response, file, start, total or expected.bytes, report)
            except OSError as error:
                raise OutputError(
                    tr("cannot be written ({reason})", reason=error.strerror),
                    where=str(part),
                    remedy=tr("free space on this disk"),
                ) from error

    def _copy_body(
        self, response: requests.Response, file: BinaryIO, there: int, total: int | None, report: Report
    ) -> None:
        since, before = time.monotonic(), there
        report(there, total)
        while block := self._read(response, there):
            if there == 0 and block.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
                raise MirrorError(tr("gives an HTML page instead of the file"))
            file.write(block)
            there += len(block)
            report(there, total)
            if total is not None and there > total:
                raise MirrorError(tr("gives more than the {total} bytes it should", total=total))
            # A body that trickles: each byte comes in time, but the file never would.
            elapsed = time.monotonic() - since
            if elapsed >= self._limits.stall_seconds:
                rate = (there - before) / elapsed
                if rate < self._limits.min_rate:
                    raise Temporary(
                        tr("too slow ({rate:.0f} bytes/s after {there} bytes)", rate=rate, there=there)
                    )
                since, before = time.monotonic(), there
        if total is not None and there < total:
            raise Temporary(
                tr("the connection broke after {there} of {total} bytes", there=there, total=total)
            )

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


def _resume_at(part: Path, expected: Expected) -> int:
    """Where to go on; what is to become other bytes is removed."""
    there, mark = size_of(part), _mark_of(part)
    same = mark.is_file() and mark.read_bytes() == expected.words.encode()
    if there and same and (expected.bytes is None or there <= expected.bytes):
        return there
    discard(part)
    return 0


def _verified(part: Path, expected: Expected, *, resumed: bool) -> str:
    there, sha256 = size_of(part), sha256_of(part)
    if there and sha256 in expected.sha256:
        _mark_of(part).unlink(missing_ok=True)
        return sha256
    discard(part)
    text = mark("gives wrong bytes (sha256 {sha256}, expected {expected})")
    problem = tr(text, sha256=sha256, expected=tr(" or ").join(expected.sha256))
    if not there:
        problem = tr("gives an empty file")
    # The fault may lie in what was there before this try: start over once before blaming the address.
    raise Temporary(problem) if resumed else MirrorError(problem)


def _innermost(error: BaseException) -> str:
    """The cause at the bottom, without the address that requests puts around it.

    Python keeps it as the cause or context; urllib3 also in ``reason``, requests in ``args``.
    """
    while True:
        candidates = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
        deeper = next((value for value in candidates if isinstance(value, BaseException)), None)
        if deeper is None:
            return str(getattr(error, "strerror", None) or type(error).__name__)
        error = deeper
