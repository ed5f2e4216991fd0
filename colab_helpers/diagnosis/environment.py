"""Where this runs and what is there: packages, the GPU, memory, disk and folders, and which encoders work."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from colab_helpers import requirements
from colab_helpers.diagnosis.findings import EXTRAS, INSTALL_REMEDY, Check, Subject, finding
from colab_helpers.errors import ModelError
from colab_helpers.language import mark, tr
from colab_helpers.machine import GIB, disk_free
from colab_helpers.resources.sampler import gpu_memory, ram_used

MIN_MEMORY = 4 * GIB
MIN_DISK = 2 * GIB
"""What stays free beside models and results."""
COLAB_SESSION = 12 * 3600.0
"""Longest life of a Colab session, in seconds."""
_SHORT_SESSION = 3600.0
_NVENC_REMEDY = mark(
    "nothing fails without it, the CPU does the work; in a container the driver shows its video parts with "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
)
_NO_GPU_REMEDY = mark(
    "on Colab choose Runtime > Change runtime type > T4 GPU, then Run all; elsewhere check nvidia-smi and "
    "run 'bash setup.sh install' again; without a GPU everything runs on the CPU"
)


def place(subject: Subject) -> Iterator[Check]:
    """Tell whether this is Colab, and there the time left."""
    if not subject.machine.on_colab:
        yield finding("place", tr("not Colab: {system}", system=subject.machine.system))
        return
    if subject.uptime is None:
        yield finding("place", tr("Google Colab; how much of the session's 12 hours is left is not known"))
        return
    left = max(0.0, COLAB_SESSION - subject.uptime)
    what = tr("Google Colab; at most {hours:.1f} hours of the session are left", hours=left / 3600)
    remedy = ""
    if left < _SHORT_SESSION:
        remedy = tr("start a new session before a long batch (Runtime > Disconnect and delete)")
    yield finding("place", what, remedy, warns=True, figures={"session_left_s": left})


def memory(subject: Subject) -> Iterator[Check]:
    """Check the RAM, the container's limit honoured."""
    total = subject.machine.memory_total
    free = max(0, total - ram_used())
    what = tr(
        "{total:.1f} GB RAM, {free:.1f} GB free; safe for {videos} video(s) at once",
        total=total / GIB,
        free=free / GIB,
        videos=subject.machine.safe_capacity,
    )
    remedy = "" if total >= MIN_MEMORY else tr("use the preset 'stable' or a machine with more RAM")
    yield finding(
        "memory", what, remedy, warns=True, figures={"ram_total_bytes": total, "ram_free_bytes": free}
    )


def disk(subject: Subject) -> Iterator[Check]:
    """Check the room for results, and whether they can be written."""
    free, folder = disk_free(subject.folder), subject.folder.absolute()
    what, remedy = tr("{free:.1f} GB free for results", free=free / GIB), ""
    if problem := write_problem(folder):
        what = tr("{folder} cannot be written: {problem}", folder=folder, problem=problem)
        remedy = tr("choose another folder")
    elif free < MIN_DISK:
        remedy = tr("free space: 2 GB are kept free, and a result needs up to twice its target")
    yield finding("disk", what, remedy, figures={"disk_free_bytes": free})


def models_folder(subject: Subject) -> Iterator[Check]:
    """Check whether the models folder can be written, and has room for what is missing."""
    root, remedy = subject.models, ""
    free, missing = disk_free(root), bytes_missing(subject)
    if problem := write_problem(root):
        what = tr("{folder} cannot be written: {problem}", folder=root, problem=problem)
        remedy = tr(
            "name a writable folder in models_dir or COLAB_HELPERS_MODELS; until then no model is "
            "fetched or converted"
        )
    else:
        what = tr("{folder} can be written, {free:.1f} GB free", folder=root, free=free / GIB)
        if missing:
            what += tr("; {missing:.2f} GB of models are to be fetched", missing=missing / GIB)
        if missing and free < missing + MIN_DISK:
            remedy = tr("free space (2 GB are kept free), or name a folder on another disk in models_dir")
    figures = {"disk_free_bytes": free, "missing_bytes": missing}
    # What is there already can be used as it is.
    yield finding("models folder", what, remedy, warns=not missing, figures=figures)


def bytes_missing(subject: Subject) -> int:
    """Add up the models the settings need and the folder lacks, where the catalogue knows their sizes."""
    from colab_helpers.models.catalog import load_catalog, required_models

    try:
        entries = required_models(subject.settings, load_catalog())
    except ModelError:  # a model under a name of its own; that it is missing is said with the models
        return 0
    return sum(entry.bytes or 0 for entry in entries if not (subject.models / entry.path).is_file())


