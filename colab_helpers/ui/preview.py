"""The tab of the preview: one frame, before and after."""

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
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import AMBER, RED, error_message, paragraph, picture
from colab_helpers.ui.preview_networks import Preview, frame_count
from colab_helpers.ui.widgets import Widgets

NOTHING = mark("(no target)")
_WIDTH, _HEIGHT = 960, 540
# As wide as the slider's own track: its label stands before it, its number behind.
_STRIP = (
    '<div style="display:flex;align-items:center;line-height:1.3"><div style="flex:0 0 159px;'
    'text-align:right;padding-right:18px;box-sizing:border-box">{}</div><div style="flex:1">{}</div>'
    '<div style="flex:0 0 82px"></div></div>'
)


class PreviewTab:
    """Shows what the run would make of one frame; works only while somebody looks at it.

    Attributes:
        shown: What is shown; None where there is nothing, or it failed.
    """

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._form_state, self._host = form_state, host
        self._targets: list[Path] = []
        self._is_open, self._is_stale = False, True
        self.shown: Preview | None = None
        self.target = widgets.input(
            "Dropdown", label=tr("Target"), width="60%", options=[(tr(NOTHING), -1)], value=-1
        )
        self.frame = widgets.input("IntSlider", label=tr("Frame"), width="60%", min=0, max=100)
        self.strips = widgets.html(width="60%")
        self.message, self.pair = widgets.html(), widgets.html()
        self.target.observe(lambda _: self._measure_slider(), "value")
        self.frame.observe(lambda _: self.mark_stale(), "value")
        self.box = widgets.column(self.target, self.frame, self.strips, self.message, self.pair)

    def refresh(self, targets: Sequence[Path]) -> None:
        """Take what was chosen anew; where there are other targets, the first is shown."""
        if list(targets) != self._targets:
            self._targets = list(targets)
            names = [printable(f"{number}: {path.name}") for number, path in enumerate(targets, 1)]
            options = [(name, number) for number, name in enumerate(names)]
            self.target.options = options or [(tr(NOTHING), -1)]
            self.target.value = 0 if options else -1
            self._measure_slider()
        self.mark_stale()

    def mark_stale(self) -> None:
        """Have what is shown made anew when somebody looks."""
        self._is_stale = True
        self._show_if_open()

    def opened(self, is_open: bool) -> None:
        """Note that somebody looks at this tab, or at another one."""
        self._is_open = is_open
        self._show_if_open()

    def _measure_slider(self) -> None:
        """Give the slider as many places as the target has frames, and begin in the middle."""
        path, frames = self._chosen(), 1
        try:
            frames = 1 if path is None or is_image(path) else frame_count(probe(path))
        except ColabHelpersError as error:
            self.message.value = paragraph(error_message(error), RED)
        with self.frame.hold_trait_notifications():  # one change, not two
            self.frame.max, self.frame.value = max(frames - 1, 1), (frames - 1) // 2
        self.frame.disabled = frames == 1
        self.mark_stale()

    def _chosen(self) -> Path | None:
        number = self.target.value
        return self._targets[number] if number is not None and 0 <= number < len(self._targets) else None

    def _show_if_open(self) -> None:
        if self._is_open and self._is_stale:
            self._is_stale = False
            self._show()

    def _show(self) -> None:
        self.shown, path = None, self._chosen()
        self.strips.value = Markup().join(self._strips(path)) if path else ""
        if path is None:
            self.message.value = paragraph(tr("There is no target to show."), AMBER)
        else:
            self.message.value = paragraph(tr("Working ..."))
            self._work(path)
        self._draw_pair()

    def _work(self, path: Path) -> None:
        try:
            request = self._form_state.request()
            folder = results_folder(request, self._host)
            shown = self._form_state.networks.preview(request, folder, path, self.frame.value)
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(error_message(error), RED)
            return
        self.shown = shown
        told = tr("{faces} face(s) changed, in {seconds:.1f} s.", faces=shown.faces, seconds=shown.seconds)
        if not shown.faces:
            told = tr("No face to change in this frame; the picture is as it was. Try another frame.")
        notes = list(shown.notes)
        if shown.known:
            told += " " + tr("A run makes the same of it: an earlier one has found the faces of this video.")
        elif not is_image(path):
            notes.append(
                tr("Only this frame was looked at: a run sees the whole video and may decide otherwise.")
            )
        if request.settings.face_selector == "reference" and not shown.known:
            told += " " + tr(
                "The person to follow is taken from this frame here, in the run from the reference frame."
            )
        self.message.value = paragraph(told) + Markup().join(paragraph(note, AMBER) for note in notes)

    def _strips(self, path: Path) -> Iterator[Markup]:
        """Draw below the slider when each person is there and was missed, as the report of a run says."""
        with suppress(ColabHelpersError, OSError, ValueError):
            folder = results_folder(self._form_state.request(overrides={}), self._host)
            report = load_or_none(BatchReport, folder / REPORT_NAME)
            file = next((file for file in (report.files if report else ()) if file.target == str(path)), None)
            if file is None or file.quality is None or file.frames_out != self.frame.max + 1:
                return
            for place, person in enumerate(file.quality.people):
                name = person_name(person, place)
                drawn = presence_bar(person, file.frames_out, name)
                yield Markup(_STRIP).format(name, drawn) if drawn else Markup()

    def _draw_pair(self) -> None:
        cells, pair = [], (self.shown.before, self.shown.after) if self.shown else ()
        for title, image in zip((tr("before"), tr("after")), pair, strict=False):
            shown = picture(shrink_to_fit(image, height=_HEIGHT, width=_WIDTH), alt=title)
            cells.append(f'<div style="flex:1 1 320px">{title}<br>{shown}</div>')
        row = f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(cells)}</div>'
        self.pair.value = row if cells else ""
