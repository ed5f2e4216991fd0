"""What the networks do on this machine's GPU: one call, eight minutes at most, JSON and a table.

    python -m benchmarks.gpu --out results/t4
    python -m benchmarks.gpu --out /tmp/dry --cpu-dry-run

Networks of the real layer shapes with random weights are written, so no weights are needed. Measured are:
that CUDA really runs, and what the doctor says of it; the demo swapped on the CPU and on the GPU, picture by
picture; frames per second from file to file, with all processors and with two; memory that runs out; how far
CPU and GPU lie apart; memory against the pool's guess; a pool that is too small; IO binding and CUDA graphs
against plain calls; stacks of changing size, padded, cut and as they are; milliseconds per sample at each
batch size, with float32, TensorFloat-32 and float16, and with cuDNN's quick and thorough search. ``gpu.json``
is written after each part, so that nothing is lost when one hangs. The dry run does all of it with tiny
networks on the CPU and says "not available" where only a GPU has something to show.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from benchmarks.graphs import detector_answers, write_constant_models
from benchmarks.realshapes import answering, gfpgan, inswapper, iresnet50, scrfd_10g
from benchmarks.throughput import CONSENT, FACE, HEIGHT, WIDTH, make_clip
from colab_helpers.diagnosis.networks import Role, difference, sample_inputs
from colab_helpers.machine import this_machine
from colab_helpers.models import session
from colab_helpers.models.conversions import FOLDER
from colab_helpers.models.convert import NEARLY_SAME, SAME, compare, prepared, value_range
from colab_helpers.models.pool import SessionPool, is_out_of_memory
from colab_helpers.models.session import (
    BatchLimit,
    Network,
    Provider,
    Runtime,
    Usage,
    create_session,
    cuda_problem,
    runs_on,
    tensorrt_problem,
)
from colab_helpers.resources.bottleneck import bottleneck
from colab_helpers.resources.sampler import gpu_memory
from colab_helpers.resources.samples import SAMPLES_NAME, read_samples
from colab_helpers.settings import load_settings

NOT_AVAILABLE = "not available"
SEARCHES = ("HEURISTIC", "EXHAUSTIVE")
FILES: Mapping[Role, str] = {
    "detector": "buffalo_l/det_10g.onnx",
    "recogniser": "buffalo_l/w600k_r50.onnx",
    "swapper": "inswapper_128.onnx",
    "enhancer": "GFPGANv1.4.onnx",
}
CHANGERS: tuple[Role, ...] = ("swapper", "enhancer")
BATCHES = (1, 2, 4, 8, 16)
COUNTS = (5, 5, 3, 5, 7, 5, 1, 6, 5, 2)
"""Faces in the stacks of a run, one after the other: five frames each, now and then with other people."""
# Where a run may be short of something: precision, processors (0 for all), and settings.
_LIGHT_ENCODER = ("--output-video-encoder", "libx264", "--output-video-preset", "ultrafast")
RUNS: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    ("auto", 0, ()),
    ("false", 0, ()),
    ("auto", 0, ("--frame-processors", "face_swapper")),
    ("auto", 2, ()),
    ("auto", 2, _LIGHT_ENCODER),
    ("auto", 2, (*_LIGHT_ENCODER, "--cuda-graphs", "false")),
)
WAITERS = 8
"""Threads that call networks at the same time, as in a run."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How thorough to be.

    Attributes:
        provider: Where networks run.
        buckets: Batch sizes.
        seconds: For one timing, at most; never less than three runs.
        clip: Seconds of the clip.
        until: When to stop beginning new parts, by ``time.monotonic``.
    """

    provider: Provider
    buckets: Sequence[int]
    seconds: float
    clip: float
    until: float


@dataclass
class Bench:
    """Networks to measure and what was found.

    Attributes:
        files: By role, then by precision: ``float32`` and, where one was accepted, ``float16``.
    """

    plan: Plan
    folder: Path
    files: dict[Role, dict[str, Path]] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.plan.provider == "cuda"

    def network(self, role: Role, precision: str, provider: Provider, **cuda: str) -> Network:
        """Load one; ``tf32`` is the float32 file with TensorFloat-32 allowed."""
        path = self.path(role, precision)
        options = {"use_tf32": "0" if precision == "float32" else "1", **cuda}
        opened = create_session(str(path), provider, cuda=options)
        if not runs_on(opened, provider):
            raise RuntimeError(f"{path.name} was to run on {provider}, but got {opened.get_providers()}")
        return Network(
            name=role,
            path=path,
            session=opened,
            provider=provider,
            standin=False,
            input_names=tuple(item.name for item in opened.get_inputs()),
            output_names=tuple(item.name for item in opened.get_outputs()),
            limit=BatchLimit(BATCHES[-1]),
        )

    def path(self, role: Role, precision: str) -> Path:
        """Its file."""
        return self.files[role]["float16" if precision == "float16" else "float32"]

    def precisions(self, role: Role) -> list[str]:
        """What there is to compare; TensorFloat-32 only on a GPU."""
        half = ["float16"] if "float16" in self.files[role] else []
        return ["float32", *(["tf32"] if self.on_gpu else []), *half]

    def best(self, role: Role) -> str:
        """The precision that a run uses here."""
        return self.precisions(role)[-1]

    def buckets(self, network: Network) -> Sequence[int]:
        """Batch sizes a network can take."""
        return self.plan.buckets if network.fixed_batch is None else (network.fixed_batch,)

    def inputs(self, role: Role, network: Network, count: int) -> list[npt.NDArray[Any]]:
        """Samples that differ: the made-up one, shifted along the width."""
        first = sample_inputs(role, network, load_settings())
        return [np.concatenate([np.roll(value, 3 * k, axis=-1) for k in range(count)]) for value in first]


def milliseconds(run: Callable[[], object], seconds: float) -> float:
    """Median time of a call after two that set things up."""
    run()
    run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


# --- the parts ----------------------------------------------------------------------------------------


def machine(bench: Bench) -> Row:
    """Where this is, and the proof that CUDA runs."""
    here = this_machine()
    problem = cuda_problem(here)
    if bench.on_gpu and problem is not None:
        raise SystemExit(f"CUDA does not run: {problem}")
    return {
        "machine": asdict(here),
        "onnxruntime": onnxruntime.__version__,
        "cuda": problem or "a network ran on it",
        "tensorrt": NOT_AVAILABLE if not bench.on_gpu else tensorrt_problem() or "a network ran through it",
    }


def write_networks(bench: Bench, *, small: bool) -> Row:
    """Write the networks, and what the product makes of swapper and enhancer here; sizes and verdicts."""
    root = bench.folder / "models"
    if (root / FILES["enhancer"]).exists():  # of an earlier call
        made = {}
    elif small:
        write_constant_models(root, box=(200, 60, 440, 300))
        made = {"swapper": inswapper(width=16), "enhancer": gfpgan(width=8, size=32)}
    else:
        (root / "buffalo_l").mkdir(parents=True, exist_ok=True)
        made = {
            "detector": scrfd_10g(),
            "recogniser": iresnet50(),
            "swapper": inswapper(),
            "enhancer": gfpgan(),
        }
    for role, name in FILES.items():
        if role in made:
            onnx.save(made.pop(role), root / name)
        bench.files[role] = {"float32": root / name}
    rows: Row = {role: {"bytes": files["float32"].stat().st_size} for role, files in bench.files.items()}
    runtime = Runtime(bench.plan.provider)
    for role in CHANGERS:
        started = time.monotonic()
        plain = prepared(root / FILES[role], batch=True, half=False, runtime=runtime)
        half = prepared(root / FILES[role], batch=True, half=True, runtime=runtime)
        bench.files[role] = {"float32": plain.path} | ({"float16": half.path} if half.half else {})
        rows[role] |= {"seconds": time.monotonic() - started, "notes": list(half.notes)}
        verdicts = [json.loads(record.read_text())["verdicts"] for record in half.records]
        rows[role]["verdicts"] = [list(found.values())[-1] for found in verdicts]
    return rows


def speed(bench: Bench) -> list[Row]:
    """Milliseconds per sample for each network, precision, search and batch size."""
    rows: list[Row] = []
    for role in FILES:
        for precision in bench.precisions(role):
            for search in SEARCHES if bench.on_gpu else SEARCHES[:1]:
                rows += _speed(bench, role, precision, search)
                gc.collect()
    return rows


def _speed(bench: Bench, role: Role, precision: str, search: str) -> list[Row]:
    if time.monotonic() > bench.plan.until:
        return [{"network": role, "precision": precision, "search": search, "batch": "out of time"}]
    network = bench.network(role, precision, bench.plan.provider, cudnn_conv_algo_search=search)
    rows: list[Row] = []
    for batch in bench.buckets(network):
        inputs = bench.inputs(role, network, batch)
        started = time.perf_counter()
        network.run(*inputs)
        first = 1000 * (time.perf_counter() - started)
        steady = milliseconds(partial(network.run, *inputs), bench.plan.seconds)
        rows.append(
            {
                "network": role,
                "precision": precision,
                "search": search if bench.on_gpu else NOT_AVAILABLE,
                "batch": batch,
                "ms_per_sample": steady / batch,
                "first_call_ms": first,
            }
        )
    _add_change_of_shape(bench, role, network, rows)
    return rows


def _add_change_of_shape(bench: Bench, role: Role, network: Network, rows: Sequence[Row]) -> None:
    """What a call costs more when the one before had another batch size, in milliseconds."""
    if len(rows) < 2:
        return
    small, large = (bench.inputs(role, network, row["batch"]) for row in rows[:2])

    def both() -> None:
        network.run(*small)
        network.run(*large)

    alternating = milliseconds(both, bench.plan.seconds)
    steady = sum(row["ms_per_sample"] * row["batch"] for row in rows[:2])
    rows[0]["change_of_shape_ms"] = (alternating - steady) / 2


def binding(bench: Bench) -> list[Row]:
    """Plain calls against IO binding from and to host memory; whether both give the same."""
    return [_binding(bench, role, batch) for role in CHANGERS for batch in (1, bench.plan.buckets[-1])]


def _binding(bench: Bench, role: Role, batch: int) -> Row:
    network = bench.network(role, bench.best(role), bench.plan.provider)
    inputs = bench.inputs(role, network, batch)

    def bound() -> Any:
        io = network.session.io_binding()
        for name, value in zip(network.input_names, inputs, strict=True):
            io.bind_cpu_input(name, value)
        io.bind_output(network.output_names[0], bench.plan.provider)
        network.session.run_with_iobinding(io)
        return io.copy_outputs_to_cpu()[0]

    plain = partial(network.run, *inputs)
    return {
        "network": role,
        "precision": bench.best(role),
        "batch": batch,
        "plain_ms": milliseconds(plain, bench.plan.seconds),
        "bound_ms": milliseconds(bound, bench.plan.seconds),
        "apart": float(np.abs(plain()[0] - bound()).max()),
    }


def waiting(bench: Bench) -> list[Row] | str:
    """Calls of all four networks from several threads, as a run makes them: wall and processor time."""
    if not bench.on_gpu:
        return NOT_AVAILABLE
    rows: list[Row] = []
    files = [str(bench.path(role, bench.best(role))) for role in FILES]
    for sleeping, captured in ((False, False), (True, False), (True, True)):
        code = f"from benchmarks.gpu import call_from_threads as c; c({files!r}, {sleeping}, {captured})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        rows.append({"sleeping": sleeping, "captured": captured} | json.loads(done.stdout))
    return rows


def call_from_threads(files: Sequence[str], sleeping: bool, captured: bool, calls: int = 200) -> None:
    """Print wall and processor milliseconds for one call of each network, averaged over many, as JSON."""
    with nullcontext() if sleeping else mock.patch.object(session, "wait_without_spinning"):
        runtime = Runtime("cuda", graphs=captured)
    settings = load_settings()
    usage = Usage(edge=settings.face_detector_size)
    networks = [runtime.open(Path(file), usage=usage) for file in files]
    inputs = [sample_inputs(role, network, settings) for role, network in zip(FILES, networks, strict=True)]

    def all_once(_: int) -> None:
        for network, values in zip(networks, inputs, strict=True):
            network.run(*values)

    all_once(0)
    all_once(0)
    wall, processor = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(WAITERS) as threads:
        list(threads.map(all_once, range(calls)))
    found = {
        "wall_ms": 1000 * (time.monotonic() - wall) / calls,
        "processor_ms": 1000 * (time.process_time() - processor) / calls,
        "replayed": [network.session.captured for network in networks],
        "vram_mb": _used() / 1e6,
        "notes": [note for network in networks for note in network.limit.notes],
    }
    print(json.dumps(found))


def options(bench: Bench) -> list[Row] | str:
    """What options of the CUDA provider change for a single sample."""
    if not bench.on_gpu:
        return NOT_AVAILABLE
    ways: dict[str, dict[str, str]] = {
        "usual": {},
        "quick search": {"cudnn_conv_algo_search": "HEURISTIC"},
        "channels last": {"prefer_nhwc": "1"},
        "bias fused": {"fuse_conv_bias": "1"},
    }
    rows: list[Row] = []
    for role in FILES:
        usual = bench.network(role, bench.best(role), "cuda")
        inputs = bench.inputs(role, usual, 1)
        expected = usual.run(*inputs)
        del usual
        rows += [_options(bench, role, way, more, inputs, expected) for way, more in ways.items()]
    return rows


def _options(
    bench: Bench,
    role: Role,
    way: str,
    more: Mapping[str, str],
    inputs: Sequence[npt.NDArray[Any]],
    expected: Sequence[npt.NDArray[Any]],
) -> Row:
    row: Row = {"network": role, "precision": bench.best(role), "way": way}
    try:
        network = bench.network(role, bench.best(role), "cuda", **more)
        row["ms"] = milliseconds(partial(network.run, *inputs), bench.plan.seconds)
        row["apart"] = difference(expected, network.run(*inputs))
    except Exception as error:  # noqa: BLE001 - what a build or a chip refuses is the finding
        row["ms"] = f"{NOT_AVAILABLE}: {_last_words(error)}"
    return row


def _last_words(error: Exception) -> str:
    """The end of an error's first line: ONNX Runtime begins with where in its sources it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][-200:]


