from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from colab_helpers.batch.report import BatchReport
from tests.batch.conftest import batch
from tests.helpers.marks import made
from tests.helpers.processes import draw_photo, run_here
from tests.pipeline.conftest import faceless_models

__all__ = ["batch", "faceless_models"]


@dataclass(frozen=True)
class Done:
    """A batch that is done: its targets, its output folder, and its report."""

    targets: Path
    out: Path
    report: BatchReport


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory, constant_models: Path) -> Done:
    """One batch over files of every kind that is marked in a way of its own."""
    folder = tmp_path_factory.mktemp("done")
    targets, out = folder / "in", folder / "out"
    targets.mkdir()
    for suffix in (".mp4", ".mkv", ".png", ".webp", ".jpg", ".bmp"):
        made(targets / f"a{suffix}")
    return Done(targets, out, run_here(draw_photo(folder), targets, out, constant_models))
