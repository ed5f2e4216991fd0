"""Texts for people go through ``tr``: found in the code itself, and heard from every verb."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from colab_helpers import language
from colab_helpers.__main__ import VERBS, main
from colab_helpers.api import run_batch, swap_file, swap_image, swap_video
from colab_helpers.errors import ConsentError, UsageError
from colab_helpers.language import mark, set_language, tr, use_language
from colab_helpers.settings import load_settings
from colab_helpers.stages import map_ordered, run_ahead
from tests.media.make import Spec, make

ROOT = Path(language.__file__).parent
# They run before there is anything to translate with.
PLAIN = {"install.py", "requirements.py", "language.py"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the package: where it is, the last name of what is called, and the call."""
    for path in sorted(path for path in ROOT.rglob("*.py") if path.name not in PLAIN):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}", name, node


def is_plain(text: ast.expr | None) -> bool:
    """Whether an expression puts words together that nobody translates."""
    if isinstance(text, ast.IfExp):
        return is_plain(text.body) or is_plain(text.orelse)
    is_text = isinstance(text, ast.Constant) and bool(text.value)
    return is_text or isinstance(text, ast.JoinedStr | ast.BinOp)


def shown(name: str, call: ast.Call) -> list[ast.expr]:
    """The texts of a call that people will read: of our errors, and of notes."""
    if name.endswith("Error") and any(keyword.arg in ("where", "remedy") for keyword in call.keywords):
        return [*call.args[:1], *(each.value for each in call.keywords if each.arg == "remedy")]
    owner = getattr(call.func, "value", None)
    listed = getattr(owner, "attr", getattr(owner, "id", "")) in ("notes", "fallbacks", "hints")
    return call.args[:1] if name in ("note", "_note") or (name == "append" and listed) else []


def translated(name: str, call: ast.Call) -> str:
    """What is wrong with a call of ``tr`` or ``mark``: its text must stand there, with its values."""
    text = call.args[0] if len(call.args) == 1 else None
    if not isinstance(text, ast.Constant):
        return "not a text" if name == "mark" or text is None or is_plain(text) else ""
    given = {keyword.arg for keyword in call.keywords}
    wanted = {field for _, field, _, _ in Formatter().parse(str(text.value)) if field}
    # Without values braces mean themselves, as in a line of code.
    return "other values" if name == "tr" and given and None not in given and wanted != given else ""


def test_what_people_read_is_written_out_where_it_is_translated() -> None:
    found = list(calls())
    texts = [(place, text) for place, name, call in found for text in shown(name, call)]
    assert len(texts) > 200
    assert [place for place, text in texts if is_plain(text)] == []
    made = [(place, translated(name, call)) for place, name, call in found if name in ("tr", "mark")]
    assert len(made) > 500
    assert [(place, fault) for place, fault in made if fault] == []


class Pseudo:
    """A language that cannot be mistaken for English."""

    def gettext(self, text: str) -> str:
        return f"«{text}»"


@pytest.fixture(autouse=True)
def pseudo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spanish in this process is English in guillemets: what is not translated shows."""
    real = language._translations
    monkeypatch.setattr(
        language, "_translations", lambda chosen: Pseudo() if chosen == "es" else real(chosen)
    )
    yield
    set_language("auto")


def test_the_language_is_set_for_a_while_for_good_or_by_the_environment(monkeypatch) -> None:
    assert mark("{x}") == tr("{x}") == "{x}"
    with use_language("es"):
        assert (tr(""), tr("{count} frames", count=3)) == ("", "«3 frames»")
        with use_language("auto"):
            assert language.language() == "es"
        with use_language("en"):
            assert tr("frames") == "frames"
        error = UsageError(tr("there is no target"), remedy=tr("name a file"))
        assert str(error) == "«there is no target». «What to do: «name a file»»."
    monkeypatch.setenv(language.LANGUAGE_ENV, "es")
    for chosen, expected in (("auto", "es"), ("en", "en"), ("auto", "es")):
        set_language(chosen)
        assert language.language() == expected
    monkeypatch.setenv(language.LANGUAGE_ENV, "tlh")
    with pytest.warns(UserWarning, match="not one of en, es"):
        assert language.language() == "en"


def test_what_one_thread_speaks_no_other_does_unless_it_was_started_there() -> None:
    found: dict[str, str] = {}
    together = threading.Barrier(2, timeout=60)

    def say(chosen: str) -> None:
        with use_language(chosen):
            together.wait()
            found[chosen] = tr("frames")
            together.wait()

    threads = [threading.Thread(target=say, args=(chosen,)) for chosen in ("en", "es")]
    with use_language("es"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == {"en": "frames", "es": "«frames»"}
        inside = run_ahead((tr("frames") for _ in range(2)), 1, name="stage")
        both = list(map_ordered(lambda text: text + tr("frames"), inside, workers=2))
        assert both == ["«frames»«frames»"] * 2


@pytest.mark.parametrize("verb", [swap_image, swap_video, swap_file, run_batch])
def test_the_verbs_speak_the_language_of_their_settings(
    verb: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    places = {swap_image: [photo, photo], run_batch: [[photo], [photo], tmp_path / "out"]}
    given = places.get(verb, [[photo], photo, tmp_path / "out.png"])
    for chosen, told in (("es", "^«no statement of consent"), ("en", "^no statement of consent")):
        with pytest.raises(ConsentError, match=told):
            verb(*given, consent="", settings=load_settings(language=chosen))


def test_a_batch_speaks_and_its_language_makes_it_no_other_batch(
    constant_models: Path, photo: Path, consent: str, tmp_path: Path
) -> None:
    target, out = make(tmp_path / "a.mp4", Spec(frames=5)), tmp_path / "out"
    made = []
    for chosen in ("es", "en"):
        asked = {"execution_provider": "cpu", "output_video_encoder": "libx264", "language": chosen}
        settings = load_settings(**asked, visible_label_text="made with AI")
        options = {"consent": consent, "settings": settings, "models_dir": constant_models}
        report = run_batch([photo], [target], out, **options)
        assert report.ok
        assert report.notes
        assert any("file(s)" in note for note in report.notes) == (chosen == "en")
        assert f'<html lang="{chosen}">' in (out / "report.html").read_text(encoding="utf-8")
        made.append((out / "a.mp4").stat().st_mtime_ns)
    assert made[0] == made[1]


@pytest.mark.parametrize("verb", list(VERBS))
def test_the_help_of_each_verb_speaks_a_language(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, marked in (["--language=es"], True), ([], False):
        with pytest.raises(SystemExit):
            main([verb, *words, "--help"])
        assert ("«" in capsys.readouterr().out) == marked


@pytest.mark.parametrize("words", [["--set", "language=es"], ["--language", "es"], []])
def test_an_option_a_setting_or_the_environment_counts_for_the_command_line(
    monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    if not words:
        monkeypatch.setenv(language.LANGUAGE_ENV, "es")
    assert main(["preload", "--models-dir", str(tmp_path), "--offline", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("«models folder: ")
    assert printed.err.startswith("«error: ")
