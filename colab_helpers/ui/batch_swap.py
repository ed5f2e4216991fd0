"""Functions called by the cells of ``batch_swap.ipynb``; the notebook has no logic of its own."""

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
    """Run the batch that the panel or the form describes; join it if the panel's button has started it.

    Without any sources and targets, run the demo. Return the run with its report; None in a
    frontend without cells (Voila), where the panel's button starts it.

    Raises:
        ConsentError: There is no usable statement of consent; nothing was done.
        ColabHelpersError: The run could not be started.
    """
    form_state = FormState(form_state) if isinstance(form_state, BatchRequest) else form_state
    request, runs = form_state.request(), form_state.runs
    host = this_host(headless=request.headless)
    if form_state.has_panel and not host.has_cells:
        return None
    form_state.networks.close()
    run = runs.begin(prepare_request(request, host), host)
    run.in_cell = True
    runs.update()
    try:
        with ProgressLine(headless=host.headless) as line:
            paint = None if host.headless else open_html_area()
            if paint is None:
                run.execute(on_progress=line, on_status=line.status)
            else:
                run.execute(on_status=RunView(run.folder, paint))
    finally:
        run.in_cell = False
        runs.update()
    return run


def show_results(run: Run | None) -> None:
    """Show the outcome of every file, with pictures and video players; do nothing for None.

    If the form's ``download`` is set, let the browser download the outputs with their sidecar manifests,
    several files as one zip.

    Raises:
        UsageError: Downloads are not possible here.
        StoppedError: The run was stopped before all files were done.
        BatchError: Some file failed; raised after everything was shown, so that headless runs fail, too.
    """
    report = run.report if run is not None else None
    if run is None or report is None:
        return
    run.host.show(run.html(report), results_text(report), kept=True)
    outputs = results_of(report)
    marked = (file for file in report.files if file.status == "done" and file.manifest)
    outputs += [manifest_beside(Path(str(file.output))) for file in marked]
    if run.request.download and outputs:
        run.host.download(outputs[0] if len(outputs) == 1 else pack_results(outputs))
    if report.ok:
        return
    raise (StoppedError if report.stopped else BatchError)(
        failure_text(report),
        where=str(run.folder / "report.json"),
        remedy=tr("run again to resume: finished work is kept")
        if report.stopped
        else tr("correct what the report names and run again"),
    )


def pack_results(paths: Sequence[Path]) -> Path:
    """Pack files into an uncompressed zip (videos hardly compress) in a new temporary folder."""
    # Not in the output folder, where the user may have a file of that name.
    path = Path(tempfile.mkdtemp(prefix="colab_helpers-")) / "results.zip"
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for each in paths:
                archive.write(each, each.name)
    except OSError as error:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise unwritable_error(path, error) from error
    return path
