"""Whether driver, CUDA, cuDNN and ONNX Runtime agree, and whether a network really runs on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check, CheckStatus
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.machine import GIB

_NO_GPU_REMEDY = (
    "on Colab choose Runtime > Change runtime type > T4 GPU, then Run all; elsewhere check nvidia-smi and "
    "run 'bash setup.sh install' again; without a GPU everything runs on the CPU"
)


def agreement(subject: Subject) -> Iterator[Check]:
    """What the ONNX Runtime wheel wants against what driver and libraries offer.

    A network that ran on the GPU proves that all of them agree, whatever is found lying about; only where
    none did are they looked at for the reason.
    """
    if subject.cuda_problem is None:
        detail = f"onnxruntime-gpu for CUDA {subject.wheel_cuda}, driver for CUDA {_driver(subject)}"
        yield Check(name="cuda", status="pass", detail=f"{detail}: a network ran with them")
    elif subject.environment.cuda is None:
        yield _without_driver(subject)
    else:
        detail, remedy = _disagreement(subject)
        # With the CPU asked for, an installation that cannot use the GPU harms nobody.
        status: CheckStatus = "warn" if subject.settings.execution_provider == "cpu" else "fail"
        yield Check(name="cuda", status=status, detail=detail, remedy=remedy)


def _driver(subject: Subject) -> int | None:
    return subject.environment.cuda.driver if subject.environment.cuda else None


def _without_driver(subject: Subject) -> Check:
    if subject.machine.gpu is not None:
        return Check(
            name="cuda",
            status="warn" if subject.settings.execution_provider == "cpu" else "fail",
            detail="the GPU is listed, but the driver's libcuda.so.1 cannot be loaded",
            remedy="start the container with its GPU (docker run --gpus all), or install the driver again",
        )
    if subject.wheel_cuda is None:
        detail = "no working NVIDIA driver; ONNX Runtime for the CPU fits"
        return Check(name="cuda", status="pass", detail=detail)
    return Check(
        name="cuda",
        status="fail" if subject.settings.execution_provider == "cuda" else "warn",
        detail=f"onnxruntime-gpu wants CUDA {subject.wheel_cuda}, but there is no working NVIDIA driver: "
        "it runs on the CPU",
        remedy=_NO_GPU_REMEDY,
    )


def _disagreement(subject: Subject) -> tuple[str, str]:
    """Why no network runs although there is a driver, and the remedy."""
    cuda, wheel = subject.environment.cuda, subject.wheel_cuda
    assert cuda is not None
    if wheel is None:
        return f"the driver offers CUDA {cuda.driver}, but ONNX Runtime is the CPU build", INSTALL_REMEDY
    if wheel > cuda.driver:
        return (
            f"onnxruntime-gpu is built for CUDA {wheel}, but the driver only offers CUDA {cuda.driver}",
            f"{INSTALL_REMEDY}: the build for CUDA {cuda.driver} is installed; or install a newer driver",
        )
    missing = [
        what
        for what, found in (("its runtime library", cuda.runtimes), ("cuDNN 9", cuda.cudnn))
        if wheel not in found
    ]
    if missing:
        return (
            f"onnxruntime-gpu wants CUDA {wheel}, but {' and '.join(missing)} for it cannot be found",
            f"{INSTALL_REMEDY}: the libraries come as packages",
        )
    return (
        f"driver and libraries for CUDA {wheel} are there, but no network runs: {subject.cuda_problem}",
        "restart the session or machine, check nvidia-smi, then run 'bash setup.sh install'",
    )


def card(subject: Subject) -> Iterator[Check]:
    """The GPU's name and memory, and whether a network ran on it."""
    gpu, problem = subject.machine.gpu, subject.cuda_problem
    if problem is not None or gpu is None:
        yield Check(
            name="gpu",
            status="fail" if subject.settings.execution_provider == "cuda" else "warn",
            detail=f"networks run on the CPU: {problem}",
            remedy=_NO_GPU_REMEDY,
        )
        return
    used = _vram_used()
    detail = f"{gpu.name}, {gpu.memory_total / GIB:.1f} GB, driver {gpu.driver}; a network ran on it"
    figures = {"vram_total_bytes": float(gpu.memory_total)}
    if used is not None:
        detail += f"; {used / GIB:.1f} GB in use"
        figures["vram_used_bytes"] = float(used)
    yield Check(name="gpu", status="pass", detail=detail, figures=figures)


def _vram_used() -> int | None:
    from colab_helpers.resources.sampler import gpu_memory

    memory = gpu_memory()
    return None if memory is None else memory[0]


def tensorrt(subject: Subject) -> Iterator[Check]:
    """Whether TensorRT runs a small network, where the settings ask for it."""
    if not subject.settings.tensorrt:
        return
    if subject.runs_on_gpu:
        from colab_helpers.models.session import tensorrt_problem

        problem = tensorrt_problem()
    else:
        problem = "networks run on the CPU"
    yield Check(
        name="tensorrt",
        status="pass" if problem is None else "warn",
        detail="a network ran through it" if problem is None else f"it is not used: {problem}",
        remedy="" if problem is None else "set tensorrt to false, or install it for this CUDA version",
    )
