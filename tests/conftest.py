from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import cv2
import hypothesis
import numpy as np
import pytest
from filelock import FileLock

from colab_helpers.batch import worker
from colab_helpers.diagnosis.bench_networks import write_constant_models

T = TypeVar("T")
# Whoever runs the tests may have set up the product for himself.
for name in [name for name in os.environ if name.startswith("COLAB_HELPERS_")]:
    del os.environ[name]
# A shell has what it starts in the background ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is generated is the same in every run, however long one takes.
hypothesis.settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first, which one process does at a stretch: at the end all have something to do."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_collection_finish() -> None:
    """Modules and tests stay: what a batch collects after each of its files need not be sought among them."""
    gc.collect()
    gc.freeze()


CONSENT = "Nobody is shown, only drawn test pictures: synthetic."

TIMEOUT = 300.0
"""Seconds after which something that must happen counts as never happening, on the busiest machine."""


def until(happened: Callable[[], T], *, told: Callable[[], object] = str) -> T:
    """Wait until something is true, and return it; ``told`` says how it stands if it never is.

    A test waits for what it needs, never for a time in which that should be done.
    """
    deadline = time.monotonic() + TIMEOUT
    while not (found := happened()):
        assert time.monotonic() < deadline, f"it did not happen {told()}"
        time.sleep(0.01)
    return found


@pytest.fixture
def consent() -> str:
    return CONSENT


@pytest.fixture
def pages() -> None:
    """Batches of this process make a page, which is a process each."""


@pytest.fixture(autouse=True)
def _no_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They make none where nobody looks at it."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr(worker, "make_page", lambda folder, report, heartbeat: heartbeat() or "")


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all worker processes of this test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def real_shapes(shared_dir: Path) -> Path:
    """Networks of the real layer shapes with random weights."""
    from benchmarks.real_shapes import write_real_shapes

    folder = shared_dir / "real_shapes"
    with FileLock(shared_dir / "real_shapes.lock"):
        if not folder.exists():
            write_real_shapes(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_home(shared_dir: Path) -> None:
    """What the product keeps, such as the certificate that signs results, is not the user's in a test."""
    os.environ["COLAB_HELPERS_HOME"] = str(shared_dir / "home")


@pytest.fixture(scope="session")
def constant_models(shared_dir: Path) -> Path:
    """Models that always see one face, 200 to 440 by 200 to 440 of the detector's 640, and copy it."""
    folder = shared_dir / "constant_models"
    with FileLock(shared_dir / "constant_models.lock"):
        if not folder.exists():
            from tests.people.standins import CONTENT_FILE, content

            write_constant_models(folder, box=(200, 60, 440, 300))
            (folder / CONTENT_FILE).write_bytes(content().SerializeToString())
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture; the constant detector sees a face in any."""
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((256, 256, 3), 120, np.uint8))
    return path


@pytest.fixture(scope="session")
def standins(shared_dir: Path) -> Path:
    """The demo's stand-in models."""
    from tests.people.standins import write_standins

    folder = shared_dir / "standins"
    with FileLock(shared_dir / "standins.lock"):
        if not folder.exists():
            write_standins(folder)
    return folder


@pytest.fixture(scope="session")
def demo(shared_dir: Path) -> Path:
    """Folder of a demo: one clip of ten frames with one person."""
    from tests.people.clip import make_demo

    folder, done = shared_dir / "small_demo", shared_dir / "small_demo.done"
    with FileLock(shared_dir / "small_demo.lock"):
        if not done.exists():
            make_demo(folder, seconds=0.4, size=(480, 270), fps=Fraction(25), people=1, clips=1, workers=1)
            done.touch()
    return folder
