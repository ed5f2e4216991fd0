"""A small demo, made once for all workers of a test run."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from filelock import FileLock

from colab_helpers.demo.clip import make_demo


@pytest.fixture(scope="session")
def demo(shared_dir: Path) -> Path:
    """Folder of a demo: one clip of ten frames with one person."""
    folder, done = shared_dir / "small_demo", shared_dir / "small_demo.done"
    with FileLock(shared_dir / "small_demo.lock"):
        if not done.exists():
            make_demo(folder, seconds=0.4, size=(480, 270), fps=Fraction(25), people=1, clips=1, workers=1)
            done.touch()
    return folder
