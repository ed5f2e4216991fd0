"""What this project requires, what the environment has, and the plan to install the difference.

Standard library only: this runs before anything is installed. Requirements are read from ``pyproject.toml``,
except for those chosen here:

* ONNX Runtime comes as distributions that overwrite each other (``onnxruntime`` for the CPU,
  ``onnxruntime-gpu`` for CUDA 12 or 13), exactly one of which fits a machine.
* insightface and faster-whisper depend on ``onnxruntime`` by name, which would overwrite ``onnxruntime-gpu``:
  they are installed without dependencies; those they need are in ``pyproject.toml``.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

PROJECT = "colab-helpers"
ROOT = Path(__file__).resolve().parent.parent
RUNTIME_FOR_CPU = "onnxruntime>=1.20,<2"
# Wheels on PyPI up to 1.26 are built for CUDA 12 (Colab: 12.8), from 1.27 on for CUDA 13.
RUNTIME_FOR_CUDA = {12: "onnxruntime-gpu>=1.23,<1.27", 13: "onnxruntime-gpu>=1.27,<2"}
INSIGHTFACE = "insightface>=2.0,<3"  # from 1.0 on its classes accept our sessions
NO_DEPS_PACKAGES = {"transcripts": "faster-whisper>=1.1,<2"}
"""Package of an extra that depends on ``onnxruntime`` by name, as insightface does."""
# Distributions that install the same module: only one may be present.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
# CUDA's runtime and cuDNN, as PyTorch installs them.
CUDA_PACKAGES = {
    12: ("nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12"),
    13: ("nvidia-cuda-runtime", "nvidia-cudnn-cu13"),
}


class InstallError(RuntimeError):
    """A step of the installation failed: which one, what went wrong, and what the user can do next."""

    def __init__(self, step: str, what: str, remedy: str) -> None:
        super().__init__(f"The step '{step}' failed: {what}\nWhat to do: {remedy}.")
        self.step, self.what, self.remedy = step, what, remedy


class Project(NamedTuple):
    """Content of ``pyproject.toml``: the PEP 508 requirements whose markers apply here."""

    version: str
    requires_python: str
    requirements: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]]
    root: Path | None
    """The checkout to install editable; None if the package was installed from a wheel."""

    def wanted(self, extras: Iterable[str]) -> tuple[str, ...]:
        """Return the requirements of the package and of the named extras."""
        unknown = ", ".join(sorted(set(extras) - set(self.extras)))
        if unknown:
            remedy = f"choose from {', '.join(self.extras)}"
            raise InstallError("read pyproject.toml", f"there is no extra {unknown}", remedy)
        return self.requirements + tuple(line for name in extras for line in self.extras[name])


def read_project(root: Path = ROOT) -> Project:
    """Read the requirements from the checkout, or else from the installed package's metadata."""
    path = root / "pyproject.toml"
    if path.exists():
        import tomllib  # not at the top: on an old Python the error message must come first

        table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = {name: applicable(lines) for name, lines in table["optional-dependencies"].items()}
        own = applicable(table["dependencies"])
        return Project(table["version"], table["requires-python"], own, extras, root)
    package, lines = metadata.metadata(PROJECT), metadata.requires(PROJECT) or []
    own = applicable(lines)
    names = package.get_all("Provides-Extra") or []
    extras = {name: tuple(line for line in applicable(lines, name) if line not in own) for name in names}
    return Project(package["Version"], package["Requires-Python"], own, extras, None)


def applicable(lines: Iterable[str], extra: str = "") -> tuple[str, ...]:
    """Return the requirements whose markers, if any, apply here, without the markers."""
    parsed = [(line, requirement(line).marker) for line in lines]
    here = (line for line, marker in parsed if marker is None or marker.evaluate({"extra": extra}))
    return tuple(line.split(";")[0].strip() for line in here)


def requirement(line: str) -> Any:
    """Parse a PEP 508 requirement."""
    return _packaging("requirements").Requirement(line)


