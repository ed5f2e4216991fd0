"""The errors of a model file that is missing, or that is not what its name says."""

from __future__ import annotations

from pathlib import Path

from colab_helpers.errors import ModelError
from colab_helpers.files import sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.catalog import load_catalog

_MISSING_REMEDY = mark(
    "fetch the models with preload.ipynb or 'python -m colab_helpers preload --accept-licences', with the "
    "settings and the models folder of the run (both show the licences first, unless they are accepted), "
    "put the file there yourself, or name another folder in models_dir or COLAB_HELPERS_MODELS; the demo "
    "brings its own stand-in models"
)


def missing_model(path: Path) -> ModelError:
    """The error of a model that is not where it should be."""
    return ModelError(tr("the model file is missing"), where=str(path), remedy=tr(_MISSING_REMEDY))


def broken_model(path: Path, reason: str) -> ModelError:
    """The error of a file that does not load: which one it is, and which one was expected."""
    listed = [entry for entry in load_catalog().models.values() if path.match(entry.path)]
    wanted = [f"{one.digest} ({one.bytes} bytes)" for entry in listed for one in entry.sources]
    try:
        is_there = f"{sha256_of(path)} ({path.stat().st_size} bytes)"
    except OSError as error:
        is_there = str(error.strerror)
    told = mark("ONNX Runtime cannot load the model ({reason}): the file is {file}")
    if wanted:
        told = mark(
            "ONNX Runtime cannot load the model ({reason}): the file is {file}, published are {wanted}"
        )
    return ModelError(
        tr(told, reason=reason, file=is_there, wanted=", ".join(wanted)),
        where=str(path),
        remedy=tr(
            "it is damaged, cut off, or no ONNX file: fetch it again with 'python -m colab_helpers preload "
            "--accept-licences', or put the real file there"
        ),
    )
