"""Functions called by the cells of ``setup.ipynb``, and the doctor's table for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from colab_helpers.batch.report import is_own_file, write_text
from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.demo import DEMO_FOLDER, copy_models
from colab_helpers.diagnosis import Diagnosis, diagnose
from colab_helpers.errors import ColabHelpersError, OutputError, wrap_os_error
from colab_helpers.files import to_json
from colab_helpers.language import mark, set_language, tr
from colab_helpers.machine import mounted_drive
from colab_helpers.pages.svg import BAD, GOOD, WARN
from colab_helpers.request import Request, SettingsRequest, SetupRequest
from colab_helpers.ui.form import DOCTOR_REPORT
from colab_helpers.ui.host import Host, this_host
from colab_helpers.ui.markup import table

_COLOURS = {"pass": GOOD, "warn": WARN, "fail": BAD}
_WORDS = {"pass": mark("works"), "warn": mark("warning"), "fail": mark("fails")}


class SetupError(ColabHelpersError, RuntimeError):
    """The doctor found a problem that prevents runs."""

    refusal = False


@dataclass(frozen=True)
class SetupResult:
    """The diagnosis, and the path of ``doctor.json``."""

    diagnosis: Diagnosis
    report: Path
    host: Host


def run_setup(request: SetupRequest) -> SetupResult:
    """Check this machine for runs with these settings; write ``doctor.json`` into the output folder.

    Raise ColabHelpersError for invalid settings, or a folder not reachable or writable.
    """
    set_language(request.language)
    settings, host = request.settings, this_host(headless=request.headless)
    folder = prepare_folder(host, request, DOCTOR_REPORT)
    models = models_folder(request, folder)
    diagnosis = diagnose(settings, models_dir=models, folder=folder, drive=mounted_drive())
    report = folder / DOCTOR_REPORT
    write_text(report, to_json(diagnosis, indent=2) + "\n")
    return SetupResult(diagnosis, report, host)


def prepare_folder(host: Host, request: Request, report: str) -> Path:
    """Create and return the folder for a notebook's report, after checking all paths of the form.

    Raise ColabHelpersError if a path is not reachable or writable, or a user's file has the report's name.
    """
    folder = request.output_dir or host.new_run_folder()
    host.ensure_reachable(folder, *request.paths)
    what, remedy = mark("the folder cannot be created ({reason})"), mark("set output_dir to another folder")
    with wrap_os_error(OutputError, what, folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
    overwrite = isinstance(request, SettingsRequest) and request.settings.overwrite
    WritePolicy(overwrite=overwrite, made=is_own_file).ensure_writable(folder / report)
    return folder


def models_folder(request: SetupRequest, folder: Path) -> Path | None:
    """Return the models folder of a form: the given one, a copy of the demo's, or None for the default."""
    if request.models_dir or not request.demo:
        return request.models_dir
    return copy_models(folder / DEMO_FOLDER / "models")


def show_setup(setup: SetupResult) -> None:
    """Show the doctor's table; then raise SetupError if a check failed, so that headless runs fail, too."""
    show_diagnosis(setup.host, setup.diagnosis, SetupError, setup.report)


def show_diagnosis(host: Host, diagnosis: Diagnosis, kind: type[ColabHelpersError], report: Path) -> None:
    """Show a diagnosis as HTML or text; then raise an error of the given kind if a check failed."""
    host.show(diagnosis_html(diagnosis), "\n".join(diagnosis.lines()))
    if failures := diagnosis.failures():
        details = "; ".join(f"{check.title}: {check.detail}" for check in failures)
        what = tr("{count} check(s) failed: {details}", count=len(failures), details=details)
        raise kind(what, where=str(report), remedy=failures[0].remedy)


def diagnosis_html(diagnosis: Diagnosis) -> Markup:
    """Return a diagnosis as an HTML table."""
    heads = ("", tr("check"), tr("result"), tr("what to do"))
    status = Markup('<b style="color:{}">{}</b>')
    rows = [
        (status.format(_COLOURS[one.status], tr(_WORDS[one.status])), one.title, one.detail, one.remedy)
        for one in diagnosis.checks
    ]
    return Markup("<p><b>{}</b></p>{}").format(diagnosis.summary(), table(heads, rows))
