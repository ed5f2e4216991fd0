"""The tab of the videos and images: what each is, who is in it, how long it takes."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.batch.plan import plan_batch
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.images import read_image
from colab_helpers.media.probe import existing_file, is_image, probe
from colab_helpers.pages.pictures import frame_at
from colab_helpers.pages.units import clock_text
from colab_helpers.ui.panel_choice import Answers
from colab_helpers.ui.panel_desk import LABELS, Desk
from colab_helpers.ui.panel_parts import AMBER, GREEN, RED, paragraph, picture, thumbnail, words
from colab_helpers.ui.panel_studio import frames_of

FIRST_LOOK = 4.0
"""Seconds that looking at targets may take by itself; a button looks at the rest."""
NOT_MEASURED = mark("not measured")
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
    mark("time"),
    mark("fits"),
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
        answers: What stands there first.

    Attributes:
        tasks: The files that the run would take, as they were at the last look.
        first_good: Which of them is the first that can be read, from 0.
    """

    def __init__(self, desk: Desk, answers: Answers) -> None:
        self._desk = desk
        self._seen: dict[object, Sight | str] = {}
        self._seconds: Mapping[Path, float] = {}
        self.tasks: list[Path] = []
        self.first_good = 0
        self._make(answers)

    def _make(self, answers: Answers) -> None:
        desk, w = self._desk, self._desk.widgets
        self.paths = w.Textarea(
            "\n".join(answers.targets),
            description=tr("Files, folders"),
            placeholder=tr("one path a line"),
            continuous_update=False,
            style=LABELS,
            layout={"width": "80%", "height": "70px"},
        )
        self.range = desk.text(
            tr("Range"), answers.video_range, hint=tr("all, or 1-30, or 1,4-6,9-"), width="auto"
        )
        self.minutes = w.FloatText(
            answers.session_minutes, description=tr("Minutes left"), style=LABELS, layout={"width": "240px"}
        )
        self.shortest = w.Checkbox(answers.shortest_first, description=tr("Shortest first"), indent=False)
        self.output = desk.text(
            tr("Output folder"), answers.output_dir, hint=tr("a new one under runs"), width="80%"
        )
        self.look_button = desk.button(
            tr("Look at all"), self.look, hint=tr("Find faces in the middle of each")
        )
        self.measure_button = desk.button(
            tr("Measure"), self.measure, hint=tr("Do some frames of each size, to tell")
        )
        self.message, self.table = desk.html(), desk.html()
        for widget in (self.paths, self.range, self.minutes, self.shortest, self.output):
            widget.observe(lambda _: desk.tell("targets"), "value")
        self.box = desk.column(
            self.paths,
            desk.row(self.range, self.minutes, self.shortest),
            self.output,
            desk.row(self.look_button, self.measure_button),
            self.message,
            self.table,
        )

    @property
    def listed(self) -> tuple[str, ...]:
        """What stands in the box, a path a line."""
        return tuple(line.strip() for line in self.paths.value.splitlines() if line.strip())

    def refresh(self, *, limit: float = FIRST_LOOK) -> None:
        """Show the targets chosen now; within so many seconds."""
        answers = self._desk.read()
        self.message.value = ""
        self.tasks = []
        if not answers.targets:
            self.table.value = paragraph(
                tr("No video or image yet: write the paths of files or folders."), AMBER
            )
            return
        try:
            self.tasks = chosen_targets(answers)
        except (ColabHelpersError, OSError) as error:
            self.table.value = paragraph(words(error), RED)
            return
        until = time.monotonic() + limit
        finding = self._desk.finding_key()
        sights = [self._sight(path, until, finding) for path in self.tasks]
        self.first_good = next((n for n, sight in enumerate(sights) if _is_good(sight)), 0)
        demo = "" if self.listed else paragraph(tr("The demo is used: clips of rendered people."))
        self.table.value = demo + self._table_html(sights, answers) + self._totals_html(answers)

    def look(self) -> None:
        """Look at every target, however long it takes."""
        self.refresh(limit=float("inf"))

    def forget_times(self) -> None:
        """What was measured no longer holds."""
        self._seconds = {}

    def measure(self) -> None:
        """Measure on some frames of each size how long the targets will take."""
        self.message.value = paragraph(tr("Measuring: up to 20 seconds for each size of video ..."))
        try:
            desk = self._desk
            found = desk.studio.forecast(
                desk.settings(), desk.models(), desk.read().sources, self.tasks, beat=lambda: None
            )
        except (ColabHelpersError, OSError) as error:
            self.message.value = paragraph(words(error), RED)
            return
        self._seconds = dict(found.seconds)
        self.refresh()
        minutes = self._desk.read().session_minutes
        told = found.line(self.tasks, minutes) if minutes > 0 else tr("Measured")
        self.message.value = paragraph(f"{told}.")

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
            thumbnail=picture(small, alt=path.name, style="max-width:none;"),
            length=length,
            size=f"{size / 1e6:.1f} MB",
            frames=frames,
            picture=f"{image.shape[1]} x {image.shape[0]}",
            faces=count,
        )

    # --- showing --------------------------------------------------------------------------------------

    def _table_html(self, sights: list[Sight | str], answers: Answers) -> str:
        head = "".join(f'<th style="{_CELL}">{tr(name)}</th>' for name in _HEAD)
        fits = fitting(self.tasks, self._seconds, answers)
        rows = [
            _row_html(number, path, sight, self._seconds.get(path), fits.get(path))
            for number, (path, sight) in enumerate(zip(self.tasks, sights, strict=True), 1)
        ]
        return f'<table style="line-height:1.3"><tr>{head}</tr>{"".join(rows)}</table>'

    def _totals_html(self, answers: Answers) -> str:
        count, known = len(self.tasks), [self._seconds[path] for path in self.tasks if path in self._seconds]
        time_text = (
            tr("about {time} in all", time=clock_text(sum(known))) if known else tr("time not measured")
        )
        line = tr("{count} file(s), {time_text}.", count=count, time_text=time_text)
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


