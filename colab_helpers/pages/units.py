"""Format numbers, units, progress and results as text for users."""

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
"""Shown wherever results of the stand-ins could be mistaken for those of the real networks."""


def number(value: float) -> str:
    """Format a value with about three significant digits."""
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def clock_text(seconds: float) -> str:
    """Format seconds as ``m:ss``, from one hour on as ``h:mm:ss``."""
    if not math.isfinite(seconds):
        return str(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def moment(seconds: float) -> str:
    """Format a time in a video as ``m:ss.t``, so that both ends of a short span differ."""
    if not math.isfinite(seconds):
        return str(seconds)
    tenths = round(seconds * 10)
    return f"{clock_text(tenths // 10)}.{tenths % 10}"


def duration(seconds: float) -> str:
    """Format a duration in tenths of a second below one minute, else as ``clock_text``."""
    return f"{seconds:.1f} s" if seconds < 60 else clock_text(seconds)


def size(count: float) -> str:
    """Format a file size in decimal units (1 kB = 1000 bytes)."""
    for unit in (tr("bytes"), "kB", "MB"):
        if count < 1000:
            return f"{number(count)} {unit}"
        count /= 1000
    return f"{number(count)} GB"


def memory(count: float) -> str:
    """Format bytes of memory in binary units (MiB, GiB)."""
    return f"{number(count / GIB)} GiB" if abs(count) >= GIB else f"{count / 2**20:.0f} MiB"


def progress_text(progress: Progress) -> str:
    """Format the progress of a run as one line of plain text."""
    frames = f"{progress.frame}/{progress.frames}" if progress.frames else str(progress.frame)
    rate = tr("{frames} frames, {fps:.1f} frames/s", frames=frames, fps=progress.fps)
    eta = tr(", ETA {eta}", eta=clock_text(progress.eta)) if progress.eta is not None else ""
    stage = f", {tr(progress.stage)}" if progress.stage != PROCESSING else ""
    return f"{file_text(progress)}: {rate}{eta}{stage}, {machine_text(progress)}"


def file_text(progress: Progress) -> str:
    """Format the position and name of the current file: ``[1/3] clip.mp4``."""
    return printable(f"[{progress.file_index + 1}/{progress.file_count}] {progress.file}")


def machine_text(progress: Progress) -> str:
    """Format memory in use (S: system RAM, G: VRAM), execution provider, threads and batch size."""
    gpu = "-" if progress.gpu_percent is None else f"{progress.gpu_percent:.0f}%"
    text = mark("(S: {ram_percent:.0f}%, G: {gpu}), {provider}, threads {threads}, batch {batch_size}")
    names = ("ram_percent", "provider", "threads", "batch_size")
    return tr(text, gpu=gpu, **{name: getattr(progress, name) for name in names})


def notes_of(report: BatchReport) -> list[str]:
    """List the notes on the whole run, first the one on stand-in networks if any were used."""
    standins = any(model.standin for model in report.models)
    return [*([tr(STANDIN_NOTE)] if standins else []), *report.notes]


def mark_text(file: FileReport) -> str:
    """Describe how a result is marked and by whose certificate, or that it is a mere copy; else empty."""
    if file.status != "done" or file.mark is None:
        copied = file.status == "done" and not file.faces_swapped
        return tr("not marked: a copy of its target") if copied else ""
    record, where = file.mark, tr("in a sidecar file") if file.mark.beside else tr("in the file")
    parts = [tr("{where}, signed by {name}", where=where, name=record.signed_by)]
    if record.made_here:
        parts = [tr("{where}, signed with the certificate made on this machine", where=where)]
    parts += [tr("visible label: {text}", text=record.label)] if record.label else []
    parts += [tr("disclosed by: {text}", text=record.disclosure)] if record.disclosure else []
    return "; ".join(parts)


def content_text(file: FileReport) -> str:
    """Describe the result of the content check of a target; empty if there was no check."""
    check = file.content
    if check is None:
        return ""
    if check.state == "refused":
        return tr("refused: {reason}", reason=check.reason)
    passed = mark("{networks} checked {samples} frame(s) and found nothing to refuse")
    return tr(passed, networks=", ".join(check.thresholds), samples=check.samples)


def results_text(report: BatchReport) -> str:
    """Format the results as plain text, for frontends without HTML."""
    lines = [summary_text(report), *notes_of(report)]
    for file in report.files:
        counts = tr("{frames} frames, {faces} faces", frames=file.frames_out, faces=file.faces_swapped)
        outcome = (file.output if file.status == "done" else file.error) or ""
        lines.append(f"  {tr(STATE_WORDS[file.status]):7} {Path(file.target).name}: {counts}, {outcome}")
        marked = [tr("marked {how}", how=mark_text(file))] if file.mark else []
        notes = [tr("note: {note}", note=note) for note in file.fallbacks]
        lines += [f"          {line}" for line in (*marked, *notes)]
    return "\n".join(lines)


def summary_text(report: BatchReport) -> str:
    """Sum up a run in one line."""
    summary = report.summary
    text = mark("{succeeded} of {total} files in {seconds:.1f} s, {size:.1f} MB, memory warnings: {warnings}")
    values = {"succeeded": summary.succeeded, "total": summary.total, "warnings": summary.memory_warnings}
    return tr(text, seconds=summary.seconds, size=summary.bytes / 1e6, **values)
