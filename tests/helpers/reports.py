"""Synthetic reports, statuses and samples, and a parser for pages."""

from __future__ import annotations

import os
import re
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from colab_helpers.batch.report import (
    BatchReport,
    FileReport,
    FileStatus,
    MarkReport,
    ModelReport,
    Quality,
    summarize,
)
from colab_helpers.batch.status import BatchStatus
from colab_helpers.machine import GIB
from colab_helpers.progress import Progress
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.settings import Settings

START = 1_790_000_000.0
MACHINE = {
    "cpus": 4, "memory_total": 13 * GIB, "python": "3.11.7", "system": "Linux", "on_colab": True,
    "gpu": {"name": "Test Card", "memory_total": 15 * GIB, "driver": "1.2"},
}  # fmt: skip
GPU: dict[str, Any] = {
    "utilisation": 91.0, "memory_used": 6 * GIB, "memory_total": 15 * GIB, "process_memory": 5 * GIB,
    "encoder": 22.0, "decoder": 7.0, "temperature": 66.0, "power": 61.5,
}  # fmt: skip
_VOID = {"meta", "img", "br"}


def a_file(target: Path | str, output: Path | str | None = None, **values: Any) -> FileReport:
    """A file report: done if it has an output, else failed."""
    status: FileStatus = "done" if output else "failed"
    defaults = {"source": ["face.png"], "frames_in": 8, "frames_out": 8, "faces_swapped": 8, **values}
    return FileReport(
        target=str(target), output=str(output) if output else None, **{"status": status, **defaults}
    )


def a_full_file(target: Path | str, output: Path | str) -> FileReport:
    """A file report with all values known."""
    quality = Quality(
        similarity_mean=0.7123, similarity_p5=0.641, similarity_samples=11, flicker=0.42,
        missed_spans=[(0, 10), (225, 250)],
    )  # fmt: skip
    return a_file(
        target, output, source=["face.png", "other.png"], frames_in=250, frames_out=250, faces_swapped=240,
        frames_without_face=35, seconds=10.42, fps=24.0,
        mark=MarkReport(beside=False, signed_by="Ana Ruiz", made_here=False),
        encoder="h264_nvenc", provider="cuda",
        memory_before=GIB, memory_after=GIB + (50 << 20), bytes_in=2_000_000, bytes_out=1_000_000,
        video_seconds=10.0, audio_seconds=10.02, times_kept=True, segments=5, segments_kept=3,
        fallbacks=["sound was converted"], quality=quality,
    )  # fmt: skip


def a_report(*files: FileReport, **values: Any) -> BatchReport:
    """A batch report of some files."""
    counts = {name: values.pop(name, 0) for name in ("memory_warnings", "restarts")}
    summary = summarize(list(files), seconds=754.2, **counts)
    defaults = {
        "consent": "The person shown has agreed.", "settings": Settings().model_dump(mode="json"),
        "machine": MACHINE, "run": "run-7",
        "models": [ModelReport(name="inswapper_128", path="/m/inswapper_128.onnx", standin=False)],
        **values,
    }  # fmt: skip
    return BatchReport(summary=summary, files=list(files), **defaults)


def sample(number: int = 0, *, gpu: dict[str, Any] | None = GPU, **values: Any) -> Sample:
    """A sample of a busy machine, two seconds after that of the number before."""
    defaults = {
        "time": START + 2 * number, "cpu_percent": 35.0, "ram_used": 5 * GIB, "ram_total": 12 * GIB,
        "process_memory": 3 * GIB, "disk_free": 50_000_000_000, "file": "a.mp4", "frame": 48 * number,
        "fps": 24.0, "queues": {"decode": 8, "find faces": 6, "change faces": 0}, "stage": "frames",
    }  # fmt: skip
    return Sample(**{**defaults, **values}, gpu=GpuSample(**gpu) if gpu is not None else None)


def a_progress(frame: int = 120, frames: int | None = 480, **values: Any) -> Progress:
    """The progress of a running file."""
    defaults = {
        "file": "a.mp4", "file_index": 0, "file_count": 2, "fps": 24.04, "eta": 75.0, "ram_percent": 40.0,
        "gpu_percent": None, "provider": "cuda", "threads": 8, "batch_size": 4,
    }  # fmt: skip
    return Progress(frame=frame, frames=frames, **{**defaults, **values})


def a_status(*files: FileReport, **values: Any) -> BatchStatus:
    """The status of a batch running in this process."""
    defaults = {"pid": os.getpid(), "host": socket.gethostname(), "started": START, "updated": START + 60}
    return BatchStatus(**{**defaults, **values}, files=list(files))


class Page(HTMLParser):
    """Text, tags with attributes, and table rows of a page; fails on wrong nesting.

    Attributes:
        text: The visible text.
        tags: Names and attributes.
        rows: Cells of all tables.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []
        self.text = " ".join("".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._words.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of every matching tag."""
        found = (attributes for name, attributes in self.tags if name == tag)
        return [each for each in found if all(each.get(k.rstrip("_")) == v for k, v in wanted.items())]

    def fact(self, name: str) -> str:
        """The value beside a name in a table; for several files the first."""
        return next(row[1] for row in self.rows if len(row) == 2 and row[0] == name)

    def charts(self) -> dict[str, str]:
        """Charts by their accessible label up to a colon."""
        found = re.findall(r'<svg[^>]*aria-label="([^":]*)[^>]*>.*?</svg>', self.source, re.DOTALL)
        parts = re.findall(r"<svg.*?</svg>", self.source, re.DOTALL)
        return dict(zip(found, parts, strict=True))

    def safe(self) -> None:
        """Assert that the page loads nothing external and runs no script."""
        assert not re.search(r"https?:|['(\s=]//|@import|url\(|<link|<script|\son\w+=", self.source)
        for tag, attributes in self.tags:
            assert (attributes.get("src") or "data:").startswith("data:"), tag
            assert (attributes.get("href") or "#").startswith("#"), tag


def bare_sample(when: float, **values: Any) -> Sample:
    """A sample of a run on a machine without a GPU."""
    defaults = {"ram_used": 40, "ram_total": 100, "file": "a.mp4", "fps": 25.0, "stage": "frames"}
    return Sample(**{**defaults, **values}, time=when)
