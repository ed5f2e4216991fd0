from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch import worker
from colab_helpers.batch.report import BatchReport
from tests.helpers.processes import CPU, Shell


@pytest.fixture
def batch(photo: Path, tmp_path: Path, constant_models: Path, consent: str) -> Callable[..., BatchReport]:
    """Runs a batch of targets into ``out``, in this process."""

    def run(*targets: Path, sources: Any = (photo,), out: Path = tmp_path / "out", **options: Any) -> Any:
        given = {"consent": consent, "settings": CPU, "models_dir": constant_models, "in_process": True}
        return run_batch(list(sources), targets, out, **(given | options))

    return run


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of this process make no page: that is a process each, and nobody looks at it."""
    monkeypatch.setattr(worker, "make_page", lambda folder, report, beat: "")


@pytest.fixture
def shell(
    targets: Path, photo: Path, constant_models: Path, consent: str, tmp_path: Path
) -> Iterator[Callable[..., Shell]]:
    """Makes command lines of batches of the module's targets; no process of theirs stays behind."""
    made = []

    def make_shell(out: str = "out", *options: str) -> Shell:
        made.append(Shell(targets, photo, constant_models, consent, tmp_path / out, *options))
        return made[-1]

    yield make_shell
    for each in made:
        each.clean()
