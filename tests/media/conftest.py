from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.media.make import Spec, make

Clip = Callable[..., Path]


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """Make a clip in the test's folder: ``clip("name.mp4", frames=10)``."""

    def build(name: str, **settings: object) -> Path:
        return make(tmp_path / "in" / name, Spec(**settings))  # type: ignore[arg-type]

    (tmp_path / "in").mkdir()
    return build


@pytest.fixture
def small(clip: Clip) -> Clip:
    """Make clips of 90 small frames."""

    def build(name: str, **settings: Any) -> Path:
        return clip(name, **({"size": (64, 48), "frames": 90} | settings))

    return build
