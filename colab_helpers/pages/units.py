"""Numbers, and the progress and results of a run, as people read them."""

from __future__ import annotations

import math
from pathlib import Path

from colab_helpers.batch.report import STATE_WORDS, BatchReport, FileReport
from colab_helpers.language import mark, printable, tr
from colab_helpers.machine import GIB
from colab_helpers.progress import PROCESSING, Progress

STANDIN_NOTE = mark(
    "Made with the demo's stand-in networks, which know only the demo's rendered people. "
    "They show that everything works, not what the real networks can do."
)
"""Said wherever results of the stand-ins could be mistaken for those of the real networks."""


def number(value: float) -> str:
    """Write a value with as many digits as are worth reading: about three."""
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def clock_text(seconds: float) -> str:
    """Write a time as ``m:ss``, from an hour on as ``h:mm:ss``."""
    if not math.isfinite(seconds):
        return str(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(seconds: float) -> str:
    """Write a time in a video as ``m:ss.t``; short spans would otherwise begin and end at the same second."""
    if not math.isfinite(seconds):
        return str(seconds)
    tenths = round(seconds * 10)
    return f"{clock_text(tenths // 10)}.{tenths % 10}"


def duration(seconds: float) -> str:
    """Write a time in tenths of seconds below a minute, else in minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_text(seconds)


def size(count: float) -> str:
    """Write the bytes of a file in steps of 1000."""
    for unit in (tr("bytes"), "kB", "MB"):
        if count < 1000:
            return f"{number(count)} {unit}"
        count /= 1000
    return f"{number(count)} GB"


def memory(count: float) -> str:
    """Write bytes of memory in steps of 1024."""
    return f"{number(count / GIB)} GiB" if abs(count) >= GIB else f"{count / 2**20:.0f} MiB"


def progress_text(progress: Progress) -> str:
    """Write the whole progress line of a run as plain text."""
    frames = f"{progress.frame}/{progress.frames}" if progress.frames else str(progress.frame)
    rate = tr("{frames} frames, {fps:.1f} frames/s", frames=frames, fps=progress.fps)
    eta = tr(", ETA {eta}", eta=clock_text(progress.eta)) if progress.eta is not None else ""
    stage = f", {tr(progress.stage)}" if progress.stage != PROCESSING else ""
    return f"{file_text(progress)}: {rate}{eta}{stage}, {machine_text(progress)}"


def file_text(progress: Progress) -> str:
    """Write which file of a run is at work."""
    return printable(f"[{progress.file_index + 1}/{progress.file_count}] {progress.file}")


def machine_text(progress: Progress) -> str:
    """Write memory in use (S: the system's RAM, G: the GPU's), and where and how the networks run."""
    gpu = "-" if progress.gpu_percent is None else f"{progress.gpu_percent:.0f}%"
    return tr(
        "(S: {ram_percent:.0f}%, G: {gpu}), {provider}, threads {threads}, batch {batch_size}",
        ram_percent=progress.ram_percent,
        gpu=gpu,
        provider=progress.provider,
        threads=progress.threads,
        batch_size=progress.batch_size,
    )


def notes_of(report: BatchReport) -> list[str]:
    """List what is to be known of the whole run."""
    standins = any(model.standin for model in report.models)
    return [*([tr(STANDIN_NOTE)] if standins else []), *report.notes]


def mark_text(file: FileReport) -> str:
    """Say how a result is marked, and by whose certificate; empty where there is none."""
    if file.status != "done" or file.mark is None:
        copied = file.status == "done" and not file.faces_swapped
        return tr("not marked: a copy of its target") if copied else ""
    mark, where = file.mark, tr("in a file beside it") if file.mark.beside else tr("in the file")
    told = [
        tr("{where}, signed with the certificate made on this machine", where=where)
        if mark.made_here
        else tr("{where}, signed by {name}", where=where, name=mark.signed_by)
    ]
    told += [tr("visible label: {text}", text=mark.label)] if mark.label else []
    told += [tr("disclosed by: {text}", text=mark.disclosure)] if mark.disclosure else []
    return "; ".join(told)


def content_text(file: FileReport) -> str:
    """Say what was seen in a target; empty where nobody came to look."""
    seen = file.content
    if seen is None:
        return ""
    if seen.state == "refused":
        return tr("refused: {reason}", reason=seen.reason)
    told = mark("{networks} looked at {samples} frame(s): nothing that is refused")
    return tr(told, networks=", ".join(seen.thresholds), samples=seen.samples)


def results_text(report: BatchReport) -> str:
    """Write the results for places that cannot show HTML."""
    lines = [summary_text(report), *notes_of(report)]
    for file in report.files:
        told = tr("{frames} frames, {faces} faces", frames=file.frames_out, faces=file.faces_swapped)
        ended = (file.output if file.status == "done" else file.error) or ""
        lines.append(f"  {tr(STATE_WORDS[file.status]):7} {Path(file.target).name}: {told}, {ended}")
        marked = [tr("marked {how}", how=mark_text(file))] if file.mark else []
        notes = [tr("note: {note}", note=note) for note in file.fallbacks]
        lines += [f"          {line}" for line in (*marked, *notes)]
    return "\n".join(lines)


def summary_text(report: BatchReport) -> str:
    """Write the run in one line."""
    summary = report.summary
    return tr(
        "{succeeded} of {total} files in {seconds:.1f} s, {size:.1f} MB, memory warnings: {warnings}",
        succeeded=summary.succeeded,
        total=summary.total,
        seconds=summary.seconds,
        size=summary.bytes / 1e6,
        warnings=summary.memory_warnings,
    )