def graphs(bench: Bench) -> list[Row] | str:
    """Plain calls against a captured CUDA graph, copies to and from the device included in both."""
    if not bench.on_gpu:
        return NOT_AVAILABLE
    return [_graph(bench, role, batch) for role in CHANGERS for batch in (1, bench.plan.buckets[-1])]


def _graph(bench: Bench, role: Role, batch: int) -> Row:
    precision = bench.best(role)
    plain = bench.network(role, precision, "cuda")
    inputs = bench.inputs(role, plain, batch)
    expected = plain.run(*inputs)[0]
    row: Row = {"network": role, "precision": precision, "batch": batch}
    row["plain_ms"] = milliseconds(partial(plain.run, *inputs), bench.plan.seconds)
    try:
        capturing = bench.network(role, precision, "cuda", enable_cuda_graph="1").session
        io, value = capturing.io_binding(), onnxruntime.OrtValue
        held = [value.ortvalue_from_numpy(array, "cuda", 0) for array in inputs]
        result = value.ortvalue_from_shape_and_type(list(expected.shape), np.float32, "cuda", 0)
        for name, item in zip(plain.input_names, held, strict=True):
            io.bind_ortvalue_input(name, item)
        io.bind_ortvalue_output(plain.output_names[0], result)

        def replay() -> Any:
            for item, array in zip(held, inputs, strict=True):
                item.update_inplace(array)
            capturing.run_with_iobinding(io)
            return result.numpy()

        row["graph_ms"] = milliseconds(replay, bench.plan.seconds)
        row["apart"] = float(np.abs(replay() - expected).max())
    except Exception as error:  # noqa: BLE001 - what cannot be captured is the finding
        row["graph_ms"] = f"{NOT_AVAILABLE}: {_last_words(error)}"
    return row


