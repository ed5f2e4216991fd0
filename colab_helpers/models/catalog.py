"""Which models there are: where each comes from, how it is recognised, what its licence forbids.

The facts stand in ``catalog.yaml`` beside this module; this module is their schema and the ways to ask.
Listed are only models that the product runs. The same file name legitimately has several hashes (re-exports
of one network), so every source carries its own set.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from colab_helpers.errors import ModelError, SettingsError
from colab_helpers.files import absolute, from_yaml
from colab_helpers.language import mark, tr
from colab_helpers.settings import Settings

Role = Literal["detector", "recogniser", "swapper", "enhancer"]

ANALYSIS_MODELS = ("buffalo_l/det_10g", "buffalo_l/w600k_r50")
"""What every run needs to find faces and tell them apart."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be spoken to without encryption: this machine."""
_USER_REMEDY = mark(
    "an entry has a role, and either a path or urls with a licence and a sha256; bytes are optional"
)


def _tuple_of_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _inside_root(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or ":" in value:
        raise ValueError(tr("must be a relative path with forward slashes and without '..'"))
    return value


def _fetchable(value: str) -> str:
    parts = urlsplit(value)
    here = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not parts.hostname or not (parts.scheme == "https" or here):
        raise ValueError(tr("must start with https:// (http only for this machine itself)"))
    return value


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hashes = Annotated[tuple[Sha256, ...], BeforeValidator(_tuple_of_one), Field(min_length=1)]
Url = Annotated[str, AfterValidator(_fetchable)]
Urls = Annotated[tuple[Url, ...], BeforeValidator(_tuple_of_one)]
RelativePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_inside_root)]
Bytes = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Frozen):
    """Under which terms a model's weights are given."""

    name: str  # short, as its owner writes it
    link: Annotated[str, StringConstraints(pattern=r"^(https://\S+)?$")]  # to the terms
    non_commercial: bool  # such models are fetched only after the user has accepted
    forbids: Annotated[str, StringConstraints(min_length=1)]  # in one sentence


class Archive(_Frozen):
    """The zip a file comes out of: the file's name in it, the zip's hash and size."""

    member: RelativePath
    sha256: Sha256
    bytes: Bytes


class Source(_Frozen):
    """Addresses that serve the same bytes, tried in order."""

    urls: Annotated[Urls, Field(min_length=1)]
    sha256: Hashes  # of the file itself, not of an archive around it
    bytes: Bytes | None = None  # None where it was not published
    archive: Archive | None = None  # where the addresses serve a zip that holds the file


class ModelEntry(_Frozen):
    """One model: what it does, its licence, and where its file comes from."""

    name: RelativePath  # ``{name}.onnx`` below the models root
    role: Role
    description: str
    licence_id: str  # what an acceptance is recorded under
    licence: Licence
    sources: tuple[Source, ...] = ()  # groups of mirrors, best first
    local: Path | None = None  # a file of the user's, copied instead of fetched
    sha256: Hashes | None = None  # of ``local``; None accepts what is there

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> ModelEntry:
        if bool(self.sources) == bool(self.local):
            raise ValueError(tr("must have either sources or a local path"))
        return self

    @property
    def path(self) -> str:
        """Below the models root, with forward slashes."""
        return f"{self.name}.onnx"

    @property
    def accepted(self) -> frozenset[str]:
        """Every hash any source accepts; empty for a user's own file that has none."""
        return frozenset(self.sha256 or ()).union(*(source.sha256 for source in self.sources))

    @property
    def bytes(self) -> int | None:
        """The largest size any source gives, None where none gives one."""
        sizes = [source.bytes for source in self.sources if source.bytes is not None]
        if self.local is not None and self.local.is_file():
            sizes.append(self.local.stat().st_size)
        return max(sizes, default=None)

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address, best first."""
        return tuple(url for source in self.sources for url in source.urls)

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names its file goes by, here and where others publish it."""
        names = [PurePosixPath(path).name for path in (self.path, *(urlsplit(url).path for url in self.urls))]
        return tuple(dict.fromkeys(name for name in names if name.endswith(".onnx")))


