"""setup.sh, run in an empty virtual environment with a fake pip."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import packaging
import pytest

from tests.conftest import TIMEOUT

ROOT = Path(__file__).resolve().parents[2]

# Logs its arguments and writes packages' metadata without downloading them.
FAKE_PIP = """
import json, os, pathlib, re, sys

here = pathlib.Path(__file__).resolve().parents[1]
arguments = sys.argv[1:]
record = {"arguments": arguments}
if "--constraint" in arguments:
    record["pins"] = pathlib.Path(arguments[arguments.index("--constraint") + 1]).read_text().split()
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(json.dumps(record) + "\\n")
if os.environ.get("PIP_ERROR"):
    sys.exit(os.environ["PIP_ERROR"])


def metadata(name, version):
    folder = here / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder


if arguments[0] == "uninstall":
    for word in arguments[1:]:
        for folder in here.glob(f"{word.replace('-', '_')}-[0-9]*.dist-info"):
            (folder / "METADATA").unlink()
            folder.rmdir()
else:
    for word in arguments[1:]:
        wanted = re.fullmatch(r"([\\w-]+)(\\[\\S+\\])?(?:.*>=([\\d.]+).*)", word)
        if not wanted or word.startswith("--"):
            continue
        metadata(wanted[1], wanted[3])
        if wanted[2]:
            number = "-cu12" if "<1.27" in word else ""
            metadata(f"nvidia-cuda-runtime{number}", "13.0" if not number else "12.8")
            metadata(f"nvidia-cudnn{number or '-cu13'}", "9.1")
    if "--editable" in arguments:
        root = pathlib.Path(arguments[arguments.index("--editable") + 1])
        record = {"url": root.as_uri(), "dir_info": {"editable": True}}
        (metadata("colab-helpers", "0.1.0") / "direct_url.json").write_text(json.dumps(record))