def stacks(bench: Bench) -> list[Row]:
    """Milliseconds for ``COUNTS`` samples, stack after stack, by the sizes of batches they are given in."""
    ways: dict[str, tuple[str, Callable[[int], list[int]]]] = {
        "as they are": ("HEURISTIC", lambda count: [count]),
        "padded to a bucket": ("HEURISTIC", lambda count: [_bucket(count)]),
        "cut into buckets": ("HEURISTIC", _cut),
        "cut into fours, padded": ("HEURISTIC", lambda count: [4] * -(-count // 4)),
        "one by one": ("HEURISTIC", lambda count: [1] * count),
        "one by one, thorough search": ("EXHAUSTIVE", lambda count: [1] * count),
    }
    return [_stacks(bench, role, way, *how) for role in CHANGERS for way, how in ways.items()]


def _stacks(bench: Bench, role: Role, way: str, search: str, split: Callable[[int], list[int]]) -> Row:
    network = bench.network(role, bench.best(role), bench.plan.provider, cudnn_conv_algo_search=search)
    counts = COUNTS if bench.on_gpu else COUNTS[-2:]
    sizes = [size for count in counts for size in split(count)]
    inputs = {size: bench.inputs(role, network, size) for size in sizes}
    before = _used()

    def all_stacks() -> None:
        for size in sizes:
            network.run(*inputs[size])

    return {
        "network": role,
        "precision": bench.best(role),
        "way": way,
        "samples": sum(sizes),
        "ms": milliseconds(all_stacks, bench.plan.seconds),
        "grown_mb": (_used() - before) / 1e6,
    }


def _bucket(count: int) -> int:
    return next(size for size in BATCHES if size >= count)


def _cut(count: int) -> list[int]:
    sizes: list[int] = []
    for size in reversed(BATCHES):
        sizes += [size] * (count // size)
        count %= size
    return sizes


def apart(bench: Bench) -> list[Row]:
    """How far each network on the GPU lies from float32 on the CPU (in the dry run: from itself)."""
    rows: list[Row] = []
    for role in FILES:
        reference = bench.network(role, "float32", "cpu")
        inputs = bench.inputs(role, reference, reference.fixed_batch or 2)
        expected = reference.run(*inputs)
        for precision in bench.precisions(role):
            found = bench.network(role, precision, bench.plan.provider).run(*inputs)
            row: Row = {"network": role, "precision": precision, "share": difference(expected, found)}
            if role in CHANGERS:
                limits = NEARLY_SAME if precision == "float16" else SAME
                parity = compare(expected[0], found[0], limits, value_range=value_range(reference))
                row |= {"grey_mean": parity.mean, "grey_max": parity.max}
            rows.append(row)
    return rows


def memory(bench: Bench) -> list[Row] | str:
    """VRAM each network takes when loaded and when run, against the pool's guess before it has run."""
    if not bench.on_gpu or gpu_memory() is None:
        return NOT_AVAILABLE
    ways = [(role, precision) for role in FILES for precision in bench.precisions(role)]
    return [_memory(bench, *way, batch) for way in ways for batch in (1, bench.plan.buckets[-1])]


def _memory(bench: Bench, role: Role, precision: str, batch: int) -> Row:
    gc.collect()
    before = _used()
    network = bench.network(role, precision, "cuda")
    loaded = _used() - before
    batch = network.fixed_batch or batch
    network.run(*bench.inputs(role, network, batch))
    return {
        "network": role,
        "precision": precision,
        "batch": batch,
        "loaded_mb": loaded / 1e6,
        "running_mb": (_used() - before) / 1e6,
        "guess_mb": 2 * network.path.stat().st_size / 1e6,
    }


def _used() -> int:
    found = gpu_memory()
    return 0 if found is None else found[0]


def out_of_memory(bench: Bench) -> list[Row] | str:
    """Memory that runs out, by the arena's own limit and on the device: whether that is got over."""
    if not bench.on_gpu or gpu_memory() is None:
        return NOT_AVAILABLE
    network = bench.network("enhancer", bench.best("enhancer"), "cuda")
    inputs = bench.inputs("enhancer", network, BATCHES[-1])
    before = _used()
    expected = network.run_stack(*inputs)
    grown, weights = _used() - before, network.path.stat().st_size
    del network
    gc.collect()
    rows: list[Row] = []
    with _hog(leave=0) as held:
        rows.append(_starved(bench, "nothing is free", {}, inputs, expected) | {"held_mb": held / 1e6})
    with _hog(leave=weights + grown // 2) as held:
        rows.append(_starved(bench, "half is free", {}, inputs, expected) | {"held_mb": held / 1e6})
    limit = {"gpu_mem_limit": str(weights + grown // 2)}
    return [*rows, _starved(bench, "the arena's limit", limit, inputs, expected)]


def _starved(
    bench: Bench,
    where: str,
    cuda: dict[str, str],
    inputs: list[npt.NDArray[Any]],
    expected: npt.NDArray[Any],
) -> Row:
    row: Row = {"where": where}
    try:
        network = bench.network("enhancer", bench.best("enhancer"), "cuda", **cuda)
        found = network.run_stack(*inputs)
        row |= {"notes": network.limit.notes, "apart": float(np.abs(found - expected).max())}
    except Exception as error:  # noqa: BLE001 - how it is said is the finding
        cause = error.__cause__ or error
        row |= {"recognised": is_out_of_memory(cause), "error": f"{type(error).__name__}: {cause}"[:600]}
    return row


@contextmanager
def _hog(*, leave: int) -> Iterator[int]:
    """Another program that holds all of the GPU's memory but so many bytes; gives how much it holds."""
    command = [sys.executable, "-c", f"from benchmarks.gpu import hold_all_but; hold_all_but({leave})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            yield int(other.stdout.readline() or 0)
        finally:
            other.stdin.close()
            other.wait(60)


def hold_all_but(leave: int) -> None:
    """Take the GPU's memory but so many bytes, print how much, and hold it until stdin ends."""
    problem = cuda_problem(this_machine())  # also loads the libraries
    if problem is not None:
        raise SystemExit(problem)
    held: list[Any] = []
    total = 0
    for size in (1 << 30, 1 << 28, 1 << 26, 1 << 24):
        while (now := gpu_memory()) is not None and now[1] - now[0] > size + leave:
            try:
                held.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type([size], np.uint8, "cuda", 0))
            except Exception as error:  # noqa: BLE001 - the driver keeps some for itself
                print(error, file=sys.stderr)
                break
            total += size
    print(total, flush=True)
    sys.stdin.read()


def tight_pool(bench: Bench) -> Row:
    """Swapper and enhancer in turn, with room for only the larger one."""
    files = [bench.files[role]["float32"] for role in CHANGERS]
    budget = 2 * max(path.stat().st_size for path in files)
    pool = SessionPool(budget, _used, lambda: 1 << 50)
    runtime = Runtime(bench.plan.provider, pool=pool)
    networks = [runtime.open(path, name=role) for role, path in zip(CHANGERS, files, strict=True)]
    inputs = [bench.inputs(role, net, 1) for role, net in zip(CHANGERS, networks, strict=True)]
    idle, times = _used(), []
    peak = 0
    for _ in range(3):
        for network, values in zip(networks, inputs, strict=True):
            started = time.perf_counter()
            network.run(*values)
            times.append(1000 * (time.perf_counter() - started))
            peak = max(peak, _used())
    return {
        "budget_mb": budget / 1e6,
        "peak_mb": (peak - idle) / 1e6 if bench.on_gpu else NOT_AVAILABLE,
        # Only a GPU tells what a network takes; on the CPU the meter stands at nothing, and all fits.
        "unloaded": sum("was unloaded" in note for note in pool.notes) if bench.on_gpu else NOT_AVAILABLE,
        "ms_per_call": statistics.median(times),
        "notes": sorted(set(pool.notes)),
    }


def doctor(bench: Bench) -> Row:
    """What ``colab_helpers doctor`` finds, and its exit code."""
    done = _run_helpers("doctor", "--json", "--models-dir", str(bench.folder / "models"))
    found = json.loads(done.stdout)
    checks = {check["name"]: f"{check['status']}: {check['detail']}" for check in found["checks"]}
    return {"exit code": done.returncode, **checks}


def demo(bench: Bench) -> Row:
    """The demo swapped by the stand-ins, on the CPU and where this runs: how far the pictures lie apart."""
    folder = bench.folder / "demo"
    seconds = "2" if bench.on_gpu else "0.25"
    _run_helpers("demo", str(folder), "--clips", "1", "--seconds", seconds, "--size", "640x360", check=True)
    results = {}
    for provider in dict.fromkeys(("cpu", bench.plan.provider)):
        output = folder / f"{provider}.mp4"
        _run_helpers(
            *("swap", "-s", str(folder / "source" / "alma.png"), "-t", str(folder / "targets" / "clip1.mp4")),
            *("-o", str(output), "--models-dir", str(folder / "models"), "--consent", CONSENT),
            *("--execution-provider", provider, "--half-precision", "false"),
            *("--report", str(folder / f"{provider}.json"), "--output-video-quality", "10"),
            check=True,
        )
        report = json.loads((folder / f"{provider}.json").read_text())
        results[provider] = (report["files"][0], _pictures(output))
    (on_cpu, expected), (here, found) = results["cpu"], results[bench.plan.provider]
    apart = np.abs(found.astype(np.int16) - expected)
    return {
        "frames": [on_cpu["frames_out"], here["frames_out"]],
        "faces": [on_cpu["faces_swapped"], here["faces_swapped"]],
        "similarity": [on_cpu["quality"]["similarity_mean"], here["quality"]["similarity_mean"]],
        "provider": here["provider"],
        "grey_mean": float(apart.mean()),
        "grey_p999": float(np.percentile(apart, 99.9)),
    }


def _pictures(path: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def _run_helpers(*words: str, cpus: int = 0, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``colab_helpers``, on so many processors (0 for all)."""
    start = f"import os; os.sched_setaffinity(0, range({cpus})); " if cpus else ""
    program = f"{start}from colab_helpers.__main__ import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{shlex.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done


def end_to_end(bench: Bench) -> list[Row]:
    """Frames per second of ``colab_helpers batch``: twice a 1080p clip with one face, swapped and enhanced.

    The detector has the real one's layers, too, but always gives the same answer: one face.
    """
    models = bench.folder / "run"
    shutil.rmtree(models, ignore_errors=True)
    scale = 640 / WIDTH
    left, top = (WIDTH - FACE) / 2 * scale, (HEIGHT - FACE) / 2 * scale
    box = (left, top, left + FACE * scale, top + FACE * scale)
    write_constant_models(models, box=box)
    for role in CHANGERS:
        (models / FILES[role]).unlink()
        (models / FILES[role]).hardlink_to(bench.folder / "models" / FILES[role])
    if bench.on_gpu:
        onnx.save(answering(scrfd_10g(), detector_answers(box, 640)), models / FILES["detector"])
    # What was made above counts here, too: same bytes, same times.
    shutil.copytree(bench.folder / "models" / FOLDER, models / FOLDER, copy_function=os.link)
    clips = [bench.folder / "targets" / f"{number}.mp4" for number in (1, 2)]
    shutil.rmtree(clips[0].parent, ignore_errors=True)
    clips[0].parent.mkdir()
    make_clip(clips[0], seconds=bench.plan.clip)
    clips[1].hardlink_to(clips[0])
    cv2.imwrite(str(bench.folder / "source.png"), np.full((512, 512, 3), 128, np.uint8))
    rows: list[Row] = []
    for half, cpus, more in RUNS if bench.on_gpu else RUNS[:1]:
        if time.monotonic() < bench.plan.until:
            rows.append(_run(bench, half, cpus, more))
    return rows


def _run(bench: Bench, half: str, cpus: int, more: Sequence[str]) -> Row:
    results = bench.folder / "results"
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    _run_helpers(
        *("batch", "-s", str(bench.folder / "source.png"), "-t", str(bench.folder / "targets")),
        *("-o", str(results), "--models-dir", str(bench.folder / "run"), "--consent", CONSENT),
        *("--half-precision", half, "--execution-provider", bench.plan.provider, *more),
        cpus=cpus,
        check=True,
    )
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = json.loads((results / "report.json").read_text())
    samples = read_samples(results / SAMPLES_NAME)
    shutil.rmtree(results)
    gpus = [sample.gpu for sample in samples if sample.gpu]
    return {
        "half_precision": half,
        "cpus": cpus or this_machine().cpus,
        "settings": shlex.join(more),
        "frames": [file["frames_out"] for file in said["files"]],
        "faces": [file["faces_swapped"] for file in said["files"]],
        "fps": [round(file["frames_out"] / file["seconds"], 1) for file in said["files"]],
        "seconds": seconds,
        "processor_seconds": processor,
        "encoder": said["files"][0]["encoder"],
        "provider": said["files"][0]["provider"],
        "files": [Path(model["path"]).name for model in said["models"]],
        "vram_mb": max((gpu.memory_used or 0 for gpu in gpus), default=0) / 1e6 or NOT_AVAILABLE,
        "memory_mb": max((sample.process_memory or 0 for sample in samples), default=0) / 1e6,
        "limit": bottleneck(samples[:-1]),
        "notes": [
            note for notes in (said["notes"], *(f["fallbacks"] for f in said["files"])) for note in notes
        ],
    }


# --- the whole ----------------------------------------------------------------------------------------


def run(
    out: Path, plan: Plan, *, small: bool, work: Path | None = None, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure and write ``gpu.json`` and ``gpu.md``; a part that fails is told, and the others go on.

    Args:
        out: Folder for the two files.
        plan: How thorough to be.
        small: Use tiny networks.
        work: Keep the networks there, for a later call; by default they are removed at the end.
        only: Names of the parts wanted; all of them by default.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(plan, work or Path(name))
        parts: dict[str, Callable[[], Any]] = {
            "machine": partial(machine, bench),
            "networks": partial(write_networks, bench, small=small),
            "end_to_end": partial(end_to_end, bench),
            "waiting": partial(waiting, bench),
            "options": partial(options, bench),
            "doctor": partial(doctor, bench),
            "demo": partial(demo, bench),
            "out_of_memory": partial(out_of_memory, bench),
            "difference": partial(apart, bench),
            "stacks": partial(stacks, bench),
            "memory": partial(memory, bench),
            "pool": partial(tight_pool, bench),
            "graphs": partial(graphs, bench),
            "binding": partial(binding, bench),
            "speed": partial(speed, bench),  # the longest comes last: it stops in time by itself
        }
        for part, measure in parts.items():
            if only and part not in (*only, "machine", "networks"):
                continue
            started = time.monotonic()
            print(f"{part} …", flush=True)
            try:
                found[part] = measure() if started < plan.until else "out of time"
            except Exception as error:  # noqa: BLE001 - the other parts are still worth having
                found[part] = f"failed: {type(error).__name__}: {error}"
            found.setdefault("seconds", {})[part] = time.monotonic() - started
            gc.collect()
            (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (out / "gpu.md").write_text(markdown(found), encoding="utf-8")
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """Every part as a heading and a table."""
    return "\n".join(f"## {part}\n\n{_table(value)}\n" for part, value in found.items())


def _table(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [{"": key, "value": item} for key, item in value.items()]
    if not isinstance(value, list) or not value:
        return str(value)
    columns = list(dict.fromkeys(key for row in value for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(
        [*lines, *("| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |" for row in value)]
    )


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--cpu-dry-run", action="store_true", help="tiny networks, few repeats, on the CPU")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin nothing new after this time")
    parser.add_argument(
        "--work", type=Path, help="keep the networks in this folder, and take them from there"
    )
    parser.add_argument("--only", default="", help="measure these parts, such as demo,graphs")
    options = parser.parse_args(words)
    until = time.monotonic() + 60 * options.minutes
    if options.cpu_dry_run:
        plan = Plan("cpu", (1, 2), seconds=0.0, clip=0.25, until=until)
    else:
        plan = Plan("cuda", BATCHES, seconds=0.4, clip=10.0, until=until)
    only = tuple(filter(None, options.only.split(",")))
    found = run(options.out, plan, small=options.cpu_dry_run, work=options.work, only=only)
    failed = [part for part, value in found.items() if str(value).startswith(("failed", "out of time"))]
    print(f"{options.out / 'gpu.md'}{'; not measured: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
