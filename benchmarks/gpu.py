"""Measure the networks on this machine's GPU, in at most eight minutes.

    python -m benchmarks.gpu --out results/t4
    python -m benchmarks.gpu --out /tmp/dry --cpu-dry-run

Writes networks with the real layer shapes and random weights, so no weights are needed; ``--networks-only``
stops after that, for ``colab_helpers bench --models-dir``. Measures whether CUDA runs, and what ``doctor``
says; the cost of decoding on the GPU; the demo swapped on CPU and GPU, compared frame by frame; and the
figures of ``bench``. ``gpu.json`` is written after each part, so that nothing is lost if one hangs. The dry
run does all of this with tiny networks on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from av.codec.hwaccel import HWAccel
from onnx import helper, numpy_helper

from benchmarks.gpu_resident import resident
from benchmarks.real_shapes import gfpgan, inswapper, iresnet50, scrfd_10g
from colab_helpers.diagnosis.bench import CONSENT
from colab_helpers.diagnosis.bench_clip import make_clip
from colab_helpers.diagnosis.bench_networks import FACE, detector_outputs, write_constant_models
from colab_helpers.faces.path_choice import try_path
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.machine import this_machine
from colab_helpers.models.catalog import Role
from colab_helpers.models.cuda_graphs import GpuSession
from colab_helpers.models.model_conversion import convert
from colab_helpers.models.parity import sample_inputs
from colab_helpers.models.session import STANDIN_KEY, Network, Provider, Runtime, cuda_problem
from tests.people.clip import make_demo

FILES: Mapping[Role, str] = {
    "detector": "buffalo_l/det_10g.onnx",
    "recogniser": "buffalo_l/w600k_r50.onnx",
    "swapper": "inswapper_128.onnx",
    "enhancer": "GFPGANv1.4.onnx",
}
CHANGERS: tuple[Role, ...] = ("swapper", "enhancer")
# CPU cores (0 for all) and settings, on top of libx264 ultrafast: each run has another bottleneck.
RUNS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ()),
    (2, ()),
    (2, ("cuda_graphs=false",)),
    (0, ("half_precision=false",)),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Work folder, execution provider, and the deadline (``time.monotonic``) for starting another part."""

    folder: Path
    provider: Provider
    deadline: float

    @property
    def on_gpu(self) -> bool:
        """Whether to measure at full size; otherwise networks and clips are tiny."""
        return self.provider == "cuda"


def machine(bench: Bench) -> Row:
    """Describe the machine; raise SystemExit if CUDA does not run."""
    info = this_machine()
    problem = cuda_problem(info)
    if bench.on_gpu and problem is not None:
        raise SystemExit(f"CUDA does not run: {problem}")
    return {
        "machine": asdict(info),
        "onnxruntime": onnxruntime.__version__,
        "cuda": problem or "a network ran on it",
    }


def with_constant_outputs(
    model: onnx.ModelProto, values: Mapping[str, npt.NDArray[np.float32]]
) -> onnx.ModelProto:
    """Make a network return constant outputs at unchanged cost; modifies the model in place.

    A detector with random weights finds faces anywhere; with this one, a run swaps the same face every time.
    """
    graph = model.graph
    for node in graph.node:
        for number, name in enumerate(node.output):
            if name in values:
                node.output[number] = f"{name}_computed"
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    for name, value in values.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{name}_answer"))
        graph.node.append(helper.make_node("Mul", [f"{name}_computed", "nothing"], [f"{name}_nothing"]))
        graph.node.append(helper.make_node("Add", [f"{name}_nothing", f"{name}_answer"], [name]))
    return model


