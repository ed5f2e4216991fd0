"""Concurrent and killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.inventory import part_path
from tests.conftest import TIMEOUT, until
from tests.helpers import server as faults
from tests.helpers.server import FaultServer
from tests.models.conftest import BODY, assert_fetched, fetch, model, sha256, source

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from pathlib import Path
from colab_helpers.models.catalog import ModelEntry
from colab_helpers.models.fetching import fetch
from colab_helpers.models.download import FetchOptions

print("ready", flush=True)
[fetched] = fetch(Path(sys.argv[1]), [ModelEntry.model_validate_json(sys.argv[2])], FetchOptions())
print(fetched.source, flush=True)
"""


def start(root: Path, entry: ModelEntry) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(root), entry.model_dump_json()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_killed_download_is_resumed(tmp_path: Path, server: FaultServer) -> None:
    body = BODY * 20
    route = server.add("/net", body, faults.stuck)
    entry = model(source(server.url("/net"), body=body))
    process = start(tmp_path, entry)
    part = part_path(tmp_path / "net.onnx", sha256(body))
    until(lambda: part.exists() and part.stat().st_size >= len(body) // 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    size, sent = part.stat().st_size, route.sent
    assert len(body) // 4 <= size <= len(body) // 2
    assert not (tmp_path / "net.onnx").exists()
    fetch(tmp_path, entry)
    assert (route.starts, route.sent - sent) == ([0, size], len(body) - size)
    assert_fetched(tmp_path, body)


def test_concurrent_processes_and_threads_fetch_once(tmp_path: Path, server: FaultServer) -> None:
    route = server.add("/net", BODY)
    route.gate = threading.Event()
    entry = model(source(server.url("/net")))
    processes = [start(tmp_path, entry) for _ in range(2)]
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.extend(file.source for file in fetch(tmp_path, entry)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)  # one is downloading, the others wait
    route.gate.set()
    results += [process.communicate(timeout=TIMEOUT)[0].strip() for process in processes]
    for thread in threads:
        thread.join(TIMEOUT)
    assert sorted(results) == ["downloaded", "present", "present", "present"]
    assert len(route.requests) == 1
    assert_fetched(tmp_path)
