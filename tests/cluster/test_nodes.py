"""Requests refused before Ray is used; these tests need no Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from colab_helpers import errors
from colab_helpers.batch.job import Job
from colab_helpers.batch.plan import Task
from colab_helpers.cluster import nodes
from colab_helpers.cluster.supervisor import with_mapped_paths
from colab_helpers.errors import OutputError, UsageError, WorkerError
from colab_helpers.request import BatchRequest


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path))
    monkeypatch.setattr(errors, "find_spec", lambda _name: object())
    return tmp_path


def token(home: Path, mode: int = 0o600) -> None:
    (home / "cluster.token").write_text("0" * 64)
    (home / "cluster.token").chmod(mode)


def test_missing_ray_is_refused_with_the_install_command(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path))
    monkeypatch.setattr(errors, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"setup\.sh install cluster"):
        nodes.connect("127.0.0.1:1")


def test_node_without_authentication_is_not_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(UsageError, match="disables authentication"):
        nodes.start("127.0.0.1", 1)


def test_token_is_created_for_this_user_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(nodes, "_run_ray", lambda *given: commands.append(given))
    assert nodes.start("127.0.0.1", 7777) == "127.0.0.1:7777"
    assert nodes.token_path().stat().st_mode & 0o777 == 0o600
    made = nodes.token_path().read_text()
    assert len(made) == 64
    nodes.start("127.0.0.1", 7777)
    assert nodes.token_path().read_text() == made, "other machines use it"
    assert "--node-ip-address=127.0.0.1" in commands[0]


def test_socket_folder_of_another_user_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"colab_helpers-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="belongs to another user"):
        nodes.start("127.0.0.1", 7777)


def test_start_timeout_of_ray_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(nodes, "_START_TIMEOUT", 0.2)
    with pytest.raises(WorkerError, match="Ray did not start: it took longer than 0 seconds"):
        nodes.start("127.0.0.1", 7777)


@pytest.mark.parametrize("mode", [0o644, None])
def test_missing_or_readable_token_is_refused(home: Path, mode: int | None) -> None:
    if mode is not None:
        token(home, mode)
    with pytest.raises(UsageError, match="can be read by other users"):
        nodes.connect("127.0.0.1:1")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:99999999"])
def test_unreachable_address_is_refused_at_once(home: Path, address: str) -> None:
    token(home)
    with pytest.raises(UsageError, match="no cluster answers at this address"):
        nodes.connect(address)


def test_auto_means_the_cluster_of_this_machine(home: Path) -> None:
    with pytest.raises(UsageError, match="belongs to no cluster"):
        nodes.connect("auto")
    token(home)
    (home / "cluster.json").write_text(json.dumps({"address": "127.0.0.1:1"}))
    with pytest.raises(UsageError, match="no cluster answers at this address"):
        nodes.connect("auto")


def test_node_on_the_loopback_listens_on_no_other_interface(home: Path) -> None:
    token(home)
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    assert nodes._environment("127.0.0.1:6379")[name] == "0"
    assert nodes._environment("10.0.0.2:6379")[name] == "1"


def job(**given: object) -> Job:
    request = BatchRequest(
        sources=["/mnt/me/photo.jpg"],
        targets=["/mnt/clips"],
        output_dir="/mnt/out",
        consent="me: self",
        **given,
    )
    tasks = [
        Task(Path("/mnt/clips/a.mp4"), Path("/mnt/out/a.mp4")),
        Task(Path("/mnt2/b.mp4"), Path("/mnt/out/b.mp4")),
    ]
    return Job(request=request, names=("photo",), tasks=tuple(tasks))


def test_paths_are_mapped_to_the_mounts_of_the_cluster() -> None:
    found = with_mapped_paths(job(map_paths=["/mnt=/data", "/mnt2/=/more/"]))
    assert found.request.sources == ("/data/me/photo.jpg",)
    assert found.folder == Path("/data/out")
    assert [str(task.target) for task in found.tasks] == ["/data/clips/a.mp4", "/more/b.mp4"]
    same = job()
    assert with_mapped_paths(same) == same


@pytest.mark.parametrize("pair", ["/mnt", "mnt=/data", "/mnt=data", "="])
def test_invalid_path_mapping_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="invalid path mapping"):
        with_mapped_paths(job(map_paths=[pair]))


def test_batch_without_a_cluster_does_not_load_ray() -> None:
    script = "import colab_helpers.api, colab_helpers.batch.worker, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in loaded if name == "ray" or name.startswith("colab_helpers.cluster")]
