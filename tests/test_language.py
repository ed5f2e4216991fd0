"""User-visible texts go through ``tr``: checked in the source code and for every command."""

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
# They run before translations can be loaded.
UNTRANSLATED = {"install.py", "requirements.py", "language.py"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the package: location, last name of the function, and node."""
    for path in sorted(path for path in ROOT.rglob("*.py") if path.name not in UNTRANSLATED):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}", name, node


def is_plain(text: ast.expr | None) -> bool:
    """Whether an expression is an untranslated text."""
    if isinstance(text, ast.IfExp):
        return is_plain(text.body) or is_plain(text.orelse)
    is_text = isinstance(text, ast.Constant) and bool(text.value)
    return is_text or isinstance(text, ast.JoinedStr | ast.BinOp)


def user_texts(name: str, call: ast.Call) -> list[ast.expr]:
    """The user-visible texts of a call: of errors and notes."""
    if name.endswith("Error") and any(keyword.arg in ("where", "remedy") for keyword in call.keywords):
        return [*call.args[:1], *(each.value for each in call.keywords if each.arg == "remedy")]
    owner = getattr(call.func, "value", None)
    is_list = getattr(owner, "attr", getattr(owner, "id", "")) in ("notes", "fallbacks", "hints")
    return call.args[:1] if name in ("note", "_note") or (name == "append" and is_list) else []


def translation_fault(name: str, call: ast.Call) -> str:
    """The fault of a call of ``tr`` or ``mark``, which need a literal text and its values."""
    text = call.args[0] if len(call.args) == 1 else None
    if not isinstance(text, ast.Constant):
        return "not a text" if name == "mark" or text is None or is_plain(text) else ""
    values = {keyword.arg for keyword in call.keywords}
    fields = {field for _, field, _, _ in Formatter().parse(str(text.value)) if field}
    # Without values braces are literal.
    return "other values" if name == "tr" and values and None not in values and fields != values else ""


def test_user_texts_are_translated_literals() -> None:
    found = list(calls())
    texts = [(place, text) for place, name, call in found for text in user_texts(name, call)]
    assert len(texts) > 200
    assert [place for place, text in texts if is_plain(text)] == []
    faults = [(place, translation_fault(name, call)) for place, name, call in found if name in ("tr", "mark")]
    assert len(faults) > 500
    assert [(place, fault) for place, fault in faults if fault] == []


class Pseudo:
    """A translation that puts texts in guillemets."""

    def gettext(self, text: str) -> str:
        return f"«{text}»"


@pytest.fixture(autouse=True)
def pseudo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace Spanish by English in guillemets, which shows untranslated texts."""
    real = language._translations
    monkeypatch.setattr(language, "_translations", lambda code: Pseudo() if code == "es" else real(code))
    yield
    set_language("auto")


def test_language_set_by_context_call_or_environment(monkeypatch) -> None:
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
    for code, expected in (("auto", "es"), ("en", "en"), ("auto", "es")):
        set_language(code)
        assert language.language() == expected
    monkeypatch.setenv(language.LANGUAGE_ENV, "tlh")
    with pytest.warns(UserWarning, match="not one of en, es"):
        assert language.language() == "en"


def test_language_is_per_thread_and_inherited_by_stages() -> None:
    found: dict[str, str] = {}
    barrier = threading.Barrier(2, timeout=60)

    def translate(code: str) -> None:
        with use_language(code):
            barrier.wait()
            found[code] = tr("frames")
            barrier.wait()

    threads = [threading.Thread(target=translate, args=(code,)) for code in ("en", "es")]
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
def test_api_errors_use_language_of_settings(verb: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    places = {swap_image: [photo, photo], run_batch: [[photo], [photo], tmp_path / "out"]}
    arguments = places.get(verb, [[photo], photo, tmp_path / "out.png"])
    for code, message in (("es", "^«no statement of consent"), ("en", "^no statement of consent")):
        with pytest.raises(ConsentError, match=message):
            verb(*arguments, consent="", settings=load_settings(language=code))


def test_batch_language_does_not_invalidate_results(
    constant_models: Path, photo: Path, consent: str, tmp_path: Path
) -> None:
    target, out = make(tmp_path / "a.mp4", Spec(frames=5)), tmp_path / "out"
    times = []
    for code in ("es", "en"):
        values = {"execution_provider": "cpu", "output_video_encoder": "libx264", "language": code}
        settings = load_settings(**values, visible_label_text="made with AI")
        options = {"consent": consent, "settings": settings, "models_dir": constant_models}
        report = run_batch([photo], [target], out, **options)
        assert report.ok
        assert report.notes
        assert any("file(s)" in note for note in report.notes) == (code == "en")
        assert f'<html lang="{code}">' in (out / "report.html").read_text(encoding="utf-8")
        times.append((out / "a.mp4").stat().st_mtime_ns)
    assert times[0] == times[1]


@pytest.mark.parametrize("verb", list(VERBS))
def test_help_of_each_command_is_translated(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, marked in (["--language=es"], True), ([], False):
        with pytest.raises(SystemExit):
            main([verb, *words, "--help"])
        assert ("«" in capsys.readouterr().out) == marked


@pytest.mark.parametrize("words", [["--set", "language=es"], ["--language", "es"], []])
def test_command_line_language_by_option_setting_or_environment(
    monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    if not words:
        monkeypatch.setenv(language.LANGUAGE_ENV, "es")
    assert main(["preload", "--models-dir", str(tmp_path), "--offline", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("«models folder: ")
    assert printed.err.startswith("«error: ")
