"""Checks of the platform, packages, GPU, memory, disk, folders and encoders."""

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
"""Bytes of disk space kept free."""
COLAB_SESSION = 12 * 3600.0
"""Maximum duration of a Colab session, in seconds."""
_SHORT_SESSION = 3600.0
_NVENC_REMEDY = mark(
    "not required, videos are encoded on the CPU without it; in a container, set "
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video to make it available"
)
_NO_GPU_REMEDY = mark(
    "on Colab choose Runtime > Change runtime type > T4 GPU, then Run all; elsewhere check nvidia-smi and "
    "run 'bash setup.sh install' again; without a GPU everything runs on the CPU"
)


def platform(subject: Subject) -> Iterator[Check]:
    """Report whether this is Colab, and how much of the session is left."""
    if not subject.machine.on_colab:
        yield finding("platform", tr("not Colab: {system}", system=subject.machine.system))
        return
    if subject.uptime is None:
        yield finding("platform", tr("Google Colab; how much of the session's 12 hours is left is unknown"))
        return
    left = max(0.0, COLAB_SESSION - subject.uptime)
    what = tr("Google Colab; at most {hours:.1f} hours of the session are left", hours=left / 3600)
    remedy = ""
    if left < _SHORT_SESSION:
        remedy = tr("start a new session before a long batch (Runtime > Disconnect and delete)")
    yield finding("platform", what, remedy, warns=True, figures={"session_left_s": left})


def memory(subject: Subject) -> Iterator[Check]:
    """Check the RAM, within the container's limit."""
    total = subject.machine.memory_total
    free = max(0, total - ram_used())
    text = mark("{total:.1f} GB RAM, {free:.1f} GB free; safe for {videos} video(s) at once")
    what = tr(text, total=total / GIB, free=free / GIB, videos=subject.machine.safe_capacity)
    remedy = "" if total >= MIN_MEMORY else tr("use the preset 'stable' or a machine with more RAM")
    figures = {"ram_total_bytes": total, "ram_free_bytes": free}
    yield finding("memory", what, remedy, warns=True, figures=figures)


def disk(subject: Subject) -> Iterator[Check]:
    """Check the output folder: whether it can be written, and its free space."""
    free, folder = disk_free(subject.folder), subject.folder.absolute()
    what, remedy = tr("{free:.1f} GB free for results", free=free / GIB), ""
    if problem := write_problem(folder):
        what = tr("{folder} cannot be written: {problem}", folder=folder, problem=problem)
        remedy = tr("choose another folder")
    elif free < MIN_DISK:
        remedy = tr("free space: 2 GB are kept free, and a result needs up to twice the size of its target")
    yield finding("disk", what, remedy, figures={"disk_free_bytes": free})


def models_folder(subject: Subject) -> Iterator[Check]:
    """Check whether the models folder can be written, and has space for the missing models."""
    root, remedy = subject.models, ""
    free, missing = disk_free(root), bytes_missing(subject)
    if problem := write_problem(root):
        what = tr("{folder} cannot be written: {problem}", folder=root, problem=problem)
        remedy = tr(
            "set a writable folder in models_dir or COLAB_HELPERS_MODELS; until then models cannot be "
            "fetched or converted"
        )
    else:
        what = tr("{folder} is writable, {free:.1f} GB free", folder=root, free=free / GIB)
        if missing:
            what += tr("; {missing:.2f} GB of models are missing", missing=missing / GIB)
        if missing and free < missing + MIN_DISK:
            remedy = tr("free space (2 GB are kept free), or set a folder on another disk in models_dir")
    figures = {"disk_free_bytes": free, "missing_bytes": missing}
    # If no model is missing, a read-only folder is sufficient.
    yield finding("models folder", what, remedy, warns=not missing, figures=figures)


def bytes_missing(subject: Subject) -> int:
    """Return the total size of the missing models, as far as the catalogue knows their sizes."""
    from colab_helpers.models.catalog import load_catalog, required_models

    try:
        entries = required_models(subject.settings, load_catalog(), root=subject.models)
    except ModelError:  # a missing model that is not in the catalogue; reported by the check of the models
        return 0
    return sum(entry.bytes or 0 for entry in entries if not (subject.models / entry.path).is_file())


