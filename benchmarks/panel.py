"""What looking costs: the charts' share of a core, and how long a preview lets one wait.

``python -m benchmarks.panel``

Charts: one paint a second, as the notebooks do, of ten minutes of samples and a batch of 65 files; a new
sample comes every two seconds. Preview: frames of the demo's first clip, swapped and enhanced by the
stand-ins on the CPU; the first one also loads the networks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from colab_helpers.batch.report import FileReport
from colab_helpers.batch.status import BatchStatus
from colab_helpers.machine import GIB
from colab_helpers.pages.figures import SampleHistory
from colab_helpers.pages.live import live_html
from colab_helpers.progress import Progress
from colab_helpers.resources.samples import GpuSample, Sample
from colab_helpers.settings import load_settings
from colab_helpers.ui.preview_networks import PreviewNetworks
from tests.people.clip import make_demo

FILES = 65
HISTORY, INTERVAL = 600, 2
"""Seconds of samples in the charts, and from one sample to the next."""
START = 1_790_000_000.0


def sample(number: int) -> Sample:
    """A sample in which every figure moves."""
    return Sample(
        time=START + INTERVAL * number,
        cpu_percent=50.0 + number % 40,
        ram_used=5 * GIB + number * 1_000_003 % GIB,
        ram_total=12 * GIB,
        process_memory=3 * GIB + number * 700_001 % GIB,
        disk_free=50_000_000_000 - 1_000_000 * number,
        gpu=GpuSample(
            utilisation=80.0 + number % 17,
            memory_used=6 * GIB + number * 500_009 % GIB,
            memory_total=15 * GIB,
            process_memory=5 * GIB,
            encoder=20.0 + number % 9,
            decoder=7.0 + number % 3,
            temperature=60.0 + number % 11,
            power=60.0 + number % 13,
        ),
        file="clip30.mp4",
        frame=48 * number,
        fps=24.0 + number % 5,
        queues={"decode": number % 9, "find faces": number % 7, "change faces": number % 2},
        stage="frames",
    )


def status(second: float) -> BatchStatus:
    """A batch in its middle."""
    files = [
        FileReport(target=f"/in/clip{number}.mp4", status="done" if number < 30 else "queued", frames_out=900)
        for number in range(FILES)
    ]
    files[30].status = "running"
    progress = Progress(
        file="clip30.mp4",
        file_index=30,
        file_count=FILES,
        frame=int(second) % 900,
        frames=900,
        fps=24.0,
        eta=30.0,
        ram_percent=40.0,
        gpu_percent=50.0,
        provider="cuda",
        threads=8,
        batch_size=2,
    )
    notes = [f"note number {number} on the whole run" for number in range(8)]
    return BatchStatus(
        pid=1,
        host="h",
        started=START,
        updated=START + second,
        files=files,
        notes=notes,
        progress=progress,
    )


def charts_share(paints: int) -> float:
    """Share of a core that painting once a second takes."""
    history = SampleHistory(since=START)
    history.add(iter(sample(number) for number in range(HISTORY // INTERVAL)))
    spent = 0.0
    for second in range(paints):
        if second % INTERVAL == 0:
            history.add(iter([sample((HISTORY + second) // INTERVAL)]))
        found = status(HISTORY + second)
        before = time.process_time()
        live_html(list(history.recent), found, now=found.updated)
        spent += time.process_time() - before
    return spent / paints


def preview_seconds(frames: int) -> tuple[float, float]:
    """Seconds to the first preview, and the median of those that follow."""
    with tempfile.TemporaryDirectory() as name:
        demo = make_demo(
            Path(name), true_swaps=False, seconds=4.0, size=(1280, 720), fps=Fraction(25), people=2, clips=1
        )
        networks, settings = PreviewNetworks(), load_settings("balanced", execution_provider="cpu")
        taken = []
        for frame in range(0, 100, 100 // frames):
            before = time.perf_counter()
            networks.preview(settings, demo.models, [str(demo.sources[0])], demo.targets[0], frame)
            taken.append(time.perf_counter() - before)
    return taken[0], statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paints", type=int, default=300)
    parser.add_argument("--frames", type=int, default=10, help="previews to make")
    options = parser.parse_args()
    print(f"charts and files, painted once a second: {charts_share(options.paints):.2%} of a core")
    first, later = preview_seconds(options.frames)
    print(f"preview of 1280x720 with two people: {first:.2f} s the first, {later:.2f} s each later one")


if __name__ == "__main__":
    main()
