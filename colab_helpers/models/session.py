"""Creation of ONNX Runtime sessions, which happens only here.

A ``Runtime`` chooses the execution provider once. CUDA is used only after a trial session has run on it,
because ONNX Runtime lists CUDA as available even without a GPU, and silently falls back to the CPU.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime

from colab_helpers.errors import OutOfMemoryError, ProviderError
from colab_helpers.files import absolute
from colab_helpers.language import mark, tr
from colab_helpers.machine import Machine, this_machine, workers_per_machine
from colab_helpers.models.catalog import broken_model_error, missing_model_error
from colab_helpers.models.cuda_graphs import DeviceBuffers, GpuSession
from colab_helpers.models.parity import sample_inputs
from colab_helpers.models.session_pool import SessionPool, first_line, is_out_of_memory

# Recent builds collect telemetry, also on Linux; no data of a run may leave the machine.
onnxruntime.disable_telemetry_events()

T = TypeVar("T")
Provider = Literal["cuda", "cpu"]
_PROVIDER_NAMES: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
STANDIN_KEY = "colab_helpers.standin"
"""Metadata key that marks a stand-in model, so that no report presents it as the real network."""
_MAX_STANDIN_SIZE = 32 << 20
"""Bytes; the demo's networks have a few megabytes, and files up to this size are searched quickly."""
CUDA_OPTIONS: Mapping[str, str] = {
    # Extending the arena by the requested size keeps VRAM use predictable; the default doubles it.
    "arena_extend_strategy": "kSameAsRequested",
    # The input shape is constant while a network is loaded, so the thorough search (cuDNN's second
    # heuristic) runs once. The quick one occasionally picks an algorithm that is many times slower.
    "cudnn_conv_algo_search": "EXHAUSTIVE",
}
"""Provider options of every CUDA session."""
_BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC in cuda.h


@dataclass(frozen=True)
class Network:
    """A loaded network."""

    name: str  # the model's, for messages and reports
    path: Path  # the file that was loaded; a converted one has another name than the model
    session: Any  # ONNX Runtime's, a ``GpuSession`` or a ``PooledSession``
    provider: Provider  # where it actually runs
    standin: bool  # one of the demo's stand-ins
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Run on inputs in the graph's order; return all outputs."""
        feed = dict(zip(self.input_names, inputs, strict=True))
        outputs: list[npt.NDArray[Any]] = self.session.run(list(self.output_names), feed)
        return outputs

    def run_stack(self, *inputs: npt.NDArray[Any], output: int = 0) -> npt.NDArray[Any]:
        """Run a batch sample by sample; return one output, with one row per sample.

        On the CPU, larger batches are no faster and each further sample takes a gigabyte. On CUDA, cuDNN
        plans a network again, for up to half a second, whenever the batch size changes (docs/gpu.md). Raise
        OutOfMemoryError if memory runs out.
        """
        with self._out_of_memory_translated():
            rows = [self.run(*(value[k : k + 1] for value in inputs))[output] for k in range(len(inputs[0]))]
        return np.concatenate(rows) if len(rows) > 1 else rows[0]

    def run_on_device(self, work: Callable[[DeviceBuffers], T], *, capturing: bool = False) -> T:
        """Return the result of ``work`` on the device buffers, see ``GpuSession.run``; raise as above."""
        with self._out_of_memory_translated():
            result: T = self.session.run((), {}, work, "captures" if capturing else "calls")
        return result

    @contextmanager
    def _out_of_memory_translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                tr("GPU memory ran out") if self.provider == "cuda" else tr("memory ran out"),
                where=self.name,
                remedy=tr("close other programs that use it, or choose a lighter preset"),
            ) from error


