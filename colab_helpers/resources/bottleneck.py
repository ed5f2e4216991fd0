"""Why a run is not faster: what the newest samples show, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from colab_helpers.language import mark, tr
from colab_helpers.resources.samples import WARNING_PERCENT, Sample

RECENT = 30.0
"""Seconds of samples that are looked at."""
BUSY_PERCENT = 80.0
"""Load from which a GPU or the processors count as the limit."""
UNUSED_PERCENT = 5.0
"""Load up to which a GPU counts as not used for the networks."""
# A queue before the slowest stage is hardly ever empty, one behind it hardly ever anything else, however
# deep the queues are.
_OFTEN = 0.5

DECODE, FIND, CHANGE = mark("decode"), mark("find faces"), mark("change faces")
"""Stages of the pipeline; each has a queue behind it."""


def bottleneck(samples: Sequence[Sample]) -> str:
    """Say in one sentence what keeps the run from going faster, with the evidence of the last 30 seconds.

    Such as ``GPU-bound: the networks keep the GPU busy (GPU 97 %, CPU 31 %, waiting: decode 8.0).``
    """
    recent = [sample for sample in samples if samples[-1].time - sample.time <= RECENT]
    if not recent:
        return tr("Nothing is known yet") + "."
    if not _moving(recent):
        limit = _why_still(recent)
    elif counted := [sample for sample in recent if sample.queues]:
        limit = _limit_by_queues(counted)
    else:
        limit = _limit_by_load(recent)
    return f"{tr(limit)} ({_evidence(recent)})."


def _moving(recent: Sequence[Sample]) -> bool:
    """Whether frames were finished; the only sample of a file is taken at its word."""
    newest = recent[-1]
    seen = [(sample.file, sample.frame) for sample in recent if sample.file is not None]
    if len(seen) == 1 and newest.file is not None:
        return newest.fps > 0
    return len(set(seen)) > 1


def _why_still(recent: Sequence[Sample]) -> str:
    if recent[-1].ram_percent > WARNING_PERCENT:
        return mark("Waiting for memory: no frame was finished while RAM ran short")
    idle = recent[-1].file is None and not recent[-1].stage
    return mark("Idle: no file is in work") if idle else mark("No frame was finished")


def _limit_by_queues(recent: Sequence[Sample]) -> str:
    if _waits(recent, CHANGE):
        return mark("Encode-bound: frames wait for the video encoder")
    if not _waits(recent, DECODE) and not _waits(recent, FIND):
        return mark("Decode-bound: the networks wait for the video decoder")
    load = _mean(sample.gpu.utilisation for sample in recent if sample.gpu)
    if load is None or load <= UNUSED_PERCENT:
        return mark("The networks run on the CPU, and the rest waits for them")
    if load >= BUSY_PERCENT:
        return mark("GPU-bound: the networks keep the GPU busy")
    return mark("The networks are the limit, though the GPU is not full: its work is prepared too slowly")


def _limit_by_load(recent: Sequence[Sample]) -> str:
    gpus = [sample.gpu for sample in recent if sample.gpu]
    loads = {
        mark("Encode-bound: the GPU's video encoder is busy"): _mean(gpu.encoder for gpu in gpus),
        mark("Decode-bound: the GPU's video decoder is busy"): _mean(gpu.decoder for gpu in gpus),
        mark("GPU-bound: the networks keep the GPU busy"): _mean(gpu.utilisation for gpu in gpus),
        mark("CPU-bound: the processors are busy"): _mean(sample.cpu_percent for sample in recent),
    }
    busy = (text for text, load in loads.items() if load is not None and load >= BUSY_PERCENT)
    return next(busy, mark("Nothing stands out as the limit"))


def _waits(recent: Sequence[Sample], stage: str) -> bool:
    """Whether something usually waits behind a stage."""
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
    """Mean of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
