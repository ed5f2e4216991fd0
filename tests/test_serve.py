"""Jobs over HTTP: a client and a server process, which is also killed and restarted."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from fastapi import HTTPException

from colab_helpers import errors, serve
from colab_helpers.__main__ import main
from colab_helpers.batch import queue
from colab_helpers.batch.lock import folder_lock
from colab_helpers.batch.queue import QUEUED_NAME, Queue
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.command_line import WRONG_USAGE
from colab_helpers.errors import MediaError, UsageError
from colab_helpers.machine import GIB, home
from colab_helpers.prompts import improve_prompt
from colab_helpers.resources import sampler
from colab_helpers.serve import MAX_BYTES, Server, load_or_create_token
from tests.conftest import CONSENT, TIMEOUT, until
from tests.helpers.marks import read_mark
from tests.helpers.nvml import fake_nvml
from tests.helpers.processes import (
    SECONDS,
    contents,
    draw_photo,
    hold,
    repeated_segments,
    run_at_worker_start,
    run_here,
)
from tests.media.make import Spec, make

JSON = {"Content-Type": "application/json"}
SETTINGS = {name: getattr(SECONDS, name) for name in SECONDS.model_fields_set}


class Service:
    """A server process, which may be killed and restarted, and a client."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.jobs, self.inputs = folder / "jobs", folder / "inputs"
        self.inputs.mkdir()
        self.command = [
            sys.executable, "-m", "colab_helpers", "serve", str(self.jobs), "--inputs", str(self.inputs),
            "--library", str(folder / "people"), "--models-dir", str(models), "--port", "0",
        ]  # fmt: skip
        self.process: subprocess.Popen[str] | None = None

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers=self.token, timeout=TIMEOUT)

    def start(self) -> httpx.Client:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"listening on (http://127\.0\.0\.1:\d+); the token is in (.+)\n", line)
        assert found, line
        self.token = {"Authorization": f"Bearer {Path(found[2]).read_text()}"}
        self.address = found[1]
        return self.client

    def workers(self) -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline", "status"])
        return [
            each
            for each in found
            if "colab_helpers.batch.worker" in (words := each.info["cmdline"] or [])
            and str(self.jobs) in " ".join(words)
            and each.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def job(self, name: str, target: str, **more: Any) -> dict[str, Any]:
        files = {"sources": [str(self.inputs / "photo.png")], "targets": [str(self.inputs / target)]}
        return {**files, "output_dir": name, "consent": CONSENT, "overrides": SETTINGS, **more}


def serving(folder: Path, models: Path, patched: pytest.MonkeyPatch) -> Iterator[Service]:
    run_at_worker_start(patched, folder, "")
    service = Service(folder, models)
    draw_photo(service.inputs)
    yield service
    for process in [*filter(None, [service.process]), *service.workers()]:
        process.kill()


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory, constant_models: Path) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patched:
        for service in serving(tmp_path_factory.mktemp("common"), constant_models, patched):
            service.start()
            yield service


