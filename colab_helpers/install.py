"""Bring the running Python environment to what this project needs, and do nothing when it already is.

``python colab_helpers/install.py [--check] [--extras notebook,dev] [--system]``

Uses the standard library only, so that it runs before anything is installed. The dependency list is
the one in ``pyproject.toml``; two packages cannot stand in that list and are chosen here:

* ONNX Runtime comes as two distributions that overwrite each other (``onnxruntime`` for the CPU,
  ``onnxruntime-gpu`` for CUDA 12 or 13). Exactly one of them fits a machine.
* insightface depends on ``onnxruntime`` by name and would overwrite ``onnxruntime-gpu``, so it is
  installed without its dependencies; what it really needs is in ``pyproject.toml``.

In an environment that is not ours alone (Colab, ``--system``) a constraints file made from the live
environment keeps everything that is already installed, and fits, exactly where it is.
"""

from __future__ import annotations

import argparse
import ctypes
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

PROJECT = "colab-helpers"
ROOT = Path(__file__).resolve().parent.parent
TAIL_LINES = 15
"""How many of the installer's last lines a failure shows."""
KEPT_LINES = 500
"""How many are kept to find the reason in."""

# --- What is chosen here, each with its reason -----------------------------------------------------

RUNTIME_FOR_CPU = "onnxruntime>=1.20,<2"
"""Machines without a working NVIDIA driver."""

RUNTIME_FOR_CUDA = {
    12: "onnxruntime-gpu>=1.23,<1.27",  # wheels on PyPI up to 1.26 are built for CUDA 12 (Colab: 12.8)
    13: "onnxruntime-gpu>=1.27,<2",  # wheels from 1.27 on are built for CUDA 13
}

INSIGHTFACE = "insightface>=2.0,<3"
"""Reference detector and recogniser; from 1.0 its classes take sessions of ours."""

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
"""Distributions that install the same module ``onnxruntime``; one at a time."""

CV2_PROVIDERS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Distributions that install the same module ``cv2``; any one of a fitting version will do.

Two of them in one environment overwrite each other's files, so a second one is never added.
"""

IMPORT_NAMES = {
    **dict.fromkeys(CV2_PROVIDERS, "cv2"),
    "nvidia-ml-py": "pynvml",
    "onnxruntime-gpu": "onnxruntime",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}
"""Modules whose name is not that of their distribution."""

PROGRESS = re.compile(r"(Resolved|Prepared|Installed|Installing collected) |\s*Downloading .*MB\)")
"""Lines of pip and uv that are worth showing while they work."""

RESTART = "restart the session (Runtime > Restart session), then Run all"

UNSHADOW = (
    "start without PYTHONPATH (unset PYTHONPATH, then Jupyter from there); rename a file of your own that is "
    "called like a package"
)

HERE = "unset PIP_TARGET, PIP_PREFIX and PIP_USER, also in pip's configuration (python -m pip config list)"

REMEDIES = (
    (
        r"externally[- ]managed",
        "the system's Python does not take packages: leave out --system, and the project's own .venv is used",
    ),
    (r"No space left|Errno 28", "free some disk space (about 2 GB are needed) and run it again"),
    (
        r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate",
        "the network's certificate is not trusted: name its file in PIP_CERT (pip) and SSL_CERT_FILE (uv)",
    ),
    (
        r"name resolution|Name or service not known|new connection|Network is unreachable|timed out"
        r"|Connection (?:refused|reset|broken)|ProxyError|error sending request|dns error",
        "check the network; behind a mirror set PIP_INDEX_URL or UV_INDEX_URL, without a network "
        "PIP_NO_INDEX=1 and PIP_FIND_LINKS=<folder of wheels>",
    ),
    (
        r"Permission denied|Errno 13",
        "this environment cannot be written: leave out --system, or run as its owner",
    ),
    (
        r"ResolutionImpossible|conflicting dependencies|No solution found",
        "a package that is already installed excludes one that is needed: use an environment of its own "
        "(outside Colab: without --system; on Colab: Runtime > Disconnect and delete runtime, then Run all)",
    ),
    (
        r"\(from versions: none\)",
        "the package index offers nothing: check the network and PIP_INDEX_URL or PIP_FIND_LINKS; if they "
        "are right, there is no build for this Python and system: use 64-bit Python 3.11, 3.12 or 3.13",
    ),
    (
        r"No matching distribution|Could not find a version|different Python|not a supported wheel",
        "there is no build of this package for this Python and system: use 64-bit Python 3.11, 3.12 or 3.13 "
        "(PYTHON=/path/to/python3.12 bash setup.sh install)",
    ),
    (
        r"No module named (?:pip|ensurepip|venv)",
        "install pip for this Python (Debian, Ubuntu: apt install python3-venv)",
    ),
)
"""What to do about an installer's failure, found by what it prints; the first match counts."""


