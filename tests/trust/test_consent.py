"""The statement of consent: what is taken, and what the demo's covers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from colab_helpers.errors import ConsentError
from colab_helpers.language import spoken
from colab_helpers.trust.consent import (
    DEMO_CONSENT,
    DEMO_MANIFEST,
    is_demo_file,
    not_named,
    require_consent,
)


def test_a_demo_file_is_known_by_its_hash(tmp_path: Path) -> None:
    target = tmp_path / "targets" / "clip.mp4"
    target.parent.mkdir()
    target.write_bytes(b"clip")
    assert not is_demo_file(target)
    digest = hashlib.sha256(b"clip").hexdigest()
    (tmp_path / DEMO_MANIFEST).write_text(json.dumps({"files": {"targets/clip.mp4": digest}}))
    assert is_demo_file(target)
    assert require_consent(DEMO_CONSENT, [target]) == DEMO_CONSENT
    target.write_bytes(b"something else")
    assert not is_demo_file(target)
    with pytest.raises(ConsentError):
        require_consent(DEMO_CONSENT, [target])


@pytest.mark.parametrize(
    "statement", ["self", "Ana Ruiz and Jon Lee:  written consent,\n2026-10-01", "licensed stock footage"]
)
def test_statements_that_say_who_and_why_are_taken(statement: str, tmp_path: Path) -> None:
    assert require_consent(statement, [tmp_path / "x.mp4"]) == " ".join(statement.split())


def test_a_ground_may_be_named_in_the_language_spoken() -> None:
    with pytest.raises(ConsentError, match="grounds are: self"):
        require_consent("uno mismo", [])
    with spoken("es"):
        assert require_consent("uno mismo", []) == "uno mismo"
        assert require_consent("written consent", []) == "written consent"
        with pytest.raises(ConsentError, match="uno mismo, consentimiento por escrito"):
            require_consent("algo", [])


def test_who_is_named_in_a_statement_is_found_however_it_is_spelt() -> None:
    statement = "Ana Ruíz (source), JON-LEE (video): written consent"
    named = ["ana ruiz", "Ana", "Jon Lee", "ana_ruíz", "jon.lee"]
    assert not_named(statement, named) == []
    strangers = ["An", "Ruiz Ana", "Lee (video) x", "p1", "Jo"]
    assert not_named(statement, [*strangers, *named, "p1"]) == strangers
    assert not_named("", ["Ana"]) == ["Ana"]
