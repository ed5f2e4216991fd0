"""Start, join, describe, connect to and stop a private Ray cluster.

Every cluster requires a token, since anyone who can connect can run any code on its machines.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from colab_helpers.batch.drive import make_private
from colab_helpers.batch.report import write_text
from colab_helpers.errors import UsageError, WorkerError, require_extra
from colab_helpers.files import open_private, parse_json
from colab_helpers.language import mark, tr
from colab_helpers.machine import home

LOOPBACK, AUTO = "127.0.0.1", "auto"
NAMESPACE = "colab_helpers"
# Seconds for Ray to start, for an address to answer, and for a node's processes to exit.
_START_TIMEOUT, _CONNECT_TIMEOUT, _EXIT_TIMEOUT = 120.0, 5.0, 3.0
# Part of the command lines of a node's processes.
_RAY_PROGRAMS = "-packages/ray/"
# Small, as only calls and records of a few hundred bytes go through Ray's object store.
_OBJECT_STORE_BYTES = 80_000_000


def start(host: str, port: int) -> str:
    """Start a cluster with this machine as its first node; return its address.

    With a loopback ``host`` the cluster stays on this machine.

    Raises:
        UsageError: Ray is not installed, or its authentication is disabled.
        OutputError: The folder of its sockets belongs to another user.
        WorkerError: Ray does not start.
    """
    path = token_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "x", opener=open_private) as file:
            file.write(secrets.token_hex(32))
    make_private(_folder().parent)  # whoever owns the folder of the sockets could connect by them
    address = f"{host}:{port}"
    options = ("--include-dashboard=false", f"--temp-dir={_folder()}")
    _run_ray(address, "--head", f"--node-ip-address={host}", f"--port={port}", *options)
    return address


def join(address: str, host: str = "") -> None:
    """Add this machine to the cluster at an address; ``host``: its own address, chosen by Ray if empty.

    Raises:
        UsageError: Ray, the token or the cluster is missing.
        WorkerError: Ray does not start.
    """
    _check_reachable(address)
    _run_ray(address, f"--address={address}", *([f"--node-ip-address={host}"] if host else []))


def connect(address: str) -> Any:
    """Connect to a cluster as a client, ``auto`` being that of this machine; return the module ray.

    Raise UsageError if Ray, the token or the cluster is missing, or the cluster has another token.
    """
    address = _known_address() if address == AUTO else address
    os.environ.update(_environment(address))
    _check_reachable(address)
    import ray  # here, since it takes seconds and reads the environment on import

    if ray.is_initialized():
        return ray
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="critical")
    except (ConnectionError, RuntimeError) as error:
        what = tr("the cluster refused the connection of this machine")
        remedy = mark("copy {token} from the machine on which the cluster was started")
        raise UsageError(what, where=address, remedy=tr(remedy, token=token_path())) from error
    return ray


def describe_cluster(address: str) -> list[str]:
    """Return one line for each machine of a cluster, with its cores and GPUs, and for each running batch."""
    ray, lines = connect(address), []
    for node in ray.nodes():
        if node["Alive"]:
            cores, gpus = (node["Resources"].get(name, 0) for name in ("CPU", "GPU"))
            text = mark("{node}: {cores:.0f} core(s), {gpus:.0f} GPU(s)")
            lines.append(tr(text, node=node["NodeManagerAddress"], cores=cores, gpus=gpus))
    batches = [ray.get_actor(name, NAMESPACE) for name in ray.util.list_named_actors()]
    folders = [ray.get(batch.about.remote())[1] for batch in batches]
    return [*lines, *(tr("running: {folder}", folder=folder) for folder in folders)]


def stop() -> int:
    """Stop the nodes on this machine; return their number. Finished work of batches is kept."""
    processes = []
    for process in psutil.process_iter(["cmdline", "name"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(_folder()) in command and _RAY_PROGRAMS in command:
            process.terminate()
            processes.append(process)
    for process in psutil.wait_procs(processes, _EXIT_TIMEOUT)[1]:
        process.kill()
    (home() / "cluster.json").unlink(missing_ok=True)
    return sum(process.info["name"] == "raylet" for process in processes)


def token_path() -> Path:
    """Return the path of this user's cluster token."""
    return home() / "cluster.token"


def _run_ray(address: str, *options: str) -> None:
    common = ("--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE_BYTES}")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *common]
    env, lines = {**os.environ, **_environment(address)}, list[str]()
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        result = subprocess.run(command, env=env, timeout=_START_TIMEOUT, check=False, **pipes)
        if result.returncode:
            lines = [tr("exited with code {code}", code=result.returncode)]
            lines = (result.stdout + result.stderr).splitlines()[-3:] or lines
    except subprocess.TimeoutExpired:
        lines = [tr("it took longer than {limit:.0f} seconds", limit=_START_TIMEOUT)]
    if lines:
        what = tr("Ray did not start: {reason}", reason=" | ".join(line for line in lines if line.strip()))
        remedy = tr("choose another port, or stop it with 'python -m colab_helpers cluster stop'")
        raise WorkerError(what, where=address, remedy=remedy)
    write_text(home() / "cluster.json", json.dumps({"address": address}))


def _known_address() -> str:
    try:
        return str(parse_json((home() / "cluster.json").read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = tr("run 'python -m colab_helpers cluster start', or give the address of a cluster")
        raise UsageError(tr("this machine belongs to no cluster"), remedy=remedy) from error


def _check_reachable(address: str) -> None:
    """Raise UsageError for an address that does not answer; Ray would try for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
    except (OSError, ValueError, OverflowError) as error:
        what = tr("no cluster answers at this address ({reason})", reason=error)
        remedy = tr("use HOST:PORT as printed by 'cluster start', and check that the machine is reachable")
        raise UsageError(what, where=address, remedy=remedy) from error


def _environment(address: str) -> dict[str, str]:
    """Return the environment of a cluster's processes: the token is required, a loopback cluster is closed.

    Raise UsageError if Ray is not installed, its authentication is disabled, or others can read the token.
    """
    require_extra("cluster", "ray")
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        what = tr("RAY_AUTH_MODE disables authentication: anyone who reaches the cluster could run any code")
        raise UsageError(what, remedy=tr("unset RAY_AUTH_MODE; a token is used then"))
    path = token_path()
    if not path.is_file() or stat.S_IMODE(path.stat().st_mode) & 0o077:
        what = tr("the cluster token is missing or can be read by other users")
        remedy = tr("copy it from the machine on which the cluster was started, and run chmod 600 on it")
        raise UsageError(what, where=str(path), remedy=remedy)
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On any system: whether more nodes may join; if not, it listens on the loopback alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if address.startswith(f"{LOOPBACK}:") else "1",
    }


def _folder() -> Path:
    # Not below the home folder, which may be deep: paths of sockets are limited to about 100 characters.
    return Path(tempfile.gettempdir()) / f"colab_helpers-{os.getuid()}" / "ray"
