"""Running notebooks headless: small notebooks, one for each behaviour."""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from papermill.exceptions import PapermillExecutionError

from colab_helpers import machine
from colab_helpers.batch.status import read_status
from colab_helpers.batch.stop import STOP_NAME
from colab_helpers.errors import UsageError
from colab_helpers.files import write_atomically
from colab_helpers.request import SetupRequest
from colab_helpers.ui import headless
from colab_helpers.ui.form import read_form
from colab_helpers.ui.headless import main
from tests.conftest import TIMEOUT, until
from tests.helpers.processes import run_at_worker_start

PARAMETERS = """\
preset: str = "balanced"  #@param
overrides: dict = {}
models_dir: str = "a=b"
demo: bool = True
output_dir: str = ""
language: str = "auto"
headless: bool = False"""
REQUEST = "from colab_helpers.request import SetupRequest\nrequest = SetupRequest.of(globals())"


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "small.ipynb"
    first = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    rest = map(new_code_cell, ("%pwd", REQUEST, *cells))
    nbformat.write(new_notebook(cells=[first, *rest], metadata=kernel), path)
    return path


def test_form_and_request_are_read_from_notebook(tmp_path):
    """Also with IPython magics in other cells and "=" in a default."""
    model, form = read_form(notebook(tmp_path))
    assert model is SetupRequest
    assert tuple(form) == ("preset", "overrides", "models_dir", "demo", "output_dir", "language", "headless")
    assert (form["models_dir"], form["demo"]) == ("a=b", True)
    (tmp_path / "none.ipynb").write_text('{"cells": []}')
    (tmp_path / "text.ipynb").write_text("text")
    for name, complaint in (("none", "no form"), ("text", "not a notebook"), ("gone", "no such notebook")):
        with pytest.raises(UsageError, match=complaint):
            read_form(tmp_path / f"{name}.ipynb")


