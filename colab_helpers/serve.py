"""Jobs over HTTP for programs of this machine: ``python -m colab_helpers serve JOBS``; needs the extra serve.

Nothing is done here that the other ways in do not do: a request becomes a `BatchRequest`, its worker is a
process of its own, and what waits is `batch.queue`. Paths in requests stay in folders named at the start.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colab_helpers.addresses import address_of
from colab_helpers.batch.job import Job
from colab_helpers.batch.library import library_names
from colab_helpers.batch.lock import FolderBusyError, folder_lock
from colab_helpers.batch.queue import Queue
from colab_helpers.batch.supervisor import BatchStopped, Supervisor
from colab_helpers.batch.validation import build_job
from colab_helpers.errors import ColabHelpersError, MediaError, MissingFileError, UsageError, WorkerError
from colab_helpers.files import absolute, copy_atomically, open_private, to_json
from colab_helpers.language import tr
from colab_helpers.machine import home, on_colab, this_machine
from colab_helpers.models.catalog import required_model_names
from colab_helpers.prompts import Kind, improve_prompt
from colab_helpers.request import BatchRequest
from colab_helpers.resources.sampler import cuda_version, gpu_memory, gpu_memory_percent
from colab_helpers.settings import DEFAULT_PRESET
from colab_helpers.startup import VERSION
from colab_helpers.trust.signing import LOCAL

MAX_BYTES = 64 << 20
"""Largest body of a request; two photos of 20 MB fit as data URLs."""
_SLOT_WAIT_SECONDS = 30.0
"""Seconds that a picture waits for its turn."""
_OPEN = ("/docs", "/openapi.json")  # as public as this file
_SERVER_ONLY_FIELDS = BatchRequest.not_in_form | {"library", "models_dir", "upload", "download", "headless"}
_SERVER_ONLY_FIELDS |= {"cluster", "gpus_per_worker", "priority", "map_paths"}
_FREE_TEXTS = ("visible_label_text", "disclosure")
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


class Swap(BaseModel, extra="forbid"):
    """Two pictures as data URLs of PNG, JPEG or WebP; the source may be a name of the library instead."""

    source: str
    target: str
    consent: str
    preset: str = DEFAULT_PRESET
    overrides: dict[str, Any] = {}


class Prompt(BaseModel, extra="forbid"):
    """What a picture shows, in English or Spanish."""

    prompt: str
    kind: Kind = "auto"


class Avatar(BaseModel, extra="forbid"):
    """Photos of somebody, as data URLs of PNG, JPEG or WebP."""

    name: str
    photos: list[str]


@dataclass(eq=False)
class Server:
    """What is done at each address, by what the command line named; docstrings are the documentation.

    Requests may name files of the ``inputs`` and of the ``library``, whose people may be sources, and get
    photos.
    """

    inputs: tuple[Path, ...]
    library: Path | None
    models_dir: Path | None
    queue: Queue
    _adding: Lock = field(default_factory=Lock)

    def app(self) -> FastAPI:
        """Build the application, without the `AuthMiddleware` before it."""
        app = FastAPI(title="colab_helpers", version=VERSION, docs_url=None, redoc_url=None)
        app.router.default_response_class = _Answer
        batch = {
            "requestBody": {"content": {"application/json": {"schema": BatchRequest.model_json_schema()}}}
        }
        app.get("/")(self.root)
        app.get("/gpu-status")(self.gpu_status)
        app.post("/face-swap")(self.face_swap)
        app.post("/magic-prompt")(self.magic_prompt)
        app.get("/avatars")(self.avatars)
        app.post("/avatars", status_code=201)(self.add_avatar)
        app.get("/api/jobs")(self.jobs)
        app.post("/api/jobs", status_code=202, openapi_extra=batch)(self.add_job)
        app.get("/api/jobs/{name}")(self.job)
        app.post("/api/jobs/{name}/stop", status_code=202)(self.stop)
        # FastAPI's own page takes its scripts from another site.
        page = "<!doctype html><meta charset=utf-8><title>colab_helpers</title><pre>{}"
        app.get("/docs", response_class=HTMLResponse, include_in_schema=False)(
            lambda: page.format(escape(json.dumps(app.openapi(), indent=1)))
        )
        for kind in (ColabHelpersError, RequestValidationError):
            app.exception_handler(kind)(_refused)
        return app

    def root(self) -> dict[str, str]:
        """Tell what this is, and where it is described."""
        return {"name": "colab_helpers", "version": VERSION, "documentation": "/docs"}

    def gpu_status(self) -> dict[str, Any]:
        """Tell the VRAM in bytes, allocated by the job at work and reserved by all; and its networks."""
        job, gpu, (used, total) = self.queue.at_work, this_machine().gpu, gpu_memory() or (None, None)
        sample = status.sample if job and (status := self.queue.state_of(job.folder.name)[1]) else None
        return {
            "gpu": gpu.name if gpu else None,
            "cuda": cuda_version(),
            "vram_total": total,
            "vram_allocated": sample.gpu.process_memory if sample and sample.gpu else None,
            "vram_reserved": used,
            "vram_free": None if total is None or used is None else total - used,
            "vram_percent": gpu_memory_percent(),
            "loaded_models": [name for _, name in required_model_names(job.request.settings)] if job else [],
        }

    async def face_swap(self, asked: Swap) -> dict[str, Any]:
        """Change a picture and return it as a data URL, labelled and signed, with its report."""
        until = time.monotonic() + _SLOT_WAIT_SECONDS
        while not self.queue.turn_lock.acquire(blocking=False):
            if time.monotonic() > until:
                raise HTTPException(503, tr("a job is at work: ask again later, or stop it"))
            await asyncio.sleep(0.1)
        try:
            return await run_in_threadpool(self._swapped, asked)
        finally:
            self.queue.turn_lock.release()

    def _swapped(self, asked: Swap) -> dict[str, Any]:
        kind, data = _picture(asked.target)
        with TemporaryDirectory(prefix="colab_helpers-") as folder:
            target = Path(folder, f"picture.{kind}")
            target.write_bytes(data)
            given = asked.model_dump(exclude={"source", "target"})
            given |= {"sources": [asked.source], "targets": [str(target)]}
            job = self._job(given, Path(folder, "result"), Path(folder))
            try:
                report = Supervisor(job).run().files[0]
            except BatchStopped as stopped:
                raise WorkerError(str(stopped)) from stopped
            if report.status != "done" or report.output is None:
                raise UsageError(report.error or report.status)
            image = base64.b64encode(Path(report.output).read_bytes()).decode()
        return {"image": f"data:image/{kind};base64,{image}", "report": json.loads(to_json(report))}

    def magic_prompt(self, asked: Prompt) -> dict[str, str]:
        """Improve the description of a picture by rules."""
        return {"prompt": improve_prompt(asked.prompt, asked.kind)}

    def avatars(self) -> list[str]:
        """List the people of the library, whose names are sources of jobs."""
        return library_names(self.library)

    def add_avatar(self, asked: Avatar) -> list[str]:
        """Add photos of somebody to the library."""
        if self.library is None:
            raise UsageError(tr("there is no library"), remedy=tr("start the server with one in --library"))
        pictures, folder = [_picture(photo) for photo in asked.photos], _below(self.library, asked.name)
        with self._adding:  # or two requests find the same name free
            for kind, data in pictures:
                paths = (folder / f"photo-{number}.{kind}" for number in count(1))
                copy_atomically(next(path for path in paths if not os.path.lexists(path)), BytesIO(data))
        return self.avatars()

    def jobs(self) -> list[dict[str, str]]:
        """List the jobs and how they stand: queued, running, done, failed or cancelled."""
        return [{"id": name, "state": self.queue.state_of(name)[0]} for name in self.queue.names()]

    def add_job(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Have a batch wait for its turn; ``output_dir`` is the job's name, else one is made of its files."""
        name = asked.pop("output_dir", None) or BatchRequest(**asked).run_name
        self.queue.add(self._job(asked, _below(self.queue.folder, str(name))))
        return self.job(str(name))

    def job(self, name: str) -> dict[str, Any]:
        """Tell how a job stands, with the status of its run as ``status.json`` has it, once there is one."""
        state, status = self.queue.state_of(_below(self.queue.folder, name).name)
        return {"id": name, "state": state, "status": json.loads(to_json(status)) if status else None}

    def stop(self, name: str) -> dict[str, Any]:
        """Stop a job; what is finished is kept, and the same request goes on with it."""
        self.queue.stop(_below(self.queue.folder, name).name)
        return self.job(name)

    def _job(self, asked: Mapping[str, Any], folder: Path, *more: Path) -> Job:
        """Check a request for a batch into a folder, of files in the inputs and ``more``."""
        if own := ", ".join(sorted(asked.keys() & _SERVER_ONLY_FIELDS)):
            what = tr("{names} cannot be asked for over HTTP", names=own)
            raise UsageError(what, remedy=tr("name folders when the server is started"))
        given = {"library": self.library, "models_dir": self.models_dir, "output_dir": folder}
        request = BatchRequest(**{**asked, **given})
        for name, value in request.overrides.items():
            key = name == "signing_certificate" and value != LOCAL
            if key or (name not in _FREE_TEXTS and "/" in str(value)):
                raise UsageError(tr("a path cannot be a setting over HTTP"), where=name)
        stated = request.consent.strip()
        statement = [stated] if stated.lower().endswith((".yaml", ".yml")) else []
        roots = [os.path.realpath(root) for root in (*self.inputs, self.library, *more) if root]
        _confine([*map(str, request.photo_paths), *request.targets, *statement], roots)
        job = build_job(request)
        _confine(map(str, job.inputs), roots)  # what patterns and links lead to
        return job


