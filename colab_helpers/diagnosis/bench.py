"""Benchmark of complete runs against a plain transcode: ``python -m colab_helpers bench``.

Synthetic clips are processed by separate ``swap`` and ``batch`` processes, startup included, alternating with
plain transcodes; one more run is profiled by thread and network. Only ratios can be compared across machines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from colab_helpers.diagnosis.bench_model import predict, predict_devices
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.probe import probe

CONSENT = "Only noise, or rendered people, are shown: synthetic."
_QUIET = 0.25
"""Load average per CPU up to which a machine counts as idle."""
_DEFAULTS = {
    "output_video_encoder": "libx264",
    "output_video_preset": "ultrafast",
    "output_video_quality": "23",
}
_TRANSCODE = "import sys; from colab_helpers.diagnosis.bench_clip import transcode; transcode(*sys.argv[1:])"
_MAKE = "import sys; from colab_helpers.diagnosis.bench_networks import make; make(*sys.argv[1:])"
_IMPORTS = "import colab_helpers.startup as s; s.begin_startup(); import colab_helpers.batch.batch_runner"
_START = {
    "python": ["-c", "pass"],
    "--version": ["-m", "colab_helpers", "--version"],
    "imports": ["-c", _IMPORTS],
}
_NO_PROFILE = {
    "first_frame_ms": 0.0, "first_frame_cpu_ms": 0.0, "threads_ms": {}, "networks": {}, "networks_ms": 0.0,
    "card": {},
}  # fmt: skip
Media = tuple[Path, Path | None, Path]
"""A clip, the source photo (None if the clip shows no face), and the models folder."""


@dataclass(frozen=True)
class BenchPlan:
    """All combinations of heights (16:9), faces per frame and seconds, or the demo's clip alone.

    ``settings`` are added to libx264 ultrafast. Networks in ``models`` replace the constant ones, except for
    a real detector, which would find no face in noise.
    """

    heights: Sequence[int] = (1080, 720, 2160)
    faces: Sequence[int] = (1, 0, 4)
    seconds: Sequence[float] = (12.0,)
    repeat: int = 5
    settings: Sequence[str] = ()
    models: Path | None = None
    demo: Media | None = None


class ProcessUsage(NamedTuple):
    """Resources used by a process and its children: wall and CPU seconds, and peak RAM in bytes."""

    wall: float
    cpu: float
    rss: float


def bench(plan: BenchPlan, folder: Path, output: Callable[[str], None]) -> dict[str, Any]:
    """Run the benchmark in an empty folder; pass the report's lines to ``output``, return the results."""
    load, cpus, rows = os.getloadavg()[0], this_machine().cpus, list[dict[str, Any]]()
    quiet = load <= _QUIET * cpus
    output(tr("load average {load:.1f} on {cpus} CPUs before the start", load=load, cpus=cpus))
    if not quiet:
        output(tr("the machine was not idle: use only ratios, not absolute times, and with care"))
    usage = _alternate({name: [sys.executable, *words] for name, words in _START.items()}, plan.repeat)
    start = {name: 1e3 * min(each.wall for each in runs) for name, runs in usage.items()}
    output(_HEADER)
    cases = [(0, 0, 0.0)] if plan.demo else product(plan.heights, plan.faces, plan.seconds)
    for height, faces, seconds in cases:
        work = folder / ("demo" if plan.demo else f"{height}p, {faces}, {seconds:g} s")
        work.mkdir()
        media = plan.demo or _make_media(work, height, faces, seconds, plan.models)
        for row in _measure_clip(plan, media, work):
            rows.append(row | predict(row))
            output(_format_row(rows[-1]))
        shutil.rmtree(work)
    start["first frame"] = min(row["first_frame_ms"] for row in rows if row["first_frame_ms"])
    output(tr("startup, milliseconds: {parts}", parts=_format_values(start)))
    devices = predict_devices(rows)
    for device, rates in devices.items():
        text = mark("{device}, frames/s (predicted, not measured): {rates}")
        output(tr(text, device=device, rates=_format_values(rates)))
    return {
        "schema": 1, "time": time.time(), "machine": asdict(this_machine()), "load": load, "quiet": quiet,
        "repeat": plan.repeat, "start_ms": start, "runs": rows, "devices_fps": devices,
    }  # fmt: skip


def _make_media(work: Path, height: int, faces: int, seconds: float, models: Path | None) -> Media:
    """Make a clip and networks in another process, since memory of this one would count as its children's."""
    _run([sys.executable, "-c", _MAKE, *map(str, (work, height, faces, seconds, models or ""))])
    return work / "clip.mp4", work / "source.png" if faces else None, work / "models"


