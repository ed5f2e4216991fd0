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
# Ignore the user's own configuration.
for name in [name for name in os.environ if name.startswith("COLAB_HELPERS_")]:
    del os.environ[name]
# A background job of a shell ignores SIGINT, and so would all child processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Generated examples are the same in every run, without a deadline.
hypothesis.settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run groups first, since each occupies one process: all processes are busy until the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_collection_finish() -> None:
    """Exclude modules and tests from garbage collection, which batches run after each file."""
    gc.collect()
    gc.freeze()


CONSENT = "Nobody is shown, only drawn test pictures: synthetic."

TIMEOUT = 300.0
"""Seconds after which an awaited condition counts as failed, even on a busy machine."""


def until(happened: Callable[[], T], *, describe: Callable[[], object] = str) -> T:
    """Wait until ``happened`` returns a true value, and return it; ``describe`` explains a timeout.

    Tests wait for conditions, never for fixed times.
    """
    deadline = time.monotonic() + TIMEOUT
    while not (found := happened()):
        assert time.monotonic() < deadline, f"condition not met: {describe()}"
        time.sleep(0.01)
    return found


@pytest.fixture
def consent() -> str:
    return CONSENT


@pytest.fixture
def pages() -> None:
    """Have batches of this process write the report page, which takes a subprocess each."""


@pytest.fixture(autouse=True)
def _no_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the report page unless the test uses ``pages``."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr(worker, "make_page", lambda folder, report, heartbeat: heartbeat() or "")


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all xdist workers of this test run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def real_shapes(shared_dir: Path) -> Path:
    """Networks with the real layer shapes and random weights."""
    from benchmarks.real_shapes import write_real_shapes

    folder = shared_dir / "real_shapes"
    with FileLock(shared_dir / "real_shapes.lock"):
        if not folder.exists():
            write_real_shapes(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_home(shared_dir: Path) -> None:
    """Keep the package's files, such as the signing certificate, out of the user's home."""
    os.environ["COLAB_HELPERS_HOME"] = str(shared_dir / "home")


@pytest.fixture(scope="session")
def constant_models(shared_dir: Path) -> Path:
    """Models that always detect one face, at 200 to 440 of the detector's 640 pixels, and copy it."""
    folder = shared_dir / "constant_models"
    with FileLock(shared_dir / "constant_models.lock"):
        if not folder.exists():
            from tests.people.standins import CONTENT_FILE, content

            write_constant_models(folder, box=(200, 60, 440, 300))
            (folder / CONTENT_FILE).write_bytes(content().SerializeToString())
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A grey image; the constant detector finds a face in any."""
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
    """A demo with one clip of ten frames showing one person."""
    from tests.people.clip import make_demo

    folder, done = shared_dir / "small_demo", shared_dir / "small_demo.done"
    with FileLock(shared_dir / "small_demo.lock"):
        if not done.exists():
            make_demo(folder, seconds=0.4, size=(480, 270), fps=Fraction(25), people=1, clips=1, workers=1)
            done.touch()
    return folder
