"""inswapper's projection matrix (emap): an initializer that no node uses, so ONNX Runtime drops it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from colab_helpers.errors import ModelError
from colab_helpers.language import tr
from colab_helpers.models.catalog import broken_model_error

if TYPE_CHECKING:  # slow to import, and rarely needed
    import onnx

_NAME = "buff2fs"
_SHAPE = (512, 512)
_BYTES = 4 * 512 * 512
# In protobuf's encoding: field 8 is a tensor's name, field 9 its raw data, here of ``_BYTES``.
_HEADER = b"\x42\x07" + _NAME.encode() + b"\x4a\x80\x80\x40"


def read_emap(path: Path) -> npt.NDArray[np.float32]:
    """Return the ``(512, 512)`` float32 projection from ArcFace embeddings to a swapper's latents.

    The file is searched backwards for its header; only if it is serialised differently, the whole model (half
    a gigabyte) is parsed. Raise ModelError if the file is not a model or has no such matrix.
    """
    with path.open("rb") as file:
        if path.stat().st_size > _BYTES:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                start = content.rfind(_HEADER) + len(_HEADER)
                if start >= len(_HEADER) and start + _BYTES <= len(content):
                    return np.frombuffer(content[start : start + _BYTES], "<f4").reshape(_SHAPE)
    return _find_initializer(load_model(path), where=str(path))


def load_model(path: Path) -> onnx.ModelProto:
    """Parse a model file; raise ModelError if it is not a valid model."""
    import onnx

    try:
        model: onnx.ModelProto = onnx.load(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a DecodeError of protobuf, which this package must not import from
        raise broken_model_error(path, str(error)) from error
    if not model.graph.node:  # protobuf parses an empty file as an empty model
        raise broken_model_error(path, tr("it has no nodes"))
    return model


def _find_initializer(model: onnx.ModelProto, *, where: str) -> npt.NDArray[np.float32]:
    """Return the matrix by its name, else the last initializer, as insightface does."""
    from onnx import numpy_helper

    items = list(model.graph.initializer)
    matrix = next((item for item in items if item.name == _NAME), items[-1] if items else None)
    if matrix is None or tuple(matrix.dims) != _SHAPE:
        raise ModelError(
            tr("the swapper's projection matrix {name!r} (512x512) is missing", name=_NAME),
            where=where,
            remedy=tr(
                "use the original inswapper_128.onnx: optimised copies lose the matrix, and other kinds of "
                "swappers (docs/settings.md lists the supported ones) have none"
            ),
        )
    return np.asarray(numpy_helper.to_array(matrix), np.float32)
