"""Which models there are: where each comes from, how it is recognised, what its licence forbids.

The facts stand in ``catalog.yaml`` beside this module. Listed are only models that the product runs. The same
file name legitimately has several hashes (re-exports of one network), so every source carries its own set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from colab_helpers.errors import ModelError
from colab_helpers.files import crc32_of, from_yaml, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.models.contracts import content_contracts, converter_of
from colab_helpers.settings import Settings

AnalysisRole = Literal["detector", "recogniser", "attributes"]
Role = Literal[
    AnalysisRole,
    "swapper",
    "converter",
    "enhancer",
    "occluder",
    "parser",
    "frame_enhancer",
    "content",
    "painter",
]

ANALYSIS_MODELS = ("buffalo_l/det_10g", "buffalo_l/w600k_r50", "buffalo_l/genderage")
"""What finds faces and tells them apart, and what tells sex and age where settings ask for that."""

_MISSING_REMEDY = mark(
    "fetch the models with preload.ipynb or 'python -m colab_helpers preload --accept-licences', with the "
    "settings and the models folder of the run (both show the licences first, unless they are accepted), "
    "put the file there yourself, or name another folder in models_dir or COLAB_HELPERS_MODELS; the demo "
    "brings its own stand-in models"
)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Frozen):
    """Under which terms a model's weights are given."""

    name: str  # short, as its owner writes it
    link: str  # to the terms
    non_commercial: bool  # such models are fetched only after the user has accepted
    forbids: str  # in one sentence


class Source(_Frozen):
    """Addresses that serve the same bytes, tried in order."""

    urls: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    crc32: str = ""  # 8 hexadecimal digits, where their publisher gives no SHA-256
    bytes: int

    @property
    def digest(self) -> str:
        """What tells its bytes from other sources'."""
        return self.sha256[0] if self.sha256 else self.crc32

    def gives(self, path: Path, sha256: str) -> bool:
        """Whether a file of that SHA-256 has its bytes; OSError where it cannot be read.

        A CRC-32 shows damage, not what somebody meant to do.
        """
        if sha256 in self.sha256:
            return True
        return bool(self.crc32) and path.stat().st_size == self.bytes and crc32_of(path) == self.crc32


class ModelEntry(_Frozen):
    """One model: its role, its licence, and where its file comes from."""

    name: str  # ``{name}.onnx`` below the models root, or as it is where it ends in ``.safetensors``
    role: Role
    licence_id: str  # what an acceptance is recorded under
    licence: Licence
    sources: tuple[Source, ...] = ()  # groups of mirrors, best first; none for a user's own file

    @property
    def path(self) -> str:
        """Below the models root, with forward slashes."""
        return self.name if self.name.endswith(".safetensors") else f"{self.name}.onnx"

    @property
    def bytes(self) -> int:
        """The largest size any source gives; 0 where there is none."""
        return max((source.bytes for source in self.sources), default=0)

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address, best first."""
        return tuple(url for source in self.sources for url in source.urls)


@dataclass(frozen=True)
class Catalog:
    """Every known licence by its id, and every known model by name."""

    licences: Mapping[str, Licence]
    models: Mapping[str, ModelEntry]

    def get(self, name: str, *, role: Role) -> ModelEntry:
        """Find a model by name; ModelError, which names those of that role, where there is none."""
        suitable = {entry.name: entry for entry in self.models.values() if entry.role == role}
        if name in suitable:
            return suitable[name]
        raise ModelError(
            tr("there is no {role} of that name in the catalogue", role=role),
            where=name,
            remedy=tr("choose one of {names}, or put yours into the models folder", names=", ".join(suitable))
            if suitable
            else tr(
                "put {name}.onnx into the models folder: it is not fetched, as its checksum is not known",
                name=name,
            ),
        )


@cache
def load_catalog() -> Catalog:
    """Return the shipped catalogue."""
    data = from_yaml(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))
    licences = {word: Licence(**terms) for word, terms in data["licences"].items()}
    models = {}
    for name, facts in data["models"].items():
        word = facts.pop("licence")
        models[name] = ModelEntry(name=name, licence_id=word, licence=licences[word], **facts)
    return Catalog(licences, models)


def required_models(
    settings: Settings, catalog: Catalog | None = None, *, root: Path | None = None
) -> list[ModelEntry]:
    """Return the models a run with these settings opens, each once.

    What lies in the models folder ``root`` needs no entry in the catalogue, unless it finds faces; ModelError
    where a model is in neither. A swapper brings the network that prepares the source for it.
    """
    catalog, entries = catalog or load_catalog(), []
    for role, name in required_model_names(settings, root):
        unlisted = name not in catalog.models and root is not None and (root / f"{name}.onnx").is_file()
        entries.append(
            ModelEntry(name=name, role=role, licence_id="own", licence=catalog.licences["own"])
            if unlisted
            else catalog.get(name, role=role)
        )
    return list(dict.fromkeys([*entries, *(catalog.models[name] for name in content_models(settings))]))


def required_model_names(settings: Settings, root: Path | None = None) -> list[tuple[Role, str]]:
    """Return role and name of each network a run with these settings and models folder opens."""
    listed = load_catalog().models
    found: list[tuple[Role, str]] = [(listed[name].role, name) for name in analysis_models(settings)]
    if "face_swapper" in settings.frame_processors:
        found.append(("swapper", settings.swapper_model))
        if converter := converter_of(settings.swapper_model):
            found.append(("converter", converter))
    if "face_enhancer" in settings.frame_processors:
        found.append(("enhancer", settings.enhancer_model))
    found += mask_models(settings, root).items()
    if "frame_enhancer" in settings.frame_processors:
        found.append(("frame_enhancer", settings.frame_enhancer_model))
    found += ((listed[name].role, name) for name in content_models(settings))
    return list(dict.fromkeys(found))


def analysis_models(settings: Settings) -> tuple[str, ...]:
    """Return the names of those of `ANALYSIS_MODELS` that a run with these settings opens."""
    return ANALYSIS_MODELS if settings.asks_attributes else ANALYSIS_MODELS[:2]


def content_models(settings: Settings) -> tuple[str, ...]:
    """Return the names of the networks by which content is checked: classifiers, and what tells age."""
    return (*(one.name for one in content_contracts(settings.content_check)), ANALYSIS_MODELS[2])


def mask_models(settings: Settings, root: Path | None = None) -> dict[Role, str]:
    """Return the names of the networks by which masks are made.

    What is left to ``auto`` needs one only where it lies in the models folder ``root``.
    """
    types, occluder = settings.face_mask_types, settings.occluder_model
    if types == "auto":
        there = root is not None and (root / f"{occluder}.onnx").is_file()
        types = ("occlusion",) if there else ()
    names: dict[Role, str] = {}
    if "occlusion" in types:
        names["occluder"] = occluder
    if "region" in types:
        names["parser"] = settings.parser_model
    return names


# --- errors of model files ------------------------------------------------------------------------------


def missing_model_error(path: Path) -> ModelError:
    """The error of a model that is not where it should be."""
    return ModelError(tr("the model file is missing"), where=str(path), remedy=tr(_MISSING_REMEDY))


def broken_model_error(path: Path, reason: str) -> ModelError:
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