"""


def run(command: list[object], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, **options)


@dataclass(frozen=True)
class Sandbox:
    """A copy of setup.sh with its own virtual environment."""

    root: Path
    packages: Path
    log: Path

    def call(self, *words: str, error: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        # Only system folders: no uv, and only .venv's Python.
        given = {"PATH": "/usr/bin:/bin", "PIP_LOG": str(self.log), "PIP_ERROR": error, **variables}
        env = {"HOME": str(self.root), **given}
        return run(["bash", self.root / "setup.sh", *words], env=env, stdin=subprocess.DEVNULL)

    def calls(self) -> list[dict[str, list[str]]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def add_package(self, name: str, version: str) -> None:
        folder = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def sandbox(tmp_path) -> Sandbox:
    root = tmp_path / "a project"
    (root / "colab_helpers").mkdir(parents=True)
    shutil.copy(ROOT / "setup.sh", root)
    shutil.copy(ROOT / "pyproject.toml", root)
    for name in ("__init__.py", "startup.py", "install.py", "requirements.py"):
        shutil.copy(ROOT / "colab_helpers" / name, root / "colab_helpers")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    packages = next((root / ".venv" / "lib").glob("python3*")) / "site-packages"
    shutil.copytree(Path(packaging.__file__).parent, packages / "packaging")
    (packages / "pip").mkdir()
    (packages / "pip" / "__init__.py").touch()
    (packages / "pip" / "__main__.py").write_text(FAKE_PIP)
    return Sandbox(root, packages, tmp_path / "pip.log")


def test_second_install_does_not_call_pip(sandbox):
    first = sandbox.call("install", "dev,notebook")
    assert first.returncode == 0, first.stderr
    with_dependencies, no_deps = sandbox.calls()
    assert {"numpy>=2.0,<3", "papermill<3,>=2.6"} & set(with_dependencies["arguments"])
    assert no_deps["arguments"][-2:] == ["--editable", str(sandbox.root)]
    assert "insightface>=2.0,<3" in no_deps["arguments"]
    assert "--no-deps" in no_deps["arguments"]
    assert "--no-deps" not in with_dependencies["arguments"]
    assert with_dependencies["pins"] == []  # the environment is not shared

    second = sandbox.call("install", "dev", "notebook")
    assert second.returncode == 0, second.stderr
    assert "nothing to install" in second.stdout
    assert len(sandbox.calls()) == 2


def test_installed_packages_are_pinned_on_colab(sandbox):
    installed = {"numpy": "2.1.3", "opencv-python-headless": "5.0.0.93", "protobuf": "5.29.6"}
    for name, version in installed.items():
        sandbox.add_package(name, version)
    python = str(sandbox.root / ".venv" / "bin" / "python")
    done = sandbox.call("install", "notebook", PYTHON=python, COLAB_RELEASE_TAG="release-colab")
    assert done.returncode == 0, done.stderr
    first = sandbox.calls()[0]
    assert {f"{name}=={version}" for name, version in installed.items()} <= set(first["pins"])
    requested = {word.split(">")[0].split("<")[0] for word in first["arguments"]}
    assert not requested & {*installed}
    assert {"av", "onnx", "papermill"} <= requested


def test_duplicate_onnxruntime_is_replaced_by_one_build(sandbox):
    sandbox.add_package("onnxruntime", "1.31.1")
    sandbox.add_package("onnxruntime-gpu", "1.31.1")
    done = sandbox.call("install")
    assert done.returncode == 0, done.stderr
    assert "overwrite each other" in done.stdout
    uninstall, install, _ = sandbox.calls()
    assert uninstall["arguments"][0] == "uninstall"
    assert {"onnxruntime", "onnxruntime-gpu"} <= set(uninstall["arguments"])
    assert sum(word.startswith("onnxruntime") for word in install["arguments"]) == 1
    assert "nothing to install" in sandbox.call("install").stdout


def test_failure_message_has_step_reason_and_remedy(sandbox):
    done = sandbox.call("install", error="progress\n" * 30 + "ERROR: [Errno 28] No space left on device")
    assert done.returncode == 1
    assert "The step 'install packages' failed" in done.stderr
    assert "[Errno 28]" in done.stderr
    assert "What to do: look for the reason in the lines above: the network" in done.stderr


def test_pip_is_used_if_uv_fails(sandbox):
    uv = sandbox.root / ".venv" / "bin" / "uv"
    uv.write_text("#!/bin/sh\necho 'error: no such index'\nexit 2\n")
    uv.chmod(0o755)
    done = sandbox.call("install")
    assert done.returncode == 0, done.stderr
    assert "uv failed (error: no such index); trying pip" in done.stdout
    assert len(sandbox.calls()) == 2


def test_broken_environment_is_recreated(sandbox, tmp_path):
    python = sandbox.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "a Python that is gone")
    # The real Python creates the environment; its pip is kept from downloading.
    done = sandbox.call("install", PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "created again" in done.stdout
    assert python.exists()
    assert done.returncode == 1
    assert "What to do:" in done.stderr


def test_unsuitable_python_and_unknown_command_are_refused(sandbox):
    shutil.rmtree(sandbox.root / ".venv")
    done = sandbox.call("install", PYTHON="/bin/false")
    assert done.returncode == 1
    assert 'The step "find Python" failed' in done.stderr
    assert "PYTHON=/path/to/python3.12" in done.stderr
    done = sandbox.call("instal")
    assert done.returncode == 2
    assert "bash setup.sh [--system] install" in done.stderr
    assert "unknown command 'instal'" in done.stderr


def test_setup_runs_from_sh_and_bash_but_is_not_sourced(sandbox):
    """sh is dash on Debian; CDPATH has a folder of the same name."""
    elsewhere = sandbox.root.parent / "elsewhere"
    (elsewhere / sandbox.root.name).mkdir(parents=True)
    for command in (["sh", f"{sandbox.root.name}/setup.sh"], ["bash", f"{sandbox.root.name}/setup.sh"]):
        env = {"PATH": "/usr/bin:/bin", "PIP_LOG": str(sandbox.log), "CDPATH": str(elsewhere)}
        done = run([*command, "install"], cwd=sandbox.root.parent, env=env)
        assert done.returncode == 0, done.stderr
    assert len(sandbox.calls()) == 2
    script = f". '{sandbox.root}/setup.sh' install; echo the shell lives"
    done = run(["bash", "-c", script])
    assert "not sourced. What to do: bash" in done.stderr
    assert done.stdout == "the shell lives\n"


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_windows_checkout_keeps_unix_line_ends(tmp_path):
    """Git for Windows converts line ends to CRLF by default."""
    for name in (".gitattributes", "setup.sh", "notebooks/monitor.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    git = ["git", "-c", "core.autocrlf=true", "-c", "user.name=x", "-c", "user.email=x@localhost"]
    for words in ("init -q", "add .", "commit -qm x", "rm -rq setup.sh notebooks", "reset -q --hard"):
        subprocess.run([*git, *words.split()], cwd=tmp_path, check=True, capture_output=True)
    for name in ("setup.sh", "notebooks/monitor.ipynb"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.fixture
def shadowing_folder(tmp_path) -> Path:
    """A folder of packages for another Python version."""
    folder = tmp_path / "other packages"
    (folder / "numpy").mkdir(parents=True)
    (folder / "numpy" / "__init__.py").write_text("raise ImportError('made for another Python')")
    (folder / "numpy-2.1.3.dist-info").mkdir()
    (folder / "numpy-2.1.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.3\n"
    )
    return folder


def test_packages_on_pythonpath_do_not_count_as_installed(sandbox, shadowing_folder):
    done = sandbox.call("install", PYTHONPATH=str(shadowing_folder))
    assert done.returncode == 0, done.stderr
    assert "PYTHONPATH and PYTHONHOME are ignored" in done.stdout
    assert "numpy>=2.0,<3" in sandbox.calls()[0]["arguments"]
    assert "nothing to install" in sandbox.call("install", PYTHONHOME="/nowhere").stdout


@pytest.mark.parametrize("how", ["PYTHONPATH", "a file beside the notebook"])
def test_modules_that_shadow_installed_packages_are_named(sandbox, shadowing_folder, how):
    """Runs the check of the notebooks' first cell in a kernel with another environment."""
    assert sandbox.call("install").returncode == 0
    variables = {"PYTHONPATH": str(shadowing_folder)}
    if how != "PYTHONPATH":
        variables, shadowing_folder = {}, sandbox.root / "notebooks"
        shadowing_folder.mkdir()
        (shadowing_folder / "numpy.py").write_text("")
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['ensure'](install=False)"
    python = sandbox.root / ".venv" / "bin" / "python"
    install = sandbox.root / "colab_helpers" / "install.py"
    done = run([python, "-c", code, install], cwd=shadowing_folder, env=variables)
    assert f"numpy is imported from {shadowing_folder}" in done.stderr
    assert "What to do: unset PYTHONPATH" in done.stderr


def test_packages_installed_elsewhere_are_reported_missing(sandbox):
    """PIP_TARGET or pip's configuration may redirect packages to another folder."""
    fake = sandbox.packages / "pip" / "__main__.py"
    fake.write_text(FAKE_PIP.replace("parents[1]", f"parents[1] / {'elsewhere'!r}"))
    (sandbox.packages / "elsewhere").mkdir()
    done = sandbox.call("install")
    assert done.returncode == 1
    assert "still missing here: numpy" in done.stderr
    assert "What to do: unset PIP_TARGET" in done.stderr
