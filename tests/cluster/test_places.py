"""A cluster whose machines share no disk: everything goes through object storage."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from tests.batch.test_store import SPECS, brought, fetched, films, names, server  # noqa: F401
from tests.conftest import CONSENT
from tests.helpers.cluster import NODE, first_node, join
from tests.helpers.processes import Shell, draw_photo, ended, entries, made_once, repeated, run_here

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.xdist_group("cluster"),
]
OWN_DISK = f"""
import os
if "--node-ip-address={NODE.format(3)}" in sys.orig_argv:
    os.environ["TMPDIR"] = os.path.dirname(os.environ["FAKE"]) + "/other"
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
"""


def test_machines_that_share_no_disk_do_a_batch_together(
    server: Any,  # noqa: F811
    shared_dir: Path,
    constant_models: Path,
    tmp_path: Path,
) -> None:
    local, photo = made_once(shared_dir / "stored", SPECS), draw_photo(tmp_path)
    server.create_bucket(Bucket="films")
    for path in (*local.iterdir(), photo):
        server.upload_file(str(path), "films", f"clips/{path.name}" if path.name in SPECS else "me.png")
    with first_node(OWN_DISK) as place:
        join(3)
        shell = Shell(
            "s3://films/clips", "s3://films/me.png", constant_models, CONSENT, "s3://films/out",
            "--cluster", "auto",
        )  # fmt: skip
        (place / "shell").mkdir()
        ended(shell.start(env={**os.environ, "TMPDIR": str(place / "shell")}))
        assert [*(place / "other").rglob("journal.jsonl")], "the other machine has taken part"
        assert brought(place / "shell") == set()
    results = fetched(server, tmp_path / "down")
    assert run_here(photo, local, tmp_path / "alone", constant_models).ok
    assert films(results) == films(tmp_path / "alone")
    assert repeated(results) == {}
    assert len({entry["pid"] for entry in entries(results, "started")}) == 2
    assert names(server, "out/.work") == []