@pytest.fixture
def service(tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    # With the test's monkeypatch: overlapping ones would not be undone completely.
    yield from serving(tmp_path, constant_models, monkeypatch)


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.mark.xdist_group("serve")
def test_all_routes_except_jobs(common: Service, tmp_path: Path) -> None:
    client, photo = common.client, data_url(common.inputs / "photo.png")
    assert (home() / "serve-token").stat().st_mode & 0o777 == 0o600
    connections = psutil.Process(common.process.pid).net_connections("inet")  # type: ignore[union-attr]
    listening = [each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]

    for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": common.token["Authorization"][:-1]}):
        for method, path in (("GET", "/"), ("POST", "/face-swap"), ("GET", "/api/jobs"), ("GET", "/nothing")):
            assert httpx.request(method, client.base_url.join(path), headers=wrong).status_code == 401
    assert client.get("/").json()["documentation"] == "/docs"
    page = httpx.get(client.base_url.join("/docs")).text
    paths = httpx.get(client.base_url.join("/openapi.json")).json()["paths"]
    jobs, swaps = {"/api/jobs", "/api/jobs/{name}", "/api/jobs/{name}/stop"}, {"/face-swap", "/magic-prompt"}
    assert {*paths} == {"/", "/gpu-status", "/avatars"} | swaps | jobs
    assert all(path in page for path in paths)
    assert "<script" not in page
    assert client.get("/gpu-status").json()["loaded_models"] == []

    prompt = client.post("/magic-prompt", json={"prompt": "a sunset", "kind": "general"}).json()["prompt"]
    assert prompt == improve_prompt("a sunset", "general") != "a sunset"
    assert client.post("/magic-prompt", json={"prompt": " "}).status_code == 422
    half = client.post("/magic-prompt", content=rb'{"prompt": "a \ud800 sunset"}', headers=JSON)
    assert half.json()["prompt"].startswith("a \ud800 sunset, ")  # as in undecodable file names
    odd = client.post("/face-swap", json={"source": photo, "target": 5})
    assert (odd.status_code, photo in odd.text) == (422, False)
    assert client.get("/avatars").json() == []
    assert client.post("/avatars", json={"name": "hanna", "photos": [photo, photo]}).json() == ["hanna"]
    kept = sorted((common.jobs.parent / "people" / "hanna").iterdir())
    assert [path.name for path in kept] == ["photo-1.png", "photo-2.png"]
    assert kept[1].read_bytes() == (common.inputs / "photo.png").read_bytes()
    for bad in ({"name": "../x"}, {"name": ".x"}, {"photos": ["/etc/passwd"]}, {"photos": ["data:,x"]}):
        avatar = {"name": "otto", "photos": [photo], **bad}
        assert client.post("/avatars", json=avatar).status_code == 422
    assert client.get("/avatars").json() == ["hanna"]

    overrides = {"execution_provider": "cpu"}
    swap = {"source": "hanna", "target": photo, "consent": CONSENT, "overrides": overrides}
    assert client.post("/face-swap", json={**swap, "consent": ""}).json()["detail"].startswith("no statement")
    assert client.post("/face-swap", json={**swap, "source": "/etc/passwd"}).status_code == 422
    done = client.post("/face-swap", json=swap).json()
    (tmp_path / "result.png").write_bytes(base64.b64decode(done["image"].partition(",")[2]))
    assert read_mark(tmp_path / "result.png")[0] == "Valid"
    assert done["report"]["faces_swapped"] == 1
    assert done["report"]["mark"]["label"]


@pytest.mark.xdist_group("serve")
def test_too_large_body_is_refused_before_reading(common: Service) -> None:
    client = common.client
    token, large = common.token["Authorization"], 100_000_000
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), TIMEOUT) as raw:
        head = (
            f"POST /api/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Length: {large}\r\n\r\n"
        )
        raw.sendall(head.encode())  # without the body
        assert raw.recv(100).startswith(b"HTTP/1.1 413")
    assert client.post("/api/jobs", content=bytes(large)).status_code == 413
    assert client.post("/api/jobs", content=(bytes(1 << 20) for _ in range(100))).status_code == 413
    assert psutil.Process(common.process.pid).memory_info().rss < 4 * MAX_BYTES  # type: ignore[union-attr]
    assert client.get("/api/jobs").json() == []