def write_networks(root: Path, *, real: bool) -> None:
    """Write networks with the real layer shapes, or tiny ones, for ``colab_helpers bench --models-dir``.

    The detector always finds one face in the middle.
    """
    centre, half = np.array([320.0, 180.0]), FACE * 180
    box = [*(centre - half), *(centre + half)]
    write_constant_models(root, box=box)
    models: dict[Role, onnx.ModelProto] = {}
    if real:
        models["detector"] = with_constant_outputs(scrfd_10g(), detector_outputs(box, 640))
        models["detector"].metadata_props.add(key=STANDIN_KEY, value="true")
        models |= {"recogniser": iresnet50(), "swapper": inswapper(), "enhancer": gfpgan()}
    else:
        models |= {"swapper": inswapper(width=16), "enhancer": gfpgan(width=8, size=32)}
    for role in tuple(models):
        onnx.save(models.pop(role), root / FILES[role])


def networks(bench: Bench) -> Row:
    """Write the networks and convert swapper and enhancer to float16; return sizes, times and notes."""
    root = bench.folder / "models"
    write_networks(root, real=bench.on_gpu)
    rows: Row = {role: {"bytes": (root / name).stat().st_size} for role, name in FILES.items()}
    runtime = Runtime(bench.provider)
    for role in CHANGERS:
        started = time.monotonic()
        half = convert(root / FILES[role], half=True, runtime=runtime)
        seconds = time.monotonic() - started
        rows[role] |= {"seconds": seconds, "notes": list(half.notes), "used": half.path.name}
    return rows


def pixels(bench: Bench) -> Row:
    """Compare sampling and blending by OpenCV with the network's device, with and without CUDA graphs."""
    rows: Row = {}
    for role in CHANGERS:
        for graphs in (True, False):
            runtime = Runtime(bench.provider, graphs=graphs)
            network = runtime.open(bench.folder / "models" / FILES[role])
            if not bench.on_gpu:  # CPU sessions have no bound buffers
                network = replace(network, session=_with_buffers(network))
            path = PixelPath(Swapper(network) if role == "swapper" else Enhancer(network), runtime)
            key = f"{role}{', captured' if graphs else ''}"
            try:
                path.prepare(capture=graphs)
                rows[key] = try_path(path).model_dump()
            except Exception as error:  # noqa: BLE001 - without a CUDA graph it may still run
                rows[key] = f"failed: {error}"
    return rows


def _with_buffers(network: Network) -> GpuSession:
    example = partial(sample_inputs, name=network.name)
    return GpuSession(
        lambda _: network.session, example=example, capture=False, on_problem=print, device="cpu"
    )


def doctor(bench: Bench) -> Row:
    """Return the checks of ``colab_helpers doctor``, and its exit code."""
    done = _run_helpers("doctor", "--json", "--models-dir", str(bench.folder / "models"))
    report = json.loads(done.stdout)
    checks = {check["name"]: f"{check['status']}: {check['detail']}" for check in report["checks"]}
    return {"exit code": done.returncode, **checks}


def demo(bench: Bench) -> Row:
    """Swap the demo with the stand-ins on the CPU and on the measured device; compare the outputs."""
    folder = bench.folder / "demo"
    seconds = 2.0 if bench.on_gpu else 0.25
    make_demo(folder, clips=1, seconds=seconds, size=(640, 360), true_swaps=False)
    results = {}
    for provider in dict.fromkeys(("cpu", bench.provider)):
        output = folder / f"{provider}.mp4"
        _run_helpers(
            *("swap", "-s", str(folder / "source" / "alma.png"), "-t", str(folder / "targets" / "clip1.mp4")),
            *("-o", str(output), "--models-dir", str(folder / "models"), "--consent", CONSENT),
            *("--execution-provider", provider, "--half-precision", "false"),
            *("--report", str(folder / f"{provider}.json"), "--output-video-quality", "10"),
            check=True,
        )
        report = json.loads((folder / f"{provider}.json").read_text())
        results[provider] = (report["files"][0], _grey_frames(output))
    (on_cpu, expected), (on_device, actual) = results["cpu"], results[bench.provider]
    difference = np.abs(actual.astype(np.int16) - expected)
    return {
        "frames": [on_cpu["frames_out"], on_device["frames_out"]],
        "faces": [on_cpu["faces_swapped"], on_device["faces_swapped"]],
        "similarity": [on_cpu["quality"]["similarity_mean"], on_device["quality"]["similarity_mean"]],
        "provider": on_device["provider"],
        "grey_mean": float(difference.mean()),
        "grey_p999": float(np.percentile(difference, 99.9)),
    }


