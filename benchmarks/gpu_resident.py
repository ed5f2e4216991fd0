"""Measure frames that stay on the GPU from decoder to encoder (an experiment; the product does not do this).

A trivial network inverts each frame. ``copied``: frames are decoded on the GPU, copied to memory, and passed
to network and encoder from there. ``resident``: the network reads the decoder's planes in place, and its
output goes to NVENC by DLPack. Worth adopting only if a real GPU is a third faster with it.
"""

from __future__ import annotations

import ctypes
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnxruntime
from av.codec.hwaccel import HWAccel
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.diagnosis.bench_networks import IR_VERSION, OPSET
from colab_helpers.media.encoders import choose_encoder
from colab_helpers.media.probe import probe
from colab_helpers.models.session import Provider, create_session


def resident(clip: Path, provider: Provider) -> dict[str, Any]:
    """Return the cost per frame of both methods, or why it is not available; on the CPU both use memory."""
    rows = dict[str, Any]()
    for method in ("copied", "resident"):
        try:
            rows[method] = _invert_clip(clip, provider, in_place=method == "resident")
        except (av.FFmpegError, RuntimeError, ValueError, NotImplementedError) as error:
            rows[method] = f"not available: {error}"
    return rows


def _invert_clip(clip: Path, provider: Provider, *, in_place: bool) -> dict[str, Any]:
    """Decode, invert and encode a clip; return milliseconds per frame and the error of the mean luma."""
    info, output, on_gpu = probe(clip), clip.with_name(f"inverted-{in_place}.mp4"), provider == "cuda"
    encoder = choose_encoder(info, wanted="auto", quality=23, preset=None).name
    encodes = encoder == "h264_nvenc" or not on_gpu  # x264 cannot read frames on the GPU
    hwaccel = HWAccel("cuda", allow_software_fallback=False, is_hw_owned=in_place) if on_gpu else None
    started, cpu_started, frames = time.monotonic(), time.process_time(), 0
    with av.open(str(clip), hwaccel=hwaccel) as reader, av.open(str(output), "w") as writer:
        reader.streams.video[0].thread_type = "AUTO"
        stream: Any = writer.add_stream(encoder, rate=24)
        stream.width, stream.height = info.width, info.height
        network: onnxruntime.InferenceSession | None = None
        for frames, frame in enumerate(reader.decode(video=0), 1):
            network = network or create_session(_inverting(frame), provider)
            inverted = _run(network, frame, provider if in_place else None)
            if frames == 1:
                stream.pix_fmt = inverted.format.name
            inverted.pts, inverted.time_base = frames - 1, Fraction(1, 24)
            writer.mux(stream.encode(inverted) if encodes else [])
        writer.mux(stream.encode(None) if encodes else [])
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    row = {"frames": frames, "ms": 1e3 * seconds / frames, "cpu_ms": 1e3 * cpu_seconds / frames}
    error = abs(_luma(output) + _luma(clip) - 255) if encodes else None
    return row | {"encoder": encoder if encodes else "none", "luma_off": error}


def _inverting(frame: av.VideoFrame) -> bytes:
    """Return a network that inverts a frame's padded planes and drops the padding."""
    numbers: dict[str, Any] = {
        "white": np.array(255, np.float32),
        "from": np.array([0]),
        "axis": np.array([1]),
    }
    nodes, inputs, outputs = list[Any](), list[Any](), list[Any]()
    for n, plane in enumerate(frame.planes):
        row = plane.width * (2 if n and len(frame.planes) == 2 else 1)  # NV12 has both chromas in one plane
        numbers[f"to{n}"] = np.array([row])
        nodes += [
            helper.make_node("Cast", [f"in{n}"], [f"float{n}"], to=TensorProto.FLOAT),
            helper.make_node("Slice", [f"float{n}", "from", f"to{n}", "axis"], [f"cut{n}"]),
            helper.make_node("Sub", ["white", f"cut{n}"], [f"negative{n}"]),
            helper.make_node("Cast", [f"negative{n}"], [f"out{n}"], to=TensorProto.UINT8),
        ]
        for values, name, width in ((inputs, f"in{n}", plane.line_size), (outputs, f"out{n}", row)):
            values.append(helper.make_tensor_value_info(name, TensorProto.UINT8, [plane.height, width]))
    constants = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "negative", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
    return bytes(model.SerializeToString())


def _run(network: Any, frame: Any, device: str | None) -> av.VideoFrame:
    """Run the network on a frame: bound to its planes on ``device``, or on a copy in memory (None)."""
    planes = [(plane, (plane.height, plane.line_size)) for plane in frame.planes]
    layout = (frame.sw_format or frame.format).name
    if device is None:
        arrays = [np.frombuffer(plane, np.uint8).reshape(shape) for plane, shape in planes]
        outputs = network.run(None, {f"in{n}": array for n, array in enumerate(arrays)})
    else:
        binding = network.io_binding()
        for n, (plane, shape) in enumerate(planes):
            binding.bind_input(f"in{n}", device, 0, np.uint8, shape, plane.buffer_ptr)
            binding.bind_output(f"out{n}", device)
        if device == "cuda":
            ctypes.CDLL("libcuda.so.1").cuCtxSynchronize()  # the decoder uses another CUDA stream
        network.run_with_iobinding(binding)
        outputs = binding.get_outputs()
    return av.VideoFrame.from_dlpack(outputs, format=layout, width=frame.width, height=frame.height)


def _luma(path: Path) -> float:
    """Return the mean of the first frame's luma samples."""
    with av.open(str(path)) as container:
        frame: Any = next(container.decode(video=0))
        plane = frame.planes[0]
        return float(np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].mean())
