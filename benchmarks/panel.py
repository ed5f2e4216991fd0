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
"""Seconds of samples in the charts, and from one sample to the next."""


def moving(number: int) -> Sample:
    """A sample in which every figure moves."""
    gpu = {name: value + number % 13 for name, value in GPU.items()}
    queues = {"decode": number % 9, "find faces": number % 7, "change faces": number % 2}
    return sample(number, gpu=gpu, cpu_percent=50.0 + number % 40, fps=24.0 + number % 5, queues=queues)


def middle(second: float) -> BatchStatus:
    """A batch in its middle."""
    files = [
        a_file(f"/in/clip{number}.mp4", "/out/x.mp4" if number < 30 else None) for number in range(FILES)
    ]
    for file in files[30:]:
        file.status = "queued"
    files[30].status = "running"
    progress = a_progress(int(second) % 900, 900, file="clip30.mp4", file_index=30, file_count=FILES)
    notes = [f"note number {number} on the whole run" for number in range(8)]
    return a_status(*files, updated=START + second, notes=notes, progress=progress)


def charts_share(paints: int) -> float:
    """Share of a core that painting once a second takes."""
    history = [moving(number) for number in range(HISTORY // INTERVAL)]
    spent = 0.0
    for second in range(paints):
        if second % INTERVAL == 0:
            history = [*history[1:], moving((HISTORY + second) // INTERVAL)]
        found = middle(HISTORY + second)
        before = time.process_time()
        live_html(history, found, now=found.updated)
        spent += time.process_time() - before
    return spent / paints


def preview_seconds(frames: int) -> tuple[float, float]:
    """Seconds to the first preview, and the median of those that follow."""
    with tempfile.TemporaryDirectory() as name:
        demo = make_demo(Path(name), true_swaps=False, size=(1280, 720), clips=1)
        networks = PreviewNetworks()
        request = BatchRequest(
            sources=(str(demo.sources[0]),),
            models_dir=str(demo.models),
            overrides={"execution_provider": "cpu"},
            consent="Rendered people of the demo: synthetic.",
        )
        taken = []
        for frame in range(0, 100, 100 // frames):
            before = time.perf_counter()
            networks.preview(request, Path(name), demo.targets[0], frame)
            taken.append(time.perf_counter() - before)
    return taken[0], statistics.median(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--paints", type=int, default=300)
    parser.add_argument("--frames", type=int, default=10, help="previews to make")
    options = parser.parse_args()
    print(f"charts and files, painted once a second: {charts_share(options.paints):.2%} of a core")
    first, later = preview_seconds(options.frames)
    print(f"preview of 1280x720 with two people: {first:.2f} s the first, {later:.2f} s each later one")


if __name__ == "__main__":
    main()
