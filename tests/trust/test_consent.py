"""Consent as a statement or file, the people it names, and the demo's consent."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import get_args

import pytest

from colab_helpers.errors import ConsentError, MissingFileError
from colab_helpers.language import use_language
from colab_helpers.trust.consent import (
    DEMO_CONSENT,
    DEMO_MANIFEST,
    is_demo_file,
    parse_consent,
    require_consent,
)
from colab_helpers.trust.records import GROUNDS, Consent, ConsentedPerson, Ground


def test_demo_file_is_recognised_by_its_hash(tmp_path: Path) -> None:
    target = tmp_path / "targets" / "clip.mp4"
    target.parent.mkdir()
    target.write_bytes(b"clip")
    assert not is_demo_file(target)
    digest = hashlib.sha256(b"clip").hexdigest()
    (tmp_path / DEMO_MANIFEST).write_text(json.dumps({"files": {"targets/clip.mp4": digest}}))
    assert is_demo_file(target)
    assert require_consent(DEMO_CONSENT, [target]).statement == DEMO_CONSENT
    target.write_bytes(b"something else")
    assert not is_demo_file(target)
    with pytest.raises(ConsentError):
        require_consent(DEMO_CONSENT, [target])
    with pytest.raises(MissingFileError, match="there is no such file"):
        require_consent(DEMO_CONSENT, [target.with_name("clpi.mp4")])


@pytest.mark.parametrize(
    "statement", ["self", "Ana Ruiz and Jon Lee:  written consent,\n2026-10-01", "licensed stock footage"]
)
def test_statement_of_people_and_ground_is_accepted(statement: str, tmp_path: Path) -> None:
    consent = require_consent(statement, [tmp_path / "x.mp4"])
    assert consent == Consent(statement=" ".join(statement.split()))
    assert consent.record() == {"statement": consent.text}
    assert parse_consent(consent.text) == consent


@pytest.mark.parametrize(
    "text",
    [
        "itself",
        Consent(statement="x y z", people=(ConsentedPerson(name="a", ground="written consent"),)).text,
        Consent(people=(ConsentedPerson(name="a", ground="self"),)).text,
        Consent(statement="x y z", people=(ConsentedPerson(name=" ", ground="self"),)).text,
        '{"people": [{"name": "a", "ground": "her own idea"}]}',
    ],
)
def test_incomplete_consent_is_refused_in_any_form(text: str) -> None:
    with pytest.raises(ConsentError, match="does not say who is shown and why"):
        require_consent(text, [])


def test_ground_may_be_given_in_the_current_language() -> None:
    with pytest.raises(ConsentError, match="grounds are: self"):
        require_consent("uno mismo", [])
    with use_language("es"):
        assert require_consent("uno mismo", []).statement == "uno mismo"
        assert require_consent("written consent", []).statement == "written consent"
        with pytest.raises(ConsentError, match="uno mismo, consentimiento por escrito"):
            require_consent("algo", [])


def test_names_match_in_other_spellings() -> None:
    statement = Consent(statement="Ana Ruíz (source), JON-LEE (video): written consent")
    named = ["ana ruiz", "Ana", "Jon Lee", "ana_ruíz", "jon.lee"]
    assert statement.unnamed(named) == []
    unnamed = ["An", "Ruiz Ana", "Lee (video) x", "p1", "Jo"]
    assert statement.unnamed([*unnamed, *named, "p1"]) == unnamed
    assert Consent().unnamed(["Ana"]) == ["Ana"]
    people = Consent(
        statement="Bob is a good film",
        people=(
            ConsentedPerson(name="Ana Ruíz", ground="self"),
            ConsentedPerson(name="JON-LEE", ground="licensed"),
        ),
    )
    # Only the full names of `people` count, not the statement.
    assert people.unnamed([*named, "Bob", "ruiz jon"]) == ["Ana", "Bob", "ruiz jon"]


FILE = """\
statement: Dubbing of Two Doors, scenes 3 to 7.
people:
  Ana Ruíz: self
  Jon Lee:
    ground: Written Consent
    given_by: Jon Lee, 2026-10-01
    document: contracts/jon lee.pdf
  Hanna: {ground: synthetic}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "consent.yaml"
    path.write_text(FILE)
    return path


