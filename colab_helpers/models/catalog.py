"""Which models there are: where each comes from, how it is recognised, what its licence forbids.

The facts stand in ``catalog.yaml`` beside this module; this module is their schema and the ways to ask.
Nothing here touches the network or a model file: that is ``models.download``.

The same file name legitimately has several hashes (re-exports of one network), so every source carries
its own set. Where no hash was ever published the source has ``sha256: null``; the first download then
pins what the server declares, or what arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
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
from colab_helpers.language import mark, tr
from colab_helpers.settings import Settings

Role = Literal[
    "detector",
    "recogniser",
    "attributes",
    "landmarks",
    "swapper",
    "identity_converter",
    "enhancer",
    "parser",
    "occluder",
    "content_check",
]

ANALYSIS_MODELS = ("buffalo_l/det_10g", "buffalo_l/w600k_r50")
"""What every run needs to find faces and tell them apart."""

WEIGHTS_FACTOR = 1.3
"""Memory of a loaded network per byte of its file: weights, plus what the runtime packs beside them."""

OWN_LICENCE = "own"
"""The licence of a user's own file, where nothing else is said."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that may be spoken to without encryption: this machine."""


def _tuple_of_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _inside_root(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or ":" in value:
        raise ValueError(tr("must be a relative path with forward slashes and without '..'"))
    return value


def _fetchable(value: str) -> str:
    parts = urlsplit(value)
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    ):
        raise ValueError(tr("must start with https:// (http only for this machine itself)"))
    return value


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Crc32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}$")]
Hashes = Annotated[tuple[Sha256, ...], BeforeValidator(_tuple_of_one), Field(min_length=1)]
Url = Annotated[str, AfterValidator(_fetchable)]
RelativePath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_inside_root)]
Bytes = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Frozen):
    """Under which terms a model's weights are given.

    Attributes:
        name: Short name as its owner writes it.
        link: Where the terms, or the statement of them, can be read.
        non_commercial: Whether use is limited to non-commercial purposes; such models are fetched only
            after the user has accepted.
        forbids: In one sentence.
    """

    name: str
    link: Annotated[str, StringConstraints(pattern=r"^(https://\S+)?$")]
    non_commercial: bool
    forbids: Annotated[str, StringConstraints(min_length=1)]


class Archive(_Frozen):
    """The zip a file comes out of.

    Attributes:
        member: Name of the file in the zip; it is found inside a folder, too.
        sha256: Accepted hashes of the zip; None where unknown (the member is checked all the same).
        bytes: Size of the zip.
    """

    member: RelativePath
    sha256: Hashes | None
    bytes: Bytes | None


class Source(_Frozen):
    """Addresses that serve the same bytes.

    Attributes:
        urls: Tried in this order.
        sha256: Accepted hashes of the file itself (not of an archive around it); None where unknown.
        bytes: Size of the file itself.
        crc32: Where only that was published.
        archive: Set where the addresses serve a zip that holds the file.
    """

    urls: Annotated[tuple[Url, ...], Field(min_length=1)]
    sha256: Hashes | None
    bytes: Bytes | None
    crc32: Crc32 | None = None
    archive: Archive | None = None


class ModelFile(_Frozen):
    """One file of a model: its place below the models root, and where it comes from.

    Attributes:
        path: Below the models root, with forward slashes.
        sources: Groups of mirrors, best first.
        local: A file of the user's, copied instead of fetched.
        sha256: Accepted hashes of ``local``; None accepts what is there.
    """

    path: RelativePath
    sources: tuple[Source, ...] = ()
    local: Path | None = None
    sha256: Hashes | None = None

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> ModelFile:
        if bool(self.sources) == bool(self.local):
            raise ValueError(tr("must have either sources or a local path"))
        return self

    @property
    def accepted(self) -> frozenset[str]:
        """Every hash any source accepts."""
        known = [source.sha256 or () for source in self.sources] + [self.sha256 or ()]
        return frozenset(value for hashes in known for value in hashes)

    @property
    def open_to_pinning(self) -> bool:
        """Whether some source of the file has no known hash, so that a pinned one counts."""
        if self.local is not None:
            return self.sha256 is None
        return any(source.sha256 is None for source in self.sources)

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


