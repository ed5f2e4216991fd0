"""The only place that creates ONNX Runtime sessions.

A runtime decides once where networks run. CUDA counts only when a session was created on it and has
run: the list of available providers names CUDA on machines without a GPU, and ONNX Runtime falls back
to the CPU without a word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

from colab_helpers.errors import ModelError, OutOfMemoryError, ProviderError
from colab_helpers.machine import Machine, this_machine
from colab_helpers.models.pool import SessionPool, is_out_of_memory

Provider = Literal["cuda", "cpu"]
_PROVIDER_NAMES: dict[Provider, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
STANDIN_KEY = "colab_helpers.standin"
"""Key in a model's metadata that marks a stand-in, so that no report mistakes it for the real network."""

# Sizes a batch is padded to where the network takes any: few distinct shapes, so that cuDNN tunes once.
BATCH_BUCKETS = (1, 2, 4, 8, 16)


@dataclass
class BatchLimit:
    """How many samples a network is given at once; lowered when memory runs out, never raised again.

    Attributes:
        largest: The largest batch that may still be tried.
        notes: What was lowered, one sentence each.
    """

    largest: int = BATCH_BUCKETS[-1]
    notes: list[str] = field(default_factory=list)

    def lower(self, name: str, failed: int) -> bool:
        """Halve a batch that did not fit; False if it was a single sample already."""
        if failed == 1:
            return False
        if failed <= self.largest:  # else another thread has lowered it in the meantime
            self.largest = failed // 2
            self.notes.append(f"{name}: memory ran out with {failed} at once; going on with {self.largest}")
        return True


@dataclass(frozen=True)
class Network:
    """One loaded network.

    Attributes:
        name: File stem, for messages.
        session: The ONNX Runtime session.
        provider: Where it really runs.
        standin: Whether the file is marked as one of the demo's stand-ins.
        limit: How many samples at once memory allows.
    """

    name: str
    path: Path
    session: Any
    provider: Provider
    standin: bool
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    limit: BatchLimit = field(default_factory=BatchLimit, compare=False)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size the first input insists on, or None if it takes any."""
        first = self.session.get_inputs()[0].shape[0]
        return first if isinstance(first, int) else None

    def run(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Run on inputs given in the graph's own order."""
        feed = dict(zip(self.input_names, inputs, strict=True))
        outputs: list[npt.NDArray[Any]] = self.session.run(list(self.output_names), feed)
        return outputs

    def run_stack(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run any number of samples and return the first output for each.

        Args:
            *inputs: Arrays whose first axis counts samples; all equally long.

        Returns:
            The first output, one row per sample. Stacks are cut and padded to the batch the graph
            insists on, or to one of ``BATCH_BUCKETS``; padding repeats the last sample. Where memory runs
            out, the same samples are tried again in halves, and ``limit`` keeps to that.

        Raises:
            OutOfMemoryError: A single sample does not fit.
        """
        total = len(inputs[0])
        parts, start = [], 0
        while start < total:
            bucket = self.fixed_batch or _bucket(min(total - start, self.limit.largest))
            count = min(bucket, total - start)
            stack = [_padded(value[start : start + count], bucket) for value in inputs]
            try:
                parts.append(self.run(*stack)[0][:count])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.fixed_batch or not self.limit.lower(self.name, bucket):
                    raise _out_of_memory(self, bucket) from error
            else:
                start += count
        return np.concatenate(parts)


def _out_of_memory(network: Network, batch: int) -> OutOfMemoryError:
    place = "GPU memory" if network.provider == "cuda" else "memory"
    return OutOfMemoryError(
        f"{place} ran out with a batch of {batch}",
        where=network.name,
        remedy="close other programs that use it, lower execution_threads, or choose a lighter preset",
    )


def _bucket(count: int) -> int:
    return next((size for size in BATCH_BUCKETS if size >= count), BATCH_BUCKETS[-1])


def _padded(samples: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    missing = size - len(samples)
    return np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)]) if missing else samples


@dataclass
class Runtime:
    """Where networks run in this process, decided by trial.

    Args:
        wanted: ``auto`` takes CUDA where it works, ``cuda`` insists, ``cpu`` never asks.
        threads: CPU threads of one network call; by default every core.
        pool: Where sessions are kept; without one they stay loaded as long as their network lives.
    """

    wanted: Literal["auto", "cuda", "cpu"] = "auto"
    threads: int = 0
    pool: SessionPool | None = None
    notes: list[str] = field(default_factory=list)
    provider: Provider = field(init=False)

    def __post_init__(self) -> None:
        self.provider = self._decide(this_machine())

    def open(self, path: Path) -> Network:
        """Load a network.

        Raises:
            ModelError: The file is missing or not a network ONNX Runtime can load.
            ProviderError: It was to run on CUDA but does not.
        """
        if not path.is_file():
            raise ModelError("the model file is missing", where=str(path), remedy=MISSING_MODEL_REMEDY)
        session = self.pool.session(path, lambda: self._create(path)) if self.pool else self._create(path)
        metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
        return Network(
            name=path.stem,
            path=path,
            session=session,
            provider=self.provider,
            standin=metadata.get(STANDIN_KEY) == "true",
            input_names=tuple(item.name for item in session.get_inputs()),
            output_names=tuple(item.name for item in session.get_outputs()),
        )

    def _create(self, path: Path) -> Any:
        try:
            session = create_session(str(path), self.provider, threads=self.threads)
        except Exception as error:
            if self.pool and is_out_of_memory(error):
                raise  # the pool makes room and tries again
            raise ModelError(
                f"ONNX Runtime cannot load the model ({_first_line(error)})",
                where=str(path),
                remedy="the file may be damaged: fetch it again",
            ) from error
        if not runs_on(session, self.provider):
            raise ProviderError(
                "the model was to run on CUDA, but ONNX Runtime put it on the CPU",
                where=path.name,
                remedy=_CUDA_REMEDY,
            )
        return session

    def _decide(self, machine: Machine) -> Provider:
        if self.wanted == "cpu":
            return "cpu"
        reason = cuda_problem(machine)
        if reason is None:
            return "cuda"
        if self.wanted == "cuda":
            raise ProviderError(f"CUDA was asked for but does not work: {reason}", remedy=_CUDA_REMEDY)
        if machine.gpu is not None:
            self.notes.append(f"networks run on the CPU although there is a GPU: {reason}")
        return "cpu"


MISSING_MODEL_REMEDY = (
    "fetch the models with 'python -m colab_helpers preload --accept-licences' (it shows the licences "
    "first without that option), put the file there yourself, or name another folder with --models-dir or "
    "COLAB_HELPERS_MODELS; the demo brings its own stand-in models"
)
_CUDA_REMEDY = (
    "check the GPU with 'nvidia-smi' and the installation with 'python -m colab_helpers doctor', "
    "or set execution_provider to auto or cpu"
)


def create_session(model: str | bytes, provider: Provider, *, threads: int = 0) -> Any:
    """Create an ONNX Runtime session on one provider, with the CPU behind it for unsupported nodes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings speak of the unused emap initializer on every load
    options.intra_op_num_threads = threads or this_machine().cpus
    # Idle threads would otherwise spin, on cores that decoder and encoder need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [_PROVIDER_NAMES["cpu"]]
    if provider == "cuda":
        # Growing by exactly what is asked keeps VRAM predictable; the default doubles each time.
        cuda = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, (_PROVIDER_NAMES["cuda"], cuda))
    return onnxruntime.InferenceSession(model, options, providers=providers)


