"""What the cells of the notebooks call, one function a cell; the notebooks hold no logic of their own."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colab_helpers.batch.report import BatchReport, FileReport
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.settings import DEFAULT_PRESET, Settings
from colab_helpers.ui.cells import STANDIN_NOTE
from colab_helpers.ui.gallery import gallery_html
from colab_helpers.ui.host import Host, open_panel, this_host
from colab_helpers.ui.panel_choice import Choice
from colab_helpers.ui.panel_presets import settings_of
from colab_helpers.ui.progress import ProgressLine
from colab_helpers.ui.run_view import RunView

DEMO_FOLDER = "demo"
"""Where in the run's folder the demo is written."""

DEMO_SOURCE = 5
"""Which of the demo's portraits is put in, from 0: one who looks unlike the people of its first clips."""


class BatchError(ColabHelpersError, RuntimeError):
    """Some files of a batch failed; the report says which and why."""


@dataclass(frozen=True)
class Inputs:
    """What a run works on, with every folder known."""

    sources: Sequence[str | Path]
    targets: Sequence[str | Path]
    models: Path | None


@dataclass(frozen=True)
class BatchRun:
    """A finished batch and where its results are."""

    report: BatchReport
    folder: Path
    host: Host

    @property
    def uses_standins(self) -> bool:
        """Whether the demo's networks made the results."""
        return any(model.standin for model in self.report.models)


def run_batch_swap(
    sources: Sequence[str] | Choice = (),
    targets: Sequence[str] = (),
    *,
    output_dir: str = "",
    preset: str = DEFAULT_PRESET,
    overrides: Mapping[str, Any] | None = None,
    video_range: str = "",
    consent: str = "",
    models_dir: str = "",
    session_minutes: float = 0.0,
    shortest_first: bool = False,
    headless: bool = False,
) -> BatchRun:
    """Swap faces in a batch, from the values of the notebook's form.

    Args:
        sources: Photos of the person who is put in. Without sources and targets the rendered demo is
            made in the run's folder and used, with its stand-in models. A choice, as ``show_panel`` returns
            it, stands for all arguments; its preview's networks are released.
        targets: Videos, images, or folders of them.
        output_dir: Folder of the results; empty for a new one under the host's ``runs``.
        preset: A preset, or several joined by ``+``.
        overrides: Any field of ``Settings``; wins over the preset.
        video_range: Which targets, counted from 1, such as ``1-30``.
        consent: Who is shown, and on what ground.
        models_dir: Folder of the model files; empty for the usual place.
        session_minutes: How long this machine can be used; some frames are measured then, and it is told
            how many files fit. 0: not known.
        shortest_first: Do the files in the order of the time they take.
        headless: Nobody watches: plain progress lines, no questions.

    Raises:
        ConsentError: No usable statement of consent; nothing was done.
        ColabHelpersError: The run could not be started.
    """
    if isinstance(sources, Choice):
        sources.close()
        return run_batch_swap(**sources.values())
    from colab_helpers.api import run_batch
    from colab_helpers.trust.consent import require_consent

    require_consent(consent, [])
    settings = settings_of_form(preset, overrides or {})
    host = this_host(headless=headless)
    inputs, folder = _places(host, _listed(sources), _listed(targets), output_dir, models_dir)
    paint = None if headless else open_panel()
    view = None if paint is None else RunView(folder, paint)
    with ProgressLine(headless=headless) as line:
        report = run_batch(
            inputs.sources,
            inputs.targets,
            folder,
            consent=consent,
            settings=settings,
            models_dir=inputs.models,
            video_range=video_range,
            session_minutes=session_minutes,
            shortest_first=shortest_first,
            on_progress=line if view is None else None,
            on_note=line.note if view is None else None,
            on_status=view,
        )
    return BatchRun(report, folder, host)


def settings_of_form(preset: str, overrides: Mapping[str, Any]) -> Settings:
    """The settings that a form's preset and overrides ask for.

    Raises:
        SettingsError: An unknown preset or key, or a bad value.
        UsageError: ``overrides`` is no mapping.
    """
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise UsageError(
            f"overrides = {overrides!r} is not a mapping of settings",
            remedy='write it like {"batch_size": 2, "keep_fps": True}',
        )
    return settings_of(preset, overrides, this_host().home)


