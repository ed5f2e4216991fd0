"""The people map ``people.yaml`` in the output folder: what is done to whom. The user may edit it.

If rewriting it would lose anything, such as comments, the old file is kept beside it as ``people.yaml.old``,
with a number if that exists.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain, count
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from colab_helpers.batch.known_people import KnownPeople, is_doubtful
from colab_helpers.batch.report import write_text
from colab_helpers.errors import MissingFileError, SettingsError, UsageError
from colab_helpers.faces.assignment import PER_PERSON_SETTINGS
from colab_helpers.faces.geometry import face_distance
from colab_helpers.faces.types import FloatArray
from colab_helpers.files import numbered
from colab_helpers.language import mark, tr
from colab_helpers.request import MAP_NAME as MAP_NAME
from colab_helpers.settings import Settings

PHOTOS, LEAVE, PORTRAITS = "photos", "leave", "portraits"
RESERVED = (PHOTOS, LEAVE, "blur", "pixelate", PORTRAITS)
"""Words with a fixed meaning as a source, which are neither library names nor paths."""
_HEADER = mark(
    "Who is who in this batch, and what is done to each person. Edit this file and run again: only results\n"
    "that your edits affect are made again. Pictures of the people are in the folder people.\n"
    "\n"
    "source: photos (those of the run), leave (unchanged), blur, pixelate, portraits (a different face for\n"
    "each person, of somebody who does not exist), a name from the library, or paths of photos.\n"
    "faces: groups of faces that look like one person; groups in one list count as the same person.\n"
    "photos: pictures that show the person, instead of faces or in addition.\n"
    "settings: for this person only, such as {enhancer_blend: 40}.\n"
    "default: what is done to people who are not named here.\n"
    "Names such as p1 can be replaced by any others.\n"
    "record: identifies the people/people.json that the faces refer to; leave it unchanged."
)
MAX_CROPS = 8
_MAX_DEPTH = 50
_REMEDY = mark("correct {name}, or delete it and run again: a new one is written")


class _Loader(yaml.BaseLoader):
    """Loads all scalars as strings, so that a person named ``No`` stays text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicate keys, of which YAML would drop one."""
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                problem = tr("{key} occurs twice", key=key.value)
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            known.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_reserved(value: tuple[str, ...]) -> tuple[str, ...]:
    reserved = [word for word in value if word in RESERVED]
    if reserved and len(value) > 1:
        raise ValueError(tr("{word} cannot be combined with other sources", word=reserved[0]))
    return value


_Name = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[_Name, ...], BeforeValidator(_as_list)]
Sources = Annotated[Words, Field(min_length=1), AfterValidator(_check_reserved)]


class MappedPerson(BaseModel, extra="forbid", frozen=True):
    """A person in the targets."""

    faces: Words = ()  # groups of ``KnownPeople`` that show the person
    photos: Words = ()  # paths of pictures of the person, relative to the output folder
    source: Sources = (PHOTOS,)  # one of `RESERVED`, a name of the library, or paths of photos
    settings: dict[str, Any] = {}  # for this person only; some of `PER_PERSON_SETTINGS`

    @field_validator("settings")
    @classmethod
    def _check_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        refused = sorted(value.keys() - {*PER_PERSON_SETTINGS})
        if refused:
            allowed = ", ".join(PER_PERSON_SETTINGS)
            text = mark("{name} cannot be set for one person; allowed: {allowed}")
            raise ValueError(tr(text, name=refused[0], allowed=allowed))
        try:
            settings = Settings().with_overrides(**value)
        except SettingsError as error:
            raise ValueError(error.what) from error
        return {name: getattr(settings, name) for name in value}  # converted from strings

    @model_validator(mode="after")
    def _check_identified(self) -> Self:
        if not self.faces and not self.photos:
            raise ValueError(tr("give faces or photos, to identify this person"))
        return self


class PeopleMap(BaseModel, extra="forbid"):
    """The people map; ``people`` by name in the order of the file, with groups of the record ``record``."""

    version: int = Field(1, ge=1, le=1)
    record: str = ""
    default: Sources = (PHOTOS,)
    people: Annotated[dict[_Name, MappedPerson], BeforeValidator(lambda value: value or {})] = {}

    _text: str = PrivateAttr("")  # text of the file, if it was read from one

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        owners: dict[str, str] = {}
        for name, person in self.people.items():
            for group in person.faces:
                if owners.setdefault(group, name) != name:
                    text = mark("{group} is listed in the faces of both {one} and {other}")
                    raise ValueError(tr(text, group=group, one=owners[group], other=name))
        return self

    @classmethod
    def load(cls, output_dir: Path) -> Self | None:
        """Read the map of an output folder; return None if there is none.

        Raise MissingFileError if it cannot be read, UsageError if it is not valid.
        """
        path, remedy = output_dir / MAP_NAME, tr(_REMEDY, name=MAP_NAME)
        try:
            return cls.of(path.read_bytes().decode())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            what = tr("the map of people cannot be read ({reason})", reason=error)
            raise MissingFileError(what, where=str(path), remedy=remedy) from error
        except UsageError as error:
            raise UsageError(error.what, where=str(path), remedy=remedy) from error

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse the text of a map; raise UsageError if it is not valid."""
        steps = ({"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0) for letter in text)
        if max(accumulate(steps, initial=0)) > _MAX_DEPTH:  # the parser becomes very slow
            raise UsageError(tr("brackets are nested too deeply"))
        try:
            data = yaml.load(text, _Loader) or {}
        except (yaml.YAMLError, RecursionError) as error:
            where, what = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
            what = tr("line {line}: {what}", line=where.line + 1, what=what) if where else what
            raise UsageError(what) from error
        if not isinstance(data, dict):
            raise UsageError(tr("a mapping with default and people is expected here"))
        try:
            people_map = cls.model_validate(data)
        except ValidationError as error:
            raise UsageError(_validation_message(error.errors()[0])) from error
        people_map._text = text
        return people_map

    def save(self, output_dir: Path) -> None:
        """Write the map, and keep the text that was read if it holds more; raise OutputError on failure."""
        text = self.text()
        if self._text and PeopleMap.of(self._text).text() != self._text:
            first = output_dir / f"{MAP_NAME}.old"
            others = (numbered(first, number) for number in count(2))
            write_text(next(old for old in chain([first], others) if not old.exists()), self._text)
        write_text(output_dir / MAP_NAME, text)
        self._text = text

    def text(self) -> str:
        """Return the text of the file: header and YAML, without empty fields."""
        data: dict[str, Any] = self.model_dump(mode="json")
        people = list(data["people"].values())
        for item, field in ((data, "default"), *((person, "source") for person in people)):
            item[field] = item[field][0] if len(item[field]) == 1 else item[field]
        for item in (*people, data):
            for field in [field for field, value in item.items() if not value]:
                del item[field]
        header = "".join(f"# {line}".rstrip() + "\n" for line in tr(_HEADER).splitlines())
        body = yaml.safe_dump(data, allow_unicode=True, sort_keys=False, default_flow_style=None)
        return f"{header}\n{body}"

    @property
    def names(self) -> dict[str, str]:
        """Name of the person in each group."""
        return {group: name for name, person in self.people.items() for group in person.faces}

    def merge(self, one: str, other: str) -> None:
        """Merge two people, keeping name, source and settings of ``one``; raise UsageError if same person."""
        if one == other:
            what, remedy = tr("cannot merge {name} with itself", name=one), tr("name two different people")
            raise UsageError(what, remedy=remedy)
        kept, merged = self.people[one], self.people.pop(other)
        both = {field: (*getattr(kept, field), *getattr(merged, field)) for field in ("faces", "photos")}
        self.people[one] = kept.model_copy(update=both)

    def rename(self, old: str, new: str) -> None:
        """Rename a person; raise UsageError if the name is empty or taken."""
        if not new.strip() or (new in self.people and new != old):
            what = tr("cannot use the name {name!r}: it is empty or already taken", name=new)
            raise UsageError(what, remedy=tr("choose another name"))
        self.people = {new if name == old else name: person for name, person in self.people.items()}

    def put(self, name: str, **fields: Any) -> None:
        """Set fields of a person, adding the person if new; raise UsageError if a value is not allowed."""
        person = self.people.get(name)
        values = (person.model_dump() if person else {}) | fields
        try:
            self.people[name] = MappedPerson.model_validate(values)
        except ValidationError as error:
            what = _validation_message(error.errors()[0])
            raise UsageError(what, where=name, remedy=tr("correct the value")) from error


def with_portraits(people_map: PeopleMap | None) -> PeopleMap:
    """Return the map with portraits as its default source."""
    return (people_map or PeopleMap()).model_copy(update={"default": (PORTRAITS,)})


def new_name(group: str, taken: Container[str]) -> str:
    """Return a free name for a new person: the group's, with a number if that is taken."""
    names = chain([group], (f"{group} ({number})" for number in count(2)))
    return next(name for name in names if name not in taken)


def complete_map(
    people_map: PeopleMap,
    known: KnownPeople,
    embeddings: Mapping[str, FloatArray] | None = None,
    limit: float = 0.0,
) -> PeopleMap:
    """Return the map with all known groups: a new one joins the person it looks like, or adds a person.

    Args:
        people_map: The map; people who are added get its default source.
        known: The groups.
        embeddings: ``(512,)`` unit embeddings, by name, of the people for whom the map has photos.
        limit: Squared distance up to which a group joins one of them.
    """
    completed, names = people_map.model_copy(update={"people": {**people_map.people}}), people_map.names
    for group, one in known.groups.items():
        if group not in names:
            distances = {name: face_distance(one.look, photo) for name, photo in (embeddings or {}).items()}
            nearest = min(distances, key=lambda name: distances[name], default=None)
            if nearest is not None and distances[nearest] <= limit:
                completed.put(nearest, faces=(*completed.people[nearest].faces, group))
            else:
                completed.put(new_name(group, completed.people), faces=(group,), source=people_map.default)
            completed.record = known.record
    return completed


@dataclass(frozen=True)
class PersonSummary:
    """A person of an output folder, as shown in lists and sheets."""

    name: str
    source: tuple[str, ...]
    files: dict[str, float]  # seconds on screen by target name
    crops: tuple[str, ...]  # file names of pictures in the people folder, best first
    alike: tuple[str, ...]  # names of people who look similar
    doubtful: bool  # see `is_doubtful`

    @property
    def seconds(self) -> float:
        """Seconds on screen in all targets."""
        return sum(self.files.values())


def summarize_people(known: KnownPeople, people_map: PeopleMap | None) -> list[PersonSummary]:
    """Return everybody who was found or is named, in the order of the map."""
    completed = complete_map(people_map or PeopleMap(), known)
    names, tracks, lookalikes, rows = completed.names, known.tracks(), known.alike(), []
    for name, person in completed.people.items():
        groups = [group for group in person.faces if group in known.groups]
        parts = [[(known.videos[key], n) for key, n in tracks[group]] for group in groups]
        shown = [(video, video.seen[n]) for part in parts for video, n in part]
        files = {video.target: round(video.seconds(*groups), 3) for video, _ in shown}
        best = sorted((one for _, one in shown if one.crop), key=lambda one: (one.dark, -one.worth))
        crops = tuple(one.crop for one in best[:MAX_CROPS])
        similar = dict.fromkeys(names[other] for group in groups for other in lookalikes[group])
        doubtful = any(is_doubtful([video.seen[n] for video, n in part]) for part in parts)
        others = tuple(other for other in similar if other != name)
        rows.append(PersonSummary(name, person.source, files, crops, others, doubtful))
    return rows


def _validation_message(item: Any) -> str:
    """Return the message for an error of pydantic."""
    key = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
    if item["type"] == "value_error":
        message = str(item["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if item["type"] != "extra_forbidden":
        return tr("{key} cannot be {value}", key=key, value=item["input"])
    model = PeopleMap if len(item["loc"]) == 1 else MappedPerson
    return tr("there is no {name!r}; allowed: {names}", name=key, names=", ".join(model.model_fields))
