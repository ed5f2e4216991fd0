"""Texts for people go through ``tr``: found in the code itself, and heard from every verb."""

from __future__ import annotations

import ast
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from jinja2 import Environment, nodes

from colab_helpers import api, language
from colab_helpers.__main__ import main
from colab_helpers.api import run_batch, swap_file, swap_image, swap_video
from colab_helpers.batch.earlier import KEPT
from colab_helpers.batch.job import Job, Source
from colab_helpers.batch.keys import work_key
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import STATE_WORDS
from colab_helpers.batch.status import StatusWriter
from colab_helpers.diagnosis.findings import Check, Diagnosis
from colab_helpers.errors import ConsentError, SettingsError, UsageError
from colab_helpers.language import LANGUAGES, mark, speak, spoken, tr
from colab_helpers.pages.rendering import TEMPLATES
from colab_helpers.pages.report import write_page
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings, load_settings
from colab_helpers.stages import map_ordered, run_ahead
from tests.media.make import Spec, make

ROOT = Path(language.__file__).parent
NOT_LOOKED_AT = {
    "install.py",  # runs before there is anything to translate with
    "demo/train.py",  # for those who train the stand-ins
    "language.py",
}
# What others have said, in the language they speak.
FOREIGN = {
    ("diagnosis/subject.py", "str(error)"),  # of an ImportError
    ("models/catalog.py", "complaints"),  # pydantic's
}
# Exceptions of single modules whose texts are shown, too.
SHOWN_ERRORS = {"MirrorError", "ArchiveError", "_Temporary", "_Refused"}
NOTE_LISTS = {"notes", "fallbacks", "hints"}
NOTE_CALLS = {"note", "_note"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- the code ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Module:
    """One file's code; ``parents`` leads from each node to the one around it."""

    name: str
    tree: ast.Module
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def around(self, node: ast.AST, *kinds: type[ast.AST]) -> Any:
        """The nearest node of a kind around another; None if there is none."""
        place = self.parents.get(node)
        while place is not None and not isinstance(place, kinds):
            place = self.parents.get(place)
        return place

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """Every call with the last name of what is called."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                name = called(node)
                if name:
                    yield name, node

    def functions(self, name: str) -> list[Function]:
        return [n for n in ast.walk(self.tree) if isinstance(n, Function) and n.name == name]

    def returned(self, function: Function) -> list[ast.expr]:
        found = [n for n in ast.walk(function) if isinstance(n, ast.Return) and n.value is not None]
        return [n.value for n in found if n.value is not None and self.around(n, *FUNCTIONS) is function]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


@cache
def modules() -> list[Module]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in NOT_LOOKED_AT:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
            found.append(Module(name, tree, parents))
    return found


@cache
def error_names() -> frozenset[str]:
    """ColabHelpersError and every class below it."""
    names = {"ColabHelpersError"}
    classes = [n for module in modules() for n in ast.walk(module.tree) if isinstance(n, ast.ClassDef)]
    while new := {
        one.name
        for one in classes
        if one.name not in names and any(isinstance(b, ast.Name) and b.id in names for b in one.bases)
    }:
        names |= new
    return frozenset(names)


def is_translated(module: Module, node: ast.expr, seen: frozenset[int] = frozenset()) -> bool:
    """Whether an expression is nothing but translated text, wherever its parts come from."""
    if id(node) in seen:
        return True
    seen |= {id(node)}
    again: Callable[[ast.expr], bool] = lambda part: is_translated(module, part, seen)  # noqa: E731
    if (module.name, ast.unparse(node)) in FOREIGN:
        return True
    match node:
        case ast.Constant(value=None | ""):
            return True
        case ast.Attribute(attr="what" | "remedy" | "reason" | "problem"):
            return True  # of an error or verdict, which got it translated
        case ast.IfExp():
            return again(node.body) and again(node.orelse)
        case ast.BoolOp():
            return all(map(again, node.values))
        case ast.Call() if called(node) == "tr":
            return True
        case ast.Call() if called(node) == "str":
            handler = module.around(node, ast.ExceptHandler)
            return handler is not None and bool(names_in(handler.type) & error_names())
        case ast.Call():
            return returns_translated(module, node, seen)
        case ast.Name():
            return is_bound_to_translated(module, node, seen)
    return False


def names_in(node: ast.AST | None) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node is not None else set()


def definitions(module: Module, name: str) -> list[tuple[Module, Function]]:
    own = [(module, function) for function in module.functions(name)]
    return own or [(other, function) for other in modules() for function in other.functions(name)]


def returns_translated(
    module: Module, node: ast.Call, seen: frozenset[int], place: int | None = None
) -> bool:
    """Whether all functions of a call's name give translated text, or have it at a place of their tuple."""
    found = definitions(module, called(node))
    for home, function in found:
        for value in home.returned(function):
            part = value.elts[place] if place is not None and isinstance(value, ast.Tuple) else value
            if not is_translated(home, part, seen):
                return False
    return bool(found)


def is_bound_to_translated(module: Module, node: ast.Name, seen: frozenset[int]) -> bool:
    function = module.around(node, ast.FunctionDef, ast.AsyncFunctionDef)
    if function is None:
        return False
    names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    if node.id in names:
        return all(
            is_translated(module, value, seen)
            for value in given(module, function, names.index(node.id), node.id)
        )
    values = list(bound(function, node.id))
    return bool(values) and all(
        is_translated(module, value, seen)
        if place is None
        else isinstance(value, ast.Call) and returns_translated(module, value, seen, place)
        for value, place in values
    )


def given(module: Module, function: Function, place: int, name: str) -> Iterator[ast.expr]:
    """What the module's own calls of a function give for a parameter."""
    for callee, call in module.calls():
        if callee != function.name:
            continue
        shift = 1 if isinstance(call.func, ast.Attribute) else 0
        named = [keyword.value for keyword in call.keywords if keyword.arg == name]
        yield from named or call.args[place - shift : place - shift + 1]


def bound(function: Function, name: str) -> Iterator[tuple[ast.expr, int | None]]:
    """What is assigned to a name, and the place of the name if several are assigned at once."""
    for statement in ast.walk(function):
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.NamedExpr) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield statement.value, None
            if isinstance(target, ast.Tuple):
                for place, part in enumerate(target.elts):
                    if isinstance(part, ast.Name) and part.id == name:
                        if isinstance(statement.value, ast.Tuple):
                            yield statement.value.elts[place], None
                        else:
                            yield statement.value, place


