"""Whether driver, CUDA, cuDNN and ONNX Runtime agree, and whether a network really runs on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check, CheckStatus
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB

_NO_GPU_REMEDY = mark(
    "on Colab choose Runtime > Change runtime type > T4 GPU, then Run all; elsewhere check nvidia-smi and "
    "run 'bash setup.sh install' again; without a GPU everything runs on the CPU"
)


def agreement(subject: Subject) -> Iterator[Check]:
    """What the ONNX Runtime wheel wants against what driver and libraries offer.

    A network that ran on the GPU proves that all of them agree, whatever is found lying about; only where
    none did are they looked at for the reason.
    """
    if subject.cuda_problem is None:
        detail = tr(
            "onnxruntime-gpu for CUDA {wheel}, driver for CUDA {driver}: a network ran with them",
            wheel=subject.wheel_cuda,
            driver=_driver(subject),
        )
        yield Check(name="cuda", status="pass", detail=detail)
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
            detail=tr("the GPU is listed, but the driver's libcuda.so.1 cannot be loaded"),
            remedy=tr(
                "start the container with its GPU (docker run --gpus all), or install the driver again"
            ),
        )
    if subject.wheel_cuda is None:
        detail = tr("no working NVIDIA driver; ONNX Runtime for the CPU fits")
        return Check(name="cuda", status="pass", detail=detail)
    return Check(
        name="cuda",
        status="fail" if subject.settings.execution_provider == "cuda" else "warn",
        detail=tr(
            "onnxruntime-gpu wants CUDA {cuda}, but there is no working NVIDIA driver: it runs on the CPU",
            cuda=subject.wheel_cuda,
        ),
        remedy=tr(_NO_GPU_REMEDY),
    )


def _disagreement(subject: Subject) -> tuple[str, str]:
    """Why no network runs although there is a driver, and the remedy."""
    cuda, wheel = subject.environment.cuda, subject.wheel_cuda
    assert cuda is not None
    if wheel is None:
        what = tr("the driver offers CUDA {cuda}, but ONNX Runtime is the CPU build", cuda=cuda.driver)
        return what, tr(INSTALL_REMEDY)
    if wheel > cuda.driver:
        return (
            tr(
                "onnxruntime-gpu is built for CUDA {cuda}, but the driver only offers CUDA {driver}",
                cuda=wheel,
                driver=cuda.driver,
            ),
            tr(
                "{install}: the build for CUDA {cuda} is installed; or install a newer driver",
                install=tr(INSTALL_REMEDY),
                cuda=cuda.driver,
            ),
        )
    missing = [
        what
        for what, found in ((tr("its runtime library"), cuda.runtimes), ("cuDNN 9", cuda.cudnn))
        if wheel not in found
    ]
    if missing:
        return (
            tr(
                "onnxruntime-gpu wants CUDA {cuda}, but {missing} for it cannot be found",
                cuda=wheel,
                missing=tr(" and ").join(missing),
            ),
            tr("{install}: the libraries come as packages", install=tr(INSTALL_REMEDY)),
        )
    return (
        tr(
            "driver and libraries for CUDA {cuda} are there, but no network runs: {problem}",
            cuda=wheel,
            problem=subject.cuda_problem,
        ),
        tr("restart the session or machine, check nvidia-smi, then run 'bash setup.sh install'"),
    )


def card(subject: Subject) -> Iterator[Check]:
    """The GPU's name and memory, and whether a network ran on it."""
    gpu, problem = subject.machine.gpu, subject.cuda_problem
    if problem is not None or gpu is None:
        yield Check(
            name="gpu",
            status="fail" if subject.settings.execution_provider == "cuda" else "warn",
            detail=tr("networks run on the CPU: {problem}", problem=problem),
            remedy=tr(_NO_GPU_REMEDY),
        )
        return
    used = _vram_used()
    detail = tr(
        "{gpu}, {memory:.1f} GB, driver {driver}; a network ran on it",
        gpu=gpu.name,
        memory=gpu.memory_total / GIB,
        driver=gpu.driver,
    )
    figures = {"vram_total_bytes": float(gpu.memory_total)}
    if used is not None:
        detail += tr("; {used:.1f} GB in use", used=used / GIB)
        figures["vram_used_bytes"] = float(used)
    yield Check(name="gpu", status="pass", detail=detail, figures=figures)


def _vram_used() -> int | None:
    from colab_helpers.resources.sampler import gpu_memory

    memory = gpu_memory()
    return None if memory is None else memory[0]