def test_jobs_run_one_at_a_time_and_survive_server(
    service: Service, tmp_path: Path, constant_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, frames in (("clip1.mp4", 120), ("clip2.mp4", 10)):
        make(service.inputs / name, Spec(frames=frames))
    hold(monkeypatch, tmp_path, file=0, frame=30)
    client = service.start()

    def state(name: str) -> str:
        return str(client.get(f"/api/jobs/{name}").json()["state"])

    one = service.job("one", "clip1.mp4")
    assert client.post("/api/jobs", json=one).status_code == 202
    stopped = psutil.STATUS_STOPPED  # at frame 30
    first = until(lambda: [each for each in service.workers() if each.info["status"] == stopped])[0]
    assert client.post("/api/jobs", json=service.job("two", "clip2.mp4")).json()["state"] == "queued"
    assert client.post("/api/jobs", json=service.job("three", "clip2.mp4")).json()["status"] is None
    assert client.post("/api/jobs", json=one).status_code == 409
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: client.get("/api/jobs/one"), range(50)))
    assert {(each.status_code, each.json()["state"]) for each in answers} == {(200, "running")}
    assert answers[0].json()["status"] == json.loads((service.jobs / "one" / STATUS_NAME).read_text()) | {
        "files": answers[0].json()["status"]["files"]  # without measurements in the response
    }
    assert client.get("/gpu-status").json()["loaded_models"][2] == "inswapper_128"
    assert client.post("/api/jobs/three/stop").json()["state"] == "cancelled"
    assert [each["state"] for each in client.get("/api/jobs").json()] == ["running", "cancelled", "queued"]
    assert client.get("/api/jobs/none").status_code == 404
    assert client.post("/api/jobs/none/stop").status_code == 422

    process = service.process
    assert process is not None
    process.kill()
    process.wait()
    client = service.start()
    assert (state("one"), state("two"), state("three")) == ("running", "queued", "cancelled")
    assert [each.pid for each in service.workers()] == [first.pid]
    assert client.post("/api/jobs/one/stop").json()["state"] == "running"
    first.resume()
    until(lambda: state("one") == "cancelled", describe=lambda: client.get("/api/jobs/one").text)
    assert client.post("/api/jobs", json=one).json()["state"] == "queued"
    until(lambda: {each["state"] for each in client.get("/api/jobs").json()} == {"done", "cancelled"})
    assert not list(service.jobs.rglob(QUEUED_NAME))
    assert repeated_segments(service.jobs / "one") == {}

    process = service.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0
    run_here(service.inputs / "photo.png", service.inputs / "clip1.mp4", tmp_path / "one", constant_models)
    assert contents(service.jobs / "one") == contents(tmp_path / "one")
    assert list(contents(service.jobs / "two")) == ["clip2.mp4"]


@pytest.fixture
def server(tmp_path: Path, constant_models: Path) -> Server:
    (tmp_path / "inputs").mkdir()
    draw_photo(tmp_path / "inputs")
    return Server((tmp_path / "inputs",), None, constant_models, Queue(tmp_path / "jobs"))


ESCAPES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "absolute": lambda _: {"targets": ["/etc/hostname"]},
    "upwards": lambda place: {"targets": [str(place / ".." / "outside.png")]},
    "by a pattern": lambda place: {"targets": [f"{place}/*/../../outside.png"]},
    "pattern elsewhere": lambda _: {"targets": ["/*/*"]},
    "in a store": lambda _: {"targets": ["s3://films/a.mp4"]},
    "photo in a store": lambda _: {"sources": ["gs://films/me.png"]},
    "results in a store": lambda _: {"output_dir": "s3://films/out"},
    "by a link": lambda place: {"targets": [str(place / "link.png")]},
    "by a link in a folder": lambda place: {"targets": [str(place)]},
    "source": lambda place: {"sources": [str(place.parent / "outside.png")]},
    "never": lambda place: {"never": [str(place.parent / "outside.png")]},
    "statement": lambda _: {"consent": "/etc/consent.yaml"},
    "key": lambda _: {"overrides": {"signing_certificate": "/etc/ssl/private/key.pem"}},
    "network": lambda _: {"overrides": {"swapper_model": "../../x"}},
    "results": lambda _: {"output_dir": "../out"},
    "models": lambda _: {"models_dir": "/etc"},
    "report": lambda _: {"report_path": "/etc/report.json"},
    "work_dir": lambda _: {"work_dir": "/tmp"},
    "in the server": lambda _: {"in_process": True},
    "library": lambda _: {"library": "/home"},
    "cluster": lambda _: {"cluster": "10.0.0.1:6379"},
    "key beside the server": lambda _: {"overrides": {"signing_certificate": "key.pem"}},
    "too long": lambda _: {"output_dir": "x" * 250},
}


