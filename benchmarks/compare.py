"""Compare complete runs of this checkout with those of another: both must produce identical outputs.

    python -m benchmarks.compare OTHER_CHECKOUT [--python OTHER_PYTHON] [--work DIR] [--demo DEMO]

Each generated input is processed by ``python -m colab_helpers batch`` of both checkouts, with the same
constant networks on the CPU and libx264; with ``--demo`` (a folder with source/, targets/ and models/) so are
the demo's clips. Some inputs are processed again with the worker killed midway. Every decoded frame with its
timestamp, every audio and subtitle packet, and the pixels of image files are compared. Prints the differences
of each input; the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import psutil

from colab_helpers.diagnosis.bench_networks import write_constant_models
from tests.media.make import Sound, Spec, Subtitle, make, variable_pts

CONSENT = "Nobody is shown, only drawn test pictures: synthetic."
_SIZE = (320, 240)
_MP4 = {"options": {"preset": "ultrafast", "crf": "16", "bf": "2"}}


def _spec(**values: object) -> Spec:
    return Spec(**{"frames": 60, "size": _SIZE, **values})  # type: ignore[arg-type]


INPUTS: dict[str, Spec] = {
    "plain.mp4": _spec(sounds=(Sound(),)),
    "b_frames.mp4": _spec(**_MP4),
    "vfr.mp4": _spec(time_base=Fraction(1, 1000), pts=variable_pts(60), sounds=(Sound(seconds=3.0),)),
    "vfr.mkv": _spec(time_base=Fraction(1, 1000), pts=variable_pts(60)),
    "ten_bit.mkv": _spec(codec="libx265", pix_fmt="yuv420p10le", options={"preset": "ultrafast"}),
    "rotated_90.mp4": _spec(rotation=90),
    "rotated_180.mp4": _spec(rotation=180),
    "rotated_270.mov": _spec(rotation=270, sounds=(Sound(),)),
    "ntsc.mp4": _spec(rate=Fraction(30000, 1001), sounds=(Sound(),)),
    "film.mov": _spec(rate=Fraction(24000, 1001)),
    "wide_pixels.mp4": _spec(sar=Fraction(4, 3)),
    "full_range.mp4": _spec(pix_fmt="yuvj420p", range=2),
    "bt709.mp4": _spec(matrix=1, primaries=1, transfer=1, range=1),
    "chroma_422.mov": _spec(codec="prores_ks", pix_fmt="yuv422p10le", options={}),
    "chroma_444.mp4": _spec(pix_fmt="yuv444p"),
    "vp9.webm": _spec(codec="libvpx-vp9", options={"deadline": "realtime"}, sounds=(Sound(codec="libopus"),)),
    "mpeg4.avi": _spec(codec="mpeg4", options={"qscale": "3"}, sounds=(Sound(codec="mp2"),)),
    "tracks.mkv": _spec(
        sounds=(Sound(language="eng"), Sound(codec="ac3", language="spa", start=Fraction(1, 2))),
        subtitles=(Subtitle(codec="subrip"),),
        chapters=((0, 1000, "one"), (1000, 2400, "two")),
        metadata={"title": "a title"},
    ),
    "one_frame.mp4": _spec(frames=1),
    "long_gop.mp4": _spec(frames=200, options={"preset": "ultrafast", "g": "250"}, sounds=(Sound(),)),
}
KILLED = ("b_frames.mp4", "vfr.mkv", "long_gop.mp4")
"""Processed again with the worker killed after its first segment."""


@dataclass(frozen=True)
class Checkout:
    """A checkout and the Python that runs it."""

    name: str
    root: Path
    python: str

    def start(self, target: Path, output: Path, source: Path, models: Path) -> subprocess.Popen[bytes]:
        """Start a batch of one file."""
        command = [self.python, "-m", "colab_helpers", "batch", "-s", str(source), "-t", str(target)]
        command += ["-o", str(output), "--models-dir", str(models), "--consent", CONSENT]
        for pair in ("execution_provider=cpu", "output_video_encoder=libx264", "segment_seconds=1"):
            command += ["--set", pair]
        env = {**os.environ, "PYTHONPATH": str(self.root)}
        log = (output.parent / f"{output.name}.log").open("wb")
        return subprocess.Popen(command, cwd=self.root, env=env, stdout=log, stderr=log)


def kill_worker(run: subprocess.Popen[bytes], output: Path) -> bool:
    """Kill the worker process once a segment is finished; return False if the run ended before that."""
    journal = output / "journal.jsonl"
    while run.poll() is None:
        if journal.is_file() and b'"segment"' in journal.read_bytes():
            for child in psutil.Process(run.pid).children(recursive=True):
                child.kill()
            return True
        time.sleep(0.01)
    return False


def contents(path: Path) -> dict[str, list[str]]:
    """Return, by stream, the digests of decoded frames or packets with their timestamps in seconds."""
    if path.suffix in (".png", ".jpg"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        return {"image": [_digest(np.ascontiguousarray(image).tobytes())]}
    digests: dict[str, list[str]] = {}
    with av.open(str(path)) as container:
        for stream in container.streams:
            digests[f"{stream.index} {stream.type}"] = []
        for packet in container.demux():
            key = f"{packet.stream.index} {packet.stream.type}"
            if packet.stream.type == "video":
                digests[key] += [
                    _frame(frame) for frame in packet.decode() if isinstance(frame, av.VideoFrame)
                ]
            elif packet.size:
                seconds = None if packet.pts is None else packet.pts * packet.time_base
                digests[key].append(f"{seconds} {_digest(bytes(packet))}")
    return digests


def _frame(frame: av.VideoFrame) -> str:
    assert frame.pts is not None
    assert frame.time_base is not None
    planes = b"".join(bytes(plane) for plane in frame.planes)
    return f"{frame.pts * frame.time_base} {frame.format.name} {frame.width}x{frame.height} {_digest(planes)}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def outputs_of(output: Path) -> list[Path]:
    """Return the finished outputs that a batch's report lists."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return [Path(file["output"]) for file in report["files"] if file["status"] == "done"]