def write_problem(folder: Path) -> str:
    """Return why nothing can be written into a folder (or made below its nearest parent); empty if it can.

    Found by writing: permissions say nothing of read-only disks, quotas and root.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"\0" * 4096)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def drive(subject: Subject) -> Iterator[Check]:
    """Check Google Drive, where it is mounted; where it is not, there is nothing to say."""
    if (folder := subject.drive) is None:
        return
    what, remedy = tr("Google Drive is mounted at {folder}", folder=folder), ""
    if problem := write_problem(folder):
        what = tr("Google Drive is mounted at {folder}, but: {problem}", folder=folder, problem=problem)
        remedy = tr("free space on Drive, or mount it again")
    yield finding("drive", what, remedy, warns=True)


def encoder(subject: Subject) -> Iterator[Check]:
    """Check the encoder that a run would take, and NVENC."""
    from colab_helpers.media.encoders import usable_encoders  # PyAV may be what is broken

    problems = usable_encoders()
    working = [name for name, problem in problems.items() if problem is None]
    wanted = subject.settings.output_video_encoder
    good = bool(working) if wanted == "auto" else wanted in working
    what, remedy = tr("a trial encode works with none"), ""
    if working:
        what = tr("a trial encode works with {names}", names=", ".join(working))
    if "h264_nvenc" not in working:
        what += tr("; NVENC is not usable ({problem})", problem=problems["h264_nvenc"])
        remedy = tr(_NVENC_REMEDY) if subject.machine.gpu is not None else ""
    if not good:
        remedy = tr("set output_video_encoder to auto or libx264")
    yield finding("encoder", what, remedy, warns=good)


def python(subject: Subject) -> Iterator[Check]:
    """Check Python's version."""
    what, remedy = subject.machine.python, ""
    try:
        requirements.check_python(subject.project, what)
    except requirements.InstallError:
        needed = subject.project.requires_python
        what = tr("{version}, but {needed} is needed", version=what, needed=needed)
        remedy = tr("use Python 3.11, 3.12 or 3.13: PYTHON=/path/to/python3.12 bash setup.sh install")
    yield finding("python", what, remedy)


def package_versions(subject: Subject) -> Iterator[Check]:
    """Check every package that is asked for, one finding each."""
    # A run does without the extras: they are for the notebooks and for the proof against insightface.
    extras = [line for extra in EXTRAS for line in subject.project.extras[extra]]
    for line in (*subject.project.requirements, *extras, requirements.INSIGHTFACE):
        wanted, installed = requirements.requirement(line), subject.environment.installed
        name = requirements.canonical(wanted.name)
        what, remedy = installed.get(name) or tr("not installed"), ""
        if not requirements.is_satisfied(line, installed):
            what = tr("{version}; wanted is {wanted}", version=what, wanted=wanted.specifier)
            remedy = tr(INSTALL_REMEDY)
        yield finding(name, what, remedy, warns=line not in subject.project.requirements)


def runtime(subject: Subject) -> Iterator[Check]:
    """Check that there is exactly one ONNX Runtime: two distributions overwrite each other's files."""
    installed = subject.environment.installed
    found = [name for name in requirements.RUNTIMES if name in installed]
    if len(found) == 1:
        name, version = found[0], installed[found[0]]
        problem = _range_problem(name, version) or _import_problem()
        what = f"{name} {version}{f': {problem}' if problem else ''}"
        yield finding("onnxruntime", what, tr(INSTALL_REMEDY) if problem else "")
        return
    what = tr("not installed")
    if found:
        what = tr("{names} are installed and overwrite each other", names=tr(" and ").join(found))
    remedy = tr("{install}: exactly the one that fits this machine is installed", install=tr(INSTALL_REMEDY))
    yield finding("onnxruntime", what, remedy)


def _range_problem(name: str, version: str) -> str:
    lines = [requirements.RUNTIME_FOR_CPU, *requirements.RUNTIME_FOR_CUDA.values()]
    wanted = [line for line in lines if requirements.requirement(line).name == name]
    if any(requirements.is_satisfied(line, {name: version}) for line in wanted):
        return ""
    if not wanted:
        return tr("it is not one of those that are supported")
    return tr("wanted is {packages}", packages=tr(" or ").join(wanted))


def _import_problem() -> str:
    """Why the module cannot be used; removing one of two distributions leaves an empty shell."""
    try:
        module = importlib.import_module("onnxruntime")
    except Exception as error:  # noqa: BLE001 - a native library may fail to load in any way
        return tr("it cannot be imported ({error})", error=error)
    return "" if hasattr(module, "InferenceSession") else tr("its files are gone: the module is empty")


def cuda_compatibility(subject: Subject) -> Iterator[Check]:
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


def _disagreement(cuda: requirements.Cuda, wheel: int | None, problem: str) -> tuple[str, str]:
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
