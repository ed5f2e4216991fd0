"""Texts for people go through ``tr``: found in the code itself, and heard from every verb."""

from __future__ import annotations

import ast
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from jinja2 import Environment, nodes

from colab_helpers import language
from colab_helpers.__main__ import VERBS, main
from colab_helpers.api import run_batch, swap_file, swap_image, swap_video
from colab_helpers.diagnosis.findings import Check, Diagnosis
from colab_helpers.errors import ConsentError, UsageError
from colab_helpers.language import LANGUAGES, mark, speak, spoken, tr
from colab_helpers.pages.rendering import TEMPLATES
from colab_helpers.pages.report import write_page
from colab_helpers.settings import Settings, load_settings
from colab_helpers.stages import map_ordered, run_ahead
from tests.media.make import Spec, make

ROOT = Path(language.__file__).parent
# They run before there is anything to translate with.
PLAIN = {"install.py", "requirements.py", "language.py"}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the package: where it is, the last name of what is called, and the call."""
    for path in sorted(ROOT.rglob("*.py")):
        if path.name in PLAIN or path.name == "train.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}", name, node


def is_plain(text: ast.expr | None) -> bool:
    """Whether an expression puts words together that nobody translates."""
    if isinstance(text, ast.IfExp):
        return is_plain(text.body) or is_plain(text.orelse)
    return isinstance(text, ast.JoinedStr | ast.BinOp) or (
        isinstance(text, ast.Constant) and bool(text.value)
    )


def shown(name: str, call: ast.Call) -> list[ast.expr]:
    """The texts of a call that people will read: of our errors, and of notes."""
    if name.endswith("Error") and any(keyword.arg in ("where", "remedy") for keyword in call.keywords):
        return [*call.args[:1], *(each.value for each in call.keywords if each.arg == "remedy")]
    owner = getattr(call.func, "value", None)
    listed = getattr(owner, "attr", getattr(owner, "id", "")) in ("notes", "fallbacks", "hints")
    return call.args[:1] if name in ("note", "_note") or (name == "append" and listed) else []


def test_errors_and_notes_are_made_of_translated_texts() -> None:
    texts = [(place, text) for place, name, call in calls() for text in shown(name, call)]
    assert len(texts) > 250
    assert [place for place, text in texts if is_plain(text)] == []


def values_of(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_what_is_translated_is_written_out_where_it_is_translated() -> None:
    literals, faults = 0, []
    for place, name, call in calls():
        if name not in ("tr", "mark") or not isinstance(call.func, ast.Name):
            continue
        text = call.args[0] if len(call.args) == 1 else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value:
            literals += 1
            given = {keyword.arg for keyword in call.keywords}
            # Without values braces mean themselves, as in a line of code.
            if name == "tr" and given and None not in given and values_of(text.value) != given:
                faults.append(f"other values than in the text: {place}")
        elif name == "mark" or text is None or is_plain(text):
            faults.append(f"not a text: {place}")
    assert literals > 500
    assert faults == []


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.j2")), ids=lambda path: path.name)
def test_templates_hold_no_words_that_are_not_translated(path: Path) -> None:
    tree = Environment().parse(path.read_text(encoding="utf-8"))
    for call in tree.find_all(nodes.Call):
        if getattr(call.node, "name", "") == "tr" and isinstance(call.args[0], nodes.Const):
            assert values_of(call.args[0].value) == {value.key for value in call.kwargs}
    words = "".join(data.data for data in tree.find_all(nodes.TemplateData))
    words = re.sub(r"<(style|script)\b.*?</\1>", " ", words, flags=re.DOTALL)
    assert re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]*>?", " ", words)) == []


class Pseudo:
    """A language that cannot be mistaken for English."""

    def gettext(self, text: str) -> str:
        return f"«{text}»"


@pytest.fixture
def pseudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spanish in this process is English in guillemets: what is not translated shows."""
    real = language._translations
    monkeypatch.setattr(
        language, "_translations", lambda chosen: Pseudo() if chosen == "es" else real(chosen)
    )


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(language.VARIABLE, raising=False)
    yield
    assert language.language() == "en"
    speak("auto")


def test_the_language_is_set_for_a_while_for_good_or_by_the_environment(monkeypatch, pseudo: None) -> None:
    assert mark("{x}") == tr("{x}") == "{x}"
    with spoken("es"):
        assert (tr(""), tr("{count} frames", count=3)) == ("", "«3 frames»")
        with spoken("auto"):
            assert language.language() == "es"
        with spoken("en"):
            assert tr("frames") == "frames"
        error = UsageError(tr("there is no target"), remedy=tr("name a file"))
        assert str(error) == "«there is no target». «What to do: «name a file»»."
    monkeypatch.setenv(language.VARIABLE, "es")
    for chosen, expected in (("auto", "es"), ("en", "en"), ("auto", "es")):
        speak(chosen)
        assert language.language() == expected
    monkeypatch.setenv(language.VARIABLE, "tlh")
    with pytest.warns(UserWarning, match="none of en, es"):
        assert language.language() == "en"
    assert set(Settings.model_json_schema()["properties"]["language"]["enum"]) == {"auto", *LANGUAGES}