class _Answer(JSONResponse):
    """JSON that spells out what no encoding takes: half of a pair of surrogates, as in names of files."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


class AuthMiddleware:
    """Lets in who has the token, and no body over ``MAX_BYTES``, which is refused before it is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 413."""
        headers, seen = dict(scope["headers"]), 0
        too_large = tr("more than {size} MB are not taken", size=MAX_BYTES >> 20)

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BYTES:  # of a body that does not state its length
                raise HTTPException(413, too_large)
            return message

        known = hmac.compare_digest(headers.get(b"authorization", b""), self._expected)
        if not known and scope["path"] not in _OPEN:
            told, asked = tr("the token is missing or wrong"), {"WWW-Authenticate": "Bearer"}
            return await JSONResponse({"detail": told}, 401, asked)(scope, receive, send)
        if int(headers.get(b"content-length", b"0")) > MAX_BYTES:
            return await JSONResponse({"detail": too_large}, 413)(scope, receive, send)
        return await self._app(scope, counted, send)


def _refused(_request: Request, error: Exception) -> JSONResponse:
    """What an error says; of a body that does not fit nothing of what was in it, photos of megabytes."""
    if isinstance(error, RequestValidationError):
        return _Answer({"detail": [{"loc": one["loc"], "msg": one["msg"]} for one in error.errors()]}, 422)
    assert isinstance(error, ColabHelpersError)
    code = {FolderBusyError: 409, MissingFileError: 404}.get(type(error), 422 if error.refusal else 500)
    return _Answer({"detail": error.what, "where": error.where, "remedy": error.remedy}, code)


def _confine(paths: Iterable[str], roots: Collection[str]) -> None:
    """Refuse paths and patterns that lead out of some folders, by their links, too."""
    for path in map(absolute, paths):
        inside = any(map(Path(os.path.realpath(path)).is_relative_to, roots))
        if address_of(path) or ".." in path.parts or not inside:  # addresses: by the server's credentials
            what = tr("this is in none of the folders that requests may name")
            raise UsageError(what, where=str(path), remedy=tr("start the server with it in --inputs"))


def _below(folder: Path, name: str) -> Path:
    """Return what a name means in a folder; UsageError where it would lead elsewhere."""
    plain = name == Path(name).name and name[:1] not in ("", ".") and name.isprintable()
    if not plain or len(name.encode()) > 200:  # file systems take 255, of what is made beside it, too
        what = tr("{name!r} cannot be the name of a folder here", name=name)
        raise UsageError(what, remedy=tr("name it with letters and digits"))
    return folder / name


def _picture(url: str) -> tuple[str, bytes]:
    """Kind and bytes of a picture in a data URL; nothing is decoded, which workers do."""
    head, _, body = url.partition(";base64,")
    with suppress(ValueError):
        data = base64.b64decode(body, validate=True)
        kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), "")
        if kind and head.startswith("data:"):
            return kind, data
    raise MediaError(tr("only data URLs of PNG, JPEG and WebP are taken"), where=url[:40])


def load_or_create_token(path: Path) -> str:
    """Read the token, which is made where there is none; UsageError where others may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), open(path, "x", opener=open_private) as file:
        file.write(secrets.token_urlsafe(32))
    with path.open() as file:
        state, token = os.fstat(file.fileno()), file.read(1000).strip()
    if state.st_mode & 0o077 or state.st_uid != os.getuid() or len(token) < 20:
        what = tr("others than you can read the token, or it has less than 20 letters")
        raise UsageError(what, where=str(path), remedy=tr("remove the file: another one is made"))
    return token


