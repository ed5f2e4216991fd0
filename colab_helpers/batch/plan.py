"""Plan a batch: its targets, their order and outputs, without ever replacing an input."""

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

    Unless the user ``demanded`` this exact output, a container that cannot hold the result's streams is
    replaced by one that can: ``clip.avi`` becomes ``clip.avi.mkv``. ``repeated``: given more than once.
    """

    target: Path
    output: Path
    demanded: bool = False
    repeated: bool = False

    @property
    def notes(self) -> list[str]:
        """Notes on the plan, one sentence each."""
        notes = []
        if not self.demanded and self.output.name != self.target.name:
            note = mark("another target's result may need the name {name}: this one is called {output}")
            notes.append(tr(note, name=self.target.name, output=self.output.name))
        if self.repeated:
            notes.append(tr("it was given more than once and is processed once"))
        return notes


def plan_batch(
    targets: Sequence[str | Path], output_dir: Path, *, video_range: str = "", sources: Iterable[Path] = ()
) -> list[Task]:
    """Plan a batch.

    A folder that is empty or cannot be listed stays a target, which fails when its turn comes. Results that
    would get the same name are numbered, independently of the range.

    Args:
        targets: Files, and folders of videos and images, listed in natural order (clip2 before clip10).
        output_dir: Output folder.
        video_range: Which of all targets to process, counted from 1, such as ``1,4-6,9-``; empty for all.
        sources: Photos of the run, which no result may replace.

    Raises:
        MissingFileError: All targets are folders that are empty or cannot be listed.
        UsageError: There is no target, or a result would replace a target or photo.
    """
    tasks = _name_outputs(_unique_tasks([Path(target) for target in targets]), output_dir)
    numbers = parse_range(video_range, len(tasks)) if video_range.strip() else range(1, len(tasks) + 1)
    chosen = [tasks[number - 1] for number in numbers]
    if not chosen:
        remedy = tr("name at least one video, image or folder")
        raise UsageError(tr("there is no target to work on"), remedy=remedy)
    inputs = file_identities([*sources, *(task.target for task in tasks)])
    for task in chosen:
        if same_file(task.output, task.target):
            what, remedy = tr("the result would overwrite its own target"), tr("choose another output folder")
            raise UsageError(what, where=str(task.target), remedy=remedy)
        refuse_input(task.output, inputs)
    return chosen


def list_targets(folder: Path) -> list[Path]:
    """List the videos and images directly in a folder, by name alone, in natural order.

    Raise MissingFileError if the folder cannot be listed or contains none.
    """
    remedy = mark("check its permissions; on Drive, mount it again")
    with wrap_os_error(MissingFileError, UNLISTED, folder, remedy):
        paths = [path for path in folder.iterdir() if _is_target(path)]
    if not paths:
        remedy = "; ".join([*notes_on_skipped([folder]), tr("name another folder or the files")])
        raise MissingFileError(tr("the folder contains no video or image"), where=str(folder), remedy=remedy)
    return sorted(paths, key=lambda path: natural_key(path.name))


def _is_target(path: Path) -> bool:
    """Return whether a file in a folder is a target, by its name: it is opened only when its turn comes."""
    return path.name[0] != "." and (is_video(path) or (is_image(path) and not missing_reader_command(path)))


def notes_on_skipped(folders: Sequence[Path], *, wanted: Callable[[Path], bool] = _is_target) -> list[str]:
    """Return notes on the files in these folders that are skipped by type, and on how to read them."""
    notes = []
    for folder in folders:
        others: list[Path] = []
        with suppress(OSError):  # reported when its turn comes
            others = [item for item in folder.iterdir() if item.name[0] != "." and item.is_file()]
        kinds = Counter(item.suffix.lower() or tr("no suffix") for item in others if not wanted(item))
        if kinds:
            listed_kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            note = mark("{count} file(s) in {folder} were left out because of their kind: {kinds}")
            notes.append(tr(note, count=kinds.total(), folder=folder, kinds=listed_kinds))
        commands = {missing_reader_command(f"x{kind}"): kind for kind in sorted(kinds)}
        note = mark("to include {kind} files, run: {command}")
        notes += [tr(note, kind=kind, command=command) for command, kind in commands.items() if command]
    return notes


def _unique_tasks(targets: Iterable[Path]) -> list[Task]:
    """Return a task for each distinct target; its output is not named yet."""
    tasks: dict[str, Task] = {}
    problems: list[MissingFileError] = []
    for target in targets:
        paths = [target]
        if os.path.isdir(target):  # noqa: PTH112 - Path.is_dir raises without permission
            try:
                paths = list_targets(target)
            except MissingFileError as error:
                problems.append(error)
        for path in paths:
            # Path.resolve would raise for a link that leads to itself.
            real = os.path.realpath(path)
            tasks[real] = replace(tasks[real], repeated=True) if real in tasks else Task(path, path)
    if problems and len(problems) == len(tasks):
        raise problems[0]
    return list(tasks.values())


def _name_outputs(tasks: Sequence[Task], output_dir: Path) -> list[Task]:
    """Give each result a unique name: the target's, with a number if necessary."""
    taken: set[str] = set()
    stems: set[str] = set()

    def take(name: str) -> bool:
        """Reserve a name if neither it nor a form of it with a suffix added is taken."""
        # Some file systems ignore case, or the Unicode form of accents.
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
    """Return the numbers from 1 to ``count`` in a range such as ``2,5-``, each once, in order.

    Raise UsageError if it is not a range, runs backwards, or selects nothing.
    """
    numbers: dict[int, None] = {}
    for part in text.replace(" ", "").split(","):
        low, high = _bounds(part, count, text)
        numbers.update(dict.fromkeys(range(low, min(high, count) + 1)))
    if not numbers:
        what = tr("the range {text!r} selects none of the {count} target(s)", text=text, count=count)
        raise UsageError(what, remedy=tr("choose numbers from 1 to {count}", count=count))
    return sorted(numbers)


def _bounds(part: str, count: int, text: str) -> tuple[int, int]:
    match = _RANGE_PART.fullmatch(part)
    if match and (match[1] or match[3]):
        low = int(match[1] or 1)
        high = int(match[3] or (count if match[2] else low))
        if 1 <= low <= high or (match[1] and not match[3] and low > count):
            return low, high
    raise UsageError(tr("{text!r} is not a range", text=text), remedy=tr("write it like 1-30 or 1,4-6,9-"))
