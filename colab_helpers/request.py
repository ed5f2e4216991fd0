"""Everything a notebook verb can be asked for: names, defaults and checks, once for every door.

Forms, papermill, the headless runner, the command line, Python and the panel build one of these models, and
everything behind them takes it. Texts are read as what they stand for (``"false"`` is False, a single path
is a list of one, YAML is a mapping), paths become absolute with ``~`` expanded, and whatever else is of the
wrong kind is refused before any work.
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
"""The map of a batch's people, in its output folder: who is who, and what is done to each."""
PEOPLE_NAME = "people"
"""Folder beside the results with what is known of the people."""


def _place(value: object) -> object:
    """A path that was written; none where nothing was."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and not value.strip():
        return None
    if not isinstance(value, (str, Path)):
        return value
    return Path(value) if is_unsupported_url(value) else absolute(value)


def in_library(name: str | Path, library: Path | None) -> str | None:
    """Return the folder of somebody in a library; None where nobody there has that name."""
    text = str(name)
    if library is None or text != Path(text).name or text[:1] in ("", "."):
        return None
    return str(library / text) if (library / text).is_dir() else None


def _places(value: object, asked: ValidationInfo) -> object:
    """A list of paths (for a name of the library its folder), data URLs, addresses; one is the only item."""
    if value is None or value == "":
        return ()
    if isinstance(value, str) and _LIST.fullmatch(value) and not absolute(value).exists():
        value = _yaml_or_text(value)
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_item(item, asked.data.get("library")) for item in items)


def _item(value: object, library: Path | None) -> object:
    if isinstance(value, str) and (value.startswith("data:") or is_unsupported_url(value)):
        return value
    if isinstance(value, str) and (folder := in_library(value, library)):
        return folder
    found = _place(value)
    return str(found) if isinstance(found, Path) else found


def _lines(value: object) -> object:
    """A list of texts; of a text its lines."""
    if isinstance(value, str):
        lines = [line.strip() for line in value.splitlines() if line.strip()]
        return _yaml_or_text(value) if _LIST.fullmatch(value) else lines
    return () if value is None else value


def _mapping(value: object) -> object:
    read = _yaml_or_text(value) if isinstance(value, str) else value
    return {} if read is None else read


def _yaml_or_text(text: str) -> object:
    try:
        return from_yaml(text)
    except yaml.YAMLError:
        return text


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("no number")
    return value


OptionalPath = Annotated[Path | None, BeforeValidator(_place)]
PathList = Annotated[tuple[str, ...], BeforeValidator(_places)]
Lines = Annotated[tuple[str, ...], BeforeValidator(_lines)]
Overrides = Annotated[dict[str, Any], BeforeValidator(_mapping)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]


class Request(BaseModel):
    """What every verb can be asked for.

    Raises:
        UsageError: A value of the wrong kind; the message names it and what is allowed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, defer_build=True)
    not_in_form: ClassVar[frozenset[str]] = frozenset()
    """Fields that only the command line and Python have."""

    output_dir: OptionalPath = Field(
        None, description="Where everything goes; empty for a folder under the host's runs."
    )
    language: LanguageChoice = Field(
        "auto", description="Of everything said; auto leaves it to the environment."
    )
    headless: bool = Field(False, description="Nobody watches: plain lines, no panel, no questions.")

    if not TYPE_CHECKING:  # type checkers keep the names of the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _refused(type(self), error) from error

    @classmethod
    def form(cls) -> tuple[str, ...]:
        """Return the names of a notebook's form."""
        return tuple(name for name in cls.model_fields if name not in cls.not_in_form)

    @classmethod
    def of(cls, session: Mapping[str, Any]) -> Self:
        """Build the request from a notebook's form: ``BatchRequest.of(globals())``."""
        values = {name: recall(name, session) for name in cls.form()}
        with use_language(next((known for known in LANGUAGE_CHOICES if known == values["language"]), "auto")):
            return cls(**values)

    @property
    def places(self) -> tuple[Path, ...]:
        """Every file and folder that is named."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return tuple(value for value in values if isinstance(value, Path))

    def check(self) -> None:
        """Refuse what can be seen to be wrong without looking at any file."""

    def with_values(self, **values: Any) -> Self:
        """Return the same request with some other values, checked."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **values})


