"""Whether driver, CUDA, cuDNN and ONNX Runtime agree, and whether a network really runs on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

from colab_helpers.diagnosis.findings import INSTALL_REMEDY, Check, finding
from colab_helpers.diagnosis.subject import Subject
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB
from colab_helpers.requirements import Cuda

_NO_GPU_REMEDY = mark(
    "on Colab choose Runtime > Change runtime type > T4 GPU, then Run all; elsewhere check nvidia-smi and "
    "run 'bash setup.sh install' again; without a GPU everything runs on the CPU"
)


def agreement(subject: Subject) -> Iterator[Check]:
    """Compare what the ONNX Runtime wheel wants with what driver and libraries offer.

    A network that ran on the GPU proves that all of them agree, whatever is found lying about; only where
    none did are they looked at for the reason.
    """
    cuda, wheel, wanted = subject.environment.cuda, subject.wheel_cuda, subject.settings.execution_provider
    what, remedy, warns = "", "", wanted == "cpu"  # who asked for the CPU needs no GPU
    if subject.cuda_problem is None:
        what = tr(
            "onnxruntime-gpu for CUDA {wheel}, driver for CUDA {driver}: a network ran with them",
            wheel=wheel,
            driver=cuda.driver if cuda else None,
        )
    elif cuda is not None:
        what, remedy = _disagreement(cuda, wheel, subject.cuda_problem)
    elif subject.machine.gpu is not None:
        what = tr("the GPU is listed, but the driver's libcuda.so.1 cannot be loaded")
        remedy = tr("start the container with its GPU (docker run --gpus all), or install the driver again")
    elif wheel is None:
        what = tr("no working NVIDIA driver; ONNX Runtime for the CPU fits")
    else:
        what = tr(
            "onnxruntime-gpu wants CUDA {cuda}, but there is no working NVIDIA driver: it runs on the CPU",
            cuda=wheel,
        )
        remedy, warns = tr(_NO_GPU_REMEDY), wanted != "cuda"
    yield finding("cuda", what, remedy, warns=warns)


def _disagreement(cuda: Cuda, wheel: int | None, problem: str) -> tuple[str, str]:
    """Why no network runs although there is a driver, and the remedy."""
    if wheel is None:
        what = tr("the driver offers CUDA {cuda}, but ONNX Runtime is the CPU build", cuda=cuda.driver)
        return what, tr(INSTALL_REMEDY)
    if wheel > cuda.driver:
        what = tr(
            "onnxruntime-gpu is built for CUDA {cuda}, but the driver only offers CUDA {driver}",
            cuda=wheel,
            driver=cuda.driver,
        )
        return what, tr(
            "{install}: the build for CUDA {cuda} is installed; or install a newer driver",
            install=tr(INSTALL_REMEDY),
            cuda=cuda.driver,
        )
    if wheel not in cuda.libraries:
        missing = tr(" or ").join([tr("its runtime library"), "cuDNN 9"])
        what = tr(
            "onnxruntime-gpu wants CUDA {cuda}, but {missing} for it cannot be found",
            cuda=wheel,
            missing=missing,
        )
        return what, tr("{install}: the libraries come as packages", install=tr(INSTALL_REMEDY))
    what = tr(
        "driver and libraries for CUDA {cuda} are there, but no network runs: {problem}",
        cuda=wheel,
        problem=problem,
    )
    return what, tr("restart the session or machine, check nvidia-smi, then run 'bash setup.sh install'")


def card(subject: Subject) -> Iterator[Check]:
    """Tell the GPU's name and memory, and whether a network ran on it."""
    from colab_helpers.resources.sampler import gpu_memory

    gpu, problem = subject.machine.gpu, subject.cuda_problem
    if problem is not None or gpu is None:
        what = tr("networks run on the CPU: {problem}", problem=problem)
        yield finding("gpu", what, tr(_NO_GPU_REMEDY), warns=subject.settings.execution_provider != "cuda")
        return
    what = tr(
        "{gpu}, {memory:.1f} GB, driver {driver}; a network ran on it",
        gpu=gpu.name,
        memory=gpu.memory_total / GIB,
        driver=gpu.driver,
    )
    figures = {"vram_total_bytes": gpu.memory_total}
    memory = gpu_memory()
    if memory is not None:
        figures["vram_used_bytes"] = memory[0]
        what += tr("; {used:.1f} GB in use", used=memory[0] / GIB)
    yield finding("gpu", what, figures=figures)
