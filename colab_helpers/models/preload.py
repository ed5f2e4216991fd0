"""Getting every model a run needs: for the command line, the notebook, and runs that miss some."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import ModelError
from colab_helpers.language import tr
from colab_helpers.models.catalog import ModelEntry, load_catalog, needed_models
from colab_helpers.models.download import Downloader, PreloadedFile, licence_notice
from colab_helpers.models.half import changing_models, choose
from colab_helpers.models.origin import unlisted_note
from colab_helpers.models.progress import ProgressCallback
from colab_helpers.models.session import Runtime, is_standin, models_root
from colab_helpers.models.transfer import Limits
from colab_helpers.settings import Settings

HUGGING_FACE = "huggingface.co"
TOKEN = "HF_TOKEN"
"""Environment variable, and secret on Colab, that holds an access token of Hugging Face."""


class PreloadReport(BaseModel):
    """What a preload did.

    Attributes:
        root: The models folder.
        notes: Each thing out of the ordinary, said once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    root: Path
    files: tuple[PreloadedFile, ...]
    notes: tuple[str, ...] = ()

    @property
    def bytes_fetched(self) -> int:
        """Bytes downloaded or copied."""
        return sum(file.bytes for file in self.files if file.source != "present")


class Preview(BaseModel):
    """What a preload would do; sizes in bytes.

    Attributes:
        present: Names of the models that are there.
        missing: Name of each other model, and its size where known.
        bytes_missing: Less what an interrupted preload left.
        licences: One line for each model, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path
    present: tuple[str, ...]
    missing: dict[str, int | None]
    bytes_missing: int
    bytes_free: int
    licences: str


def preload(
    settings: Settings,
    *,
    models_dir: Path | None = None,
    accept_licences: bool = False,
    offline: bool = False,
    user_models: Mapping[str, Any] | None = None,
    proxy: str | None = None,
    mirror_prefix: str | None = None,
    token: str | None = None,
    shared_cache: Path | None = None,
    verify: bool = False,
    on_progress: ProgressCallback | None = None,
    limits: Limits | None = None,
) -> PreloadReport:
    """Bring every model that the settings ask for into the models folder.

    What is there and verified is not touched; a second call reads a few small files only. On a machine whose
    GPU works, swapper and enhancer are also made to fit it, see ``models.half``.

    Args:
        settings: Decide which models are needed.
        models_dir: The models folder; see ``models.session.models_root``.
        accept_licences: The user accepts the licences that limit use.
        offline: Never touch the network; say what is missing.
        user_models: The ``models:`` section of a preset file.
        proxy: ``http://host:port``; by default the environment's.
        mirror_prefix: Put before every address.
        token: An access token of Hugging Face, where most models lie: strangers may be kept waiting there.
            By default the environment variable ``HF_TOKEN``.
        shared_cache: A folder that outlives this machine.
        verify: Hash every file anew.
        on_progress: See ``models.progress.ProgressCallback``.
        limits: Patience with the network.

    Raises:
        LicenceError: A missing model's licence was not accepted.
        ModelError: An unknown model, a file that cannot be had, or a folder of stand-ins.
        OutputError: Too little room on the disk, or it cannot be written.
        SettingsError: ``user_models`` does not follow the schema.
    """
    root = models_root(models_dir)
    token = token or os.environ.get(TOKEN)
    catalog = load_catalog(user_models)
    entries = needed_models(settings, catalog, root=root)
    _refuse_standins(root, entries)
    downloader = Downloader(
        root,
        offline=offline,
        accept_licences=accept_licences,
        proxy=proxy,
        mirror_prefix=mirror_prefix,
        tokens={HUGGING_FACE: token} if token else None,
        shared_cache=shared_cache,
        on_progress=on_progress,
        limits=limits,
    )
    fetched = downloader.fetch(entries, verify=verify)
    notes = [note for item in fetched for note in item.notes]
    notes += [unlisted_note(entry.name) for entry in entries if entry.name not in catalog.models]
    notes += _prepared_for_gpu(settings, root)
    return PreloadReport(root=root, files=tuple(fetched), notes=tuple(notes))


def _prepared_for_gpu(settings: Settings, root: Path) -> list[str]:
    """Make swapper and enhancer fit the GPU, if networks run on one; what was done and what was refused."""
    if settings.execution_provider == "cpu":
        return []
    runtime = Runtime("auto")  # a GPU that does not work is the doctor's subject, no reason to fetch nothing
    if runtime.provider == "cpu":
        return []
    choices = [
        choose(root, name, half=settings.half_precision, runtime=runtime, make=True)
        for name in changing_models(settings).values()
    ]
    return [*runtime.notes, *(note for choice in choices for note in choice.notes)]


def preview(
    settings: Settings,
    *,
    models_dir: Path | None = None,
    user_models: Mapping[str, Any] | None = None,
) -> Preview:
    """What ``preload`` would do with the same arguments; fetches nothing.

    Raises:
        ModelError: An unknown model.
        SettingsError: ``user_models`` does not follow the schema.
    """
    root = models_root(models_dir)
    entries = needed_models(settings, load_catalog(user_models), root=root)
    plan = Downloader(root).plan(entries)
    missing = {item.model.name: item.bytes for item in plan.missing}
    return Preview(
        root=root,
        present=tuple(entry.name for entry in entries if entry.name not in missing),
        missing=missing,
        bytes_missing=plan.bytes_missing,
        bytes_free=plan.bytes_free,
        licences=licence_notice(entries),
    )


def _refuse_standins(root: Path, entries: Iterable[ModelEntry]) -> None:
    """A folder of the demo's stand-ins is right as it is: nothing in it is to be replaced."""
    for path in (root / entry.path for entry in entries):
        if path.is_file() and is_standin(path):
            raise ModelError(
                tr("the folder holds the demo's stand-in models, which are not to be replaced"),
                where=str(path),
                remedy=tr("name another folder in models_dir or COLAB_HELPERS_MODELS"),
            )
