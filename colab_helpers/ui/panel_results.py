"""The tab of the results: what became of every file, before and after, and the videos to play."""

from __future__ import annotations

from typing import TYPE_CHECKING

from colab_helpers.language import tr
from colab_helpers.ui.panel_desk import Desk
from colab_helpers.ui.panel_parts import paragraph

if TYPE_CHECKING:
    from colab_helpers.ui.notebook import BatchRun


class ResultsTab:
    """Shows the same as the notebook's cell "4. Results".

    Args:
        desk: Shared by all tabs.

    Attributes:
        shown: The run whose results are shown; None before the first.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.shown: BatchRun | None = None
        nothing = tr("Nothing has been made yet: the results of a run appear here when it ends.")
        self.box = desk.column(desk.html(paragraph(nothing)))

    def show(self, run: BatchRun) -> None:
        """Show what came of a run."""
        if run is self.shown:
            return
        self.shown = run
        # A new widget each time: Jupyter limits how much may be sent to one that is there already.
        before, self.box.children = self.box.children, (self._desk.html(run.html()),)
        for widget in before:
            widget.close()
