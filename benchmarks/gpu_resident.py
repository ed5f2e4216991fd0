"""An experiment for a GPU: frames that stay on the card from the decoder to the encoder.

A network of no cost negates each frame. ``copied``: each is decoded on the card, brought to memory, and given
to network and encoder from there. ``resident``: the network is bound to the decoder's planes, and what it
makes goes to NVENC as it lies, by DLPack. The product takes that only if a real card shows a third more.
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
    """Return what a frame takes both ways, or why it cannot be told; without a card both are in memory."""
    found = dict[str, Any]()
    for way in ("copied", "resident"):
        try:
            found[way] = _negated(clip, provider, stays=way == "resident")
        except (av.FFmpegError, RuntimeError, ValueError, NotImplementedError) as error:
            found[way] = f"not available: {error}"
    return found


def _negated(clip: Path, provider: Provider, *, stays: bool) -> dict[str, Any]:
    """Decode, negate and encode a clip; milliseconds a frame, and how far the result's luma is off."""
    info, output, on_card = probe(clip), clip.with_name(f"negated-{stays}.mp4"), provider == "cuda"
    encoder = choose_encoder(info, wanted="auto", quality=23, preset=None).name
    encodes = encoder == "h264_nvenc" or not on_card  # frames on a card are nothing for x264
    card = HWAccel("cuda", allow_software_fallback=False, is_hw_owned=stays) if on_card else None
    started, before, frames = time.monotonic(), time.process_time(), 0
    with av.open(str(clip), hwaccel=card) as reader, av.open(str(output), "w") as writer:
        reader.streams.video[0].thread_type = "AUTO"
        stream: Any = writer.add_stream(encoder, rate=24)
        stream.width, stream.height = info.width, info.height
        network: onnxruntime.InferenceSession | None = None
        for frames, frame in enumerate(reader.decode(video=0), 1):
            network = network or create_session(_negating(frame), provider)
            made = _through(network, frame, provider if stays else None)
            if frames == 1:
                stream.pix_fmt = made.format.name
            made.pts, made.time_base = frames - 1, Fraction(1, 24)
            writer.mux(stream.encode(made) if encodes else [])
        writer.mux(stream.encode(None) if encodes else [])
    wall, processor = time.monotonic() - started, time.process_time() - before
    told = {"frames": frames, "ms": 1e3 * wall / frames, "cpu_ms": 1e3 * processor / frames}
    off = abs(_luma(output) + _luma(clip) - 255) if encodes else None
    return told | {"encoder": encoder if encodes else "none", "luma_off": off}


def _negating(frame: av.VideoFrame) -> bytes:
    """A network from a frame's planes as they lie, with their padding, to their negatives without."""
    numbers: dict[str, Any] = {
        "white": np.array(255, np.float32),
        "from": np.array([0]),
        "axis": np.array([1]),
    }
    nodes, given, made = list[Any](), list[Any](), list[Any]()
    for n, plane in enumerate(frame.planes):
        row = plane.width * (2 if n and len(frame.planes) == 2 else 1)  # of NV12: both chromas in one plane
        numbers[f"to{n}"] = np.array([row])
        nodes += [
            helper.make_node("Cast", [f"in{n}"], [f"float{n}"], to=TensorProto.FLOAT),
            helper.make_node("Slice", [f"float{n}", "from", f"to{n}", "axis"], [f"cut{n}"]),
            helper.make_node("Sub", ["white", f"cut{n}"], [f"negative{n}"]),
            helper.make_node("Cast", [f"negative{n}"], [f"out{n}"], to=TensorProto.UINT8),
        ]
        for ends, name, width in ((given, f"in{n}", plane.line_size), (made, f"out{n}", row)):
            ends.append(helper.make_tensor_value_info(name, TensorProto.UINT8, [plane.height, width]))
    constants = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
    graph = helper.make_graph(nodes, "negative", given, made, constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[opset])
    return bytes(model.SerializeToString())


def _through(network: Any, frame: Any, where: str | None) -> av.VideoFrame:
    """A frame through the network: bound to its planes on a device, or (None) by way of memory."""
    planes = [(plane, (plane.height, plane.line_size)) for plane in frame.planes]
    layout = (frame.sw_format or frame.format).name
    if where is None:
        read = [np.frombuffer(plane, np.uint8).reshape(shape) for plane, shape in planes]
        made = network.run(None, {f"in{n}": plane for n, plane in enumerate(read)})
    else:
        binding = network.io_binding()
        for n, (plane, shape) in enumerate(planes):
            binding.bind_input(f"in{n}", where, 0, np.uint8, shape, plane.buffer_ptr)
            binding.bind_output(f"out{n}", where)
        if where == "cuda":
            ctypes.CDLL("libcuda.so.1").cuCtxSynchronize()  # the decoder has a stream of its own
        network.run_with_iobinding(binding)
        made = binding.get_outputs()
    return av.VideoFrame.from_dlpack(made, format=layout, width=frame.width, height=frame.height)


def _luma(path: Path) -> float:
    """Mean of the first frame's luma, as its samples are."""
    with av.open(str(path)) as container:
        frame: Any = next(container.decode(video=0))
        plane = frame.planes[0]
        return float(np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].mean())
