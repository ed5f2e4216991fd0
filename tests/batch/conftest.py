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
        given = {"consent": consent, "settings": CPU, "models_dir": constant_models, "in_process": True}
        return run_batch(list(sources), targets, out, **(given | options))

    return run


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers make no page either."""
    run_at_worker_start(monkeypatch, tmp_path, "")


@pytest.fixture
def shell(
    targets: Path, photo: Path, constant_models: Path, consent: str, tmp_path: Path
) -> Iterator[Callable[..., BatchCommand]]:
    """Makes command lines of batches of the module's targets; no process of theirs stays behind."""
    made = []

    def make_shell(out: str = "out", *options: str) -> BatchCommand:
        made.append(BatchCommand(targets, photo, constant_models, consent, tmp_path / out, *options))
        return made[-1]

    yield make_shell
    for each in made:
        each.clean()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    return folder


@pytest.fixture
def run(films: Path, batch: Callable[..., BatchReport], standins: Path) -> Callable[..., BatchReport]:
    """Runs a batch of some of the films, with hanna put in."""

    def run(*names: str, **options: object) -> BatchReport:
        options = {"settings": SETTINGS, "models_dir": standins, "sources": [films / "hanna.jpg"]} | options
        return batch(*(films / name for name in names), **options)

    return run


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[VideoPicture]:
    """Every frame of a video that the detector is shown from now on."""
    shown: list[VideoPicture] = []

    def watched(look: Callable[..., object]) -> Callable[..., object]:
        def watch(self: FaceAnalyser, picture: object, *given: object) -> object:
            shown.extend([picture] if isinstance(picture, VideoPicture) else [])
            return look(self, picture, *given)

        return watch

    for name in ("detect", "search_views"):
        monkeypatch.setattr(FaceAnalyser, name, watched(getattr(FaceAnalyser, name)))
    return shown
