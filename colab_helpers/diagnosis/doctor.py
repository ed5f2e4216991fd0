"""Asks every question about a machine and gathers the findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from colab_helpers.diagnosis import environment
from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check, Diagnosis, Subject, finding
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.settings import Settings, load_settings

CheckFunction = Callable[[Subject], Iterable[Check]]


def _networks(subject: Subject) -> Iterator[Check]:
    # Not at the top: the doctor must get as far as saying that a package cannot be imported.
    from colab_helpers.diagnosis.networks import models

    return models(subject)


CHECKS: Mapping[str, CheckFunction] = {
    mark("place"): environment.place,
    "python": environment.python,
    mark("packages"): environment.package_versions,
    "onnxruntime": environment.runtime,
    mark("memory"): environment.memory,
    mark("disk"): environment.disk,
    mark("models folder"): environment.models_folder,
    mark("drive"): environment.drive,
    "cuda": environment.cuda_compatibility,
    "gpu": environment.card,
    mark("encoder"): environment.encoder,
    mark("models"): _networks,
}
"""In the order of the table, by the name a finding has that the question could not come to."""


def diagnose(
    settings: Settings | None = None,
    *,
    models_dir: Path | None = None,
    folder: Path = Path(),
    drive: Path | None = None,
) -> Diagnosis:
    """Check this machine for a run with these settings, by default the default preset's.

    Every network of the settings is run; real weights of a few hundred megabytes take some seconds. Results
    would go to ``folder``; ``drive`` is Google Drive, where it is mounted.
    """
    settings = settings or load_settings()
    return run_checks(Subject.here(settings, models_dir=models_dir, folder=folder, drive=drive))


def run_checks(subject: Subject, questions: Mapping[str, CheckFunction] = CHECKS) -> Diagnosis:
    """Ask questions about a subject; one that breaks down becomes a finding itself."""
    return Diagnosis.of(check for name, ask in questions.items() for check in _answers(name, ask, subject))


def _answers(name: str, ask: CheckFunction, subject: Subject) -> Iterator[Check]:
    try:
        yield from ask(subject)
    except ColabHelpersError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        yield finding(name, what, error.remedy or tr(INSTALL_REMEDY))
    except Exception as error:  # noqa: BLE001 - a broken installation may fail in any way
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        yield finding(name, tr("cannot be examined: {error}", error=f"{kind}{error}"), tr(INSTALL_REMEDY))