def _packaging(part: str) -> ModuleType:
    """Import a module of ``packaging``, or of pip's copy of it."""
    for parent in ("packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(f"{parent}.{part}")
        except ImportError:
            continue
    remedy = "install pip for this Python (Debian, Ubuntu: apt install python3-venv)"
    raise InstallError("read requirements", "this Python has neither packaging nor pip", remedy)


def canonical(name: str) -> str:
    """Normalize a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_satisfied(line: str, installed: Mapping[str, str]) -> bool:
    """Return whether an installed version meets a requirement."""
    parsed = requirement(line)
    version = installed.get(canonical(parsed.name))
    return version is not None and bool(parsed.specifier.contains(version, prereleases=True))


def check_python(project: Project, text: str) -> None:
    """Raise InstallError if a Python version, such as ``3.12.1``, is not supported."""
    if not _packaging("specifiers").SpecifierSet(project.requires_python).contains(text, prereleases=True):
        what = f"this is Python {text} ({sys.executable}), but {project.requires_python} is required"
        remedy = "choose another one: PYTHON=/path/to/python3.12 bash setup.sh install"
        raise InstallError("check Python", what, remedy)


class Cuda(NamedTuple):
    """A working NVIDIA driver; numbers are CUDA major versions."""

    driver: int
    """The newest CUDA that the driver supports; it supports older ones, too."""
    libraries: frozenset[int] = frozenset()
    """Versions whose runtime library and cuDNN 9 are present."""


class Environment(NamedTuple):
    """State of an environment that a plan depends on."""

    installed: Mapping[str, str]
    """Versions by canonical distribution name."""
    cuda: Cuda | None = None
    shared: bool = False
    """Whether others use this environment, too (Colab, ``--system``): installed packages must stay."""
    editable_root: Path | None = None
    """The checkout of an editable installation of this package."""


def inspect_environment(project: Project, extras: Iterable[str], *, shared: bool = False) -> Environment:
    """Inspect the running environment, reading metadata of relevant packages only."""
    names = [requirement(line).name for line in project.wanted(extras)]
    no_deps = [requirement(line).name for line in (INSIGHTFACE, *NO_DEPS_PACKAGES.values())]
    installed = installed_versions([*names, *RUNTIMES, *no_deps, PROJECT])
    return Environment(installed, find_cuda(), shared, _editable_root())


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the named distributions that are installed."""
    versions = {}
    for name in names:
        try:
            versions[canonical(name)] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def all_installed(folders: Sequence[str]) -> dict[str, str]:
    """Return the versions of all distributions in some folders."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions(path=list(folders)):
        if name := distribution.metadata["Name"]:  # a half-removed package has none
            versions.setdefault(canonical(name), distribution.version)
    return versions


def _editable_root() -> Path | None:
    try:
        text = metadata.distribution(PROJECT).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    record = json.loads(text) if text else {}
    editable = record.get("dir_info", {}).get("editable")
    return Path(unquote(urlsplit(record["url"]).path)) if editable else None


def find_cuda() -> Cuda | None:
    """Find the NVIDIA driver, if it works and has a device, and the installed CUDA libraries.

    Asks NVML, since initializing CUDA itself would make it unusable in processes forked later.
    """
    nvml = _loads("libnvidia-ml.so.1")
    if nvml is None or nvml.nvmlInit_v2() != 0:
        return None
    count, version = ctypes.c_uint(), ctypes.c_int()
    errors = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    errors += nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
    nvml.nvmlShutdown()
    if errors or not count.value or not _loads("libcuda.so.1"):
        return None
    libraries = frozenset(
        major
        for major, packages in CUDA_PACKAGES.items()
        if len(installed_versions(packages)) == len(packages)
        or (_loads(f"libcudart.so.{major}") and _loads("libcudnn.so.9"))
    )
    return Cuda(version.value // 1000, libraries)  # NVML reports 1000 * major + 10 * minor


def _loads(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


class InstallPlan(NamedTuple):
    """Steps that install what an environment lacks."""

    remove: tuple[str, ...] = ()
    install: tuple[str, ...] = ()
    no_deps: tuple[str, ...] = ()
    """Requirements to install without dependencies."""
    editable: Path | None = None
    """The checkout to install editable, last."""
    notes: tuple[str, ...] = ()

    def missing(self) -> tuple[str, ...]:
        """List what has to be installed; empty if nothing is missing."""
        return self.install + self.no_deps + ((f"{PROJECT} (this checkout)",) if self.editable else ())


def make_plan(project: Project, environment: Environment, extras: Iterable[str] = ()) -> InstallPlan:
    """Decide what has to be removed and installed."""
    installed = environment.installed
    missing = tuple(line for line in project.wanted(extras) if not is_satisfied(line, installed))
    remove, runtime, notes = _plan_runtime(environment)
    for name, line in ((canonical(requirement(line).name), line) for line in missing):
        if environment.shared and name in installed:
            notes += (f"{name} {installed[name]} is too old or too new and will be replaced by {line}",)
    stale = installed.get(PROJECT) != project.version or environment.editable_root != project.root
    candidates = (INSIGHTFACE, *(NO_DEPS_PACKAGES[name] for name in extras if name in NO_DEPS_PACKAGES))
    no_deps = tuple(line for line in candidates if not is_satisfied(line, installed))
    return InstallPlan(remove, missing + runtime, no_deps, project.root if stale else None, notes)


def _plan_runtime(environment: Environment) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return what to remove, what to install, and notes, so that exactly one ONNX Runtime is installed."""
    line, reason = choose_runtime(environment.cuda)
    wanted = requirement(line)
    present = tuple(name for name in RUNTIMES if name in environment.installed)
    if present == (canonical(wanted.name),):
        complete = is_satisfied(line, environment.installed) and not wanted.extras
        return ((), (), ()) if complete else ((), (line,), (reason,))
    if not present:
        return (), (line,), (reason,)
    clash = f"{' and '.join(present)} are installed and overwrite each other: all will be replaced by one"
    if len(present) == 1:
        clash = f"{present[0]} is installed but does not fit this machine: it will be replaced"
    return present, (line,), (clash, reason)


def choose_runtime(cuda: Cuda | None) -> tuple[str, str]:
    """Choose the ONNX Runtime for this machine; return the requirement, and the reason as a sentence.

    CUDA 12 if the driver supports it, since CUDA 13 dropped Pascal and Volta; 13 if only its libraries are
    installed. If no libraries are, the requirement includes them as packages.
    """
    if cuda is None:
        return RUNTIME_FOR_CPU, "no working NVIDIA driver: ONNX Runtime for the CPU"
    oldest = min(RUNTIME_FOR_CUDA)
    if cuda.driver < oldest:
        reason = f"the NVIDIA driver only supports CUDA {cuda.driver}: ONNX Runtime for the CPU"
        return RUNTIME_FOR_CPU, f"{reason}; update the driver to use the GPU"
    usable = [major for major in cuda.libraries if major <= cuda.driver]
    major = min(usable, default=oldest)
    line = RUNTIME_FOR_CUDA[major]
    line = line if usable else line.replace("onnxruntime-gpu", "onnxruntime-gpu[cuda,cudnn]")
    return line, f"CUDA {major}: onnxruntime-gpu, in the versions built for it"


def constraint_lines(installed: Mapping[str, str], plan: InstallPlan) -> list[str]:
    """Return pins for everything installed, except what the plan itself changes."""
    changed = {canonical(requirement(line).name) for line in plan.install + plan.no_deps}
    free = changed | set(plan.remove) | {PROJECT}
    pins = [f"{name}=={version}" for name, version in sorted(installed.items()) if name not in free]
    return [pin for pin in pins if _is_valid(pin)]


def _is_valid(pin: str) -> bool:
    """Return whether an installer can parse the pin: a distribution's version may be any text."""
    try:
        requirement(pin)
    except ValueError:
        return False
    return True