class Tensor(_Frozen):
    """One input or output of a network.

    Attributes:
        name: None where it was not published; sessions tell it in any case.
        shape: Numbers, or a word for an axis of any length.
        dtype: numpy's name.
        layout: Axes of an image; None for vectors and lists.
        colour: Order of the channels; None where there are none.
        range: Least and greatest value as the network sees it; None where unbounded or unknown.
        mean: ``(pixel - mean) / std`` with pixels from 0 to 255, one number or one per channel.
        std: See ``mean``.
        note: What else must be known.
    """

    name: str | None
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    layout: Literal["NCHW", "NHWC"] | None = None
    colour: Literal["RGB", "BGR"] | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    note: str = ""


class Contract(_Frozen):
    """What goes into a network and what comes out, in the graph's own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class ModelEntry(_Frozen):
    """One model of the catalogue.

    Attributes:
        name: The engine opens ``{name}.onnx`` below the models root.
        description: One sentence.
        licence_id: Key of ``licence`` in the catalogue; what an acceptance is recorded under.
        activation_bytes: Estimate of the working memory of one call with one sample: the feature maps
            alive together at the widest layer, in float32, plus the convolution's scratch space,
            rounded up to 32 MiB. Not a measurement.
        requires: Other models without which this one cannot be used.
        converts_to: Name of the model that is made from this file; None for one that runs as it is.
    """

    name: RelativePath
    role: Role
    description: str
    licence_id: str
    licence: Licence
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    contract: Contract | None = None
    activation_bytes: Annotated[int, Field(ge=0)] = 0
    requires: tuple[str, ...] = ()
    converts_to: str | None = None

    def runs_as(self, role: Role) -> bool:
        """Whether the file can be opened for that role as it is."""
        return self.role == role and self.converts_to is None

    @property
    def bytes(self) -> int | None:
        """Size of all files together, None if one is unknown."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def memory_bytes(self) -> int | None:
        """Estimated memory of the loaded model: file size times 1.3, and its activations."""
        return None if self.bytes is None else int(self.bytes * WEIGHTS_FACTOR) + self.activation_bytes


class Catalog(_Frozen):
    """Every known model by name."""

    version: Literal[1]
    licences: dict[str, Licence]
    models: dict[str, ModelEntry]

    @model_validator(mode="before")
    @classmethod
    def _name_the_entries(cls, data: Any) -> Any:
        """In the file the name is the key, and the licence a word; entries carry both in full."""
        if not isinstance(data, Mapping) or not isinstance(data.get("models"), Mapping):
            return data
        licences = data.get("licences") or {}
        named = {name: _named(name, entry, licences) for name, entry in data["models"].items()}
        return {**data, "models": named}

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> Catalog:
        for entry in self.models.values():
            for other in (*entry.requires, *([entry.converts_to] if entry.converts_to else [])):
                if other not in self.models:
                    raise ValueError(
                        tr(
                            "{name} refers to {other!r}, which is not in the catalogue",
                            name=entry.name,
                            other=other,
                        )
                    )
        return self

    def get(self, name: str, *, role: Role | None = None) -> ModelEntry:
        """Find a model by name.

        Raises:
            ModelError: There is no such model; the message names those of that role.
        """
        suitable = {
            entry.name: entry for entry in self.models.values() if role is None or entry.runs_as(role)
        }
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

    def conversion_source(self, name: str) -> ModelEntry | None:
        """The entry whose file can be converted into a model, if there is one."""
        return next((entry for entry in self.models.values() if entry.converts_to == name), None)


def _named(name: str, entry: Any, licences: Mapping[str, Any]) -> Any:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("licence"), str):
        return entry
    licence_id = entry["licence"]
    if licence_id not in licences:
        raise ValueError(
            tr("{name} names the licence {licence!r}, which is not described", name=name, licence=licence_id)
        )
    return {**entry, "name": name, "licence_id": licence_id, "licence": licences[licence_id]}


