"""What a batch will do: which targets, in which order, to which outputs; and what it may never replace."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from colab_helpers.batch.write_policy import file_identities, refuse_input
from colab_helpers.errors import MissingFileError, UsageError, wrap_os_error
from colab_helpers.files import natural_key, numbered, same_file
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image, is_video, missing_reader_command

UNLISTED = mark("the folder cannot be listed ({reason})")
_RANGE_PART = re.compile(r"(\d+)?(-)?(\d+)?")


@dataclass(frozen=True)
class Task:
    """One target and where its result goes.

    Unless the user ``demanded`` this very output, a container that cannot hold the result's streams is
    replaced by one that can: ``clip.avi`` becomes ``clip.avi.mkv``. ``repeated``: named more than once.
    """

    target: Path
    output: Path
    demanded: bool = False
    repeated: bool = False

    @property
    def notes(self) -> list[str]:
        """What to say about the plan itself, one sentence each."""
        notes = []
        if not self.demanded and self.output.name != self.target.name:
            notes.append(
                tr(
                    "another target's result may be called {name}: this one is called {output}",
                    name=self.target.name,
                    output=self.output.name,
                )
            )
        if self.repeated:
            notes.append(tr("it is named more than once and done once"))
        return notes


def plan_batch(
    targets: Sequence[str | Path], output_dir: Path, *, video_range: str = "", sources: Iterable[Path] = ()
) -> list[Task]:
    """Plan a batch.

    A folder that cannot be listed, or holds nothing, stays a target, which fails when its turn comes. Of
    results that would have one name the later ones are numbered, whatever the range takes.

    Args:
        targets: Files, and folders of videos and images, in natural order (clip2 before clip10).
        output_dir: Folder of the results.
        video_range: Which of all targets to take, counted from 1, such as ``1,4-6,9-``; empty takes all.
        sources: Photos of the run, which no result may replace.

    Raises:
        MissingFileError: No target is more than a folder that holds nothing to work on.
        UsageError: Nothing is left to do, or a result would replace a target or photo.
    """
    tasks = _named(_found([Path(target) for target in targets]), output_dir)
    numbers = parse_range(video_range, len(tasks)) if video_range.strip() else range(1, len(tasks) + 1)
    chosen = [tasks[number - 1] for number in numbers]
    if not chosen:
        raise UsageError(
            tr("there is no target to work on"), remedy=tr("name at least one video, image or folder")
        )
    inputs = file_identities([*sources, *(task.target for task in tasks)])
    for task in chosen:
        if same_file(task.output, task.target):
            raise UsageError(
                tr("the result would overwrite its own target"),
                where=str(task.target),
                remedy=tr("choose another output folder"),
            )
        refuse_input(task.output, inputs)
    return chosen


def listed(folder: Path) -> list[Path]:
    """List the videos and images directly in a folder, in natural order, whatever is behind their names.

    MissingFileError where it cannot be listed, or there are none.
    """
    remedy = mark("check your rights to it; on Drive, mount it again")
    with wrap_os_error(MissingFileError, UNLISTED, folder, remedy):
        found = [path for path in folder.iterdir() if _is_target(path)]
    if not found:
        raise MissingFileError(
            tr("the folder holds no video or image"),
            where=str(folder),
            remedy="; ".join([*skipped_files([folder]), tr("name another folder or the files")]),
        )
    return sorted(found, key=lambda path: natural_key(path.name))


def _is_target(path: Path) -> bool:
    """Whether a file of a folder is taken, by its name alone: what is behind it is found out in its turn."""
    return path.name[0] != "." and (is_video(path) or (is_image(path) and not missing_reader_command(path)))


def skipped_files(folders: Sequence[Path], *, wanted: Callable[[Path], bool] = _is_target) -> list[str]:
    """What of these folders is left out because of its kind, and what to do about it, one sentence each."""
    notes = []
    for folder in folders:
        others: list[Path] = []
        with suppress(OSError):  # that it cannot be listed is told when its turn comes
            others = [item for item in folder.iterdir() if item.name[0] != "." and item.is_file()]
        kinds = Counter(item.suffix.lower() or tr("no suffix") for item in others if not wanted(item))
        if kinds:
            notes.append(
                tr(
                    "{count} file(s) in {folder} were left out because of their kind: {kinds}",
                    count=kinds.total(),
                    folder=folder,
                    kinds=", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())),
                )
            )
        commands = {missing_reader_command(f"x{kind}"): kind for kind in sorted(kinds)}
        notes += [
            tr("to have {kind} files done, too: {command}", kind=kind, command=command)
            for command, kind in commands.items()
            if command
        ]
    return notes


def _found(targets: Iterable[Path]) -> list[Task]:
    """Each target once, its result not named yet."""
    found: dict[str, Task] = {}
    problems: list[MissingFileError] = []
    for target in targets:
        paths = [target]
        if os.path.isdir(target):  # noqa: PTH112 - Path.is_dir raises where a folder may not be entered
            try:
                paths = listed(target)
            except MissingFileError as error:
                problems.append(error)
        for path in paths:
            # Not Path.resolve: it raises for a link that leads to itself.
            place = os.path.realpath(path)
            found[place] = replace(found[place], repeated=True) if place in found else Task(path, path)
    if problems and len(problems) == len(found):
        raise problems[0]
    return list(found.values())


def _named(tasks: Sequence[Task], output_dir: Path) -> list[Task]:
    """Give each result a name of its own: the target's, or that with a number."""
    taken: set[str] = set()
    stems: set[str] = set()

    def take(name: str) -> bool:
        """Take a name if neither it nor what it may become, with a suffix more, is another's."""
        # Some file systems do not tell A.mp4 from a.mp4, or two spellings of an accent.
        key = unicodedata.normalize("NFC", name).casefold()
        stem = Path(key).stem
        if key in taken or stem in taken or key in stems:
            return False
        taken.add(key)
        stems.add(stem)
        return True

    names = {task.target: task.target.name for task in tasks if take(task.target.name)}
    for target in (task.target for task in tasks if task.target not in names):
        names[target] = next(name for n in count(2) if take(name := numbered(target, n).name))
    return [replace(task, output=output_dir / names[task.target]) for task in tasks]


def parse_range(text: str, count: int) -> list[int]:
    """Return the numbers from 1 to ``count`` that a range such as ``2,5-`` names, each once, in order.

    UsageError where it is no range, runs backwards, or names nothing that exists.
    """
    numbers: dict[int, None] = {}
    for part in text.replace(" ", "").split(","):
        low, high = _bounds(part, count, text)
        numbers.update(dict.fromkeys(range(low, min(high, count) + 1)))
    if not numbers:
        raise UsageError(
            tr("the range {text!r} names none of the {count} target(s)", text=text, count=count),
            remedy=tr("choose numbers from 1 to {count}", count=count),
        )
    return sorted(numbers)


def _bounds(part: str, count: int, text: str) -> tuple[int, int]:
    match = _RANGE_PART.fullmatch(part)
    if match and (match[1] or match[3]):
        low = int(match[1] or 1)
        high = int(match[3] or (count if match[2] else low))
        if 1 <= low <= high or (match[1] and not match[3] and low > count):
            return low, high
    raise UsageError(tr("{text!r} is not a range", text=text), remedy=tr("write it like 1-30 or 1,4-6,9-"))
