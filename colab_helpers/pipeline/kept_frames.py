"""Frames of a result kept as image files with the setting ``keep_frames``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from colab_helpers.files import shorten_name, unwritable_error
from colab_helpers.media.images import Still, write_still
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.reader import Frame
from colab_helpers.pipeline.outcome import Marks
from colab_helpers.settings import Settings

FRAME_NAME = re.compile(r"\d{6,}\.(png|jpg)")
"""File name of a kept frame."""


@dataclass(frozen=True)
class KeptFrames:
    """Folder of frames kept while a video is processed; does nothing unless ``keep_frames`` is set."""

    folder: Path
    settings: Settings
    marks: Marks | None

    def keep(self, frame: Frame, info: VideoInfo, actions: Collection[str]) -> None:
        """Write an upright frame, with metadata on what was done to its faces."""
        if self.settings.keep_frames:
            image = np.asarray(frame.video.to_ndarray(format="bgr24"), np.uint8)
            quality = max(1, self.settings.temp_frame_quality)
            still = Still(info.upright(image), parts=self.marks.parts(actions) if self.marks else {})
            write_still(self._path(frame.index), still, quality=quality)

    def has(self, start: int, stop: int) -> bool:
        """Return whether no kept frame from ``start`` to before ``stop`` is missing."""
        numbers = range(start, stop) if self.settings.keep_frames else ()
        return all(self._path(number).is_file() for number in numbers)

    def move_to_output(self, output: Path) -> None:
        """Move the frames to their folder beside the result."""
        if self.settings.keep_frames:
            names = frozenset(path.name for path in self.folder.iterdir())
            move_frames(self.folder, frames_folder(output), names)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.{self.settings.temp_frame_format}"


def frames_folder(output: Path) -> Path:
    """Return the folder of a result's kept frames: ``clip.mp4_frames`` beside ``clip.mp4``."""
    return output.with_name(shorten_name("", output.name, "_frames"))


def move_frames(folder: Path, destination: Path, names: frozenset[str]) -> None:
    """Move kept frames to their final folder and delete those of an earlier run there, but no other files.

    ``names`` are those of all frames; an earlier attempt may have moved some of them already. Raise
    OutputError if a frame cannot be moved.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*")):
            shutil.move(path, destination / path.name)
        for path in destination.iterdir():
            if FRAME_NAME.fullmatch(path.name) and path.name not in names:
                path.unlink()
        folder.rmdir()
    except (OSError, shutil.Error) as error:
        cause = error if isinstance(error, OSError) and error.strerror else OSError(5, str(error))
        raise unwritable_error(destination, cause) from error
