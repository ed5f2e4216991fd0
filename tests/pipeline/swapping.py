"""Helpers to run the pipeline with networks of exactly known output."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex
from colab_helpers.media.label import Label
from colab_helpers.pipeline import FileResult, FinishedSegment, process_video
from colab_helpers.progress import Progress
from colab_helpers.settings import Settings, load_settings

SOURCE = Assignment.of(np.ones(512, np.float32) / np.float32(512**0.5))
FACE = (200, 60, 440, 300)
"""Box of the constant detector's face in its 640-pixel input."""


def settings(**overrides: Any) -> Settings:
    base = {"output_video_quality": 0, "output_video_encoder": "libx264", "execution_provider": "cpu"}
    return load_settings("balanced", **{**base, **overrides})


def engine(models: Path, **overrides: Any) -> Engine:
    return Engine.open(settings(**overrides), models_dir=models)


def planes(path: Path) -> list[list[npt.NDArray[np.uint8]]]:
    """Samples of every plane of every frame, without padding."""
    with av.open(str(path)) as container:
        return [
            [
                np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].copy()
                for plane in frame.planes
            ]
            for frame in container.decode(video=0)
        ]


def assert_same_pictures(one: Path, other: Path) -> None:
    for old, new in zip(planes(one), planes(other), strict=True):
        for first, second in zip(old, new, strict=True):
            np.testing.assert_array_equal(first, second)


def segmented(models: Path, **overrides: Any) -> Engine:
    """An engine with segments of one second."""
    return engine(models, **{"segment_seconds": 1.0, **overrides})


class Marks:
    """Marks a result with the visible label only."""

    def __init__(self, **settings: Any) -> None:
        self.label = Label.of(Settings(visible_label_size=8, **settings))

    def comment(self, actions: Collection[str]) -> str:
        return ""

    def parts(self, actions: Collection[str]) -> dict[str, bytes]:
        return {}

    def seal(self, partial: Path, output: Path, actions: Collection[str]) -> None:
        pass


class Store:
    """Segment store in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[FinishedSegment] = []

    def face_index(self) -> FaceIndex:
        return FaceIndex(self.folder / "faces", "key")

    def finished(self) -> list[FinishedSegment]:
        return list(self.parts)

    def keep(self, done: FinishedSegment) -> None:
        assert done.segment.path.is_file()
        self.parts.append(done)


def stop_at(frame: int) -> Any:
    def stop(progress: Progress) -> None:
        if progress.frame >= frame:
            raise KeyboardInterrupt

    return stop


def interrupted(
    models: Engine,
    target: Path,
    output: Path,
    stops: list[int],
    *,
    assignment: Assignment = SOURCE,
    marks: Any = None,
) -> tuple[FileResult, Store]:
    """Run the video, interrupted at each of the given frames and resumed to the end."""
    store = Store(output.parent / f"work-{output.stem}")
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            process_video(
                models, assignment, target, output, on_progress=stop_at(stop), store=store, marks=marks
            )
        assert not output.exists()
        assert not list(store.folder.glob(".*"))
    return process_video(models, assignment, target, output, store=store, marks=marks), store


def assert_same(one: FileResult, other: FileResult) -> None:
    names = ("measured", "people", "frames_in", "frames_out", "encoder", "audio_seconds", "times_kept")
    assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
