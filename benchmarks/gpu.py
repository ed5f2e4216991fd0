"""What the networks do on this machine's GPU, in eight minutes at most.

    python -m benchmarks.gpu --out results/t4
    python -m benchmarks.gpu --out /tmp/dry --cpu-dry-run

Networks of the real layer shapes with random weights are written, so no weights are needed. Told are: that
CUDA really runs, and what the doctor says of it; the demo swapped on the CPU and on the GPU, picture by
picture; frames per second from file to file, with all processors and with two. ``gpu.json`` is written
after each part, so that nothing is lost when one hangs. The dry run does all of it with tiny
networks on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shlex
import shutil
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
import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from benchmarks.graphs import answering, detector_answers, write_constant_models
from benchmarks.realshapes import gfpgan, inswapper, iresnet50, scrfd_10g
from benchmarks.throughput import CONSENT, FACE, HEIGHT, WIDTH, make_clip
from colab_helpers.faces.path_choice import tried
from colab_helpers.faces.pixel_path import PixelPath
from colab_helpers.faces.swapper_enhancer import Enhancer, Swapper
from colab_helpers.machine import this_machine
from colab_helpers.models.catalog import Role
from colab_helpers.models.converted import FOLDER
from colab_helpers.models.cuda_graphs import GpuSession
from colab_helpers.models.half import convert
from colab_helpers.models.parity import sample_inputs
from colab_helpers.models.session import Network, Provider, Runtime, cuda_problem
from colab_helpers.resources.bottleneck import bottleneck
from colab_helpers.resources.samples import SAMPLES_NAME, read_samples
from tests.people.clip import make_demo

NOT_AVAILABLE = "not available"
FILES: Mapping[Role, str] = {
    "detector": "buffalo_l/det_10g.onnx",
    "recogniser": "buffalo_l/w600k_r50.onnx",
    "swapper": "inswapper_128.onnx",
    "enhancer": "GFPGANv1.4.onnx",
}
CHANGERS: tuple[Role, ...] = ("swapper", "enhancer")
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


def networks(bench: Bench) -> Row:
    """Write the networks, and what the product makes of swapper and enhancer here; sizes and verdicts."""
    root = bench.folder / "models"
    made: dict[Role, onnx.ModelProto]
    if bench.on_gpu:
        (root / "buffalo_l").mkdir(parents=True)
        made = {"detector": scrfd_10g(), "recogniser": iresnet50()}
        made |= {"swapper": inswapper(), "enhancer": gfpgan()}
    else:
        write_constant_models(root, box=(200, 60, 440, 300))
        made = {"swapper": inswapper(width=16), "enhancer": gfpgan(width=8, size=32)}
    for role in tuple(made):
        onnx.save(made.pop(role), root / FILES[role])
    rows: Row = {role: {"bytes": (root / name).stat().st_size} for role, name in FILES.items()}
    runtime = Runtime(bench.provider)
    for role in CHANGERS:
        started = time.monotonic()
        half = convert(root / FILES[role], half=True, runtime=runtime)
        rows[role] |= {"seconds": time.monotonic() - started, "notes": list(half.notes), "used": half.words}
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
                rows[f"{role}{', captured' if graphs else ''}"] = tried(path)._asdict()
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


def end_to_end(bench: Bench) -> list[Row]:
    """Frames per second of ``colab_helpers batch``: twice a 1080p clip with one face, swapped and enhanced.

    The detector has the real one's layers, too, but always gives the same answer: one face.
    """
    models = bench.folder / "run"
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
    clips[0].parent.mkdir()
    make_clip(clips[0], seconds=10.0 if bench.on_gpu else 0.25)
    clips[1].hardlink_to(clips[0])
    cv2.imwrite(str(bench.folder / "source.png"), np.full((512, 512, 3), 128, np.uint8))
    rows: list[Row] = []
    for half, cpus, more in RUNS if bench.on_gpu else RUNS[:1]:
        if time.monotonic() < bench.until:
            rows.append(_run(bench, half, cpus, more))
    return rows


def _run(bench: Bench, half: str, cpus: int, more: Sequence[str]) -> Row:
    results = bench.folder / "results"
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    _run_helpers(
        *("batch", "-s", str(bench.folder / "source.png"), "-t", str(bench.folder / "targets")),
        *("-o", str(results), "--models-dir", str(bench.folder / "run"), "--consent", CONSENT),
        *("--half-precision", half, "--execution-provider", bench.provider, *more),
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

PARTS: dict[str, Callable[[Bench], Any]] = {
    "machine": machine,
    "networks": networks,
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
    options = parser.parse_args(words)
    found = run(options.out, "cpu" if options.cpu_dry_run else "cuda")
    failed = [part for part, value in found.items() if str(value).startswith("failed")]
    print(f"{options.out / 'gpu.json'}{'; not measured: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
