"""A network on the GPU: one call at a time, replayed as a CUDA graph where that works.

A call of these networks launches some hundred kernels, a few microseconds of a processor each; captured once,
they are replayed by a single launch. That takes inputs and outputs of one shape at fixed places, and calls
from one thread alone. Taking turns costs the GPU nothing, since the other networks fill the gaps, and keeps
its memory at what a single call needs. Figures are in docs/gpu.md.
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
# As a share of the largest value. Replayed are the same kernels: more than the noise of their order of adding
# means that something is wrong.
_SAME = 1e-3
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}

# ONNX Runtime captures in CUDA's global mode: whatever any thread of the process allocates or copies in the
# meantime fails, or spoils the capture. So calls run side by side, and a capture only when there is no call.
_changed = threading.Condition()
_running = {"calls": 0, "captures": 0}


@contextmanager
def _exclusive(kind: str) -> Iterator[None]:
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


@dataclass(eq=False)
class DeviceBuffers:
    """A session, and the places on its device that it reads from and writes to whenever it is run there."""

    session: Any  # ONNX Runtime's
    inputs: dict[str, Any]  # ONNX Runtime's values by name; ``outputs`` likewise, in the order of the graph
    outputs: dict[str, Any]
    device: str  # where they lie
    # What others bound to these places, so that it goes when they go.
    kept: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._binding = self.session.io_binding()
        for name, held in self.inputs.items():
            self._binding.bind_ortvalue_input(name, held)
        for name, held in self.outputs.items():
            self._binding.bind_ortvalue_output(name, held)

    @classmethod
    def of(cls, session: Any, device: str, **given: Any) -> DeviceBuffers:
        """Make places for all that a session of fixed shapes takes and gives, but for those ``given``."""
        ins, outs = (
            {
                item.name: given[item.name]
                if item.name in given
                else _allocate_buffer(item.shape, _TYPES[item.type], device)
                for item in items
            }
            for items in (session.get_inputs(), session.get_outputs())
        )
        return cls(session, ins, outs, device)

    def takes(self, names: Sequence[str], feed: Arrays) -> bool:
        """Whether a call is of these shapes, and for all outputs."""
        shapes = all(list(array.shape) == self.inputs[name].shape() for name, array in feed.items())
        return shapes and len(names) == len(self.outputs)

    def run(self, feed: Arrays) -> None:
        """Put arrays in their places, and run on those and on what lies in the others."""
        for name, array in feed.items():
            self.inputs[name].update_inplace(np.ascontiguousarray(array))
        self.session.run_with_iobinding(self._binding)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a copy of an output."""
        array: npt.NDArray[Any] = self.outputs[name].numpy()
        # What lies on a device comes as a copy; on the CPU the next call would write into it.
        return array if array.flags.owndata else array.copy()


def _allocate_buffer(shape: Sequence[int], kind: Any, device: str) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), kind, device, 0)


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
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._device = device
        self._example = example
        self._device_buffers: DeviceBuffers | None = None
        self.captured = False  # whether calls are replayed as a CUDA graph
        self._session: Any = None
        if capture:
            try:
                with _exclusive("captures"):
                    self._session = create(True)
                    feed = example(self._session)
                    self._device_buffers = self._executor.submit(
                        copy_context().run, self._capture, feed
                    ).result()
                self.captured = True
                return
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                on_problem(first_line(error))
        self._session = None  # its memory is wanted for the next one
        with _exclusive("calls"):
            self._session = create(False)
        try:
            self.run(self._names(), example(self._session))  # has its workspaces made
        except Exception as error:  # whatever else is wrong, the first real call says in its place
            if is_out_of_memory(error):
                raise

    def run(
        self,
        names: Sequence[str],
        feed: Arrays,
        within: Callable[[DeviceBuffers], Any] | None = None,
        kind: Literal["calls", "captures"] = "calls",
    ) -> Any:
        """What ``InferenceSession.run`` does; calls of the example's shape, for all outputs, are replayed.

        With ``within`` that is called in its turn, with the network at its places, and what it returns is
        returned; one of ``captures`` has the GPU to itself.
        """
        return self._executor.submit(self._run, list(names), feed, within, kind).result()

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a session: its inputs, outputs, metadata, providers."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._session, name)

    def _names(self) -> list[str]:
        return [output.name for output in self._session.get_outputs()]

    def _run(
        self, names: list[str], feed: Arrays, within: Callable[[DeviceBuffers], Any] | None, kind: str
    ) -> Any:
        with _exclusive(kind):
            if within is not None:
                if self._device_buffers is None:
                    inputs = self._example(self._session)
                    self._device_buffers = self._bind_buffers(inputs, self._plain(self._names(), inputs))
                return within(self._device_buffers)
            if self.captured and self._device_buffers is not None and self._device_buffers.takes(names, feed):
                self._device_buffers.run(feed)
                return [self._device_buffers.read(name) for name in names]
            return self._plain(names, feed)

    def _bind_buffers(self, inputs: Arrays, outputs: Sequence[npt.NDArray[Any]]) -> DeviceBuffers:
        named = zip(self._names(), outputs, strict=True)
        ins, outs = (
            {name: _allocate_buffer(array.shape, array.dtype, self._device) for name, array in arrays}
            for arrays in (inputs.items(), named)
        )
        return DeviceBuffers(self._session, ins, outs, self._device)

    def _plain(self, names: list[str], feed: Arrays) -> list[npt.NDArray[Any]]:
        """A call that is neither captured nor replayed."""
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", "-1")
        outputs: list[npt.NDArray[Any]] = self._session.run(names, feed, options)
        return outputs

    def _capture(self, feed: Arrays) -> DeviceBuffers:
        """Capture the network on empty inputs, and make sure that a replay reads what it is given.

        RuntimeError where ONNX Runtime cannot capture it, or a replay gives other results.
        """
        names = self._names()
        expected = self._plain(names, feed)
        places = self._bind_buffers(feed, expected)
        places.run({name: np.zeros_like(array) for name, array in feed.items()})
        places.run(feed)
        for name, wanted in zip(names, expected, strict=True):
            # A NaN is no agreement.
            if not np.allclose(places.read(name), wanted, rtol=0, atol=_SAME * np.abs(wanted).max()):
                raise RuntimeError(tr("its replay gives other results"))
        return places
