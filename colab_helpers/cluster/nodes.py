"""This machine as a node of a cluster of one's own: start, join, look, stop; and the way into one.

Nothing is started or entered without a token: whoever gets into a cluster can run any code on its machines.
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

from colab_helpers.batch.report import write_text
from colab_helpers.errors import UsageError, WorkerError, require_extra
from colab_helpers.files import open_private, parse_json
from colab_helpers.language import tr
from colab_helpers.machine import home

LOOPBACK, AUTO = "127.0.0.1", "auto"
NAMESPACE = "colab_helpers"
# Seconds that Ray may take to start, an address to answer, and a node to end.
_MAX_START, _MAX_CONNECT, _MAX_END = 120.0, 5.0, 3.0
# Where the programs lie of which a node consists.
_RAYS = "-packages/ray/"
# Nothing goes through Ray's store of objects but calls and records of a few hundred bytes.
_STORE_BYTES = 80_000_000


def start(host: str, port: int) -> str:
    """Make this machine the first node of a cluster, and return its address; on the loopback it stays alone.

    UsageError where Ray is missing or told to let everybody in, WorkerError where it does not start.
    """
    path = token_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "x", opener=open_private) as file:
            file.write(secrets.token_hex(32))
    address = f"{host}:{port}"
    alone = ("--include-dashboard=false", f"--temp-dir={_folder()}")
    _run_ray(address, "--head", f"--node-ip-address={host}", f"--port={port}", *alone)
    return address


def join(address: str, host: str = "") -> None:
    """Make this machine a further node of the cluster at an address; ``host``: its own, chosen if not given.

    UsageError where Ray, the token or the cluster is missing, WorkerError where it does not start.
    """
    _reach(address)
    _run_ray(address, f"--address={address}", *([f"--node-ip-address={host}"] if host else []))


def connect(address: str) -> Any:
    """Enter a cluster, ``auto`` for that of this machine, as a shell does; return the module ray.

    UsageError where Ray, the token or the cluster is missing, or another token is asked for.
    """
    address = _known_address() if address == AUTO else address
    os.environ.update(_environment(address))
    _reach(address)
    import ray  # takes seconds; and it reads the environment as it is imported

    if ray.is_initialized():
        return ray
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="critical")
    except (ConnectionError, RuntimeError) as error:
        raise UsageError(
            tr("the cluster does not let this machine in"),
            where=address,
            remedy=tr("copy {token} from the machine on which it was started", token=token_path()),
        ) from error
    return ray


def describe_cluster(address: str) -> list[str]:
    """Say of a cluster which machines are in it and what they have, and which batches are at work."""
    ray, lines = connect(address), []
    for node in ray.nodes():
        if node["Alive"]:
            has = {name: node["Resources"].get(name, 0) for name in ("CPU", "GPU")}
            told = tr("{node}: {CPU:.0f} core(s), {GPU:.0f} GPU(s)", node=node["NodeManagerAddress"], **has)
            lines.append(told)
    batches = [ray.get_actor(name, NAMESPACE) for name in ray.util.list_named_actors()]
    return [*lines, *(tr("at work: {folder}", folder=ray.get(batch.about.remote())[1]) for batch in batches)]


def stop() -> int:
    """End the nodes that run on this machine; return how many. What batches have finished is kept."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(_folder()) in line and _RAYS in line:
            process.terminate()
            found.append(process)
    for process in psutil.wait_procs(found, _MAX_END)[1]:
        process.kill()
    (home() / "cluster.json").unlink(missing_ok=True)
    return sum(process.info["name"] == "raylet" for process in found)


def token_path() -> Path:
    """Return where this user's token of a cluster lies."""
    return home() / "cluster.token"


def _run_ray(address: str, *options: str) -> None:
    usual = ("--disable-usage-stats", f"--object-store-memory={_STORE_BYTES}")
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *usual],
        env={**os.environ, **_environment(address)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MAX_START,
        check=False,
    )
    if done.returncode:
        said = " | ".join(line for line in (done.stdout + done.stderr).splitlines()[-3:] if line.strip())
        raise WorkerError(
            tr("Ray did not start: {reason}", reason=said),
            where=address,
            remedy=tr(
                "choose another port, or end what runs there with 'python -m colab_helpers cluster stop'"
            ),
        )
    write_text(home() / "cluster.json", json.dumps({"address": address}))


def _known_address() -> str:
    try:
        return str(parse_json((home() / "cluster.json").read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            tr("this machine belongs to no cluster"),
            remedy=tr("run 'python -m colab_helpers cluster start', or name the address of one"),
        ) from error


def _reach(address: str) -> None:
    """Refuse an address at which nobody answers, before Ray tries for a minute."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _MAX_CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            tr("no cluster answers there ({reason})", reason=error),
            where=address,
            remedy=tr("write HOST:PORT as 'cluster start' told it, and see that the machine can be reached"),
        ) from error


def _environment(address: str) -> dict[str, str]:
    """Return what every process of a cluster is told: to ask for the token; on the loopback, to be alone.

    Raises:
        UsageError: Ray is missing or told to let everybody in, or others can read the token.
    """
    require_extra("cluster", "ray")
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise UsageError(
            tr("RAY_AUTH_MODE lets everybody in who can reach a cluster, to run any code"),
            remedy=tr("unset it: a token is used"),
        )
    path = token_path()
    if not path.is_file() or stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(
            tr("there is no token of a cluster here that you alone can read"),
            where=str(path),
            remedy=tr("copy it from the machine on which the cluster was started, and run chmod 600 on it"),
        )
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On any system: whether there may be more nodes; without, it listens on the loopback alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if address.startswith(f"{LOOPBACK}:") else "1",
    }


def _folder() -> Path:
    # Sockets have short names: not below a home that may be deep.
    return Path(tempfile.gettempdir()) / f"colab_helpers-{os.getuid()}" / "ray"
