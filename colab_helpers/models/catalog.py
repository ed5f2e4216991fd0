"""Which models there are: where each comes from, how it is recognised, what its licence forbids.

The facts stand in ``catalog.yaml`` beside this module. Listed are only models that the product runs. The same
file name legitimately has several hashes (re-exports of one network), so every source carries its own set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from colab_helpers.errors import ModelError, SettingsError
from colab_helpers.files import absolute, from_yaml
from colab_helpers.language import tr
from colab_helpers.settings import Settings

Role = Literal["detector", "recogniser", "swapper", "enhancer"]

ANALYSIS_MODELS = ("buffalo_l/det_10g", "buffalo_l/w600k_r50")
"""What every run needs to find faces and tell them apart."""


def _inside_root(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or ":" in value:
        raise ValueError(tr("must be a relative path with forward slashes and without '..'"))
    return value


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
    sha256: tuple[str, ...]
    bytes: int


class ModelEntry(_Frozen):
    """One model: its role, its licence, and where its file comes from: sources, or the user's disk."""

    name: Annotated[str, AfterValidator(_inside_root)]  # ``{name}.onnx`` below the models root
    role: Role
    licence_id: str  # what an acceptance is recorded under
    licence: Licence
    sources: tuple[Source, ...] = ()  # groups of mirrors, best first
    local: Path | None = None  # a file of the user's, copied instead of fetched

    @property
    def path(self) -> str:
        """Below the models root, with forward slashes."""
        return f"{self.name}.onnx"

    @property
    def accepted(self) -> frozenset[str]:
        """Every hash any source accepts; empty for a user's own file."""
        return frozenset(sha256 for source in self.sources for sha256 in source.sha256)

    @property
    def bytes(self) -> int | None:
        """The largest size any source gives; None for a user's own file that is not there."""
        if self.local is not None:
            return self.local.stat().st_size if self.local.is_file() else None
        return max(source.bytes for source in self.sources)

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address, best first."""
        return tuple(url for source in self.sources for url in source.urls)

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names its file goes by, here and where others publish it."""
        paths = [self.path, *(urlsplit(url).path for url in self.urls)]
        return tuple(dict.fromkeys(PurePosixPath(path).name for path in paths))


@dataclass(frozen=True)
class Catalog:
    """Every known licence by its id, and every known model by name."""

    licences: Mapping[str, Licence]
    models: Mapping[str, ModelEntry]

    def get(self, name: str, *, role: Role | None = None) -> ModelEntry:
        """Find a model by name.

        Raises:
            ModelError: There is no such model; the message names those of that role.
        """
        suitable = {entry.name: entry for entry in self.models.values() if role in (None, entry.role)}
        if name in suitable:
            return suitable[name]
        raise ModelError(
            tr("there is no {role} of that name in the catalogue", role=role)
            if role
            else tr("there is no model of that name in the catalogue"),
            where=name,
            remedy=tr(
                "choose one of {names}, or add yours under 'models:' in presets.yaml",
                names=", ".join(suitable),
            ),
        )


class UserModel(_Frozen):
    """One entry of the ``models:`` section of a preset file."""

    role: Role
    path: Path  # relative to the preset file's folder


@cache
def _shipped() -> Catalog:
    data = from_yaml(Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8"))
    licences = {word: Licence(**terms) for word, terms in data["licences"].items()}
    models = {}
    for name, facts in data["models"].items():
        word = facts.pop("licence")
        models[name] = ModelEntry(name=name, licence_id=word, licence=licences[word], **facts)
    return Catalog(licences, models)


def load_catalog(extra: Mapping[str, Any] | None = None) -> Catalog:
    """Return the shipped catalogue with the user's entries over it.

    Args:
        extra: The ``models:`` section of a preset file as ``load_presets`` gives it; see ``UserModel``.

    Raises:
        SettingsError: An entry does not follow the schema.
    """
    shipped = _shipped()
    own = {str(name): _user_entry(str(name), values) for name, values in (extra or {}).items()}
    return replace(shipped, models={**shipped.models, **own})


def _user_entry(name: str, values: Any) -> ModelEntry:
    try:
        model = UserModel.model_validate(values)
        return ModelEntry(
            name=name,
            role=model.role,
            licence_id="own",
            licence=_shipped().licences["own"],
            local=absolute(model.path),
        )
    except ValidationError as error:
        complaints = "; ".join(_complaint(item) for item in error.errors())
        remedy = tr("an entry has a role and the path of an ONNX file")
        raise SettingsError(complaints, where=f"models: {name}", remedy=remedy) from error


def _complaint(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{key} = {item['input']!r}: {message}" if key else message


def needed_models(
    settings: Settings, catalog: Catalog | None = None, *, root: Path | None = None
) -> list[ModelEntry]:
    """Return the models a run with these settings opens, each once.

    Args:
        settings: Decide which models are needed.
        catalog: Instead of the shipped one.
        root: The models folder. A swapper or enhancer that lies there needs no entry in the catalogue: it
            counts as the user's own file.

    Raises:
        ModelError: A model of the settings is neither in the catalogue nor a file in the models folder.
    """
    catalog = catalog or load_catalog()
    entries = [catalog.get(name) for name in ANALYSIS_MODELS]
    changers: dict[Role, str] = {}
    if "face_swapper" in settings.frame_processors:
        changers["swapper"] = settings.swapper_model
    if "face_enhancer" in settings.frame_processors:
        changers["enhancer"] = settings.enhancer_model
    for role, name in changers.items():
        own = root / f"{name}.onnx" if root is not None else None
        if name not in catalog.models and own is not None and own.is_file():
            entries.append(_user_entry(name, {"role": role, "path": own}))
        else:
            entries.append(catalog.get(name, role=role))
    return entries
