"""What limits the speed of a run, derived from the newest samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from colab_helpers.language import mark, tr
from colab_helpers.resources.samples import WARNING_PERCENT, Sample

RECENT = 30.0
"""Seconds of samples that are evaluated."""
BUSY_PERCENT = 80.0
"""Load from which the GPU or the CPU counts as the bottleneck."""
UNUSED_PERCENT = 5.0
"""Load up to which a GPU counts as not used for the networks."""
# Share of samples. The queue before the slowest stage is almost never empty and the one behind it almost
# always, whatever their depth.
_OFTEN = 0.5

DECODE, FIND, CHANGE = mark("decode"), mark("find faces"), mark("change faces")
"""Stages of the pipeline; each fills a queue."""


def bottleneck(samples: Sequence[Sample]) -> str:
    """Name the bottleneck of a run in one sentence, with the evidence of the last 30 seconds.

    For example ``GPU-bound: the networks keep the GPU busy (GPU 97 %, CPU 31 %, waiting: decode 8.0).``
    """
    recent = [sample for sample in samples if samples[-1].time - sample.time <= RECENT]
    if not recent:
        return tr("No samples yet") + "."
    if not _progresses(recent):
        limit = _stall_reason(recent)
    elif counted := [sample for sample in recent if sample.queues]:
        limit = _limit_by_queues(counted)
    else:
        limit = _limit_by_load(recent)
    return f"{tr(limit)} ({_evidence(recent)})."


def _progresses(recent: Sequence[Sample]) -> bool:
    """Return whether frames were finished; with a single sample of a file, its frame rate decides."""
    newest = recent[-1]
    frames = [(sample.file, sample.frame) for sample in recent if sample.file is not None]
    if len(frames) == 1 and newest.file is not None:
        return newest.fps > 0
    return len(set(frames)) > 1


def _stall_reason(recent: Sequence[Sample]) -> str:
    if recent[-1].ram_percent > WARNING_PERCENT:
        return mark("Waiting for memory: no frame was finished while RAM ran short")
    idle = recent[-1].file is None and not recent[-1].stage
    return mark("Idle: no file is being processed") if idle else mark("No frame was finished")


def _limit_by_queues(recent: Sequence[Sample]) -> str:
    if _usually_waits(recent, CHANGE):
        return mark("Encode-bound: frames wait for the video encoder")
    if not _usually_waits(recent, DECODE) and not _usually_waits(recent, FIND):
        return mark("Decode-bound: the networks wait for the video decoder")
    load = _mean(sample.gpu.utilisation for sample in recent if sample.gpu)
    if load is None or load <= UNUSED_PERCENT:
        return mark("The networks run on the CPU, and the other stages wait for them")
    if load >= BUSY_PERCENT:
        return mark("GPU-bound: the networks keep the GPU busy")
    return mark("Network-bound, but the GPU is not fully used: its input is prepared too slowly")


def _limit_by_load(recent: Sequence[Sample]) -> str:
    gpus = [sample.gpu for sample in recent if sample.gpu]
    loads = {
        mark("Encode-bound: the GPU's video encoder is busy"): _mean(gpu.encoder for gpu in gpus),
        mark("Decode-bound: the GPU's video decoder is busy"): _mean(gpu.decoder for gpu in gpus),
        mark("GPU-bound: the networks keep the GPU busy"): _mean(gpu.utilisation for gpu in gpus),
        mark("CPU-bound: the processors are busy"): _mean(sample.cpu_percent for sample in recent),
    }
    busy = (text for text, load in loads.items() if load is not None and load >= BUSY_PERCENT)
    return next(busy, mark("No clear bottleneck"))


def _usually_waits(recent: Sequence[Sample], stage: str) -> bool:
    """Return whether the queue that a stage fills is usually not empty."""
    return sum(sample.queues.get(stage, 0) > 0 for sample in recent) >= _OFTEN * len(recent)


def _evidence(recent: Sequence[Sample]) -> str:
    gpus = [sample.gpu for sample in recent if sample.gpu]
    loads = {
        "GPU": _mean(gpu.utilisation for gpu in gpus),
        tr("encoder"): _mean(gpu.encoder for gpu in gpus),
        "CPU": _mean(sample.cpu_percent for sample in recent),
        "RAM": _mean(sample.ram_percent for sample in recent),
    }
    parts = [f"{name} {load:.0f} %" for name, load in loads.items() if load is not None]
    counted = [sample.queues for sample in recent if sample.queues]
    names = dict.fromkeys(name for queues in counted for name in queues)
    waiting = [f"{tr(name)} {_mean(queues.get(name, 0) for queues in counted):.1f}" for name in names]
    parts += [tr("waiting: {stages}", stages=", ".join(waiting))] if waiting else []
    parts += [tr(recent[-1].stage)] if recent[-1].stage else []
    return ", ".join(parts)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
