"""Fixtures that run a notebook headless."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from colab_helpers.ui import headless

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Run the test module's notebook as ``setup.sh run`` does; returns the exit code."""
    path = NOTEBOOKS / f"{request.module.NOTEBOOK}.ipynb"

    def execute(folder: Path, /, **values: object) -> int:
        texts = {n: str(v) if isinstance(v, (str, Path)) else json.dumps(v) for n, v in values.items()}
        words = [f"{name}={text}" for name, text in texts.items()]
        return headless.main([str(path), str(folder / path.name), *words])

    return execute


@pytest.fixture
def papermill(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """Run it with papermill's own command line, which guesses the values' types."""
    path = NOTEBOOKS / f"{request.module.NOTEBOOK}.ipynb"

    def execute(**values: object) -> CompletedProcess[str]:
        words = [word for name, value in values.items() for word in ("-p", name, str(value))]
        command = [sys.executable, "-m", "papermill", str(path), "out.ipynb", *words, "-k", "python3"]
        return subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)

    return execute
