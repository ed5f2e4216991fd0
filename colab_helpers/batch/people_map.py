"""What is done to whom in a batch: ``people.yaml`` in the output folder, the user's to edit.

What a verb or the panel changes, or a run that finds somebody new adds, is written with the same header;
a text with anything else in it, such as comments, is kept beside it as ``people.yaml.old``,
or with a number where one is there.
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
"""Sources that are no name of the library and no paths."""
_HEADER = mark(
    "Who is who in this batch, and what is done to each. Edit it and run again: only what that changes is\n"
    "done again. Pictures of everybody are in the folder people.\n"
    "\n"
    "source: photos (those of the run), leave, blur, pixelate, portraits (another for each, of nobody\n"
    "there is), a name of the library, or paths of photos.\n"
    "faces: groups that the networks put together; two in one list are one person.\n"
    "photos: pictures that show who it is, instead of faces or beside them.\n"
    "settings: of this person alone, such as {enhancer_blend: 40}.\n"
    "default: what is done to people who are not named here.\n"
    "The names, such as p1, may be replaced by any others.\n"
    "record: of which people/people.json the faces are; leave it as it is."
)
MAX_CROPS = 8
_DEEPEST = 50
_REMEDY = mark("correct {name}, or delete it and run again: it is written anew")


class _Loader(yaml.BaseLoader):
    """Takes whatever is written for words, so that nobody is called ``False``."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a name that is there twice, of which YAML would drop one."""
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                told = tr("{key} is there twice", key=key.value)
                raise yaml.MarkedYAMLError(problem=told, problem_mark=key.start_mark)
            known.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


def _words(value: object) -> object:
    """A single word as a list of one."""
    return [value] if isinstance(value, str) else value


def _sources(value: tuple[str, ...]) -> tuple[str, ...]:
    reserved = [word for word in value if word in RESERVED]
    if reserved and len(value) > 1:
        raise ValueError(tr("{word} stands alone", word=reserved[0]))
    return value


_Name = Annotated[str, Field(min_length=1)]
Words = Annotated[tuple[_Name, ...], BeforeValidator(_words)]
Sources = Annotated[Words, Field(min_length=1), AfterValidator(_sources)]


class MappedPerson(BaseModel, extra="forbid", frozen=True):
    """Somebody in the targets."""

    faces: Words = ()  # groups of ``KnownPeople`` that show the person
    photos: Words = ()  # paths of pictures that do; relative ones start at the output folder
    # Who is put in: one of `RESERVED`, a name of the library, or paths of photos.
    source: Sources = (PHOTOS,)
    settings: dict[str, Any] = {}  # of this person alone; some of `PER_PERSON_SETTINGS`

    @field_validator("settings")
    @classmethod
    def _checked(cls, value: dict[str, Any]) -> dict[str, Any]:
        foreign = sorted(value.keys() - {*PER_PERSON_SETTINGS})
        if foreign:
            allowed = ", ".join(PER_PERSON_SETTINGS)
            text = mark("{name} cannot be set for one person; allowed: {allowed}")
            raise ValueError(tr(text, name=foreign[0], allowed=allowed))
        try:
            settings = Settings().with_overrides(**value)
        except SettingsError as error:
            raise ValueError(error.what) from error
        return {name: getattr(settings, name) for name in value}  # as words they are read

    @model_validator(mode="after")
    def _shown(self) -> Self:
        if not self.faces and not self.photos:
            raise ValueError(tr("neither faces nor photos say who this is"))
        return self


