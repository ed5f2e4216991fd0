"""A run watched from inside: ``python -m colab_helpers.diagnosis.bench_profiler METRICS VERB …``."""

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

_EVERY = 0.2
_EDGE = 640
"""Of a picture for a network that takes any: the detector's, as it is set."""
_ALONE = 7
"""Calls of which the median counts."""


def profile_run(words: list[str]) -> dict[str, Any]:
    """Run a verb in this process; return what was seen.

    That is when the first frame was decoded, in milliseconds of wall and processor since the process began;
    processor seconds by thread; how often each network was called, and milliseconds of a call when nothing
    else is done; the card's load and memory.
    """
    from colab_helpers.media.reader import FrameReader
    from colab_helpers.models.session import Network
    from colab_helpers.resources.sampler import gpu_sample

    process, first, cards = psutil.Process(), list[float](), list[Any]()
    threads, calls, ended = dict[int, tuple[str, float]](), Counter[str](), threading.Event()
    counting = threading.Lock()
    last, following = dict[str, Network](), FrameReader.__next__
    run, run_on_device = Network.run, Network.run_on_device

    def counted(way: Any) -> Any:
        def call(network: Network, *inputs: Any, **options: Any) -> Any:
            with counting:
                calls[network.name] += 1
            last[network.name] = network
            return way(network, *inputs, **options)

        return call

    def seen(reader: FrameReader) -> Any:
        frame = following(reader)
        if not first:
            first.extend((1e3 * (time.time() - process.create_time()), 1e3 * time.process_time()))
        return frame

    def look() -> None:
        while not ended.wait(_EVERY):
            for one in process.threads():
                threads[one.id] = _name(one.id), one.user_time + one.system_time
            cards.append(gpu_sample([process.pid]))

    Network.run, Network.run_on_device = counted(run), counted(run_on_device)  # type: ignore[method-assign]
    setattr(FrameReader, "__next__", seen)  # noqa: B010 - mypy lets no method be replaced
    threading.Thread(target=look, daemon=True, name="bench").start()
    _do(words)
    ended.set()
    return {
        **dict(zip(("first_frame_ms", "first_frame_cpu_ms"), first, strict=True)),
        "threads": _by_name(threads.values()),
        "networks": {name: {"calls": calls[name], **_alone(run, last[name])} for name in sorted(calls)},
        "card": _card(cards),
    }


def _do(words: list[str]) -> None:
    if code := import_module("colab_helpers.__main__").main(words):  # the verbs stand above this room
        sys.exit(code)


def _by_name(threads: Iterable[tuple[str, float]]) -> dict[str, float]:
    used: defaultdict[str, float] = defaultdict(float)
    for name, seconds in threads:
        used[name] += seconds
    return dict(used)


def _card(seen: Iterable[Any]) -> dict[str, float]:
    cards = [card for card in seen if card and card.utilisation is not None]
    if not cards:
        return {}
    memory = max(card.process_memory or card.memory_used or 0 for card in cards)
    return {"busy_percent": median(card.utilisation for card in cards), "vram_mb": memory / 1e6}


def _name(number: int) -> str:
    """What a thread is there for: Python's own are named, FFmpeg's say what decodes."""
    for thread in threading.enumerate():
        if thread.native_id == number:
            return thread.name
    try:
        return "decoder" if Path(f"/proc/self/task/{number}/comm").read_text().startswith("av:") else "native"
    except OSError:  # it ended just now
        return "native"


def _alone(run: Any, network: Any) -> dict[str, float]:
    from colab_helpers.models.parity import sample_inputs

    samples = sample_inputs(network.session, edge=_EDGE, name=network.name)
    inputs, took = [samples[name] for name in network.input_names], []
    for _ in range(_ALONE):
        wall, cpu = time.perf_counter(), time.process_time()
        run(network, *inputs)
        took.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return {"ms": median(wall for wall, _ in took), "cpu_ms": median(cpu for _, cpu in took)}


if __name__ == "__main__":
    begin_startup()
    Path(sys.argv[1]).write_text(json.dumps(profile_run(sys.argv[2:])), encoding="utf-8")