def test_what_one_thread_speaks_no_other_does_unless_it_was_started_there(pseudo: None) -> None:
    found: dict[str, str] = {}
    together = threading.Barrier(2, timeout=60)

    def say(chosen: str) -> None:
        with spoken(chosen):
            together.wait()
            found[chosen] = tr("frames")
            together.wait()

    threads = [threading.Thread(target=say, args=(chosen,)) for chosen in LANGUAGES]
    with spoken("es"):
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
    verb: Callable[..., Any], photo: Path, tmp_path: Path, pseudo: None
) -> None:
    places = {swap_image: [photo, photo], run_batch: [[photo], [photo], tmp_path / "out"]}
    given = places.get(verb, [[photo], photo, tmp_path / "out.png"])
    for chosen, told in (("es", "^«no statement of consent"), ("en", "^no statement of consent")):
        with pytest.raises(ConsentError, match=told):
            verb(*given, consent="", settings=load_settings(language=chosen))


def test_a_batch_speaks_and_its_language_is_no_other_batch(
    constant_models: Path, photo: Path, consent: str, tmp_path: Path, pseudo: None
) -> None:
    target, out = make(tmp_path / "a.mp4", Spec(frames=5)), tmp_path / "out"

    def run(**values: Any) -> Any:
        settings = load_settings(execution_provider="cpu", output_video_encoder="libx264", **values)
        options = {"consent": consent, "settings": settings, "models_dir": constant_models}
        return run_batch([photo], [target], out, **options)

    report = run(language="es")
    assert report.ok
    assert '<html lang="es">' in (out / "report.html").read_text(encoding="utf-8")
    assert report.notes
    assert not any("file(s)" in note for note in report.notes)
    made = (out / "a.mp4").stat().st_mtime_ns
    assert run(language="en").ok
    with spoken("es"):
        page = write_page(out).read_text(encoding="utf-8")
    assert (out / "a.mp4").stat().st_mtime_ns == made
    names = re.findall(r"<(?:th|dt|h1|h2|summary)[^>]*>([^<]+)", page)
    # Names of files, settings and models are the same in every language.
    known = {"a.mp4", "det_10g", "w600k_r50", "inswapper_128", "GFPGANv1.4", *Settings.model_fields}
    assert len(names) > 40
    assert [name for name in names if name.strip() and name.strip() not in known and "«" not in name] == []


@pytest.fixture
def lines(tmp_path: Path, photo: Path, constant_models: Path, consent: str) -> dict[str, list[str]]:
    """A command line of each verb that says something, most of them a refusal."""
    target, none = make(tmp_path / "a.mp4", Spec(frames=5)), str(tmp_path / "none")
    common = ["-s", str(photo), "--models-dir", str(constant_models), "--execution-provider", "cpu"]
    common += ["--output-video-encoder", "libx264", "--consent", consent, "-t", str(target)]
    return {
        "swap": ["swap", *common, "-o", str(tmp_path / "b.mp4")],
        "batch": ["batch", *common, "-o", str(tmp_path / "out"), "--in-process"],
        "status": ["status", none],
        "stop": ["stop", none],
        "demo": ["demo", str(target / "demo")],
        "preload": ["preload", "--models-dir", none, "--offline"],
        "convert": ["convert", str(tmp_path / "none.onnx")],
        "doctor": ["doctor", "--models-dir", none],
    }


@pytest.mark.parametrize("verb", list(VERBS))
def test_each_verb_of_the_command_line_and_its_help_speak_a_language(
    verb: str, lines: dict[str, list[str]], capsys: pytest.CaptureFixture[str], pseudo: None
) -> None:
    main([*lines[verb], "--language", "es"])
    shown = capsys.readouterr()
    assert "«" in shown.out + shown.err
    for words, marked in (["--language=es"], True), ([], False):
        with pytest.raises(SystemExit):
            main([verb, *words, "--help"])
        assert ("«" in capsys.readouterr().out) == marked


def test_the_environment_and_set_count_for_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
    lines: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
    pseudo: None,
) -> None:
    main([*lines["preload"], "--set", "language=es"])
    assert capsys.readouterr().err.startswith("«error: ")
    assert main([*lines["preload"], "--language", "tlh"]) == 2
    assert "auto, en, es" in capsys.readouterr().err
    monkeypatch.setenv(language.VARIABLE, "es")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "«find out what works on this machine»" in capsys.readouterr().out
    monkeypatch.delenv(language.VARIABLE)


def test_machines_read_the_same_in_every_language() -> None:
    check = Check(name="models folder", status="warn", detail="d", remedy="r")
    with spoken("es"):
        assert json.loads(check.model_dump_json())["name"] == "models folder"
        assert not Diagnosis.of([check]).lines()[0].startswith("WARN models folder")
