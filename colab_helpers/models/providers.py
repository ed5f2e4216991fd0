"""What ONNX Runtime's providers, and the driver below them, are told.

Only options whose default is not what is wanted here are set, so that each line has a reason.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

TENSORRT_FOLDER = "tensorrt"
"""Beside the model: TensorRT's engines and timings, which take minutes to make."""

Dimensions = Sequence[int | str | None]
_DRIVER = "libcuda.so.1"
_BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC in cuda.h


def wait_without_spinning(driver: str = _DRIVER) -> bool:
    """Let threads that wait for the first GPU sleep; call it before anything runs there.

    By default the driver keeps a waiting thread turning on its processor, which decoder and encoder need: in
    the cloud a T4 comes with two.

    Returns:
        Whether the driver agreed; without one, or where it refuses, everything works as before.
    """
    try:
        cuda = ctypes.CDLL(driver)
        device = ctypes.c_int()
        failed = (
            cuda.cuInit(0)
            or cuda.cuDeviceGet(ctypes.byref(device), 0)
            or cuda.cuDevicePrimaryCtxSetFlags_v2(device, _BLOCKING_SYNC)
        )
        return not failed
    except (OSError, AttributeError):
        return False


def cuda_options(*, memory_limit: int = 0) -> dict[str, str]:
    """Options of the CUDA provider.

    Copies stay on the compute stream (the default): ONNX Runtime warns of data races otherwise. A stream of
    one's own cannot be made from Python without another package, and each session has its own anyway.
    TensorFloat-32 stays on (the default): its rounding is within what a comparison allows.

    Args:
        memory_limit: Bytes its arena may grow to; 0 for no limit.
    """
    options = {
        # Growing by exactly what is asked keeps VRAM predictable; the default doubles each time.
        "arena_extend_strategy": "kSameAsRequested",
        # A network sees inputs of one shape as long as it is loaded, so the thorough search (cuDNN's second
        # heuristic) is asked once. The quick one now and then picks something many times slower.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
    }
    if memory_limit:
        options["gpu_mem_limit"] = str(memory_limit)
    return options


def tensorrt_options(
    cache: Path, *, half: bool, inputs: Mapping[str, Dimensions], largest: int
) -> dict[str, str]:
    """Options of the TensorRT provider.

    Args:
        cache: Folder of engines and timings.
        half: The network computes in float16 already, so that TensorRT may, too.
        inputs: Shape of each input; what is no number is an axis of any length.
        largest: Size of the largest batch there will be; a quarter of it is tuned for.
    """
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": "1" if half else "0",
    }
    if any(not isinstance(size, int) for shape in inputs.values() for size in shape):
        sizes = {"min": 1, "opt": max(1, largest // 4), "max": largest}
        # Without the range TensorRT builds another engine for each batch size it meets, minutes each.
        options |= {f"trt_profile_{kind}_shapes": _shapes(inputs, size) for kind, size in sizes.items()}
    return options


def _shapes(inputs: Mapping[str, Dimensions], batch: int) -> str:
    """Shapes as TensorRT reads them: ``target:4x3x128x128,source:4x512``."""
    return ",".join(
        f"{name}:{'x'.join(str(size if isinstance(size, int) else batch) for size in shape)}"
        for name, shape in inputs.items()
    )
