"""A real cluster of two nodes on this machine: kills lose no work and repeat none."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import psutil
import pytest

from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME, KnownPeople
from colab_helpers.batch.people_edits import set_source
from colab_helpers.batch.people_map import MAP_NAME
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.status import read_status
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.files import from_json
from colab_helpers.pages.live import live_text
from tests.batch.films import SETTINGS, changed, write_films
from tests.batch.test_object_store import SPECS as STORED
from tests.batch.test_object_store import downloaded, fetched, films, names
from tests.conftest import CONSENT, TIMEOUT, until
from tests.helpers.cluster import NODE, address, processes, thousand, watched_memory
from tests.helpers.processes import (
    BatchCommand,
    contents,
    draw_photo,
    journal_entries,
    leftover_files,
    makers,
    repeated_segments,
    run_here,
    shared_clips,
    wait_for_exit,
)
from tests.media.make import Sound, Spec, make, variable_pts
from tests.people.actors import portrait

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: bash setup.sh install cluster"
    ),
    pytest.mark.xdist_group("cluster"),
]
MAP = {MAP_NAME, PEOPLE_FOLDER_NAME}
OPEN_GROUPS = {"preset": "medium", "bf": "3", "g": "7", "x264-params": "open-gop=1"}
SPECS = {
    "cfr.mp4": Spec(size=(160, 90), frames=64, rate=Fraction(10), sounds=(Sound(),)),
    "vfr.mp4": Spec(size=(160, 90), frames=50, pts=variable_pts(50, step=120), options=OPEN_GROUPS),
    "long_groups.mp4": Spec(
        size=(160, 90), frames=54, rate=Fraction(10), options={"preset": "medium", "bf": "3", "g": "300"}
    ),
    "short.mp4": Spec(size=(160, 90), frames=5, rate=Fraction(10)),
}


@pytest.fixture(scope="module")
def shell(place: Path, constant_models: Path) -> BatchCommand:
    targets = place / "targets"
    targets.mkdir()
    for name, spec in SPECS.items():
        make(targets / name, spec)
    return BatchCommand(
        targets, draw_photo(place), constant_models, CONSENT, place / "out", "--cluster", "auto"
    )


def test_cluster_gives_the_results_of_one_machine_with_a_map(place, standins, tmp_path) -> None:
    """One person of a film is swapped, the other blurred."""
    clips, single, out = place / "clips", tmp_path / "single", place / "mapped"
    clips.mkdir()
    write_films(clips)
    photo, options = clips / "hanna.jpg", ("--frame-processors", "face_swapper")
    local, cluster = (
        BatchCommand(clips / "first.mp4", photo, standins, CONSENT, to, *options, *more)
        for to, more in ((single, ()), (out, ("--cluster", "auto")))
    )
    wait_for_exit(local.start("--people", "only"))
    analyser, known = FaceAnalyser(SETTINGS, models_dir=standins), KnownPeople.load(single)
    for who, source in (("alma", str(photo)), ("bruno", "blur")):
        look = analyser.find(portrait(who))[0].embedding
        name = max(known.groups, key=lambda group: float(known.groups[group].look @ look))
        set_source(single, name, [source])
    shutil.copytree(single, out, ignore=lambda *_: {path.name for path in single.iterdir()} - MAP)
    for run in [local.start(), cluster.start()]:
        wait_for_exit(run)
    assert changed(clips, out, "first") == {"alma", "bruno"}
    assert contents(out) == contents(single)
    found = [parts(folder) for folder in (single, out)]
    assert found[0] == found[1], "bytes, faces, tracks and measurements"
    assert len(found[0]) == 2


def parts(out: Path) -> list[dict[str, Any]]:
    """The segments in the journal, in order."""
    found = [entry["part"] for entry in journal_entries(out, "segment")]
    for part in found:
        part["measured"]["actions"].sort()  # a set
    return sorted(found, key=lambda part: int(part["segment"]["number"]))


@pytest.fixture
def server(place: Path) -> Iterator[Any]:
    """Client of the object store that the cluster knows."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    running = moto.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    running.start()
    yield boto3.client("s3")
    running.stop()


