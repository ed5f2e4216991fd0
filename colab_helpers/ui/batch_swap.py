"""What the cells of ``batch_swap.ipynb`` call after the panel; the notebook holds no logic of its own."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from colab_helpers.errors import ColabHelpersError
from colab_helpers.files import manifest_beside, unwritable_error
from colab_helpers.language import tr
from colab_helpers.pages.report import failure_text, results_of
from colab_helpers.pages.units import results_text
from colab_helpers.request import BatchRequest
from colab_helpers.ui.form_state import FormState, Run, RunView, prepare_request
from colab_helpers.ui.host import open_html_area, this_host
from colab_helpers.ui.progress import ProgressLine


class BatchError(ColabHelpersError, RuntimeError):
    """Some files of a batch failed; the report says which and why."""

    refusal = False


class StoppedError(BatchError):
    """A batch was stopped before all files were done."""


def run_batch_swap(form_state: FormState | BatchRequest) -> Run | None:
    """Swap faces in a batch, as chosen in the panel that ``show_panel`` has shown, or the rendered demo's.

    A batch that the panel's button has begun is watched. Returned is the run, with its report; None where it
    is left to the panel's button, because nobody runs cells.

    Raises:
        ConsentError: No usable statement of consent; nothing was done.
        ColabHelpersError: The run could not be started.
    """
    form_state = FormState(form_state) if isinstance(form_state, BatchRequest) else form_state
    asked, runs = form_state.request(), form_state.runs
    host = this_host(headless=asked.headless)
    if form_state.has_panel and not host.has_cells:
        return None
    form_state.networks.close()
    run = runs.begin(prepare_request(asked, host), host)
    run.in_cell = True
    runs.look()
    try:
        with ProgressLine(headless=host.headless) as line:
            paint = None if host.headless else open_html_area()
            if paint is None:
                run.work(on_progress=line, on_status=line.status)
            else:
                run.work(on_status=RunView(run.folder, paint))
    finally:
        run.in_cell = False
        runs.look()
    return run


def show_results(run: Run | None) -> None:
    """Show what became of every file, pictures of results, and players for videos; None is left to the panel.

    Where the form's ``download`` says so, results are handed to the browser's computer, several as one zip,
    each with the manifest beside it.

    Raises:
        UsageError: There is no way to hand them over here.
        StoppedError: The run was stopped before all files were done.
        BatchError: Some file failed; so a headless run ends with an error, after everything was shown.
    """
    report = run.report if run is not None else None
    if run is None or report is None:
        return
    run.host.show(run.html(report), results_text(report), kept=True)
    made = results_of(report)
    marked = (file for file in report.files if file.status == "done" and file.manifest)
    made += [manifest_beside(Path(str(file.output))) for file in marked]
    if run.request.download and made:
        run.host.download(made[0] if len(made) == 1 else pack_results(made))
    if report.ok:
        return
    raise (StoppedError if report.stopped else BatchError)(
        failure_text(report),
        where=str(run.folder / "report.json"),
        remedy=tr("run again to go on: what is finished is kept")
        if report.stopped
        else tr("correct what the report names and run again"),
    )


def pack_results(paths: Sequence[Path]) -> Path:
    """Pack results as one zip in a folder of its own; stored as they are: videos do not get smaller."""
    # Not beside the results, where a file of that name may be the user's.
    path = Path(tempfile.mkdtemp(prefix="colab_helpers-")) / "results.zip"
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for each in paths:
                archive.write(each, each.name)
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise unwritable_error(path, error) from error
    return path
