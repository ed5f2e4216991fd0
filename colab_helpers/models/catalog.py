"""The model catalogue: download sources, checksums and licences, loaded from ``catalog.yaml``.

Only models that the package runs are listed. The same file name may legitimately have several hashes
(re-exports of one network), so every source has its own set.
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
_ProcessingRole = Literal["swapper", "converter", "enhancer", "occluder", "parser", "frame_enhancer"]
Role = Literal[AnalysisRole, _ProcessingRole, "content", "painter"]

ANALYSIS_MODELS = ("buffalo_l/det_10g", "buffalo_l/w600k_r50", "buffalo_l/genderage")
"""The detector, the recogniser, and the sex and age classifier (loaded only if the settings need it)."""

_MISSING_REMEDY = mark(
    "fetch the models with preload.ipynb or 'python -m colab_helpers preload --accept-licences', using the "
    "settings and the models folder of the run (both show the licences first, unless already accepted), put "
    "the file there yourself, or set another folder in models_dir or COLAB_HELPERS_MODELS; the demo comes "
    "with its own stand-in models"
)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Frozen):
    """The licence of a model's weights."""

    name: str  # short, as its owner writes it
    link: str  # URL of the terms
    non_commercial: bool  # such models are downloaded only after the user has accepted the licence
    forbids: str  # one sentence


class Source(_Frozen):
    """Mirrors that serve the same bytes, tried in order."""

    urls: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    crc32: str = ""  # 8 hexadecimal digits, for publishers that give no SHA-256
    bytes: int

    @property
    def digest(self) -> str:
        """The checksum that identifies the content: its first SHA-256, else its CRC-32."""
        return self.sha256[0] if self.sha256 else self.crc32

    def matches(self, path: Path, sha256: str) -> bool:
        """Return whether a file with this SHA-256 is this source's; raise OSError if it cannot be read.

        A CRC-32 match rules out damage, but not tampering.
        """
        if sha256 in self.sha256:
            return True
        return bool(self.crc32) and path.stat().st_size == self.bytes and crc32_of(path) == self.crc32


class ModelEntry(_Frozen):
    """One model: its role, its licence, and where its file comes from."""

    name: str  # stored as ``{name}.onnx`` in the models folder; used as is if it ends in ``.safetensors``
    role: Role
    licence_id: str  # key under which an acceptance is recorded
    licence: Licence
    sources: tuple[Source, ...] = ()  # in order of preference; none for a user's own file

    @property
    def path(self) -> str:
        """Path relative to the models folder, with forward slashes."""
        return self.name if self.name.endswith(".safetensors") else f"{self.name}.onnx"

    @property
    def bytes(self) -> int:
        """The largest size of any source; 0 without sources."""
        return max((source.bytes for source in self.sources), default=0)

    @property
    def urls(self) -> tuple[str, ...]:
        """All download URLs, in order of preference."""
        return tuple(url for source in self.sources for url in source.urls)


@dataclass(frozen=True)
class Catalog:
    """All known licences by id, and all known models by name."""

    licences: Mapping[str, Licence]
    models: Mapping[str, ModelEntry]

    def get(self, name: str, *, role: Role) -> ModelEntry:
        """Return the model of that name and role; raise ModelError, listing the alternatives, if unknown."""
        suitable = {entry.name: entry for entry in self.models.values() if entry.role == role}
        if name in suitable:
            return suitable[name]
        names = ", ".join(suitable)
        raise ModelError(
            tr("the catalogue has no {role} of that name", role=role),
            where=name,
            remedy=tr("choose one of {names}, or put your own file into the models folder", names=names)
            if suitable
            else tr("put {name}.onnx into the models folder: no download source is known for it", name=name),
        )


@cache
def load_catalog() -> Catalog:
    """Return the shipped catalogue."""
    data = from_yaml(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))
    licences = {key: Licence(**fields) for key, fields in data["licences"].items()}
    models = {}
    for name, fields in data["models"].items():
        key = fields.pop("licence")
        models[name] = ModelEntry(name=name, licence_id=key, licence=licences[key], **fields)
    return Catalog(licences, models)