def _listed(value: Sequence[str] | str) -> list[str]:
    """A list, also of the single path that somebody writes without brackets."""
    return [value] if isinstance(value, str) else list(value)


def _places(
    host: Host, sources: list[str], targets: list[str], output_dir: str, models_dir: str
) -> tuple[Inputs, Path]:
    if bool(sources) != bool(targets):
        missing = "targets" if sources else "sources"
        raise UsageError(
            f"{missing} is empty", remedy="name both sources and targets, or neither for the demo"
        )
    folder = Path(output_dir).expanduser() if output_dir else new_run_folder(host)
    models = Path(models_dir).expanduser() if models_dir else None
    host.reach([folder, *map(Path, sources + targets), *([models] if models else [])])
    if not sources:
        return _make_demo(folder / DEMO_FOLDER, models), folder
    return Inputs(_expanded(sources), _expanded(targets), models), folder


def _expanded(paths: list[str]) -> list[str | Path]:
    """Paths with ``~`` spelled out; a picture given as a data URL stays as it is."""
    return [path if path.startswith("data:") else Path(path).expanduser() for path in paths]


def new_run_folder(host: Host) -> Path:
    """A folder under the host's ``runs`` that is not there yet, named by the time."""
    first = host.runs / time.strftime("%Y%m%d-%H%M%S")
    folder, number = first, 2
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder


def _make_demo(folder: Path, models: Path | None) -> Inputs:
    from colab_helpers.demo.clip import make_demo

    print(f"no sources and targets: making the rendered demo in {folder}", flush=True)
    demo = make_demo(folder, true_swaps=False)
    return Inputs([demo.sources[DEMO_SOURCE]], demo.targets, models or demo.models)


def show_results(run: BatchRun) -> None:
    """Show what became of every file, and pictures of the results.

    Raises:
        BatchError: Some file failed; so a headless run ends with an error, after everything was shown.
    """
    run.host.show_html(results_html(run), text=results_text(run))
    if not run.report.ok:
        raise BatchError(
            failure_text(run.report),
            where=str(run.folder / "report.json"),
            remedy="correct what the report names and run again",
        )


def failure_text(report: BatchReport) -> str:
    """The failed files and why, in one line."""
    wrong = [file for file in report.files if file.status != "done"]
    reasons = "; ".join(f"{Path(file.target).name}: {file.error or file.status}" for file in wrong)
    return f"{len(wrong)} of {len(report.files)} files did not succeed: {reasons}"


def results_html(run: BatchRun) -> str:
    """Table of files, notes and gallery of a run."""
    head = "".join(f"<th>{name}</th>" for name in ("file", "result", "frames", "faces", "seconds", "remarks"))
    rows = "".join(_file_row(file) for file in run.report.files)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in _notes(run))
    summary = f"<p><b>{html.escape(summary_text(run))}</b></p>"
    return f"{summary}{notes}<table><tr>{head}</tr>{rows}</table>{gallery_html(run.report)}"


def _file_row(file: FileReport) -> str:
    remarks = "; ".join([*([file.error] if file.error else []), *file.fallbacks])
    values = [
        Path(file.target).name,
        file.status,
        f"{file.frames_out}",
        f"{file.faces_swapped}",
        f"{file.seconds:.1f}",
        remarks,
    ]
    return "<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in values) + "</tr>"


def results_text(run: BatchRun) -> str:
    """The results for places that cannot show HTML."""
    files = [
        f"  {file.status:8}{Path(file.target).name}: {file.frames_out} frames, "
        f"{file.faces_swapped} faces{', ' + file.error if file.error else ''}"
        for file in run.report.files
    ]
    return "\n".join([summary_text(run), *_notes(run), *files])


def summary_text(run: BatchRun) -> str:
    """The run in one line."""
    summary = run.report.summary
    return (
        f"{summary.succeeded} of {summary.total} files in {summary.seconds:.1f} s, "
        f"{summary.bytes / 1e6:.1f} MB, memory warnings: {summary.memory_warnings}; results in {run.folder}"
    )


def _notes(run: BatchRun) -> list[str]:
    return [*([STANDIN_NOTE] if run.uses_standins else []), *run.report.notes]
