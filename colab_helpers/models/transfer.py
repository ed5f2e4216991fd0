"""Fetching one address into one growing file, over a network that breaks.

``requests`` carries the connections (proxies of the environment, certificates, pooling). Retrying is
done here and not by urllib3's ``Retry``, because that one ends with the headers: what breaks half a
gigabyte is the body, and a retry has to resume it. Of the ready-made downloaders, pooch cannot resume,
and huggingface_hub speaks to one site only. What an interrupted fetch left is resumed from any address that
promises the same bytes; if the whole turns out wrong, it is fetched once more from the beginning.
"""

from __future__ import annotations

import http.client
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import urllib3
from urllib3.util import Retry

from colab_helpers.errors import OutputError
from colab_helpers.files import sha256_of, write_atomically
from colab_helpers.language import tr
from colab_helpers.models.catalog import LOOPBACK

_BLOCK = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_REDIRECTS = (301, 302, 303, 307, 308)
_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)

Report = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be, if known."""


class MirrorError(Exception):
    """An address that did not give the file; the text says why, and the next one may be tried."""


class Cancelled(Exception):  # noqa: N818 - not an error
    """The whole fetch was stopped; what arrived is kept."""


class _Temporary(Exception):  # noqa: N818
    """Something that may go well the next time."""

    def __init__(self, reason: str, *, wait: float | None = None, connected: bool = True) -> None:
        self.wait = wait
        self.connected = connected
        super().__init__(reason)


@dataclass(frozen=True)
class Limits:
    """How long to wait and how often to try; seconds, bytes and bytes per second.

    Attributes:
        read_timeout: Longest silence in the middle of a body.
        attempts: Tries of one address without progress before the next is taken.
        connect_attempts: The same where nobody even answers.
        backoff: First pause; it doubles each time, up to ``backoff_max``, and is drawn at random between
            half and all of that, so that many machines do not come back in step.
        retry_after_max: A server that wants a longer pause than this is left for the next one.
        progress: Bytes gained that make the count of tries start over.
        min_rate: Least rate over ``stall_seconds``; slower counts as broken.
    """

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    attempts: int = 5
    connect_attempts: int = 2
    backoff: float = 1.0
    backoff_max: float = 30.0
    retry_after_max: float = 120.0
    progress: int = 1 << 20
    min_rate: float = 1024.0
    stall_seconds: float = 60.0
    max_redirects: int = 10


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


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


def public_url(url: str) -> str:
    """An address without user name, password and query, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Transfer:
    """Fetches addresses; may be used from several threads.

    Args:
        limits: Patience.
        proxy: Address of a proxy for everything; otherwise those of the environment count.
        mirror_prefix: Addresses that start like this may be plain http: the user named it.
        tokens: By the name of a server, what it wants to be shown; nobody else is shown it.
        cancelled: When set, everything stops soon.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        proxy: str | None = None,
        mirror_prefix: str | None = None,
        tokens: Mapping[str, str] | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._limits = limits
        self._tokens = dict(tokens or {})
        self._proxies = {"http": proxy, "https": proxy} if proxy else None
        self._mirror_prefix = mirror_prefix
        self._cancelled = cancelled or threading.Event()
        self._local = threading.local()

    def fetch(self, url: str, part: Path, expected: Expected, *, report: Report) -> str:
        """Fetch an address, resuming what an earlier try left; returns the SHA-256.

        Args:
            url: The address.
            part: The growing file. Complete and verified when this returns; kept for resuming when the
                connection failed; removed when its bytes were wrong.
            expected: What the bytes must be.
            report: Told about progress.

        Raises:
            MirrorError: The address does not give the file.
            Cancelled: The fetch was stopped.
            OutputError: The disk does not take it.
        """
        failures = furthest = 0
        while True:
            try:
                return self._try(url, part, expected, report)
            except _Temporary as problem:
                there = size_of(part)
                # Only going further than ever before counts, or starting over and over would never end.
                advanced = there >= furthest + self._limits.progress
                failures, furthest = (1, there) if advanced else (failures + 1, furthest)
                self._give_up_or_pause(problem, failures)

    def _give_up_or_pause(self, problem: _Temporary, failures: int) -> None:
        limits = self._limits
        if failures >= (limits.attempts if problem.connected else limits.connect_attempts):
            raise MirrorError(
                tr("{problem} (tried {failures} times)", problem=problem, failures=failures)
            ) from problem
        if problem.wait is not None and problem.wait > limits.retry_after_max:
            raise MirrorError(
                tr("{problem}, and asks to wait {wait:.0f} s", problem=problem, wait=problem.wait)
            ) from problem
        pause = min(limits.backoff * 2 ** (failures - 1), limits.backoff_max) * random.uniform(0.5, 1)
        if self._cancelled.wait(max(pause, problem.wait or 0)):
            raise Cancelled

    def _try(self, url: str, part: Path, expected: Expected, report: Report) -> str:
        start = _resume_at(part, expected)
        if start == 0 or start != expected.bytes:
            with self._follow(url, start) as response:
                if not _nothing_left(response, start):
                    start, total = _understood(response, part, start, expected)
                    self._receive(response, part, start, total or expected.bytes, expected, report)
        return _verified(part, expected, resumed=start > 0)

    def _follow(self, url: str, start: int) -> requests.Response:
        """Send a request and follow redirects, never from https to http."""
        # A compressed body could neither be resumed nor compared with the size.
        headers = {"Accept-Encoding": "identity", "User-Agent": "colab-helpers"}
        if start:
            headers["Range"] = f"bytes={start}-"
        seen: list[str] = []
        current = url
        while current not in seen and len(seen) <= self._limits.max_redirects:
            self._check_scheme(current, previous=seen[-1] if seen else None)
            seen.append(current)
            response = self._send(current, headers)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            current = urljoin(current, response.headers["Location"])
            response.close()
        raise MirrorError(tr("redirects in a circle") if current in seen else tr("redirects too often"))

    def _check_scheme(self, url: str, *, previous: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https":
            return
        named = self._mirror_prefix is not None and self._mirror_prefix.startswith("http://")
        downgraded = previous is not None and not previous.startswith("http://")
        if parts.scheme != "http" or downgraded or not (parts.hostname in LOOPBACK or named):
            raise MirrorError(tr("leads to an address that is not https ({url})", url=public_url(url)))

    def _send(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        limits, failures = self._limits, requests.exceptions
        if self._cancelled.is_set():
            raise Cancelled
        try:
            return self._session().get(
                url,
                headers={**headers, **self._credentials(url)},
                # Given with the request, because those of the environment would win over a session's.
                proxies=self._proxies,
                timeout=(limits.connect_timeout, limits.read_timeout),
                stream=True,
                allow_redirects=False,
            )
        except failures.SSLError as error:
            raise MirrorError(tr("no secure connection ({reason})", reason=_innermost(error))) from error
        except failures.ReadTimeout as error:
            raise _Temporary(tr("no answer within {seconds:g} s", seconds=limits.read_timeout)) from error
        except failures.ConnectTimeout as error:
            reason = tr("no connection within {seconds:g} s", seconds=limits.connect_timeout)
            raise _Temporary(reason, connected=False) from error
        except failures.ProxyError as error:
            reason = tr("the proxy failed ({reason})", reason=_innermost(error))
            raise _Temporary(reason, connected=False) from error
        except failures.ConnectionError as error:
            reason = tr("no connection ({reason})", reason=_innermost(error))
            raise _Temporary(reason, connected=False) from error
        except (failures.RequestException, ValueError) as error:
            raise MirrorError(tr("cannot be asked ({reason})", reason=_innermost(error))) from error

    def _credentials(self, url: str) -> dict[str, str]:
        """What a server asks for; told to nobody else, so not to where it redirects, nor in the clear."""
        parts = urlsplit(url)
        token = self._tokens.get(parts.hostname or "")
        safe = parts.scheme == "https" or parts.hostname in LOOPBACK
        return {"Authorization": f"Bearer {token}"} if token and safe else {}

    def _session(self) -> requests.Session:
        # A session is not safe to share between threads.
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def _receive(
        self,
        response: requests.Response,
        part: Path,
        start: int,
        total: int | None,
        expected: Expected,
        report: Report,
    ) -> None:
        try:
            write_atomically(_mark_of(part), expected.words.encode())
            # Unbuffered: what was received survives the death of the process.
            with part.open("ab" if start else "wb", buffering=0) as file:
                self._copy_body(response, file, start, total, report)
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
                    raise _Temporary(
                        tr("too slow ({rate:.0f} bytes/s after {there} bytes)", rate=rate, there=there)
                    )
                since, before = time.monotonic(), there
        if total is not None and there < total:
            raise _Temporary(
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
            raise _Temporary(
                tr("no data for {seconds:g} s after {there} bytes", seconds=silence, there=there)
            ) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise _Temporary(tr("the connection broke after {there} bytes", there=there)) from error


def _resume_at(part: Path, expected: Expected) -> int:
    """Where to go on; what is to become other bytes is removed."""
    there = size_of(part)
    try:
        same = _mark_of(part).read_text(encoding="utf-8") == expected.words
    except (OSError, ValueError):
        same = False
    if there and same and (expected.bytes is None or there <= expected.bytes):
        return there
    discard(part)
    return 0


def _nothing_left(response: requests.Response, start: int) -> bool:
    """Whether all had arrived before this request: 416 names the size, and it is what we have."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return response.status_code == 416 and match is not None and start > 0 and match[3] == str(start)


