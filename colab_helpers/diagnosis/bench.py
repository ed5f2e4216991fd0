"""What a run costs here, held against the limits of the same minutes: ``python -m colab_helpers bench``.

Made clips go through whole processes of ``swap`` and ``batch``, start included, in turn with a plain
transcode; one more run, watched from inside, tells threads and networks apart. Only ratios mean anything
elsewhere.
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

from colab_helpers.diagnosis.bench_model import on_devices, predicted
from colab_helpers.errors import ColabHelpersError
from colab_helpers.language import mark, tr
from colab_helpers.machine import this_machine
from colab_helpers.media.probe import probe

CONSENT = "Only noise, or rendered people, are shown: synthetic."
_QUIET = 0.25
"""Load, by processor, up to which a machine counts as quiet."""
_DEFAULTS = {
    "output_video_encoder": "libx264",
    "output_video_preset": "ultrafast",
    "output_video_quality": "23",
}
_TRANSCODE = "import sys; from colab_helpers.diagnosis.bench_clip import transcode; transcode(*sys.argv[1:])"
_MAKE = "import sys; from colab_helpers.diagnosis.bench_networks import make; make(*sys.argv[1:])"
_IMPORTS = (
    "from colab_helpers.startup import own_process; own_process(); import colab_helpers.batch.batch_runner"
)
_START = {
    "python": ["-c", "pass"],
    "--version": ["-m", "colab_helpers", "--version"],
    "imports": ["-c", _IMPORTS],
}
_UNSEEN = {
    "first_frame_ms": 0.0,
    "first_frame_cpu_ms": 0.0,
    "threads_ms": {},
    "networks": {},
    "networks_ms": 0.0,
    "card": {},
}
Media = tuple[Path, Path | None, Path]
"""A clip, a photo of the source (None where the clip shows nobody), and the folder of the networks."""


@dataclass(frozen=True)
class BenchPlan:
    """Clips of all these heights (16:9), faces in a frame, and seconds; the demo's alone where it is given.

    ``settings`` come on top of libx264 ultrafast; networks in ``models`` are run in place of constant ones,
    but for a real detector, which would find nobody in noise.
    """

    heights: Sequence[int] = (1080, 720, 2160)
    faces: Sequence[int] = (1, 0, 4)
    seconds: Sequence[float] = (12.0,)
    repeat: int = 5
    settings: Sequence[str] = ()
    models: Path | None = None
    demo: Media | None = None


class ProcessUsage(NamedTuple):
    """One process and its children: seconds of wall and of processor, and bytes of RAM at the most."""

    wall: float
    cpu: float
    rss: float


def bench(plan: BenchPlan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure all of it, working in an empty folder; ``say`` gets each line as it is known."""
    load, cpus, rows = os.getloadavg()[0], this_machine().cpus, list[dict[str, Any]]()
    quiet = load <= _QUIET * cpus
    say(tr("load {load:.1f} on {cpus} processors before the start", load=load, cpus=cpus))
    if not quiet:
        say(tr("the machine was not quiet: take ratios, not seconds, and these with care"))
    took = _in_turn({name: [sys.executable, *words] for name, words in _START.items()}, plan.repeat)
    start = {name: 1e3 * min(each.wall for each in runs) for name, runs in took.items()}
    say(_HEAD)
    cases = [(0, 0, 0.0)] if plan.demo else product(plan.heights, plan.faces, plan.seconds)
    for height, faces, seconds in cases:
        place = folder / ("demo" if plan.demo else f"{height}p, {faces}, {seconds:g} s")
        place.mkdir()
        media = plan.demo or _made(place, height, faces, seconds, plan.models)
        for row in _case(plan, media, place):
            rows.append(row | predicted(row))
            say(_line(rows[-1]))
        shutil.rmtree(place)
    start["first frame"] = min(row["first_frame_ms"] for row in rows if row["first_frame_ms"])
    say(tr("start, milliseconds: {parts}", parts=_listed(start)))
    devices = on_devices(rows)
    for device, rates in devices.items():
        told = mark("{device}, predicted and not measured, frames/s: {rates}")
        say(tr(told, device=device, rates=_listed(rates)))
    return {
        "schema": 1, "time": time.time(), "machine": asdict(this_machine()), "load": load, "quiet": quiet,
        "repeat": plan.repeat, "start_ms": start, "runs": rows, "devices_fps": devices,
    }  # fmt: skip


def _made(place: Path, height: int, faces: int, seconds: float, models: Path | None) -> Media:
    """Have a clip and networks made by another process: what this one holds would count as its children's."""
    _run([sys.executable, "-c", _MAKE, *map(str, (place, height, faces, seconds, models or ""))])
    return place / "clip.mp4", place / "source.png" if faces else None, place / "models"


