"""Fetching one address into one growing file, over a network that breaks.

``requests`` carries the connections (proxies of the environment, certificates, pooling). Retrying is
done here and not by urllib3's ``Retry``, because that one ends with the headers: what breaks half a
gigabyte is the body, and a retry has to resume it. Of the ready-made downloaders, pooch cannot resume,
and huggingface_hub speaks to one site only.
"""

from __future__ import annotations

import http.client
import json
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
from colab_helpers.files import sha256_of
from colab_helpers.language import tr
from colab_helpers.models.catalog import LOOPBACK
from colab_helpers.models.records import write_json

_BLOCK = 1 << 18
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
    """What is known about the bytes before they come: accepted hashes, and their number where it is known."""

    sha256: tuple[str, ...]
    bytes: int | None = None

    @property
    def only_hash(self) -> str | None:
        """The hash, if there is just one: then every mirror serves the same bytes."""
        return self.sha256[0] if len(self.sha256) == 1 else None


@dataclass(frozen=True)
class _Part:
    """What is known about an unfinished file; kept in ``<file>.part.json``.

    Attributes:
        url: Address it comes from, without query.
        validator: The server's ETag or Last-Modified, with which it can tell whether it still has the
            same bytes.
        sha256: The one hash it must have in the end, if known.
    """

    url: str
    validator: str | None
    sha256: str | None

    @classmethod
    def read(cls, part: Path) -> _Part | None:
        try:
            data = json.loads(_part_record(part).read_text(encoding="utf-8"))
            return cls(data["url"], data["validator"], data["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, part: Path) -> None:
        write_json(_part_record(part), vars(self))


def _part_record(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def discard(part: Path) -> None:
    """Remove an unfinished file and what is known about it."""
    part.unlink(missing_ok=True)
    _part_record(part).unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


def public_url(url: str) -> str:
    """An address without user name, password and query, which may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True)
class _Answer:
    """A response whose body is the file, from ``start`` on; ``total`` as the server says."""

    response: requests.Response
    start: int
    total: int | None


class Transfer:
    """Fetches addresses; may be used from several threads.

    Args:
        limits: Patience.
        proxy: Address of a proxy for everything; otherwise those of the environment count.
        mirror_prefix: Addresses that start like this may be plain http: the user named it.
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
        start = self._resume_at(url, part, expected)
        if start == 0 or start != expected.bytes:
            with self._request(url, part, start) as response:
                if not _nothing_left(response, start):
                    answer = self._understand(response, url, part, start, expected)
                    self._receive(answer, url, part, expected, report)
        return _verified(part, expected, resumed=start > 0)

    def _resume_at(self, url: str, part: Path, expected: Expected) -> int:
        """Where to go on; whatever cannot be trusted to belong to this address is removed."""
        known, there = _Part.read(part), size_of(part)
        same_bytes = known is not None and known.sha256 is not None and known.sha256 == expected.only_hash
        same_place = known is not None and known.url == public_url(url) and known.validator is not None
        too_long = expected.bytes is not None and there > expected.bytes
        if not there or too_long or not (same_bytes or same_place):
            discard(part)
            return 0
        return there

    def _request(self, url: str, part: Path, start: int) -> requests.Response:
        # A compressed body could neither be resumed nor compared with the size.
        headers = {"Accept-Encoding": "identity", "User-Agent": "colab-helpers"}
        if start:
            known = _Part.read(part)
            headers["Range"] = f"bytes={start}-"
            if known is not None and known.validator and known.url == public_url(url):
                headers["If-Range"] = known.validator
        return self._follow(url, headers)

    def _follow(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send a request and follow redirects, never from https to http."""
        seen: list[str] = []
        linked: dict[str, str] = {}
        current = url
        while current not in seen and len(seen) <= self._limits.max_redirects:
            self._check_scheme(current, previous=seen[-1] if seen else None)
            seen.append(current)
            response = self._send(current, headers)
            # Hugging Face names hash and size on the redirect; the store behind it does not.
            linked |= {key: value for key, value in response.headers.items() if _is_linked(key)}
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                response.headers.update(linked)
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
        limits = self._limits
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
        except requests.exceptions.SSLError as error:
            raise MirrorError(tr("no secure connection ({reason})", reason=_innermost(error))) from error
        except requests.exceptions.ReadTimeout as error:
            raise _Temporary(tr("no answer within {seconds:g} s", seconds=limits.read_timeout)) from error
        except requests.exceptions.ConnectTimeout as error:
            reason = tr("no connection within {seconds:g} s", seconds=limits.connect_timeout)
            raise _Temporary(reason, connected=False) from error
        except requests.exceptions.ProxyError as error:
            raise _Temporary(
                tr("the proxy failed ({reason})", reason=_innermost(error)), connected=False
            ) from error
        except requests.exceptions.ConnectionError as error:
            raise _Temporary(
                tr("no connection ({reason})", reason=_innermost(error)), connected=False
            ) from error
        except (requests.exceptions.RequestException, ValueError) as error:
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

    def _understand(
        self, response: requests.Response, url: str, part: Path, start: int, expected: Expected
    ) -> _Answer:
        if response.status_code == 416:
            discard(part)
            raise _Temporary(tr("HTTP 416: it has less than what had arrived"))
        _refuse_failure(response)
        _refuse_other_content(response)
        if response.status_code == 206:
            total = _resumed_total(response, url, part, start)
        else:
            start, total = 0, _content_length(response)
        answer = _Answer(response, start, total)
        _refuse_other_file(answer, expected)
        return answer

    def _receive(self, answer: _Answer, url: str, part: Path, expected: Expected, report: Report) -> None:
        known = _Part(public_url(url), _validator(answer.response), expected.only_hash)
        total = answer.total if answer.total is not None else expected.bytes
        try:
            known.write(part)
            # Unbuffered: what was received survives the death of the process.
            with part.open("ab" if answer.start else "wb", buffering=0) as file:
                self._copy_body(answer, file, total, report)
        except OSError as error:
            raise OutputError(
                tr("cannot be written ({reason})", reason=error.strerror),
                where=str(part),
                remedy=tr("free space on this disk"),
            ) from error

    def _copy_body(self, answer: _Answer, file: BinaryIO, total: int | None, report: Report) -> None:
        there, pace = answer.start, _Pace(self._limits)
        report(there, total)
        while block := self._read(answer.response, there):
            if there == 0 and block.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
                raise MirrorError(tr("gives an HTML page instead of the file"))
            file.write(block)
            there += len(block)
            report(there, total)
            if total is not None and there > total:
                raise MirrorError(tr("gives more than the {total} bytes it should", total=total))
            pace.check(there)
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
            raise _Temporary(
                tr(
                    "no data for {seconds:g} s after {there} bytes",
                    seconds=self._limits.read_timeout,
                    there=there,
                )
            ) from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise _Temporary(tr("the connection broke after {there} bytes", there=there)) from error


class _Pace:
    """Notices a body that trickles: each byte comes in time, but the file never would."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since = time.monotonic()
        self._bytes: int | None = None

    def check(self, there: int) -> None:
        elapsed = time.monotonic() - self._since
        if self._bytes is None:
            self._bytes = there
        if elapsed < self._limits.stall_seconds:
            return
        rate = (there - self._bytes) / elapsed
        if rate < self._limits.min_rate:
            raise _Temporary(tr("too slow ({rate:.0f} bytes/s after {there} bytes)", rate=rate, there=there))
        self._since, self._bytes = time.monotonic(), there


def _verified(part: Path, expected: Expected, *, resumed: bool) -> str:
    problem = _problem(part, expected)
    sha256 = sha256_of(part)
    if problem is None and sha256 not in expected.sha256:
        problem = tr(
            "gives wrong bytes (sha256 {sha256}, expected {expected})",
            sha256=sha256,
            expected=tr(" or ").join(expected.sha256),
        )
    if problem is None:
        _part_record(part).unlink(missing_ok=True)
        return sha256
    discard(part)
    # The fault may lie in what was there before this try: start over once before blaming the address.
    raise _Temporary(problem) if resumed else MirrorError(problem)


def _problem(part: Path, expected: Expected) -> str | None:
    there = size_of(part)
    if expected.bytes is not None and there != expected.bytes:
        return tr("gives {there} bytes instead of {expected}", there=there, expected=expected.bytes)
    return None if there else tr("gives an empty file")


def _nothing_left(response: requests.Response, start: int) -> bool:
    """Whether all had arrived before this request: 416 names the size, and it is what we have."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    return response.status_code == 416 and match is not None and start > 0 and match[3] == str(start)


def _refuse_failure(response: requests.Response) -> None:
    if response.status_code in (200, 206):
        return
    reason = tr("HTTP {code} ({reason})", code=response.status_code, reason=response.reason)
    if response.status_code in _WORTH_RETRYING:
        raise _Temporary(reason, wait=_retry_after(response))
    raise MirrorError(reason)


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return float(Retry().parse_retry_after(value))
    except urllib3.exceptions.InvalidHeader:
        return None


def _refuse_other_content(response: requests.Response) -> None:
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise MirrorError(tr("gives an HTML page instead of the file"))
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise MirrorError(tr("insists on Content-Encoding {encoding}", encoding=encoding))


def _resumed_total(response: requests.Response, url: str, part: Path, start: int) -> int | None:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    known = _Part.read(part)
    validator = _validator(response)
    changed = (
        known is not None
        and known.url == public_url(url)
        and None not in (known.validator, validator)
        and known.validator != validator
    )
    if match is None or match[1] is None or int(match[1]) != start or changed:
        discard(part)
        raise _Temporary(tr("the file changed meanwhile") if changed else tr("answers with another range"))
    return None if match[3] == "*" else int(match[3])


def _content_length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    return int(value) if value.isdigit() else None


def _validator(response: requests.Response) -> str | None:
    """The server's mark of these very bytes; a weak ETag marks similar ones only."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _is_linked(header: str) -> bool:
    return header.lower() in ("x-linked-etag", "x-linked-size")


def _declared_hash(response: requests.Response) -> str | None:
    value = response.headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"').lower()
    return value if _SHA256.fullmatch(value) else None


def _refuse_other_file(answer: _Answer, expected: Expected) -> None:
    """Refuse before half a gigabyte is spent on what cannot be right."""
    linked = answer.response.headers.get("X-Linked-Size", "")
    sizes = [answer.total, int(linked) if linked.isdigit() else None]
    for size in sizes:
        if expected.bytes is not None and size is not None and size != expected.bytes:
            raise MirrorError(
                tr("has {size} bytes instead of {expected}", size=size, expected=expected.bytes)
            )
    declared = _declared_hash(answer.response)
    if declared is not None and declared not in expected.sha256:
        raise MirrorError(tr("declares another file (sha256 {sha256})", sha256=declared))


def _innermost(error: BaseException) -> str:
    """The cause at the bottom, without the address that requests puts around it."""
    while (deeper := _cause(error)) is not None:
        error = deeper
    return str(getattr(error, "strerror", None) or type(error).__name__)


def _cause(error: BaseException) -> BaseException | None:
    """Python keeps it as the cause or context; urllib3 also in ``reason``, requests in ``args``."""
    candidates = (error.__cause__, error.__context__, getattr(error, "reason", None), *error.args)
    return next((value for value in candidates if isinstance(value, BaseException)), None)
