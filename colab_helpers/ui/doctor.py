"""What the cells of ``setup.ipynb`` call, and the doctor's table for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_helpers.diagnosis import Check, Diagnosis, diagnose
from colab_helpers.errors import ColabHelpersError, OutputError
from colab_helpers.language import mark, tr
from colab_helpers.settings import DEFAULT_PRESET, Settings
from colab_helpers.ui.cells import DOCTOR_REPORT
from colab_helpers.ui.host import Host, mounted_drive, this_host
from colab_helpers.ui.notebook import DEMO_FOLDER, new_run_folder, settings_of_form, speak_as_asked
from colab_helpers.ui.panel_parts import AMBER, GREEN, RED

_COLOURS = {"pass": GREEN, "warn": AMBER, "fail": RED}
_WORDS = {"pass": mark("works"), "warn": mark("warning"), "fail": mark("fails")}


class SetupError(ColabHelpersError, RuntimeError):
    """The doctor found something that keeps a run from working."""


@dataclass(frozen=True)
class Setup:
    """What was found, and where it is written down."""

    diagnosis: Diagnosis
    report: Path
    host: Host


def run_setup(
    *,
    preset: str = DEFAULT_PRESET,
    overrides: Mapping[str, Any] | None = None,
    models_dir: str = "",
    demo: bool = True,
    output_dir: str = "",
    language: str = "auto",
    headless: bool = False,
) -> Setup:
    """Examine this machine for runs with these settings; ``doctor.json`` in the output folder holds it all.

    Args:
        preset: A preset, or several joined by ``+``.
        overrides: Any field of ``Settings``; wins over the preset.
        models_dir: Folder of the model files.
        demo: With ``models_dir`` empty, examine the demo's stand-in networks, not those of the usual place.
        output_dir: Where the report goes; empty for a new folder under the host's ``runs``.
        language: Of everything said from here on: ``en``, ``es``, or ``auto`` for the environment's.
        headless: Nobody watches.

    Raises:
        ColabHelpersError: Wrong settings, or a folder that cannot be reached or written.
    """
    speak_as_asked(language)
    form = read_form(preset, overrides, models_dir, demo=demo, output_dir=output_dir, headless=headless)
    diagnosis = diagnose(form.settings, models_dir=form.models, folder=form.folder, drive=mounted_drive())
    report = form.folder / DOCTOR_REPORT
    report.write_text(diagnosis.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Setup(diagnosis, report, form.host)


@dataclass(frozen=True)
class Form:
    """What a notebook's form asks for, with its folders made.

    Attributes:
        models: Folder of the model files; None for the usual one.
    """

    settings: Settings
    host: Host
    folder: Path
    models: Path | None


def read_form(
    preset: str,
    overrides: Mapping[str, Any] | None,
    models_dir: str,
    *,
    demo: bool,
    output_dir: str,
    headless: bool,
) -> Form:
    """Read what ``run_setup`` and ``show_models`` ask for alike.

    Raises:
        ColabHelpersError: Wrong settings, or a folder that cannot be reached or written.
    """
    settings = settings_of_form(preset, overrides or {})
    host = this_host(headless=headless)
    folder = prepare_folder(host, output_dir, models_dir)
    return Form(settings, host, folder, models_folder(models_dir, demo=demo, folder=folder))


def prepare_folder(host: Host, output_dir: str, *others: str) -> Path:
    """The folder of a notebook's report, made; and places reached that the form names.

    Raises:
        OutputError: It cannot be made.
        UsageError: Google Drive is named and cannot be mounted.
    """
    folder = Path(output_dir).expanduser() if output_dir else new_run_folder(host)
    host.reach([folder, *(Path(path).expanduser() for path in others if path)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            tr("the folder cannot be made ({reason})", reason=error.strerror),
            where=str(folder),
            remedy=tr("name another folder in output_dir"),
        ) from error
    return folder


def models_folder(models_dir: str, *, demo: bool, folder: Path) -> Path | None:
    """The models folder that a form means: the one named, the demo's own, or the usual one (None)."""
    if models_dir:
        return Path(models_dir).expanduser()
    if not demo:
        return None
    from colab_helpers.demo.standins import write_standins

    models = folder / DEMO_FOLDER / "models"
    write_standins(models)
    return models


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