def recall(name: str, session: Mapping[str, Any]) -> Any:
    """Return what an earlier cell has left in the notebook's session, its ``globals()``.

    Raises:
        UsageError: It is not there: the kernel was restarted, or a cell was skipped.
    """
    if name in session:
        return session[name]
    raise UsageError(
        tr("{name!r} is not known here: the kernel was restarted, or a cell above was not run", name=name),
        remedy=tr("run all cells from the top (Run all); what is finished is kept and not done again"),
    )


def _refused(model: type[Request], error: ValidationError) -> UsageError:
    schema = model.model_json_schema()["properties"]
    told = []
    for item in error.errors():
        name, value = str((*item["loc"], "")[0]), repr(item["input"])
        if not name:
            told.append(str(item["msg"]))
        elif name not in schema:
            told.append(tr("there is no {name!r}", name=name))
        else:
            shown = value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
            what = mark("{key} = {value} is not allowed; allowed: {allowed}")
            told.append(tr(what, key=name, value=shown, allowed=allowed_values(schema[name])))
    return UsageError("; ".join(dict.fromkeys(told)), remedy=tr("correct the value"))


class SettingsRequest(Request):
    """What the verbs that need settings and models can be asked for."""

    preset: str = Field(DEFAULT_PRESET, description="A preset, or several joined by +.")
    overrides: Overrides = Field({}, description="Any field of Settings; wins over the preset.")
    models_dir: OptionalPath = Field(
        None, description="Folder of the model files; empty for the usual place."
    )

    @cached_property
    def settings(self) -> Settings:
        """The settings asked for."""
        return load_settings(self.preset, **self.overrides)

    def check(self) -> None:
        """Refuse settings that cannot be used."""
        _ = self.settings


class SetupRequest(SettingsRequest):
    """What ``setup.ipynb`` asks for."""

    demo: bool = Field(True, description="With models_dir empty, take the demo's stand-in networks.")


class PreloadRequest(SetupRequest):
    """What ``preload.ipynb`` asks for."""

    accept_licences: bool = Field(False, description="The user accepts the licences shown.")
    convert: bool = Field(
        False, description="Make checked copies of swapper and enhancer that fit this machine."
    )
    offline: bool = Field(False, description="Never touch the network.")
    shared_cache: OptionalPath = Field(
        None, description="A folder that outlives this machine, to copy from and to."
    )


class MonitorRequest(Request):
    """What ``monitor.ipynb`` asks for."""

    folder: OptionalPath = Field(
        None, description="Output folder of a batch; empty for this machine by itself."
    )
    seconds: Amount = Field(0.0, description="How long; 0: until the batch ends, or until the interrupt.")
    refresh: Amount = Field(1.0, description="Seconds between two looks.")


