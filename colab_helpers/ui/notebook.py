"""What the cells of ``batch_swap.ipynb`` call after the panel; the notebook holds no logic of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.batch.report import BatchReport
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr
from colab_helpers.machine import require_places
from colab_helpers.media.writer import unwritable
from colab_helpers.pages.report import failure_text, results_html, results_of, results_text
from colab_helpers.request import BatchRequest
from colab_helpers.ui.host import Host, open_panel, this_host
from colab_helpers.ui.panel_choice import Choice
from colab_helpers.ui.progress import ProgressLine
from colab_helpers.ui.run_view import RunView

if TYPE_CHECKING:
    from colab_helpers.batch.supervisor import StatusCallback
    from colab_helpers.progress import ProgressCallback

DEMO_FOLDER = "demo"
"""Where in the run's folder the demo is written."""


class BatchError(ColabHelpersError, RuntimeError):
    """Some files of a batch failed; the report says which and why."""

    refusal = False


class StoppedError(BatchError):
    """A batch was stopped before all files were done."""


@dataclass(frozen=True)
class BatchRun:
    """A finished batch and where its results are."""

    report: BatchReport
    request: BatchRequest
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


def run_batch_swap(choice: Choice | BatchRequest) -> BatchRun | None:
    """Swap faces in a batch, as chosen in the panel that ``show_panel`` has shown.

    Without sources and targets the rendered demo is made in the run's folder and used, with its stand-in
    models. The preview's networks are released. A batch that the panel's button has begun is watched.

    Returns:
        The finished run; None where it is left to the panel's button, because nobody runs cells.

    Raises:
        ConsentError: No usable statement of consent; nothing was done.
        ColabHelpersError: The run could not be started.
    """
    choice = Choice(choice) if isinstance(choice, BatchRequest) else choice
    request, ledger = choice.request, choice.ledger
    host = this_host(headless=request.headless)
    if choice.has_panel and not host.has_cells:
        return None
    choice.close()
    request = prepared(request, host)
    with ledger.in_cell(request) as entry, ProgressLine(headless=host.headless) as line:
        paint = None if host.headless else open_panel()
        if paint is None:
            entry.result = run_prepared(request, host, on_progress=line, on_status=line.status)
        else:
            entry.result = run_prepared(request, host, on_status=RunView(entry.folder, paint))
        return entry.result


def run_prepared(
    request: BatchRequest,
    host: Host,
    *,
    on_progress: ProgressCallback | None = None,
    on_status: StatusCallback | None = None,
) -> BatchRun:
    """Have a request that ``prepared`` returned done, or watch it where it is at work already."""
    from colab_helpers.api import do_batch
    from colab_helpers.batch.supervisor import BatchStopped

    try:
        report = do_batch(request, on_progress=on_progress, on_status=on_status)
    except BatchStopped as stopped:
        if stopped.report is None:
            raise
        report = stopped.report
    return BatchRun(report, request, results_folder(request, host), host)


def prepared(request: BatchRequest, host: Host) -> BatchRequest:
    """The same request with every folder known and within reach; makes the demo where nothing is named.

    Raises:
        ConsentError: No usable statement of consent; nothing was done.
        SettingsError: An unknown preset or key, or a bad value.
        UsageError: Sources or targets are missing, or a place cannot be reached.
    """
    from colab_helpers.trust.consent import require_consent

    require_consent(request.consent, [])
    request.check()
    folder = results_folder(request, host)
    reach(host, folder, *request.places)
    if request.sources or request.targets:
        return request.replaced(output_dir=folder)
    return request.replaced(output_dir=folder, **_make_demo(folder / DEMO_FOLDER, request.models_dir))


def results_folder(request: BatchRequest, host: Host) -> Path:
    """Where the results go: the same folder for the same sources and targets, where none is named.

    Whatever else is asked for may change: what was made otherwise does not pass for what is wanted now.
    """
    return request.output_dir or host.runs / request.run_name


def reach(host: Host, *paths: Path) -> None:
    """Open places that have to be opened first, and refuse those that cannot be reached.

    Raises:
        UsageError: A place cannot be reached.
    """
    host.reach(paths)
    require_places(paths)


def new_run_folder(host: Host) -> Path:
    """A folder under the host's ``runs`` that is not there yet, named by the time."""
    first = host.runs / time.strftime("%Y%m%d-%H%M%S")
    folder, number = first, 2
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder


def _make_demo(folder: Path, models: Path | None) -> dict[str, object]:
    from colab_helpers.demo import copy_demo

    print(tr("no sources and targets: the rendered demo is used, in {folder}", folder=folder), flush=True)
    demo = copy_demo(folder)
    return {"sources": [demo.source], "targets": demo.targets, "models_dir": models or demo.models}


def show_results(run: BatchRun | None) -> None:
    """Show what became of every file, pictures of the results, and players for videos.

    Where the form's ``download`` says so, results are handed to the browser's computer, several as one zip.

    Args:
        run: As ``run_batch_swap`` returns it; None shows nothing: the panel does.

    Raises:
        UsageError: There is no way to hand them over here.
        StoppedError: The run was stopped before all files were done.
        BatchError: Some file failed; so a headless run ends with an error, after everything was shown.
    """
    if run is None:
        return
    run.host.show_html(run.html(), text=results_text(run.report, run.folder))
    made = results_of(run.report)
    if run.request.download and made:
        run.host.download(made[0] if len(made) == 1 else packed(made))
    if run.report.ok:
        return
    stopped = run.report.stopped
    raise (StoppedError if stopped else BatchError)(
        failure_text(run.report),
        where=str(run.folder / "report.json"),
        remedy=tr("run again to go on: what is finished is kept")
        if stopped
        else tr("correct what the report names and run again"),
    )


def packed(paths: Sequence[Path]) -> Path:
    """Results as one zip in a folder of its own; stored as they are, since videos do not get smaller.

    Raises:
        OutputError: It cannot be written.
    """
    # Not beside the results, where a file of that name may be the user's.
    path = Path(tempfile.mkdtemp(prefix="colab_helpers-")) / "results.zip"
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for each in paths:
                archive.write(each, each.name)
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise unwritable(path, error) from error
    return path
