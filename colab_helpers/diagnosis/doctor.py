"""Run all checks of a machine and collect the findings."""

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
    # Imported here, so that the doctor still runs if a package cannot be imported.
    from colab_helpers.diagnosis.networks import models

    return models(subject)


CHECKS: Mapping[str, CheckFunction] = {
    mark("platform"): environment.platform,
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
"""In the order of the table; the key is the finding's name if the check itself fails."""


def diagnose(
    settings: Settings | None = None,
    *,
    models_dir: Path | None = None,
    folder: Path = Path(),
    drive: Path | None = None,
) -> Diagnosis:
    """Check this machine for a run with these settings (default: those of the default preset).

    Every network is run; real weights of a few hundred megabytes take some seconds. ``folder`` is the output
    folder; ``drive`` is where Google Drive is mounted, if it is.
    """
    settings = settings or load_settings()
    return run_checks(Subject.here(settings, models_dir=models_dir, folder=folder, drive=drive))


def run_checks(subject: Subject, checks: Mapping[str, CheckFunction] = CHECKS) -> Diagnosis:
    """Run checks; one that raises an exception becomes a failed finding."""
    return Diagnosis.of(one for name, check in checks.items() for one in _run_check(name, check, subject))


def _run_check(name: str, check: CheckFunction, subject: Subject) -> Iterator[Check]:
    try:
        yield from check(subject)
    except ColabHelpersError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        yield finding(name, what, error.remedy or tr(INSTALL_REMEDY))
    except Exception as error:  # noqa: BLE001 - a broken installation may fail in any way
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        yield finding(name, tr("this check failed: {error}", error=f"{kind}{error}"), tr(INSTALL_REMEDY))
