"""What the head of a server's answer means for a fetch that begins or goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping

import requests
import urllib3
from urllib3.util import Retry

from colab_helpers.language import tr

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)


class MirrorError(Exception):
    """An address that did not give the file; the text says why, and the next one may be tried."""


class Temporary(Exception):  # noqa: N818
    """Something that may go well the next time, after a pause if the server wants one."""

    def __init__(
        self, reason: str, *, wait: float | None = None, connected: bool = True, unusable: bool = False
    ) -> None:
        self.wait, self.connected = wait, connected
        self.unusable = unusable  # what had arrived cannot be continued
        super().__init__(reason)


def nothing_left(response: requests.Response, start: int) -> bool:
    """Whether all had arrived before this request: 416 names the size, and it is what we have."""
    match = _content_range(response)
    return response.status_code == 416 and match is not None and start > 0 and match[3] == str(start)


def _content_range(response: requests.Response) -> re.Match[str] | None:
    return _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())


def understood(response: requests.Response, start: int, expected: int | None) -> tuple[int, int | None]:
    """Where the body begins, and the size of the whole file if the server says.

    Args:
        response: The answer.
        start: Where it was asked to begin.
        expected: Size of the whole file where it is known.

    Raises:
        Temporary: Asking again may help.
        MirrorError: Another answer than one with the file.
    """
    code, headers = response.status_code, response.headers
    if code == 416:
        raise Temporary(tr("HTTP 416: it has less than what had arrived"), unusable=True)
    if code not in (200, 206):
        reason = tr("HTTP {code} ({reason})", code=code, reason=response.reason)
        raise (
            Temporary(reason, wait=_retry_after(headers)) if code in _WORTH_RETRYING else MirrorError(reason)
        )
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise MirrorError(tr("gives an HTML page instead of the file"))
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise MirrorError(tr("insists on Content-Encoding {encoding}", encoding=encoding))
    if code == 200:
        start, total = 0, headers.get("Content-Length", "")
    else:
        match = _content_range(response)
        if match is None or match[1] is None or int(match[1]) != start:
            raise Temporary(tr("answers with another range"), unusable=True)
        total = match[3]
    size = int(total) if total.isdigit() else None
    # Refused before half a gigabyte is spent on what cannot be right.
    if expected is not None and size not in (None, expected):
        raise MirrorError(tr("has {size} bytes instead of {expected}", size=size, expected=expected))
    return start, size


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        return float(Retry().parse_retry_after(headers["Retry-After"]))
    except (KeyError, urllib3.exceptions.InvalidHeader):
        return None
