"""Profile a run in its own process: ``python -m colab_helpers.diagnosis.bench_profiler METRICS VERB …``."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from colab_helpers.startup import begin_startup

_SAMPLE_INTERVAL = 0.2
_EDGE = 640
"""Input size for networks that accept any: the detector's default."""
_TIMED_CALLS = 7
"""Number of timed calls; the median counts."""


def profile_run(words: list[str]) -> dict[str, Any]:
    """Run a verb in this process and return its profile.

    The profile contains wall and CPU milliseconds from the process's start to the first decoded frame, CPU
    seconds by thread, the number of calls of each network and the milliseconds of a call in isolation, and
    the GPU's utilisation and memory.
    """
    from colab_helpers.media.reader import FrameReader
    from colab_helpers.models.session import Network
    from colab_helpers.resources.sampler import gpu_sample

    process, first, gpu_samples = psutil.Process(), list[float](), list[Any]()
    threads, calls, ended = dict[int, tuple[str, float]](), Counter[str](), threading.Event()
    lock, models = threading.Lock(), dict[str, Network]()
    next_frame, run, run_on_device = FrameReader.__next__, Network.run, Network.run_on_device

    def counted(method: Any) -> Any:
        def call(network: Network, *inputs: Any, **options: Any) -> Any:
            with lock:
                calls[network.name] += 1
            models[network.name] = network
            return method(network, *inputs, **options)

        return call

    def timed_next(reader: FrameReader) -> Any:
        frame = next_frame(reader)
        if not first:
            first.extend((1e3 * (time.time() - process.create_time()), 1e3 * time.process_time()))
        return frame

    def sample() -> None:
        while not ended.wait(_SAMPLE_INTERVAL):
            for one in process.threads():
                threads[one.id] = _thread_name(one.id), one.user_time + one.system_time
            gpu_samples.append(gpu_sample([process.pid]))

    Network.run, Network.run_on_device = counted(run), counted(run_on_device)  # type: ignore[method-assign]
    setattr(FrameReader, "__next__", timed_next)  # noqa: B010 - mypy forbids assigning to a method
    threading.Thread(target=sample, daemon=True, name="bench").start()
    if code := import_module("colab_helpers.__main__").main(words):  # a static import would point upwards
        sys.exit(code)
    ended.set()
    return {
        **dict(zip(("first_frame_ms", "first_frame_cpu_ms"), first, strict=True)),
        "threads": _sum_by_name(threads.values()),
        "networks": {
            name: {"calls": calls[name], **_time_calls(run, models[name])} for name in sorted(calls)
        },
        "card": _summarise_gpu(gpu_samples),
    }


def _sum_by_name(threads: Iterable[tuple[str, float]]) -> dict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for name, seconds in threads:
        total[name] += seconds
    return dict(total)


def _summarise_gpu(samples: Iterable[Any]) -> dict[str, float]:
    valid = [sample for sample in samples if sample and sample.utilisation is not None]
    if not valid:
        return {}
    memory = max(sample.process_memory or sample.memory_used or 0 for sample in valid)
    return {"busy_percent": median(sample.utilisation for sample in valid), "vram_mb": memory / 1e6}


def _thread_name(native_id: int) -> str:
    """Return a thread's name if it is Python's, else ``decoder`` for FFmpeg's threads, or ``native``."""
    for thread in threading.enumerate():
        if thread.native_id == native_id:
            return thread.name
    try:
        name = Path(f"/proc/self/task/{native_id}/comm").read_text()
        return "decoder" if name.startswith("av:") else "native"
    except OSError:  # it has just ended
        return "native"


def _time_calls(run: Any, network: Any) -> dict[str, float]:
    """Return the median wall and CPU milliseconds of a network call."""
    from colab_helpers.models.parity import sample_inputs

    samples = sample_inputs(network.session, edge=_EDGE, name=network.name)
    inputs, times = [samples[name] for name in network.input_names], []
    for _ in range(_TIMED_CALLS):
        wall, cpu = time.perf_counter(), time.process_time()
        run(network, *inputs)
        times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {"ms": median(wall for wall, _ in times), "cpu_ms": median(cpu for _, cpu in times)}


if __name__ == "__main__":
    begin_startup()
    Path(sys.argv[1]).write_text(json.dumps(profile_run(sys.argv[2:])), encoding="utf-8")
