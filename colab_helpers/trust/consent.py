"""Consent: who is shown, on what ground, and who says so. Every run states it, every report records it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from colab_helpers.errors import ConsentError
from colab_helpers.files import absolute, from_json, sha256_of
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import require_file
from colab_helpers.trust.records import GROUNDS, Consent, ConsentedPerson, grounds

_BY_THEMSELVES = ("self", "synthetic")  # nobody else has to say so

DEMO_CONSENT = "Only the rendered people of the demo are shown: synthetic."
"""The statement that covers the demo and nothing else."""

DEMO_MANIFEST = "demo.json"
"""File in a demo folder that lists its sources and targets with their SHA-256."""

_MAX_BYTES = 64 << 10
_SAYS_NOTHING = mark("the statement of consent {text!r} does not say who is shown and why")


def parse_consent(text: str) -> Consent:
    """Read what was given: a sentence, the path of a YAML file, or what `Consent.text` made of either.

    ConsentError where the file cannot be read, or something in it is missing or wrong; the line is told.
    """
    if text.startswith("{"):
        with suppress(ValueError):
            given = from_json(Consent, text)
            if given.statement.strip() and all(map(_is_whole, given.people)):
                return given
        raise ConsentError(tr(_SAYS_NOTHING, text=text), remedy=_consent_remedy())
    if text.strip().lower().endswith((".yaml", ".yml")):
        return _File(absolute(text.strip())).read()
    return Consent(statement=" ".join(text.split()))


def require_consent(text: str, files: Iterable[Path | None], people: Collection[str] = ()) -> Consent:
    """Check the statement of consent, as `parse_consent` reads it, before any work.

    ``files`` are every source and target of the run, None for one that is no file; ``people`` who is put in,
    as far as names are known: a file has to name them.

    Raises:
        ConsentError: It is missing, says nothing, is the demo's while other files are used, or its file does
            not name everybody.
        MissingFileError: It is the demo's, and one of them is not there.
    """
    given = parse_consent(text)
    if given.people:
        if missing := given.unnamed(people):
            raise ConsentError(
                tr("nobody says on what ground {names} may be shown", names=", ".join(missing)),
                where=text.strip() if not text.startswith("{") else "",
                remedy=_consent_file_remedy(),
            )
        return given
    if not given.statement:
        raise ConsentError(
            tr("no statement of consent was given, and nothing is processed without one"),
            remedy=_consent_remedy(),
        )
    said = given.statement.lower()
    known = "|".join(map(re.escape, (*GROUNDS, *grounds())))
    if len(said.split()) < 3 and not re.search(rf"\b({known})\b", said):
        raise ConsentError(tr(_SAYS_NOTHING, text=given.statement), remedy=_consent_remedy())
    if given.statement == DEMO_CONSENT:
        _require_demo(files)
    return given


class _File:
    """A ``consent.yaml``, read as words alone: nothing is built of it, whatever its tags say."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Consent:
        """Return what it says; ConsentError with the line where something is missing or wrong."""
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):  # reading a pipe might wait for ever
                raise OSError(tr("this is a folder, pipe or device, not a file"))
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise self._wrong(None, tr("it is larger than {size} kB", size=_MAX_BYTES >> 10))
            top = self._fields(yaml.compose(data.decode(), yaml.SafeLoader), ("statement", "people"))
        except ConsentError:  # a ValueError, too
            raise
        except (OSError, ValueError, RecursionError) as error:  # no name of a file, no text, or too deep
            raise self._wrong(None, tr("it cannot be read ({reason})", reason=error)) from error
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or str(error)
            raise self._wrong(getattr(error, "problem_mark", None), reason) from error
        people = self._fields(top["people"]) if "people" in top else {}
        if not people or "" in people:
            raise self._wrong(None, tr("it names nobody"))
        named = [self._named(name, node) for name, node in people.items()]
        said = self._word(top["statement"]) if "statement" in top else ""
        return Consent(statement=said or "; ".join(one.told for one in named), people=tuple(named))

    def _named(self, name: str, node: yaml.Node) -> ConsentedPerson:
        brief = isinstance(node, yaml.ScalarNode)
        fields = {"ground": node} if brief else self._fields(node, ("ground", "given_by", "document"))
        words = {key: self._word(value) for key, value in fields.items()}
        known = {tr(ground): ground for ground in GROUNDS} | {ground: ground for ground in GROUNDS}
        ground = known.get(words.pop("ground", "").lower())
        if ground is None:
            told = mark("the ground of {name} is missing, or none of: {grounds}")
            told = tr(told, name=name, grounds=", ".join(grounds()))
            raise self._wrong((fields.get("ground") or node).start_mark, told)
        named = ConsentedPerson.model_validate({"name": name, "ground": ground, **words})
        if not _is_whole(named):
            told = mark("{name}: given_by has to say who gave the {ground}, and when")
            told = tr(told, name=name, ground=tr(ground))
            raise self._wrong(node.start_mark, told)
        return named

    def _fields(self, node: yaml.Node | None, allowed: Collection[str] = ()) -> dict[str, yaml.Node]:
        """What stands under each key of a mapping."""
        if not isinstance(node, yaml.MappingNode):
            raise self._wrong(node.start_mark if node else None, tr("a name and a colon are expected here"))
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._word(key)
            if name in found:
                raise self._wrong(key.start_mark, tr("{key} is there twice", key=name))
            if allowed and name not in allowed:
                told = tr("there is no {name!r}; allowed: {names}", name=name, names=", ".join(allowed))
                raise self._wrong(key.start_mark, told)
            found[name] = value
        return found

    def _word(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._wrong(node.start_mark, tr("a word or a sentence is expected here"))
        return " ".join(node.value.split())

    def _wrong(self, at: Any, what: str) -> ConsentError:
        told = tr("line {line}: {what}", line=at.line + 1, what=what) if at else what
        return ConsentError(told, where=str(self._path), remedy=_consent_file_remedy())


def _is_whole(named: ConsentedPerson) -> bool:
    """Whether it is said who gave the ground, where that is somebody else."""
    return bool(named.name.strip() and (named.ground in _BY_THEMSELVES or named.given_by.strip()))


def _require_demo(files: Iterable[Path | None]) -> None:
    for path in files:
        if path is not None and is_demo_file(path):
            continue
        if path is not None and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for long names
            require_file(path)  # a name that was mistyped is that, not somebody else
        raise ConsentError(
            tr("the demo's statement of consent covers its rendered people only"),
            where=str(path or ""),
            remedy=_consent_remedy(),
        )


def _consent_remedy() -> str:
    return tr(
        "say who is shown and on what ground, for example "
        'consent="Ana Ruiz (source) and Jon Lee (video): written consent, 2026-10-01"; '
        "grounds are: {grounds}; or name a file that says so of each: consent=consent.yaml",
        grounds=", ".join(grounds()),
    )


def _consent_file_remedy() -> str:
    return tr(
        "write of each person a line such as '  Ana Ruiz: {{ground: written consent, given_by: Ana Ruiz "
        "2026-10-01}}' below 'people:'; grounds are: {grounds}; see docs/responsible-use.md",
        grounds=", ".join(grounds()),
    )


def is_demo_file(path: Path) -> bool:
    """Whether a file is an unchanged source or target of a demo folder, by its manifest's hash."""
    folder = path.absolute().parent.parent
    try:
        listed = json.loads((folder / DEMO_MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = listed[path.absolute().relative_to(folder).as_posix()]
        return bool(expected == sha256_of(path))
    except (OSError, KeyError, TypeError, ValueError):
        return False