def write_problem(folder: Path) -> str:
    """Return why a folder (or its nearest existing parent) cannot be written; empty if it can.

    Tested by writing, since permissions do not reflect read-only disks, quotas and root.
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
    """Check Google Drive if it is mounted."""
    if (folder := subject.drive) is None:
        return
    what, remedy = tr("Google Drive is mounted at {folder}", folder=folder), ""
    if problem := write_problem(folder):
        what = tr("Google Drive is mounted at {folder}, but: {problem}", folder=folder, problem=problem)
        remedy = tr("free space on Drive, or mount it again")
    yield finding("drive", what, remedy, warns=True)


def encoder(subject: Subject) -> Iterator[Check]:
    """Check the encoder that a run would use, and NVENC."""
    from colab_helpers.media.encoders import usable_encoders  # imported here, since PyAV may be broken

    problems = usable_encoders()
    working = [name for name, problem in problems.items() if problem is None]
    setting = subject.settings.output_video_encoder
    usable = bool(working) if setting == "auto" else setting in working
    what, remedy = tr("no encoder passed a trial encode"), ""
    if working:
        what = tr("a trial encode works with {names}", names=", ".join(working))
    if "h264_nvenc" not in working:
        what += tr("; NVENC is not usable ({problem})", problem=problems["h264_nvenc"])
        remedy = tr(_NVENC_REMEDY) if subject.machine.gpu is not None else ""
    if not usable:
        remedy = tr("set output_video_encoder to auto or libx264")
    yield finding("encoder", what, remedy, warns=usable)


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
    """Check every required package, one finding each."""
    # The extras are optional: they are for the notebooks and the comparison with insightface.
    extras = [line for extra in EXTRAS for line in subject.project.extras[extra]]
    for line in (*subject.project.requirements, *extras, requirements.INSIGHTFACE):
        required, installed = requirements.requirement(line), subject.environment.installed
        name = requirements.canonical(required.name)
        what, remedy = installed.get(name) or tr("not installed"), ""
        if not requirements.is_satisfied(line, installed):
            what = tr("{version}; required: {wanted}", version=what, wanted=required.specifier)
            remedy = tr(INSTALL_REMEDY)
        yield finding(name, what, remedy, warns=line not in subject.project.requirements)


def runtime(subject: Subject) -> Iterator[Check]:
    """Check that exactly one ONNX Runtime distribution is installed: two overwrite each other's files."""
    installed = subject.environment.installed
    runtimes = [name for name in requirements.RUNTIMES if name in installed]
    if len(runtimes) == 1:
        name, version = runtimes[0], installed[runtimes[0]]
        problem = _version_problem(name, version) or _import_problem()
        what = f"{name} {version}{f': {problem}' if problem else ''}"
        yield finding("onnxruntime", what, tr(INSTALL_REMEDY) if problem else "")
        return
    what = tr("not installed")
    if runtimes:
        what = tr("{names} are installed and overwrite each other", names=tr(" and ").join(runtimes))
    remedy = tr("{install}: it installs only the one for this machine", install=tr(INSTALL_REMEDY))
    yield finding("onnxruntime", what, remedy)


def _version_problem(name: str, version: str) -> str:
    lines = [requirements.RUNTIME_FOR_CPU, *requirements.RUNTIME_FOR_CUDA.values()]
    supported = [line for line in lines if requirements.requirement(line).name == name]
    if any(requirements.is_satisfied(line, {name: version}) for line in supported):
        return ""
    if not supported:
        return tr("this distribution is not supported")
    return tr("{packages} is required", packages=tr(" or ").join(supported))


