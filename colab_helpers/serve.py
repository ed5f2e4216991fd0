"""HTTP server for batch jobs: ``python -m colab_helpers serve JOBS``; needs the extra ``serve``.

A request becomes a `BatchRequest`, as in every other interface; jobs wait in `batch.queue` and run in worker
processes. Paths in requests are confined to folders named when the server is started.
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
"""Largest accepted request body; two photos of 20 MB fit as data URLs."""
_SLOT_WAIT_SECONDS = 30.0
"""Seconds that a picture waits for a running job to end."""
_OPEN = ("/docs", "/openapi.json")  # need no token: as public as this file
_SERVER_ONLY_FIELDS = BatchRequest.not_in_form | {"library", "models_dir", "upload", "download", "headless"}
_SERVER_ONLY_FIELDS |= {"cluster", "gpus_per_worker", "priority", "map_paths"}
_FREE_TEXTS = ("visible_label_text", "disclosure")
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


class Swap(BaseModel, extra="forbid"):
    """Body of ``/face-swap``: PNG, JPEG or WebP as data URLs; the source may be a name in the library."""

    source: str
    target: str
    consent: str
    preset: str = DEFAULT_PRESET
    overrides: dict[str, Any] = {}


class Prompt(BaseModel, extra="forbid"):
    """Body of ``/magic-prompt``: what a picture shows, in English or Spanish."""

    prompt: str
    kind: Kind = "auto"


class Avatar(BaseModel, extra="forbid"):
    """Body of ``/avatars``: photos of one person, as data URLs of PNG, JPEG or WebP."""

    name: str
    photos: list[str]


@dataclass(eq=False)
class Server:
    """Handlers of the endpoints; their docstrings are the API documentation.

    Requests may name files in ``inputs`` and ``library``, use people of the library, and add photos to it.
    """

    inputs: tuple[Path, ...]
    library: Path | None
    models_dir: Path | None
    queue: Queue
    _adding: Lock = field(default_factory=Lock)

    def app(self) -> FastAPI:
        """Build the application, without `AuthMiddleware`."""
        app = FastAPI(title="colab_helpers", version=VERSION, docs_url=None, redoc_url=None)
        app.router.default_response_class = _Answer
        schema = {"schema": BatchRequest.model_json_schema()}
        batch = {"requestBody": {"content": {"application/json": schema}}}
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
        # FastAPI's own documentation page loads its scripts from another site.
        page = "<!doctype html><meta charset=utf-8><title>colab_helpers</title><pre>{}"
        docs = app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
        docs(lambda: page.format(escape(json.dumps(app.openapi(), indent=1))))
        for kind in (ColabHelpersError, RequestValidationError):
            app.exception_handler(kind)(_error_response)
        return app

    def root(self) -> dict[str, str]:
        """Return name, version and the path of the documentation."""
        return {"name": "colab_helpers", "version": VERSION, "documentation": "/docs"}

    def gpu_status(self) -> dict[str, Any]:
        """Return VRAM in bytes, allocated by the running job and reserved by all; and the job's networks."""
        job, gpu, (used, total) = self.queue.current, this_machine().gpu, gpu_memory() or (None, None)
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

    async def face_swap(self, body: Swap) -> dict[str, Any]:
        """Swap the faces of a picture; return it as a data URL, labelled and signed, with its report."""
        deadline = time.monotonic() + _SLOT_WAIT_SECONDS
        while not self.queue.turn_lock.acquire(blocking=False):
            if time.monotonic() > deadline:
                raise HTTPException(503, tr("a job is running: try again later, or stop it"))
            await asyncio.sleep(0.1)
        try:
            return await run_in_threadpool(self._swap, body)
        finally:
            self.queue.turn_lock.release()

    def _swap(self, body: Swap) -> dict[str, Any]:
        kind, data = _decode_data_url(body.target)
        with TemporaryDirectory(prefix="colab_helpers-") as folder:
            target = Path(folder, f"picture.{kind}")
            target.write_bytes(data)
            fields = body.model_dump(exclude={"source", "target"})
            fields |= {"sources": [body.source], "targets": [str(target)]}
            job = self._job(fields, Path(folder, "result"), Path(folder))
            try:
                report = Supervisor(job).run().files[0]
            except BatchStopped as stopped:
                raise WorkerError(str(stopped)) from stopped
            if report.status != "done" or report.output is None:
                raise UsageError(report.error or report.status)
            image = base64.b64encode(Path(report.output).read_bytes()).decode()
        return {"image": f"data:image/{kind};base64,{image}", "report": json.loads(to_json(report))}

    def magic_prompt(self, body: Prompt) -> dict[str, str]:
        """Improve a prompt by rules."""
        return {"prompt": improve_prompt(body.prompt, body.kind)}

    def avatars(self) -> list[str]:
        """List the people in the library; their names can be sources of jobs."""
        return library_names(self.library)

    def add_avatar(self, body: Avatar) -> list[str]:
        """Add photos of a person to the library."""
        if self.library is None:
            raise UsageError(tr("there is no library"), remedy=tr("start the server with --library"))
        images, folder = [_decode_data_url(url) for url in body.photos], _subfolder(self.library, body.name)
        with self._adding:  # or two requests could choose the same name
            for kind, data in images:
                paths = (folder / f"photo-{number}.{kind}" for number in count(1))
                copy_atomically(next(path for path in paths if not os.path.lexists(path)), BytesIO(data))
        return self.avatars()

    def jobs(self) -> list[dict[str, str]]:
        """List the jobs with their states: queued, running, done, failed or cancelled."""
        return [{"id": name, "state": self.queue.state_of(name)[0]} for name in self.queue.names()]

    def add_job(self, body: dict[str, Any]) -> dict[str, Any]:
        """Queue a batch; ``output_dir`` is the job's name, by default made from its files' names."""
        name = body.pop("output_dir", None) or BatchRequest(**body).run_name
        self.queue.add(self._job(body, _subfolder(self.queue.folder, str(name))))
        return self.job(str(name))

    def job(self, name: str) -> dict[str, Any]:
        """Return the state of a job, and the content of its ``status.json`` once it exists."""
        state, status = self.queue.state_of(_subfolder(self.queue.folder, name).name)
        return {"id": name, "state": state, "status": json.loads(to_json(status)) if status else None}

    def stop(self, name: str) -> dict[str, Any]:
        """Stop a job; finished work is kept, and the same request resumes it."""
        self.queue.stop(_subfolder(self.queue.folder, name).name)
        return self.job(name)

    def _job(self, fields: Mapping[str, Any], folder: Path, *more: Path) -> Job:
        """Validate a batch into ``folder`` whose files must be in the inputs, the library or ``more``."""
        if refused := ", ".join(sorted(fields.keys() & _SERVER_ONLY_FIELDS)):
            what = tr("{names} cannot be set over HTTP", names=refused)
            raise UsageError(what, remedy=tr("leave them out: folders are set when the server is started"))
        own = {"library": self.library, "models_dir": self.models_dir, "output_dir": folder}
        request = BatchRequest(**{**fields, **own})
        for name, value in request.overrides.items():
            certificate = name == "signing_certificate" and value != LOCAL
            if certificate or (name not in _FREE_TEXTS and "/" in str(value)):
                raise UsageError(tr("a setting cannot be a path over HTTP"), where=name)
        consent = request.consent.strip()
        consent_file = [consent] if consent.lower().endswith((".yaml", ".yml")) else []
        roots = [os.path.realpath(root) for root in (*self.inputs, self.library, *more) if root]
        _confine([*map(str, request.photo_paths), *request.targets, *consent_file], roots)
        job = build_job(request)
        _confine(map(str, job.inputs), roots)  # also where patterns and links lead
        return job