def runs_on(session: Any, provider: Provider) -> bool:
    """Whether a session's first provider is the wanted one."""
    active: Sequence[str] = session.get_providers()
    return bool(active) and active[0] == _PROVIDER_NAMES[provider]


def cuda_problem(machine: Machine) -> str | None:
    """Why CUDA cannot be used, or None if a small network was created and run on it."""
    if machine.gpu is None:
        return "no NVIDIA GPU is visible"
    if _PROVIDER_NAMES["cuda"] not in onnxruntime.get_available_providers():
        return "the installed onnxruntime is the CPU build; install onnxruntime-gpu"
    try:
        # Loads CUDA and cuDNN from the wheels beside us where the system has none.
        onnxruntime.preload_dlls()
        session = create_session(_trial_model(), "cuda")
        if not runs_on(session, "cuda"):
            return "ONNX Runtime fell back to the CPU (CUDA or cuDNN libraries of another version?)"
        session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001 - any failure means CUDA is not usable here
        return _first_line(error)
    return None


def _trial_model() -> bytes:
    """A one-convolution graph: small, but it needs cuDNN to run."""
    import onnx  # slow, and on a machine without a GPU not needed at all

    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "trial",
        [shape("x", onnx.TensorProto.FLOAT, [1, 1, 8, 8])],
        [shape("y", onnx.TensorProto.FLOAT, [1, 1, 6, 6])],
        [weight],
    )
    # The runtime lags behind onnx's newest IR version.
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 17)])
    serialized: bytes = model.SerializeToString()
    return serialized


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def models_root(models_dir: Path | None) -> Path:
    """Folder of the model files: argument, ``COLAB_HELPERS_MODELS``, or the user's cache."""
    if models_dir is not None:
        return Path(models_dir)
    return Path(os.environ.get("COLAB_HELPERS_MODELS") or Path.home() / ".cache" / "colab_helpers" / "models")
