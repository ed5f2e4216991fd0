"""Getting every model a run needs: for the command line, the notebook, and runs that miss some."""

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
"""Environment variable, and secret on Colab, that holds an access token of Hugging Face."""


class PreloadReport(BaseModel, extra="forbid", frozen=True):
    """What a preload did."""

    version: Literal[1] = 1
    root: Path
    files: tuple[PreloadedFile, ...]
    notes: tuple[str, ...] = ()  # each thing out of the ordinary, said once


def preload(
    settings: Settings,
    options: FetchOptions,
    *,
    models_dir: Path | None = None,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
) -> PreloadReport:
    """Bring every model that the settings ask for into the models folder.

    What is there and verified is not touched; a second call reads a few small files only. On a machine whose
    GPU works, swapper and enhancer are also made to fit it, see ``models.half``.

    The token is by default that of ``HF_TOKEN``, the folder see ``models.session.models_root``. With
    ``verify`` every file is hashed anew.

    Raises:
        LicenceError: A missing model's licence was not accepted.
        ModelError: An unknown model, a file that cannot be had, or a folder of stand-ins.
        OutputError: Too little room on the disk, or it cannot be written.
    """
    root = models_root(models_dir)
    options = replace(options, token=options.token or os.environ.get(TOKEN))
    entries = required_models(settings, load_catalog(), root=root)
    _refuse_standins(root, entries)
    files = fetch(root, entries, options, verify=verify, on_progress=on_progress)
    notes = [note for item in files for note in item.notes]
    notes += _prepared_for_gpu(settings, root)
    return PreloadReport(root=root, files=tuple(files), notes=tuple(notes))


def _prepared_for_gpu(settings: Settings, root: Path) -> list[str]:
    """Make swapper and enhancer fit the GPU, if networks run on one; what was done and what was refused."""
    if settings.execution_provider == "cpu":
        return []
    runtime = Runtime("auto")  # a GPU that does not work is the doctor's subject, no reason to fetch nothing
    names = face_processor_models(settings).values() if runtime.provider == "cuda" else ()
    made = (choose(root, name, half=settings.half_precision, runtime=runtime, make=True) for name in names)
    return [*runtime.notes, *(note for choice in made for note in choice.notes)]


def _refuse_standins(root: Path, entries: Iterable[ModelEntry]) -> None:
    """A folder of the demo's stand-ins is right as it is: nothing in it is to be replaced."""
    for path in (root / entry.path for entry in entries):
        if path.is_file() and is_standin(path):
            raise ModelError(
                tr("the folder holds the demo's stand-in models, which are not to be replaced"),
                where=str(path),
                remedy=tr("name another folder in models_dir or COLAB_HELPERS_MODELS"),
            )
