"""The installer's plan for simulated environments."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from colab_helpers import install, requirements
from colab_helpers.requirements import Cuda, Environment, InstallError, InstallPlan, Project, make_plan

ROOT = Path("/somewhere/project")
NUMPY, OPENCV, PSUTIL = "numpy>=2.0,<3", "opencv-python-headless>=4.10,<6", "psutil>=5.9.5,<8"
PAPERMILL = "papermill>=2.6,<3"
REPLACED = f"psutil 5.8.0 is too old or too new and will be replaced by {PSUTIL}"
PROJECT = Project("0.1.0", ">=3.11,<3.14", (NUMPY, OPENCV, PSUTIL), {"notebook": (PAPERMILL,)}, ROOT)
COMPLETE = {
    "numpy": "2.1.3",
    "opencv-python-headless": "5.0.0.93",
    "psutil": "5.9.5",
    "onnxruntime": "1.31.1",
    "insightface": "2.1",
    "colab-helpers": "0.1.0",
}
COLAB_CUDA = Cuda(13, frozenset({12}))
"""A CUDA 13 driver with the libraries of CUDA 12, as on Colab."""
CPU, CUDA_12, CUDA_13 = "onnxruntime>=1.20,<2", "onnxruntime-gpu>=1.23,<1.27", "onnxruntime-gpu>=1.27,<2"
PACKAGED_12 = CUDA_12.replace("gpu", "gpu[cuda,cudnn]")


def environment(
    cuda: Cuda | None = None, shared: bool = False, root: Path = ROOT, **changes: str | None
) -> Environment:
    changed = {requirements.canonical(name): version for name, version in changes.items()}
    installed = {name: version for name, version in {**COMPLETE, **changed}.items() if version is not None}
    return Environment(installed, cuda, shared, root if "colab-helpers" in installed else None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, InstallPlan()),
        ({"psutil": None, "numpy": "1.26.4"}, InstallPlan(install=(NUMPY, PSUTIL))),
        ({"insightface": None}, InstallPlan(no_deps=(requirements.INSIGHTFACE,))),
        ({"colab_helpers": None}, InstallPlan(editable=ROOT)),
        ({"colab_helpers": "0.0.9"}, InstallPlan(editable=ROOT)),
        ({"root": Path("/another/checkout")}, InstallPlan(editable=ROOT)),
        ({"shared": True, "psutil": "5.8.0"}, InstallPlan(install=(PSUTIL,), notes=(REPLACED,))),
    ],
)
def test_only_missing_or_unsuitable_packages_are_installed(changes, expected):
    assert make_plan(PROJECT, environment(**changes)) == expected


def test_extra_that_depends_on_onnxruntime_is_installed_without_deps():
    project, extras = PROJECT._replace(extras={"transcripts": ()}), ("transcripts",)
    assert make_plan(project, environment(), extras) == InstallPlan(
        no_deps=(requirements.NO_DEPS_PACKAGES["transcripts"],)
    )
    assert make_plan(project, environment(faster_whisper="1.2.1"), extras) == InstallPlan()
    assert make_plan(project, environment()) == InstallPlan()


def test_extras_are_installed_and_unknown_ones_refused():
    assert make_plan(PROJECT, environment(), ["notebook"]).install == (PAPERMILL,)
    with pytest.raises(InstallError, match=r"no extra gpu[\s\S]*notebook"):
        make_plan(PROJECT, environment(), ["gpu"])


@pytest.mark.parametrize(
    ("cuda", "wanted"),
    [
        (None, CPU),
        (Cuda(11), CPU),
        (Cuda(12), PACKAGED_12),
        # CUDA 13 dropped Pascal and Volta; its drivers also run CUDA 12.
        (Cuda(13), PACKAGED_12),
        (COLAB_CUDA, CUDA_12),
        (Cuda(13, frozenset({12, 13})), CUDA_12),
        (Cuda(13, frozenset({13})), CUDA_13),
        # The libraries are too new for the driver.
        (Cuda(12, frozenset({13})), PACKAGED_12),
    ],
)
def test_onnxruntime_build_fits_the_driver(cuda, wanted):
    plan = make_plan(PROJECT, environment(cuda, onnxruntime=None))
    assert (plan.install, plan.remove) == ((wanted,), ())


@pytest.mark.parametrize(
    ("cuda", "installed", "remove", "wanted"),
    [
        (None, {"onnxruntime": "1.19.2"}, (), CPU),
        (None, {"onnxruntime": None, "onnxruntime_gpu": "1.26.0"}, ("onnxruntime-gpu",), CPU),
        (COLAB_CUDA, {"onnxruntime": "1.31.1"}, ("onnxruntime",), CUDA_12),
        (COLAB_CUDA, {"onnxruntime_gpu": "1.26.0"}, ("onnxruntime", "onnxruntime-gpu"), CUDA_12),
        (COLAB_CUDA, {"onnxruntime": None, "onnxruntime_gpu": "1.31.1"}, (), CUDA_12),
    ],
)
def test_wrong_or_duplicate_onnxruntime_is_replaced(cuda, installed, remove, wanted):
    plan = make_plan(PROJECT, environment(cuda, **installed))
    assert (plan.remove, plan.install) == (remove, (wanted,))
    assert plan.notes
    assert (" and ".join(remove) in plan.notes[0]) or not remove


def test_constraints_pin_all_other_installed_packages():
    installed = {**COMPLETE, "torch": "2.11.0+cu128", "ipywidgets": "7.7.1", "broken": "not a version"}
    plan = InstallPlan(
        install=(PAPERMILL, "onnxruntime-gpu>=1.23,<1.27", PSUTIL), no_deps=("insightface>=2.0,<3",)
    )
    pinned = ["ipywidgets==7.7.1", "numpy==2.1.3", "onnxruntime==1.31.1"]
    pinned += ["opencv-python-headless==5.0.0.93", "torch==2.11.0+cu128"]
    assert requirements.constraint_lines(installed, plan) == pinned


@pytest.mark.parametrize(
    ("version", "fits"), [("3.10.4", False), ("3.11.0", True), ("3.13.5", True), ("3.14.0", False)]
)
def test_unsupported_python_is_refused(version, fits):
    if fits:
        requirements.check_python(PROJECT, version)
        return
    with pytest.raises(InstallError, match=rf"Python {version}[\s\S]*PYTHON=") as caught:
        requirements.check_python(PROJECT, version)
    assert caught.value.step == "check Python"


def module(version: object) -> ModuleType:
    found = ModuleType("found")
    found.__version__ = version
    return found


def test_loaded_modules_of_replaced_packages_are_found():
    loaded = {"numpy": "2.1.3", "yaml": "6.0.1", "torch": "2.11.0+cu128", "psutil": "5.9.5", "tqdm": None}
    versions = {"numpy": "2.2.0", "pyyaml": "6.0.3", "torch": "2.11.0", "psutil": "5.9.5.post1"}
    versions |= {"tqdm": "4.67.3", "scipy": "1.16.3"}
    assert install.stale_modules({name: module(version) for name, version in loaded.items()}, versions) == [
        "numpy 2.1.3 is loaded, 2.2.0 is installed",
        "pyyaml 6.0.1 is loaded, 6.0.3 is installed",
    ]


def test_requirements_are_read_from_an_installed_wheel(tmp_path, monkeypatch):
    folder = tmp_path / "colab_helpers-9.9.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: colab-helpers", "Version: 9.9", "Requires-Python: <3.14,>=3.11"]
    lines += ["Requires-Dist: numpy<3,>=2.0", "Requires-Dist: old; python_version < '3'"]
    lines += ["Provides-Extra: dev", "Requires-Dist: ruff>=0.8; extra == 'dev'"]
    (folder / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    project = requirements.read_project(tmp_path)
    assert project == Project("9.9", "<3.14,>=3.11", ("numpy<3,>=2.0",), {"dev": ("ruff>=0.8",)}, None)


def fake_nvml(*, devices: int, cuda: int) -> SimpleNamespace:
    """NVML as seen through ctypes: functions return 0 and write through pointers."""
    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetCount_v2=lambda count: setattr(count._obj, "value", devices) or 0,
        nvmlSystemGetCudaDriverVersion_v2=lambda version: setattr(version._obj, "value", cuda) or 0,
        nvmlShutdown=lambda: 0,
    )


NVML, LIBCUDA = "libnvidia-ml.so.1", "libcuda.so.1"
ONE, NONE = fake_nvml(devices=1, cuda=13000), fake_nvml(devices=0, cuda=13000)
BOTH = {"nvidia-cuda-runtime-cu12": "12.9", "nvidia-cudnn-cu12": "9.1", "nvidia-cuda-runtime": "13.0.96"}


@pytest.mark.parametrize(
    ("libraries", "packages", "found"),
    [
        ({NVML: ONE, LIBCUDA: 1, "libcudart.so.12": 1, "libcudnn.so.9": 1}, {}, COLAB_CUDA),
        ({NVML: ONE, LIBCUDA: 1}, BOTH, COLAB_CUDA),
        ({NVML: ONE, LIBCUDA: 1, "libcudart.so.12": 1}, {}, Cuda(13)),  # no cuDNN
        ({NVML: ONE}, {}, None),  # a container without the compute part
        ({NVML: NONE, LIBCUDA: 1}, {}, None),
        ({LIBCUDA: 1}, {}, None),
        ({}, {}, None),
    ],
)
def test_driver_and_cuda_libraries_are_found(monkeypatch, libraries, packages, found):
    monkeypatch.setattr(requirements, "_loads", libraries.get)
    monkeypatch.setattr(
        requirements, "installed_versions", lambda names: {n: packages[n] for n in names if n in packages}
    )
    assert requirements.find_cuda() == found
