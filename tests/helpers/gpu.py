"""A GPU that computes on the CPU, and remembers what ONNX Runtime was asked for."""

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
    """What the pretended ONNX Runtime does.

    Attributes:
        missing: Providers whose libraries cannot be loaded: it falls back to the next without a word.
        asked: The providers each session was asked for, by file name; ``trial`` for those made in memory.
    """

    missing: set[str] = field(default_factory=set)
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)

    def create(self, model: str | bytes, options: Any, providers: list[Any], enable_fallback: int = 1) -> Any:
        name = "trial" if isinstance(model, bytes) else Path(model).name
        self.asked.append((name, providers))
        names = [item if isinstance(item, str) else item[0] for item in providers]
        assert not enable_fallback or names == [CPU]  # else ONNX Runtime would choose other options itself
        return _OnTheCpu(
            _Session(model, options, providers=[CPU]), [name for name in names if name not in self.missing]
        )

    def options(self, name: str, provider: str) -> list[dict[str, str]]:
        """Options of a provider for each session of a file that was asked to use it."""
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
    """Put a T4 into this machine."""
    pretended = FakeGpu()
    for module in (session, model_conversion, engine):
        monkeypatch.setattr(module, "this_machine", lambda: T4)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", pretended.create)
    # Values bound to what a graph reads and writes lie where the networks really run.
    monkeypatch.setattr(session, "GpuSession", partial(GpuSession, device="cpu"))
    # On a processor it is not faster to have faces' pixels done in graphs.
    monkeypatch.setattr(path_choice, "make_verdict", lambda *_: Verdict())
    return pretended