def _understood(
    response: requests.Response, part: Path, start: int, expected: Expected
) -> tuple[int, int | None]:
    """Where the body begins, and the size of the whole file if the server says; other answers are refused."""
    if response.status_code == 416:
        discard(part)
        raise _Temporary(tr("HTTP 416: it has less than what had arrived"))
    if response.status_code not in (200, 206):
        reason = tr("HTTP {code} ({reason})", code=response.status_code, reason=response.reason)
        if response.status_code in _WORTH_RETRYING:
            raise _Temporary(reason, wait=_retry_after(response))
        raise MirrorError(reason)
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise MirrorError(tr("gives an HTML page instead of the file"))
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise MirrorError(tr("insists on Content-Encoding {encoding}", encoding=encoding))
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if match is None or match[1] is None or int(match[1]) != start:
            discard(part)
            raise _Temporary(tr("answers with another range"))
        total = match[3]
    else:
        start, total = 0, response.headers.get("Content-Length", "")
    size = int(total) if total.isdigit() else None
    # Refused before half a gigabyte is spent on what cannot be right.
    if expected.bytes is not None and size not in (None, expected.bytes):
        raise MirrorError(tr("has {size} bytes instead of {expected}", size=size, expected=expected.bytes))
    return start, size


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return float(Retry().parse_retry_after(value))
    except urllib3.exceptions.InvalidHeader:
        return None


def _verified(part: Path, expected: Expected, *, resumed: bool) -> str:
    there, sha256 = size_of(part), sha256_of(part)
    if there and sha256 in expected.sha256:
        _mark_of(part).unlink(missing_ok=True)
        return sha256
    discard(part)
    problem = tr(
        "gives wrong bytes (sha256 {sha256}, expected {expected})",
        sha256=sha256,
        expected=tr(" or ").join(expected.sha256),
    )
    if not there:
        problem = tr("gives an empty file")
    # The fault may lie in what was there before this try: start over once before blaming the address.
    raise _Temporary(problem) if resumed else MirrorError(problem)


def _innermost(error: BaseException) -> str:
    """The cause at the bottom, without the address that requests puts around it."""
    while (deeper := _cause(error)) is not None:
        error = deeper
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _cause(error: BaseException) -> BaseException | None:
    """Python keeps it as the cause or context; urllib3 also in ``reason``, requests in ``args``."""
    candidates = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
    return next((value for value in candidates if isinstance(value, BaseException)), None)