def chosen_targets(answers: Answers) -> list[Path]:
    """The files that a run would take, in order.

    Raises:
        MissingFileError: A folder holds nothing to work on.
        UsageError: A bad range, or two results of one name.
    """
    targets = [Path(path).expanduser() for path in answers.targets]
    # Without an output folder a new one is made, in which no target lies.
    output = Path(answers.output_dir).expanduser() if answers.output_dir else Path("/nowhere/results")
    return [task.target for task in plan_batch(targets, output, video_range=answers.video_range)]


def fitting(targets: Iterable[Path], seconds: Mapping[Path, float], answers: Answers) -> dict[Path, bool]:
    """Which measured targets will be done within the session, in the order of the run; empty if not known."""
    if answers.session_minutes <= 0 or not seconds:
        return {}
    known = [path for path in targets if path in seconds]
    order = sorted(known, key=lambda path: seconds[path]) if answers.shortest_first else known
    left, found = answers.session_minutes * 60, {}
    for path in order:
        left -= seconds[path]
        found[path] = left >= 0
    return found


def _row_html(number: int, path: Path, sight: Sight | str, seconds: float | None, fits: bool | None) -> str:
    name = f'<span title="{html.escape(str(path), quote=True)}">{html.escape(path.name)}</span>'
    if isinstance(sight, str):
        colour = AMBER if sight == NOT_SEEN else RED
        told = f'<td colspan="7" style="{_CELL}">{paragraph(tr(sight), colour)}</td>'
        return f"<tr>{_cell(str(number))}{_cell('')}{_cell(name)}{told}</tr>"
    taken = tr(NOT_MEASURED) if seconds is None else clock_text(max(1.0, seconds))
    told = "" if fits is None else paragraph(tr("yes"), GREEN) if fits else paragraph(tr("no"), RED)
    texts = (sight.length, sight.size, str(sight.frames), sight.picture, sight.faces, taken)
    facts = [f'<span style="white-space:nowrap">{html.escape(text)}</span>' for text in texts[:4]]
    cells = [str(number), sight.thumbnail, name, *facts, *map(html.escape, texts[4:]), told]
    return f"<tr>{''.join(map(_cell, cells))}</tr>"


def _cell(content: str) -> str:
    return f'<td style="{_CELL}">{content}</td>'
