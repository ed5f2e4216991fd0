"""The only place that creates ONNX Runtime sessions.

A runtime decides once where networks run. CUDA counts only when a session was created on it and has
run: the list of available providers names CUDA on machines without a GPU, and ONNX Runtime falls back
to the CPU without a word.
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

# Recent builds collect telemetry, also on Linux; nothing of a run is to leave the machine.
onnxruntime.disable_telemetry_events()

T = TypeVar("T")
Provider = Literal["cuda", "cpu"]
_PROVIDER_NAMES: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
STANDIN_KEY = "colab_helpers.standin"
"""Key in a model's metadata that marks a stand-in, so that no report mistakes it for the real network."""
_STANDINS_UP_TO = 32 << 20
"""The demo's networks have a few megabytes; real ones of this size are quickly searched."""
CUDA_OPTIONS: Mapping[str, str] = {
    # Growing by exactly what is asked keeps VRAM predictable; the default doubles each time.
    "arena_extend_strategy": "kSameAsRequested",
    # A network sees inputs of one shape as long as it is loaded, so the thorough search (cuDNN's second
    # heuristic) is asked once. The quick one now and then picks something many times slower.
    "cudnn_conv_algo_search": "EXHAUSTIVE",
}
"""What every session on CUDA is told."""
_BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC in cuda.h


@dataclass(frozen=True)
class Network:
    """One loaded network."""

    name: str  # the model's, for messages and reports
    path: Path  # the file that was loaded; a converted one has another name than the model
    session: Any  # ONNX Runtime's, or what stands for it
    provider: Provider  # where it really runs
    standin: bool  # the file is marked as one of the demo's stand-ins
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Run on inputs given in the graph's own order."""
        feed = dict(zip(self.input_names, inputs, strict=True))
        outputs: list[npt.NDArray[Any]] = self.session.run(list(self.output_names), feed)
        return outputs

    def run_stack(self, *inputs: npt.NDArray[Any], output: int = 0) -> npt.NDArray[Any]:
        """Run any number of samples, one after another; return one output, one row per sample.

        On a processor stacks are no faster, and each sample more takes a gigabyte. On CUDA, cuDNN plans a
        network anew, for up to half a second, whenever the stack's size changes (docs/gpu.md).
        OutOfMemoryError where it does not fit into memory.
        """
        with self._memory_watched():
            rows = [self.run(*(value[k : k + 1] for value in inputs))[output] for k in range(len(inputs[0]))]
        return np.concatenate(rows) if len(rows) > 1 else rows[0]

    def run_on_device(self, work: Callable[[DeviceBuffers], T], *, capturing: bool = False) -> T:
        """Have work done where the network lies, see ``GpuSession.run``; OutOfMemoryError likewise."""
        with self._memory_watched():
            done: T = self.session.run((), {}, work, "captures" if capturing else "calls")
        return done

    @contextmanager
    def _memory_watched(self) -> Iterator[None]:
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
    """Where networks run in this process, decided by trial; ProviderError if CUDA is asked in vain."""

    wanted: Literal["auto", "cuda", "cpu"] = "auto"  # ``auto`` takes CUDA where it works, ``cuda`` insists
    threads: int = 0  # on the CPU, of one network call; 0: every core
    pool: SessionPool | None = None  # keeps the sessions; else they are loaded as long as their network lives
    # On CUDA, capture what a network does when it is opened, and replay it. No encoder or decoder may be at
    # work then: see ``GpuSession``. One that the pool loads again goes on without.
    graphs: bool = False
    notes: list[str] = field(default_factory=list)
    provider: Provider = field(init=False)
    # Networks that were loaded, and whether they have a CUDA graph.
    _loaded: dict[Path, bool] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.provider = self._decide(this_machine())

    def pooled(self, pool: SessionPool | None, *, graphs: bool) -> Runtime:
        """Return a runtime of the same provider, not tried again, that keeps its sessions in a pool."""
        runtime = copy.copy(self)
        runtime.pool, runtime.graphs, runtime._loaded = pool, graphs, {}
        return runtime

    def open(self, path: Path, *, name: str = "", edge: int = 0) -> Network:
        """Load a network: of a name other than the file's stem, with pictures of an edge it leaves open.

        Raises:
            ModelError: The file is missing or not a network ONNX Runtime can load.
            ProviderError: It was to run on CUDA but does not.
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
            return self._plain(path)

        def without(reason: str) -> None:
            text = mark("{name}: runs without a CUDA graph, a little slower ({reason})")
            self.notes.append(tr(text, name=name, reason=reason))

        session = GpuSession(
            partial(self._plain, path),
            example=partial(sample_inputs, edge=edge, name=name),
            capture=self.graphs and path not in self._loaded,
            on_problem=without,
        )
        if self.pool and self._loaded.get(path):
            text = mark(
                "{name}: was loaded again, and runs without its CUDA graph from now on, a little slower"
            )
            self.pool.notes.append(tr(text, name=name))
        self._loaded[path] = session.captured
        return session

    def beside(self, model: bytes, *, capture: bool) -> Any:
        """Create a session of a small graph that works beside a network, captured when it is first run."""
        # TensorFloat-32 would put the coordinates of pixels in doubt.
        cuda = {"use_tf32": "0", **({"enable_cuda_graph": "1"} if capture else {})}
        return create_session(model, self.provider, threads=self.threads, cuda=cuda)

    def _plain(self, path: Path, capture: bool = False) -> Any:
        """A session of the runtime's own provider, and nothing else."""
        cuda = {"enable_cuda_graph": "1"} if capture else {}
        if self.pool and self.pool.ceiling:
            cuda["gpu_mem_limit"] = str(self.pool.ceiling)
        try:
            session = create_session(str(path), self.provider, threads=self.threads, cuda=cuda)
        except Exception as error:
            if self.pool and is_out_of_memory(error):
                raise  # the pool makes room and tries again
            raise broken_model_error(path, first_line(error)) from error
        if not runs_on(session, self.provider):
            raise ProviderError(
                tr("the model was to run on CUDA, but ONNX Runtime put it on the CPU"),
                where=path.name,
                remedy=tr(_CUDA_REMEDY),
            )
        return session

    def _decide(self, machine: Machine) -> Provider:
        if self.wanted == "cpu":
            return "cpu"
        reason = cuda_problem(machine)
        if reason is None:
            return "cuda"
        if self.wanted == "cuda":
            raise ProviderError(
                tr("CUDA was asked for but does not work: {reason}", reason=reason), remedy=tr(_CUDA_REMEDY)
            )
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
    """Create an ONNX Runtime session on one provider, with the CPU behind it for unsupported nodes.

    Whether it runs there is told by ``runs_on``. ``threads`` are those of one call on the CPU, by default
    every core; ``cuda`` has options beside ``CUDA_OPTIONS``. One that is not ``optimised`` is not to be run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings speak of the unused emap initializer on every load
    options.intra_op_num_threads = threads or max(1, this_machine().cpus // workers_per_machine())
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Idle threads would otherwise spin, on cores that decoder and encoder need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [_PROVIDER_NAMES["cpu"]]
    if provider == "cuda":
        providers.insert(0, (_PROVIDER_NAMES["cuda"], {**CUDA_OPTIONS, **(cuda or {})}))
    # On an error ONNX Runtime would try again with other providers and its own options, and print on stdout:
    # memory that ran out while loading would put a network on the CPU.
    return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)


def runs_on(session: Any, provider: Provider) -> bool:
    """Whether a session's first provider is the wanted one."""
    return bool(session.get_providers()[:1] == [_PROVIDER_NAMES[provider]])


