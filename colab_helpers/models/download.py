"""Resumable download of one URL to a partial file, over an unreliable network.

Retries are implemented here because urllib3's ``Retry`` covers only requests up to the response headers,
while large downloads break in the body and have to be resumed. A partial file can be resumed from any mirror
of the same source; if the completed file is wrong, it is downloaded once more from the beginning.
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
from requests import exceptions

from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import ModelEntry, Source
from colab_helpers.models.inventory import file_size

OnBytes = Callable[[int], None]
"""Called with the number of bytes present so far."""
HUGGING_FACE = "https://huggingface.co/"
_BLOCK = 1 << 18
_RETRY_CODES = (408, 425, 429, 500, 502, 503, 504)


class MirrorError(Exception):
    """The URL does not provide the file, for the reason in the message; the next mirror may be tried."""


class TemporaryError(Exception):
    """A failure that a retry may overcome."""


@dataclass(frozen=True)
class DownloadLimits:
    """Timeouts and retries of a download, in seconds and bytes."""

    connect_timeout: float = 10.0
    read_timeout: float = 30.0  # maximum time without data
    attempts: int = 4  # tries of one URL without progress before the next mirror is used
    # First pause, doubled each time, with a random factor (0.5 to 1) so that machines do not retry in step.
    backoff: float = 1.0
    progress: int = 1 << 20  # new bytes that reset the count of tries


@dataclass(frozen=True)
class FetchOptions:
    """Options of fetching model files."""

    accept_licences: bool = False  # the user accepts the non-commercial licences; recorded beside each file
    offline: bool = False  # use no network; copying from the shared cache is still allowed
    token: str | None = None  # access token of Hugging Face, which may throttle anonymous downloads
    shared_cache: Path | None = None  # a persistent folder to copy files from and to
    limits: DownloadLimits = field(default_factory=DownloadLimits)

    def cache_path(self, model: ModelEntry) -> Path | None:
        """Return the path of a model in the shared cache."""
        return self.shared_cache / model.path if self.shared_cache else None


def download(url: str, part: Path, source: Source, options: FetchOptions, on_bytes: OnBytes) -> str:
    """Download a URL to a partial file, resuming an earlier attempt, and return the verified SHA-256.

    The file is kept for resuming if the connection failed, and removed if its content was wrong.

    Raises:
        MirrorError: The URL does not provide the file.
        OSError: The file cannot be written.
    """
    limits, failures, furthest = options.limits, 0, 0
    while True:
        start = file_size(part)
        try:
            if start < source.bytes:
                _append(url, part, source.bytes, options, on_bytes)
            return _verify(part, source, resumed=start > 0)
        except TemporaryError as problem:
            size = file_size(part)
            # Only bytes beyond the previous maximum count, or repeated restarts would never end.
            advanced = size >= furthest + limits.progress
            failures, furthest = (1, size) if advanced else (failures + 1, furthest)
            if failures >= limits.attempts:
                text = tr("{problem} (tried {failures} times)", problem=problem, failures=failures)
                raise MirrorError(text) from problem
        time.sleep(limits.backoff * 2 ** (failures - 1) * random.uniform(0.5, 1))


def _append(url: str, part: Path, size: int, options: FetchOptions, on_bytes: OnBytes) -> None:
    """Append the missing bytes; start over if the server does not support ranges."""
    position = file_size(part)
    try:
        with _request(url, position, options) as response:
            position = _body_offset(response, part, position, size)
            # Unbuffered, so that received bytes survive if the process is killed.
            with part.open("ab" if position else "wb", buffering=0) as file:
                # read1 returns what has arrived; read would wait for a full block on a slow connection.
                while block := response.raw.read1(_BLOCK, decode_content=False):
                    file.write(block)
                    position += len(block)
                    if position > size:
                        raise MirrorError(tr("sends more than the expected {total} bytes", total=size))
                    on_bytes(position)
    except (exceptions.ConnectionError, exceptions.ReadTimeout) as error:
        raise TemporaryError(tr("no connection ({reason})", reason=_root_cause(error))) from error
    except (exceptions.RequestException, ValueError) as error:
        raise MirrorError(tr("the request failed ({reason})", reason=_root_cause(error))) from error
    except (urllib3.exceptions.HTTPError, http.client.HTTPException):
        pass  # the body broke off; handled below like a body that ends early
    if position < size:
        text = mark("the connection broke after {there} of {total} bytes")
        raise TemporaryError(tr(text, there=position, total=size))


def _request(url: str, start: int, options: FetchOptions) -> requests.Response:
    # A compressed body could neither be resumed nor compared with the size.
    headers = {"Accept-Encoding": "identity", "User-Agent": "colab-helpers"}
    if start:
        headers["Range"] = f"bytes={start}-"
    if options.token and url.startswith(HUGGING_FACE):  # requests drops it on a redirect to another host
        headers["Authorization"] = f"Bearer {options.token}"
    timeouts = (options.limits.connect_timeout, options.limits.read_timeout)
    return requests.get(url, headers=headers, timeout=timeouts, stream=True)


def _body_offset(response: requests.Response, part: Path, start: int, size: int) -> int:
    """Return the file offset at which a response's body begins; ``start`` was requested.

    Raises:
        TemporaryError: A retry may help.
        MirrorError: The response is an error, or has another size than the file.
    """
    code, headers = response.status_code, response.headers
    if code not in (200, 206, 416):
        reason = tr("HTTP {code} ({reason})", code=code, reason=response.reason)
        raise TemporaryError(reason) if code in _RETRY_CODES else MirrorError(reason)
    ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if code != 200 and (ranged is None or int(ranged[1]) != start):
        part.unlink(missing_ok=True)  # its file is shorter than the partial one, or the range is wrong
        raise TemporaryError(tr("answered with another byte range"))
    declared = ranged[2] if code == 206 and ranged is not None else headers.get("Content-Length", "")
    # A wrong size is refused before downloading half a gigabyte.
    if declared.isdigit() and int(declared) != size:
        raise MirrorError(tr("has {size} bytes instead of {expected}", size=declared, expected=size))
    return start if code == 206 else 0


def _verify(part: Path, source: Source, *, resumed: bool) -> str:
    sha256 = sha256_of(part)
    if source.matches(part, sha256):
        return sha256
    part.unlink()
    text = mark("has the wrong checksum (sha256 {sha256}, expected {expected})")
    problem = tr(text, sha256=sha256, expected=tr(" or ").join(source.sha256) or f"crc32 {source.crc32}")
    # If it was resumed, the earlier part may be wrong: start over once before giving up on the mirror.
    raise TemporaryError(problem) if resumed else MirrorError(problem)


def _root_cause(error: BaseException) -> str:
    """Describe the innermost cause, without the URL that requests adds to its messages."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(getattr(error, "strerror", None) or type(error).__name__)