def differences(mine: Path, other: Path) -> list[str]:
    """Describe the differences between two runs of a batch; no output at all counts as one."""
    paths = [outputs_of(output) for output in (mine, other)]
    names = [[path.name for path in part] for part in paths]
    if names[0] != names[1] or not names[0]:
        return [f"outputs {names[0]} vs. {names[1]}"]
    messages = []
    for one, two in zip(*paths, strict=True):
        name, a, b = one.name, contents(one), contents(two)
        if list(a) != list(b):
            messages.append(f"{name}: streams {list(a)} vs. {list(b)}")
        for key in a.keys() & b.keys():
            unequal = [n for n, (x, y) in enumerate(zip(a[key], b[key], strict=False)) if x != y]
            if unequal or len(a[key]) != len(b[key]):
                message = f"{name}: {key}: {len(a[key])} vs. {len(b[key])} entries, {len(unequal)} differ"
                for n in unequal[:1]:
                    message += f", first at {n}: {a[key][n]} / {b[key][n]}"
                messages.append(message)
    return messages


def compare(
    target: Path, source: Path, models: Path, checkouts: Sequence[Checkout], folder: Path, *, kill: bool
) -> list[str]:
    """Run both checkouts on one target; describe the differences."""
    folder.mkdir(parents=True)
    outputs = [folder / checkout.name for checkout in checkouts]
    for checkout, output in zip(checkouts, outputs, strict=True):
        run = checkout.start(target, output, source, models)
        if kill and not kill_worker(run, output):
            return [f"{checkout.name}: ended before its worker could be killed"]
        if run.wait() != 0:
            return [f"{checkout.name}: exit code {run.returncode}, see {output}.log"]
    return differences(*outputs)


def make_inputs(inputs: Path) -> list[Path]:
    """Generate the inputs: videos, and an image in two formats."""
    inputs.mkdir(parents=True)
    for name, spec in INPUTS.items():
        make(inputs / name, spec)
    gradient = np.dstack([np.tile(np.linspace(0, 255, 320, dtype=np.uint8), (240, 1))] * 3)
    images = [inputs / name for name in ("still.png", "still.jpg")]
    for path in images:
        cv2.imwrite(str(path), gradient)
    return [*(inputs / name for name in INPUTS), *images]


def main() -> int:
    """Compare all inputs; return 1 if any output differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for the other checkout")
    parser.add_argument(
        "--work", type=Path, help="new folder for inputs and outputs (default: a temporary one)"
    )
    parser.add_argument("--demo", type=Path, help="demo folder, whose clips are compared as well")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="compare-"))
    checkouts = (
        Checkout("this", Path(__file__).resolve().parents[1], sys.executable),
        Checkout("other", options.other.resolve(), options.python),
    )
    targets, models, photo = make_inputs(work / "inputs"), work / "models", work / "photo.png"
    write_constant_models(models, box=(200, 60, 440, 300))
    cv2.imwrite(str(photo), np.full((256, 256, 3), 120, np.uint8))
    jobs = [(target, photo, models, False) for target in targets]
    jobs += [(work / "inputs" / name, photo, models, True) for name in KILLED]
    for clip in sorted((options.demo / "targets").iterdir()) if options.demo else ():
        jobs.append((clip, min((options.demo / "source").iterdir()), options.demo / "models", False))
    failed = 0
    for number, (target, source, folder, kill) in enumerate(jobs):
        messages = compare(target, source, folder, checkouts, work / f"run{number}", kill=kill)
        failed += bool(messages)
        print(f"{target.name}{', killed' * kill}: {'; '.join(messages) or 'identical'}", flush=True)
    print(f"{len(jobs) - failed} of {len(jobs)} identical; inputs and outputs are in {work}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
