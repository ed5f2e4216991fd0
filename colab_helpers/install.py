"""Install what this project needs into the running Python environment; do nothing if all is there.

``python colab_helpers/install.py [--extras notebook,dev] [--system]``; needs only the standard library, since
it runs before anything is installed.

In an environment that others use, too (Colab, ``--system``), a constraints file made from the installed
packages keeps those that are suitable at their versions.
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

# Distributions whose module has another name.
MODULES = {
    "c2pa-python": "c2pa",
    "onnxruntime-gpu": "onnxruntime",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}
# Lines of pip and uv that are shown as progress.
PROGRESS = re.compile(r"(Resolved|Prepared|Installed|Installing collected) |\s*Downloading .*MB\)")

FAILED = (
    "look for the reason in the lines above: the network or its mirror (PIP_INDEX_URL), disk space (2 GB), "
    "or an environment that is not yours (without --system the project's own .venv is used)"
)
RESTART = "restart the session (Runtime > Restart session), then Run all"
SHADOWING_REMEDY = "unset PYTHONPATH and start Jupyter again; rename files of your own named like a package"
INSTALL_TARGET_REMEDY = (
    "unset PIP_TARGET, PIP_PREFIX and PIP_USER, also in pip's configuration (python -m pip config list)"
)


def execute_plan(plan: InstallPlan, *, shared: bool) -> None:
    """Carry out a plan; raise InstallError if a step fails with every installer available."""
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
    """Run a step with uv if present, and with pip if there is no uv or it fails."""
    yes = ("--yes",) if verb == "uninstall" else ()
    commands = [(sys.executable, "-m", "pip", verb, "--disable-pip-version-check", "--no-input", *yes)]
    own_uv = Path(sys.executable).with_name("uv")
    if uv := str(own_uv) if own_uv.exists() else shutil.which("uv"):
        commands.insert(0, (uv, "pip", verb, "--python", sys.executable))
    output: list[str] = []
    for number, command in enumerate(commands, 1):
        _say(f"{verb} with {Path(command[0]).name}: {' '.join(arguments)}")
        code, output = _run([*command, *arguments])
        if code == 0:
            return
        if number < len(commands):
            _say(f"uv failed ({output[-1] if output else 'no message'}); trying pip")
    raise InstallError(f"{verb} packages", "\n  ".join(["the installer's output:", *output]), FAILED)


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run an installer, showing its progress; return its exit code and its last lines."""
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
    """List modules (of ``sys.modules``) whose version differs from that of their installed distribution."""
    stale = []
    for name, installed in versions.items():
        loaded = getattr(modules.get(_module_of(name)), "__version__", None)
        # A module's version may lack trailing or local parts.
        parts = [str(version).split("+")[0].split(".") for version in (loaded, installed)]
        if isinstance(loaded, str) and any(one != other for one, other in zip(*parts, strict=False)):
            stale.append(f"{name} {loaded} is loaded, {installed} is installed")
    return stale


def _module_of(distribution: str) -> str:
    return MODULES.get(canonical(distribution), distribution.replace("-", "_"))


def find_shadowing_modules(names: Iterable[str], *, shared: bool) -> list[str]:
    """List needed modules found before the standard library, in PYTHONPATH or the session's folder.

    They may be made for another Python, or be a user's file of that name. Such folders may be part of a
    shared environment, so only modules that belong to no distribution are listed there.
    """
    library = sysconfig.get_path("stdlib")
    ahead = sys.path[: sys.path.index(library)] if library in sys.path else []
    known = all_installed(ahead) if shared else {}
    shadowing = {}
    for name in names:
        spec = PathFinder.find_spec(_module_of(name), ahead)
        if spec and spec.origin and canonical(name) not in known:
            folder = Path(spec.origin).parents[1 if spec.submodule_search_locations else 0]
            shadowing[spec.name] = f"{spec.name} is imported from {folder}"
    return list(shadowing.values())


def ensure(
    *,
    extras: Iterable[str] = ("notebook",),
    system: bool | None = None,
    install: bool = True,
    root: Path = ROOT,
) -> None:
    """Install what is missing, or with ``install=False`` raise an error that lists it.

    Call it in the session that will use the packages: it also finds modules loaded before they were replaced.

    Args:
        extras: Extras of ``pyproject.toml``.
        system: Keep all installed packages as they are; None decides by the environment.
        install: Whether missing packages may be installed.
        root: The checkout.

    Raises:
        InstallError: Packages are missing and may not be installed, a step failed, or the session must be
            restarted.
    """
    extras = tuple(extras)
    if not any(importlib.util.find_spec(name) for name in ("packaging", "pip")):  # as after ``uv venv``
        _run([sys.executable, "-m", "ensurepip", "--upgrade"])
        importlib.invalidate_caches()
    project = read_project(root)
    check_python(project, ".".join(map(str, sys.version_info[:3])))
    # The system's Python, or Colab's, is not this project's alone.
    not_ours = sys.prefix == sys.base_prefix or "COLAB_RELEASE_TAG" in os.environ
    shared = not_ours if system is None else system
    needed = [requirement(line).name for line in project.wanted(extras)]
    if shadowing := find_shadowing_modules([*needed, "onnxruntime", "insightface"], shared=shared):
        raise InstallError("check where modules come from", "; ".join(shadowing), SHADOWING_REMEDY)
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
            what = "still missing here: " + ", ".join(missing)
            raise InstallError("check packages", what, INSTALL_TARGET_REMEDY)
        _say("installation complete")
    if stale := stale_modules(sys.modules, installed_versions(environment.installed)):
        raise InstallError("compare loaded modules", "; ".join(stale), RESTART)


def _say(text: str) -> None:
    print(f"[install] {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Install what this project needs and is missing.")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, such as notebook,dev")
    parser.add_argument("--system", action="store_true", help="keep all installed packages as they are")
    arguments = parser.parse_args(argv)
    extras = [name.strip() for name in arguments.extras.split(",") if name.strip()]
    try:
        ensure(extras=extras, system=True if arguments.system else None)
    except InstallError as error:
        print(f"[install] {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - any Python may run this file
        sys.exit("[install] Python 3.11, 3.12 or 3.13 is needed: PYTHON=/path/to/python3.12 bash setup.sh")
    sys.exit(main())
