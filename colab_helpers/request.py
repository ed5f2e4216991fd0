"""Requests: the options of each notebook and of a batch, with defaults and validation, for every interface.

Forms, papermill, the headless runner, the command line, Python and the panel build one of these models. Texts
are converted (``"false"`` is False, a single path is a list of one, YAML is a mapping), paths become absolute
with ``~`` expanded, and any other value of the wrong type is refused before any work.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from colab_helpers.addresses import address_of, is_unsupported_url, refuse_address
from colab_helpers.errors import UsageError, allowed_values
from colab_helpers.files import absolute, expand_pattern, from_yaml
from colab_helpers.language import LANGUAGE_CHOICES, LanguageChoice, mark, tr, use_language
from colab_helpers.settings import DEFAULT_PRESET, Settings, load_settings

T = TypeVar("T")
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
_MAX_VALUE = 80
MAP_NAME = "people.yaml"
"""File in the output folder that maps a batch's people to their sources."""
PEOPLE_FOLDER_NAME = "people"
"""Folder in the output folder with what is known about the people."""


def _to_path(value: object) -> object:
    """Convert text to an absolute path; None if it is blank."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and not value.strip():
        return None
    if not isinstance(value, (str, Path)):
        return value
    return Path(value) if is_unsupported_url(value) else absolute(value)


def in_library(name: str | Path, library: Path | None) -> str | None:
    """Return the folder of a person in the library; None if nobody there has that name."""
    text = str(name)
    if library is None or text != Path(text).name or text[:1] in ("", "."):
        return None
    return str(library / text) if (library / text).is_dir() else None


def _to_path_list(value: object, info: ValidationInfo) -> object:
    """Convert one or several paths, data URLs, addresses or names in the library to a tuple of texts."""
    if value is None or value == "":
        return ()
    if isinstance(value, str) and _LIST.fullmatch(value) and not absolute(value).exists():
        value = _yaml_or_text(value)
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_to_item(item, info.data.get("library")) for item in items)


def _to_item(value: object, library: Path | None) -> object:
    if isinstance(value, str) and (value.startswith("data:") or is_unsupported_url(value)):
        return value
    if isinstance(value, str) and (folder := in_library(value, library)):
        return folder
    path = _to_path(value)
    return str(path) if isinstance(path, Path) else path


def _to_lines(value: object) -> object:
    """Convert text to a list: a YAML list, or its lines."""
    if isinstance(value, str):
        lines = [line.strip() for line in value.splitlines() if line.strip()]
        return _yaml_or_text(value) if _LIST.fullmatch(value) else lines
    return () if value is None else value


def _to_mapping(value: object) -> object:
    parsed = _yaml_or_text(value) if isinstance(value, str) else value
    return {} if parsed is None else parsed


def _yaml_or_text(text: str) -> object:
    try:
        return from_yaml(text)
    except yaml.YAMLError:
        return text


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


OptionalPath = Annotated[Path | None, BeforeValidator(_to_path)]
PathList = Annotated[tuple[str, ...], BeforeValidator(_to_path_list)]
Lines = Annotated[tuple[str, ...], BeforeValidator(_to_lines)]
Overrides = Annotated[dict[str, Any], BeforeValidator(_to_mapping)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_refuse_bool)]


class Request(BaseModel):
    """Options common to all requests; raises UsageError, which says what is allowed, for invalid values."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, defer_build=True)
    not_in_form: ClassVar[frozenset[str]] = frozenset()
    """Fields that only the command line and Python set."""

    output_dir: OptionalPath = Field(None, description="Output folder; empty: one in the host's runs folder.")
    language: LanguageChoice = Field("auto", description="Language of all texts; auto: the environment's.")
    headless: bool = Field(False, description="Print plain lines; show no panel and ask no questions.")

    if not TYPE_CHECKING:  # type checkers keep the names of the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _validation_error(type(self), error) from error

    @classmethod
    def form(cls) -> tuple[str, ...]:
        """Return the fields of the notebook's form."""
        return tuple(name for name in cls.model_fields if name not in cls.not_in_form)

    @classmethod
    def of(cls, session: Mapping[str, Any]) -> Self:
        """Build the request from the variables of a notebook's form: ``BatchRequest.of(globals())``."""
        values = {name: recall(name, session) for name in cls.form()}
        with use_language(next((known for known in LANGUAGE_CHOICES if known == values["language"]), "auto")):
            return cls(**values)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files and folders named in the request."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return tuple(value for value in values if isinstance(value, Path))

    def check(self) -> None:
        """Raise an error for what is wrong and can be seen without reading any file."""

    def with_values(self, **values: Any) -> Self:
        """Return a validated copy with some values replaced."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **values})


def recall(name: str, session: Mapping[str, Any]) -> Any:
    """Return a variable from the notebook's ``globals()``; raise UsageError if no earlier cell has set it."""
    if name in session:
        return session[name]
    what = tr("{name!r} is not defined: the kernel was restarted, or a cell above was not run", name=name)
    raise UsageError(what, remedy=tr("run all cells from the top (Run all); finished work is kept"))