class _Answer(JSONResponse):
    """JSON with escapes for non-ASCII characters: no encoding accepts the lone surrogates of file names."""

    def render(self, content: object) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


class AuthMiddleware:
    """Refuses requests without the token, and bodies over ``MAX_BYTES`` before they are read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 413."""
        headers, size = dict(scope["headers"]), 0
        too_large = tr("request bodies over {size} MB are not accepted", size=MAX_BYTES >> 20)

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_BYTES:  # a body without content-length
                raise HTTPException(413, too_large)
            return message

        authorized = hmac.compare_digest(headers.get(b"authorization", b""), self._expected)
        if not authorized and scope["path"] not in _OPEN:
            detail, challenge = tr("the token is missing or wrong"), {"WWW-Authenticate": "Bearer"}
            return await JSONResponse({"detail": detail}, 401, challenge)(scope, receive, send)
        if int(headers.get(b"content-length", b"0")) > MAX_BYTES:
            return await JSONResponse({"detail": too_large}, 413)(scope, receive, send)
        return await self._app(scope, counted, send)


def _error_response(_request: Request, error: Exception) -> JSONResponse:
    """Turn an error into a response; validation errors omit the body, which may be megabytes."""
    if isinstance(error, RequestValidationError):
        return _Answer({"detail": [{"loc": item["loc"], "msg": item["msg"]} for item in error.errors()]}, 422)
    assert isinstance(error, ColabHelpersError)
    code = {FolderBusyError: 409, MissingFileError: 404}.get(type(error), 422 if error.refusal else 500)
    return _Answer({"detail": error.what, "where": error.where, "remedy": error.remedy}, code)


