from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.people.measure import Tools
from tests.people.standins import write_standins


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_standins(folder)
    return folder


@pytest.fixture(scope="session")
def tools(models: Path) -> Tools:
    cv2.setNumThreads(1)
    return Tools(models)
