"""The tab of the run: what will be done, buttons to start and to stop it, and how it stands."""

from __future__ import annotations

from collections.abc import Callable

from colab_helpers.batch.status import ask_to_stop
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import tr
from colab_helpers.pages.report import failure_text, summary_text
from colab_helpers.ui.ledger import Entry
from colab_helpers.ui.notebook import BatchRun, prepared, results_folder, run_prepared
from colab_helpers.ui.panel_desk import Desk
from colab_helpers.ui.panel_parts import AMBER, GREEN, RED, paragraph, words
from colab_helpers.ui.run_view import REFRESH, RunView

_LOOK_EVERY = REFRESH / 2


class RunTab:
    """Starts the batch that is chosen, shows how it stands, and stops it.

    The work is done by the batch's worker process and watched by a thread; all painting is done by the
    kernel's main thread, between cells.

    Args:
        desk: Shared by all tabs.
        count: How many files are chosen.
    """

    def __init__(self, desk: Desk, *, count: Callable[[], int]) -> None:
        self._desk, self._count = desk, count
        self._stop_wanted = self._stop_asked = False
        self._painter: RunView | None = None
        self._make()

    def _make(self) -> None:
        desk = self._desk
        self.plan, self.message, self.view = desk.html(), desk.html(), desk.html()
        self.start_button = desk.button(tr("Start"), self.start, hint=tr("Begin, or go on with it"))
        self.stop_button = desk.button(tr("Stop"), self.stop, hint=tr("What is finished is kept"))
        self.start_button.button_style, self.stop_button.button_style = "success", "danger"
        self.stop_button.disabled = True
        buttons = desk.row(self.start_button, self.stop_button)
        if not desk.host.has_buttons:
            buttons = desk.html(paragraph(tr('Run the next cell, "3. Run": it does what is chosen here.')))
        self.box = desk.column(self.plan, buttons, self.message, self.view)

    def refresh(self) -> None:
        """Say what would be done now."""
        request = self._desk.read()
        preset = request.preset
        if request.overrides:
            preset += tr(" with {count} setting(s) changed", count=len(request.overrides))
        told = tr(
            "{count} file(s), preset {preset}; results go to {folder}.",
            count=self._count(),
            preset=preset,
            folder=results_folder(request, self._desk.host),
        )
        self.plan.value = paragraph(told)

    def start(self) -> None:
        """Begin the batch that is chosen, or go on with it."""
        desk, ledger = self._desk, self._desk.ledger
        if ledger.last is not None and ledger.last.is_working:
            return
        self.view.value = self.message.value = ""
        # Its memory is the run's.
        desk.studio.close()
        try:
            request = prepared(desk.read(), desk.host)
            ledger.start(request, lambda on_status: run_prepared(request, desk.host, on_status=on_status))
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(words(error), RED)
            return
        self.take_over()

    def take_over(self) -> None:
        """Show the batch that is at work, if a button has begun it."""
        entry = self._desk.ledger.last
        if entry is None or entry.watched is None or entry.watched.ended:
            return
        entry.watched.shown_by = self
        self._stop_wanted = self._stop_asked = False
        self._painter = RunView(entry.folder, self._paint)
        self.changed(entry)
        self._desk.repeat(self.look, _LOOK_EVERY)

    def stop(self) -> None:
        """Ask the batch to stop; what is finished is kept."""
        self._stop_wanted, self.stop_button.disabled = True, True
        self.message.value = paragraph(tr("Stopping: the piece at work is put away first ..."), AMBER)
        self._ask()

    def _ask(self) -> None:
        """A worker that is only beginning cannot be asked yet: the next look tries again."""
        entry = self._desk.ledger.last
        if entry is None or not self._stop_wanted or self._stop_asked:
            return
        try:
            self._stop_asked = ask_to_stop(entry.folder)
        except ColabHelpersError as error:
            self._stop_asked = True
            self.message.value = paragraph(words(error), RED)

    def look(self) -> bool:
        """Show how the batch stands now; whether to look again."""
        entry = self._desk.ledger.last
        if entry is None or entry.watched is None or entry.watched.shown_by is not self:
            return False
        ended = entry.watched.ended
        self._ask()
        if entry.watched.status is not None and self._painter is not None:
            self._painter(entry.watched.status)
        if ended:
            self._desk.ledger.settle(entry)
        return not ended

    def _paint(self, html: str) -> None:
        self.view.value = html

    def changed(self, entry: Entry) -> None:
        """A batch has begun or ended, by button or by cell."""
        self.start_button.disabled = entry.is_working
        self.stop_button.disabled = not entry.is_working or entry.in_cell
        self.refresh()
        if entry.in_cell:
            self.message.value = paragraph(tr('The cell "3. Run" is at work: see below it.'))
        elif entry.is_working:
            self.message.value = paragraph(tr("At work. Nothing is lost if this page is closed."))
        elif entry.result is not None:
            self.message.value = _ending(entry.result)
        elif entry.watched is not None and entry.watched.error is not None:
            self.message.value = paragraph(words(entry.watched.error), RED)
        else:
            self.message.value = ""


def _ending(run: BatchRun) -> str:
    """What came of a run, in a sentence."""
    summary = run.report.summary
    if run.report.ok:
        done = paragraph(summary_text(run.report, run.folder), GREEN)
        return done + paragraph(tr('They are shown in the tab "Results".'))
    again = tr("Start goes on with it: what is finished is kept.")
    if summary.skipped:
        done = tr("Stopped: {done} of {total} files are done.", done=summary.succeeded, total=summary.total)
        return paragraph(f"{done} {again}", AMBER)
    return paragraph(f"{failure_text(run.report)}. {again}", RED)
