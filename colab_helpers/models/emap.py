"""The swapper's projection matrix, kept in a small file of its own beside the model.

inswapper carries the matrix as an initializer that no node uses: ONNX Runtime drops it, and finding it in
the file means parsing half a gigabyte. The small file's name holds size and modification time of the model
it was taken from, so that one left over from another model is never read.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from colab_helpers.errors import ModelError
from colab_helpers.files import write_atomically
from colab_helpers.language import tr
from colab_helpers.models.identify import broken_model

# Slow to import and needed only until the matrix has been saved once.
if TYPE_CHECKING:
    import onnx

_NAME = "buff2fs"
_SHAPE = (512, 512)


def read_emap(path: Path) -> npt.NDArray[np.float32]:
    """Return the ``(512, 512)`` projection from ArcFace embeddings to inswapper latents.

    Args:
        path: The swapper's model file. Unless the matrix was saved beside it and the model has not changed
            since, the model is parsed, which for the real one takes half a second and a gigabyte.

    Raises:
        ModelError: The file is no model or has no such matrix.
    """
    with suppress(OSError, ValueError, EOFError):  # none, or none that can be used: the model has it, too
        saved = np.load(emap_path(path), allow_pickle=False)
        if isinstance(saved, np.ndarray) and saved.shape == _SHAPE and saved.dtype == np.float32:
            return saved
    emap = _find_emap(load_model(path), where=str(path))
    with suppress(OSError):  # a folder that is only read from: parsed again next time
        save_emap(path, emap)
    return emap


def emap_path(path: Path) -> Path:
    """Where the matrix of a model, as the file is now, is kept (whether it is there or not).

    Raises:
        FileNotFoundError: There is no such model.
    """
    found = path.stat()
    return path.with_name(f"{path.stem}.emap-{found.st_size}-{found.st_mtime_ns}.npy")


def save_emap(path: Path, emap: npt.NDArray[np.float32]) -> Path:
    """Write a model's ``(512, 512)`` matrix beside it, all of it or nothing, and remove outdated ones.

    Raises:
        OSError: The folder cannot be written.
    """
    place, content = emap_path(path), io.BytesIO()
    np.save(content, np.asarray(emap, np.float32), allow_pickle=False)
    write_atomically(place, content.getvalue())
    own = re.compile(re.escape(path.stem) + r"\.emap-\d+-\d+\.npy")
    for other in place.parent.iterdir():
        if own.fullmatch(other.name) and other != place:
            other.unlink(missing_ok=True)
    return place


def load_model(path: Path) -> onnx.ModelProto:
    """Parse a model file.

    Raises:
        ModelError: It is not an ONNX model.
    """
    import onnx

    try:
        model: onnx.ModelProto = onnx.load(path)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # protobuf's own, from a package that only the ui may import from
        raise broken_model(path, str(error)) from error
    if not model.graph.node:  # to protobuf, an empty file is an empty model
        raise broken_model(path, tr("it has no nodes"))
    return model


def _find_emap(model: onnx.ModelProto, *, where: str) -> npt.NDArray[np.float32]:
    """By name first, then the only 512x512 initializer, then the last one: optimisers drop or move it."""
    from onnx import numpy_helper

    initializers = list(model.graph.initializer)
    named = [item for item in initializers if item.name == _NAME]
    square = [item for item in initializers if tuple(item.dims) == _SHAPE]
    candidates = named or (square if len(square) == 1 else initializers[-1:])
    if not candidates or tuple(candidates[0].dims) != _SHAPE:
        raise ModelError(
            tr("the swapper's projection matrix {name!r} (512x512) is missing", name=_NAME),
            where=where,
            remedy=tr("use the original inswapper_128.onnx: optimised copies lose the matrix"),
        )
    return np.asarray(numpy_helper.to_array(candidates[0]), np.float32)