def _validation_error(model: type[Request], error: ValidationError) -> UsageError:
    schema = model.model_json_schema()["properties"]
    problems = []
    for item in error.errors():
        name, value = str((*item["loc"], "")[0]), repr(item["input"])
        if not name:
            problems.append(str(item["msg"]))
        elif name not in schema:
            problems.append(tr("there is no option {name!r}", name=name))
        else:
            shown = value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
            what = mark("{key} = {value} is not allowed; allowed: {allowed}")
            problems.append(tr(what, key=name, value=shown, allowed=allowed_values(schema[name])))
    return UsageError("; ".join(dict.fromkeys(problems)), remedy=tr("correct the value"))


class SettingsRequest(Request):
    """Options of requests that need settings and models."""

    preset: str = Field(DEFAULT_PRESET, description="Preset, or several joined with +.")
    overrides: Overrides = Field({}, description="Any settings; they win over the preset.")
    models_dir: OptionalPath = Field(None, description="Folder of the models; empty: the default folder.")

    @cached_property
    def settings(self) -> Settings:
        """The settings that preset and overrides result in."""
        return load_settings(self.preset, **self.overrides)

    def check(self) -> None:
        """Raise SettingsError for invalid settings."""
        _ = self.settings


class SetupRequest(SettingsRequest):
    """Options of ``setup.ipynb``."""

    demo: bool = Field(True, description="With models_dir empty, use the demo's stand-in models.")


class PreloadRequest(SetupRequest):
    """Options of ``preload.ipynb``."""

    accept_licences: bool = Field(False, description="The user accepts the licences shown.")
    convert: bool = Field(False, description="Make verified copies of swapper and enhancer for this machine.")
    offline: bool = Field(False, description="Never use the network.")
    shared_cache: OptionalPath = Field(None, description="Cache of models that outlives this machine.")


class MonitorRequest(Request):
    """Options of ``monitor.ipynb``."""

    folder: OptionalPath = Field(None, description="Output folder of a batch; empty: this machine only.")
    seconds: Amount = Field(0.0, description="Seconds to watch; 0: until the batch ends or an interrupt.")
    refresh: Amount = Field(1.0, description="Seconds between updates.")


