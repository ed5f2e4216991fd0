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
class FinishedBatch:
    """Targets, output folder and report of a finished batch."""

    targets: Path
    out: Path
    report: BatchReport


@pytest.fixture(scope="session")
def finished_batch(tmp_path_factory: pytest.TempPathFactory, constant_models: Path) -> FinishedBatch:
    """A batch with one file of each format that is marked differently."""
    folder = tmp_path_factory.mktemp("batch")
    targets, out = folder / "in", folder / "out"
    targets.mkdir()
    for suffix in (".mp4", ".mkv", ".png", ".webp", ".jpg", ".bmp"):
        made(targets / f"a{suffix}")
    return FinishedBatch(targets, out, run_here(draw_photo(folder), targets, out, constant_models))
