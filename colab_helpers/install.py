"""Bring the running Python environment to what this project needs, and do nothing when it already is.

``python colab_helpers/install.py [--extras notebook,dev] [--system]``; standard library only, so that it runs
before anything is installed.

In an environment that is not ours alone (Colab, ``--system``) a constraints file made from the live
environment keeps everything that is already installed, and fits, exactly where it is.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

if not __package__:  # run as a file, before the package is installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from colab_helpers.requirements import (
    ROOT,
    InstallError,
    InstallPlan,
    all_installed,
    canonical,
    check_python,
    constraint_lines,
    inspect_environment,
    installed_versions,
    make_plan,
    read_project,
    requirement,
)

# Modules whose name is not that of their distribution.
MODULES = {
    "c2pa-python": "c2pa",
    "onnxruntime-gpu": "onnxruntime",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}
# Lines of pip and uv that are worth showing while they work.
PROGRESS = re.compile(r"(Resolved|Prepared|Installed|Installing collected) |\s*Downloading .*MB\)")

FAILED = (
    "find the reason in the lines above: the network or its mirror (PIP_INDEX_URL), disk space (2 GB), or an "
    "environment that is not yours (leave out --system, and the project's own .venv is used)"
)
RESTART = "restart the session (Runtime > Restart session), then Run all"
SHADOWING_REMEDY = (
    "start without PYTHONPATH (unset PYTHONPATH, then Jupyter from there); rename a file of your own that is "
    "called like a package"
)
INSTALL_TARGET_REMEDY = (
    "unset PIP_TARGET, PIP_PREFIX and PIP_USER, also in pip's configuration (python -m pip config list)"
)


def execute_plan(plan: InstallPlan, *, shared: bool) -> None:
    """Do what a plan says.

    Raises:
        InstallError: A step failed with every installer there is.
    """
    if plan.remove:
        _step("uninstall", *plan.remove)
    if plan.install:
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder, "constraints.txt")
            pins.write_text("\n".join(constraint_lines(all_installed(sys.path), plan) if shared else []))
            _step("install", *plan.install, "--constraint", str(pins))
    last = plan.no_deps + (("--editable", str(plan.editable)) if plan.editable else ())
    if last:
        _step("install", "--no-deps", *last)


def _step(verb: str, *arguments: str) -> None:
    """Have uv do something, where it is present, else or if it cannot pip."""
    yes = ("--yes",) if verb == "uninstall" else ()
    commands = [(sys.executable, "-m", "pip", verb, "--disable-pip-version-check", "--no-input", *yes)]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv:
        commands.insert(0, (uv, "pip", verb, "--python", sys.executable))
    output: list[str] = []
    for number, command in enumerate(commands, 1):
        _say(f"{verb} with {Path(command[0]).name}: {' '.join(arguments)}")
        code, output = _run([*command, *arguments])
        if code == 0:
            return
        if number < len(commands):
            _say(f"uv could not do it ({output[-1] if output else 'no message'}); trying pip")
    said = "\n  ".join(["the installer said:", *output])
    raise InstallError(f"{verb} packages", said, FAILED)


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """The exit code of an installer and its last lines; those that show progress are passed on."""
    tail: deque[str] = deque(maxlen=20)
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=merged, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            tail.append(line.rstrip())
            if PROGRESS.match(line):
                _say(f"  {line.strip()[:100]}")
    return process.returncode, list(tail)


def stale_modules(modules: Mapping[str, ModuleType], versions: Mapping[str, str]) -> list[str]:
    """Find modules, such as ``sys.modules``, in another version than that of their installed distribution."""
    stale = []
    for name, installed in versions.items():
        loaded = getattr(modules.get(_module_of(name)), "__version__", None)
        # A module may leave out trailing or local parts.
        parts = [str(version).split("+")[0].split(".") for version in (loaded, installed)]
        if isinstance(loaded, str) and any(one != other for one, other in zip(*parts, strict=False)):
            stale.append(f"{name} {loaded} is loaded, {installed} is installed")
    return stale


def _module_of(distribution: str) -> str:
    return MODULES.get(canonical(distribution), distribution.replace("-", "_"))


def find_shadowing_modules(names: Iterable[str], *, shared: bool) -> list[str]:
    """Find needed modules that a folder before Python's own library brings: PYTHONPATH's, or the session's.

    They may be made for another Python, or be somebody's own file of that name. In a shared environment such
    a folder may be part of it; then only modules count that no distribution there has brought.
    """
    library = sysconfig.get_path("stdlib")
    ahead = sys.path[: sys.path.index(library)] if library in sys.path else []
    known = all_installed(ahead) if shared else {}
    found = {}
    for name in names:
        spec = PathFinder.find_spec(_module_of(name), ahead)
        if spec and spec.origin and canonical(name) not in known:
            place = Path(spec.origin).parents[1 if spec.submodule_search_locations else 0]
            found[spec.name] = f"{spec.name} is taken from {place}"
    return list(found.values())


def ensure(
    *,
    extras: Iterable[str] = ("notebook",),
    system: bool | None = None,
    install: bool = True,
    root: Path = ROOT,
) -> None:
    """Install what is missing, or with ``install=False`` only say what is.

    Call it from the session that will use the packages: it also finds modules that this session loaded
    before they were replaced. With ``system`` everything already installed is kept where it is; None decides
    by the environment. ``root`` is the checkout.

    Raises:
        InstallError: Something is missing and may not be installed, a step failed, or the session must be
            restarted.
    """
    extras = tuple(extras)
    if not any(importlib.util.find_spec(name) for name in ("packaging", "pip")):  # ``uv venv`` brings neither
        _run([sys.executable, "-m", "ensurepip", "--upgrade"])
        importlib.invalidate_caches()
    project = read_project(root)
    check_python(project, ".".join(map(str, sys.version_info[:3])))
    # The system's Python, or Colab's own, was not made for this project.
    others = sys.prefix == sys.base_prefix or "COLAB_RELEASE_TAG" in os.environ
    shared = others if system is None else system
    needed = [requirement(line).name for line in project.wanted(extras)]
    foreign = find_shadowing_modules([*needed, "onnxruntime", "insightface"], shared=shared)
    if foreign:
        raise InstallError("look where modules come from", "; ".join(foreign), SHADOWING_REMEDY)
    environment = inspect_environment(project, extras, shared=shared)
    plan = make_plan(project, environment, extras)
    for note in plan.notes:
        _say(note)
    if not plan.missing():
        _say("nothing to install")
    elif not install:
        what = "missing: " + ", ".join(plan.missing())
        raise InstallError("check packages", what, "run 'bash setup.sh install' in the project's folder")
    else:
        execute_plan(plan, shared=shared)
        importlib.invalidate_caches()
        missing = make_plan(project, inspect_environment(project, extras, shared=shared), extras).missing()
        if missing:
            raise InstallError(
                "check packages", "still missing here: " + ", ".join(missing), INSTALL_TARGET_REMEDY
            )
        _say("installation complete")
    stale = stale_modules(sys.modules, installed_versions(environment.installed))
    if stale:
        raise InstallError("compare loaded modules", "; ".join(stale), RESTART)


def _say(text: str) -> None:
    print(f"[install] {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a shell; return the exit code."""
    parser = argparse.ArgumentParser(description="Install what this project needs and is missing.")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, with commas: notebook,dev")
    parser.add_argument("--system", action="store_true", help="keep every installed package where it is")
    arguments = parser.parse_args(argv)
    extras = [name.strip() for name in arguments.extras.split(",") if name.strip()]
    try:
        ensure(extras=extras, system=True if arguments.system else None)
    except InstallError as error:
        print(f"[install] {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - the reader may have started any Python
        sys.exit("[install] Python 3.11, 3.12 or 3.13 is needed: PYTHON=/path/to/python3.12 bash setup.sh")
    sys.exit(main())