def serve(server: Server, host: str, port: int) -> None:
    """Take requests until Ctrl-C or SIGTERM; a job at work goes on, and the next server sees it through.

    Raises:
        UsageError: On Colab; where nothing can listen there; where the token is not safe.
        FolderBusyError: Another server has the folder of the jobs.
    """
    if on_colab():
        what = tr("Colab's terms rule out web services other than its notebooks")
        raise UsageError(what, remedy=tr("run serve on a machine of your own; on Colab use the notebooks"))
    path = home() / "serve-token"
    app = AuthMiddleware(server.app(), load_or_create_token(path))
    if server.library:
        server.library.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    family, name = (socket.AF_INET6, f"[{host}]") if ":" in host else (socket.AF_INET, host)
    with folder_lock(server.queue.folder), suppress(KeyboardInterrupt):
        try:
            listening = socket.create_server((host, port), family=family)
        except OSError as error:
            what = tr("nothing can listen there ({reason})", reason=error.strerror or error)
            raise UsageError(what, where=f"{name}:{port}", remedy=tr("choose another port")) from error
        Thread(target=copy_context().run, args=(server.queue.work,), name="queue", daemon=True).start()
        address = f"http://{name}:{listening.getsockname()[1]}"
        print(tr("listening at {address}; the token is in {path}", address=address, path=path), flush=True)
        usual: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none"}
        uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=10, **usual)).run([listening])
