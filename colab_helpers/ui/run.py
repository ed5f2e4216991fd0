"""The Run tab: a summary of the batch, buttons to start and stop it, its live status and its results."""

from __future__ import annotations

from typing import Any

from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.stop import request_stop
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.pages.report import failure_text
from colab_helpers.pages.svg import BAD, WARN
from colab_helpers.ui.form_state import REFRESH, FormState, Run, RunView, prepare_request, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import error_message, paragraph
from colab_helpers.ui.widgets import Widgets

_POLL_INTERVAL = REFRESH / 2


class RunTab:
    """Starts, stops and shows a batch.

    The batch runs in its worker process, watched by a thread; widgets are updated by the kernel's main thread
    only, between cells.
    """

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._widgets, self._form_state, self._host = widgets, form_state, host
        self._stop_pending = False
        self._run_view: RunView | None = None
        self._shown: BatchReport | None = None
        self.plan, self.message, self.view = widgets.html(), widgets.html(), widgets.html()
        self.start_button = widgets.button(tr("Start"), self.start, hint=tr("Start or resume the batch"))
        self.stop_button = widgets.button(tr("Stop"), self.stop, hint=tr("Finished work is kept"))
        self.start_button.button_style, self.stop_button.button_style = "success", "danger"
        buttons = widgets.row(self.start_button, self.stop_button)
        if not host.has_buttons:
            buttons = widgets.html(paragraph(tr('To start, run the next cell, "3. Run".')))
        placeholder = tr("No results yet: they appear here when a run ends.")
        self.results = widgets.column(widgets.html(paragraph(placeholder)))
        self.box = widgets.column(self.plan, buttons, self.message, self.results, self.view)
        form_state.runs.observe(lambda _: self._on_change(), "running_from")
        self._on_change()

    def refresh(self, count: int) -> None:
        """Update the summary of the batch, which has ``count`` files."""
        request = self._form_state.request(overrides={})
        changed = sum(bool(line.strip()) for line in self._form_state.overrides.splitlines())
        preset = request.preset
        preset += tr(" with {count} setting(s) changed", count=changed) if changed else ""
        folder = results_folder(request, self._host)
        text = mark("{count} file(s), preset {preset}; output folder {folder}.")
        self.plan.value = paragraph(tr(text, count=count, preset=preset, folder=folder))

    def start(self, **changes: Any) -> None:
        """Start or resume the batch of the panel; ``changes`` override values of its request."""
        runs = self._form_state.runs
        if runs.running_from:
            return
        self.view.value = self.message.value = ""
        self._form_state.networks.close()  # leave the memory to the run
        try:
            runs.start(prepare_request(self._form_state.request(**changes), self._host), self._host)
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(error_message(error), BAD)
            return
        self.take_over()

    def take_over(self) -> None:
        """Show the running batch if a button has started it."""
        run = self._form_state.runs.latest
        if run is None or self._form_state.runs.running_from != "button":
            return
        self._stop_pending = False
        self._run_view = RunView(run.folder, self._paint)
        self._host.call_repeatedly(self.poll, _POLL_INTERVAL)

    def stop(self) -> None:
        """Ask the batch to stop; finished work is kept."""
        self._stop_pending = self.stop_button.disabled = True
        self.message.value = paragraph(tr("Stopping: finishing the current segment ..."), WARN)
        self._request_stop(self._form_state.runs.latest)

    def _request_stop(self, run: Run | None) -> None:
        """Pass a pending stop on; it stays pending while the worker is starting up."""
        if run is None or not self._stop_pending:
            return
        try:
            self._stop_pending = not request_stop(run.folder)
        except ColabHelpersError as error:
            self._stop_pending = False
            self.message.value = paragraph(error_message(error), BAD)

    def poll(self) -> bool:
        """Show the current status of the batch; return whether to poll again."""
        run = self._form_state.runs.latest
        if run is None or self._form_state.is_closed:
            return False
        goes_on = run.is_watched
        self._request_stop(run)
        if run.status is not None and self._run_view is not None:
            self._run_view(run.status)
        self._form_state.runs.update()
        return goes_on

    def _paint(self, html: str) -> None:
        self.view.value = html

    def _on_change(self) -> None:
        """Update buttons and messages when a batch has been started or has ended."""
        runs = self._form_state.runs
        self.start_button.disabled = bool(runs.running_from)
        self.stop_button.disabled = runs.running_from != "button"
        if runs.running_from == "cell":
            self.message.value = paragraph(tr('The cell "3. Run" is running: see its output.'))
        elif runs.running_from == "button":
            self.message.value = paragraph(tr("Running. You may close this page: the run goes on."))
        elif runs.latest is not None:
            self._show_end(runs.latest)

    def _show_end(self, run: Run) -> None:
        report = run.report
        if report is None:
            self.message.value = paragraph(error_message(run.error), BAD) if run.error else ""
            return
        self.message.value = _outcome_html(report)
        if report is self._shown:
            return
        self._shown = report
        # A new widget each time: Jupyter limits the data rate of updates to an existing one.
        before, self.results.children = self.results.children, (self._widgets.html(run.html(report)),)
        for widget in before:
            widget.close()


def _outcome_html(report: BatchReport) -> str:
    """Say what is left to do after a run; empty if nothing."""
    if report.ok:
        return ""
    remedy, summary = tr("Press Start to resume: finished work is kept."), report.summary
    if report.stopped:
        done = tr("Stopped: {done} of {total} files are done.", done=summary.succeeded, total=summary.total)
        return paragraph(f"{done} {remedy}", WARN)
    return paragraph(f"{failure_text(report)}. {remedy}", BAD)