class Catalog(_Frozen):
    """Every known model by name."""

    version: Literal[1]
    licences: dict[str, Licence]
    models: dict[str, ModelEntry]

    @model_validator(mode="before")
    @classmethod
    def _name_the_entries(cls, data: Any) -> Any:
        """In the file the name is the key, and the licence a word; entries carry both in full."""
        licences, models = data.get("licences") or {}, {}
        for name, entry in data["models"].items():
            word = entry["licence"]
            if word not in licences:
                text = mark("{name} names the licence {licence!r}, which is not described")
                raise ValueError(tr(text, name=name, licence=word))
            models[name] = {**entry, "name": name, "licence_id": word, "licence": licences[word]}
        return {**data, "models": models}

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
    """One entry of the ``models:`` section of a preset file: a path, or addresses."""

    role: Role
    path: Path | None = None  # relative to the preset file's folder
    urls: Urls = ()
    sha256: Hashes | None = None  # needed with ``urls``, as is the licence
    bytes: Bytes | None = None
    licence: str | Licence | None = None  # a key of the catalogue's, or in full
    description: str = ""

    @model_validator(mode="after")
    def _check_origin(self) -> UserModel:
        if (self.path is None) == (not self.urls):
            raise ValueError(tr("give either path or urls"))
        if self.urls and self.licence is None:
            raise ValueError(tr("give the licence of a model that is fetched"))
        if self.urls and self.sha256 is None:
            raise ValueError(tr("give the sha256 of a model that is fetched: nothing else proves the file"))
        return self


@cache
def _shipped() -> Catalog:
    path = Path(__file__).with_name("catalog.yaml")
    return Catalog.model_validate(from_yaml(path.read_text(encoding="utf-8")))


def load_catalog(extra: Mapping[str, Any] | None = None) -> Catalog:
    """Return the shipped catalogue with the user's entries over it.

    Args:
        extra: The ``models:`` section of a preset file as ``load_presets`` gives it; see ``UserModel``.

    Raises:
        SettingsError: An entry does not follow the schema.
    """
    catalog = _shipped()
    entries = {name: _user_entry(catalog, str(name), values) for name, values in (extra or {}).items()}
    return catalog.model_copy(update={"models": {**catalog.models, **entries}})


def _user_entry(catalog: Catalog, name: str, values: Any) -> ModelEntry:
    try:
        model = UserModel.model_validate(values)
        licence_id, licence = _user_licence(catalog, name, model.licence)
        if model.path is not None:
            place: dict[str, Any] = {"local": absolute(model.path), "sha256": model.sha256}
        else:
            place = {"sources": ({"urls": model.urls, "sha256": model.sha256, "bytes": model.bytes},)}
        return ModelEntry(
            name=name,
            role=model.role,
            description=model.description or mark("Added by the user."),
            licence_id=licence_id,
            licence=licence,
            **place,
        )
    except ValidationError as error:
        complaints = "; ".join(_complaint(item) for item in error.errors())
        raise SettingsError(complaints, where=f"models: {name}", remedy=tr(_USER_REMEDY)) from error


def _complaint(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{key} = {item['input']!r}: {message}" if key else message


def _user_licence(catalog: Catalog, name: str, given: str | Licence | None) -> tuple[str, Licence]:
    if isinstance(given, Licence):
        return given.name, given
    key = given or "own"
    if key not in catalog.licences:
        raise SettingsError(
            tr("there is no licence {licence!r}", licence=key),
            where=f"models: {name}",
            remedy=tr(
                "write it in full (name, link, non_commercial, forbids) or name one of {names}",
                names=", ".join(catalog.licences),
            ),
        )
    return key, catalog.licences[key]


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
    if "face_swapper" in settings.frame_processors:
        entries.append(_changer(settings.swapper_model, "swapper", catalog, root))
    if "face_enhancer" in settings.frame_processors:
        entries.append(_changer(settings.enhancer_model, "enhancer", catalog, root))
    return entries


def _changer(name: str, role: Role, catalog: Catalog, root: Path | None) -> ModelEntry:
    own = (root / f"{name}.onnx").absolute() if root is not None else None
    if name in catalog.models or own is None or not own.is_file():
        return catalog.get(name, role=role)
    return _user_entry(catalog, name, {"role": role, "path": own})