def _confine(paths: Iterable[str], roots: Collection[str]) -> None:
    """Raise UsageError for a path or pattern outside of all ``roots``, links followed."""
    for path in map(absolute, paths):
        inside = any(map(Path(os.path.realpath(path)).is_relative_to, roots))
        if address_of(path) or ".." in path.parts or not inside:  # an address uses the server's rights
            what = tr("this is not in any folder that requests may use")
            raise UsageError(what, where=str(path), remedy=tr("start the server with its folder in --inputs"))


def _subfolder(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder; raise UsageError if it is not a plain name."""
    plain = name == Path(name).name and name[:1] not in ("", ".") and name.isprintable()
    if not plain or len(name.encode()) > 200:  # file systems allow 255, and files beside it have longer names
        what = tr("{name!r} is not a valid folder name", name=name)
        raise UsageError(what, remedy=tr("use letters and digits"))
    return folder / name


def _decode_data_url(url: str) -> tuple[str, bytes]:
    """Return format and bytes of an image in a data URL; the image itself is decoded by workers only."""
    head, _, body = url.partition(";base64,")
    with suppress(ValueError):
        data = base64.b64decode(body, validate=True)
        kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), "")
        if kind and head.startswith("data:"):
            return kind, data
    raise MediaError(tr("only data URLs of PNG, JPEG and WebP are accepted"), where=url[:40])


def load_or_create_token(path: Path) -> str:
    """Read or create the token; raise UsageError if others can read its file or it is too short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), open(path, "x", opener=open_private) as file:
        file.write(secrets.token_urlsafe(32))
    with path.open() as file:
        state, token = os.fstat(file.fileno()), file.read(1000).strip()
    if state.st_mode & 0o077 or state.st_uid != os.getuid() or len(token) < 20:
        what = tr("other users can read the token file, or the token has less than 20 characters")
        raise UsageError(what, where=str(path), remedy=tr("remove the file: a new one is created"))
    return token


def serve(server: Server, host: str, port: int) -> None:
    """Serve requests until Ctrl-C or SIGTERM; a running job goes on, and the next server takes it over.

    Raises:
        UsageError: This is Colab, the address cannot be listened on, or the token is not safe.
        FolderBusyError: Another server uses the folder of jobs.
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
            what = tr("cannot listen there ({reason})", reason=error.strerror or error)
            raise UsageError(what, where=f"{name}:{port}", remedy=tr("choose another port")) from error
        Thread(target=copy_context().run, args=(server.queue.work,), name="queue", daemon=True).start()
        address = f"http://{name}:{listening.getsockname()[1]}"
        print(tr("listening on {address}; the token is in {path}", address=address, path=path), flush=True)
        options: dict[str, Any] = {"log_level": "warning", "lifespan": "off", "ws": "none"}
        uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=10, **options)).run([listening])