def _grey_frames(path: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def _run_helpers(*args: str, cpus: int = 0, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run ``colab_helpers`` on a number of CPU cores (0 for all)."""
    affinity = f"import os; os.sched_setaffinity(0, range({cpus})); " if cpus else ""
    program = f"{affinity}from colab_helpers.__main__ import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{shlex.join(args)}: exit code {done.returncode}: {done.stderr[-500:]}")
    return done


def decoding(bench: Bench) -> Row:
    """Measure decoding a frame on the CPU, and on the GPU (NVDEC) including the copy to memory.

    Also measures the gain from frames that stay on the GPU.
    """
    clip, rows = bench.folder / "coded.mp4", Row()
    make_clip(clip, seconds=6.0 if bench.on_gpu else 0.25)
    for device in ("processors", "card"):
        started, cpu_started = time.monotonic(), time.process_time()
        try:
            accelerator = HWAccel("cuda", allow_software_fallback=False) if device == "card" else None
            with av.open(str(clip), hwaccel=accelerator) as container:
                container.streams.video[0].thread_type = "AUTO"
                frames = sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            rows[device] = f"not available: {error}"
            continue
        seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
        rows[device] = {"frames": frames, "ms": 1e3 * seconds / frames, "cpu_ms": 1e3 * cpu_seconds / frames}
    return rows | {"through": resident(clip, bench.provider)}


def end_to_end(bench: Bench) -> list[Row]:
    """Run `colab_helpers bench` on a 1080p clip with one face, with all CPU cores and with two."""
    rows: list[Row] = []
    figures = bench.folder / "bench.json"
    for cpus, settings in RUNS if bench.on_gpu else RUNS[:1]:
        if time.monotonic() >= bench.deadline:
            break
        height, seconds = ("1080", "12") if bench.on_gpu else ("540", "0.25")
        args = ["--heights", height, "--faces", "1", "--seconds", seconds, "--repeat", "1"]
        for setting in (f"execution_provider={bench.provider}", *settings):
            args += ["--set", setting]
        args += ["--models-dir", str(bench.folder / "models"), "--json", str(figures)]
        _run_helpers("bench", *args, cpus=cpus, check=True)
        row = {"cpus": cpus or this_machine().cpus, "settings": settings}
        rows.append(row | json.loads(figures.read_text()))
    return rows


PARTS: dict[str, Callable[[Bench], Any]] = {
    part.__name__: part for part in (machine, networks, decoding, pixels, end_to_end, doctor, demo)
}


def run(out: Path, provider: Provider, *, minutes: float = 7.0) -> dict[str, Any]:
    """Run all parts and write ``gpu.json``; a part that fails is reported there and the others go on."""
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"seconds": {}}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), provider, time.monotonic() + 60 * minutes)
        for part, measure in PARTS.items():
            started = time.monotonic()
            print(f"{part} …", flush=True)
            try:
                results[part] = measure(bench) if started < bench.deadline else "failed: out of time"
            except Exception as error:  # noqa: BLE001 - the other parts are still useful
                results[part] = f"failed: {type(error).__name__}: {error}"
            results["seconds"][part] = time.monotonic() - started
            gc.collect()
            (out / "gpu.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="output folder for gpu.json")
    parser.add_argument("--cpu-dry-run", action="store_true", help="use tiny networks and clips on the CPU")
    networks_help = "write the networks with the real layer shapes to --out, and measure nothing"
    parser.add_argument("--networks-only", action="store_true", help=networks_help)
    options = parser.parse_args(argv)
    if options.networks_only:
        write_networks(options.out, real=True)
        return 0
    results = run(options.out, "cpu" if options.cpu_dry_run else "cuda")
    failed = [part for part, value in results.items() if str(value).startswith("failed")]
    print(f"{options.out / 'gpu.json'}{'; failed: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