def required_models(
    settings: Settings, catalog: Catalog | None = None, *, root: Path | None = None
) -> list[ModelEntry]:
    """Return the models that a run with these settings loads, without duplicates.

    This includes the converter that some swappers need. A model whose file is in the models folder ``root``
    need not be in the catalogue, except for the analysis models.

    Raises:
        ModelError: A model is neither in the catalogue nor in the models folder.
    """
    catalog, entries = catalog or load_catalog(), []
    for role, name in required_model_names(settings, root):
        if name not in catalog.models and root is not None and (root / f"{name}.onnx").is_file():
            own = catalog.licences["own"]
            entries.append(ModelEntry(name=name, role=role, licence_id="own", licence=own))
        else:
            entries.append(catalog.get(name, role=role))
    return entries


def required_model_names(settings: Settings, root: Path | None = None) -> list[tuple[Role, str]]:
    """Return the role and name of each network that a run with these settings and models folder loads."""
    listed = load_catalog().models
    required: list[tuple[Role, str]] = [(listed[name].role, name) for name in analysis_models(settings)]
    if "face_swapper" in settings.frame_processors:
        required.append(("swapper", settings.swapper_model))
        if converter := converter_of(settings.swapper_model):
            required.append(("converter", converter))
    if "face_enhancer" in settings.frame_processors:
        required.append(("enhancer", settings.enhancer_model))
    required += mask_models(settings, root).items()
    if "frame_enhancer" in settings.frame_processors:
        required.append(("frame_enhancer", settings.frame_enhancer_model))
    required += ((listed[name].role, name) for name in content_models(settings))
    return list(dict.fromkeys(required))


def analysis_models(settings: Settings) -> tuple[str, ...]:
    """Return the names of the ``ANALYSIS_MODELS`` that a run with these settings loads."""
    return ANALYSIS_MODELS if settings.needs_attributes else ANALYSIS_MODELS[:2]


def content_models(settings: Settings) -> tuple[str, ...]:
    """Return the names of the networks of the content check: classifiers, and the age estimator."""
    return (*(row.name for row in content_contracts(settings.content_check)), ANALYSIS_MODELS[2])


def mask_models(settings: Settings, root: Path | None = None) -> dict[Role, str]:
    """Return the names of the mask networks by role.

    With ``face_mask_types=auto`` the occluder is used only if its file is in the models folder ``root``.
    """
    types, occluder = settings.face_mask_types, settings.occluder_model
    if types == "auto":
        types = ("occlusion",) if root is not None and (root / f"{occluder}.onnx").is_file() else ()
    names: dict[Role, str] = {}
    if "occlusion" in types:
        names["occluder"] = occluder
    if "region" in types:
        names["parser"] = settings.parser_model
    return names


# --- errors of model files ------------------------------------------------------------------------------


def missing_model_error(path: Path) -> ModelError:
    """Return the error for a model file that does not exist."""
    return ModelError(tr("the model file is missing"), where=str(path), remedy=tr(_MISSING_REMEDY))


def broken_model_error(path: Path, reason: str) -> ModelError:
    """Return the error for a file that does not load, with its checksum and the published ones."""
    listed = [entry for entry in load_catalog().models.values() if path.match(entry.path)]
    published = [f"{one.digest} ({one.bytes} bytes)" for entry in listed for one in entry.sources]
    try:
        actual = f"{sha256_of(path)} ({path.stat().st_size} bytes)"
    except OSError as error:
        actual = str(error.strerror)
    text = mark("ONNX Runtime cannot load the model ({reason}): the file is {file}")
    if published:
        text = mark("ONNX Runtime cannot load the model ({reason}): the file is {file}; published: {wanted}")
    return ModelError(
        tr(text, reason=reason, file=actual, wanted=", ".join(published)),
        where=str(path),
        remedy=tr(
            "the file is damaged, truncated, or not an ONNX model: fetch it again with 'python -m "
            "colab_helpers preload --accept-licences', or put the right file there"
        ),
    )
