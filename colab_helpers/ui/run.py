"""The tab of the run: what will be done, buttons to start and to stop it, how it stands, what came of it."""

from __future__ import annotations

from typing import Any

from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.stop import request_stop
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr
from colab_helpers.pages.report import failure_text
from colab_helpers.ui.form_state import REFRESH, FormState, Run, RunView, prepare_request, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import AMBER, RED, error_message, paragraph
from colab_helpers.ui.widgets import Widgets

_POLL_INTERVAL = REFRESH / 2


class RunTab:
    """Starts the batch that is chosen, shows how it stands, stops it, and shows its results.

    The work is done by the batch's worker process and watched by a thread; all painting is done by the
    kernel's main thread, between cells.
    """

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._widgets, self._form_state, self._host = widgets, form_state, host
        self._stop_wanted = False
        self._painter: RunView | None = None
        self._shown: BatchReport | None = None
        self.plan, self.message, self.view = widgets.html(), widgets.html(), widgets.html()
        self.start_button = widgets.button(tr("Start"), self.start, hint=tr("Begin, or go on with it"))
        self.stop_button = widgets.button(tr("Stop"), self.stop, hint=tr("What is finished is kept"))
        self.start_button.button_style, self.stop_button.button_style = "success", "danger"
        buttons = widgets.row(self.start_button, self.stop_button)
        if not host.has_buttons:
            told = tr('Run the next cell, "3. Run": it does what is chosen here.')
            buttons = widgets.html(paragraph(told))
        nothing = tr("Nothing has been made yet: the results of a run appear here when it ends.")
        self.results = widgets.column(widgets.html(paragraph(nothing)))
        self.box = widgets.column(self.plan, buttons, self.message, self.results, self.view)
        form_state.runs.observe(lambda _: self._changed(), "waiter")
        self._changed()

    def refresh(self, count: int) -> None:
        """Say what would be done now, with so many files."""
        request = self._form_state.request(overrides={})
        changed = sum(bool(line.strip()) for line in self._form_state.overrides.splitlines())
        more = tr(" with {count} setting(s) changed", count=changed) if changed else ""
        told = tr(
            "{count} file(s), preset {preset}; results go to {folder}.",
            count=count,
            preset=request.preset + more,
            folder=results_folder(request, self._host),
        )
        self.plan.value = paragraph(told)

    def start(self, **changes: Any) -> None:
        """Begin the batch that is chosen, or go on with it; with ``changes`` to its request."""
        if self._form_state.runs.running_from:
            return
        self.view.value = self.message.value = ""
        # Its memory is the run's.
        self._form_state.networks.close()
        try:
            self._form_state.runs.start(
                prepare_request(self._form_state.request(**changes), self._host), self._host
            )
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(error_message(error), RED)
            return
        self.take_over()

    def take_over(self) -> None:
        """Show the batch that is at work, if a button has begun it."""
        run = self._form_state.runs.latest
        if run is None or self._form_state.runs.running_from != "button":
            return
        self._stop_wanted = False
        self._painter = RunView(run.folder, self._paint)
        self._host.call_repeatedly(self.look, _POLL_INTERVAL)

    def stop(self) -> None:
        """Ask the batch to stop; what is finished is kept."""
        self._stop_wanted = self.stop_button.disabled = True
        self.message.value = paragraph(tr("Stopping: the piece at work is put away first ..."), AMBER)
        self._ask(self._form_state.runs.latest)

    def _ask(self, run: Run | None) -> None:
        """Ask once; a worker that is only beginning cannot be asked yet: the next look tries again."""
        if run is None or not self._stop_wanted:
            return
        try:
            self._stop_wanted = not request_stop(run.folder)
        except ColabHelpersError as error:
            self._stop_wanted = False
            self.message.value = paragraph(error_message(error), RED)

    def look(self) -> bool:
        """Show how the batch stands now; return whether to look again."""
        run = self._form_state.runs.latest
        if run is None or self._form_state.is_closed:
            return False
        goes_on = run.is_watched
        self._ask(run)
        if run.status is not None and self._painter is not None:
            self._painter(run.status)
        self._form_state.runs.look()
        return goes_on

    def _paint(self, html: str) -> None:
        self.view.value = html

    def _changed(self) -> None:
        """Show that a batch has begun or ended, by button or by cell."""
        runs = self._form_state.runs
        self.start_button.disabled = bool(runs.running_from)
        self.stop_button.disabled = runs.running_from != "button"
        if runs.running_from == "cell":
            self.message.value = paragraph(tr('The cell "3. Run" is at work: see below it.'))
        elif runs.running_from == "button":
            self.message.value = paragraph(tr("At work. Nothing is lost if this page is closed."))
        elif runs.latest is not None:
            self._show_end(runs.latest)

    def _show_end(self, run: Run) -> None:
        report = run.report
        if report is None:
            self.message.value = paragraph(error_message(run.error), RED) if run.error else ""
            return
        self.message.value = _ending(report)
        if report is self._shown:
            return
        self._shown = report
        # A new widget each time: Jupyter limits how much may be sent to one that is there already.
        before, self.results.children = self.results.children, (self._widgets.html(run.html(report)),)
        for widget in before:
            widget.close()


def _ending(report: BatchReport) -> str:
    """Say what is left to do after a run, in a sentence."""
    if report.ok:
        return ""
    again, summary = tr("Start goes on with it: what is finished is kept."), report.summary
    if summary.skipped:
        done = tr("Stopped: {done} of {total} files are done.", done=summary.succeeded, total=summary.total)
        return paragraph(f"{done} {again}", AMBER)
    return paragraph(f"{failure_text(report)}. {again}", RED)
