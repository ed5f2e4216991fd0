"""Measure the cost of the monitor and of previews.

``python -m benchmarks.panel``

Monitor: CPU share of redrawing ten minutes of samples and a batch of 65 files once a second, as the notebooks
do; a new sample arrives every two seconds. Previews: seconds to swap and enhance frames of the demo's first
clip with the stand-ins on the CPU; the first preview also loads the networks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from colab_helpers.batch.status import BatchStatus
from colab_helpers.pages.live import live_html
from colab_helpers.request import BatchRequest
from colab_helpers.resources.samples import Sample
from colab_helpers.ui.preview_networks import PreviewNetworks
from tests.helpers.reports import GPU, START, a_file, a_progress, a_status, sample
from tests.people.clip import make_demo

FILES = 65
HISTORY, INTERVAL = 600, 2
"""Seconds of samples in the charts, and between samples."""


def varying_sample(number: int) -> Sample:
    """Return a sample in which every figure changes from one to the next."""
    gpu = {name: value + number % 13 for name, value in GPU.items()}
    queues = {"decode": number % 9, "find faces": number % 7, "change faces": number % 2}
    return sample(number, gpu=gpu, cpu_percent=50.0 + number % 40, fps=24.0 + number % 5, queues=queues)


def status_at(second: float) -> BatchStatus:
    """Return the status of a batch with 30 files done and one running."""
    files = [a_file(f"/in/clip{n}.mp4", "/out/x.mp4" if n < 30 else None) for n in range(FILES)]
    for file in files[30:]:
        file.status = "queued"
    files[30].status = "running"
    progress = a_progress(int(second) % 900, 900, file="clip30.mp4", file_index=30, file_count=FILES)
    notes = [f"note number {number} on the whole run" for number in range(8)]
    return a_status(*files, updated=START + second, notes=notes, progress=progress)


def monitor_share(redraws: int) -> float:
    """Return the share of a core that redrawing once a second takes."""
    history = [varying_sample(number) for number in range(HISTORY // INTERVAL)]
    cpu_seconds = 0.0
    for second in range(redraws):
        if second % INTERVAL == 0:
            history = [*history[1:], varying_sample((HISTORY + second) // INTERVAL)]
        status = status_at(HISTORY + second)
        started = time.process_time()
        live_html(history, status, now=status.updated)
        cpu_seconds += time.process_time() - started
    return cpu_seconds / redraws


def preview_seconds(frames: int) -> tuple[float, float]:
    """Return the seconds of the first preview, and the median of the following ones."""
    with tempfile.TemporaryDirectory() as name:
        demo = make_demo(Path(name), true_swaps=False, size=(1280, 720), clips=1)
        networks = PreviewNetworks()
        request = BatchRequest(
            sources=(str(demo.sources[0]),),
            models_dir=str(demo.models),
            overrides={"execution_provider": "cpu"},
            consent="Rendered people of the demo: synthetic.",
        )
        seconds = []
        for frame in range(0, 100, 100 // frames):
            started = time.perf_counter()
            networks.preview(request, Path(name), demo.targets[0], frame)
            seconds.append(time.perf_counter() - started)
    return seconds[0], statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--paints", type=int, default=300, help="how often the monitor is redrawn")
    parser.add_argument("--frames", type=int, default=10, help="number of previews, at least 2")
    options = parser.parse_args()
    print(f"charts and files, redrawn once a second: {monitor_share(options.paints):.2%} of a core")
    first, later = preview_seconds(options.frames)
    print(f"preview of 1280x720 with two people: first {first:.2f} s, later ones {later:.2f} s")


if __name__ == "__main__":
    main()
