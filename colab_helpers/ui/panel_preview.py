"""The tab of the preview: one frame, before and after, side by side and as a wipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, printable, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.probe import probe
from colab_helpers.ui.panel_desk import LABELS, Desk
from colab_helpers.ui.panel_parts import (
    AMBER,
    PREVIEW_HEIGHT,
    PREVIEW_WIDTH,
    RED,
    fitted,
    paragraph,
    picture,
    wipe,
    words,
)
from colab_helpers.ui.panel_studio import Preview, frames_of

NOTHING = mark("(no target)")


class PreviewTab:
    """Shows what the run would make of one frame; works only while somebody looks at it.

    Args:
        desk: Shared by all tabs.

    Attributes:
        shown: What is shown; None where there is nothing, or it failed.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._targets: list[Path] = []
        self._is_open = self._filling = False
        self._is_stale = True
        self.shown: Preview | None = None
        self._make()

    def _make(self) -> None:
        desk, w = self._desk, self._desk.widgets
        self.target = w.Dropdown(
            options=[(tr(NOTHING), -1)],
            value=-1,
            description=tr("Target"),
            style=LABELS,
            layout={"width": "60%"},
        )
        self.frame = self._slider(tr("Frame"), 0)
        self.cut = self._slider(tr("Wipe, percent"), 50)
        self.message = desk.html()
        self.pair, self.wipe = desk.html(), desk.html()
        self.target.observe(self._target_chosen, "value")
        self.frame.observe(self._frame_chosen, "value")
        self.cut.observe(lambda _: self._draw_wipe(), "value")
        self.box = desk.column(self.target, self.frame, self.message, self.pair, self.cut, self.wipe)

    def _slider(self, label: str, value: int) -> Any:
        return self._desk.widgets.IntSlider(
            value,
            min=0,
            max=100,
            description=label,
            continuous_update=False,
            style=LABELS,
            layout={"width": "60%"},
        )

    def set_targets(self, targets: Sequence[Path], *, first: int = 0) -> None:
        """Offer other targets; the one of number ``first`` is shown."""
        if list(targets) == self._targets:
            return
        self._targets, self._filling = list(targets), True
        options = [
            (printable(f"{number}: {path.name}"), number - 1) for number, path in enumerate(targets, 1)
        ]
        self.target.options = options or [(tr(NOTHING), -1)]
        self.target.value = first if options else -1
        self._filling = False
        self._measure_slider()
        self.mark_stale()

    def mark_stale(self) -> None:
        """What is shown no longer holds: made anew when somebody looks."""
        self._is_stale = True
        self._show_if_open()

    def opened(self, is_open: bool) -> None:
        """Somebody looks at this tab, or at another one."""
        self._is_open = is_open
        self._show_if_open()

    def _target_chosen(self, _: object) -> None:
        if not self._filling:
            self._measure_slider()
            self.mark_stale()

    def _frame_chosen(self, _: object) -> None:
        if not self._filling:
            self.mark_stale()

    def _measure_slider(self) -> None:
        """Give the slider as many places as the target has frames, and begin in the middle."""
        path, frames = self._chosen(), 1
        try:
            frames = 1 if path is None or is_image(path) else frames_of(probe(path))
        except ColabHelpersError as error:
            self.message.value = paragraph(words(error), RED)
        self._filling = True
        self.frame.value = 0
        self.frame.max = max(frames - 1, 1)
        self.frame.disabled = frames == 1
        self.frame.value = (frames - 1) // 2
        self._filling = False

    def _chosen(self) -> Path | None:
        number = self.target.value
        return None if number is None or number < 0 else self._targets[number]

    def _show_if_open(self) -> None:
        if self._is_open and self._is_stale:
            self._is_stale = False
            self._show()

    def _show(self) -> None:
        self.shown, path = None, self._chosen()
        if path is None:
            self.message.value = paragraph(tr("There is no target to show."), AMBER)
        else:
            self.message.value = paragraph(tr("Working ..."))
            self._work(path)
        self._draw_pair()
        self._draw_wipe()

    def _work(self, path: Path) -> None:
        desk = self._desk
        try:
            settings, sources = desk.settings(), desk.read().sources
            self.shown = desk.studio.preview(settings, desk.models(), sources, path, self.frame.value)
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(words(error), RED)
            return
        found = self.shown
        told = tr("{faces} face(s) changed, in {seconds:.1f} s.", faces=found.faces, seconds=found.seconds)
        if not found.faces:
            told = tr("No face to change in this frame; the picture is as it was. Try another frame.")
        if settings.face_selector == "reference":
            told += " " + tr(
                "The person to follow is taken from this frame here, in the run from the reference frame."
            )
        self.message.value = paragraph(told) + "".join(paragraph(note, AMBER) for note in found.notes)

    def _draw_pair(self) -> None:
        if self.shown is None:
            self.pair.value = ""
            return
        sides = ((tr("before"), self.shown.before), (tr("after"), self.shown.after))
        cells = [
            f'<div style="flex:1 1 320px">{title}<br>'
            f"{picture(fitted(image, PREVIEW_WIDTH, PREVIEW_HEIGHT), alt=title)}</div>"
            for title, image in sides
        ]
        self.pair.value = f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cells)}</div>'

    def _draw_wipe(self) -> None:
        if self.shown is None:
            self.wipe.value = ""
            return
        pair = (
            fitted(image, PREVIEW_WIDTH, PREVIEW_HEIGHT) for image in (self.shown.before, self.shown.after)
        )
        before, after = pair
        self.wipe.value = picture(wipe(before, after, self.cut.value / 100), alt=tr("wipe"))
