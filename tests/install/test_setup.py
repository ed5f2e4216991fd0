"""setup.sh from a shell, in a real but empty environment whose pip only pretends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import packaging
import pytest

from tests.conftest import TIMEOUT

ROOT = Path(__file__).resolve().parents[2]

# Writes down how it was called and, instead of downloading, leaves the metadata that pip would leave.
FAKE_PIP = """
import json, os, pathlib, re, sys

here = pathlib.Path(__file__).resolve().parents[1]
arguments = sys.argv[1:]
record = {"arguments": arguments}
if "--constraint" in arguments:
    record["pins"] = pathlib.Path(arguments[arguments.index("--constraint") + 1]).read_text().split()
with open(os.environ["PIP_LOG"], "a") as log:
    log.write(json.dumps(record) + "\\n")
if os.environ.get("PIP_SAYS"):
    sys.exit(os.environ["PIP_SAYS"])


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


@dataclass(frozen=True)
class Sandbox:
    """A copy of the door, with an environment of its own."""

    root: Path
    packages: Path
    log: Path

    def call(self, *words: str, says: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        # Only the system's folders: no uv, and no Python but that of .venv.
        given = {"PATH": "/usr/bin:/bin", "PIP_LOG": str(self.log), "PIP_SAYS": says, **variables}
        return subprocess.run(
            ["bash", str(self.root / "setup.sh"), *words],
            env={"HOME": str(self.root), **given},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def calls(self) -> list[dict[str, list[str]]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def hold(self, name: str, version: str) -> None:
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


def test_a_second_install_makes_no_package_call(sandbox):
    first = sandbox.call("install", "dev,notebook")
    assert first.returncode == 0, first.stderr
    with_dependencies, no_deps = sandbox.calls()
    assert {"numpy>=2.0,<3", "papermill<3,>=2.6"} & set(with_dependencies["arguments"])
    assert no_deps["arguments"][-2:] == ["--editable", str(sandbox.root)]
    assert "insightface>=2.0,<3" in no_deps["arguments"]
    assert "--no-deps" in no_deps["arguments"]
    assert "--no-deps" not in with_dependencies["arguments"]
    assert with_dependencies["pins"] == []  # nobody else uses it

    second = sandbox.call("install", "dev", "notebook")
    assert second.returncode == 0, second.stderr
    assert "nothing to install" in second.stdout
    assert len(sandbox.calls()) == 2


def test_on_colab_what_is_there_is_pinned_and_not_asked_for(sandbox):
    held = {"numpy": "2.1.3", "opencv-python-headless": "5.0.0.93", "protobuf": "5.29.6"}
    for name, version in held.items():
        sandbox.hold(name, version)
    python = str(sandbox.root / ".venv" / "bin" / "python")
    done = sandbox.call("install", "notebook", PYTHON=python, COLAB_RELEASE_TAG="release-colab")
    assert done.returncode == 0, done.stderr
    first = sandbox.calls()[0]
    assert {f"{name}=={version}" for name, version in held.items()} <= set(first["pins"])
    asked = {word.split(">")[0].split("<")[0] for word in first["arguments"]}
    assert not asked & {*held}
    assert {"av", "onnx", "papermill"} <= asked


def test_two_runtimes_go_and_one_comes_back(sandbox):
    sandbox.hold("onnxruntime", "1.31.1")
    sandbox.hold("onnxruntime-gpu", "1.31.1")
    done = sandbox.call("install")
    assert done.returncode == 0, done.stderr
    assert "overwrite each other" in done.stdout
    uninstall, install, _ = sandbox.calls()
    assert uninstall["arguments"][0] == "uninstall"
    assert {"onnxruntime", "onnxruntime-gpu"} <= set(uninstall["arguments"])
    assert sum(word.startswith("onnxruntime") for word in install["arguments"]) == 1
    assert "nothing to install" in sandbox.call("install").stdout


def test_a_failure_names_step_reason_and_remedy(sandbox):
    done = sandbox.call("install", says="progress\n" * 30 + "ERROR: [Errno 28] No space left on device")
    assert done.returncode == 1
    assert "The step 'install packages' failed" in done.stderr
    assert "[Errno 28]" in done.stderr
    assert "What to do: look for the reason in the lines above: the network" in done.stderr


def test_where_uv_fails_pip_is_tried(sandbox):
    uv = sandbox.root / ".venv" / "bin" / "uv"
    uv.write_text("#!/bin/sh\necho 'error: no such index'\nexit 2\n")
    uv.chmod(0o755)
    done = sandbox.call("install")
    assert done.returncode == 0, done.stderr
    assert "uv failed (error: no such index); trying pip" in done.stdout
    assert len(sandbox.calls()) == 2


def test_a_broken_environment_is_made_anew(sandbox, tmp_path):
    python = sandbox.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "a Python that is gone")
    # The real Python can make an environment; the pip it brings is stopped before it downloads anything.
    done = sandbox.call("install", PYTHON=sys.executable, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert "created again" in done.stdout
    assert python.exists()
    assert done.returncode == 1
    assert "What to do:" in done.stderr


def test_an_unsuitable_python_and_a_misspelt_verb_are_refused(sandbox):
    shutil.rmtree(sandbox.root / ".venv")
    done = sandbox.call("install", PYTHON="/bin/false")
    assert done.returncode == 1
    assert 'The step "find Python" failed' in done.stderr
    assert "PYTHON=/path/to/python3.12" in done.stderr
    done = sandbox.call("instal")
    assert done.returncode == 2
    assert "bash setup.sh [--system] install" in done.stderr
    assert "unknown command 'instal'" in done.stderr


def test_any_shell_opens_the_door(sandbox):
    """sh is dash on Debian; a folder of that name on CDPATH is not the one of setup.sh."""
    elsewhere = sandbox.root.parent / "elsewhere"
    (elsewhere / sandbox.root.name).mkdir(parents=True)
    for command in (["sh", f"{sandbox.root.name}/setup.sh"], ["bash", f"{sandbox.root.name}/setup.sh"]):
        done = subprocess.run(
            [*command, "install"],
            cwd=sandbox.root.parent,
            env={"PATH": "/usr/bin:/bin", "PIP_LOG": str(sandbox.log), "CDPATH": str(elsewhere)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert len(sandbox.calls()) == 2
    script = f". '{sandbox.root}/setup.sh' install; echo the shell lives"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "not sourced. What to do: bash" in done.stderr
    assert done.stdout == "the shell lives\n"


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git")
def test_a_checkout_on_windows_has_the_line_ends_that_shells_read(tmp_path):
    """Git for Windows turns line ends into CRLF unless it is told not to."""
    for name in (".gitattributes", "setup.sh", "notebooks/monitor.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    as_windows = ["git", "-c", "core.autocrlf=true", "-c", "user.name=x", "-c", "user.email=x@localhost"]
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["commit", "-qm", "x"],
        ["rm", "-rq", "setup.sh", "notebooks"],
    ):
        subprocess.run([*as_windows, *words], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([*as_windows, "reset", "-q", "--hard"], cwd=tmp_path, check=True)
    for name in ("setup.sh", "notebooks/monitor.ipynb"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.fixture
def polluted(tmp_path) -> Path:
    """A folder of packages made for another Python."""
    folder = tmp_path / "other packages"
    (folder / "numpy").mkdir(parents=True)
    (folder / "numpy" / "__init__.py").write_text("raise ImportError('made for another Python')")
    (folder / "numpy-2.1.3.dist-info").mkdir()
    (folder / "numpy-2.1.3.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.3\n"
    )
    return folder


def test_packages_of_pythonpath_do_not_count_as_installed(sandbox, polluted):
    done = sandbox.call("install", PYTHONPATH=str(polluted))
    assert done.returncode == 0, done.stderr
    assert "PYTHONPATH and PYTHONHOME are ignored" in done.stdout
    assert "numpy>=2.0,<3" in sandbox.calls()[0]["arguments"]
    assert "nothing to install" in sandbox.call("install", PYTHONHOME="/nowhere").stdout


@pytest.mark.parametrize("how", ["PYTHONPATH", "a file beside the notebook"])
def test_modules_that_hide_the_installed_ones_are_named(sandbox, polluted, how):
    """As the notebooks' first cell asks, in a kernel whose environment setup.sh has not made."""
    assert sandbox.call("install").returncode == 0
    variables = {"PYTHONPATH": str(polluted)}
    if how != "PYTHONPATH":
        variables, polluted = {}, sandbox.root / "notebooks"
        polluted.mkdir()
        (polluted / "numpy.py").write_text("")
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['ensure'](install=False)"
    python = sandbox.root / ".venv" / "bin" / "python"
    done = subprocess.run(
        [python, "-c", code, sandbox.root / "colab_helpers" / "install.py"],
        cwd=polluted, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"numpy is imported from {polluted}" in done.stderr
    assert "What to do: unset PYTHONPATH" in done.stderr


def test_what_was_installed_elsewhere_is_not_called_complete(sandbox):
    """PIP_TARGET, or a line in pip's configuration, sends packages to another folder."""
    fake = sandbox.packages / "pip" / "__main__.py"
    fake.write_text(FAKE_PIP.replace("parents[1]", f"parents[1] / {'elsewhere'!r}"))
    (sandbox.packages / "elsewhere").mkdir()
    done = sandbox.call("install")
    assert done.returncode == 1
    assert "still missing here: numpy" in done.stderr
    assert "What to do: unset PIP_TARGET" in done.stderr
