"""A local HTTP server with scripted faults, which counts the bytes it sends."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", "Route"], None]


@dataclass
class Route:
    """A path: its content, behaviours for the first requests, and the requests received."""

    body: bytes
    script: list[Behaviour]
    always: Behaviour | None
    ranges: bool
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    gate: threading.Event | None = None

    @property
    def starts(self) -> list[int]:
        """First byte of each request, 0 without a range."""
        found = [re.match(r"bytes=(\d+)-", request.get("Range", "")) for request in self.requests]
        return [int(match[1]) if match else 0 for match in found]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.lock = threading.Lock()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        route = self.server.routes.get(self.path)
        self.close_connection = True
        with contextlib.suppress(ConnectionError):
            if route is None:
                reply(self, 404, b"no such file")
            else:
                self._serve(route)

    def _serve(self, route: Route) -> None:
        with self.server.lock:
            route.requests.append(dict(self.headers))
            behave = route.script.pop(0) if route.script else (route.always or normal)
        if route.gate is not None:
            route.gate.wait()
        behave(self, route)

    def log_message(self, format: str, *args: object) -> None:
        pass


class FaultServer:
    """Serves routes on a free local port until closed."""

    def __init__(self) -> None:
        self._server = Server()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.base = f"http://127.0.0.1:{self._server.server_port}"

    def add(
        self,
        path: str,
        body: bytes,
        *script: Behaviour,
        always: Behaviour | None = None,
        ranges: bool = True,
    ) -> Route:
        route = Route(body, list(script), always, ranges)
        self._server.routes[path] = route
        return route

    def url(self, path: str) -> str:
        return self.base + path

    def close(self) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()


def reply(
    handler: Handler,
    status: int,
    body: bytes = b"",
    *,
    route: Route | None = None,
    length: int | None = None,
    **headers: Any,
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    if length != -1:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.send_header("Connection", "close")
    handler.end_headers()
    write(handler, body, route)


def write(handler: Handler, body: bytes, route: Route | None) -> None:
    handler.wfile.write(body)
    handler.wfile.flush()
    if route is not None:
        route.sent += len(body)


def asked_from(handler: Handler, route: Route) -> int:
    match = re.match(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    return int(match[1]) if match and route.ranges else 0


def answer(handler: Handler, route: Route, count: int | None = None) -> bytes:
    """Send some bytes of the requested range, with headers for all of it; return the rest."""
    start = asked_from(handler, route)
    body = route.body[start:]
    ranged = {"Content-Range": f"bytes {start}-{len(route.body) - 1}/{len(route.body)}"} if start else {}
    sent = body if count is None else body[:count]
    reply(handler, 206 if start else 200, sent, route=route, length=len(body), **ranged)
    return body[len(sent) :]


def normal(handler: Handler, route: Route) -> None:
    if asked_from(handler, route) < len(route.body):
        answer(handler, route)
    else:
        reply(handler, 416, Content_Range=f"bytes */{len(route.body)}")


def drop(after: int) -> Behaviour:
    """Break the connection after some bytes of the body."""

    def behave(handler: Handler, route: Route) -> None:
        answer(handler, route, after)
        handler.connection.shutdown(socket.SHUT_RDWR)

    return behave


def paced(block: int, pause: float) -> Behaviour:
    """Send small blocks with pauses between them."""

    def behave(handler: Handler, route: Route) -> None:
        body = answer(handler, route, 0)
        for offset in range(0, len(body), block):
            write(handler, body[offset : offset + block], route)
            time.sleep(pause)

    return behave


def status(code: int) -> Behaviour:
    return lambda handler, route: reply(handler, code, b"error")


def redirect(target: str) -> Behaviour:
    return lambda handler, route: reply(handler, 302, Location=target)


def sends(change: Callable[[bytes], bytes], *, length: int | None = None, **headers: Any) -> Behaviour:
    """Answer with changed bytes; a length of -1 sends no Content-Length."""
    return lambda handler, route: reply(
        handler, 200, change(route.body), route=route, length=length, **headers
    )


def says_length(difference: int) -> Behaviour:
    """Send the whole file, with a wrong Content-Length."""
    return lambda handler, route: reply(
        handler, 200, route.body, route=route, length=len(route.body) + difference
    )


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


CHUNKED = {"length": -1, "Transfer_Encoding": "chunked"}
other_bytes = sends(lambda body: bytes(byte ^ 0xFF for byte in body))  # same length
short = sends(_half)  # with a matching header
short_unsized = sends(_half, length=-1)
long_unsized = sends(lambda body: body + b"more", length=-1)
chunked = sends(lambda body: _chunk(body[:1000]) + _chunk(body[1000:]) + _chunk(b""), **CHUNKED)
broken_chunked = sends(lambda body: b"%x\r\n%b" % (len(body), body[:1000]), **CHUNKED)  # inside a chunk
html = sends(lambda _: b"<html><body>Please sign in</body></html>", Content_Type="text/html; charset=utf-8")
disguised_html = sends(
    lambda body: (b"\n<!DOCTYPE html><html>" + b"x" * len(body))[: len(body)],
    Content_Type="application/octet-stream",
)
empty = sends(lambda _: b"")


def silent(handler: Handler, route: Route) -> None:
    """Accept the request but never answer."""
    handler.server.closing.wait()


def stuck(handler: Handler, route: Route) -> None:
    """Send half, then keep the connection open without sending more."""
    reply(handler, 200, route.body[: len(route.body) // 2], length=len(route.body))
    handler.server.closing.wait()


def hang_up(handler: Handler, route: Route) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def wrong_range(handler: Handler, route: Route) -> None:
    """Answer with another range than requested."""
    body = route.body
    last = len(body) - 1
    reply(handler, 206, body, route=route, Content_Range=f"bytes 0-{last}/{len(body)}")