def _import_problem() -> str:
    """Return why the module cannot be used; removing one of two distributions leaves it without files."""
    try:
        module = importlib.import_module("onnxruntime")
    except Exception as error:  # noqa: BLE001 - a native library may fail to load in any way
        return tr("it cannot be imported ({error})", error=error)
    return "" if hasattr(module, "InferenceSession") else tr("the module is empty: its files are missing")


def cuda_compatibility(subject: Subject) -> Iterator[Check]:
    """Check the CUDA versions of the ONNX Runtime wheel, the driver and the libraries.

    If a network ran on the GPU, they are compatible; otherwise they are compared to find the reason.
    """
    cuda, wheel, wanted = subject.environment.cuda, subject.wheel_cuda, subject.settings.execution_provider
    what, remedy, warns = "", "", wanted == "cpu"  # a run on the CPU needs no GPU
    if subject.cuda_problem is None:
        text = mark("onnxruntime-gpu for CUDA {wheel}, driver for CUDA {driver}: a network ran with them")
        what = tr(text, wheel=wheel, driver=cuda.driver if cuda else None)
    elif cuda is not None:
        what, remedy = _incompatibility(cuda, wheel, subject.cuda_problem)
    elif subject.machine.gpu is not None:
        what = tr("the GPU is listed, but the driver's libcuda.so.1 cannot be loaded")
        remedy = tr("start the container with its GPU (docker run --gpus all), or reinstall the driver")
    elif wheel is None:
        what = tr("no working NVIDIA driver; the installed CPU build of ONNX Runtime is right")
    else:
        what = tr(
            "onnxruntime-gpu needs CUDA {cuda}, but there is no working NVIDIA driver: it runs on the CPU",
            cuda=wheel,
        )
        remedy, warns = tr(_NO_GPU_REMEDY), wanted != "cuda"
    yield finding("cuda", what, remedy, warns=warns)


def _incompatibility(cuda: requirements.Cuda, wheel: int | None, problem: str) -> tuple[str, str]:
    """Return why no network runs on the GPU although there is a driver, and the remedy."""
    install, driver = tr(INSTALL_REMEDY), cuda.driver
    if wheel is None:
        return tr("the driver supports CUDA {cuda}, but ONNX Runtime is the CPU build", cuda=driver), install
    if wheel > driver:
        text = mark("onnxruntime-gpu is built for CUDA {cuda}, but the driver only supports CUDA {driver}")
        remedy = mark("{install}: it installs the build for CUDA {cuda}; or install a newer driver")
        return tr(text, cuda=wheel, driver=driver), tr(remedy, install=install, cuda=driver)
    if wheel not in cuda.libraries:
        missing = tr(" or ").join([tr("its runtime library"), "cuDNN 9"])
        text = mark("onnxruntime-gpu needs CUDA {cuda}, but {missing} for it cannot be found")
        remedy = mark("{install}: it installs the libraries as Python packages")
        return tr(text, cuda=wheel, missing=missing), tr(remedy, install=install)
    text = mark("driver and libraries for CUDA {cuda} are installed, but no network runs: {problem}")
    remedy = mark("restart the session or machine, check nvidia-smi, then run 'bash setup.sh install'")
    return tr(text, cuda=wheel, problem=problem), tr(remedy)


def card(subject: Subject) -> Iterator[Check]:
    """Report the GPU's name and memory, and whether a network ran on it."""
    gpu, problem = subject.machine.gpu, subject.cuda_problem
    if problem is not None or gpu is None:
        what = tr("networks run on the CPU: {problem}", problem=problem)
        yield finding("gpu", what, tr(_NO_GPU_REMEDY), warns=subject.settings.execution_provider != "cuda")
        return
    text = mark("{gpu}, {memory:.1f} GB, driver {driver}; a network ran on it")
    what = tr(text, gpu=gpu.name, memory=gpu.memory_total / GIB, driver=gpu.driver)
    figures = {"vram_total_bytes": gpu.memory_total}
    if (vram := gpu_memory()) is not None:
        figures["vram_used_bytes"] = vram[0]
        what += tr("; {used:.1f} GB in use", used=vram[0] / GIB)
    yield finding("gpu", what, figures=figures)