def test_batch_on_machines_without_shared_disk(server, place, shared_dir, constant_models, tmp_path) -> None:
    local, photo = shared_clips(shared_dir / "stored", STORED), draw_photo(tmp_path)
    server.create_bucket(Bucket="films")
    for path in (*local.iterdir(), photo):
        server.upload_file(str(path), "films", f"clips/{path.name}" if path.name in STORED else "me.png")
    shell = BatchCommand(
        "s3://films/clips", "s3://films/me.png", constant_models, CONSENT, "s3://films/out",
        "--cluster", "auto",
    )  # fmt: skip
    for name in ("shell", "together"):
        (place / name).mkdir()
    running = shell.start(env={**os.environ, "TMPDIR": str(place / "shell")})
    assert run_here(photo, local, tmp_path / "single", constant_models).ok
    wait_for_exit(running)
    shutil.rmtree(place / "together")
    assert [*(place / "other").rglob("s3:/films/clips")], "the other machine took part"
    assert fetched(place / "shell") == set()
    results = downloaded(server, tmp_path / "down")
    assert films(results) == films(tmp_path / "single")
    assert repeated_segments(results) == {}
    assert len({entry["pid"] for entry in journal_entries(results, "started")}) == 2
    assert names(server, "out/.work") == []


def test_coordinator_needs_little_memory_for_a_thousand_videos(place: Path, shell: BatchCommand) -> None:
    targets, out = thousand(place), place / "many"
    (place / "fake").touch()
    try:
        many = BatchCommand(
            targets, draw_photo(place), shell_models(shell), CONSENT, out, "--cluster", "auto"
        )
        with watched_memory(place) as sizes:
            assert "1000 of 1000 files" in wait_for_exit(many.start())
    finally:
        (place / "fake").unlink()
    peak = max(sizes)
    assert 0 < peak < 300e6, f"{peak / 1e6:.0f} MB"
    assert {entry["key"] for entry in journal_entries(out, "done")} == {str(number) for number in range(1000)}
    assert (segments(out), repeated_segments(out)) == (3000, {})
    text = "\n".join(live_text([], read_status(out), now=time.time()))
    assert len(text) < 4000, "the page stays readable"


def kill(found: list[psutil.Process]) -> None:
    assert found
    for process in found:
        process.kill()


def segments(out: Path) -> int:
    return len([*journal_entries(out, "segment")]) if (out / "journal.jsonl").exists() else 0


def more_than(out: Path, before: int) -> Callable[[], bool]:
    return lambda: segments(out) > before


def test_kills_lose_no_work_and_repeat_none(place: Path, shell: BatchCommand, tmp_path: Path) -> None:
    out = shell.out
    first = shell.start()
    until(more_than(out, 1))
    first.kill()  # the shell that started the batch may end
    first.wait()
    stranger = batch_with_another_token(shell, tmp_path)

    before = segments(out)
    until(more_than(out, before))
    actor = processes(place, "ray::WorkerActor")[0]
    kill(
        [each for each in processes(place, "colab_helpers.batch.pool_worker") if each.ppid() != actor.pid]
        + [actor]
    )
    second = shell.start()  # from a second shell
    before = segments(out)
    until(more_than(out, before))

    kill(processes(place, "ray::Coordinator"))
    before = segments(out)
    until(more_than(out, before))
    assert second.poll() is None, "the second shell keeps watching"
    subprocess.run([sys.executable, "-m", "colab_helpers", "stop", str(out)], check=True, timeout=TIMEOUT)
    wait_for_exit(second, 130)
    assert shell.status()["state"] == "cancelled"
    until(lambda: not processes(place, "colab_helpers.batch.pool_worker"))
    before = segments(out)
    assert before < 18, "it stopped before the end"

    last = shell.start()
    until(more_than(out, before))
    kill(processes(place, "raylet", f"--node_ip_address={NODE.format(3)}"))
    run_here(draw_photo(tmp_path), shell_targets(shell), tmp_path / "single", shell_models(shell))
    wait_for_exit(last)
    assert repeated_segments(out) == {}, "a finished segment was repeated"
    assert leftover_files(out, *SPECS) == set()
    assert contents(out) == contents(tmp_path / "single")
    assert {Path(entry["report"]["target"]).name for entry in journal_entries(out, "done")} == {*SPECS}
    report = from_json(BatchReport, (out / "report.json").read_bytes())
    nodes = {NODE.format(number) for number in (2, 3)}
    assert {name.split()[0] for name in makers(out, report)} <= nodes, (
        "also for segments made before the stop"
    )
    assert "refused the connection of this machine" in wait_for_exit(stranger, 2)


def batch_with_another_token(shell: BatchCommand, tmp_path: Path) -> subprocess.Popen[str]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cluster.token").write_text("0" * 64)
    (home / "cluster.token").chmod(0o600)
    env = {**os.environ, "COLAB_HELPERS_HOME": str(home)}
    return shell.start("--cluster", address(), env=env)


def shell_targets(shell: BatchCommand) -> Path:
    return Path(shell.command[shell.command.index("-t") + 1])


def shell_models(shell: BatchCommand) -> Path:
    return Path(shell.command[shell.command.index("--models-dir") + 1])
