from __future__ import annotations

import pickle
import sys

import psutil
import pytest

from colab_helpers import errors, machine
from colab_helpers.machine import GIB, Machine
from colab_helpers.resources import sampler
from tests.helpers.nvml import fake_nvml


@pytest.mark.parametrize(
    ("content", "expected"), [(str(4 * GIB), 4 * GIB), ("max", None), ("", None), ("9" * 25, None)]
)
def test_memory_total_respects_container_limit(content, expected, tmp_path, monkeypatch) -> None:
    (tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(machine, "_CGROUP_MEMORY_LIMITS", (tmp_path / "memory.max", tmp_path / "missing"))
    physical = psutil.virtual_memory().total
    assert machine.memory_total() == (expected or physical)


@pytest.mark.parametrize(
    ("content", "expected"), [("150000 100000", 1), ("max 100000", None), ("nonsense", None)]
)
def test_cpu_count_respects_container_quota(content, expected, tmp_path, monkeypatch) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(machine, "_CGROUP_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.cpu_count() == (expected or 8)


def test_file_cache_does_not_count_as_used(tmp_path, monkeypatch) -> None:
    (tmp_path / "current").write_text(str(3 * GIB))
    (tmp_path / "stat").write_text(f"anon 1\ninactive_file {2 * GIB}\n")
    monkeypatch.setattr(sampler, "_CGROUP_CURRENT", tmp_path / "current")
    monkeypatch.setattr(sampler, "_CGROUP_STAT", tmp_path / "stat")
    limited = Machine(2, GIB * 4, None, "3.13", "test", on_colab=False)
    monkeypatch.setattr(sampler, "this_machine", lambda: limited)
    if limited.memory_total < psutil.virtual_memory().total:
        assert sampler.ram_used() == GIB
        assert sampler.ram_percent() == 25


def test_error_text_has_location_and_remedy_and_pickles() -> None:
    error = errors.MissingFileError("there is no such file", where="a.mp4", remedy="check the path.")
    assert str(error) == "a.mp4: there is no such file. What to do: check the path."
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.MissingFileError
    assert str(copy) == str(error)
    assert isinstance(error, errors.MediaError)


# Cards in PCI bus order; the second is faster if they differ.
@pytest.mark.parametrize(
    ("visible", "order", "alike", "card"),
    [
        (None, None, True, 0),
        ("1", None, True, 1),
        ("1,0", None, True, 1),
        ("GPU-bbbb1111", None, True, 1),
        ("GPU-bbbb", None, True, 1),
        ("", None, True, None),
        ("-1", None, True, None),
        ("7", None, True, None),
        (None, None, False, 1),
        ("1", None, False, 0),
        (None, "PCI_BUS_ID", False, 0),
        ("1", "PCI_BUS_ID", False, 1),
    ],
)
def test_measured_card_is_the_one_used(visible, order, alike, card, monkeypatch) -> None:
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(cards=2, alike=alike))
    assert machine.gpu_handle() == card
    assert (machine.find_gpu() is None) == (card is None)
