from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch.report import BatchReport
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.media.picture import VideoPicture
from tests.batch.films import SETTINGS, write_films
from tests.helpers.processes import CPU, BatchCommand, run_at_worker_start


@pytest.fixture
def batch(photo: Path, tmp_path: Path, constant_models: Path, consent: str) -> Callable[..., BatchReport]:
    """Runs a batch of targets into ``out``, in this process."""

    def run(*targets: Path, sources: Any = (photo,), out: Path = tmp_path / "out", **options: Any) -> Any:
        defaults = {"consent": consent, "settings": CPU, "models_dir": constant_models, "in_process": True}
        return run_batch(list(sources), targets, out, **(defaults | options))

    return run


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers write no page."""
    run_at_worker_start(monkeypatch, tmp_path, "")


@pytest.fixture
def shell(
    targets: Path, photo: Path, constant_models: Path, consent: str, tmp_path: Path
) -> Iterator[Callable[..., BatchCommand]]:
    """Makes batch commands for the module's targets, and kills their processes at the end."""
    commands = []

    def make_shell(out: str = "out", *options: str) -> BatchCommand:
        commands.append(BatchCommand(targets, photo, constant_models, consent, tmp_path / out, *options))
        return commands[-1]

    yield make_shell
    for command in commands:
        command.clean()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    return folder


@pytest.fixture
def run(films: Path, batch: Callable[..., BatchReport], standins: Path) -> Callable[..., BatchReport]:
    """Runs a batch of some of the films, with hanna as source."""

    def run(*names: str, **options: object) -> BatchReport:
        options = {"settings": SETTINGS, "models_dir": standins, "sources": [films / "hanna.jpg"]} | options
        return batch(*(films / name for name in names), **options)

    return run


@pytest.fixture
def detected_frames(monkeypatch: pytest.MonkeyPatch) -> list[VideoPicture]:
    """Every video frame passed to the detector from now on."""
    frames: list[VideoPicture] = []

    def recording(detect: Callable[..., object]) -> Callable[..., object]:
        def record(self: FaceAnalyser, picture: object, *args: object) -> object:
            frames.extend([picture] if isinstance(picture, VideoPicture) else [])
            return detect(self, picture, *args)

        return record

    for name in ("detect", "search_views"):
        monkeypatch.setattr(FaceAnalyser, name, recording(getattr(FaceAnalyser, name)))
    return frames
