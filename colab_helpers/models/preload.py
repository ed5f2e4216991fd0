"""Fetch all models a run needs: for the command line, the notebook, and runs with missing models."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from colab_helpers.errors import ModelError
from colab_helpers.language import tr
from colab_helpers.models.catalog import ModelEntry, load_catalog, required_models
from colab_helpers.models.download import FetchOptions
from colab_helpers.models.fetching import PreloadedFile, ProgressCallback, fetch
from colab_helpers.models.model_conversion import choose, face_processor_models
from colab_helpers.models.session import Runtime, is_standin, models_root
from colab_helpers.settings import Settings

TOKEN = "HF_TOKEN"
"""Environment variable, and Colab secret, with an access token of Hugging Face."""


class PreloadReport(BaseModel, extra="forbid", frozen=True):
    """The result of a preload."""

    version: Literal[1] = 1
    root: Path
    files: tuple[PreloadedFile, ...]
    notes: tuple[str, ...] = ()


def preload(
    settings: Settings,
    options: FetchOptions,
    *,
    models_dir: Path | None = None,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
) -> PreloadReport:
    """Fetch all models that the settings need into the models folder.

    Verified files are left alone; a second call reads only their small records, unless ``verify`` is set. On
    a machine with a working GPU, swapper and enhancer are also converted for it, see
    ``models.model_conversion``. The token defaults to ``HF_TOKEN``; for the folder see
    ``models.session.models_root``.

    Raises:
        LicenceError: A missing model's licence was not accepted.
        ModelError: A model is unknown, a file cannot be obtained, or the folder contains stand-ins.
        OutputError: There is not enough disk space, or the folder cannot be written.
    """
    root = models_root(models_dir)
    options = replace(options, token=options.token or os.environ.get(TOKEN))
    entries = required_models(settings, load_catalog(), root=root)
    _refuse_standins(root, entries)
    files = fetch(root, entries, options, verify=verify, on_progress=on_progress)
    notes = [note for item in files for note in item.notes] + _convert_for_gpu(settings, root)
    return PreloadReport(root=root, files=tuple(files), notes=tuple(notes))


def _convert_for_gpu(settings: Settings, root: Path) -> list[str]:
    """Convert swapper and enhancer for the GPU if networks run on one; return the notes."""
    if settings.execution_provider == "cpu":
        return []
    runtime = Runtime("auto")  # even if the settings require CUDA: a broken GPU must not prevent a preload
    names = face_processor_models(settings).values() if runtime.provider == "cuda" else ()
    choices = (choose(root, name, half=settings.half_precision, runtime=runtime, make=True) for name in names)
    return [*runtime.notes, *(note for choice in choices for note in choice.notes)]


def _refuse_standins(root: Path, entries: Iterable[ModelEntry]) -> None:
    """Raise ModelError for a folder of the demo's stand-ins, which must not be replaced by real models."""
    for path in (root / entry.path for entry in entries):
        if path.is_file() and is_standin(path):
            raise ModelError(
                tr("the folder contains the demo's stand-in models, which must not be replaced"),
                where=str(path),
                remedy=tr("set another folder in models_dir or COLAB_HELPERS_MODELS"),
            )
