"""The tab of the videos and images: what each is, and who is in it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from markupsafe import Markup

from colab_helpers.addresses import is_placeholder
from colab_helpers.batch.object_store import sync_inputs
from colab_helpers.batch.people_edits import PEOPLE_FILES, current_triage
from colab_helpers.batch.plan import plan_batch
from colab_helpers.batch.report import JOURNAL_NAME
from colab_helpers.batch.triage import FileTriage
from colab_helpers.errors import ColabHelpersError
from colab_helpers.files import size_and_mtime
from colab_helpers.language import first_of, mark, printable, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import is_image, require_file
from colab_helpers.media.probe import probe
from colab_helpers.pages.pictures import frame_at
from colab_helpers.pages.units import clock_text, duration
from colab_helpers.settings import Settings
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import AMBER, RED, error_message, paragraph, picture, table, thumbnail
from colab_helpers.ui.preview_networks import detection_key, frame_count
from colab_helpers.ui.widgets import Widgets

AUTO_EXAMINE_SECONDS = 4.0
"""Seconds that looking at targets may take by itself; a button looks at the rest."""
NOT_EXAMINED = mark("not looked at yet")

_MAX_NAMES = 4
_THUMB_WIDTH, _THUMB_HEIGHT = 160, 90
_HEAD = ("", "", mark("file"), mark("length"), mark("size"), mark("frames"), mark("picture"), mark("faces"))
_PEOPLE_HEAD = (mark("people"), mark("to know"))
Cells = tuple[str, ...]
DetectionSetup = tuple[Settings, Path | None]
"""Settings and models folder to find faces with."""


class VideosTab:
    """Videos and images to change.

    Attributes:
        files: Those that the run would take, as they were at the last look.
    """

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._form_state, self._host = form_state, host
        self._seen: dict[object, Cells] = {}
        self._known: tuple[object, dict[str, Cells]] = (None, {})
        self.files: list[Path] = []
        self.table = widgets.html()
        hint = tr("Find faces in the middle of each")
        self.look_button = widgets.button(tr("Look at all"), self.look, hint=hint)
        self.paths = widgets.input(
            "Textarea",
            "targets",
            label=tr("Files, folders"),
            placeholder=tr("one path a line"),
            layout={"height": "70px"},
        )
        hint = tr("all, or 1-30, or 1,4-6,9-")
        self.range = widgets.input("Text", "video_range", label=tr("Range"), width="auto", placeholder=hint)
        self.minutes = widgets.input(
            "BoundedFloatText", "session_minutes", label=tr("Minutes left"), width="240px", min=0, max=1e6
        )
        self.shortest = widgets.input(
            "Checkbox", "shortest_first", label=tr("Shortest first"), width="auto", indent=False
        )
        hint = tr("one under runs, named by photos and targets")
        self.output = widgets.input("Text", "output_dir", label=tr("Output folder"), placeholder=hint)
        options = widgets.row(self.range, self.minutes, self.shortest)
        self.box = widgets.column(self.paths, options, self.output, self.look_button, self.table)

    def look(self) -> None:
        """Look at every target, however long it takes."""
        self.refresh(limit=float("inf"))

    def refresh(self, *, limit: float = AUTO_EXAMINE_SECONDS) -> None:
        """Show the targets chosen now; within so many seconds."""
        self.files = []
        request = self._form_state.request(overrides={})
        if not request.targets:
            self.table.value = paragraph(
                tr("No video or image yet: write the paths of files or folders."), AMBER
            )
            return
        try:
            folder = results_folder(request, self._host)
            sync_inputs(None, request.targets, ())
            tasks = plan_batch(request.target_paths, folder, video_range=request.video_range)
        except (ColabHelpersError, OSError) as error:
            self.table.value = paragraph(error_message(error), RED)
            return
        self.files = [task.target for task in tasks]
        until, finding = time.monotonic() + limit, self._form_state.finding()
        found = [self._scan_target(path, until, finding) for path in self.files]
        known = self._triage(folder)
        told = [known.get(task.output.name, ("", "")) if known else () for task in tasks]
        rows = map(_row, range(1, len(found) + 1), self.files, found, told)
        heads = _HEAD + _PEOPLE_HEAD if known else _HEAD
        demo = "" if self._form_state.targets else tr("The demo is used: clips of rendered people.")
        self.table.value = paragraph(demo) + table([tr(name) for name in heads], rows) + self._totals()

    def _triage(self, folder: Path) -> dict[str, Cells]:
        """Who is seen in each target and what there is to know, where a run has found everybody."""
        key = folder, *(size_and_mtime(folder / name) for name in (*PEOPLE_FILES, JOURNAL_NAME))
        if key != self._known[0]:
            self._known = key, {}
            with suppress(ColabHelpersError):  # the tab of the people says why
                self._known[1].update(
                    (file.target, _people_cells(file)) for file in current_triage(folder).files
                )
        return self._known[1]

    def _totals(self) -> Markup:
        videos, memory = this_machine().capacity
        told = mark("This machine's {memory} would bear {videos} video(s) at once; they are done one by one.")
        capacity = tr(told, videos=videos, memory=memory)
        return paragraph(tr("{count} file(s).", count=len(self.files))) + paragraph(capacity)

    def _scan_target(self, path: Path, until: float, finding: DetectionSetup) -> Cells | str:
        """Tell what a target is, or why that is not known."""
        try:
            if is_placeholder(path):
                return NOT_EXAMINED
            found = require_file(path).stat()
            key = (path, found.st_mtime_ns, found.st_size, detection_key(*finding))
            if key not in self._seen:
                if time.monotonic() > until:
                    return NOT_EXAMINED
                self._seen[key] = self._examine(path, found.st_size, finding)
            return self._seen[key]
        except (ColabHelpersError, OSError) as error:
            return error_message(error)

    def _examine(self, path: Path, size: int, finding: DetectionSetup) -> Cells:
        """Return thumbnail, length, size, frames, picture, and how many faces are in its middle."""
        if is_image(path):
            image, length, frames = read_image(path), "", 1
        else:
            info = probe(path)
            seconds = float(info.duration)
            image, length, frames = frame_at(path, seconds / 2), clock_text(seconds), frame_count(info)
        try:
            faces = self._form_state.networks.faces(*finding, path, image)
            count = str(len(faces))
        except ColabHelpersError as error:
            faces, count = [], tr("unknown: {what}", what=error.what)
        small = thumbnail(image, faces, _THUMB_WIDTH, _THUMB_HEIGHT)
        shown = picture(small, alt=printable(path.name), style="max-width:none")
        edges = f"{image.shape[1]} x {image.shape[0]}"
        facts = (length, f"{size / 1e6:.1f} MB", str(frames), edges)
        return shown, *map(Markup('<span style="white-space:nowrap">{}</span>').format, facts), count


def _people_cells(file: FileTriage) -> Cells:
    """Who is seen, and what there is to know before a run."""
    names = [f"{name} {duration(seconds)}" if seconds else name for name, seconds in file.people.items()]
    shown = [tr("faces in {share:.0%} of the frames", share=file.sight.faces)] if file.sight.faces else []
    took = [] if file.estimate is None else [tr("about {time}", time=clock_text(file.estimate))]
    return printable(first_of(names, _MAX_NAMES)), "; ".join([*shown, *file.remarks, *took])


def _row(number: int, path: Path, seen: Cells | str, told: Cells) -> Cells:
    whole = Markup('<span title="{}">{}</span>')
    name = whole.format(printable(str(path)), printable(path.name))
    if isinstance(seen, str):
        return str(number), "", name, paragraph(tr(seen), AMBER if seen == NOT_EXAMINED else RED)
    thumb, *facts = seen
    return str(number), thumb, name, *facts, *told
