"""What ONNX Runtime's providers are told: option dictionaries, nothing that runs.

Only options whose default is not what is wanted here are set, so that each line has a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

TENSORRT_FOLDER = "tensorrt"
"""Beside the model: TensorRT's engines and timings, which take minutes to make."""

Dimensions = Sequence[int | str | None]


def cuda_options(*, one_shape: bool, memory_limit: int = 0) -> dict[str, str]:
    """Options of the CUDA provider.

    Copies stay on the compute stream (the default): ONNX Runtime warns of data races otherwise. A stream of
    one's own cannot be made from Python without another package, and each session has its own anyway.
    TensorFloat-32 stays on (the default): its rounding is within what a comparison allows.

    Args:
        one_shape: The network sees inputs of one shape as long as it is loaded.
        memory_limit: Bytes its arena may grow to; 0 for no limit.
    """
    options = {
        # Growing by exactly what is asked keeps VRAM predictable; the default doubles each time.
        "arena_extend_strategy": "kSameAsRequested",
        # Since 1.20, ONNX Runtime plans a convolution anew whenever its input's shape changes and keeps the
        # last plan only. The thorough search (cuDNN's second heuristic) therefore pays where that happens
        # once; where batches of several sizes alternate, the quick one is asked again and again.
        "cudnn_conv_algo_search": "EXHAUSTIVE" if one_shape else "HEURISTIC",
    }
    if memory_limit:
        options["gpu_mem_limit"] = str(memory_limit)
    return options


def tensorrt_options(
    cache: Path, *, half: bool, inputs: Mapping[str, Dimensions], batches: Sequence[int]
) -> dict[str, str]:
    """Options of the TensorRT provider.

    Args:
        cache: Folder of engines and timings.
        half: The network computes in float16 already, so that TensorRT may, too.
        inputs: Shape of each input; what is no number is an axis of any length.
        batches: Sizes of batches there will be, smallest first; the middle one is tuned for.
    """
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": "1" if half else "0",
    }
    if any(not isinstance(size, int) for shape in inputs.values() for size in shape):
        sizes = {"min": batches[0], "opt": batches[len(batches) // 2], "max": batches[-1]}
        # Without the range TensorRT builds another engine for each batch size it meets, minutes each.
        options |= {f"trt_profile_{kind}_shapes": _shapes(inputs, size) for kind, size in sizes.items()}
    return options


def _shapes(inputs: Mapping[str, Dimensions], batch: int) -> str:
    """Shapes as TensorRT reads them: ``target:4x3x128x128,source:4x512``."""
    return ",".join(
        f"{name}:{'x'.join(str(size if isinstance(size, int) else batch) for size in shape)}"
        for name, shape in inputs.items()
    )