def test_consent_file_is_read_once_with_all_people(file: Path) -> None:
    consent = require_consent(f" {file} ", [], ["ana_ruiz", "JON LEE"])
    signed = {"given_by": "Jon Lee, 2026-10-01", "document": "contracts/jon lee.pdf"}
    assert consent.record() == {
        "statement": "Dubbing of Two Doors, scenes 3 to 7.",
        "people": [
            {"name": "Ana Ruíz", "ground": "self"},
            {"name": "Jon Lee", "ground": "written consent", **signed},
            {"name": "Hanna", "ground": "synthetic"},
        ],
    }
    file.unlink()
    assert require_consent(consent.text, [], ["hanna"]) == consent
    with pytest.raises(ConsentError, match=r"no ground of consent is given for bob.*below 'people:'"):
        require_consent(consent.text, [], ["bob", "ana ruiz"])
    assert get_args(Ground) == GROUNDS


def test_statement_is_generated_for_a_file_without_one(file: Path) -> None:
    file.write_text(
        "people:\n  Ana: self\n  Old film: {ground: public archive, given_by: 'Filmoteca, CC0'}\n"
    )
    assert parse_consent(str(file)).statement == "Ana: self; Old film: public archive (Filmoteca, CC0)"
    file.write_text("people: {Ana: uno mismo}\n")
    with use_language("es"):
        assert parse_consent(str(file)).people == (ConsentedPerson(name="Ana", ground="self"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("people:\n  Ana: her own idea\n", "line 2: the ground of Ana is missing, or none of: self"),
        ("people:\n  Ana: {given_by: me}\n", "line 2: the ground of Ana is missing"),
        ("people:\n  Ana:\n    ground: licensed\n", "line 3: Ana: given_by has to say who gave the licensed"),
        ("people:\n  Ana: self\n  Ana: self\n", "line 3: Ana occurs twice"),
        ("people:\n  Ana:\n    ground: self\n    since: 2020\n", "line 4: there is no 'since'; allowed"),
        ("persons:\n  Ana: self\n", "line 1: there is no 'persons'; allowed: statement, people"),
        ("people:\n- Ana\n", "line 2: a name and a colon are expected here"),
        ("people:\n  Ana: {ground: [self]}\n", "line 2: a word or a sentence is expected here"),
        ("statement: hello\n", "it names nobody"),
        ("people: {}\n", "it names nobody"),
        ("people: {'': self}\n", "it names nobody"),
        ("", "a name and a colon are expected here"),
        ("people:\n  Ana: [self\n", "line 3: "),
        ("people:\n  Ana: !!python/object/apply:os.system ['touch x']\n", "line 2: a name and a colon"),
        ("people: &a {Ana: *a}\n", "line 1: there is no 'Ana'"),
        (f"people: {'[' * 5000}", "it cannot be read"),
        (f"people: {{Ana: '{'x' * 70_000}'}}", "it is larger than 64 kB"),
        ("people:\n  Ana: \x00\n", "line 2: |special characters"),
    ],
)  # fmt: skip
def test_error_in_consent_file_names_the_line(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConsentError, match=message) as caught:
        require_consent(str(file), [])
    assert str(caught.value).startswith(str(file))
    assert "{ground: written consent" in caught.value.remedy


def test_unreadable_consent_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_bytes(b"people: {Ana\xe9: self}")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("none.yaml", "bad.yml", "pipe.yaml"):
        with pytest.raises(ConsentError, match="cannot be read"):
            require_consent(str(tmp_path / name), [])
