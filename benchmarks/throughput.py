"""What the pipeline costs beside the networks: frames per second against a plain transcode.

    python -m benchmarks.throughput [--seconds 40] [--repeat 3]

A 1080p24 clip at about 3 Mbit/s with one 300-pixel face goes through ``python -m colab_helpers swap``
with networks that cost nothing, and through a plain transcode at the same encoder settings: by PyAV
(decode, encode, nothing between) and, where it is installed, by the ffmpeg program. Whole processes are
timed, start-up included; runs alternate and medians count. Only the ratios mean anything elsewhere.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.graphs import write_constant_models

WIDTH, HEIGHT, RATE = 1920, 1080, 24
BITRATE = 3_000_000
FACE = 300
PRESETS = ("veryfast", "ultrafast")
QUALITY = 23
CONSENT = "No person is shown, only noise: synthetic."
_TRANSCODE = "import sys; from benchmarks.throughput import transcode; transcode(*sys.argv[1:])"


def make_clip(path: Path, *, seconds: float) -> None:
    """Write a clip as hard to encode as filmed material, at about 3 Mbit/s.

    A pan over a picture with the spectrum of natural scenes (amplitude falls with frequency), patches that
    move on their own, and film grain.
    """
    rng = np.random.default_rng(1)
    scene = _natural(rng, WIDTH + 800, HEIGHT + 400)
    patches = [_natural(rng, 240, 200) for _ in range(8)]
    grain = rng.normal(0, 3, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = BITRATE
        stream.options = {"preset": "veryfast"}
        for index in range(round(seconds * RATE)):
            x, y = int(200 + 200 * np.sin(index / 40)), int(100 + 100 * np.cos(index / 50))
            frame = scene[y : y + HEIGHT, x : x + WIDTH].copy()
            for number, patch in enumerate(patches):
                left = int((number * 211 + index * (3 + number)) % (WIDTH - 240))
                top = int(400 + 380 * np.sin(number + index / (20 + 3 * number)))
                frame[top : top + 200, left : left + 240] = patch
            dy, dx = rng.integers(0, 64, 2)
            noisy = np.clip(frame + grain[dy : dy + HEIGHT, dx : dx + WIDTH], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="bgr24")))
        container.mux(stream.encode(None))


def _natural(rng: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Noise of all scales, each twice as strong as the next finer one, ``(height, width, 3)``."""
    total = np.full((height, width, 3), 128, np.float32)
    for octave in range(8):
        size = (max(2, width >> octave), max(2, height >> octave))
        layer = rng.normal(0, 1.6 * 2**octave, (size[1], size[0], 3)).astype(np.float32)
        total += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6
    return np.clip(total, 0, 255).astype(np.uint8)


def transcode(source: str, output: str, preset: str) -> None:
    """Decode and encode with PyAV, nothing between."""
    with av.open(source) as reader, av.open(output, "w") as writer:
        video = reader.streams.video[0]
        video.thread_type = "AUTO"
        stream = writer.add_stream("libx264", rate=video.average_rate)
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        stream.options = {"preset": preset, "crf": str(QUALITY)}
        stream.thread_type = "AUTO"
        for frame in reader.decode(video):
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))


def commands(clip: Path, folder: Path, preset: str, *, enhance: bool) -> dict[str, list[str]]:
    """The programs to compare, as command lines."""
    steps = "face_swapper,face_enhancer" if enhance else "face_swapper"
    ours = [
        *(sys.executable, "-m", "colab_helpers", "swap", "-s", str(folder / "source.png"), "-t", str(clip)),
        *("-o", str(folder / "ours.mp4"), "--models-dir", str(folder / "models"), "--consent", CONSENT),
        *("--overwrite", "--output-video-encoder", "libx264", "--output-video-preset", preset),
        *("--output-video-quality", str(QUALITY), "--frame-processors", steps),
    ]
    plain = [sys.executable, "-c", _TRANSCODE, str(clip), str(folder / "plain.mp4"), preset]
    programs = {"ours": ours, "PyAV transcode": plain}
    if shutil.which("ffmpeg"):
        programs["ffmpeg transcode"] = [
            *("ffmpeg", "-y", "-v", "error", "-i", str(clip), "-c:v", "libx264", "-preset", preset),
            *("-crf", str(QUALITY), str(folder / "ffmpeg.mp4")),
        ]
    return programs


def wall_and_cpu(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of wall time and of CPU time that a command takes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, cpu


def measure(programs: dict[str, list[str]], *, repeat: int) -> dict[str, tuple[float, ...]]:
    """Median wall and CPU seconds of each program, run in turn."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(repeat):
        for name, command in programs.items():
            times[name].append(wall_and_cpu(command))
    return {name: tuple(map(statistics.median, zip(*runs, strict=True))) for name, runs in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        make_clip(clip, seconds=options.seconds)
        scale = 640 / WIDTH
        left, top = (WIDTH - FACE) / 2 * scale, (HEIGHT - FACE) / 2 * scale
        box = (left, top, left + FACE * scale, top + FACE * scale)
        write_constant_models(folder / "models", box=box)
        cv2.imwrite(str(folder / "source.png"), np.full((512, 512, 3), 128, np.uint8))
        frames = round(options.seconds * RATE)
        print(f"{frames} frames of {WIDTH}x{HEIGHT}, one {FACE}-pixel face; medians of {options.repeat}")
        print(f"{'preset':10} {'program':18} {'fps':>6} {'CPU s/100':>9} {'/ PyAV':>7} {'/ ffmpeg':>8}")
        for preset in PRESETS:
            for enhance in (False, True):
                programs = commands(clip, folder, preset, enhance=enhance)
                _print(measure(programs, repeat=options.repeat), frames, preset, enhance)


def _print(times: dict[str, tuple[float, ...]], frames: int, preset: str, enhance: bool) -> None:
    for program, (wall, cpu) in times.items():
        name = f"{program}{' + enhancer' if enhance and program == 'ours' else ''}"
        by_pyav = times["PyAV transcode"][0] / wall
        by_ffmpeg = times["ffmpeg transcode"][0] / wall if "ffmpeg transcode" in times else float("nan")
        figures = f"{frames / wall:6.1f} {100 * cpu / frames:9.2f} {by_pyav:7.2f} {by_ffmpeg:8.2f}"
        print(f"{preset:10} {name:18} {figures}")


if __name__ == "__main__":
    main()