class InstallError(RuntimeError):
    """A step of the installation failed.

    Args:
        step: What was being done.
        what: What went wrong; may hold the installer's last lines.
        remedy: What the user can do next.
    """

    def __init__(self, step: str, what: str, remedy: str) -> None:
        super().__init__(f"The step '{step}' failed: {what}\nWhat to do: {remedy}.")
        self.step = step
        self.what = what
        self.remedy = remedy


# --- What is needed --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Project:
    """What ``pyproject.toml`` asks for; requirement strings as in PEP 508."""

    version: str
    requires_python: str
    requirements: tuple[str, ...]
    extras: Mapping[str, tuple[str, ...]]
    root: Path | None
    """The checkout to install editable; None when the package came as a wheel."""

    def wanted(self, extras: Iterable[str]) -> tuple[str, ...]:
        """The requirements of the package and of the named extras."""
        unknown = sorted(set(extras) - set(self.extras))
        if unknown:
            raise InstallError(
                "read pyproject.toml",
                f"there are no extras {', '.join(unknown)}",
                f"choose from {', '.join(self.extras)}",
            )
        return self.requirements + tuple(line for name in extras for line in self.extras[name])


def read_project(root: Path = ROOT) -> Project:
    """Read the dependency list: from the checkout, or from the installed package's metadata."""
    path = root / "pyproject.toml"
    return _project_from_file(path) if path.exists() else _project_from_metadata()


def _project_from_file(path: Path) -> Project:
    import tomllib  # not at the top: an unsuitable Python must get as far as being told so

    table = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return Project(
        version=table["version"],
        requires_python=table["requires-python"],
        requirements=tuple(table["dependencies"]),
        extras={name: tuple(lines) for name, lines in table["optional-dependencies"].items()},
        root=path.parent,
    )


def _project_from_metadata() -> Project:
    information = metadata.metadata(PROJECT)
    lines = metadata.requires(PROJECT) or []
    extras = information.get_all("Provides-Extra") or []
    return Project(
        version=information["Version"],
        requires_python=information["Requires-Python"],
        requirements=tuple(line for line in lines if "extra ==" not in line),
        extras={name: tuple(_lines_of_extra(lines, name)) for name in extras},
        root=None,
    )


def _lines_of_extra(lines: Iterable[str], extra: str) -> list[str]:
    pattern = re.compile(rf"""\s*;\s*extra == ['"]{re.escape(extra)}['"]$""")
    return [pattern.sub("", line) for line in lines if pattern.search(line)]


# --- What is there ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cuda:
    """A working NVIDIA driver and the CUDA libraries beside it; numbers are CUDA major versions."""

    driver: int
    """The newest CUDA the driver can run."""
    runtimes: frozenset[int] = frozenset()
    """CUDA versions whose runtime library is here."""
    cudnn: frozenset[int] = frozenset()
    """CUDA versions for which cuDNN 9 is here."""


@dataclass(frozen=True)
class Environment:
    """All that the choice depends on."""

    installed: Mapping[str, str]
    """Version by canonical distribution name."""
    cuda: Cuda | None = None
    shared: bool = False
    """Whether others use this environment too (Colab, ``--system``): nothing in it may move."""
    cv2: str | None = None
    """Version of a ``cv2`` that no known distribution claims (conda, apt)."""
    editable_root: Path | None = None
    """The checkout the installed package points to."""


