"""Python and the packages against the ranges of ``pyproject.toml``, and the one ONNX Runtime."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from colab_helpers import requirements
from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check, finding
from colab_helpers.diagnosis.subject import EXTRAS, Subject
from colab_helpers.language import tr


def python(subject: Subject) -> Iterator[Check]:
    """Check Python's version."""
    what, remedy = subject.machine.python, ""
    try:
        requirements.check_python(subject.project, what)
    except requirements.InstallError:
        needed = subject.project.requires_python
        what = tr("{version}, but {needed} is needed", version=what, needed=needed)
        remedy = tr("use Python 3.11, 3.12 or 3.13: PYTHON=/path/to/python3.12 bash setup.sh install")
    yield finding("python", what, remedy)


def ranges(subject: Subject) -> Iterator[Check]:
    """Check every package that is asked for, one finding each."""
    # A run does without the extras: they are for the notebooks and for the proof against insightface.
    extras = [line for extra in EXTRAS for line in subject.project.extras[extra]]
    for line in (*subject.project.requirements, *extras, requirements.INSIGHTFACE):
        wanted, installed = requirements.requirement(line), subject.environment.installed
        name = requirements.canonical(wanted.name)
        what, remedy = installed.get(name) or tr("not installed"), ""
        if not requirements.satisfied(line, installed):
            what = tr("{version}; wanted is {wanted}", version=what, wanted=wanted.specifier)
            remedy = tr(INSTALL_REMEDY)
        yield finding(name, what, remedy, warns=line not in subject.project.requirements)


def runtime(subject: Subject) -> Iterator[Check]:
    """Check that there is exactly one ONNX Runtime: two distributions overwrite each other's files."""
    installed = subject.environment.installed
    found = [name for name in requirements.RUNTIMES if name in installed]
    if len(found) == 1:
        name, version = found[0], installed[found[0]]
        problem = _range_problem(name, version) or _import_problem()
        what = f"{name} {version}{f': {problem}' if problem else ''}"
        yield finding("onnxruntime", what, tr(INSTALL_REMEDY) if problem else "")
        return
    what = tr("not installed")
    if found:
        what = tr("{names} are installed and overwrite each other", names=tr(" and ").join(found))
    remedy = tr("{install}: exactly the one that fits this machine is installed", install=tr(INSTALL_REMEDY))
    yield finding("onnxruntime", what, remedy)


def _range_problem(name: str, version: str) -> str:
    lines = [requirements.RUNTIME_FOR_CPU, *requirements.RUNTIME_FOR_CUDA.values()]
    wanted = [line for line in lines if requirements.requirement(line).name == name]
    if any(requirements.satisfied(line, {name: version}) for line in wanted):
        return ""
    if not wanted:
        return tr("it is not one of those that are supported")
    return tr("wanted is {packages}", packages=tr(" or ").join(wanted))


def _import_problem() -> str:
    """Why the module cannot be used; removing one of two distributions leaves an empty shell."""
    try:
        module = importlib.import_module("onnxruntime")
    except Exception as error:  # noqa: BLE001 - a native library may fail to load in any way
        return tr("it cannot be imported ({error})", error=error)
    return "" if hasattr(module, "InferenceSession") else tr("its files are gone: the module is empty")