def _case(plan: BenchPlan, media: Media, place: Path) -> Iterator[dict[str, Any]]:
    """Measure one clip in all ways; where it shows nobody, there is nobody to put in."""
    clip, photo, models = media
    settings = _DEFAULTS | dict(pair.split("=", 1) for pair in plan.settings)
    preset, quality = settings["output_video_preset"], settings["output_video_quality"]
    common = ["-t", str(clip), "--models-dir", str(models), "--consent", CONSENT]
    common += [word for item in settings.items() for word in ("--set", "=".join(item))]
    common += ["-s", str(photo)] if photo else []
    out, ways = place / "out", dict[str, list[str]]()
    steps = {"swap": "face_swapper", "batch": "face_swapper", "enhance": "face_swapper,face_enhancer"}
    for way, step in steps.items() if photo else (("nobody", "face_enhancer"),):
        verb, result = ("batch", out) if way == "batch" else ("swap", out / "clip.mp4")
        ways[way] = [verb, "-o", str(result), *common, "--frame-processors", step]
    transcode = [sys.executable, "-c", _TRANSCODE, str(clip), str(place / "plain.mp4")]
    plain = {"PyAV": [*transcode, preset, quality], "decode": [*transcode, "", ""]}
    if shutil.which("ffmpeg"):
        words = ["-c:v", "libx264", "-preset", preset, "-crf", quality, str(place / "ffmpeg.mp4")]
        plain["ffmpeg"] = ["ffmpeg", "-y", "-v", "error", "-i", str(clip), *words]
    programs = {way: [sys.executable, "-m", "colab_helpers", *words] for way, words in ways.items()}
    took, frames = _in_turn(plain | programs, plan.repeat, out), probe(clip).frames or 1
    for way, words in ways.items():
        row = {"clip": place.name, "way": way, "frames": frames, **_figures(took, way, frames)}
        # The work of a batch is done by a process of its own.
        yield row | (_UNSEEN if way == "batch" else _watched(words, place / "figures.json", out, frames))


def _in_turn(
    commands: Mapping[str, list[str]], repeat: int, out: Path | None = None
) -> dict[str, list[ProcessUsage]]:
    """Run commands one after the other, again and again; what they wrote goes."""
    took: dict[str, list[ProcessUsage]] = {name: [] for name in commands}
    for name, command in [*commands.items()] * repeat:
        took[name].append(_run(command))
        if out:
            shutil.rmtree(out, ignore_errors=True)
    return took


def _run(command: list[str]) -> ProcessUsage:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read().decode(errors="replace") if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)  # the processor's seconds of this one, and of its children
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        why = " ".join(said.strip().splitlines()[-1:])
        raise ColabHelpersError(tr("a run that was to be measured failed: {why}", why=why))
    return ProcessUsage(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _figures(took: Mapping[str, Sequence[ProcessUsage]], way: str, frames: int) -> dict[str, Any]:
    """Medians of one way, and of its ratios to the plain ones of the same turn."""
    walls = [each.wall for each in took[way]]
    cpu = {name: 1e3 * median(each.cpu for each in runs) / frames for name, runs in took.items()}
    ratios = {
        name: median(one.wall / wall for one, wall in zip(took[name], walls, strict=True))
        for name in ("PyAV", "ffmpeg")
        if name in took
    }
    return {
        "fps": frames / median(walls), "spread_percent": 50 * (max(walls) - min(walls)) / median(walls),
        "cpu_ms": cpu[way], "transcode_cpu_ms": cpu["PyAV"], "encode_cpu_ms": cpu["PyAV"] - cpu["decode"],
        "rss_mb": max(each.rss for each in took[way]) / 1e6, "ratios": ratios,
    }  # fmt: skip


def _watched(words: list[str], figures: Path, out: Path, frames: int) -> dict[str, Any]:
    """What `bench_child` sees of a run, by the frame."""
    _run([sys.executable, "-m", "colab_helpers.diagnosis.bench_profiler", str(figures), *words])
    shutil.rmtree(out, ignore_errors=True)
    seen: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    seen["threads_ms"] = {name: 1e3 * seconds / frames for name, seconds in seen.pop("threads").items()}
    seen["networks_ms"] = sum(each["calls"] * each["ms"] for each in seen["networks"].values()) / frames
    return seen


_HEAD = " " * 24 + "   fps  ± %  CPU ms    MB  /PyAV /ffmpeg /networks  model"


def _line(row: Mapping[str, Any]) -> str:
    ratios, alone = row["ratios"], row["networks_ms"] * row["fps"] / 1e3
    figures = f"{row['fps']:6.1f}{row['spread_percent']:5.0f}{row['cpu_ms']:8.1f}{row['rss_mb']:6.0f}"
    figures += f"{ratios['PyAV']:7.2f}{ratios.get('ffmpeg', float('nan')):8.2f}"
    figures += f"{1 / alone if alone else float('nan'):10.2f}{row['model_fps']:7.1f}"
    parts = _listed(dict(sorted(row["threads_ms"].items(), key=lambda item: -item[1])[:6]))
    return f"{row['clip'] + ' ' + row['way']:24}{figures}" + (f"\n    {parts}" if parts else "")


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in values.items())
