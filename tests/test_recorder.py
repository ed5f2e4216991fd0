"""The resource recorder: samples, robustness, reading its file, and bottlenecks."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.machine import GIB, this_machine
from colab_helpers.resources import recorder, sampler
from colab_helpers.resources import samples as samples_module
from colab_helpers.resources.bottleneck import bottleneck
from colab_helpers.resources.recorder import Recorder
from colab_helpers.resources.samples import GpuSample, Sample, iter_samples, read_samples, recent_samples
from tests.conftest import TIMEOUT
from tests.helpers.nvml import fake_nvml
from tests.helpers.reports import a_progress


class SteppedSleep:
    """A sleep that ends when the test says so, for each sample."""

    def __init__(self) -> None:
        self.waiting = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)
        self.intervals: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.intervals.append(seconds)
        self.waiting.release()
        assert self.proceed.acquire(timeout=TIMEOUT)

    def after(self, samples: int) -> None:
        """Wait until some more samples have been taken."""
        for _ in range(samples):
            self.proceed.release()
            assert self.waiting.acquire(timeout=TIMEOUT)


@pytest.fixture
def steps() -> SteppedSleep:
    return SteppedSleep()


@dataclass
class Running:
    recorder: Recorder
    steps: SteppedSleep
    path: Path

    def end(self) -> list[Sample]:
        self.steps.proceed.release()
        self.recorder.close()
        return read_samples(self.path)


@pytest.fixture
def start(tmp_path: Path, steps: SteppedSleep) -> Iterator[Callable[..., Running]]:
    """Starts a recorder and waits for its first sample."""
    started: list[Recorder] = []

    def begin(path: Path | None = None, **options: Any) -> Running:
        path = path or tmp_path / "samples.jsonl"
        started.append(Recorder(path, tmp_path, sleep=steps.sleep, **options).start())
        assert steps.waiting.acquire(timeout=TIMEOUT)
        return Running(started[-1], steps, path)

    yield begin
    for each in started:
        steps.proceed.release()
        each.close()


def a_sample(**values: Any) -> Sample:
    return Sample(**{"time": 1000.0, "ram_used": 2 * GIB, "ram_total": 8 * GIB, **values})


def test_first_sample_at_start_last_at_end_with_values(start, tmp_path) -> None:
    clock = iter([100.0, 102.5, 104.0])
    state = a_progress(12, file="clip.mp4", fps=24.125, waiting={"decode": 3, "find faces": 1})
    running = start(clock=lambda: next(clock), run_state=lambda: state, interval=2.5)
    (first,) = read_samples(running.path)
    assert running.recorder.latest == first
    running.steps.after(1)
    samples = running.end()
    assert [sample.time for sample in samples] == [100.0, 102.5, 104.0]
    assert running.recorder.latest == samples[-1]
    assert running.steps.intervals == [2.5, 2.5]
    assert first.cpu_percent is None
    assert 0 <= samples[1].cpu_percent <= 100
    assert first.ram_total == this_machine().memory_total
    assert 0 < first.ram_used < first.ram_total
    assert first.disk_free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5)
    assert (first.file, first.frame, first.fps) == ("clip.mp4", 12, 24.12)
    assert first.queues == {"decode": 3, "find faces": 1}
    assert first.stage == "frames"
    assert all(line.count(b"{") >= 1 for line in running.path.read_bytes().splitlines())


def test_memory_includes_child_processes(start) -> None:
    code = (
        "import subprocess, sys\n"
        "child = 'import sys; held = bytearray(120 << 20); print(flush=True); sys.stdin.read()'\n"
        "p = subprocess.Popen([sys.executable, '-c', child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid, flush=True); sys.stdin.readline(); p.kill(); p.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        child = int(parent.stdout.readline())
        running = start(pid=parent.pid)
        assert running.recorder.latest.process_memory > 120 << 20
        assert recorder.memory_by_process(parent.pid).keys() == {parent.pid, child}
    finally:
        parent.communicate("\n", timeout=TIMEOUT)
    running.steps.after(1)
    gone = running.recorder.latest
    assert gone.process_memory is None
    assert gone.ram_used > 0
    running.recorder.pid = os.getpid()
    running.steps.after(1)
    assert running.recorder.latest.process_memory > 10 << 20


def test_sampling_continues_if_file_cannot_be_written(start, tmp_path) -> None:
    folder, seen = tmp_path / "drive", []
    running = start(folder / "samples.jsonl", on_sample=seen.append)
    running.steps.after(1)
    folder.mkdir()
    running.steps.after(1)
    shutil.rmtree(folder)
    running.steps.after(1)
    folder.mkdir()
    assert len(running.end()) == 1
    assert len(seen) == 5
    assert seen[-1] == running.recorder.latest


def test_errors_of_callbacks_and_driver_are_ignored(start, monkeypatch) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("bad state")

    with monkeypatch.context() as gone:
        gone.setattr(recorder, "gpu_sample", fail)
        running = start(run_state=fail, on_sample=fail)
        assert running.recorder.latest is None
    running.steps.after(1)
    samples = running.end()
    assert len(samples) == 2
    assert samples[-1].file is None
    running.recorder.close()
    assert "recorder" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("torn", [b"", b'{"time": 5, "ram_us'])
def test_resumed_run_appends_to_same_file(start, tmp_path, torn) -> None:
    path = tmp_path / "samples.jsonl"
    earlier = a_sample(time=5.0)
    path.write_bytes(earlier.model_dump_json().encode() + b"\n" + torn)
    samples = start(path).end()
    assert samples[0] == earlier
    assert len(samples) == 3


@pytest.fixture
def install_nvml(monkeypatch) -> Iterator[Callable[[types.ModuleType], None]]:
    def install(module: types.ModuleType) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", module)
        this_machine.cache_clear()
        sampler.open_gpus.cache_clear()

    yield install
    monkeypatch.undo()
    this_machine.cache_clear()
    sampler.open_gpus.cache_clear()


ALL = GpuSample(
    utilisation=87, memory_used=3 * GIB, memory_total=16 * GIB, process_memory=2 * GIB, encoder=31, decoder=0,
    temperature=64, power=71.25,
)  # fmt: skip


@pytest.mark.parametrize(
    ("missing", "pids", "expected"),
    [
        ([], {os.getpid()}, ALL),
        ([], {999_999_999}, ALL.model_copy(update={"process_memory": None})),  # in another PID namespace
        (["EncoderUtilization"], {os.getpid()}, ALL.model_copy(update={"encoder": None})),
        (["PowerUsage"], {os.getpid()}, ALL.model_copy(update={"power": None})),
        (["ComputeRunningProcesses"], {os.getpid()}, ALL.model_copy(update={"process_memory": None})),
    ],
)
def test_unsupported_gpu_values_are_none(install_nvml, missing, pids, expected) -> None:
    install_nvml(fake_nvml(missing=tuple(f"nvmlDeviceGet{name}" for name in missing)))
    assert sampler.gpu_sample(pids) == expected


def test_failing_gpu_gives_empty_sample(install_nvml) -> None:
    module = fake_nvml()
    install_nvml(module)
    assert sampler.gpu_sample(()).memory_used == 3 * GIB
    names = [name for name in vars(module) if name.startswith("nvmlDeviceGet")]
    vars(module).update(vars(fake_nvml(missing=tuple(names))))
    assert sampler.gpu_sample(()) == GpuSample()
    assert (sampler.gpu_memory_percent(), sampler.gpu_load()) == (None, None)
    install_nvml(fake_nvml(missing=("nvmlInit",)))
    assert sampler.gpu_sample(()) is None  # no driver, no GPU


def test_all_gpus_are_sampled_and_worker_finds_its_own(install_nvml, monkeypatch) -> None:
    install_nvml(fake_nvml(cards=3))
    assert sampler.other_gpus() == 2 * [GpuSample(utilisation=87, memory_used=3 * GIB, memory_total=16 * GIB)]
    assert (sampler.gpu_name(), sampler.gpu_load()) == ("GPU 0", 87.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    install_nvml(fake_nvml(cards=3, missing=("nvmlDeviceGetUtilizationRates",)))
    assert (sampler.gpu_name(), sampler.gpu_load(), sampler.other_gpus()) == ("GPU 2", None, [])
    install_nvml(fake_nvml(missing=("nvmlInit",)))
    assert (sampler.gpu_name(), sampler.gpu_load(), sampler.other_gpus()) == ("", None, [])


def write(path: Path, samples: list[Sample]) -> Path:
    path.write_text("".join(f"{sample.model_dump_json()}\n" for sample in samples))
    return path


def test_damaged_and_foreign_lines_are_skipped(tmp_path) -> None:
    valid = [a_sample(time=float(i), gpu=GpuSample(encoder=1.5)) for i in range(3)]
    lines = [sample.model_dump_json().encode() for sample in valid]
    foreign = [b"", b"\xff\xfe\x00", b"[]", b'{"time": 1}', lines[0][:-1] + b', "new": 1}', b"x" * 200_000]
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\n".join([foreign[1], lines[0], *foreign, lines[1], lines[2], lines[0][:40]]))
    assert read_samples(path) == valid
    assert read_samples(tmp_path / "none.jsonl") == []


def test_recent_samples_of_run(tmp_path, monkeypatch) -> None:
    path, samples = tmp_path / "s.jsonl", [a_sample(time=float(i)) for i in range(50)]
    length = len(samples[0].model_dump_json()) + 1
    monkeypatch.setattr(samples_module, "_RECENT_BYTES", 12 * length)
    assert recent_samples(path) == []
    write(path, samples)
    found = recent_samples(path)
    assert found == samples[-len(found) :]
    assert 10 <= len(found) <= 12
    assert recent_samples(path, since=45.0) == samples[45:]  # earlier ones belong to another run
    newest = a_sample(time=50.0).model_dump_json().encode()
    for part in (newest[:20], newest[20:] + b"\n"):  # an incomplete line is not read yet
        with path.open("ab") as file:
            file.write(part)
        assert len(recent_samples(path, since=49.0)) == (2 if b"\n" in part else 1)
    write(path, samples[:3])  # a replaced file is read anew
    assert recent_samples(path) == samples[:3]


@pytest.mark.parametrize("count", [1, 9, 10, 11, 57, 1000])
def test_thinning_is_even_and_keeps_first_and_last(tmp_path, count) -> None:
    path = write(tmp_path / "s.jsonl", [a_sample(time=float(i)) for i in range(count)])
    times = [sample.time for sample in read_samples(path, most=10)]
    assert len(times) == min(count, 10)
    assert times[0] == 0
    assert times[-1] == count - 1
    distances = [after - before for before, after in pairwise(times)]
    assert all(0 < distance <= max(1.0, 2.5 * count / 10) for distance in distances)


def test_reading_long_file_uses_little_memory(tmp_path, monkeypatch) -> None:
    """Measured by the number of samples alive at the same time."""
    path = write(tmp_path / "s.jsonl", [a_sample(time=float(i)) for i in range(5000)])
    alive, most = [0], [0]

    class Counted(Sample):
        def __init__(self, **values: Any) -> None:
            super().__init__(**values)

        @classmethod
        def model_validate(cls, data: Any, **options: Any) -> Any:
            sample = cls(**data)
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            return sample

        def __del__(self) -> None:
            alive[0] -= 1

    monkeypatch.setattr("colab_helpers.resources.samples.Sample", Counted)
    assert len(read_samples(path, most=50)) == 50
    assert most[0] <= 2 * 50 + 2


def run_of(count: int = 10, *, moving: bool = True, **values: Any) -> list[Sample]:
    base = {"file": "a.mp4", "fps": 20.0, "cpu_percent": 50.0}
    return [
        a_sample(time=1000.0 + 2 * i, frame=40 * i if moving else 7, **base | values) for i in range(count)
    ]


def queues(decode: int, find: int, change: int) -> dict[str, int]:
    return {"decode": decode, "find faces": find, "change faces": change}


ON_CPU, NETWORKS = "The networks run on the CPU", "Network-bound"
LAST_FULL, ALL_FULL, EMPTY = queues(8, 8, 0), queues(8, 8, 8), queues(0, 0, 0)
OLD = [a_sample(time=100.0 + i, file="a.mp4", frame=i, queues=ALL_FULL) for i in range(100)]
BETWEEN = [*run_of(6), a_sample(time=1021.0, cpu_percent=50.0)]


@pytest.mark.parametrize(
    ("samples", "beginning", "evidence"),
    [
        ([], "No samples yet", ""),
        (run_of(file=None, fps=0.0, moving=False), "Idle", "CPU 50 %"),
        (run_of(moving=False, stage="loading models"), "No frame was finished", "loading models"),
        (run_of(moving=False, ram_used=7 * GIB), "Waiting for memory", "RAM 88 %"),
        (run_of(queues=ALL_FULL), "Encode-bound", "change faces 8.0"),
        (run_of(queues=EMPTY), "Decode-bound", "decode 0.0"),
        (run_of(queues=LAST_FULL), ON_CPU, "waiting: decode 8.0"),
        (run_of(queues=queues(8, 0, 0)), ON_CPU, "find faces 0.0"),
        (run_of(queues=LAST_FULL, gpu=GpuSample(utilisation=97)), "GPU-bound", "GPU 97 %"),
        (run_of(queues=LAST_FULL, gpu=GpuSample(utilisation=40)), NETWORKS, "GPU 40"),
        (run_of(queues=LAST_FULL, gpu=GpuSample(utilisation=1)), ON_CPU, "GPU 1 %"),
        (run_of(gpu=GpuSample(utilisation=97)), "GPU-bound", "GPU 97 %"),
        (run_of(gpu=GpuSample(utilisation=97, encoder=99)), "Encode-bound", "encoder 99 %"),
        (run_of(gpu=GpuSample(utilisation=20, decoder=95)), "Decode-bound", "GPU 20 %"),
        (run_of(cpu_percent=99.0), "CPU-bound", "CPU 99 %"),
        (run_of(1), "No clear bottleneck", "RAM 25 %"),
        # Only the newest samples at work count; a queue that is sometimes empty is not full.
        ([*OLD, *run_of(queues=EMPTY)], "Decode-bound", ""),
        ([*run_of(4, queues=queues(8, 8, 2)), *BETWEEN], "Encode-bound", "change faces 2.0"),
        ([run_of(12, queues=queues(5, 5, i % 3))[i] for i in range(12)], "Encode-bound", ""),
    ],
)
def test_bottleneck_description(samples, beginning, evidence) -> None:
    sentence = bottleneck(samples)
    assert sentence.startswith(beginning)
    assert evidence in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_only_gpus_in_use_are_sampled(install_nvml, tmp_path) -> None:
    module = fake_nvml(cards=4)
    vars(module)["nvmlDeviceGetUtilizationRates"] = lambda handle: types.SimpleNamespace(gpu=10 * handle)
    install_nvml(module)

    def loads(*gpus: str) -> list[float | None]:
        taken = recorder.Recorder(tmp_path / "samples.jsonl", tmp_path, gpus=gpus)._take()
        assert taken.gpu is not None
        return [taken.gpu.utilisation, *(one.utilisation for one in taken.gpus)]

    assert loads("GPU-cccc1111", "GPU-bbbb1111") == [10, 20]
    assert loads("GPU-dddd1111") == [30]
    assert loads("", "") == loads() == [0, 10, 20, 30]


def test_lines_with_impossible_values_are_skipped(tmp_path) -> None:
    path = tmp_path / "samples.jsonl"
    good = {"time": 5.0, "ram_used": 1, "ram_total": 2}
    times = [{"time": time} for time in (math.nan, 1e300, -1.0)]
    bad = [*times, {"ram_used": 10**400}, {"queues": {"a": 10**400}}]
    path.write_text("\n".join(json.dumps(good | one) for one in (*bad, {})))
    assert [sample.time for sample in iter_samples(path)] == [5.0]
