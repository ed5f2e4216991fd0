"""The Preview tab: one frame, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from markupsafe import Markup

from colab_helpers.batch.report import REPORT_NAME, BatchReport
from colab_helpers.batch.thumbnails import shrink_to_fit
from colab_helpers.errors import ColabHelpersError
from colab_helpers.files import load_or_none
from colab_helpers.language import mark, printable, tr
from colab_helpers.media.inputs import is_image
from colab_helpers.media.probe import probe
from colab_helpers.pages.rendering import person_name, presence_bar
from colab_helpers.pages.svg import BAD, WARN
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import error_message, paragraph, picture
from colab_helpers.ui.preview_networks import Preview, frame_count
from colab_helpers.ui.widgets import Widgets

NOTHING = mark("(no target)")
_WIDTH, _HEIGHT = 960, 540
# Aligned with the slider's track, which is between its label and its value.
_STRIP = (
    '<div style="display:flex;align-items:center;line-height:1.3"><div style="flex:0 0 159px;'
    'text-align:right;padding-right:18px;box-sizing:border-box">{}</div><div style="flex:1">{}</div>'
    '<div style="flex:0 0 82px"></div></div>'
)


class PreviewTab:
    """Shows how a run would change one frame, ``shown`` if there is one; computed only while it is open."""

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._form_state, self._host = form_state, host
        self._targets: list[Path] = []
        self._is_open, self._is_stale = False, True
        self.shown: Preview | None = None
        none = {"options": [(tr(NOTHING), -1)], "value": -1}
        self.target = widgets.input("Dropdown", label=tr("Target"), width="60%", **none)
        self.frame = widgets.input("IntSlider", label=tr("Frame"), width="60%", min=0, max=100)
        self.strips = widgets.html(width="60%")
        self.message, self.pair = widgets.html(), widgets.html()
        self.target.observe(lambda _: self._measure_slider(), "value")
        self.frame.observe(lambda _: self.mark_stale(), "value")
        self.box = widgets.column(self.target, self.frame, self.strips, self.message, self.pair)

    def refresh(self, targets: Sequence[Path]) -> None:
        """Update after a change of the panel; if the targets have changed, show the first one."""
        if list(targets) != self._targets:
            self._targets = list(targets)
            names = [printable(f"{number}: {path.name}") for number, path in enumerate(targets, 1)]
            options = [(name, number) for number, name in enumerate(names)]
            self.target.options = options or [(tr(NOTHING), -1)]
            self.target.value = 0 if options else -1
            self._measure_slider()
        self.mark_stale()

    def mark_stale(self) -> None:
        """Recompute the preview now if the tab is open, else when it is opened."""
        self._is_stale = True
        self._show_if_open()

    def set_open(self, is_open: bool) -> None:
        """Note whether this tab or another one is open."""
        self._is_open = is_open
        self._show_if_open()

    def _measure_slider(self) -> None:
        """Set the slider's range to the target's frames, and its value to the middle."""
        path, frames = self._chosen_target(), 1
        try:
            frames = 1 if path is None or is_image(path) else frame_count(probe(path))
        except ColabHelpersError as error:
            self.message.value = paragraph(error_message(error), BAD)
        with self.frame.hold_trait_notifications():  # one change, not two
            self.frame.max, self.frame.value = max(frames - 1, 1), (frames - 1) // 2
        self.frame.disabled = frames == 1
        self.mark_stale()

    def _chosen_target(self) -> Path | None:
        number = self.target.value
        return self._targets[number] if number is not None and 0 <= number < len(self._targets) else None

    def _show_if_open(self) -> None:
        if self._is_open and self._is_stale:
            self._is_stale = False
            self._show()

    def _show(self) -> None:
        self.shown, path = None, self._chosen_target()
        self.strips.value = Markup().join(self._strips(path)) if path else ""
        if path is None:
            self.message.value = paragraph(tr("There is no target to show."), WARN)
        else:
            self.message.value = paragraph(tr("Working ..."))
            self._compute(path)
        self._draw_pair()

    def _compute(self, path: Path) -> None:
        try:
            request = self._form_state.request()
            folder = results_folder(request, self._host)
            shown = self._form_state.networks.preview(request, folder, path, self.frame.value)
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(error_message(error), BAD)
            return
        self.shown, notes = shown, list(shown.notes)
        text = tr("{faces} face(s) changed in {seconds:.1f} s.", faces=shown.faces, seconds=shown.seconds)
        if not shown.faces:
            text = tr("No face to change in this frame, which stays as it is. Try another frame.")
        if shown.known:
            text += " " + tr("A run gives the same result: an earlier one has found the faces of this video.")
        elif not is_image(path):
            note = mark("Based on this frame only: a run sees the whole video and may decide differently.")
            notes.append(tr(note))
        if request.settings.face_selector == "reference" and not shown.known:
            text += " " + tr("The reference person is taken from this frame; a run uses the reference frame.")
        self.message.value = paragraph(text) + Markup().join(paragraph(note, WARN) for note in notes)

    def _strips(self, path: Path) -> Iterator[Markup]:
        """Draw below the slider when each person is present and was missed, from the report of a run."""
        with suppress(ColabHelpersError, OSError, ValueError):
            folder = results_folder(self._form_state.request(overrides={}), self._host)
            report = load_or_none(BatchReport, folder / REPORT_NAME)
            file = next((file for file in (report.files if report else ()) if file.target == str(path)), None)
            if file is None or file.quality is None or file.frames_out != self.frame.max + 1:
                return
            for index, person in enumerate(file.quality.people):
                name = person_name(person, index)
                if bar := presence_bar(person, file.frames_out, name):
                    yield Markup(_STRIP).format(name, bar)

    def _draw_pair(self) -> None:
        cells, pair = [], (self.shown.before, self.shown.after) if self.shown else ()
        for title, image in zip((tr("before"), tr("after")), pair, strict=False):
            html = picture(shrink_to_fit(image, height=_HEIGHT, width=_WIDTH), alt=title)
            cells.append(f'<div style="flex:1 1 320px">{title}<br>{html}</div>')
        row = f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cells)}</div>'
        self.pair.value = row if cells else ""
