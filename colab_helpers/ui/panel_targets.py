"""The tab of the videos and images: what each is, and who is in it."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.batch.plan import plan_batch
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, printable, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import existing_file, is_image
from colab_helpers.media.probe import probe
from colab_helpers.pages.pictures import frame_at
from colab_helpers.pages.units import clock_text
from colab_helpers.request import BatchRequest
from colab_helpers.ui.notebook import results_folder
from colab_helpers.ui.panel_desk import LABELS, Desk
from colab_helpers.ui.panel_parts import AMBER, RED, paragraph, picture, thumbnail, words
from colab_helpers.ui.panel_studio import frames_of

FIRST_LOOK = 4.0
"""Seconds that looking at targets may take by itself; a button looks at the rest."""
NOT_SEEN = mark("not looked at yet")

_THUMB_WIDTH, _THUMB_HEIGHT = 160, 90
_CELL = "text-align:left;padding:2px 10px 2px 0"
_HEAD = (
    "",
    "",
    mark("file"),
    mark("length"),
    mark("size"),
    mark("frames"),
    mark("picture"),
    mark("faces"),
)


@dataclass(frozen=True)
class Sight:
    """What was seen of a target.

    Attributes:
        thumbnail: HTML.
        faces: Faces in the middle, or why that is not known.
    """

    thumbnail: str
    length: str
    size: str
    frames: int
    picture: str
    faces: str


class TargetsTab:
    """Videos and images to change.

    Args:
        desk: Shared by all tabs.
        first: What stands there first.

    Attributes:
        tasks: The files that the run would take, as they were at the last look.
        first_good: Which of them is the first that can be read, from 0.
    """

    def __init__(self, desk: Desk, first: BatchRequest) -> None:
        self._desk = desk
        self._seen: dict[object, Sight | str] = {}
        self.tasks: list[Path] = []
        self.first_good = 0
        self._make(first)

    def _make(self, first: BatchRequest) -> None:
        desk, w = self._desk, self._desk.widgets
        self.paths = w.Textarea(
            "\n".join(first.targets),
            description=tr("Files, folders"),
            placeholder=tr("one path a line"),
            continuous_update=False,
            style=LABELS,
            layout={"width": "80%", "height": "70px"},
        )
        self.range = desk.text(
            tr("Range"), first.video_range, hint=tr("all, or 1-30, or 1,4-6,9-"), width="auto"
        )
        self.minutes = w.BoundedFloatText(
            first.session_minutes,
            min=0,
            max=1e6,
            description=tr("Minutes left"),
            style=LABELS,
            layout={"width": "240px"},
        )
        self.shortest = w.Checkbox(first.shortest_first, description=tr("Shortest first"), indent=False)
        self.output = desk.text(
            tr("Output folder"),
            str(first.output_dir or ""),
            hint=tr("one under runs, named by photos and targets"),
            width="80%",
        )
        self.look_button = desk.button(
            tr("Look at all"), self.look, hint=tr("Find faces in the middle of each")
        )
        self.message, self.table = desk.html(), desk.html()
        for widget in (self.paths, self.range, self.minutes, self.shortest, self.output):
            widget.observe(lambda _: desk.tell("targets"), "value")
        self.box = desk.column(
            self.paths,
            desk.row(self.range, self.minutes, self.shortest),
            self.output,
            self.look_button,
            self.message,
            self.table,
        )

    @property
    def listed(self) -> tuple[str, ...]:
        """What stands in the box, a path a line."""
        return tuple(line.strip() for line in self.paths.value.splitlines() if line.strip())

    def refresh(self, *, limit: float = FIRST_LOOK) -> None:
        """Show the targets chosen now; within so many seconds."""
        request = self._desk.read()
        self.message.value = ""
        self.tasks = []
        if not request.targets:
            self.table.value = paragraph(
                tr("No video or image yet: write the paths of files or folders."), AMBER
            )
            return
        try:
            self.tasks = chosen_targets(request, results_folder(request, self._desk.host))
        except (ColabHelpersError, OSError) as error:
            self.table.value = paragraph(words(error), RED)
            return
        until = time.monotonic() + limit
        finding = self._desk.finding_key()
        sights = [self._sight(path, until, finding) for path in self.tasks]
        self.first_good = next((n for n, sight in enumerate(sights) if _is_good(sight)), 0)
        demo = "" if self.listed else paragraph(tr("The demo is used: clips of rendered people."))
        self.table.value = demo + self._table_html(sights) + self._totals_html()

    def look(self) -> None:
        """Look at every target, however long it takes."""
        self.refresh(limit=float("inf"))

    # --- seeing ---------------------------------------------------------------------------------------

    def _sight(self, path: Path, until: float, finding: object) -> Sight | str:
        """What a target is, or why that is not known."""
        try:
            found = existing_file(path).stat()
            key = (path, found.st_mtime_ns, found.st_size, finding)
            if key not in self._seen:
                if time.monotonic() > until:
                    return NOT_SEEN
                self._seen[key] = self._look_at(path, found.st_size)
            return self._seen[key]
        except (ColabHelpersError, OSError) as error:
            return words(error)

    def _look_at(self, path: Path, size: int) -> Sight:
        if is_image(path):
            image, length, frames = read_image(path), "", 1
        else:
            info = probe(path)
            image, length = frame_at(path, float(info.duration) / 2), clock_text(float(info.duration))
            frames = frames_of(info)
        try:
            faces = self._desk.faces(image)
            count = str(len(faces))
        except ColabHelpersError as error:
            faces, count = [], tr("unknown: {what}", what=error.what)
        small = thumbnail(image, faces, _THUMB_WIDTH, _THUMB_HEIGHT)
        return Sight(
            thumbnail=picture(small, alt=printable(path.name), style="max-width:none;"),
            length=length,
            size=f"{size / 1e6:.1f} MB",
            frames=frames,
            picture=f"{image.shape[1]} x {image.shape[0]}",
            faces=count,
        )

    # --- showing --------------------------------------------------------------------------------------

    def _table_html(self, sights: list[Sight | str]) -> str:
        head = "".join(f'<th style="{_CELL}">{tr(name)}</th>' for name in _HEAD)
        rows = [
            _row_html(number, path, sight)
            for number, (path, sight) in enumerate(zip(self.tasks, sights, strict=True), 1)
        ]
        return f'<table style="line-height:1.3"><tr>{head}</tr>{"".join(rows)}</table>'

    def _totals_html(self) -> str:
        line = tr("{count} file(s).", count=len(self.tasks))
        capacity = this_machine().safe_capacity
        return paragraph(line) + paragraph(
            tr(
                "This machine's memory would bear {capacity} video(s) at once; they are done one "
                "after another.",
                capacity=capacity,
            )
        )


def _is_good(sight: Sight | str) -> bool:
    """Whether a target can be read, as far as is known."""
    return sight == NOT_SEEN or isinstance(sight, Sight)


def chosen_targets(request: BatchRequest, folder: Path) -> list[Path]:
    """The files that a run would take, in order.

    Raises:
        MissingFileError: A folder holds nothing to work on.
        UsageError: A bad range, or two results of one name.
    """
    tasks = plan_batch(request.target_paths, folder, video_range=request.video_range)
    return [task.target for task in tasks]


def _row_html(number: int, path: Path, sight: Sight | str) -> str:
    title, text = html.escape(printable(str(path)), quote=True), html.escape(printable(path.name))
    name = f'<span title="{title}">{text}</span>'
    if isinstance(sight, str):
        colour = AMBER if sight == NOT_SEEN else RED
        told = f'<td colspan="5" style="{_CELL}">{paragraph(tr(sight), colour)}</td>'
        return f"<tr>{_cell(str(number))}{_cell('')}{_cell(name)}{told}</tr>"
    texts = (sight.length, sight.size, str(sight.frames), sight.picture, sight.faces)
    facts = [f'<span style="white-space:nowrap">{html.escape(text)}</span>' for text in texts[:4]]
    cells = [str(number), sight.thumbnail, name, *facts, *map(html.escape, texts[4:])]
    return f"<tr>{''.join(map(_cell, cells))}</tr>"


def _cell(content: str) -> str:
    return f'<td style="{_CELL}">{content}</td>'
