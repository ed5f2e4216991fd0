from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.models import fetching
from colab_helpers.models.catalog import Licence, ModelEntry, Source
from colab_helpers.models.download import DownloadLimits, FetchOptions
from colab_helpers.models.fetching import PreloadedFile, ProgressCallback
from colab_helpers.models.inventory import ModelRecord, read_record
from tests.helpers.gpu import FakeGpu, install_fake_gpu
from tests.helpers.networks import build, node
from tests.helpers.server import FaultServer, Route

FREE = Licence(name="MIT", link="https://opensource.org/license/mit", non_commercial=False, forbids="Little.")
RESTRICTED = Licence(
    name="Research only", link="https://example.com/terms", non_commercial=True, forbids="Selling it."
)
BODY = random.Random(1).randbytes(200_000)
OTHER = bytes(reversed(BODY))
QUICK = DownloadLimits(backoff=0.005, progress=32_000)
"""Short backoff and the usual read timeout."""
IMPATIENT = replace(QUICK, read_timeout=0.25)
"""For servers that do not answer."""


@pytest.fixture(autouse=True)
def _isolated_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ignore the machine's own proxies and models."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return install_fake_gpu(monkeypatch)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.close()


@pytest.fixture
def route(server: FaultServer) -> Route:
    return server.add("/net", BODY)


@pytest.fixture
def entry(server: FaultServer, route: Route) -> ModelEntry:
    return model(source(server.url("/net")))


@pytest.fixture
def restricted(entry: ModelEntry) -> ModelEntry:
    """A model whose licence must be accepted."""
    return model(*entry.sources, licence=RESTRICTED)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(*urls: str, body: bytes = BODY) -> Source:
    """A source that serves ``body``."""
    return Source(urls=urls, sha256=(sha256(body),), bytes=len(body))


def model(*sources: Source, name: str = "net", licence: Licence = FREE) -> ModelEntry:
    return ModelEntry(name=name, role="enhancer", licence_id=licence.name, licence=licence, sources=sources)


def network(factor: float = 1.0) -> bytes:
    """A small loadable network; each factor gives a different file."""
    return build(
        [node("Mul", "input factor", "output")], (1, 3, 32, 32), weights={"factor": np.float32(factor)}
    ).SerializeToString()


def put(root: Path, body: bytes = BODY, name: str = "net.onnx") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def corrupt(path: Path, body: bytes) -> None:
    """Change the bytes without the modification time, as a failing disk does."""
    times = path.stat()
    path.write_bytes(body)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def record_of(path: Path) -> ModelRecord:
    record = read_record(path)
    assert record is not None
    return record


def fetch(
    root: Path,
    *entries: ModelEntry,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
    **options: Any,
) -> list[PreloadedFile]:
    """Fetch with short backoff, unless ``options`` say otherwise."""
    chosen = FetchOptions(**{"limits": QUICK, **options})
    return fetching.fetch(root, entries, chosen, verify=verify, on_progress=on_progress)


def assert_fetched(root: Path, body: bytes = BODY, name: str = "net") -> None:
    path = root / f"{name}.onnx"
    assert path.read_bytes() == body
    assert path.with_name(path.name + ".json").is_file()
    assert_clean(root)


def assert_clean(root: Path) -> None:
    """No partial files are left."""
    assert [path for path in root.rglob("*") if ".part" in path.name or path.suffix == ".tmp"] == []


def assert_not_fetched(root: Path, name: str = "net") -> None:
    assert not list(root.glob(f"{name}.onnx*"))
