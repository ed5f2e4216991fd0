"""Python and the packages against the ranges of ``pyproject.toml``, and the one ONNX Runtime."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from colab_helpers import install
from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check
from colab_helpers.diagnosis.subject import EXTRAS, Subject
from colab_helpers.language import tr


def python(subject: Subject) -> Iterator[Check]:
    """Python's version."""
    try:
        install.check_python(subject.project, subject.machine.python)
    except install.InstallError:
        yield Check(
            name="python",
            status="fail",
            detail=tr(
                "{version}, but {needed} is needed",
                version=subject.machine.python,
                needed=subject.project.requires_python,
            ),
            remedy=tr("use Python 3.11, 3.12 or 3.13: PYTHON=/path/to/python3.12 bash setup.sh install"),
        )
    else:
        yield Check(name="python", status="pass", detail=subject.machine.python)


def ranges(subject: Subject) -> Iterator[Check]:
    """Every package that is asked for, one finding each."""
    needed = [line for line in subject.project.wanted(()) if install.applies(line)]
    # A run does without these: they are for the notebooks and for the proof against insightface.
    extras = [line for extra in EXTRAS for line in subject.project.extras[extra] if install.applies(line)]
    for line in needed:
        yield _package(line, subject, needed=True)
    for line in [*extras, install.INSIGHTFACE]:
        yield _package(line, subject, needed=False)


def _package(line: str, subject: Subject, *, needed: bool) -> Check:
    wanted = install.requirement(line)
    name = install.canonical(wanted.name)
    version = subject.environment.installed.get(name)
    if install.met(line, subject.environment):
        detail = version or tr("another build of the same module is used")
        return Check(name=name, status="pass", detail=detail)
    return Check(
        name=name,
        status="fail" if needed else "warn",
        detail=tr(
            "{version}; wanted is {wanted}", version=version or tr("not installed"), wanted=wanted.specifier
        ),
        remedy=tr(INSTALL_REMEDY),
    )


def runtime(subject: Subject) -> Iterator[Check]:
    """Exactly one ONNX Runtime: two distributions overwrite each other's files."""
    installed = subject.environment.installed
    found = [name for name in install.RUNTIMES if name in installed]
    if len(found) != 1:
        detail = (
            tr("{names} are installed and overwrite each other", names=tr(" and ").join(found))
            if found
            else tr("not installed")
        )
        remedy = tr(
            "{install}: exactly the one that fits this machine is installed", install=tr(INSTALL_REMEDY)
        )
        yield Check(name="onnxruntime", status="fail", detail=detail, remedy=remedy)
        return
    name, version = found[0], installed[found[0]]
    problem = _range_problem(name, version) or _import_problem()
    yield Check(
        name="onnxruntime",
        status="fail" if problem else "pass",
        detail=f"{name} {version}{f': {problem}' if problem else ''}",
        remedy=tr(INSTALL_REMEDY) if problem else "",
    )


def _range_problem(name: str, version: str) -> str:
    lines = [install.RUNTIME_FOR_CPU, *install.RUNTIME_FOR_CUDA.values()]
    wanted = [line for line in lines if install.requirement(line).name == name]
    if any(install.satisfied(line, {name: version}) for line in wanted):
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
