"""What ONNX Runtime's providers, and the driver below them, are told.

Only options whose default is not what is wanted here are set, so that each line has a reason.
"""

from __future__ import annotations

import ctypes

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
