"""What the cells of the notebooks call, one function a cell; the notebooks hold no logic of their own."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colab_helpers.batch.report import BatchReport
from colab_helpers.errors import ColabHelpersError, UsageError
from colab_helpers.language import ASKED, speak, tr
from colab_helpers.media.writer import unwritable
from colab_helpers.pages.report import failure_text, results_html, results_of, results_text
from colab_helpers.settings import DEFAULT_PRESET, Settings
from colab_helpers.ui.host import Host, open_panel, this_host
from colab_helpers.ui.panel_choice import Answers, Choice
from colab_helpers.ui.panel_presets import settings_of
from colab_helpers.ui.progress import ProgressLine
from colab_helpers.ui.run_view import RunView

if TYPE_CHECKING:
    from colab_helpers.batch.supervisor import NoteCallback, StatusCallback
    from colab_helpers.progress import ProgressCallback

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
class BatchOrder:
    """A batch that may begin: what it works on, how, and where."""

    answers: Answers
    inputs: Inputs
    settings: Settings
    folder: Path
    host: Host

    def run(
        self,
        *,
        on_progress: ProgressCallback | None = None,
        on_note: NoteCallback | None = None,
        on_status: StatusCallback | None = None,
    ) -> BatchRun:
        """Have it done, or watch it where it is at work already.

        Raises:
            ColabHelpersError: It could not be started.
        """
        from colab_helpers.api import run_batch

        report = run_batch(
            self.inputs.sources,
            self.inputs.targets,
            self.folder,
            consent=self.answers.consent,
            settings=self.settings,
            models_dir=self.inputs.models,
            video_range=self.answers.video_range,
            session_minutes=self.answers.session_minutes,
            shortest_first=self.answers.shortest_first,
            on_progress=on_progress,
            on_note=on_note,
            on_status=on_status,
        )
        return BatchRun(report, self.folder, self.host)


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

    def html(self) -> str:
        """What became of it, for a page; players would make a notebook large that nobody looks at."""
        return results_html(
            self.report,
            self.folder,
            keeping=self.host.keeping(self.folder),
            with_players=not self.host.headless,
        )


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
) -> BatchRun | None:
    """Swap faces in a batch, from the values of the notebook's form.

    Args:
        sources: Photos of the person who is put in. Without sources and targets the rendered demo is
            made in the run's folder and used, with its stand-in models. A choice, as ``show_panel`` returns
            it, stands for all arguments; its preview's networks are released. A batch that the panel's button
            has begun is watched.
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

    Returns:
        The finished run; None where it is left to the panel's button, because nobody runs cells.

    Raises:
        ConsentError: No usable statement of consent; nothing was done.
        ColabHelpersError: The run could not be started.
    """
    if isinstance(sources, Choice):
        return _run_in_cell(sources)
    answers = Answers(
        tuple(_listed(sources)),
        tuple(_listed(targets)),
        output_dir=output_dir,
        preset=preset,
        overrides={} if overrides is None else overrides,
        video_range=video_range,
        consent=consent,
        models_dir=models_dir,
        session_minutes=session_minutes,
        shortest_first=shortest_first,
        headless=headless,
    )
    return _run_in_cell(Choice(answers))


def _run_in_cell(choice: Choice) -> BatchRun | None:
    answers, ledger = choice.answers, choice.ledger
    host = this_host(headless=answers.headless)
    if choice.has_panel and not host.has_cells:
        return None
    choice.close()
    order = order_of(answers, host, ledger.folder_of(answers))
    with ledger.in_cell(answers, order.folder) as entry, ProgressLine(headless=host.headless) as line:
        paint = None if host.headless else open_panel()
        if paint is None:
            entry.result = order.run(on_progress=line, on_note=line.note)
        else:
            entry.result = order.run(on_status=RunView(order.folder, paint))
        return entry.result


def order_of(answers: Answers, host: Host, folder: Path | None = None) -> BatchOrder:
    """What answers ask for, with every folder known; makes the demo where nothing is named.

    Args:
        answers: What is chosen.
        host: Where the notebook runs.
        folder: Where it was begun before; None for the folder that is chosen, or a new one.

    Raises:
        ConsentError: No usable statement of consent; nothing was done.
        SettingsError: An unknown preset or key, or a bad value.
        UsageError: Sources or targets are missing, or a place cannot be reached.
    """
    from colab_helpers.trust.consent import require_consent

    require_consent(answers.consent, [])
    settings = settings_of_form(answers.preset, answers.overrides)
    wanted = answers.output_dir or str(folder or "")
    places = _places(host, list(answers.sources), list(answers.targets), wanted, answers.models_dir)
    return BatchOrder(answers, places[0], settings, places[1], host)


def speak_as_asked(chosen: str) -> None:
    """Speak the language that a notebook's form names, from here on.

    Raises:
        UsageError: There is no such language.
    """
    known = next((name for name in ASKED if name == chosen), None)
    if known is None:
        raise UsageError(
            tr("there are no texts in the language {name!r}", name=chosen),
            remedy=tr("choose from {names}", names=", ".join(ASKED)),
        )
    speak(known)


def settings_of_form(preset: str, overrides: Mapping[str, Any]) -> Settings:
    """The settings that a form's preset and overrides ask for.

    Raises:
        SettingsError: An unknown preset or key, or a bad value.
        UsageError: ``overrides`` is no mapping.
    """
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise UsageError(
            tr("overrides = {overrides!r} is not a mapping of settings", overrides=overrides),
            remedy=tr('write it like {"batch_size": 2, "keep_fps": True}'),
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
            tr("{missing} is empty", missing=missing),
            remedy=tr("name both sources and targets, or neither for the demo"),
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

    print(tr("no sources and targets: making the rendered demo in {folder}", folder=folder), flush=True)
    demo = make_demo(folder, true_swaps=False)
    return Inputs([demo.sources[DEMO_SOURCE]], demo.targets, models or demo.models)


def show_results(run: BatchRun | None, *, my_computer: bool = False) -> None:
    """Show what became of every file, pictures of the results, and players for videos.

    Args:
        run: As ``run_batch_swap`` returns it; None shows nothing: the panel does.
        my_computer: Hand the results to the computer that the browser runs on; several as one zip.

    Raises:
        UsageError: There is no way to hand them over here.
        BatchError: Some file failed; so a headless run ends with an error, after everything was shown.
    """
    if run is None:
        return
    run.host.show_html(run.html(), text=results_text(run.report, run.folder))
    made = results_of(run.report)
    if my_computer and made:
        run.host.download(made[0] if len(made) == 1 else packed(made, run.folder))
    if not run.report.ok:
        raise BatchError(
            failure_text(run.report),
            where=str(run.folder / "report.json"),
            remedy=tr("correct what the report names and run again"),
        )


def packed(paths: Sequence[Path], folder: Path) -> Path:
    """Results as one zip in the folder; stored as they are, since videos do not get smaller.

    Raises:
        OutputError: It cannot be written.
    """
    path = folder / "results.zip"
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for each in paths:
                archive.write(each, each.name)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise unwritable(path, error) from error
    return path
