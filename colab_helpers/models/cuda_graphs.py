"""Networks on the GPU, one call at a time, replayed as a CUDA graph where possible.

A call of these networks launches some hundred kernels at a few microseconds of CPU time each; a captured
graph replays them with a single launch. This requires fixed shapes and addresses of inputs and outputs, and
calls from one thread. Serialising the calls costs no throughput, since other networks fill the gaps on the
GPU, and limits its memory to what a single call needs. Measurements are in docs/gpu.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from colab_helpers.language import tr
from colab_helpers.models.session_pool import first_line, is_out_of_memory

Arrays = Mapping[str, npt.NDArray[Any]]
# Allowed difference of a replay, relative to the largest value. The same kernels run again: anything above
# the noise of the summation order means that something is wrong.
_TOLERANCE = 1e-3
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}

# ONNX Runtime captures in CUDA's global mode: an allocation or copy by any thread of the process fails
# meanwhile, or invalidates the capture. Hence a readers-writer lock: a capture excludes all calls.
_changed = threading.Condition()
_running = {"calls": 0, "captures": 0}


@contextmanager
def _locked_for(kind: str) -> Iterator[None]:
    """Hold the lock, shared for ``calls`` or exclusive for ``captures``."""
    with _changed:
        _changed.wait_for(lambda: not _running["captures"] and (kind == "calls" or not _running["calls"]))
        _running[kind] += 1
    try:
        yield
    finally:
        with _changed:
            _running[kind] -= 1
            _changed.notify_all()


@dataclass(eq=False)
class DeviceBuffers:
    """A session bound to fixed input and output buffers on its device."""

    session: Any  # ONNX Runtime's
    inputs: dict[str, Any]  # ``OrtValue`` by name, as in ``outputs``; the outputs are in the graph's order
    outputs: dict[str, Any]
    device: str  # of the buffers
    cache: dict[Hashable, Any] = field(default_factory=dict)  # callers' objects bound to these buffers

    def __post_init__(self) -> None:
        self._binding = self.session.io_binding()
        for name, value in self.inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self.outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    @classmethod
    def of(cls, session: Any, device: str, **existing: Any) -> DeviceBuffers:
        """Allocate buffers for a session with fixed shapes, except for ``existing`` inputs and outputs."""
        inputs, outputs = (
            {
                item.name: existing[item.name]
                if item.name in existing
                else _allocate_buffer(item.shape, _TYPES[item.type], device)
                for item in items
            }
            for items in (session.get_inputs(), session.get_outputs())
        )
        return cls(session, inputs, outputs, device)

    def accepts(self, names: Sequence[str], feed: Arrays) -> bool:
        """Return whether a call has the buffers' shapes and asks for all outputs."""
        same_shapes = all(list(array.shape) == self.inputs[name].shape() for name, array in feed.items())
        return same_shapes and len(names) == len(self.outputs)

    def run(self, feed: Arrays) -> None:
        """Copy arrays into their buffers and run; other inputs keep their present content."""
        for name, array in feed.items():
            self.inputs[name].update_inplace(np.ascontiguousarray(array))
        self.session.run_with_iobinding(self._binding)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a copy of an output."""
        array: npt.NDArray[Any] = self.outputs[name].numpy()
        # From a device this is a copy already; on the CPU it is a view that the next call would overwrite.
        return array if array.flags.owndata else array.copy()


def _allocate_buffer(shape: Sequence[int], dtype: Any, device: str) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, device, 0)


class GpuSession:
    """A wrapper of an ONNX Runtime session on the GPU; thread-safe, calls are serialised.

    The session is run once on ``example`` inputs of the shapes that calls will have, and captured if
    requested; meanwhile no GPU encoder or decoder may run in this process. ``create`` is told whether to
    enable capturing. If that fails, ``on_problem`` is called with the reason and no graph is used.
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
        # The executor's thread ends when this object is garbage-collected.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._device = device
        self._example = example
        self._device_buffers: DeviceBuffers | None = None
        self.captured = False  # whether calls are replayed as a CUDA graph
        self._session: Any = None
        if capture:
            try:
                with _locked_for("captures"):
                    self._session = create(True)
                    feed = example(self._session)
                    future = self._executor.submit(copy_context().run, self._capture, feed)
                    self._device_buffers = future.result()
                self.captured = True
                return
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                on_problem(first_line(error))
        self._session = None  # frees its memory for the next one
        with _locked_for("calls"):
            self._session = create(False)
        try:
            self.run(self._output_names(), example(self._session))  # allocates the workspaces
        except Exception as error:  # any other error is reported by the first real call
            if is_out_of_memory(error):
                raise

    def run(
        self,
        names: Sequence[str],
        feed: Arrays,
        within: Callable[[DeviceBuffers], Any] | None = None,
        kind: Literal["calls", "captures"] = "calls",
    ) -> Any:
        """Run like ``InferenceSession.run``; calls with the example's shapes, for all outputs, are replayed.

        With ``within``, call it instead with the network's buffers and return its result. The kind
        ``captures`` runs it while no other call is in progress.
        """
        return self._executor.submit(self._run, list(names), feed, within, kind).result()

    def __getattr__(self, name: str) -> Any:
        """Delegate everything else to the session: inputs, outputs, metadata, providers."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._session, name)

    def _output_names(self) -> list[str]:
        return [output.name for output in self._session.get_outputs()]

    def _run(
        self, names: list[str], feed: Arrays, within: Callable[[DeviceBuffers], Any] | None, kind: str
    ) -> Any:
        with _locked_for(kind):
            buffers = self._device_buffers
            if within is not None:
                if buffers is None:
                    inputs = self._example(self._session)
                    outputs = self._run_uncaptured(self._output_names(), inputs)
                    buffers = self._device_buffers = self._allocate_buffers(inputs, outputs)
                return within(buffers)
            if self.captured and buffers is not None and buffers.accepts(names, feed):
                buffers.run(feed)
                return [buffers.read(name) for name in names]
            return self._run_uncaptured(names, feed)

    def _allocate_buffers(self, inputs: Arrays, outputs: Sequence[npt.NDArray[Any]]) -> DeviceBuffers:
        named_outputs = zip(self._output_names(), outputs, strict=True)
        ins, outs = (
            {name: _allocate_buffer(array.shape, array.dtype, self._device) for name, array in arrays}
            for arrays in (inputs.items(), named_outputs)
        )
        return DeviceBuffers(self._session, ins, outs, self._device)

    def _run_uncaptured(self, names: list[str], feed: Arrays) -> list[npt.NDArray[Any]]:
        """Run without capturing or replaying."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1")
        outputs: list[npt.NDArray[Any]] = self._session.run(names, feed, options)
        return outputs

    def _capture(self, feed: Arrays) -> DeviceBuffers:
        """Capture the network on zeros; raise RuntimeError if a replay ignores its actual inputs."""
        names = self._output_names()
        expected = self._run_uncaptured(names, feed)
        buffers = self._allocate_buffers(feed, expected)
        buffers.run({name: np.zeros_like(array) for name, array in feed.items()})
        buffers.run(feed)
        for name, reference in zip(names, expected, strict=True):
            limit = _TOLERANCE * np.abs(reference).max()
            if not np.allclose(buffers.read(name), reference, rtol=0, atol=limit):  # NaN never passes
                raise RuntimeError(tr("the CUDA graph's replay gives other results"))
        return buffers
