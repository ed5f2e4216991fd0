"""What is done to whom in a batch: ``people.yaml`` in the output folder, the user's to edit.

It is written once. What a verb or the panel changes later, or a run adds because somebody new is seen, is put
into the text that is there: comments, order and spelling stay as the user has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from colab_helpers.batch.known_people import KnownPeople
from colab_helpers.batch.people_text import double_key, edited, entry, flow, line_of, read
from colab_helpers.batch.report import write_text
from colab_helpers.errors import MissingFileError, SettingsError, UsageError
from colab_helpers.faces.cast import PERSONAL
from colab_helpers.language import mark, tr
from colab_helpers.request import MAP_NAME as MAP_NAME
from colab_helpers.settings import Settings

PHOTOS, LEAVE = "photos", "leave"
RESERVED = (PHOTOS, LEAVE, "blur", "pixelate")
"""Sources that are no name of the library and no paths."""
_HEADER = mark(
    "Who is who in this batch, and what is done to each. Edit it and run again: only what that changes is\n"
    "done again. Pictures of everybody are in the folder people.\n"
    "\n"
    "source: photos (those of the run), leave, blur, pixelate, a name of the library, or paths of photos.\n"
    "faces: groups that the networks put together; two in one list are one person.\n"
    "photos: pictures that show who it is, instead of faces or beside them.\n"
    "settings: of this person alone, such as {enhancer_blend: 40}.\n"
    "default: what is done to people who are not named here.\n"
    "The names, such as p1, may be replaced by any others.\n"
    "record: of which people/people.json the faces are; leave it as it is."
)
_DEEPEST = 50
_REMEDY = mark("correct {name}, or delete it and run again: it is written anew")


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


class Person(BaseModel):
    """Somebody in the targets.

    Attributes:
        faces: Groups of ``KnownPeople`` that show the person.
        photos: Paths of pictures that do; relative ones start at the output folder.
        source: Who is put in: one of `RESERVED`, a name of the library, or paths of photos.
        settings: Of this person alone; some of `PERSONAL`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    faces: Words = ()
    photos: Words = ()
    source: Words = Field((PHOTOS,), min_length=1)
    settings: dict[str, Any] = {}

    _alone = field_validator("source")(_sources)

    @field_validator("settings")
    @classmethod
    def _checked(cls, value: dict[str, Any]) -> dict[str, Any]:
        foreign = sorted(value.keys() - {*PERSONAL})
        if foreign:
            allowed = ", ".join(PERSONAL)
            text = mark("{name} cannot be set for one person; allowed: {allowed}")
            raise ValueError(tr(text, name=foreign[0], allowed=allowed))
        try:
            Settings().with_overrides(**value)
        except SettingsError as error:
            raise ValueError(error.what) from error
        return value

    @model_validator(mode="after")
    def _shown(self) -> Self:
        if not self.faces and not self.photos:
            raise ValueError(tr("neither faces nor photos say who this is"))
        return self


