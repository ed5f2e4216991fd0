"""What the networks do on this machine's GPU, in eight minutes at most.

    python -m benchmarks.gpu --out results/t4
    python -m benchmarks.gpu --out /tmp/dry --cpu-dry-run

Networks of the real layer shapes with random weights are written, so no weights are needed; with
``--networks-only`` no more than that is done, for ``colab_helpers bench --models-dir``. Told are: that CUDA
runs, and what the doctor says of it; what decoding costs on the card; the demo swapped on the CPU and on the
GPU, picture by picture; what ``bench`` finds. ``gpu.json`` is written after each part, so that nothing is
lost when one hangs. The dry run does all of it with tiny networks on the CPU.
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
# Where a run may be short of something: processors (0 for all), and settings on top of libx264 ultrafast.
RUNS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ()),
    (2, ()),
    (2, ("cuda_graphs=false",)),
    (0, ("half_precision=false",)),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where to work, how thoroughly, and until when (by ``time.monotonic``) something new is begun."""

    folder: Path
    provider: Provider
    until: float

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing; else tiny networks and clips do."""
        return self.provider == "cuda"


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
    }


def answering(model: onnx.ModelProto, answers: Mapping[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """The same network at the same cost, whose outputs are these values whatever it computes.

    A detector of random weights finds faces anywhere; one that is to cost what the real one costs, in a run
    that is to change a known face, is made this way. Changes the model in place.
    """
    graph = model.graph
    for node in graph.node:
        for number, name in enumerate(node.output):
            if name in answers:
                node.output[number] = f"{name}_computed"
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    for name, values in answers.items():
        graph.initializer.append(numpy_helper.from_array(values, f"{name}_answer"))
        graph.node.append(helper.make_node("Mul", [f"{name}_computed", "nothing"], [f"{name}_nothing"]))
        graph.node.append(helper.make_node("Add", [f"{name}_nothing", f"{name}_answer"], [name]))
    return model


def write_networks(root: Path, *, real: bool) -> None:
    """Write networks of the real layer shapes, or tiny ones, for ``colab_helpers bench --models-dir``.

    The detector always gives the same answer: one face in the middle.
    """
    middle, half = np.array([320.0, 180.0]), FACE * 180
    box = [*(middle - half), *(middle + half)]
    write_constant_models(root, box=box)
    made: dict[Role, onnx.ModelProto] = {"swapper": inswapper(width=16), "enhancer": gfpgan(width=8, size=32)}
    if real:
        made = {"detector": answering(scrfd_10g(), detector_outputs(box, 640)), "recogniser": iresnet50()}
        made["detector"].metadata_props.add(key=STANDIN_KEY, value="true")
        made |= {"swapper": inswapper(), "enhancer": gfpgan()}
    for role in tuple(made):
        onnx.save(made.pop(role), root / FILES[role])


def networks(bench: Bench) -> Row:
    """Write the networks, and what the product makes of swapper and enhancer here; sizes and verdicts."""
    root = bench.folder / "models"
    write_networks(root, real=bench.on_gpu)
    rows: Row = {role: {"bytes": (root / name).stat().st_size} for role, name in FILES.items()}
    runtime = Runtime(bench.provider)
    for role in CHANGERS:
        started = time.monotonic()
        half = convert(root / FILES[role], half=True, runtime=runtime)
        took, used = time.monotonic() - started, half.path.name
        rows[role] |= {"seconds": took, "notes": list(half.notes), "used": used}
    return rows


def pixels(bench: Bench) -> Row:
    """A face sampled and blended by OpenCV, and where its network runs, as CUDA graphs and without."""
    rows: Row = {}
    for role in CHANGERS:
        for graphs in (True, False):
            runtime = Runtime(bench.provider, graphs=graphs)
            network = runtime.open(bench.folder / "models" / FILES[role])
            if not bench.on_gpu:  # a processor's networks have no places of their own
                network = replace(network, session=_placed(network))
            path = PixelPath(Swapper(network) if role == "swapper" else Enhancer(network), runtime)
            try:
                path.prepare(capture=graphs)
                rows[f"{role}{', captured' if graphs else ''}"] = try_path(path).model_dump()
            except Exception as error:  # noqa: BLE001 - without a capture it may still run
                rows[f"{role}{', captured' if graphs else ''}"] = f"failed: {error}"
    return rows


def _placed(network: Network) -> GpuSession:
    example = partial(sample_inputs, name=network.name)
    return GpuSession(
        lambda _: network.session, example=example, capture=False, on_problem=print, device="cpu"
    )


def doctor(bench: Bench) -> Row:
    """What ``colab_helpers doctor`` finds, and its exit code."""
    done = _run_helpers("doctor", "--json", "--models-dir", str(bench.folder / "models"))
    found = json.loads(done.stdout)
    checks = {check["name"]: f"{check['status']}: {check['detail']}" for check in found["checks"]}
    return {"exit code": done.returncode, **checks}


def demo(bench: Bench) -> Row:
    """The demo swapped by the stand-ins, on the CPU and where this runs: how far the pictures lie apart."""
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
        results[provider] = (report["files"][0], _pictures(output))
    (on_cpu, expected), (here, found) = results["cpu"], results[bench.provider]
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


def decoding(bench: Bench) -> Row:
    """What a frame takes to decode on the processors, and on the card with the copy to memory (NVDEC).

    And what frames that stay on the card would bring.
    """
    clip, found = bench.folder / "coded.mp4", Row()
    make_clip(clip, seconds=6.0 if bench.on_gpu else 0.25)
    for way in ("processors", "card"):
        started, before = time.monotonic(), time.process_time()
        try:
            card = HWAccel("cuda", allow_software_fallback=False) if way == "card" else None
            with av.open(str(clip), hwaccel=card) as container:
                container.streams.video[0].thread_type = "AUTO"
                frames = sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            found[way] = f"not available: {error}"
            continue
        wall, processor = time.monotonic() - started, time.process_time() - before
        found[way] = {"frames": frames, "ms": 1e3 * wall / frames, "cpu_ms": 1e3 * processor / frames}
    return found | {"through": resident(clip, bench.provider)}


def end_to_end(bench: Bench) -> list[Row]:
    """What `colab_helpers bench` finds on a 1080p clip with one face, with all processors and with two."""
    rows: list[Row] = []
    figures = bench.folder / "bench.json"
    for cpus, settings in RUNS if bench.on_gpu else RUNS[:1]:
        if time.monotonic() >= bench.until:
            break
        words = [
            "--heights",
            "1080" if bench.on_gpu else "540",
            "--faces",
            "1",
            "--seconds",
            "12" if bench.on_gpu else "0.25",
            "--repeat",
            "1",
        ]
        words += [
            word for each in (f"execution_provider={bench.provider}", *settings) for word in ("--set", each)
        ]
        words += ["--models-dir", str(bench.folder / "models"), "--json", str(figures)]
        _run_helpers("bench", *words, cpus=cpus, check=True)
        rows.append(
            {"cpus": cpus or this_machine().cpus, "settings": settings, **json.loads(figures.read_text())}
        )
    return rows


# --- the whole ----------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Bench], Any]] = {
    "machine": machine,
    "networks": networks,
    "decoding": decoding,
    "pixels": pixels,
    "end_to_end": end_to_end,
    "doctor": doctor,
    "demo": demo,
}


def run(out: Path, provider: Provider, *, minutes: float = 7.0) -> dict[str, Any]:
    """Measure and write ``gpu.json``; a part that fails is told, and the others go on."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"seconds": {}}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), provider, time.monotonic() + 60 * minutes)
        for part, measure in PARTS.items():
            started = time.monotonic()
            print(f"{part} …", flush=True)
            try:
                found[part] = measure(bench) if started < bench.until else "failed: out of time"
            except Exception as error:  # noqa: BLE001 - the other parts are still worth having
                found[part] = f"failed: {type(error).__name__}: {error}"
            found["seconds"][part] = time.monotonic() - started
            gc.collect()
            (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--cpu-dry-run", action="store_true", help="tiny networks, few repeats, on the CPU")
    only = "write networks of the real shapes into --out, and measure nothing"
    parser.add_argument("--networks-only", action="store_true", help=only)
    options = parser.parse_args(words)
    if options.networks_only:
        write_networks(options.out, real=True)
        return 0
    found = run(options.out, "cpu" if options.cpu_dry_run else "cuda")
    failed = [part for part, value in found.items() if str(value).startswith("failed")]
    print(f"{options.out / 'gpu.json'}{'; not measured: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
