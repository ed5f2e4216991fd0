from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch.report import BatchReport
from tests.helpers.processes import CPU


@pytest.fixture
def batch(photo: Path, tmp_path: Path, constant_models: Path, consent: str) -> Callable[..., BatchReport]:
    """Runs a batch of targets into ``out``, in this process."""

    def run(*targets: Path, sources: Any = (photo,), out: Path = tmp_path / "out", **options: Any) -> Any:
        given = {"consent": consent, "settings": CPU, "models_dir": constant_models, "in_process": True}
        return run_batch(list(sources), targets, out, **(given | options))

    return run
