"""Drive a panel without a browser: set, click and read its widgets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

import ipywidgets
import numpy as np
import pytest

from colab_helpers.media.images import read_image
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.ui.form_state import FormState
from colab_helpers.ui.host import Host
from colab_helpers.ui.panel import Panel
from tests.conftest import TIMEOUT


class IdleKernel:
    """The kernel between cells: repeats scheduled actions until they return False."""

    def __init__(self) -> None:
        self.actions: list[Callable[[], bool]] = []

    def call_repeatedly(self, action: Callable[[], bool], seconds: float) -> None:
        self.actions.append(action)

    def run_actions(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Run scheduled actions until none is left or a condition is true."""
        end = time.monotonic() + TIMEOUT
        while self.actions and not until():
            self.actions = [action for action in self.actions if action()]
            time.sleep(0.05)
            assert time.monotonic() < end


@dataclass(frozen=True)
class Browser(Host):
    """A host that simulates uploads, downloads and display."""

    uploads: tuple[str, ...] = ()
    downloaded: list[Path] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def upload(self, folder: Path) -> list[Path]:
        return [folder / name for name in self.uploads]

    def download(self, path: Path) -> None:
        self.downloaded.append(path)

    def show(self, html: str, text: str, *, kept: bool = False) -> None:
        self.shown.append(html)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for runs; the user's presets are in ``home`` beside it."""
    monkeypatch.setenv("COLAB_HELPERS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLAB_HELPERS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def idle() -> IdleKernel:
    return IdleKernel()


@pytest.fixture
def demo_request(demo: Path) -> BatchRequest:
    return BatchRequest(
        sources=(str(demo / "source" / "alma.png"),),
        targets=(str(demo / "targets" / "clip1.mp4"),),
        models_dir=str(demo / "models"),
        consent=DEMO_CONSENT,
    )


@pytest.fixture
def make_panel(runs: Path, idle: IdleKernel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Panel]:
    def make(request: BatchRequest, *, host: Host | None = None, earlier: FormState | None = None) -> Panel:
        monkeypatch.setattr(
            Host, "call_repeatedly", lambda _, action, seconds: idle.call_repeatedly(action, seconds)
        )
        panel = Panel(ipywidgets, host or Host(), FormState(request, earlier))
        panel.fill()
        return panel

    return make


@pytest.fixture
def panel(make_panel: Callable[..., Panel], demo_request: BatchRequest) -> Panel:
    return make_panel(demo_request)


@pytest.fixture
def text_of() -> Callable[[object], str]:
    """The visible text of an HTML widget."""

    def read(widget: object) -> str:
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", widget.value)).split())

    return read


@pytest.fixture
def pictures_of() -> Callable[[object], list[np.ndarray]]:
    """The images in an HTML widget."""

    def read(widget: object) -> list[np.ndarray]:
        return [read_image(url) for url in re.findall(r'src="(data:[^"]*)"', widget.value)]

    return read