def _measure_clip(plan: BenchPlan, media: Media, work: Path) -> Iterator[dict[str, Any]]:
    """Measure one clip with each kind of run; a clip without faces is only enhanced."""
    clip, photo, models = media
    settings = _DEFAULTS | dict(pair.split("=", 1) for pair in plan.settings)
    preset, quality = settings["output_video_preset"], settings["output_video_quality"]
    common = ["-t", str(clip), "--models-dir", str(models), "--consent", CONSENT]
    common += [word for item in settings.items() for word in ("--set", "=".join(item))]
    common += ["-s", str(photo)] if photo else []
    out, arguments = work / "out", dict[str, list[str]]()
    steps = {"swap": "face_swapper", "batch": "face_swapper", "enhance": "face_swapper,face_enhancer"}
    for way, step in steps.items() if photo else (("nobody", "face_enhancer"),):
        verb, result = ("batch", out) if way == "batch" else ("swap", out / "clip.mp4")
        arguments[way] = [verb, "-o", str(result), *common, "--frame-processors", step]
    transcode = [sys.executable, "-c", _TRANSCODE, str(clip), str(work / "plain.mp4")]
    commands = {"PyAV": [*transcode, preset, quality], "decode": [*transcode, "", ""]}
    if shutil.which("ffmpeg"):
        encode = ["-c:v", "libx264", "-preset", preset, "-crf", quality, str(work / "ffmpeg.mp4")]
        commands["ffmpeg"] = ["ffmpeg", "-y", "-v", "error", "-i", str(clip), *encode]
    commands |= {way: [sys.executable, "-m", "colab_helpers", *words] for way, words in arguments.items()}
    usage, frames = _alternate(commands, plan.repeat, out), probe(clip).frames or 1
    for way, words in arguments.items():
        row = {"clip": work.name, "way": way, "frames": frames, **_summarise(usage, way, frames)}
        # A batch cannot be profiled from inside: its work is done in a worker process.
        yield row | (_NO_PROFILE if way == "batch" else _profile(words, work / "figures.json", out, frames))


def _alternate(
    commands: Mapping[str, list[str]], repeat: int, out: Path | None = None
) -> dict[str, list[ProcessUsage]]:
    """Run all commands in turn, several times, removing their output folder after each run."""
    usage: dict[str, list[ProcessUsage]] = {name: [] for name in commands}
    for name, command in [*commands.items()] * repeat:
        usage[name].append(_run(command))
        if out:
            shutil.rmtree(out, ignore_errors=True)
    return usage


def _run(command: list[str]) -> ProcessUsage:
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        stderr = process.stderr.read().decode(errors="replace") if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)  # includes the process's own children
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        why = " ".join(stderr.strip().splitlines()[-1:])
        raise ColabHelpersError(tr("a measured run failed: {why}", why=why))
    return ProcessUsage(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _summarise(usage: Mapping[str, Sequence[ProcessUsage]], way: str, frames: int) -> dict[str, Any]:
    """Return medians of one kind of run, and of its speed relative to the transcodes of the same round."""
    walls = [each.wall for each in usage[way]]
    cpu = {name: 1e3 * median(each.cpu for each in runs) / frames for name, runs in usage.items()}
    ratios = {
        name: median(one.wall / wall for one, wall in zip(usage[name], walls, strict=True))
        for name in ("PyAV", "ffmpeg")
        if name in usage
    }
    return {
        "fps": frames / median(walls), "spread_percent": 50 * (max(walls) - min(walls)) / median(walls),
        "cpu_ms": cpu[way], "transcode_cpu_ms": cpu["PyAV"], "encode_cpu_ms": cpu["PyAV"] - cpu["decode"],
        "rss_mb": max(each.rss for each in usage[way]) / 1e6, "ratios": ratios,
    }  # fmt: skip


def _profile(words: list[str], figures: Path, out: Path, frames: int) -> dict[str, Any]:
    """Run ``bench_profiler``; return its results per frame."""
    _run([sys.executable, "-m", "colab_helpers.diagnosis.bench_profiler", str(figures), *words])
    shutil.rmtree(out, ignore_errors=True)
    profile: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    profile["threads_ms"] = {name: 1e3 * seconds / frames for name, seconds in profile.pop("threads").items()}
    profile["networks_ms"] = sum(each["calls"] * each["ms"] for each in profile["networks"].values()) / frames
    return profile


_HEADER = " " * 24 + "   fps  ± %  CPU ms    MB  /PyAV /ffmpeg /networks  model"


def _format_row(row: Mapping[str, Any]) -> str:
    ratios, networks = row["ratios"], row["networks_ms"] * row["fps"] / 1e3
    figures = f"{row['fps']:6.1f}{row['spread_percent']:5.0f}{row['cpu_ms']:8.1f}{row['rss_mb']:6.0f}"
    figures += f"{ratios['PyAV']:7.2f}{ratios.get('ffmpeg', float('nan')):8.2f}"
    figures += f"{1 / networks if networks else float('nan'):10.2f}{row['model_fps']:7.1f}"
    threads = _format_values(dict(sorted(row["threads_ms"].items(), key=lambda item: -item[1])[:6]))
    return f"{row['clip'] + ' ' + row['way']:24}{figures}" + (f"\n    {threads}" if threads else "")


def _format_values(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in values.items())