class BatchRequest(SettingsRequest):
    """Options of a batch, for ``batch_swap.ipynb``, the command line and Python.

    Attributes:
        sources: Photos of the source face, and folders of them, as absolute paths; photos also as data URLs.
        targets: Absolute paths of videos, images, folders and patterns; ``target_paths`` expands patterns.
    """

    not_in_form = frozenset({"report_path", "work_dir", "in_process"})

    library: OptionalPath = Field(None, description="Folder of people, whose names can be used as sources.")
    sources: PathList = Field((), description="Photos of the source face; several are averaged.")
    targets: PathList = Field((), description="Videos, images, or folders of them.")
    target_person: PathList = Field(
        (), description="Photos of the only person to change; empty: the settings decide."
    )
    never: PathList = Field((), description="Photos of people never to change.")
    people: Literal["auto", "find", "only", "everybody"] = Field(
        "auto",
        description="find: first find everybody in the targets and add them to people.yaml in the output "
        "folder, which maps people to sources; only: stop after that; everybody: also give whoever is not in "
        "it a portrait of their own from the library; auto: follow people.yaml if it exists.",
    )
    consent: str = Field("", description="Who is shown, on what ground: a sentence or a YAML file's path.")
    instead_of_label: str = Field("", description="How viewers are informed; empty: by the visible label.")
    video_range: str = Field("", description="Targets to process, counted from 1, such as 1-30.")
    session_minutes: Amount = Field(0.0, description="Minutes this machine can be used; 0: unknown.")
    shortest_first: bool = Field(False, description="Process the files with the least work first.")
    upload: bool = Field(False, description="Ask for photos and videos to upload from the browser.")
    download: bool = Field(False, description="Download the results through the browser.")
    report_path: OptionalPath = Field(None, description="Report file; empty: report.json in output_dir.")
    work_dir: OptionalPath = Field(None, description="Work folder on a local disk, for unfinished results.")
    in_process: bool = Field(False, description="Work in this process: a crash ends everything.")
    gpus: str = Field("all", description="The setting gpus; anything but all wins over presets.")
    cluster: str = Field("", description="HOST:PORT of the cluster to run on, or auto: that of this machine.")
    gpus_per_worker: float = Field(1.0, gt=0, le=1, description="Share of a GPU for each worker there.")
    priority: int = Field(0, description="A batch there waits as long as one of a higher priority works.")
    map_paths: Lines = Field((), description="OLD=NEW: files below OLD here are below NEW on the cluster.")

    @cached_property
    def settings(self) -> Settings:
        """The settings that preset, form fields and overrides result in; later ones win."""
        disclosure = self.instead_of_label.strip()
        fields: dict[str, Any] = {"visible_label": "off", "disclosure": disclosure} if disclosure else {}
        fields |= {"gpus": self.gpus} if self.gpus != "all" else {}
        return load_settings(self.preset, **(fields | self.overrides))

    @property
    def target_paths(self) -> list[Path]:
        """The targets, with patterns such as ``clips/*.mp4`` replaced by the files that match."""
        return [path for target in self.targets for path in expand_pattern(target)]

    @property
    def photos(self) -> tuple[str, ...]:
        """All photos: of the source, of the person to change, and of people never to change."""
        return (*self.sources, *self.target_person, *self.never)

    @property
    def photo_paths(self) -> list[Path]:
        """The photos that are files, not data URLs."""
        return [Path(photo) for photo in self.photos if not photo.startswith("data:")]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files and folders named in the request."""
        return (*super().paths, *self.photo_paths, *map(Path, self.targets))

    @property
    def mapped(self) -> bool:
        """Whether sources may be empty: people are only found, or have sources of their own."""
        has_map = bool(self.output_dir and (self.output_dir / MAP_NAME).exists())
        return has_map or self.people in ("only", "everybody")

    @property
    def run_name(self) -> str:
        """Name of the output folder for these sources and targets, independent of all other options."""
        if not self.sources and not self.targets:
            return "demo-results"
        inputs = [sorted(self.sources), sorted(self.targets)]
        stems = [_stem(paths[0]) for paths in inputs if paths]
        return f"{'-'.join(stems)}-{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:8]}"

    def check(self) -> None:
        """Also refuse unusable addresses, sources without targets, and targets without required sources."""
        for path in (*self.photos, *self.targets, self.output_dir or ""):
            refuse_address(path)
        for path in filter(None, (self.models_dir, self.library, self.report_path, self.work_dir)):
            refuse_address(path, stored=True)
        if self.work_dir and self.output_dir and address_of(self.output_dir):
            what = tr("work_dir cannot be used if results go to object storage")
            raise UsageError(what, remedy=tr("leave it out, and set TMPDIR to a folder on a large disk"))
        swaps = "face_swapper" in self.settings.frame_processors
        missing = "sources" if self.targets and swaps and not (self.sources or self.mapped) else ""
        missing = "targets" if self.sources and not self.targets else missing
        if missing:
            what = tr("{missing} is empty", missing=missing)
            raise UsageError(what, remedy=tr("give both sources and targets"))


def _stem(path: str) -> str:
    """Return up to 20 characters of a file's name that are valid on every file system."""
    stem = "picture" if path.startswith("data:") else Path(path).stem.lower()
    return re.sub(r"[^a-z0-9]+", "_", stem).strip("_")[:20] or "files"


REQUESTS: dict[str, type[Request]] = {
    model.__name__: model for model in (SetupRequest, PreloadRequest, BatchRequest, MonitorRequest)
}
"""Request classes by name, as notebooks refer to them."""
