"""A cluster whose machines share no disk: everything goes through object storage."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch.test_store import SPECS, content, names, server  # noqa: F401
from tests.cluster.test_cluster import HEAD, NODE, SLOW, cluster, processes, pytestmark  # noqa: F401
from tests.conftest import CONSENT, until
from tests.helpers.processes import Shell, at_start, contents, draw_photo, ended, made_once, run_here

OWN_DISK = f"""
if "--node-ip-address={NODE}" in sys.orig_argv:
    import os
    os.environ["TMPDIR"] = os.environ["TMPDIR"] + "/other"
"""


@pytest.fixture(scope="module")
def place(server) -> Iterator[Path]:  # noqa: F811
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLAB_HELPERS_HOME", f"{name}/home")
        patch.setenv("TMPDIR", name)
        (Path(name) / "other").mkdir()
        (Path(name) / "shell").mkdir()
        at_start(patch, Path(name), OWN_DISK + SLOW)
        with socket.create_server((HEAD, 0)) as free:
            port = free.getsockname()[1]
        try:
            cluster("start", "--host", HEAD, "--port", str(port))
            cluster("join", f"{HEAD}:{port}", "--host", NODE)
            yield Path(name)
        finally:
            cluster("stop")
            until(lambda: not processes(Path(name), "raylet"))


def test_machines_that_share_no_disk_do_a_batch_together(place, server, shared_dir, constant_models, tmp_path):  # noqa: F811
    server.create_bucket(Bucket="films")
    local = made_once(shared_dir / "stored", SPECS)
    for path in local.iterdir():
        server.upload_file(str(path), "films", f"clips/{path.name}")
    server.upload_file(str(draw_photo(tmp_path)), "films", "me.png")
    shell = Shell("s3://films/clips", "s3://films/me.png", constant_models, CONSENT, "s3://films/out", "--cluster", "auto")
    print(ended(shell.start(env={**os.environ, "TMPDIR": f"{place}/shell"})))
    print(names(server))
    for each in place.rglob("*"):
        if each.is_file() and "s3:" in str(each): print(each, oct(each.stat().st_mode), each.stat().st_size)
    print(content(server, "out/report.json").decode()[-3000:])
    assert 0