class PeopleMap(BaseModel, extra="forbid"):
    """The whole map; ``people`` by name, in the order of the file; groups are those of ``record``."""

    version: int = Field(1, ge=1, le=1)
    record: str = ""
    default: Sources = (PHOTOS,)
    people: Annotated[dict[_Name, MappedPerson], BeforeValidator(lambda value: value or {})] = {}

    _read: str = PrivateAttr("")  # the text it comes from

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        claimed: dict[str, str] = {}
        for name, person in self.people.items():
            for group in person.faces:
                if claimed.setdefault(group, name) != name:
                    told = mark("{group} is among the faces of {one} and of {other}")
                    raise ValueError(tr(told, group=group, one=claimed[group], other=name))
        return self

    @classmethod
    def load(cls, output_dir: Path) -> Self | None:
        """Read the map of an output folder; None where there is none yet.

        MissingFileError where it cannot be read; UsageError where it is none, which says what is wrong.
        """
        path, remedy = output_dir / MAP_NAME, tr(_REMEDY, name=MAP_NAME)
        try:
            return cls.of(path.read_bytes().decode())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            told = tr("the map of people cannot be read ({reason})", reason=error)
            raise MissingFileError(told, where=str(path), remedy=remedy) from error
        except UsageError as error:
            raise UsageError(error.what, where=str(path), remedy=remedy) from error

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a map's text; UsageError where it is none."""
        steps = ({"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0) for letter in text)
        if max(accumulate(steps, initial=0)) > _DEEPEST:  # for which the parser takes ever longer
            raise UsageError(tr("brackets are nested too deeply"))
        try:
            data = yaml.load(text, _Loader) or {}
        except (yaml.YAMLError, RecursionError) as error:
            at, what = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
            raise UsageError(
                tr("line {line}: {what}", line=at.line + 1, what=what) if at else what
            ) from error
        if not isinstance(data, dict):
            raise UsageError(tr("default and people are expected here"))
        try:
            made = cls.model_validate(data)
        except ValidationError as error:
            raise UsageError(_complaint(error.errors()[0])) from error
        made._read = text
        return made

    def save(self, output_dir: Path) -> None:
        """Write it, beside what was read if that had anything else in it; OutputError if it fails."""
        text = self.text()
        if self._read and PeopleMap.of(self._read).text() != self._read:
            first = output_dir / f"{MAP_NAME}.old"  # one that is there holds an earlier text
            others = (numbered(first, number) for number in count(2))
            write_text(next(old for old in chain([first], others) if not old.exists()), self._read)
        write_text(output_dir / MAP_NAME, text)
        self._read = text

    def text(self) -> str:
        """Return it as it is saved."""
        whole: dict[str, Any] = self.model_dump(mode="json")
        for each, field in ((whole, "default"), *((one, "source") for one in whole["people"].values())):
            each[field] = each[field][0] if len(each[field]) == 1 else each[field]
        for each in (*whole["people"].values(), whole):
            for field in [field for field, value in each.items() if not value]:
                del each[field]
        header = "".join(f"# {line}".rstrip() + "\n" for line in tr(_HEADER).splitlines())
        written = yaml.safe_dump(whole, allow_unicode=True, sort_keys=False, default_flow_style=None)
        return f"{header}\n{written}"

    @property
    def names(self) -> dict[str, str]:
        """Who is shown by each group."""
        return {group: name for name, person in self.people.items() for group in person.faces}

    def merge(self, one: str, other: str) -> None:
        """Have two of the people be one: she keeps the first name, its source and settings."""
        if one == other:
            raise UsageError(tr("{name} is one person already", name=one), remedy=tr("name two people"))
        kept, gone = self.people[one], self.people.pop(other)
        both = {field: (*getattr(kept, field), *getattr(gone, field)) for field in ("faces", "photos")}
        self.people[one] = kept.model_copy(update=both)

    def rename(self, old: str, new: str) -> None:
        """Call somebody something else."""
        if not new.strip() or (new in self.people and new != old):
            told = tr("nobody can be called {name!r}: that is empty, or somebody else is", name=new)
            raise UsageError(told, remedy=tr("choose another name"))
        self.people = {new if name == old else name: person for name, person in self.people.items()}

    def put(self, name: str, **fields: Any) -> None:
        """Set fields of a person, adding them if new; raise UsageError if a value is not allowed."""
        person = self.people.get(name)
        values = (person.model_dump() if person else {}) | fields
        try:
            self.people[name] = MappedPerson.model_validate(values)
        except ValidationError as error:
            told = _complaint(error.errors()[0])
            raise UsageError(told, where=name, remedy=tr("correct the value")) from error


def with_portraits(people_map: PeopleMap | None) -> PeopleMap:
    """Return a map by which whoever is not in it gets a portrait of their own."""
    return (people_map or PeopleMap()).model_copy(update={"default": (PORTRAITS,)})


def new_name(group: str, taken: Container[str]) -> str:
    """Return what somebody is called whom the map does not name: the group, unless somebody has that name."""
    names = chain([group], (f"{group} ({number})" for number in count(2)))
    return next(name for name in names if name not in taken)


def complete_map(
    people_map: PeopleMap,
    known: KnownPeople,
    looks: Mapping[str, FloatArray] | None = None,
    limit: float = 0.0,
) -> PeopleMap:
    """Return a map that names everybody who was found: who is new gets what is done to others.

    Those of whom it has photos are known by their ``looks``, ``(512,)`` unit embeddings by name, up to a
    squared distance.
    """
    whole, names = people_map.model_copy(update={"people": {**people_map.people}}), people_map.names
    for group, one in known.groups.items():
        if group not in names:
            apart = {name: face_distance(one.look, look) for name, look in (looks or {}).items()}
            nearest = min(apart, key=lambda name: apart[name], default=None)
            if nearest is not None and apart[nearest] <= limit:
                whole.put(nearest, faces=(*whole.people[nearest].faces, group))
            else:
                whole.put(new_name(group, whole.people), faces=(group,), source=people_map.default)
            whole.record = known.record
    return whole


@dataclass(frozen=True)
class PersonSummary:
    """One of the people of an output folder, as lists and sheets show them."""

    name: str
    source: tuple[str, ...]
    files: dict[str, float]  # seconds on screen in each target, by its name
    crops: tuple[str, ...]  # pictures in the folder of `KnownPeople`, the best first
    alike: tuple[str, ...]  # names of people who look much like this one
    doubtful: bool

    @property
    def seconds(self) -> float:
        """Seconds on screen in all targets."""
        return sum(self.files.values())


def summarize_people(known: KnownPeople, people_map: PeopleMap | None) -> list[PersonSummary]:
    """Return everybody who was found or is named, in the order of the map."""
    whole = complete_map(people_map or PeopleMap(), known)
    names, tracks, like, rows = whole.names, known.tracks(), known.alike(), []
    for name, person in whole.people.items():
        groups = [group for group in person.faces if group in known.groups]
        parts = [[(known.videos[key], n) for key, n in tracks[group]] for group in groups]
        shown = [(video, video.seen[n]) for part in parts for video, n in part]
        files = {video.target: round(video.seconds(*groups), 3) for video, _ in shown}
        best = sorted((one for _, one in shown if one.crop), key=lambda one: (one.dark, -one.worth))
        crops = tuple(one.crop for one in best[:MAX_CROPS])
        alike = dict.fromkeys(names[one] for group in groups for one in like[group])
        doubtful = any(is_doubtful([video.seen[n] for video, n in part]) for part in parts)
        others = tuple(one for one in alike if one != name)
        rows.append(PersonSummary(name, person.source, files, crops, others, doubtful))
    return rows


def _complaint(item: Any) -> str:
    """Say what is wrong with a value, by what pydantic tells."""
    key = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
    if item["type"] == "value_error":
        message = str(item["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if item["type"] != "extra_forbidden":
        return tr("{key} cannot be {value}", key=key, value=item["input"])
    model = PeopleMap if len(item["loc"]) == 1 else MappedPerson
    return tr("there is no {name!r}; allowed: {names}", name=key, names=", ".join(model.model_fields))
