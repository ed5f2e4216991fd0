"""What the installer decides, over made-up environments."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from colab_helpers import install
from colab_helpers.install import Cuda, Environment, Plan, Project, make_plan

ROOT = Path("/somewhere/project")
NUMPY, OPENCV, PSUTIL = "numpy>=2.0,<3", "opencv-python-headless>=4.10,<6", "psutil>=5.9.5,<8"
PROJECT = Project(
    version="0.1.0",
    requires_python=">=3.11,<3.14",
    requirements=(NUMPY, OPENCV, PSUTIL),
    extras={"notebook": ("papermill>=2.6,<3",), "dev": ("pytest>=8.3; python_version < '3'",)},
    root=ROOT,
)
COMPLETE = {
    "numpy": "2.1.3",
    "opencv-python-headless": "5.0.0.93",
    "psutil": "5.9.5",
    "onnxruntime": "1.31.1",
    "insightface": "2.1",
    "colab-helpers": "0.1.0",
}
COLAB_CUDA = Cuda(driver=13, runtimes=frozenset({12}), cudnn=frozenset({12}))
"""A driver newer than the CUDA 12.8 that everything on Colab is built with."""


def environment(
    *, cuda: Cuda | None = None, shared: bool = False, cv2: str | None = None, **changes: str | None
) -> Environment:
    named = {install.canonical(name): version for name, version in changes.items()}
    installed = {name: version for name, version in {**COMPLETE, **named}.items() if version is not None}
    root = ROOT if "colab-helpers" in installed else None
    return Environment(installed, cuda=cuda, shared=shared, cv2=cv2, editable_root=root)


def test_nothing_is_planned_where_nothing_is_missing():
    plan = make_plan(PROJECT, environment())
    assert plan.is_empty
    assert plan.notes == ()


def test_only_what_is_missing_or_out_of_range_is_installed():
    plan = make_plan(PROJECT, environment(psutil=None, numpy="1.26.4"))
    assert plan.install == (NUMPY, PSUTIL)
    assert plan.bare == ()
    assert plan.editable is None


def test_extras_count_and_markers_that_do_not_hold_do_not():
    plan = make_plan(PROJECT, environment(), ["notebook", "dev"])
    assert plan.install == ("papermill>=2.6,<3",)


def test_an_unknown_extra_is_named():
    with pytest.raises(install.InstallError, match=r"no extras gpu[\s\S]*notebook, dev"):
        make_plan(PROJECT, environment(), ["gpu"])


def test_insightface_comes_without_its_dependencies():
    plan = make_plan(PROJECT, environment(insightface=None))
    assert plan.bare == (install.INSIGHTFACE,)
    assert plan.install == ()


@pytest.mark.parametrize("version", ["0.0.9", None])
def test_a_package_of_another_version_is_installed_editable(version):
    assert make_plan(PROJECT, environment(colab_helpers=version)).editable == ROOT


def test_a_package_of_another_checkout_is_installed_editable():
    elsewhere = Environment(COMPLETE, editable_root=Path("/another/checkout"))
    assert make_plan(PROJECT, elsewhere).editable == ROOT


@pytest.mark.parametrize(
    ("cuda", "wanted"),
    [
        (None, "onnxruntime>=1.20,<2"),
        (Cuda(driver=11), "onnxruntime>=1.20,<2"),
        (Cuda(driver=12), "onnxruntime-gpu[cuda,cudnn]>=1.23,<1.27"),
        (Cuda(driver=13), "onnxruntime-gpu[cuda,cudnn]>=1.27,<2"),
        (Cuda(driver=14), "onnxruntime-gpu[cuda,cudnn]>=1.27,<2"),
        (Cuda(12, frozenset({12}), frozenset({12})), "onnxruntime-gpu>=1.23,<1.27"),
        (Cuda(13, frozenset({13}), frozenset({13})), "onnxruntime-gpu>=1.27,<2"),
        (COLAB_CUDA, "onnxruntime-gpu>=1.23,<1.27"),
        # The libraries are newer than what the driver runs: they cannot be used.
        (Cuda(12, frozenset({13}), frozenset({13})), "onnxruntime-gpu[cuda,cudnn]>=1.23,<1.27"),
        # Both are there: the one with cuDNN.
        (Cuda(13, frozenset({12, 13}), frozenset({12})), "onnxruntime-gpu>=1.23,<1.27"),
        # CUDA's runtime without cuDNN: the rest comes as packages.
        (Cuda(12, frozenset({12})), "onnxruntime-gpu[cuda,cudnn]>=1.23,<1.27"),
    ],
)
def test_the_runtime_fits_the_machine(cuda, wanted):
    plan = make_plan(PROJECT, environment(cuda=cuda, onnxruntime=None))
    assert plan.install == (wanted,)
    assert plan.remove == ()


@pytest.mark.parametrize(
    ("cuda", "installed", "remove", "wanted"),
    [
        (None, {"onnxruntime": "1.19.2"}, (), "onnxruntime>=1.20,<2"),
        (
            None,
            {"onnxruntime": None, "onnxruntime-gpu": "1.26.0"},
            ("onnxruntime-gpu",),
            "onnxruntime>=1.20,<2",
        ),
        (COLAB_CUDA, {"onnxruntime": "1.31.1"}, ("onnxruntime",), "onnxruntime-gpu>=1.23,<1.27"),
        (
            COLAB_CUDA,
            {"onnxruntime": "1.26.0", "onnxruntime-gpu": "1.26.0"},
            ("onnxruntime", "onnxruntime-gpu"),
            "onnxruntime-gpu>=1.23,<1.27",
        ),
        (COLAB_CUDA, {"onnxruntime": None, "onnxruntime-gpu": "1.31.1"}, (), "onnxruntime-gpu>=1.23,<1.27"),
    ],
)
def test_a_wrong_or_doubled_runtime_is_repaired(cuda, installed, remove, wanted):
    plan = make_plan(PROJECT, environment(cuda=cuda, **installed))
    assert plan.remove == remove
    assert plan.install == (wanted,)
    assert plan.notes


def test_two_runtimes_are_named():
    plan = make_plan(PROJECT, environment(**{"onnxruntime-gpu": "1.26.0"}))
    assert "onnxruntime and onnxruntime-gpu are installed" in plan.notes[0]


@pytest.mark.parametrize("provider", ["opencv-python", "opencv-contrib-python"])
def test_another_cv2_distribution_is_enough(provider):
    held = environment(**{"opencv-python-headless": None, provider: "4.14.0.94"})
    assert make_plan(PROJECT, held).is_empty


def test_a_cv2_without_metadata_is_enough():
    assert make_plan(PROJECT, environment(cv2="4.11.0", **{"opencv-python-headless": None})).is_empty


def test_an_old_cv2_is_renewed_and_no_second_one_added():
    held = environment(**{"opencv-python-headless": None, "opencv-python": "4.5.0"})
    assert make_plan(PROJECT, held).install == ("opencv-python<6,>=4.10",)


def test_without_any_cv2_the_headless_one_is_installed():
    assert make_plan(PROJECT, environment(**{"opencv-python-headless": None})).install == (OPENCV,)


def test_on_colab_nothing_installed_may_move():
    installed = {**COMPLETE, "torch": "2.11.0+cu128", "ipywidgets": "7.7.1", "broken": "not a version"}
    plan = Plan(install=("papermill>=2.6,<3", "onnxruntime-gpu>=1.23,<1.27"), bare=("insightface>=2.0,<3",))
    pins = install.constraint_lines(installed, plan)
    assert pins == [
        "ipywidgets==7.7.1",
        "numpy==2.1.3",
        "onnxruntime==1.31.1",
        "opencv-python-headless==5.0.0.93",
        "psutil==5.9.5",
        "torch==2.11.0+cu128",
    ]


def test_what_must_move_on_colab_is_free_and_said():
    plan = make_plan(PROJECT, environment(shared=True, psutil="5.8.0"))
    assert plan.install == (PSUTIL,)
    assert "psutil 5.8.0" in plan.notes[0]
    assert not any(pin.startswith("psutil") for pin in install.constraint_lines({"psutil": "5.8.0"}, plan))


@pytest.mark.parametrize("version", ["3.11.0", "3.12.4", "3.13.5"])
def test_fitting_pythons_are_taken(version):
    install.check_python(PROJECT, version)


@pytest.mark.parametrize("version", ["3.10.4", "3.14.0"])
def test_other_pythons_are_refused(version):
    with pytest.raises(install.InstallError, match=rf"Python {version}[\s\S]*PYTHON=") as caught:
        install.check_python(PROJECT, version)
    assert caught.value.step == "check Python"


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("error: externally-managed-environment", "leave out --system"),
        ("The interpreter at /usr is externally managed", "leave out --system"),
        ("OSError: [Errno 28] No space left on device", "free some disk space"),
        (
            "WARNING: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution\n"
            "ERROR: No matching distribution found for numpy",
            "check the network",
        ),
        ("error: Failed to fetch: dns error", "check the network"),
        ("ERROR: No matching distribution found for onnxruntime", "64-bit Python 3.11"),
        (
            "ERROR: Could not find a version that satisfies the requirement numpy (from versions: none)\n"
            "ERROR: No matching distribution found for numpy",
            "check the network and PIP_INDEX_URL",
        ),
        ("ERROR: ResolutionImpossible", "environment of its own"),
        ("SSL: CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
        ("/usr/bin/python: No module named pip", "install pip"),
        ("something nobody has seen", "read the lines above"),
    ],
)
def test_a_failure_says_what_to_do(output, remedy):
    assert remedy in install.find_remedy(output)


def module(name: str, version: object) -> ModuleType:
    made = ModuleType(name)
    made.__version__ = version
    return made


def test_modules_loaded_before_they_were_replaced_are_found():
    modules = {
        "numpy": module("numpy", "2.1.3"),
        "yaml": module("yaml", "6.0.1"),
        "torch": module("torch", "2.11.0+cu128"),
        "psutil": module("psutil", "5.9.5"),
        "cv2": module("cv2", "4.14.0"),
        "tqdm": module("tqdm", None),
    }
    versions = {
        "numpy": "2.2.0",
        "pyyaml": "6.0.3",
        "torch": "2.11.0",
        "psutil": "5.9.5.post1",
        "opencv-python-headless": "5.0.0.93",
        "tqdm": "4.67.3",
        "scipy": "1.16.3",
    }
    assert install.stale_modules(modules, versions) == [
        "numpy 2.1.3 is loaded, 2.2.0 is installed",
        "pyyaml 6.0.1 is loaded, 6.0.3 is installed",
    ]


def test_the_list_is_that_of_pyproject():
    project = install.read_project()
    assert project.root == Path(install.__file__).parents[1]
    assert {"notebook", "heif", "jupyter", "browser", "dev"} == set(project.extras)
    names = [install.canonical(install.requirement(line).name) for line in project.requirements]
    assert "numpy" in names
    assert not set(names) & {*install.RUNTIMES, "insightface"}
    assert sum(name in install.CV2_PROVIDERS for name in names) == 1


def test_the_list_can_come_from_an_installed_wheel(tmp_path, monkeypatch):
    folder = tmp_path / "colab_helpers-9.9.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: colab-helpers", "Version: 9.9", "Requires-Python: <3.14,>=3.11"]
    lines += ["Requires-Dist: numpy<3,>=2.0", "Provides-Extra: dev"]
    lines += ["Requires-Dist: ruff>=0.8; extra == 'dev'"]
    (folder / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    project = install.read_project(tmp_path)
    assert project == Project("9.9", "<3.14,>=3.11", ("numpy<3,>=2.0",), {"dev": ("ruff>=0.8",)}, None)


class FakeNvml:
    """NVML as ctypes shows it: functions that return 0 and write through pointers."""

    def __init__(self, *, devices: int, cuda: int) -> None:
        self.devices, self.cuda, self.closed = devices, cuda, False

    def nvmlInit_v2(self) -> int:  # noqa: N802 - the library's own name
        return 0

    def nvmlDeviceGetCount_v2(self, count) -> int:  # noqa: N802
        count._obj.value = self.devices
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, version) -> int:  # noqa: N802
        version._obj.value = self.cuda
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.closed = True
        return 0


def load_only(monkeypatch, libraries: dict[str, object], packages: dict[str, str] | None = None) -> None:
    monkeypatch.setattr(install, "_loads", lambda *names: next(filter(None, map(libraries.get, names)), None))
    monkeypatch.setattr(install, "installed_versions", lambda names: packages or {})


def test_the_driver_and_the_libraries_are_found(monkeypatch):
    nvml = FakeNvml(devices=1, cuda=13000)
    on_disk = {"libnvidia-ml.so.1": nvml, "libcuda.so.1": 1, "libcudart.so.12": 1, "libcudnn.so.9": 1}
    load_only(monkeypatch, on_disk)
    assert install.find_cuda() == COLAB_CUDA
    assert nvml.closed


def test_libraries_that_came_as_packages_are_found(monkeypatch):
    load_only(
        monkeypatch,
        {"libnvidia-ml.so.1": FakeNvml(devices=2, cuda=12080), "libcuda.so.1": 1},
        {"nvidia-cuda-runtime": "13.0.96", "nvidia-cuda-runtime-cu12": "12.9", "nvidia-cudnn-cu12": "9.1"},
    )
    assert install.find_cuda() == Cuda(12, frozenset({12, 13}), frozenset({12}))


@pytest.mark.parametrize(
    "libraries",
    [
        {},
        {"libcuda.so.1": 1},
        {"libnvidia-ml.so.1": FakeNvml(devices=1, cuda=12080)},  # a container without the compute part
        {"libnvidia-ml.so.1": FakeNvml(devices=0, cuda=12080), "libcuda.so.1": 1},
    ],
)
def test_without_a_working_driver_there_is_no_cuda(monkeypatch, libraries):
    load_only(monkeypatch, libraries)
    assert install.find_cuda() is None
