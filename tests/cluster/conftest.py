from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cluster import NODE, first_node, join

OWN_DISK = f"""
if "--node-ip-address={NODE.format(3)}" in sys.orig_argv:
    import os
    os.environ["TMPDIR"] = os.path.dirname(os.environ["FAKE"]) + "/other"
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
"""
SLOW = """
if "colab_helpers.batch.pool_worker" in sys.orig_argv:
    import os, time
    from colab_helpers.media.segments import SegmentWriter
    write, together = SegmentWriter.write, os.path.dirname(os.environ["FAKE"]) + "/together"
    def slow(self, *args, **kwargs):
        if os.path.isdir(together):
            open(f"{together}/{os.getpid()}", "w").close()
        deadline = time.monotonic() + 60
        while os.path.isdir(together) and len(os.listdir(together)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.06)
        return write(self, *args, **kwargs)
    SegmentWriter.write = slow
"""
"""Slows down frames as on a small GPU, so that there is time to kill processes.

While a folder ``together`` exists, a worker waits up to a minute for another one before it writes.
"""


@pytest.fixture(scope="package")
def place() -> Iterator[Path]:
    """A cluster of two nodes with separate disks; they know the address of an object store."""
    with pytest.MonkeyPatch.context() as patch:
        with socket.create_server(("127.0.0.1", 0)) as free:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "unspoken")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with first_node(OWN_DISK + SLOW) as folder:
            join(3)
            yield folder