class BatchRequest(SettingsRequest):
    """What a batch is asked for.

    Attributes:
        sources: Photos of the person who is put in, and folders of them: absolute paths and data URLs.
        targets: Absolute paths of videos, images, folders and patterns; ``target_paths`` are the files.
    """

    not_in_form = frozenset({"report_path", "work_dir", "in_process"})

    library: OptionalPath = Field(
        None, description="A folder of people, each a folder of photos; sources may then be their names."
    )
    sources: PathList = Field((), description="Photos of the person who is put in; several are averaged.")
    targets: PathList = Field((), description="Videos, images, or folders of them.")
    target_person: PathList = Field(
        (), description="Photos of the one person who is changed; empty: the settings decide."
    )
    never: PathList = Field((), description="Photos of people who are never changed.")
    people: Literal["auto", "find", "only", "everybody"] = Field(
        "auto",
        description="find: everybody in the targets is found first and entered into people.yaml in the "
        "output folder, which says what is done to each; only: and then it ends; everybody: whoever is not "
        "in it gets a portrait of their own out of the library; auto: it counts if it is there.",
    )
    consent: str = Field("", description="Who is shown, on what ground: a sentence or a YAML file's path.")
    instead_of_label: str = Field("", description="How else people are told; empty: by the visible label.")
    video_range: str = Field("", description="Which of the targets, counted from 1, such as 1-30.")
    session_minutes: Amount = Field(0.0, description="How long this machine can be used; 0: not known.")
    shortest_first: bool = Field(False, description="Do the files in the order of the time they take.")
    upload: bool = Field(False, description="Ask for photos and videos of the browser's computer.")
    download: bool = Field(False, description="Hand the results to the browser's computer.")
    report_path: OptionalPath = Field(
        None, description="Where the report goes; report.json beside the results."
    )
    work_dir: OptionalPath = Field(None, description="A folder on a local disk for unfinished work.")
    in_process: bool = Field(
        False, description="Work in this very process: a crash takes everything with it."
    )
    gpus: str = Field("all", description="As the setting; anything but all wins over presets.")
    cluster: str = Field("", description="HOST:PORT of a cluster that does it, or auto for this machine's.")
    gpus_per_worker: float = Field(1.0, gt=0, le=1, description="Share of a GPU that each worker gets there.")
    priority: int = Field(0, description="A batch there waits as long as one of a higher priority works.")
    map_paths: Lines = Field(
        (), description="OLD=NEW: what lies below OLD here lies below NEW on the cluster's machines."
    )

    @cached_property
    def settings(self) -> Settings:
        """The settings asked for."""
        told = self.instead_of_label.strip()
        given: dict[str, Any] = {"visible_label": "off", "disclosure": told} if told else {}
        given |= {"gpus": self.gpus} if self.gpus != "all" else {}
        return load_settings(self.preset, **(given | self.overrides))

    @property
    def target_paths(self) -> list[Path]:
        """The targets, with patterns such as ``clips/*.mp4`` replaced by the files they stand for."""
        return [path for target in self.targets for path in expand_pattern(target)]

    @property
    def photos(self) -> tuple[str, ...]:
        """Every photo: of who is put in, who is changed, and who never is."""
        return (*self.sources, *self.target_person, *self.never)

    @property
    def photo_paths(self) -> list[Path]:
        """Those of the photos that are files."""
        return [Path(photo) for photo in self.photos if not photo.startswith("data:")]

    @property
    def places(self) -> tuple[Path, ...]:
        """Every file and folder that is named."""
        return (*super().places, *self.photo_paths, *map(Path, self.targets))

    @property
    def mapped(self) -> bool:
        """Whether no photos of who is put in are needed: a map may name others, or nothing is done."""
        return self.people in ("only", "everybody") or bool(
            self.output_dir and (self.output_dir / MAP_NAME).exists()
        )

    @property
    def run_name(self) -> str:
        """Name of the folder for a batch of these sources and targets, whatever else is asked for."""
        if not self.sources and not self.targets:
            return "demo-results"
        asked = [sorted(self.sources), sorted(self.targets)]
        stems = [_stem(each[0]) for each in asked if each]
        return f"{'-'.join(stems)}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]}"

    def check(self) -> None:
        """Also refuse addresses, and photos without videos or, unless there is a map, the other way round."""
        for path in (*self.photos, *self.targets, self.output_dir or ""):
            refuse_address(path)
        for path in filter(None, (self.models_dir, self.library, self.report_path, self.work_dir)):
            refuse_address(path, stored=True)
        if self.work_dir and self.output_dir and address_of(self.output_dir):
            what = tr("work_dir has no say where results go to object storage")
            raise UsageError(what, remedy=tr("leave it out, and set TMPDIR to a folder on a large disk"))
        swaps = "face_swapper" in self.settings.frame_processors
        missing = "sources" if self.targets and swaps and not (self.sources or self.mapped) else ""
        missing = "targets" if self.sources and not self.targets else missing
        if missing:
            what = tr("{missing} is empty", missing=missing)
            raise UsageError(what, remedy=tr("name both sources and targets"))


def _stem(path: str) -> str:
    """A few letters of a file's name that any file system takes."""
    stem = "picture" if path.startswith("data:") else Path(path).stem.lower()
    return re.sub(r"[^a-z0-9]+", "_", stem).strip("_")[:20] or "files"


REQUESTS: dict[str, type[Request]] = {
    model.__name__: model for model in (SetupRequest, PreloadRequest, BatchRequest, MonitorRequest)
}
"""Every request by its name, which is how a notebook names the one it builds."""