def texts_of_errors() -> Iterator[tuple[Module, ast.expr]]:
    """``what`` and ``remedy`` wherever an error is made."""
    for module in modules():
        for name, call in module.calls():
            if name in error_names() or name in SHOWN_ERRORS:
                yield from ((module, argument) for argument in call.args[:1])
                yield from ((module, k.value) for k in call.keywords if k.arg in ("what", "remedy"))


def texts_of_notes() -> Iterator[tuple[Module, ast.expr]]:
    """What is appended to notes and told as a note."""
    for module in modules():
        for name, call in module.calls():
            owner = call.func.value if isinstance(call.func, ast.Attribute) else None
            listed = name == "append" and getattr(owner, "attr", getattr(owner, "id", "")) in NOTE_LISTS
            if (listed or (name in NOTE_CALLS and owner is not None)) and call.args:
                yield module, call.args[0]


def untranslated(texts: list[tuple[Module, ast.expr]]) -> list[str]:
    return [
        f"{module.name}:{text.lineno}: {ast.unparse(text)}"
        for module, text in texts
        if not is_translated(module, text)
    ]


def test_errors_are_made_of_translated_texts() -> None:
    texts = list(texts_of_errors())
    assert len(texts) > 300
    assert untranslated(texts) == []


def test_notes_are_translated_texts() -> None:
    texts = list(texts_of_notes())
    assert len(texts) > 30
    assert untranslated(texts) == []


