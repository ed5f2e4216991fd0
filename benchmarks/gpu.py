"""What the networks do on this machine's GPU: one call, eight minutes at most, JSON and a table.

    python -m benchmarks.gpu --out results/t4
    python -m benchmarks.gpu --out /tmp/dry --cpu-dry-run

Networks of the real layer shapes with random weights are written, so no weights are needed. Measured are:
that CUDA really runs; milliseconds per sample at each batch size, with float32, TensorFloat-32 and float16,
and with cuDNN's quick and thorough search; what a change of shape costs; IO binding and CUDA graphs against
plain calls; how far CPU and GPU lie apart; memory against the pool's guess; a pool that is too small; frames
per second from file to file. ``gpu.json`` is written after each part, so that nothing is lost when one hangs.
The dry run does all of it with tiny networks on the CPU and says "not available" where only a GPU has
something to show.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from benchmarks.graphs import write_constant_models
from benchmarks.realshapes import gfpgan, inswapper, iresnet50, scrfd_10g
from benchmarks.throughput import CONSENT, FACE, HEIGHT, WIDTH, make_clip
from colab_helpers.diagnosis.networks import Role, difference, sample_inputs
from colab_helpers.machine import this_machine
from colab_helpers.models.conversions import FOLDER
from colab_helpers.models.convert import NEARLY_SAME, SAME, compare, prepared, value_range
from colab_helpers.models.pool import SessionPool
from colab_helpers.models.session import (
    BATCH_BUCKETS,
    Network,
    Provider,
    Runtime,
    create_session,
    cuda_problem,
    runs_on,
    tensorrt_problem,
)
from colab_helpers.resources.sampler import gpu_memory
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
        path = self.files[role]["float16" if precision == "float16" else "float32"]
        options = {"use_tf32": "0" if precision == "float32" else "1", **cuda}
        session = create_session(str(path), provider, cuda=options)
        if not runs_on(session, provider):
            raise RuntimeError(f"{path.name} was to run on {provider}, but got {session.get_providers()}")
        return Network(
            name=role,
            path=path,
            session=session,
            provider=provider,
            standin=False,
            input_names=tuple(item.name for item in session.get_inputs()),
            output_names=tuple(item.name for item in session.get_outputs()),
        )

    def precisions(self, role: Role) -> list[str]:
        """What there is to compare; TensorFloat-32 only on a GPU."""
        half = ["float16"] if "float16" in self.files[role] else []
        return ["float32", *(["tf32"] if self.on_gpu else []), *half]

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
    if small:
        write_constant_models(root, box=(200, 60, 440, 300))
        made = {"swapper": inswapper(width=32), "enhancer": gfpgan(width=8, size=32)}
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
    return [_binding(bench, role) for role in CHANGERS]


def _binding(bench: Bench, role: Role) -> Row:
    network = bench.network(role, "tf32", bench.plan.provider)
    inputs = bench.inputs(role, network, bench.plan.buckets[-1])

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
        "batch": len(inputs[0]),
        "plain_ms": milliseconds(plain, bench.plan.seconds),
        "bound_ms": milliseconds(bound, bench.plan.seconds),
        "apart": float(np.abs(plain()[0] - bound()).max()),
    }


def graphs(bench: Bench) -> list[Row] | str:
    """Plain calls against a captured CUDA graph, copies to and from the device included in both."""
    if not bench.on_gpu:
        return NOT_AVAILABLE
    return [_graph(bench, role, batch) for role in CHANGERS for batch in (1, bench.plan.buckets[-1])]


def _graph(bench: Bench, role: Role, batch: int) -> Row:
    plain = bench.network(role, "tf32", "cuda")
    inputs = bench.inputs(role, plain, batch)
    expected = plain.run(*inputs)[0]
    row: Row = {"network": role, "batch": batch}
    row["plain_ms"] = milliseconds(partial(plain.run, *inputs), bench.plan.seconds)
    try:
        session = bench.network(role, "tf32", "cuda", enable_cuda_graph="1").session
        io, value = session.io_binding(), onnxruntime.OrtValue
        held = [value.ortvalue_from_numpy(array, "cuda", 0) for array in inputs]
        result = value.ortvalue_from_shape_and_type(list(expected.shape), np.float32, "cuda", 0)
        for name, item in zip(plain.input_names, held, strict=True):
            io.bind_ortvalue_input(name, item)
        io.bind_ortvalue_output(plain.output_names[0], result)

        def replay() -> Any:
            for item, array in zip(held, inputs, strict=True):
                item.update_inplace(array)
            session.run_with_iobinding(io)
            return result.numpy()

        row["graph_ms"] = milliseconds(replay, bench.plan.seconds)
        row["apart"] = float(np.abs(replay() - expected).max())
    except Exception as error:  # noqa: BLE001 - what cannot be captured is the finding
        row["graph_ms"] = f"{NOT_AVAILABLE}: {str(error).splitlines()[0]}"
    return row


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
    return [_memory(bench, role, precision) for role in FILES for precision in bench.precisions(role)]


def _memory(bench: Bench, role: Role, precision: str) -> Row:
    gc.collect()
    before = _used()
    network = bench.network(role, precision, "cuda")
    loaded = _used() - before
    batch = bench.buckets(network)[-1]
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


def end_to_end(bench: Bench) -> list[Row]:
    """Frames per second of ``colab_helpers swap`` on a 1080p clip with one face, swapped and enhanced."""
    models = bench.folder / "run"
    scale = 640 / WIDTH
    left, top = (WIDTH - FACE) / 2 * scale, (HEIGHT - FACE) / 2 * scale
    write_constant_models(models, box=(left, top, left + FACE * scale, top + FACE * scale))
    for role in CHANGERS:
        (models / FILES[role]).unlink()
        (models / FILES[role]).hardlink_to(bench.folder / "models" / FILES[role])
    # What was made above counts here, too: same bytes, same times.
    shutil.copytree(bench.folder / "models" / FOLDER, models / FOLDER, copy_function=os.link)
    clip = bench.folder / "clip.mp4"
    make_clip(clip, seconds=bench.plan.clip)
    cv2.imwrite(str(bench.folder / "source.png"), np.full((512, 512, 3), 128, np.uint8))
    return [_run(bench, clip, models, half) for half in (("false", "auto") if bench.on_gpu else ("auto",))]


def _run(bench: Bench, clip: Path, models: Path, half: str) -> Row:
    report = bench.folder / "report.json"
    command = [
        *(sys.executable, "-m", "colab_helpers", "swap", "-s", str(bench.folder / "source.png")),
        *("-t", str(clip), "-o", str(bench.folder / "out.mp4"), "--models-dir", str(models)),
        *("--consent", CONSENT, "--report", str(report), "--half-precision", half),
        *("--execution-provider", bench.plan.provider),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the swap ended with {done.returncode}: {done.stderr[-500:]}")
    said = json.loads(report.read_text())
    (file,) = said["files"]
    return {
        "half_precision": half,
        "frames": file["frames_out"],
        "fps": file["frames_out"] / file["seconds"],
        "faces": file["faces_swapped"],
        "encoder": file["encoder"],
        "provider": file["provider"],
        "files": [Path(model["path"]).name for model in said["models"]],
        "notes": said["notes"],
    }


# --- the whole ----------------------------------------------------------------------------------------


def run(out: Path, plan: Plan, *, small: bool) -> dict[str, Any]:
    """Measure everything and write ``gpu.json`` and ``gpu.md``; a part that fails is told and skipped."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(plan, Path(name))
        parts: dict[str, Callable[[], Any]] = {
            "machine": partial(machine, bench),
            "networks": partial(write_networks, bench, small=small),
            "difference": partial(apart, bench),
            "memory": partial(memory, bench),
            "end_to_end": partial(end_to_end, bench),
            "binding": partial(binding, bench),
            "graphs": partial(graphs, bench),
            "pool": partial(tight_pool, bench),
            "speed": partial(speed, bench),  # the longest comes last: it stops in time by itself
        }
        for part, measure in parts.items():
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
    options = parser.parse_args(words)
    until = time.monotonic() + 60 * options.minutes
    if options.cpu_dry_run:
        plan = Plan("cpu", (1, 2), seconds=0.0, clip=0.25, until=until)
    else:
        plan = Plan("cuda", BATCH_BUCKETS, seconds=0.4, clip=10.0, until=until)
    found = run(options.out, plan, small=options.cpu_dry_run)
    failed = [part for part, value in found.items() if str(value).startswith(("failed", "out of time"))]
    print(f"{options.out / 'gpu.md'}{'; not measured: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
