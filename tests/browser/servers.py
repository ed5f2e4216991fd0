"""JupyterLab and Voila servers for the tests: local only, with their own folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT = 60.0

LAB = ["jupyterlab", "--ServerApp.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True"]
VOILA = ["voila", "--show_tracebacks=True"]

_SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Cells outside the viewport stay in the DOM, so that tests find them.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def environment(folder: Path) -> dict[str, str]:
    """Environment of a server and its kernels, which keeps them out of the user's folders."""
    for name, values in _SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython", "COLAB_HELPERS_HOME": "home", "COLAB_HELPERS_RUNS": "runs",
    }  # fmt: skip
    variables = {name: str(folder / place) for name, place in folders.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLAB_HELPERS_")}
    fixed = {
        "PYTHONPATH": str(ROOT),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    return {**inherited, **variables, **fixed}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(words: list[str], folder: Path, variables: Mapping[str, str], log: Path) -> Iterator[str]:
    """Serve the notebooks of a folder; yields the address."""
    port = _free_port()
    place = [f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    if words[0] == "voila":
        place = [str(folder), "--Voila.ip=127.0.0.1", f"--port={port}"]
    options = [] if words[0] == "voila" else ["--allow-root"]
    command = [sys.executable, "-m", *words, *place, "--no-browser", *options]
    with log.open("w") as lines:
        process = subprocess.Popen(command, cwd=folder, env=dict(variables), stdout=lines, stderr=lines)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the server did not start:\n{log.read_text()}") from error
            time.sleep(0.2)
        else:
            return


def end_kernels(address: str) -> None:
    """End all kernel sessions of JupyterLab."""
    with urllib.request.urlopen(f"{address}/api/sessions", timeout=10) as answer:
        sessions = json.load(answer)
    for session in sessions:
        request = urllib.request.Request(f"{address}/api/sessions/{session['id']}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()