def cuda_problem(machine: Machine) -> str | None:
    """Why CUDA cannot be used, or None if a small network was created and run on it."""
    if machine.gpu is None:
        return tr("no NVIDIA GPU is visible")
    if _PROVIDER_NAMES["cuda"] not in onnxruntime.get_available_providers():
        return tr("the installed onnxruntime is the CPU build; install onnxruntime-gpu")
    try:
        wait_without_spinning()
        # Loads CUDA and cuDNN from the wheels beside us where the system has none.
        onnxruntime.preload_dlls()
        session = create_session(_trial_model(), "cuda")
        if not runs_on(session, "cuda"):
            return tr("ONNX Runtime fell back to the CPU (CUDA or cuDNN libraries of another version?)")
        session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001 - any failure means CUDA is not usable here
        return first_line(error)
    return None


def wait_without_spinning(driver: str = "libcuda.so.1") -> None:
    """Let threads that wait for the first GPU sleep; call it before anything runs there.

    By default the driver keeps a waiting thread turning on its processor, which decoder and encoder need: in
    the cloud a T4 comes with two. Where the driver refuses, everything works as before.
    """
    with suppress(OSError, AttributeError):
        cuda, device = ctypes.CDLL(driver), ctypes.c_int()
        if not (cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)):
            cuda.cuDevicePrimaryCtxSetFlags_v2(device, _BLOCKING_SYNC)


def _trial_model() -> bytes:
    """A one-convolution graph: small, but it needs cuDNN to run."""
    import onnx.parser  # slow, and on a machine without a GPU not needed at all

    text = """
    <ir_version: 10, opset_import: ["": 17]>
    trial (float[1, 1, 8, 8] x) => (float[1, 1, 6, 6] y)
    <float[1, 1, 3, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1}>
    { y = Conv(x, w) }
    """
    serialized: bytes = onnx.parser.parse_model(text).SerializeToString()
    return serialized


def is_standin(path: Path) -> bool:
    """Whether a model file is marked as one of the demo's stand-ins; reads small files only."""
    if not 0 < path.stat().st_size <= _STANDINS_UP_TO:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(STANDIN_KEY.encode()) >= 0


def models_root(models_dir: Path | None) -> Path:
    """Folder of the model files: argument, ``COLAB_HELPERS_MODELS``, or the user's cache."""
    named = models_dir or os.environ.get("COLAB_HELPERS_MODELS")
    return absolute(named or Path.home() / ".cache" / "colab_helpers" / "models")