@dataclass
class Runtime:
    """The execution provider of networks, chosen by trial; raises ProviderError if required CUDA fails."""

    wanted: Literal["auto", "cuda", "cpu"] = "auto"  # ``auto``: CUDA if it works; ``cuda``: required
    threads: int = 0  # CPU threads of a network call; 0: this worker's share of the cores
    pool: SessionPool | None = None  # manages the sessions; without one each lives as long as its network
    # On CUDA, capture a CUDA graph when a network is opened, while no GPU encoder or decoder may run (see
    # ``GpuSession``). A network that the pool loads again runs without.
    graphs: bool = False
    notes: list[str] = field(default_factory=list)
    provider: Provider = field(init=False)
    _loaded: dict[Path, bool] = field(default_factory=dict, init=False)  # whether each has a CUDA graph

    def __post_init__(self) -> None:
        self.provider = self._choose_provider(this_machine())

    def pooled(self, pool: SessionPool | None, *, graphs: bool) -> Runtime:
        """Return a runtime with the same provider, not tried again, that keeps its sessions in a pool."""
        runtime = copy.copy(self)
        runtime.pool, runtime.graphs, runtime._loaded = pool, graphs, {}
        return runtime

    def open(self, path: Path, *, name: str = "", edge: int = 0) -> Network:
        """Load a network; ``name`` defaults to the file's stem, ``edge`` is the input size if it accepts any.

        Raises:
            ModelError: The file is missing or ONNX Runtime cannot load it.
            ProviderError: It should run on CUDA but does not.
        """
        if not path.is_file():
            raise missing_model_error(path)
        name = name or path.stem
        create = partial(self._create, path, name, edge)
        session = self.pool.session(path, create, name=name) if self.pool else create()
        metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        return Network(
            name=name,
            path=path,
            session=session,
            provider=self.provider,
            standin=metadata.get(STANDIN_KEY) == "true",
            input_names=tuple(item.name for item in session.get_inputs()),
            output_names=tuple(item.name for item in session.get_outputs()),
        )

    def _create(self, path: Path, name: str, edge: int) -> Any:
        if self.provider == "cpu":
            return self._create_session(path)

        def note_uncaptured(reason: str) -> None:
            text = mark("{name}: runs without a CUDA graph, a little slower ({reason})")
            self.notes.append(tr(text, name=name, reason=reason))

        session = GpuSession(
            partial(self._create_session, path),
            example=partial(sample_inputs, edge=edge, name=name),
            capture=self.graphs and path not in self._loaded,
            on_problem=note_uncaptured,
        )
        if self.pool and self._loaded.get(path):
            text = mark("{name}: was reloaded and now runs without its CUDA graph, a little slower")
            self.pool.notes.append(tr(text, name=name))
        self._loaded[path] = session.captured
        return session

    def auxiliary_session(self, model: bytes, *, capture: bool) -> Any:
        """Create a session of a small auxiliary graph, captured on its first run if ``capture``."""
        # TensorFloat-32 is too imprecise for pixel coordinates.
        cuda = {"use_tf32": "0", **({"enable_cuda_graph": "1"} if capture else {})}
        return create_session(model, self.provider, threads=self.threads, cuda=cuda)

    def _create_session(self, path: Path, capture: bool = False) -> Any:
        """Create a plain session and check its provider."""
        cuda = {"enable_cuda_graph": "1"} if capture else {}
        if self.pool and self.pool.ceiling:
            cuda["gpu_mem_limit"] = str(self.pool.ceiling)
        try:
            session = create_session(str(path), self.provider, threads=self.threads, cuda=cuda)
        except Exception as error:
            if self.pool and is_out_of_memory(error):
                raise  # the pool unloads other sessions and tries again
            raise broken_model_error(path, first_line(error)) from error
        if not runs_on(session, self.provider):
            raise ProviderError(
                tr("the model should run on CUDA, but ONNX Runtime fell back to the CPU"),
                where=path.name,
                remedy=tr(_CUDA_REMEDY),
            )
        return session

    def _choose_provider(self, machine: Machine) -> Provider:
        if self.wanted == "cpu":
            return "cpu"
        reason = cuda_problem(machine)
        if reason is None:
            return "cuda"
        if self.wanted == "cuda":
            text = mark("CUDA is required but does not work: {reason}")
            raise ProviderError(tr(text, reason=reason), remedy=tr(_CUDA_REMEDY))
        if machine.gpu is not None:
            self.notes.append(tr("networks run on the CPU although there is a GPU: {reason}", reason=reason))
        return "cpu"