class PeopleMap(BaseModel):
    """The whole map; ``people`` by name, in the order of the file; groups are those of ``record``."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    record: str = ""
    default: Words = Field((PHOTOS,), min_length=1)
    people: dict[_Name, Person] = {}

    _text: str = PrivateAttr("")
    _called: dict[str, str] = PrivateAttr(default_factory=dict)  # in the text, by name

    _alone = field_validator("default")(_sources)

    @field_validator("people", mode="before")
    @classmethod
    def _nobody(cls, value: object) -> object:
        return {} if value is None else value

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

        Raises:
            MissingFileError: It cannot be read.
            UsageError: It is no map; the message names the line and what is wrong there.
        """
        path = output_dir / MAP_NAME
        try:
            text = path.read_bytes().decode()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            told = tr("the map of people cannot be read ({reason})", reason=error)
            raise MissingFileError(told, where=str(path), remedy=tr(_REMEDY, name=MAP_NAME)) from error
        try:
            return cls.of(text)
        except UsageError as error:
            raise UsageError(error.what, where=str(path), remedy=tr(_REMEDY, name=MAP_NAME)) from error

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a map's text; UsageError with the line where it is none."""
        steps = ({"[": 1, "{": 1, "]": -1, "}": -1}.get(letter, 0) for letter in text)
        if max(accumulate(steps, initial=0)) > _DEEPEST:  # for which the parser takes ever longer
            raise UsageError(_at_line(0, tr("brackets are nested too deeply")))
        try:
            root, data = read(text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:  # lists in lists; a 13th month
            at = getattr(error, "problem_mark", None)
            reason = getattr(error, "problem", None) or error
            raise UsageError(_at_line(at.line if at else 0, str(reason))) from error
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise UsageError(_at_line(0, tr("default and people are expected here")))
        if (double := double_key(root)) is not None:
            raise UsageError(_at_line(double.start_mark.line, tr("{key} is there twice", key=double.value)))
        try:
            made = cls.model_validate(data)
        except ValidationError as error:
            item = error.errors()[0]
            raise UsageError(_at_line(line_of(root, item["loc"]), _complaint(item))) from error
        made._text, made._called = text, {name: name for name in made.people}
        return made

    def save(self, output_dir: Path) -> None:
        """Write it, with what has changed put into the text that was read.

        Raises:
            UsageError: That text is written in a way in which nothing can be put into it.
            OutputError: It cannot be written.
        """
        text = self.text()
        write_text(output_dir / MAP_NAME, text)
        self._text, self._called = text, {name: name for name in self.people}

    def text(self) -> str:
        """Return it as it is saved; UsageError as there."""
        asked = self._plain()
        if not self._text:
            header = "".join(f"# {line}".rstrip() + "\n" for line in tr(_HEADER).splitlines())
            people = "".join(entry(name, person, "  ") for name, person in asked["people"].items())
            record = f"record: {flow(self.record)}\n" if self.record else ""
            return f"{header}\nversion: 1\n{record}default: {flow(asked['default'])}\npeople:\n{people}"
        text = edited(self._text, PeopleMap.of(self._text)._plain(), asked, self._called)
        with suppress(UsageError):
            if PeopleMap.of(text)._plain() == asked:
                return text
        told = tr("{name} is written in a way in which nothing can be put into it", name=MAP_NAME)
        raise UsageError(told, remedy=tr("edit it by hand, or begin a line with each name and each field"))

    def merge(self, one: str, other: str) -> None:
        """Have two of the people be one: she keeps the first name, its source and settings."""
        kept, gone = self._person(one), self._person(other)
        if one == other:
            raise UsageError(tr("{name} is one person already", name=one), remedy=tr("name two people"))
        both = {field: (*getattr(kept, field), *getattr(gone, field)) for field in ("faces", "photos")}
        self.people[one] = kept.model_copy(update=both)
        del self.people[other]
        self._called.pop(other, None)

    def rename(self, old: str, new: str) -> None:
        """Call somebody something else."""
        self._person(old)
        if not new.strip() or (new in self.people and new != old):
            told = (
                mark("nobody can be called {name!r}: somebody else is")
                if new.strip()
                else mark("a name is empty")
            )
            raise UsageError(tr(told, name=new), remedy=tr("choose another name"))
        self.people = {new if name == old else name: person for name, person in self.people.items()}
        if old in self._called:
            self._called[new] = self._called.pop(old)

    def put(self, name: str, **fields: Any) -> None:
        """Give somebody, who may be new, other values of `Person`; UsageError where they are not allowed."""
        person = self.people.get(name)
        values = (person.model_dump() if person else {}) | fields
        try:
            self.people[name] = Person.model_validate(values)
        except ValidationError as error:
            told = _complaint(error.errors()[0])
            raise UsageError(told, where=name, remedy=tr("correct the value")) from error

    def _person(self, name: str) -> Person:
        if name not in self.people:
            names = ", ".join(self.people)
            raise UsageError(tr("there is no {name}", name=name), remedy=tr("allowed: {names}", names=names))
        return self.people[name]

    def _plain(self) -> dict[str, Any]:
        """Return what `edited` takes: lists of one word as that word."""
        data = self.model_dump(mode="json", exclude={"version"})
        for each in (data, *data["people"].values()):
            for field in ("default", "source"):
                if len(each.get(field, ())) == 1:
                    (each[field],) = each[field]
        return data


@dataclass(frozen=True)
class Row:
    """One of the people of an output folder, as lists and sheets show them.

    Attributes:
        files: Seconds on screen in each target, by its name.
        crops: Pictures in the folder of `KnownPeople`, the best first.
        alike: Names of people who look much like this one.
        named: Whether the map names the person; else the default counts.
    """

    name: str
    source: tuple[str, ...]
    seconds: float
    files: dict[str, float]
    crops: tuple[str, ...]
    alike: tuple[str, ...]
    doubtful: bool
    named: bool = True


def new_name(group: str, taken: Mapping[str, object]) -> str:
    """Return what somebody is called whom the map does not name: the group, unless somebody has that name."""
    return (
        group
        if group not in taken
        else next(name for number in range(2, len(taken) + 3) if (name := f"{group} ({number})") not in taken)
    )


def unnamed(known: KnownPeople, given: PeopleMap) -> dict[str, str]:
    """Return the groups that a map does not name, by what they are called."""
    named = {group for person in given.people.values() for group in person.faces}
    found: dict[str, str] = {}
    for group in known.groups:
        if group not in named:
            found[new_name(group, {**given.people, **found})] = group
    return found


def summary(known: KnownPeople, given: PeopleMap | None) -> list[Row]:
    """Return everybody who was found or is named: the named ones in the order of the map, then the others."""
    given = given or PeopleMap()
    names = {group: name for name, person in given.people.items() for group in person.faces}
    people = {name: person.faces for name, person in given.people.items()}
    others = unnamed(known, given)
    people |= {name: (group,) for name, group in others.items()}
    names |= {group: name for name, group in others.items()}
    rows = []
    for name, ids in people.items():
        groups = [known.groups[group] for group in ids if group in known.groups]
        files = Counter[str]()
        for group in groups:
            files.update(group.files)
        named = name in given.people
        row = Row(
            name=name,
            source=given.people[name].source if named else given.default,
            seconds=sum(files.values()),
            files=dict(files),
            crops=tuple(crop for group in groups for crop in group.crops),
            alike=tuple({names.get(other, other): None for group in groups for other in group.alike}),
            doubtful=any(group.doubtful for group in groups),
            named=named,
        )
        rows.append(row)
    return rows


def _at_line(line: int | None, what: str) -> str:
    return what if line is None else tr("line {line}: {what}", line=line + 1, what=what)


def _complaint(item: Any) -> str:
    """Say what is wrong with a value, by what pydantic tells."""
    key = ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
    if item["type"] == "value_error":
        message = str(item["msg"]).removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if item["type"] != "extra_forbidden":
        return tr("{key} cannot be {value}", key=key, value=item["input"])
    model = PeopleMap if len(item["loc"]) == 1 else Person
    return tr("there is no {name!r}; allowed: {names}", name=key, names=", ".join(model.model_fields))
