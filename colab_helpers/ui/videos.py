"""The Videos tab: properties of each target video or image, and the people in it."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
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
from colab_helpers.pages.svg import BAD, WARN
from colab_helpers.pages.units import clock_text, duration
from colab_helpers.settings import Settings
from colab_helpers.ui.form_state import FormState, results_folder
from colab_helpers.ui.host import Host
from colab_helpers.ui.markup import error_message, paragraph, picture, table, thumbnail
from colab_helpers.ui.preview_networks import detection_key, frame_count
from colab_helpers.ui.widgets import Widgets

AUTO_EXAMINE_SECONDS = 4.0
"""Time limit in seconds for examining targets automatically; a button examines the rest."""
NOT_EXAMINED = mark("not examined yet")

_MAX_NAMES = 4
_THUMB_WIDTH, _THUMB_HEIGHT = 160, 90
_HEAD = ("", "", mark("file"), mark("length"), mark("size"), mark("frames"), mark("picture"), mark("faces"))
_PEOPLE_HEAD = (mark("people"), mark("notes"))
Cells = tuple[str, ...]
DetectionSetup = tuple[Settings, Path | None]
"""Settings and models folder for face detection."""


class VideosTab:
    """The targets; ``files`` are those of the run as of the last refresh."""

    def __init__(self, widgets: Widgets, form_state: FormState, host: Host) -> None:
        self._form_state, self._host = form_state, host
        self._examined: dict[object, Cells] = {}
        self._triaged: tuple[object, dict[str, Cells]] = (None, {})
        self.files: list[Path] = []
        self.table = widgets.html()
        hint = tr("Find faces in the middle of each")
        self.examine_button = widgets.button(tr("Examine all"), self.examine_all, hint=hint)
        hint, label, layout = tr("one path per line"), tr("Files, folders"), {"height": "70px"}
        self.paths = widgets.input("Textarea", "targets", label=label, placeholder=hint, layout=layout)
        hint = tr("all, or 1-30, or 1,4-6,9-")
        self.range = widgets.input("Text", "video_range", label=tr("Range"), width="auto", placeholder=hint)
        minutes = partial(widgets.input, "BoundedFloatText", "session_minutes", min=0, max=1e6)
        self.minutes = minutes(label=tr("Minutes left"), width="240px")
        shortest = partial(widgets.input, "Checkbox", "shortest_first", indent=False)
        self.shortest = shortest(label=tr("Shortest first"), width="auto")
        hint = tr("default: under runs, named by photos and targets")
        self.output = widgets.input("Text", "output_dir", label=tr("Output folder"), placeholder=hint)
        options = widgets.row(self.range, self.minutes, self.shortest)
        self.box = widgets.column(self.paths, options, self.output, self.examine_button, self.table)

    def examine_all(self) -> None:
        """Examine every target, however long it takes."""
        self.refresh(limit=float("inf"))

    def refresh(self, *, limit: float = AUTO_EXAMINE_SECONDS) -> None:
        """Show the current targets; start to examine further ones only within ``limit`` seconds."""
        self.files = []
        request = self._form_state.request(overrides={})
        if not request.targets:
            text = tr("No video or image yet: enter the paths of files or folders.")
            self.table.value = paragraph(text, WARN)
            return
        try:
            folder = results_folder(request, self._host)
            sync_inputs(None, request.targets, ())
            tasks = plan_batch(request.target_paths, folder, video_range=request.video_range)
        except (ColabHelpersError, OSError) as error:
            self.table.value = paragraph(error_message(error), BAD)
            return
        self.files = [task.target for task in tasks]
        deadline, detection = time.monotonic() + limit, self._form_state.detection_inputs()
        facts = [self._scan_target(path, deadline, detection) for path in self.files]
        triage = self._triage(folder)
        people = [triage.get(task.output.name, ("", "")) if triage else () for task in tasks]
        rows = map(_row, range(1, len(facts) + 1), self.files, facts, people)
        heads = _HEAD + _PEOPLE_HEAD if triage else _HEAD
        demo = "" if self._form_state.targets else tr("The demo is used: clips of rendered people.")
        self.table.value = paragraph(demo) + table([tr(name) for name in heads], rows) + self._totals()

    def _triage(self, folder: Path) -> dict[str, Cells]:
        """Return the people cells of each target by name, if a run has found the people; cached."""
        key = folder, *(size_and_mtime(folder / name) for name in (*PEOPLE_FILES, JOURNAL_NAME))
        if key != self._triaged[0]:
            self._triaged = key, {}
            with suppress(ColabHelpersError):  # shown by the People tab
                files = current_triage(folder).files
                self._triaged[1].update((file.target, _people_cells(file)) for file in files)
        return self._triaged[1]

    def _totals(self) -> Markup:
        videos, memory = this_machine().capacity
        text = mark("This machine's {memory} suffices for {videos} video(s) at once; they run one by one.")
        capacity = tr(text, videos=videos, memory=memory)
        return paragraph(tr("{count} file(s).", count=len(self.files))) + paragraph(capacity)

    def _scan_target(self, path: Path, deadline: float, detection: DetectionSetup) -> Cells | str:
        """Return the facts of a target, from the cache if possible, or the reason why they are unknown."""
        try:
            if is_placeholder(path):
                return NOT_EXAMINED
            stat = require_file(path).stat()
            key = (path, stat.st_mtime_ns, stat.st_size, detection_key(*detection))
            if key not in self._examined:
                if time.monotonic() > deadline:
                    return NOT_EXAMINED
                self._examined[key] = self._examine(path, stat.st_size, detection)
            return self._examined[key]
        except (ColabHelpersError, OSError) as error:
            return error_message(error)

    def _examine(self, path: Path, size: int, detection: DetectionSetup) -> Cells:
        """Return thumbnail, length, size, frames, dimensions, and the number of faces in the middle frame."""
        if is_image(path):
            image, length, frames = read_image(path), "", 1
        else:
            info = probe(path)
            seconds = float(info.duration)
            image, length, frames = frame_at(path, seconds / 2), clock_text(seconds), frame_count(info)
        try:
            faces = self._form_state.networks.faces(*detection, path, image)
            count = str(len(faces))
        except ColabHelpersError as error:
            faces, count = [], tr("unknown: {what}", what=error.what)
        small = thumbnail(image, faces, _THUMB_WIDTH, _THUMB_HEIGHT)
        html = picture(small, alt=printable(path.name), style="max-width:none")
        dimensions = f"{image.shape[1]} x {image.shape[0]}"
        facts = (length, f"{size / 1e6:.1f} MB", str(frames), dimensions)
        return html, *map(Markup('<span style="white-space:nowrap">{}</span>').format, facts), count


def _people_cells(file: FileTriage) -> Cells:
    """Return who is seen, and what to know before a run."""
    names = [f"{name} {duration(seconds)}" if seconds else name for name, seconds in file.people.items()]
    faces = [tr("faces in {share:.0%} of the frames", share=file.sight.faces)] if file.sight.faces else []
    estimate = [] if file.estimate is None else [tr("about {time}", time=clock_text(file.estimate))]
    return printable(first_of(names, _MAX_NAMES)), "; ".join([*faces, *file.remarks, *estimate])


def _row(number: int, path: Path, facts: Cells | str, people: Cells) -> Cells:
    name = Markup('<span title="{}">{}</span>').format(printable(str(path)), printable(path.name))
    if isinstance(facts, str):
        return str(number), "", name, paragraph(tr(facts), WARN if facts == NOT_EXAMINED else BAD)
    thumb, *others = facts
    return str(number), thumb, name, *others, *people