@pytest.mark.parametrize(
    "code",
    [
        "raise UsageError('plain')",
        "raise UsageError(f'with {value}')",
        "raise UsageError(tr('a'), remedy='plain')",
        "raise UsageError(tr('a') + 'b')",
        "raise UsageError(tr('a') if value else 'plain')",
        "what = 'plain'\n    raise UsageError(what)",
        "raise UsageError(helper(value))\n\ndef helper(value):\n    return f'plain {value}'",
        "failed('plain')\n\ndef failed(what):\n    raise UsageError(what)",
        "notes.append('plain')",
        "report.fallbacks.append(f'with {value}')",
        "status.note('plain')",
    ],
)
def test_plain_texts_would_be_found(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(f"def function(value):\n    {code}\n")
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    known = error_names()
    monkeypatch.setattr("tests.test_language.modules", lambda: [Module("new.py", tree, parents)])
    monkeypatch.setattr("tests.test_language.error_names", lambda: known)
    assert untranslated([*texts_of_errors(), *texts_of_notes()])


def literal_calls() -> Iterator[tuple[Module, str, ast.Call]]:
    for module in modules():
        for name, call in module.calls():
            if name in ("tr", "mark") and isinstance(call.func, ast.Name):
                yield module, name, call


def test_what_is_translated_is_written_out_where_it_is_translated() -> None:
    faults, literals = [], 0
    for module, name, call in literal_calls():
        place = f"{module.name}:{call.lineno}: {ast.unparse(call)}"
        text = call.args[0] if len(call.args) == 1 else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value:
            literals += 1
            # Tools that collect texts see an f-string as one piece, before Python 3.12.
            if module.around(call, ast.JoinedStr):
                faults.append(f"inside an f-string: {place}")
            names = (
                {part for _, part, _, _ in Formatter().parse(text.value) if part} if call.keywords else set()
            )
            spread = any(keyword.arg is None for keyword in call.keywords)
            if name == "tr" and not spread and names != {keyword.arg for keyword in call.keywords}:
                faults.append(f"other values than in the text: {place}")
        elif name == "mark" or not isinstance(text, ast.Name | ast.Attribute | ast.Subscript | ast.Call):
            faults.append(f"not a text: {place}")
        elif isinstance(text, ast.Call) and called(text) in ("format", "join", "str"):
            faults.append(f"put together: {place}")
    assert literals > 700
    assert faults == []


def template_calls(source: str) -> Iterator[tuple[str, object, set[str], bool]]:
    """The name, the text, and the values of every call in a template that translates; and if all is plain."""
    for call in Environment().parse(source).find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name in ("tr", "mark"):
            text = call.args[0].value if isinstance(call.args[0], nodes.Const) else None
            yield call.node.name, text, {value.key for value in call.kwargs}, len(call.args) == 1


def test_templates_write_out_what_they_translate() -> None:
    literals, looked_up = 0, []
    for path in sorted(TEMPLATES.glob("*.j2")):
        for name, text, values, plain in template_calls(path.read_text(encoding="utf-8")):
            assert (name, plain) == ("tr", True)
            if not isinstance(text, str):
                looked_up.append(values)
                continue
            literals += 1
            assert {part for _, part, _, _ in Formatter().parse(text) if part} == (values or set()), text
    assert literals > 80
    assert looked_up == [set()] * 3  # the words for states, marked where they stand


def test_templates_hold_no_words_that_are_not_translated() -> None:
    for path in sorted(TEMPLATES.glob("*.j2")):
        found = Environment().parse(path.read_text(encoding="utf-8")).find_all(nodes.TemplateData)
        text = re.sub(r"<style>.*?</style>", " ", "".join(one.data for one in found), flags=re.DOTALL)
        assert re.findall(r"[A-Za-z]{2,}", re.sub(r"<[^>]*>?", " ", text)) == [], path.name


# --- the language spoken ----------------------------------------------------------------------------------


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
    assert tr("frames") == "frames"
    with spoken("es"):
        assert tr("frames") == "«frames»"
        assert tr("{count} frames", count=3) == "«3 frames»"
        with spoken("auto"):
            assert language.language() == "es"
        with spoken("en"):
            assert tr("frames") == "frames"
    monkeypatch.setenv(language.VARIABLE, "es")
    assert language.language() == "es"
    speak("en")
    assert language.language() == "en"
    speak("auto")
    assert language.language() == "es"
    monkeypatch.setenv(language.VARIABLE, "tlh")
    with pytest.warns(UserWarning, match="none of en, es"):
        assert language.language() == "en"
    monkeypatch.delenv(language.VARIABLE)


def test_what_one_thread_speaks_no_other_does_unless_it_was_started_there(pseudo: None) -> None:
    found: dict[str, str] = {}
    together = threading.Barrier(2, timeout=60)

    def say(chosen: str) -> None:
        with spoken(chosen):
            together.wait()
            found[chosen] = tr("frames")
            together.wait()
        found[f"after {chosen}"] = tr("frames")

    threads = [threading.Thread(target=say, args=(chosen,)) for chosen in ("en", "es")]
    with spoken("es"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == dict.fromkeys(found, "frames") | {"es": "«frames»"}
        inside = run_ahead((tr("frames") for _ in range(2)), 1, name="stage")
        assert (
            list(map_ordered(lambda text: text + tr("frames"), inside, workers=2)) == ["«frames»«frames»"] * 2
        )


def test_texts_without_values_may_hold_braces_and_nothing_stays_nothing(pseudo: None) -> None:
    assert mark("{x}") == tr("{x}") == "{x}"
    with spoken("es"):
        assert tr("") == ""


def test_an_error_tells_what_to_do_in_the_language_of_the_listener(pseudo: None) -> None:
    with spoken("es"):
        error = UsageError(tr("there is no target to work on"), remedy=tr("name a file"))
        assert str(error) == "«there is no target to work on». «What to do: «name a file»»."
    assert str(UsageError("a", remedy="b")) == "a. What to do: b."


def test_every_language_is_a_value_of_the_setting() -> None:
    schema = Settings.model_json_schema()["properties"]["language"]
    assert set(schema["enum"]) == {"auto", *LANGUAGES}
    assert list(Settings.model_fields)[-1] == "language"


# --- the verbs --------------------------------------------------------------------------------------------


def test_the_language_changes_no_result_and_is_no_other_batch(
    photo: Path, tmp_path: Path, consent: str
) -> None:
    keys, digests = set(), set()
    for chosen in ("auto", *LANGUAGES):
        settings = load_settings(language=chosen)
        keys.add(work_key(target="a", sources=["b"], settings=settings, models={}, encoder="c"))
        with spoken(settings.language):
            request = BatchRequest(consent=consent, overrides=settings.model_dump())
            task = Task(tmp_path / "a.mp4", tmp_path / "b.mp4")
            job = Job.of(request, [Source.of(photo)], [task], tmp_path)
        digests.add(job.digest)
        assert job.request.language == ("en" if chosen == "auto" else chosen)
        assert Job.model_validate_json(job.model_dump_json()) == job
    assert len(keys) == len(digests) == 1


@pytest.mark.parametrize("verb", [swap_image, swap_video, swap_file, run_batch])
def test_the_verbs_speak_the_language_of_their_settings(
    verb: Callable[..., Any], photo: Path, tmp_path: Path, pseudo: None
) -> None:
    places = {swap_image: [photo, photo], run_batch: [[photo], [photo], tmp_path / "out"]}
    given = places.get(verb, [[photo], photo, tmp_path / "out.png"])
    with pytest.raises(ConsentError, match=r"^«no statement of consent"):
        verb(*given, consent="", settings=load_settings(language="es"))
    assert language.language() == "en"
    with pytest.raises(ConsentError, match=r"^no statement of consent"):
        verb(*given, consent="", settings=load_settings())


def test_all_verbs_of_the_api_are_tested_for_their_language() -> None:
    taking_settings = {
        name
        for name, value in vars(api).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == api.__name__
        and "settings" in getattr(value, "__annotations__", {})
    }  # fmt: skip
    assert taking_settings == {"swap_image", "swap_video", "swap_file", "run_batch"}


@pytest.fixture
def running(constant_models: Path, photo: Path, consent: str, tmp_path: Path) -> Callable[..., Any]:
    target = make(tmp_path / "a.mp4", Spec(frames=5))

    def run(**options: Any) -> Any:
        settings = load_settings(
            execution_provider="cpu", output_video_encoder="libx264", **options.pop("settings")
        )
        return run_batch(
            [photo], [target], tmp_path / "out",
            consent=consent, settings=settings, models_dir=constant_models, **options,
        )  # fmt: skip

    return run


def spanish(text: str) -> re.Pattern[str]:
    """The beginning of a text's translation, up to its second value; it must differ from the English."""
    with spoken("es"):
        found = tr(text)
    assert found != text
    parts = re.split(r"\{[^}]*\}", found)
    return re.compile(".*".join(map(re.escape, parts[:3])))


START = "{files} file(s), {size:.1f} GB; {free:.0f} GB are free. This machine could "
START += "safely work on {videos} video(s) at once; one is worked on at a time"


def test_the_worker_process_speaks_the_language_of_the_job(
    running: Callable[..., Any], tmp_path: Path
) -> None:
    notes: list[str] = []
    report = running(settings={"language": "es"}, on_status=lambda status: notes.extend(status.remarks))
    assert report.ok
    assert any(spanish(START).match(note) for note in report.notes)
    assert any(spanish(START).match(note) for note in notes)
    assert '<html lang="es">' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    again = running(settings={"language": "en"})
    assert KEPT in again.files[0].fallbacks
    with spoken("es"):
        kept = tr(KEPT)
    assert kept != KEPT
    assert running(settings={"language": "es"}).files[0].fallbacks == [*report.files[0].fallbacks, kept]


def test_the_worker_speaks_what_is_spoken_where_it_was_asked_for(running: Callable[..., Any]) -> None:
    with spoken("es"):
        report = running(settings={})
    assert any(spanish(START).match(note) for note in report.notes)


def test_the_report_page_says_everything_in_its_language(
    running: Callable[..., Any], tmp_path: Path, pseudo: None
) -> None:
    assert running(settings={}, in_process=True).ok
    with spoken("es"):
        page = write_page(tmp_path / "out").read_text(encoding="utf-8")
    names = re.findall(r"<(?:th|dt|h1|h2|summary)[^>]*>([^<]+)", page)
    # Names of files, settings and models are the same in every language.
    known = {"a.mp4", "det_10g", "w600k_r50", "inswapper_128", "GFPGANv1.4", *Settings.model_fields}
    assert len(names) > 40
    assert [name for name in names if name.strip() and name.strip() not in known and "«" not in name] == []
    assert "«Batch report»" in page


@pytest.fixture
def verbs(tmp_path: Path, photo: Path, constant_models: Path, consent: str) -> dict[str, list[str]]:
    """A command line of each verb that says something."""
    target = make(tmp_path / "a.mp4", Spec(frames=5))
    status = StatusWriter(tmp_path / "done" / "status.json", [Task(target, tmp_path / "b.mp4")])
    status.end()
    common = ["-s", str(photo), "--models-dir", str(constant_models), "--execution-provider", "cpu"]
    common += ["--output-video-encoder", "libx264", "--consent", consent]
    return {
        "swap": ["swap", *common, "-t", str(target), "-o", str(tmp_path / "b.mp4")],
        "batch": ["batch", *common, "-t", str(target), "-o", str(tmp_path / "out"), "--in-process"],
        "status": ["status", str(tmp_path / "done")],
        "stop": ["stop", str(tmp_path / "done")],
        "demo": ["demo", str(tmp_path / "demo"), "--size", "64x64", "--seconds", "0.1", "--clips", "1"],
        "preload": ["preload", "--models-dir", str(tmp_path / "none"), "--offline"],
        "convert": ["convert", str(tmp_path / "none.onnx")],
        "doctor": ["doctor", "--models-dir", str(tmp_path / "none")],
    }


@pytest.mark.parametrize(
    "verb", ["swap", "batch", "status", "stop", "demo", "preload", "convert", "doctor"]
)  # fmt: skip
def test_each_verb_of_the_command_line_speaks_a_language(
    verb: str, verbs: dict[str, list[str]], capsys: pytest.CaptureFixture[str], pseudo: None
) -> None:
    main([*verbs[verb], "--language", "es"])
    shown = capsys.readouterr()
    said = [line for line in (shown.out + shown.err).splitlines() if line.strip()]
    assert any("«" in line for line in said), said
    assert language.language() == "en"


@pytest.mark.parametrize(
    "verb", ["", "swap", "batch", "status", "stop", "demo", "preload", "convert", "doctor"]
)  # fmt: skip
def test_the_help_of_each_verb_speaks_a_language(
    verb: str, capsys: pytest.CaptureFixture[str], pseudo: None
) -> None:
    for words in (["--language", "es"], ["--language=es"]) if verb else ():
        with pytest.raises(SystemExit):
            main([verb, *words, "--help"])
        shown = capsys.readouterr().out
        assert "«Language of messages" in " ".join(shown.split())
    with pytest.raises(SystemExit):
        main([*filter(None, [verb]), "--help"])
    assert "«" not in capsys.readouterr().out


def test_the_environment_counts_for_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pseudo: None
) -> None:
    monkeypatch.setenv(language.VARIABLE, "es")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "«find out what works on this machine»" in capsys.readouterr().out
    monkeypatch.delenv(language.VARIABLE)


def test_set_names_a_language_too_and_one_that_is_not_known_is_refused(
    verbs: dict[str, list[str]], capsys: pytest.CaptureFixture[str], pseudo: None
) -> None:
    main([*verbs["preload"], "--set", "language=es"])
    assert capsys.readouterr().err.startswith("«error: ")
    assert main([*verbs["preload"], "--language", "tlh"]) == 2
    assert "auto, en, es" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*verbs["status"], "--language", "tlh"])
    with pytest.raises(SettingsError, match="language = 'tlh' is not allowed"):
        load_settings(language="tlh")


def test_machines_read_the_same_in_every_language(
    verbs: dict[str, list[str]], capsys: pytest.CaptureFixture[str], pseudo: None
) -> None:
    main([*verbs["status"], "--json", "--language", "es"])
    assert json.loads(capsys.readouterr().out)["state"] == "failed"
    check = Check(name="models folder", status="warn", detail="d", remedy="r")
    with spoken("es"):
        lines = Diagnosis.of([check, Check(name="model x", status="pass", detail="d")]).lines()
    assert json.loads(check.model_dump_json())["name"] == "models folder"
    assert lines[0].startswith("«WARN» «models folder»")
    assert lines[2].startswith("«PASS» «model x»")
    assert Diagnosis.of([check]).lines()[:2] == ["WARN models folder  d", " " * 20 + "what to do: r"]


def test_every_state_has_a_word() -> None:
    assert all(tr(word) == state for state, word in STATE_WORDS.items())
