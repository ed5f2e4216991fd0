"""Compare whole runs of this checkout with those of another, frame by frame: both must give the same videos.

    python -m benchmarks.compare OTHER_CHECKOUT [--python OTHER_PYTHON] [--work DIR] [--demo DEMO]

Each of the made inputs goes through ``python -m colab_helpers batch`` of both checkouts, with the same
constant networks on the CPU and libx264; with ``--demo`` (a folder with source/, targets/ and models/) the
demo's clips do, too. The last inputs are done once more with the worker process killed half way. Compared are
every decoded frame with its timestamp, every audio and subtitle packet, and image files by their pixels.
Reports on each input what differs, and ends with 1 if anything does.
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
    "turned_90.mp4": _spec(rotation=90),
    "turned_180.mp4": _spec(rotation=180),
    "turned_270.mov": _spec(rotation=270, sounds=(Sound(),)),
    "ntsc.mp4": _spec(rate=Fraction(30000, 1001), sounds=(Sound(),)),
    "film.mov": _spec(rate=Fraction(24000, 1001)),
    "wide_samples.mp4": _spec(sar=Fraction(4, 3)),
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
"""Done once more with the worker killed after its first segment."""


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
    """Kill the worker process once a segment is finished; False if the run ended before."""
    journal = output / "journal.jsonl"
    while run.poll() is None:
        if journal.is_file() and b'"segment"' in journal.read_bytes():
            for child in psutil.Process(run.pid).children(recursive=True):
                child.kill()
            return True
        time.sleep(0.01)
    return False


def contents(path: Path) -> dict[str, list[str]]:
    """What a result holds, by stream: digests of decoded frames or packets, with their times in seconds."""
    if path.suffix in (".png", ".jpg"):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        return {"image": [_digest(np.ascontiguousarray(image).tobytes())]}
    found: dict[str, list[str]] = {}
    with av.open(str(path)) as container:
        for stream in container.streams:
            found[f"{stream.index} {stream.type}"] = []
        for packet in container.demux():
            key = f"{packet.stream.index} {packet.stream.type}"
            if packet.stream.type == "video":
                found[key] += [_frame(frame) for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
            elif packet.size:
                at = None if packet.pts is None else packet.pts * packet.time_base
                found[key].append(f"{at} {_digest(bytes(packet))}")
    return found


def _frame(frame: av.VideoFrame) -> str:
    assert frame.pts is not None
    assert frame.time_base is not None
    planes = b"".join(bytes(plane) for plane in frame.planes)
    return f"{frame.pts * frame.time_base} {frame.format.name} {frame.width}x{frame.height} {_digest(planes)}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def results(output: Path) -> list[Path]:
    """The results that a batch's report names."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return [Path(file["output"]) for file in report["files"] if file["status"] == "done"]


def differences(mine: Path, other: Path) -> list[str]:
    """What differs between the results of the same batch; empty if nothing does."""
    pair = [results(output) for output in (mine, other)]
    if [path.name for path in pair[0]] != [path.name for path in pair[1]] or not pair[0]:
        return [f"results {[path.name for path in pair[0]]} against {[path.name for path in pair[1]]}"]
    told = []
    for one, two in zip(*pair, strict=True):
        a, b = contents(one), contents(two)
        told += [f"{one.name}: streams {list(a)} against {list(b)}"] if list(a) != list(b) else []
        for key in a.keys() & b.keys():
            unlike = [n for n, (x, y) in enumerate(zip(a[key], b[key], strict=False)) if x != y]
            if unlike or len(a[key]) != len(b[key]):
                first = f", first at {unlike[0]}: {a[key][unlike[0]]} / {b[key][unlike[0]]}" if unlike else ""
                told.append(
                    f"{one.name}: {key}: {len(a[key])} and {len(b[key])}, {len(unlike)} differ{first}"
                )
    return told


def compare(
    target: Path, source: Path, models: Path, checkouts: Sequence[Checkout], folder: Path, *, kill: bool
) -> list[str]:
    """Run both checkouts on one target and tell what differs."""
    folder.mkdir(parents=True)
    outputs = [folder / checkout.name for checkout in checkouts]
    for checkout, output in zip(checkouts, outputs, strict=True):
        run = checkout.start(target, output, source, models)
        if kill and not kill_worker(run, output):
            return [f"{checkout.name}: ended before its worker could be killed"]
        if run.wait() != 0:
            return [f"{checkout.name}: exit code {run.returncode}, see {output}.log"]
    return differences(*outputs)


def made(inputs: Path) -> list[Path]:
    """The made inputs: videos, and a picture in two formats."""
    inputs.mkdir(parents=True)
    for name, spec in INPUTS.items():
        make(inputs / name, spec)
    still = np.dstack([np.tile(np.linspace(0, 255, 320, dtype=np.uint8), (240, 1))] * 3)
    pictures = [inputs / name for name in ("still.png", "still.jpg")]
    for path in pictures:
        cv2.imwrite(str(path), still)
    return [*(inputs / name for name in INPUTS), *pictures]


def main() -> int:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--python", default=sys.executable, help="what runs the other checkout")
    parser.add_argument("--work", type=Path, help="a new folder for inputs and results")
    parser.add_argument("--demo", type=Path, help="a demo's folder")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="compare-"))
    checkouts = (
        Checkout("this", Path(__file__).resolve().parents[1], sys.executable),
        Checkout("other", options.other.resolve(), options.python),
    )
    targets, models, photo = made(work / "inputs"), work / "models", work / "photo.png"
    write_constant_models(models, box=(200, 60, 440, 300))
    cv2.imwrite(str(photo), np.full((256, 256, 3), 120, np.uint8))
    jobs = [(target, photo, models, False) for target in targets]
    jobs += [(work / "inputs" / name, photo, models, True) for name in KILLED]
    for clip in sorted((options.demo / "targets").iterdir()) if options.demo else ():
        jobs.append((clip, min((options.demo / "source").iterdir()), options.demo / "models", False))
    failed = 0
    for number, (target, source, folder, kill) in enumerate(jobs):
        told = compare(target, source, folder, checkouts, work / f"run{number}", kill=kill)
        failed += bool(told)
        print(f"{target.name}{', killed' * kill}: {'; '.join(told) or 'same'}", flush=True)
    print(f"{len(jobs) - failed} of {len(jobs)} the same; everything is in {work}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
