"""A panel without a browser: its widgets are set, clicked and read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import ipywidgets
import numpy as np
import pytest

from colab_helpers.media.images import read_image
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui.panel import Panel
from colab_helpers.ui.panel_desk import Desk


@dataclass(frozen=True)
class Place:
    """A host whose folders are the test's."""

    home: Path
    runs: Path
    headless: bool = False
    name: str = "a test"
    has_cells: bool = True
    has_buttons: bool = True

    def keeping(self, folder: Path) -> str:
        return ""

    def reach(self, paths: object) -> None:
        """Nothing to open."""

    def show_html(self, html: str, *, text: str) -> None:
        raise AssertionError("the panel shows widgets")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLAB_HELPERS_RUNS", str(tmp_path / "runs"))
    return Place(tmp_path / "home", tmp_path / "runs")


@pytest.fixture
def desk(place: Place) -> Desk:
    return Desk(ipywidgets, place)


@pytest.fixture
def on_demo(demo: Path) -> BatchRequest:
    return BatchRequest(
        sources=(str(demo / "source" / "alma.png"),),
        targets=(str(demo / "targets" / "clip1.mp4"),),
        models_dir=str(demo / "models"),
        consent=DEMO_CONSENT,
    )


@pytest.fixture
def make_panel(desk: Desk) -> Callable[[BatchRequest], Panel]:
    def make(request: BatchRequest) -> Panel:
        panel = Panel(desk, request)
        panel.fill()
        return panel

    return make


@pytest.fixture
def text_of() -> Callable[[object], str]:
    """What a person reads in a widget of HTML."""

    def read(widget: object) -> str:
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", widget.value)).split())

    return read


@pytest.fixture
def pictures_of() -> Callable[[object], list[np.ndarray]]:
    """The pictures in a widget of HTML."""

    def read(widget: object) -> list[np.ndarray]:
        return [read_image(url) for url in re.findall(r'src="(data:[^"]*)"', widget.value)]

    return read
