"""What a batch will do: which targets, in which order, to which outputs. Everything is checked first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.files import natural_key
from colab_helpers.language import tr
from colab_helpers.media.probe import is_image, is_video, reader_missing

_RANGE_PART = re.compile(r"(\d+)?(-)?(\d+)?")


@dataclass(frozen=True)
class Task:
    """One target and where its result goes.

    Attributes:
        target: The video or image.
        output: The wanted result. Unless ``demanded``, a container that cannot hold the result's streams
            is replaced by one that can: ``clip.avi`` becomes ``clip.avi.mkv``.
        demanded: Whether the user named this very file.
    """

    target: Path
    output: Path
    demanded: bool = False


def plan_batch(targets: Sequence[str | Path], output_dir: Path, *, video_range: str = "") -> list[Task]:
    """Plan a batch.

    Args:
        targets: Files and folders. A folder stands for the videos and images directly in it, in
            natural order (clip2 before clip10).
        output_dir: Folder of the results.
        video_range: Which of all targets to take, counted from 1, such as ``1-30`` or ``1,4-6,9-``.
            Empty takes all.

    Raises:
        MissingFileError: A target does not exist, or a folder holds nothing to work on.
        UsageError: Nothing is left to do, a target is named twice, two results would have one name, or a
            result would overwrite its own target.
    """
    found = [path for target in targets for path in _expand(Path(target))]
    _check_repeats(found)
    chosen = _choose(found, video_range)
    if not chosen:
        raise UsageError(
            tr("there is no target to work on"), remedy=tr("name at least one video, image or folder")
        )
    tasks = [Task(path, output_dir / path.name) for path in chosen]
    _check_outputs(tasks)
    return tasks


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = (item for item in path.iterdir() if _is_target(item))
    files = sorted(found, key=lambda item: natural_key(item.name))
    if not files:
        raise MissingFileError(
            tr("the folder holds no video or image"),
            where=str(path),
            remedy="; ".join([*skipped_files([path]), tr("name another folder or the files")]),
        )
    return files


def _is_target(path: Path) -> bool:
    if not path.is_file() or path.name.startswith("."):
        return False
    return is_video(path) or (is_image(path) and not reader_missing(path))


def skipped_files(folders: Sequence[Path], *, wanted: Callable[[Path], bool] = _is_target) -> list[str]:
    """What of these folders is left out because of its kind, and what to do about it, one sentence each."""
    notes = []
    for folder in folders:
        files = folder.iterdir() if folder.is_dir() else ()
        others = [item for item in files if item.is_file() and not item.name.startswith(".")]
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
        commands = {reader_missing(f"x{kind}"): kind for kind in sorted(kinds)}
        notes += [
            tr("to have {kind} files done, too: {command}", kind=kind, command=command)
            for command, kind in commands.items()
            if command
        ]
    return notes


def _check_repeats(paths: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path in paths:
        first = seen.setdefault(path.resolve(), path)
        if first is not path:
            raise UsageError(
                tr("the same target is named twice, as {first} and as {path}", first=first, path=path),
                remedy=tr("name each file once; a folder stands for all the videos and images in it"),
            )


def _choose(paths: list[Path], video_range: str) -> list[Path]:
    if not video_range.strip():
        return paths
    return [paths[number - 1] for number in parse_range(video_range, len(paths))]


def parse_range(text: str, count: int) -> list[int]:
    """Numbers from 1 to ``count`` named by a range such as ``1-30`` or ``2,5-``, each once, in order.

    Raises:
        UsageError: The text is no range, runs backwards, or names nothing that exists.
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


def _check_outputs(tasks: Sequence[Task]) -> None:
    seen: dict[str, Path] = {}
    for task in tasks:
        key = str(task.output).lower()  # some file systems do not tell A.mp4 from a.mp4
        if key in seen:
            raise UsageError(
                tr(
                    "{first} and {second} would both be written to {output}",
                    first=seen[key],
                    second=task.target,
                    output=task.output.name,
                ),
                remedy=tr("rename one of them or give them different output folders"),
            )
        seen[key] = task.target
        if task.output.resolve() == task.target.resolve():
            raise UsageError(
                tr("the result would overwrite its own target"),
                where=str(task.target),
                remedy=tr("choose another output folder"),
            )
