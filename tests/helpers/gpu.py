"""A fake GPU that computes on the CPU and records the providers requested from ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from colab_helpers.faces import engine, path_choice
from colab_helpers.machine import GIB, Gpu, Machine
from colab_helpers.models import model_conversion, session
from colab_helpers.models.cuda_graphs import GpuSession
from colab_helpers.models.parity import Verdict

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
T4 = Machine(2, 12 * GIB, Gpu("Tesla T4", 15 * GIB, "550.1"), "3.11.7", "test", on_colab=False)
_Session = onnxruntime.InferenceSession


@dataclass
class FakeGpu:
    """Replaces ``InferenceSession`` by one that claims to use CUDA.

    Attributes:
        missing: Providers whose libraries cannot be loaded: it silently falls back to the next.
        asked: Requested providers by file name, or ``trial`` for models in memory.
    """

    missing: set[str] = field(default_factory=set)
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)

    def create(self, model: str | bytes, options: Any, providers: list[Any], enable_fallback: int = 1) -> Any:
        name = "trial" if isinstance(model, bytes) else Path(model).name
        self.asked.append((name, providers))
        names = [item if isinstance(item, str) else item[0] for item in providers]
        assert not enable_fallback or names == [CPU]  # otherwise ONNX Runtime would change options itself
        return _OnTheCpu(
            _Session(model, options, providers=[CPU]), [name for name in names if name not in self.missing]
        )

    def options(self, name: str, provider: str) -> list[dict[str, str]]:
        """Options of a provider in each session of a file that requested it."""
        return [
            dict(item[1])
            for asked, providers in self.asked
            if asked == name
            for item in providers
            if not isinstance(item, str) and item[0] == provider
        ]


class _OnTheCpu:
    def __init__(self, real: Any, active: list[str]) -> None:
        self._real, self._active = real, active

    def get_providers(self) -> list[str]:
        return self._active

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def install_fake_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """Make this machine appear to have a T4."""
    fake = FakeGpu()
    for module in (session, model_conversion, engine):
        monkeypatch.setattr(module, "this_machine", lambda: T4)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fake.create)
    # Bound inputs and outputs are where the networks really run.
    monkeypatch.setattr(session, "GpuSession", partial(GpuSession, device="cpu"))
    # On a CPU graphs are not faster for the pixels of faces.
    monkeypatch.setattr(path_choice, "make_verdict", lambda *_: Verdict())
    return fake