def canonical(name: str) -> str:
    """A distribution's name in the form in which names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement(line: str) -> Any:
    """Parse a PEP 508 requirement with ``packaging``, or with the copy that pip carries."""
    return _packaging("requirements").Requirement(line)


def _packaging(part: str) -> ModuleType:
    for parent in ("packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(f"{parent}.{part}")
        except ImportError:
            continue
    raise InstallError("read requirements", "this Python has neither packaging nor pip", REMEDIES[-1][1])


def applies(line: str) -> bool:
    """Whether a requirement's marker, if it has one, holds here."""
    marker = requirement(line).marker
    return marker is None or bool(marker.evaluate())


def satisfied(line: str, installed: Mapping[str, str]) -> bool:
    """Whether a requirement is met by an installed version."""
    parsed = requirement(line)
    version = installed.get(canonical(parsed.name))
    return version is not None and bool(parsed.specifier.contains(version, prereleases=True))


def look(project: Project, extras: Iterable[str], *, shared: bool) -> Environment:
    """Take stock of the running environment; reads metadata only of packages that matter."""
    names = [requirement(line).name for line in project.wanted(extras)]
    installed = installed_versions([*names, *RUNTIMES, *CV2_PROVIDERS, "insightface", PROJECT])
    return Environment(
        installed=installed,
        cuda=find_cuda(),
        shared=shared,
        cv2=None if set(installed) & set(CV2_PROVIDERS) else unclaimed_cv2(),
        editable_root=editable_root(),
    )


def python_version() -> str:
    """Version of the running Python, as ``3.12.1``."""
    return ".".join(map(str, sys.version_info[:3]))


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions, of the given names, that are installed."""
    found = {}
    for name in names:
        try:
            found[canonical(name)] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def all_installed(places: Sequence[str] | None = None) -> dict[str, str]:
    """Every installed distribution and its version; in those folders, or in all of ``sys.path``."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions(path=list(sys.path if places is None else places)):
        name = distribution.metadata["Name"]
        if name:  # a half-removed package leaves metadata without a name
            found.setdefault(canonical(name), distribution.version)
    return found


def editable_root() -> Path | None:
    """The checkout that the installed package points to, None if there is none."""
    import json

    try:
        text = metadata.distribution(PROJECT).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    record = json.loads(text) if text else {}
    if not record.get("dir_info", {}).get("editable"):
        return None
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(record["url"]).path))


def unclaimed_cv2() -> str | None:
    """Version of an importable ``cv2`` that came without pip's metadata.

    Asked of another process, so that this one is free to replace it.
    """
    if importlib.util.find_spec("cv2") is None:
        return None
    code = "import cv2; print(cv2.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def find_cuda() -> Cuda | None:
    """The NVIDIA driver, if it works and has a device, and the CUDA libraries beside it.

    Asks NVML, not CUDA itself: initialising CUDA here would spoil it for processes forked later.
    """
    driver = _driver_cuda_version()
    if driver is None or not _loads("libcuda.so.1", "nvcuda.dll"):
        return None
    packages = _cuda_packages()
    on_disk = {n for n in RUNTIME_FOR_CUDA if _loads(f"libcudart.so.{n}", f"cudart64_{n}.dll")}
    cudnn = set(on_disk) if _loads("libcudnn.so.9", "cudnn64_9.dll") else set()
    return Cuda(
        driver=driver // 1000,
        runtimes=frozenset(packages["runtime"] | on_disk),
        cudnn=frozenset(packages["cudnn"] | cudnn),
    )


def _driver_cuda_version() -> int | None:
    """CUDA version the driver supports as 1000*major + 10*minor; None without driver or device."""
    library = _loads("libnvidia-ml.so.1", "nvml.dll")
    if library is None or library.nvmlInit_v2() != 0:
        return None
    count, version = ctypes.c_uint(), ctypes.c_int()
    try:
        counted = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        asked = library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
    finally:
        library.nvmlShutdown()
    return version.value if counted == asked == 0 and count.value else None