def test_output_notebook_on_unmounted_drive_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "DRIVES", (tmp_path / "drive",))
    monkeypatch.chdir(tmp_path)
    assert main([str(notebook(tmp_path)), "drive/MyDrive/run/out.ipynb"]) == 2
    assert "Google Drive is not mounted" in capsys.readouterr().err
    assert not (tmp_path / "drive").exists()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("demo=perhaps", "demo = 'perhaps' is not allowed"),
        ("overrides=[1]", "overrides = "),
        ("preset=fastest", "there is no preset 'fastest'"),
        ("overrides={batchsize: 2}", "unknown key 'batchsize'"),
        ("language=fr", "allowed: auto, en, es"),
        ("colour=red", "no parameter 'colour'"),
    ],
)
def test_values_are_validated_before_kernel_starts(tmp_path, capsys, monkeypatch, word, expected):
    monkeypatch.setattr(headless, "run_notebook", lambda *_: pytest.fail("a kernel was started"))
    out = tmp_path / "run" / "out.ipynb"
    assert main([str(notebook(tmp_path)), str(out), word]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "What to do" in error
    assert not out.parent.exists()


def test_run_passes_values_and_lists_its_results(tmp_path, capfd):
    cell = (
        "import json, pathlib, sys\n"
        "values = [preset, demo, headless, output_dir, sys.executable]\n"
        "pathlib.Path(output_dir, 'values.json').write_text(json.dumps(values))\n"
        "summary = {'succeeded': 1, 'total': 2, 'seconds': 3.21}\n"
        "files = [{'status': 'done', 'output': '/results/a.mp4'}, {'status': 'failed', 'output': None}]\n"
        "report = json.dumps({'summary': summary, 'files': files})\n"
        "pathlib.Path(output_dir, 'report.json').write_text(report)\n"
        "print('working on it')"
    )
    out = tmp_path / "a {run}" / "out.ipynb"
    source = notebook(tmp_path, cell, "raise RuntimeError('b.mp4 failed')")
    assert main([str(source), str(out), "preset=light", "-p", "demo", "no"]) == 1
    values = json.loads((out.parent / "values.json").read_text())
    assert values[:4] == ["light", False, True, str(out.parent)]
    assert Path(values[4]) == Path(sys.executable)
    printed = capfd.readouterr()
    assert "RuntimeError: b.mp4 failed" in printed.err
    assert "Traceback" not in printed.err
    for line in (
        "working on it",
        "1 of 2 files in 3.2 s",
        "result:   /results/a.mp4",
        f"report:   {out.parent / 'report.json'}",
        f"notebook: {out}",
    ):
        assert line in printed.out


@pytest.mark.parametrize(
    ("place", "error", "code"),
    [
        ("errors", "ConsentError", 2),
        ("errors", "WorkerError", 1),
        ("batch.lock", "FolderBusyError", 2),
        ("ui.setup", "SetupError", 1),
        ("ui.preload", "PreloadError", 1),
        ("ui.batch_swap", "StoppedError", 130),
    ],
)
def test_exit_codes_of_refusal_failure_and_stop(tmp_path, monkeypatch, capsys, place, error, code):
    def fail(*_, **__):
        raise PapermillExecutionError(1, 1, "", error, "why", [])

    monkeypatch.setattr("papermill.execute_notebook", fail)
    kind = getattr(importlib.import_module(f"colab_helpers.{place}"), error)
    assert main([str(notebook(tmp_path)), str(tmp_path / "out.ipynb")]) == code
    assert (2 if kind.refusal else 1) == (1 if code == 130 else code)
    assert capsys.readouterr().err.count(error) == 1


def test_only_reports_of_this_run_are_listed(tmp_path):
    """The folder has reports of earlier runs; one rewritten with the same content counts as new."""
    batch = '{"summary": {"succeeded": 1, "total": 1, "seconds": 1.5}, "files": []}'
    old = {"report.json": batch, "doctor.json": "{}", "preload.json": "not even JSON"}
    for name, text in old.items():
        (tmp_path / name).write_text(text)
    out, before = tmp_path / "out.ipynb", headless.reports_in(tmp_path)
    assert headless.describe_results(out, tmp_path, before) == []
    out.touch()
    (tmp_path / "report.html").write_text("<p>for people</p>")
    for name in ("report.json", "doctor.json", "monitor.json"):
        write_atomically(tmp_path / name, old.get(name, "{}").encode())
    assert headless.describe_results(out, tmp_path, before) == [
        "1 of 1 files in 1.5 s",
        *(
            f"report:   {tmp_path / name}"
            for name in ("report.html", "report.json", "doctor.json", "monitor.json")
        ),
        f"notebook: {out}",
    ]


class Kernel:
    """Counts how often it is interrupted."""

    interrupts = 0

    async def interrupt_kernel(self) -> None:
        self.interrupts += 1


def test_interrupt_waits_until_kernel_starts_cell():
    """A kernel drops interrupts while it is idle, even if a cell has been sent to it."""
    kernel, stops = Kernel(), headless.InterruptRelay()

    async def run() -> None:
        stops.before_cell()
        stops.on_message({"msg_type": "status"}, kernel)
        stops.on_signal(signal.SIGTERM, None)
        await asyncio.sleep(0.01)
        assert kernel.interrupts == 0
        stops.on_message({"msg_type": "execute_input"}, kernel)
        await asyncio.sleep(0.01)
        assert kernel.interrupts == 1
        stops.on_message({"msg_type": "stream"}, kernel)
        stops.on_signal(signal.SIGINT, None)
        await asyncio.sleep(0.01)
        assert kernel.interrupts == 2
        with pytest.raises(headless.CellsSkippedError):  # cells not yet started are skipped
            stops.before_cell()
        with pytest.raises(KeyboardInterrupt):
            stops.on_signal(signal.SIGINT, None)

    asyncio.run(run())


# A video that never ends, but can be stopped.
ENDLESS = """
    import os, time
    from pathlib import Path
    from colab_helpers.batch.run_file import FileRun
    def endless(self, *_):
        Path(os.environ["STARTED"]).touch()
        while True:
            self.heartbeat()
            time.sleep(0.01)
    FileRun._process_video = endless
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_setup_sh_reaches_worker(demo, tmp_path, monkeypatch, signum):
    """Through the shell, the headless runner, papermill's kernel and the worker's supervisor."""
    run_at_worker_start(monkeypatch, tmp_path, ENDLESS)
    started, out = tmp_path / "started", tmp_path / "out"
    monkeypatch.setenv("STARTED", str(started))
    monkeypatch.setenv("PYTHON", sys.executable)
    root = Path(__file__).resolve().parents[2]
    shutil.copy(root / "setup.sh", tmp_path)  # it creates its runs folder beside itself
    for name in ("notebooks", "colab_helpers"):
        (tmp_path / name).symlink_to(root / name)
    words = [f"sources={demo / 'source' / 'alma.png'}", f"targets={demo / 'targets' / 'clip1.mp4'}"]
    words += [f"models_dir={demo / 'models'}", f"output_dir={out}"]
    process = subprocess.Popen(
        ["bash", str(tmp_path / "setup.sh"), "--system", "run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until(lambda: started.exists() or process.poll() is not None)
        process.send_signal(signum)
        text, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == 130, text
    assert "stopped; run the same command again" in text
    assert "0 of 1 files in" in text
    assert read_status(out).state == "cancelled"
    assert not (out / STOP_NAME).exists()
    lines = [other.info["cmdline"] or [] for other in psutil.process_iter(["cmdline"])]
    assert not [word for line in lines for word in line if str(tmp_path) in word]


def test_dead_kernel_has_its_own_exit_code(tmp_path, capfd):
    cell = "import os\nos._exit(9)"
    assert main([str(notebook(tmp_path, cell)), str(tmp_path / "out.ipynb")]) == headless.EXIT_DEAD_KERNEL
    assert "because memory ran out" in capfd.readouterr().err


def test_kernel_of_another_python_is_refused(tmp_path, monkeypatch, capsys):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/other/bin/python", "-m", "ipykernel_launcher"], "display_name": "x", "language": "x"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert main([str(notebook(tmp_path)), str(tmp_path / "out.ipynb")]) == 2
    assert "starts /other/bin/python" in capsys.readouterr().err
