"""A network on the GPU: one call at a time, replayed as a CUDA graph where that works.

A call of these networks launches some hundred kernels, a few microseconds of a processor each; captured once,
they are replayed by a single launch. That takes inputs and outputs of one shape at fixed places, and calls
from one thread alone. Taking turns costs the GPU nothing, since the other networks fill the gaps, and keeps
its memory at what a single call needs. Figures are in docs/gpu.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from colab_helpers.language import tr
from colab_helpers.models.pool import first_line, is_out_of_memory

Arrays = Mapping[str, npt.NDArray[Any]]
# As a share of the largest value. Replayed are the same kernels: more than the noise of their order of adding
# means that something is wrong.
_SAME = 1e-3

# ONNX Runtime captures in CUDA's global mode: whatever any thread of the process allocates or copies in the
# meantime fails, or spoils the capture. So calls run side by side, and a capture only when there is no call.
_changed = threading.Condition()
_running = {"calls": 0, "captures": 0}


@contextmanager
def _alone(kind: str) -> Iterator[None]:
    """Wait for what must not run beside a call (``calls``) or a capture (``captures``), then keep it away."""
    with _changed:
        _changed.wait_for(lambda: not _running["captures"] and (kind == "calls" or not _running["calls"]))
        _running[kind] += 1
    try:
        yield
    finally:
        with _changed:
            _running[kind] -= 1
            _changed.notify_all()


@dataclass(frozen=True)
class _Captured:
    """Places on the device that a captured graph reads from and writes to."""

    inputs: dict[str, Any]
    outputs: list[Any]
    binding: Any

    def takes(self, names: Sequence[str], feed: Arrays) -> bool:
        """Whether a call is one of those that were captured."""
        shapes = all(list(array.shape) == self.inputs[name].shape() for name, array in feed.items())
        return shapes and len(names) == len(self.outputs)


class GpuSession:
    """Stands for an ONNX Runtime session; safe to use from several threads, whose calls take turns.

    It is run once on an example of the shape that calls will have, and captured on that if asked to; no
    encoder or decoder of a GPU may be at work in this process meanwhile. ``create`` is told whether to allow
    capturing; ``on_problem`` hears why there is no graph where one was wanted: calls go on without.
    """

    def __init__(
        self,
        create: Callable[[bool], Any],
        *,
        example: Callable[[Any], Arrays],
        capture: bool,
        on_problem: Callable[[str], None],
        device: str = "cuda",
    ) -> None:
        # Its thread ends when this object is gone: the executor's own threads watch for that.
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._device = device
        self._captured: _Captured | None = None
        self._session: Any = None
        if capture:
            try:
                with _alone("captures"):
                    self._session = create(True)
                    feed = example(self._session)
                    self._captured = self._turns.submit(copy_context().run, self._capture, feed).result()
                return
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                on_problem(first_line(error))
        self._session = None  # its memory is wanted for the next one
        with _alone("calls"):
            self._session = create(False)
        try:
            self.run(self._names(), example(self._session))  # has its workspaces made
        except Exception as error:  # whatever else is wrong, the first real call says in its place
            if is_out_of_memory(error):
                raise

    def run(self, names: Sequence[str], feed: Arrays) -> list[npt.NDArray[Any]]:
        """What ``InferenceSession.run`` does; calls of the example's shape, for all outputs, are replayed."""
        outputs: list[npt.NDArray[Any]] = self._turns.submit(self._run, list(names), feed).result()
        return outputs

    @property
    def captured(self) -> bool:
        """Whether calls are replayed as a CUDA graph."""
        return self._captured is not None

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a session: its inputs, outputs, metadata, providers."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._session, name)

    def _names(self) -> list[str]:
        return [output.name for output in self._session.get_outputs()]

    def _run(self, names: list[str], feed: Arrays) -> list[npt.NDArray[Any]]:
        with _alone("calls"):
            if self._captured is not None and self._captured.takes(names, feed):
                return self._replayed(self._captured, feed)
            return self._plain(names, feed)

    def _plain(self, names: list[str], feed: Arrays) -> list[npt.NDArray[Any]]:
        """A call that is neither captured nor replayed."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1")
        outputs: list[npt.NDArray[Any]] = self._session.run(names, feed, options)
        return outputs

    def _capture(self, feed: Arrays) -> _Captured:
        """Capture the network on empty inputs, and make sure that a replay reads what it is given.

        Raises:
            RuntimeError: ONNX Runtime cannot capture it, or a replay gives other results.
        """
        value, device, names = onnxruntime.OrtValue, self._device, self._names()
        expected = self._plain(names, feed)
        inputs = {
            name: value.ortvalue_from_numpy(np.zeros_like(array), device, 0) for name, array in feed.items()
        }
        outputs = [
            value.ortvalue_from_shape_and_type(list(array.shape), array.dtype, device, 0)
            for array in expected
        ]
        binding = self._session.io_binding()
        for name, held in inputs.items():
            binding.bind_ortvalue_input(name, held)
        for name, held in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, held)
        captured = _Captured(inputs, outputs, binding)
        self._session.run_with_iobinding(binding)
        for found, wanted in zip(self._replayed(captured, feed), expected, strict=True):
            # A NaN is no agreement.
            if not np.allclose(found, wanted, rtol=0, atol=_SAME * np.abs(wanted).max()):
                raise RuntimeError(tr("its replay gives other results"))
        return captured

    def _replayed(self, captured: _Captured, feed: Arrays) -> list[npt.NDArray[Any]]:
        for name, array in feed.items():
            captured.inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(captured.binding)
        found = [output.numpy() for output in captured.outputs]
        # What lies on a device comes as a copy; on the CPU the next call would write into it.
        return [array if array.flags.owndata else array.copy() for array in found]