_CUDA_REMEDY = mark(
    "check the GPU with 'nvidia-smi' and the installation with 'python -m colab_helpers doctor', "
    "or set execution_provider to auto or cpu"
)


def create_session(
    model: str | bytes,
    provider: Provider,
    *,
    threads: int = 0,
    cuda: Mapping[str, str] | None = None,
    optimised: bool = True,
) -> Any:
    """Create an ONNX Runtime session on one provider, with the CPU for unsupported nodes; see ``runs_on``.

    ``model`` is a path or a file's content; ``threads`` of 0 means the cores divided among the workers;
    ``cuda`` are provider options in addition to ``CUDA_OPTIONS``. A session that is not ``optimised`` serves
    only to check whether a file loads.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: each load would warn of the unused emap initializer
    options.intra_op_num_threads = threads or max(1, this_machine().cpus // workers_per_machine())
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Idle threads must not spin: decoder and encoder need the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [_PROVIDER_NAMES["cpu"]]
    if provider == "cuda":
        providers.insert(0, (_PROVIDER_NAMES["cuda"], {**CUDA_OPTIONS, **(cuda or {})}))
    # With its fallback, ONNX Runtime would retry on other providers with default options after any error
    # (running out of memory while loading would move a network to the CPU), and print to stdout.
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def runs_on(session: Any, provider: Provider) -> bool:
    """Return whether a session's first provider is the given one."""
    return bool(session.get_providers()[:1] == [_PROVIDER_NAMES[provider]])


def cuda_problem(machine: Machine) -> str | None:
    """Return why CUDA cannot be used, or None if a small network ran on it."""
    if machine.gpu is None:
        return tr("no NVIDIA GPU is visible")
    if _PROVIDER_NAMES["cuda"] not in onnxruntime.get_available_providers():
        return tr("the installed onnxruntime is the CPU build; install onnxruntime-gpu")
    try:
        wait_without_spinning()
        # Loads CUDA and cuDNN from installed wheels if the system has none.
        onnxruntime.preload_dlls()
        session = create_session(_trial_model(), "cuda")
        if not runs_on(session, "cuda"):
            return tr("ONNX Runtime fell back to the CPU (CUDA or cuDNN libraries of the wrong version?)")
        session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001 - any failure means CUDA is not usable here
        return first_line(error)
    return None


def wait_without_spinning(driver: str = "libcuda.so.1") -> None:
    """Make threads that wait for the first GPU sleep instead of spin; call before anything runs on it.

    Decoder and encoder need the cores: a cloud machine with a T4 has two. Does nothing if the driver refuses.
    """
    with suppress(OSError, AttributeError):
        cuda, device = ctypes.CDLL(driver), ctypes.c_int()
        if not (cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)):
            cuda.cuDevicePrimaryCtxSetFlags_v2(device, _BLOCKING_SYNC)


def _trial_model() -> bytes:
    """Return a one-convolution graph: small, but it needs cuDNN to run."""
    import onnx.parser  # slow, and not needed without a GPU

    text = """
    <ir_version: 10, opset_import: ["": 17]>
    trial (float[1, 1, 8, 8] x) => (float[1, 1, 6, 6] y)
    <float[1, 1, 3, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1}>
    { y = Conv(x, w) }
    """
    serialized: bytes = onnx.parser.parse_model(text).SerializeToString()
    return serialized


def is_standin(path: Path) -> bool:
    """Return whether a model file is one of the demo's stand-ins; only small files are read."""
    if not 0 < path.stat().st_size <= _MAX_STANDIN_SIZE:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(STANDIN_KEY.encode()) >= 0


def models_root(models_dir: Path | None) -> Path:
    """Return the models folder: the argument, ``COLAB_HELPERS_MODELS``, or a folder in the user's cache."""
    folder = models_dir or os.environ.get("COLAB_HELPERS_MODELS")
    return absolute(folder or Path.home() / ".cache" / "colab_helpers" / "models")