def _loads(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _cuda_packages() -> dict[str, set[int]]:
    """CUDA majors whose libraries came as Python packages (as PyTorch brings them)."""
    found = installed_versions(
        ["nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"]
    )
    runtime = {12} if "nvidia-cuda-runtime-cu12" in found else set()
    if "nvidia-cuda-runtime" in found:  # from CUDA 13 on the name no longer carries the version
        runtime.add(int(found["nvidia-cuda-runtime"].split(".")[0]))
    return {"runtime": runtime, "cudnn": {n for n in RUNTIME_FOR_CUDA if f"nvidia-cudnn-cu{n}" in found}}


# --- What is to be done ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What brings an environment to what is needed; empty when it already is."""

    remove: tuple[str, ...] = ()
    """Distributions to uninstall first."""
    install: tuple[str, ...] = ()
    """Requirements to install with their dependencies."""
    bare: tuple[str, ...] = ()
    """Requirements to install without dependencies."""
    editable: Path | None = None
    """The checkout to install editable, last."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know, one sentence each."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is missing."""
        return not (self.remove or self.install or self.bare or self.editable)

    def missing(self) -> tuple[str, ...]:
        """What is to be installed, in words."""
        own = (f"{PROJECT} (this checkout)",) if self.editable else ()
        return self.install + self.bare + own


def make_plan(project: Project, environment: Environment, extras: Iterable[str] = ()) -> Plan:
    """Decide what has to be removed and installed."""
    installed = environment.installed
    lines = [line for line in project.wanted(extras) if applies(line)]
    missing = [_with_own_cv2(line, environment) for line in lines if not met(line, environment)]
    remove, runtime, notes = plan_runtime(environment)
    return Plan(
        remove=remove,
        install=tuple(missing) + runtime,
        bare=() if satisfied(INSIGHTFACE, installed) else (INSIGHTFACE,),
        editable=project.root if _package_is_stale(project, environment) else None,
        notes=notes + tuple(_moves(missing, environment)),
    )


def met(line: str, environment: Environment) -> bool:
    """Whether a requirement is met, be it by another distribution of the same ``cv2``."""
    if canonical(requirement(line).name) in CV2_PROVIDERS:
        return cv2_satisfied(line, environment)
    return satisfied(line, environment.installed)


def cv2_satisfied(line: str, environment: Environment) -> bool:
    """Whether some distribution already gives a ``cv2`` of a fitting version."""
    specifier = requirement(line).specifier
    versions = [environment.installed.get(name) for name in CV2_PROVIDERS] + [environment.cv2]
    return any(version and specifier.contains(version, prereleases=True) for version in versions)


def _with_own_cv2(line: str, environment: Environment) -> str:
    """Ask for a fitting version of the ``cv2`` distribution that is there, rather than for a second one."""
    wanted = requirement(line)
    present = [name for name in CV2_PROVIDERS if name in environment.installed]
    if canonical(wanted.name) not in CV2_PROVIDERS or not present:
        return line
    return f"{present[0]}{wanted.specifier}"


def _package_is_stale(project: Project, environment: Environment) -> bool:
    installed = environment.installed.get(PROJECT)
    return installed != project.version or environment.editable_root != project.root


def _moves(missing: Iterable[str], environment: Environment) -> list[str]:
    """What has to change although it was there first; only worth a word where others use it too."""
    if not environment.shared:
        return []
    names = [(line, canonical(requirement(line).name)) for line in missing]
    return [
        f"{name} {environment.installed[name]} is too old or too new and will be changed to {line}"
        for line, name in names
        if name in environment.installed
    ]


def choose_runtime(cuda: Cuda | None) -> tuple[str, str]:
    """Choose the one ONNX Runtime for this machine.

    Returns:
        The requirement and the reason, as a sentence. The requirement asks for CUDA's libraries as
        packages where only the driver is there.
    """
    if cuda is None:
        return RUNTIME_FOR_CPU, "no working NVIDIA driver: ONNX Runtime for the CPU"
    if cuda.driver < min(RUNTIME_FOR_CUDA):
        return RUNTIME_FOR_CPU, (
            f"the NVIDIA driver only runs CUDA {cuda.driver}: ONNX Runtime for the CPU; "
            "a newer driver allows the GPU"
        )
    major = cuda_major(cuda)
    line = RUNTIME_FOR_CUDA[major]
    if major not in cuda.runtimes & cuda.cudnn:
        line = line.replace("onnxruntime-gpu", "onnxruntime-gpu[cuda,cudnn]")
    return line, f"CUDA {major}: {requirement(line).name} of the range built for it"


def cuda_major(cuda: Cuda) -> int:
    """The CUDA version to build on: what is installed beside the driver, else the driver's newest."""
    usable = {major for major in cuda.runtimes & set(RUNTIME_FOR_CUDA) if major <= cuda.driver}
    newest = min(cuda.driver, max(RUNTIME_FOR_CUDA))
    return max(usable, key=lambda major: (major in cuda.cudnn, major), default=newest)


def plan_runtime(environment: Environment) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Find what must go and what must come so that exactly one ONNX Runtime is installed.

    Returns:
        Distributions to remove, requirements to install, notes.
    """
    line, reason = choose_runtime(environment.cuda)
    wanted = requirement(line)
    present = tuple(name for name in RUNTIMES if name in environment.installed)
    complete = satisfied(line, environment.installed) and not wanted.extras
    if present == (canonical(wanted.name),):
        return (), () if complete else (line,), () if complete else (reason,)
    if not present:
        return (), (line,), (reason,)
    return present, (line,), (_clash(present), reason)


def _clash(present: tuple[str, ...]) -> str:
    if len(present) == 1:
        return f"{present[0]} is installed but does not fit this machine: it is replaced"
    return f"{' and '.join(present)} are installed and overwrite each other: all go, one comes back"


def constraint_lines(installed: Mapping[str, str], plan: Plan) -> list[str]:
    """Pins for everything installed, except what the plan itself changes."""
    changed = {canonical(requirement(line).name) for line in plan.install + plan.bare}
    free = changed | set(plan.remove) | {PROJECT}
    pins = [f"{name}=={version}" for name, version in sorted(installed.items()) if name not in free]
    return [pin for pin in pins if _is_valid(pin)]


def _is_valid(pin: str) -> bool:
    """Whether an installer can read the pin; a distribution's own version may be anything."""
    try:
        requirement(pin)
    except ValueError:
        return False
    return True


# --- Doing it --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """An installer program: pip, or uv's drop-in for it."""

    name: str
    command: tuple[str, ...]
    install: tuple[str, ...]
    uninstall: tuple[str, ...]


def find_tools() -> tuple[Tool, ...]:
    """The installers to try, in this order: uv where it is present, then pip."""
    pip = (sys.executable, "-m", "pip")
    quiet = ("--disable-pip-version-check", "--no-input")
    tools = [Tool("pip", pip, ("install", *quiet), ("uninstall", "--yes", *quiet))]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv:
        here = ("--python", sys.executable)
        tools.insert(0, Tool("uv", (uv, "pip"), ("install", *here), ("uninstall", *here)))
    return tuple(tools)


Run = Callable[[Sequence[str]], "tuple[int, list[str]]"]
"""Runs a command; returns its exit code and its last lines."""


def run_command(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run an installer, passing on the lines that show progress; return its exit code and last lines."""
    tail: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            if PROGRESS.match(line):
                _say(f"  {line.strip()[:100]}")
    return process.returncode, list(tail)


def carry_out(plan: Plan, *, shared: bool, tools: Sequence[Tool], run: Run = run_command) -> None:
    """Do what a plan says.

    Raises:
        InstallError: A step failed with every installer there is.
    """
    if plan.remove:
        _step("uninstall " + ", ".join(plan.remove), tools, "uninstall", plan.remove, run)
    if plan.install:
        with tempfile.TemporaryDirectory() as folder:
            pins = _constraints_file(plan, Path(folder)) if shared else ()
            _step("install packages", tools, "install", (*plan.install, *pins), run)
    last = plan.bare + (("--editable", str(plan.editable)) if plan.editable else ())
    if last:
        _step("install packages that bring no others", tools, "install", ("--no-deps", *last), run)


def _constraints_file(plan: Plan, folder: Path) -> tuple[str, str]:
    path = folder / "constraints.txt"
    path.write_text("\n".join(constraint_lines(all_installed(), plan)) + "\n", encoding="utf-8")
    return "--constraint", str(path)


def _step(step: str, tools: Sequence[Tool], verb: str, arguments: Sequence[str], run: Run) -> None:
    output: list[str] = []
    for number, tool in enumerate(tools):
        _say(f"{step} with {tool.name}: {_shorten(arguments)}")
        prefix = tool.install if verb == "install" else tool.uninstall
        code, output = run([*tool.command, *prefix, *arguments])
        if code == 0:
            return
        if number + 1 < len(tools):
            _say(f"{tool.name} could not do it ({_last_words(output)}); trying {tools[number + 1].name}")
    raise _failure(step, output)


def _failure(step: str, output: Sequence[str]) -> InstallError:
    said = "\n  ".join(["the installer said:", *output[-TAIL_LINES:]])
    return InstallError(step, said, find_remedy("\n".join(output)))


def _shorten(arguments: Sequence[str]) -> str:
    shown = [re.split(r"[<>=!~; ]", word)[0] for word in arguments if not word.startswith("-")]
    return " ".join(word for word in shown if not word.endswith("constraints.txt"))


def _last_words(output: Sequence[str]) -> str:
    return next((line.strip(" ×╰─▶│") for line in reversed(output) if line.strip()), "no message")[:110]


def find_remedy(output: str) -> str:
    """What to do about an installer's failure."""
    for pattern, remedy in REMEDIES:
        if re.search(pattern, output, re.IGNORECASE):
            return remedy
    return "read the lines above; when they name a package, try installing that one alone"


def check_python(project: Project, text: str) -> None:
    """Refuse a Python (its version as ``3.12.1``) that the packages have no builds for."""
    if not _packaging("specifiers").SpecifierSet(project.requires_python).contains(text, prereleases=True):
        raise InstallError(
            "check Python",
            f"this is Python {text} ({sys.executable}), needed is {project.requires_python}",
            "name a fitting one: PYTHON=/path/to/python3.12 bash setup.sh install",
        )


def stale_modules(modules: Mapping[str, ModuleType], versions: Mapping[str, str]) -> list[str]:
    """Modules loaded in this session in another version than the one now installed.

    Args:
        modules: Loaded modules by name, as ``sys.modules``.
        versions: Installed version by distribution.
    """
    stale = []
    for name, installed in versions.items():
        if name in CV2_PROVIDERS:  # several may be installed; which one was loaded cannot be told
            continue
        module = modules.get(IMPORT_NAMES.get(name, name.replace("-", "_")))
        loaded = getattr(module, "__version__", None)
        if isinstance(loaded, str) and not _same_version(loaded, installed):
            stale.append(f"{name} {loaded} is loaded, {installed} is installed")
    return stale


def _same_version(first: str, second: str) -> bool:
    """Whether two spellings mean one version; a module may leave out trailing or local parts."""
    short, long = sorted((first.split("+")[0], second.split("+")[0]), key=len)
    return long == short or long.startswith(short + ".")


def shadowing(names: Iterable[str], *, shared: bool) -> list[str]:
    """Needed modules that a folder before Python's own library brings: one of PYTHONPATH, or the session's.

    They may be made for another Python, or be somebody's own file of that name.

    Args:
        names: Distributions.
        shared: Whether such a folder may be part of the environment; then only modules count that no
            distribution there has brought.

    Returns:
        What is taken from where, one piece each.
    """
    places = [os.path.realpath(place or ".") for place in sys.path]
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    ahead = set(places[: places.index(library)] if library in places else [])
    found = {}
    for name in names:
        module = IMPORT_NAMES.get(canonical(name), name.replace("-", "_"))
        place = _home(module)
        if place in ahead and not (shared and canonical(name) in all_installed([place])):
            found[module] = place
    return [f"{module} is taken from {place}" for module, place in found.items()]


def _home(module: str) -> str | None:
    """The folder of ``sys.path`` that a module comes from; None where there is none such."""
    try:
        spec = importlib.util.find_spec(module)
    except ValueError:  # put together by hand in this session
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(os.path.realpath(spec.origin))
    return str(origin.parents[1] if spec.submodule_search_locations else origin.parent)


def on_shared_environment() -> bool:
    """Whether this Python is the system's or Colab's own, not one made for this project."""
    return sys.prefix == sys.base_prefix or "COLAB_RELEASE_TAG" in os.environ


def ensure(
    *,
    extras: Iterable[str] = ("notebook",),
    system: bool | None = None,
    install: bool = True,
    root: Path = ROOT,
) -> None:
    """Install what is missing, or with ``install=False`` only say what is.

    Call it from the session that will use the packages: it also finds modules that this session
    loaded before they were replaced.

    Args:
        extras: Extras of ``pyproject.toml`` to include.
        system: Keep everything already installed where it is; None: decide by the environment.
        install: Whether to install, not only to check.
        root: The checkout.

    Raises:
        InstallError: Something is missing and may not be installed, a step failed, or the session
            must be restarted.
    """
    extras = tuple(extras)
    _need_pip()
    project = read_project(root)
    check_python(project, python_version())
    shared = on_shared_environment() if system is None else system
    needed = [requirement(line).name for line in project.wanted(extras)]
    foreign = shadowing([*needed, "onnxruntime", "insightface"], shared=shared)
    if foreign:
        raise InstallError("look where modules come from", "; ".join(foreign), UNSHADOW)
    environment = look(project, extras, shared=shared)
    plan = make_plan(project, environment, extras)
    _apply(plan, shared=shared, install=install)
    importlib.invalidate_caches()
    if not plan.is_empty:
        missing = make_plan(project, look(project, extras, shared=shared), extras).missing()
        if missing:
            raise InstallError("check packages", "still missing here: " + ", ".join(missing), HERE)
    stale = stale_modules(sys.modules, installed_versions(environment.installed))
    if stale:
        raise InstallError("compare loaded modules", "; ".join(stale), RESTART)


def _apply(plan: Plan, *, shared: bool, install: bool) -> None:
    for note in plan.notes:
        _say(note)
    if plan.is_empty:
        _say("nothing to install")
    elif install:
        carry_out(plan, shared=shared, tools=find_tools())
        _say("installation complete")
    else:
        what = "missing: " + ", ".join(plan.missing())
        raise InstallError("check packages", what, "run 'bash setup.sh install' in the project's folder")


def _need_pip() -> None:
    """Make sure there is pip or packaging to read requirements with (``uv venv`` brings neither)."""
    if any(importlib.util.find_spec(name) for name in ("packaging", "pip")):
        return
    code, output = run_command([sys.executable, "-m", "ensurepip", "--upgrade"])
    importlib.invalidate_caches()
    if code:
        raise _failure("add pip", output)


def _say(text: str) -> None:
    print(f"[install] {text}", flush=True)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Install what this project needs and is missing.")
    add = parser.add_argument
    add("--check", action="store_true", help="only say what is missing; exit code 1 if something is")
    add("--extras", default="", help="extras of pyproject.toml, with commas: notebook,dev")
    add("--system", action="store_true", help="keep every installed package where it is")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from a shell; returns the exit code."""
    arguments = parse_arguments(argv)
    try:
        ensure(
            extras=[name.strip() for name in arguments.extras.split(",") if name.strip()],
            system=True if arguments.system else None,
            install=not arguments.check,
        )
    except InstallError as error:
        print(f"[install] {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - the reader may have started any Python
        sys.exit("[install] Python 3.11, 3.12 or 3.13 is needed: PYTHON=/path/to/python3.12 bash setup.sh")
    sys.exit(main())
