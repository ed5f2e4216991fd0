"""Several processes, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from colab_helpers.models.download import PreloadedFile
from colab_helpers.models.progress import Progress
from colab_helpers.models.sources import ModelSources
from colab_helpers.models.transfer import FetchOptions, Limits
from tests.conftest import PATIENCE, until
from tests.helpers import server as faults
from tests.helpers.server import FaultServer
from tests.models.conftest import BODY, assert_right, fetch, model, source

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from colab_helpers.models.catalog import load_catalog
from colab_helpers.models.download import fetch
from colab_helpers.models.transfer import FetchOptions

root, url, sha256, size = sys.argv[1:]
entry = {"role": "swapper", "urls": url, "sha256": sha256, "bytes": int(size), "licence": "mit"}
model = load_catalog({"net": entry}).get("net")
print("ready", flush=True)
[fetched] = fetch(Path(root), [model], FetchOptions())
print(fetched.source, flush=True)
"""


def start(root: Path, url: str, body: bytes = BODY) -> subprocess.Popen[str]:
    known = source(url, body=body)
    assert known.sha256 is not None
    arguments = [str(root), url, known.sha256[0], str(len(body))]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_killed_download_resumes(tmp_path: Path, server: FaultServer) -> None:
    body = BODY * 20
    route = server.add("/net", body, faults.stuck)
    process = start(tmp_path, server.url("/net"), body)
    part = tmp_path / ".net.onnx.part"
    until(lambda: part.exists() and part.stat().st_size >= len(body) // 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = part.stat().st_size
    assert len(body) // 4 <= there <= len(body) // 2
    assert not (tmp_path / "net.onnx").exists()

    first = route.sent
    fetch(tmp_path, model(source(server.url("/net"), body=body)))
    again = route.sent - first - (len(body) - there)
    assert route.starts == [0, there]
    assert again < 0.05 * len(body)
    assert_right(tmp_path, body)


def test_two_processes_fetch_once(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/net", BODY)
    route.gate = threading.Event()
    processes = [start(tmp_path, server.url("/net")) for _ in range(2)]
    for process in processes:
        ready(process)
    time.sleep(0.5)  # both are at it now: one is asking, the other waits
    route.gate.set()
    outputs = sorted(process.communicate(timeout=PATIENCE)[0].strip() for process in processes)
    assert outputs == ["downloaded", "present"]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(route.requests) == 1
    assert_right(tmp_path)


def test_waiting_for_another_process_can_be_interrupted(tmp_path: Path, server: FaultServer) -> None:
    server.add("/net", BODY)
    entry = model(source(server.url("/net")))

    def watch(progress: Progress) -> None:
        raise KeyboardInterrupt

    with ModelSources(tmp_path, FetchOptions()).alone("net.onnx"), pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, entry, on_progress=watch)


def test_two_threads_fetch_once(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/net", BODY, always=faults.paced(50_000, 0.05))
    entry = model(source(server.url("/net")))
    results: list[PreloadedFile] = []

    def work() -> None:
        results.extend(fetch(tmp_path, entry, limits=Limits()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(result.source for result in results) == ["downloaded", "present", "present"]
    assert len(route.requests) == 1
    assert_right(tmp_path)
