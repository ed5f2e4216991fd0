"""What the cells of ``setup.ipynb`` call, and the doctor's table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.batch.plan import Writable
from colab_helpers.batch.report import own_file
from colab_helpers.diagnosis import Check, Diagnosis, diagnose
from colab_helpers.errors import ColabHelpersError, OutputError
from colab_helpers.files import write_atomically
from colab_helpers.language import mark, speak, tr
from colab_helpers.machine import mounted_drive
from colab_helpers.request import Request, SettingsRequest, SetupRequest
from colab_helpers.ui.cells import DOCTOR_REPORT
from colab_helpers.ui.host import Host, this_host
from colab_helpers.ui.notebook import DEMO_FOLDER, new_run_folder, reach
from colab_helpers.ui.panel_parts import AMBER, GREEN, RED

_COLOURS = {"pass": GREEN, "warn": AMBER, "fail": RED}
_WORDS = {"pass": mark("works"), "warn": mark("warning"), "fail": mark("fails")}


class SetupError(ColabHelpersError, RuntimeError):
    """The doctor found something that keeps a run from working."""

    refusal = False


@dataclass(frozen=True)
class Setup:
    """What was found, and where it is written down."""

    diagnosis: Diagnosis
    report: Path
    host: Host


def run_setup(request: SetupRequest) -> Setup:
    """Examine this machine for runs with these settings; ``doctor.json`` in the output folder holds it all.

    Raises:
        ColabHelpersError: Wrong settings, or a folder that cannot be reached or written.
    """
    speak(request.language)
    settings, host = request.settings, this_host(headless=request.headless)
    folder = prepare_folder(host, request, DOCTOR_REPORT)
    models = models_folder(request, folder)
    diagnosis = diagnose(settings, models_dir=models, folder=folder, drive=mounted_drive())
    report = folder / DOCTOR_REPORT
    write_atomically(report, f"{diagnosis.model_dump_json(indent=2)}\n".encode())
    return Setup(diagnosis, report, host)


def prepare_folder(host: Host, request: Request, report: str) -> Path:
    """The folder of a notebook's report, made; and places reached that the form names.

    Raises:
        OutputError: It cannot be made.
        UsageError: A place cannot be reached, or a file of the user's has the name of the report.
    """
    folder = request.output_dir or new_run_folder(host)
    reach(host, folder, *request.places)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            tr("the folder cannot be made ({reason})", reason=error.strerror),
            where=str(folder),
            remedy=tr("name another folder in output_dir"),
        ) from error
    overwrite = isinstance(request, SettingsRequest) and request.settings.overwrite
    Writable(overwrite=overwrite, made=own_file).clear(folder / report)
    return folder


def models_folder(request: SetupRequest, folder: Path) -> Path | None:
    """The models folder that a form means: the one named, the demo's own, or the usual one (None)."""
    if request.models_dir or not request.demo:
        return request.models_dir
    from colab_helpers.demo import copy_models

    return copy_models(folder / DEMO_FOLDER / "models")


def show_setup(setup: Setup) -> None:
    """Show the doctor's table.

    Raises:
        SetupError: Something failed; so a headless run ends with an error, after everything was shown.
    """
    show_diagnosis(setup.host, setup.diagnosis)
    failures = setup.diagnosis.failures()
    if failures:
        raise SetupError(failure_text(failures), where=str(setup.report), remedy=failures[0].remedy)


def show_diagnosis(host: Host, diagnosis: Diagnosis) -> None:
    """Show findings as a table, or as text where there is no front end."""
    show(host, diagnosis_html(diagnosis), "\n".join(diagnosis.lines()))


def show(host: Host, page: str, text: str) -> None:
    """Show HTML, or print text where nobody watches: a log shows no HTML."""
    if host.headless:
        print(text, flush=True)
    else:
        host.show_html(page, text=text)


def failure_text(failures: Iterable[Check]) -> str:
    """What failed, in one line."""
    found = list(failures)
    told = "; ".join(f"{item.title}: {item.detail}" for item in found)
    return tr("{count} finding(s) failed: {told}", count=len(found), told=told)


def diagnosis_html(diagnosis: Diagnosis) -> str:
    """Findings as an HTML table."""
    titles = ("", tr("what"), tr("found"), tr("what to do"))
    head = "".join(f'<th style="text-align:left">{title}</th>' for title in titles)
    rows = "".join(_row(check) for check in diagnosis.checks)
    return f"<p><b>{html.escape(diagnosis.summary())}</b></p><table><tr>{head}</tr>{rows}</table>"


def _row(check: Check) -> str:
    word = f'<b style="color:{_COLOURS[check.status]}">{tr(_WORDS[check.status])}</b>'
    cells = [word, *(html.escape(text) for text in (check.title, check.detail, check.remedy))]
    return "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>"
