"""Statements of consent, required by every run: who is shown, on what ground, and who gave it."""

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

_OWN_GROUNDS = ("self", "synthetic")  # nobody else has to give them

DEMO_CONSENT = "Only the rendered people of the demo are shown: synthetic."
"""Statement that covers the files of the demo only."""

DEMO_MANIFEST = "demo.json"
"""File in a demo folder that lists the SHA-256 of its sources and targets."""

_MAX_BYTES = 64 << 10
_VAGUE = mark("the statement of consent {text!r} does not say who is shown and why")


def parse_consent(text: str) -> Consent:
    """Parse a statement of consent: a sentence, the path of a YAML file, or a `Consent.text`.

    Raise ConsentError, with the line, if the file cannot be read or is incomplete or invalid.
    """
    if text.startswith("{"):
        with suppress(ValueError):
            consent = from_json(Consent, text)
            if consent.statement.strip() and all(map(_is_complete, consent.people)):
                return consent
        raise _refusal(tr(_VAGUE, text=text))
    if text.strip().lower().endswith((".yaml", ".yml")):
        return _ConsentFile(absolute(text.strip())).read()
    return Consent(statement=" ".join(text.split()))


def require_consent(text: str, files: Iterable[Path | None], people: Collection[str] = ()) -> Consent:
    """Parse a statement of consent and check it before any work.

    Args:
        text: The statement, see `parse_consent`.
        files: Every source and target of the run; None for one that is not a file.
        people: Known names of the sources, each of which a consent file has to list.

    Raises:
        ConsentError: The statement is missing, too vague, that of the demo although other files are used, or
            its file does not list everybody.
        MissingFileError: The statement is that of the demo, and one of the files does not exist.
    """
    consent = parse_consent(text)
    if consent.people:
        if missing := consent.unnamed(people):
            raise ConsentError(
                tr("no ground of consent is given for {names}", names=", ".join(missing)),
                where=text.strip() if not text.startswith("{") else "",
                remedy=_consent_file_remedy(),
            )
        return consent
    if not consent.statement:
        raise _refusal(tr("no statement of consent was given, and nothing is processed without one"))
    statement, names = consent.statement.lower(), "|".join(map(re.escape, (*GROUNDS, *grounds())))
    if len(statement.split()) < 3 and not re.search(rf"\b({names})\b", statement):
        raise _refusal(tr(_VAGUE, text=consent.statement))
    if consent.statement == DEMO_CONSENT:
        _require_demo(files)
    return consent


class _ConsentFile:
    """Parser of a ``consent.yaml`` that reads text only and constructs no objects, whatever its tags."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Consent:
        """Return its consent; raise ConsentError, with the line, if it is incomplete or invalid."""
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):  # reading a pipe might block forever
                raise OSError(tr("this is a folder, pipe or device, not a file"))
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise self._error(None, tr("it is larger than {size} kB", size=_MAX_BYTES >> 10))
            fields = self._fields(yaml.compose(data.decode(), yaml.SafeLoader), ("statement", "people"))
        except ConsentError:  # which is a ValueError, too
            raise
        except (OSError, ValueError, RecursionError) as error:  # invalid path, not UTF-8, or nested too deep
            raise self._error(None, tr("it cannot be read ({reason})", reason=error)) from error
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or str(error)
            raise self._error(getattr(error, "problem_mark", None), reason) from error
        people = self._fields(fields["people"]) if "people" in fields else {}
        if not people or "" in people:
            raise self._error(None, tr("it names nobody"))
        persons = tuple(self._person(name, node) for name, node in people.items())
        statement = self._text(fields["statement"]) if "statement" in fields else ""
        return Consent(statement=statement or "; ".join(one.summary for one in persons), people=persons)

    def _person(self, name: str, node: yaml.Node) -> ConsentedPerson:
        is_short = isinstance(node, yaml.ScalarNode)
        fields = {"ground": node} if is_short else self._fields(node, ("ground", "given_by", "document"))
        texts = {key: self._text(value) for key, value in fields.items()}
        ground_of = {tr(ground): ground for ground in GROUNDS} | {ground: ground for ground in GROUNDS}
        ground = ground_of.get(texts.pop("ground", "").lower())
        if ground is None:
            message = mark("the ground of {name} is missing, or none of: {grounds}")
            message = tr(message, name=name, grounds=", ".join(grounds()))
            raise self._error((fields.get("ground") or node).start_mark, message)
        person = ConsentedPerson.model_validate({"name": name, "ground": ground, **texts})
        if not _is_complete(person):
            message = mark("{name}: given_by has to say who gave the {ground}, and when")
            raise self._error(node.start_mark, tr(message, name=name, ground=tr(ground)))
        return person

    def _fields(self, node: yaml.Node | None, allowed: Collection[str] = ()) -> dict[str, yaml.Node]:
        """Return the value nodes of a mapping by key."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node.start_mark if node else None, tr("a name and a colon are expected here"))
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._text(key)
            if name in fields:
                raise self._error(key.start_mark, tr("{key} occurs twice", key=name))
            if allowed and name not in allowed:
                message = tr("there is no {name!r}; allowed: {names}", name=name, names=", ".join(allowed))
                raise self._error(key.start_mark, message)
            fields[name] = value
        return fields

    def _text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node.start_mark, tr("a word or a sentence is expected here"))
        return " ".join(node.value.split())

    def _error(self, at: Any, problem: str) -> ConsentError:
        message = tr("line {line}: {what}", line=at.line + 1, what=problem) if at else problem
        return ConsentError(message, where=str(self._path), remedy=_consent_file_remedy())


def _is_complete(person: ConsentedPerson) -> bool:
    """Return whether it is stated who gave the ground, unless that is the person or nobody."""
    return bool(person.name.strip() and (person.ground in _OWN_GROUNDS or person.given_by.strip()))


def _require_demo(files: Iterable[Path | None]) -> None:
    for path in files:
        if path is not None and is_demo_file(path):
            continue
        if path is not None and not os.path.exists(path):  # noqa: PTH110 - Path.exists raises for long names
            require_file(path)  # report a mistyped path as a missing file
        raise _refusal(tr("the demo's statement of consent covers its rendered people only"), path)


def _refusal(problem: str, path: Path | None = None) -> ConsentError:
    remedy = tr(
        "say who is shown and on what ground, for example "
        'consent="Ana Ruiz (source) and Jon Lee (video): written consent, 2026-10-01"; '
        "grounds are: {grounds}; or name a file that lists each person: consent=consent.yaml",
        grounds=", ".join(grounds()),
    )
    return ConsentError(problem, where=str(path or ""), remedy=remedy)


def _consent_file_remedy() -> str:
    return tr(
        "add a line for each person, such as '  Ana Ruiz: {{ground: written consent, given_by: Ana Ruiz "
        "2026-10-01}}', below 'people:'; grounds are: {grounds}; see docs/responsible-use.md",
        grounds=", ".join(grounds()),
    )


def is_demo_file(path: Path) -> bool:
    """Return whether a file is an unchanged source or target of a demo folder, by the hash in its list."""
    folder = path.absolute().parent.parent
    try:
        files = json.loads((folder / DEMO_MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = files[path.absolute().relative_to(folder).as_posix()]
        return bool(expected == sha256_of(path))
    except (OSError, KeyError, TypeError, ValueError):
        return False