class UserModel(_Frozen):
    """One entry of the ``models:`` section of a preset file.

    Attributes:
        role: What the model does.
        path: A file of the user's (relative to the preset file's folder); or give ``urls``.
        urls: One or several addresses that serve the same file.
        sha256: One or several accepted hashes.
        licence: A key of the catalogue's licences, or a whole licence; needed with ``urls``.
    """

    role: Role
    path: Path | None = None
    urls: Annotated[tuple[Url, ...], BeforeValidator(_tuple_of_one)] = ()
    sha256: Hashes | None = None
    bytes: Bytes | None = None
    licence: str | Licence | None = None
    description: str = ""
    contract: Contract | None = None
    activation_bytes: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_origin(self) -> UserModel:
        if (self.path is None) == (not self.urls):
            raise ValueError(tr("give either path or urls"))
        if self.urls and self.licence is None:
            raise ValueError(tr("give the licence of a model that is fetched"))
        return self


@cache
def _shipped() -> Catalog:
    path = Path(__file__).with_name("catalog.yaml")
    return Catalog.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def load_catalog(extra: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> Catalog:
    """The shipped catalogue, with the user's entries over it.

    Args:
        extra: The ``models:`` section of a preset file; see ``UserModel``.
        folder: What relative paths in it are relative to; the working directory if None.

    Raises:
        SettingsError: An entry does not follow the schema.
    """
    return merge(_shipped(), extra or {}, folder=folder)


def merge(catalog: Catalog, user_entries: Mapping[str, Any], *, folder: Path | None = None) -> Catalog:
    """A catalogue with a user's entries added; an entry of the same name replaces the shipped one.

    Args:
        catalog: Stays as it is.
        user_entries: Name to mapping, as ``UserModel`` describes.
        folder: What relative paths are relative to; the working directory if None.

    Raises:
        SettingsError: An entry does not follow the schema.
    """
    entries = {
        name: _user_entry(catalog, str(name), values, folder or Path.cwd())
        for name, values in user_entries.items()
    }
    return catalog.model_copy(update={"models": {**catalog.models, **entries}})


def _user_entry(catalog: Catalog, name: str, values: Any, folder: Path) -> ModelEntry:
    try:
        model = UserModel.model_validate(values)
        licence_id, licence = _user_licence(catalog, name, model.licence)
        return ModelEntry(
            name=name,
            role=model.role,
            description=model.description or mark("Added by the user."),
            licence_id=licence_id,
            licence=licence,
            files=(_user_file(name, model, folder),),
            contract=model.contract,
            activation_bytes=model.activation_bytes,
        )
    except ValidationError as error:
        complaints = "; ".join(_complaint(item) for item in error.errors())
        raise SettingsError(complaints, where=f"models: {name}", remedy=tr(_USER_REMEDY)) from error


_USER_REMEDY = mark(
    "an entry has a role, and either a path or urls with a licence; sha256 and bytes are optional"
)


def _complaint(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{key} = {item['input']!r}: {message}" if key else message


def _user_licence(catalog: Catalog, name: str, given: str | Licence | None) -> tuple[str, Licence]:
    if isinstance(given, Licence):
        return given.name, given
    key = given or OWN_LICENCE
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


def _user_file(name: str, model: UserModel, folder: Path) -> ModelFile:
    path = f"{name}.onnx"
    if model.path is not None:
        return ModelFile(path=path, local=folder / model.path.expanduser(), sha256=model.sha256)
    return ModelFile(path=path, sources=(Source(urls=model.urls, sha256=model.sha256, bytes=model.bytes),))


def needed_models(settings: Settings, catalog: Catalog | None = None) -> list[ModelEntry]:
    """The models a run with these settings opens, each once.

    Raises:
        ModelError: The settings name a model that is not in the catalogue.
    """
    catalog = catalog or load_catalog()
    entries = [catalog.get(name) for name in ANALYSIS_MODELS]
    if "face_swapper" in settings.frame_processors:
        entries.append(catalog.get(settings.swapper_model, role="swapper"))
    if "face_enhancer" in settings.frame_processors:
        entries.append(catalog.get(settings.enhancer_model, role="enhancer"))
    return with_requirements(entries, catalog)


def with_requirements(entries: Iterable[ModelEntry], catalog: Catalog) -> list[ModelEntry]:
    """The entries, each followed by what it cannot be used without; nothing twice."""
    found: dict[str, ModelEntry] = {}
    waiting = list(entries)
    while waiting:
        entry = waiting.pop(0)
        if entry.name not in found:
            found[entry.name] = entry
            waiting[:0] = [catalog.get(name) for name in entry.requires]
    return list(found.values())