@pytest.mark.parametrize("way", ESCAPES)
def test_requests_cannot_leave_allowed_folders(way: str, server: Server, tmp_path: Path) -> None:
    place = tmp_path / "inputs"
    draw_photo(tmp_path).rename(tmp_path / "outside.png")
    if "link" in way:
        (place / "link.png").symlink_to(tmp_path / "outside.png")
    photo = [str(place / "photo.png")]
    request = {"sources": photo, "targets": photo, "consent": CONSENT}
    with pytest.raises(UsageError, match=r"over HTTP|not in any folder|not a valid folder name"):
        server.add_job({**request, **ESCAPES[way](place)})
    assert not (tmp_path / "jobs").exists()


def test_concurrent_uploads_are_all_kept(server: Server, tmp_path: Path) -> None:
    server.library = tmp_path / "people"
    request = serve.Avatar(name="hanna", photos=[data_url(tmp_path / "inputs" / "photo.png")])
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: server.add_avatar(request), range(16)))
    assert len(list((tmp_path / "people" / "hanna").iterdir())) == 16


def test_queue_survives_missing_folder(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise FileNotFoundError if len(calls) == 1 else KeyboardInterrupt

    monkeypatch.setattr(queue, "_POLL_INTERVAL", 0)
    monkeypatch.setattr(server.queue, "_next", fail)
    with pytest.raises(KeyboardInterrupt):
        server.queue.work()


def test_job_that_cannot_start_is_failed_with_reason(server: Server, tmp_path: Path) -> None:
    photo = str(tmp_path / "inputs" / "photo.png")
    overrides = {"swapper_model": "other"}
    request = {"sources": [photo], "targets": [photo], "consent": CONSENT, "overrides": overrides}
    name = server.add_job({**request, "output_dir": "odd"})["id"]
    job = server.queue._next()
    assert job is not None
    server.queue._run(job)
    found = server.job(name)
    assert found["state"] == "failed"
    assert "other" in found["status"]["notes"][-1]
    (tmp_path / "jobs" / "mine").mkdir()
    (tmp_path / "jobs" / "mine" / STATUS_NAME).write_text("from another program")
    with pytest.raises(UsageError, match="already"):
        server.add_job({**request, "output_dir": "mine"})


def test_face_swap_waits_for_limited_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_SLOT_WAIT_SECONDS", 0.2)
    request = serve.Swap(source="hanna", target="data:,x", consent=CONSENT)
    with server.queue.turn_lock, pytest.raises(HTTPException) as caught:
        asyncio.run(server.face_swap(request))
    assert caught.value.status_code == 503
    with pytest.raises(MediaError, match="only data URLs"):  # the lock is free again
        asyncio.run(server.face_swap(request))
    assert not server.queue.turn_lock.locked()


def test_gpu_status_reports_nvml_values(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml()
    nvml.__dict__["nvmlSystemGetCudaDriverVersion_v2"] = lambda: 12080
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(sampler, "open_gpu", lambda: 0)
    machine = SimpleNamespace(gpu=None)  # not the cached one, which other tests use
    monkeypatch.setattr(serve, "this_machine", lambda: machine)
    status = server.gpu_status()
    assert (status["cuda"], status["vram_total"], status["vram_reserved"]) == ("12.8", 16 * GIB, 3 * GIB)
    assert (status["vram_free"], status["vram_percent"]) == (13 * GIB, 18.75)


def test_serve_is_refused_with_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("x" * 40)
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(UsageError, match="other users can read"):
        load_or_create_token(tmp_path / "token")
    with folder_lock(tmp_path / "jobs"):
        assert main(["serve", str(tmp_path / "jobs"), "--port", "0"]) == WRONG_USAGE
    assert "working in this folder" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", str(tmp_path / "jobs"), "--port", str(taken.getsockname()[1])]) == WRONG_USAGE
    assert "cannot listen there" in capsys.readouterr().err
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    assert main(["serve", str(tmp_path / "jobs")]) == WRONG_USAGE
    assert "Colab's terms" in capsys.readouterr().err
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "uvicorn" else SimpleNamespace())
    assert main(["serve", str(tmp_path / "jobs")]) == WRONG_USAGE
    assert "not installed: uvicorn. What to do: run 'bash setup.sh install serve'" in capsys.readouterr().err
