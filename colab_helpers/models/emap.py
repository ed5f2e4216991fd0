"""The swapper's projection matrix: an initializer of its file that no node uses, so ONNX Runtime drops it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from colab_helpers.errors import ModelError
from colab_helpers.language import tr
from colab_helpers.models.catalog import broken_model_error

if TYPE_CHECKING:  # slow to import, and seldom needed
    import onnx

_NAME = "buff2fs"
_SHAPE = (512, 512)
_BYTES = 4 * 512 * 512
# As protobuf writes it: field 8 is the name of a tensor, field 9 its bytes, here as many as float32 takes.
_HEAD = b"\x42\x07" + _NAME.encode() + b"\x4a\x80\x80\x40"


def read_emap(path: Path) -> npt.NDArray[np.float32]:
    """Return the ``(512, 512)`` projection from ArcFace embeddings to the latents of a swapper's file.

    It is read where it stands in the file, near its end. Only in a file that is written otherwise it is
    looked for by parsing half a gigabyte. ModelError where the file is no model or has no such matrix.
    """
    with path.open("rb") as file:
        if path.stat().st_size > _BYTES:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                start = content.rfind(_HEAD) + len(_HEAD)
                if start >= len(_HEAD) and start + _BYTES <= len(content):
                    raw = content[start : start + _BYTES]
                    return np.frombuffer(raw, "<f4").reshape(_SHAPE)
    return _in_model(load_model(path), where=str(path))


def load_model(path: Path) -> onnx.ModelProto:
    """Parse a model file; ModelError where it is none."""
    import onnx

    try:
        model: onnx.ModelProto = onnx.load(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # protobuf's own, from a package that only the ui may import from
        raise broken_model_error(path, str(error)) from error
    if not model.graph.node:  # to protobuf, an empty file is an empty model
        raise broken_model_error(path, tr("it has no nodes"))
    return model


def _in_model(model: onnx.ModelProto, *, where: str) -> npt.NDArray[np.float32]:
    """By name, else the last one, as insightface takes it."""
    from onnx import numpy_helper

    items = list(model.graph.initializer)
    found = next((item for item in items if item.name == _NAME), items[-1] if items else None)
    if found is None or tuple(found.dims) != _SHAPE:
        raise ModelError(
            tr("the swapper's projection matrix {name!r} (512x512) is missing", name=_NAME),
            where=where,
            remedy=tr(
                "use the original inswapper_128.onnx: optimised copies lose the matrix, and swappers of "
                "other kinds (those that are known stand in docs/settings.md) have none"
            ),
        )
    return np.asarray(numpy_helper.to_array(found), np.float32)
