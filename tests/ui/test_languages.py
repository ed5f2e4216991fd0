"""All texts come from the catalogue: with a translation that adds brackets, none is outside them."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest

from colab_helpers import language
from colab_helpers.batch.report import FileReport, ModelReport
from colab_helpers.diagnosis import diagnose
from colab_helpers.pages.live import live_html, live_text
from colab_helpers.pages.report import report_html
from colab_helpers.pages.units import results_text
from colab_helpers.presets import load_presets
from colab_helpers.request import BatchRequest, PreloadRequest
from colab_helpers.settings import Settings
from colab_helpers.ui.form_state import Run
from colab_helpers.ui.host import Host
from colab_helpers.ui.monitor import MonitorSummary
from colab_helpers.ui.preload import models_html, models_text, show_models
from colab_helpers.ui.setup import diagnosis_html
from tests.helpers.reports import START, a_file, a_full_file, a_progress, a_report, a_status, sample

UNTRANSLATED = {
    "GB", "GiB", "MB", "MiB", "kB", "VRAM", "GPU", "CPU", "RAM", "CRF", "fps", "min", "ms", "UTC", "Python",
    "true", "false",
}  # fmt: skip
"""The same in every language."""


class Brackets(gettext.NullTranslations):
    """Translates each text to itself in brackets."""

    def gettext(self, message: str) -> str:
        return f"⟦{message}⟧"


@pytest.fixture(autouse=True)
def brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_translations", lambda _: Brackets())


def setting_names() -> set[str]:
    """Names of settings, values and presets, which are not translated."""
    presets = load_presets()
    names = {*Settings.model_fields, *presets.presets, *presets.profiles}
    for schema in Settings.model_json_schema()["properties"].values():
        for part in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
            names |= {str(value) for value in part.get("enum", ())} | {str(part.get("const", ""))}
        names |= {str(schema.get("default"))}
    return {piece for name in names for piece in _words(name)}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_][\w.]*\w", text)


def untranslated(text: str, *data: str) -> list[str]:
    """Words of a page outside brackets that are neither data nor the same in every language."""
    text = re.sub(r"<style.*?</style>", " ", text, flags=re.DOTALL)
    # Including what screen readers read.
    attributes = re.findall(r'\b(?:title|alt|aria-label|placeholder)="([^"]*)"', text)
    text = unescape(" ".join([re.sub(r"<[^>]*>", " ", text), *attributes]))
    for piece in sorted(data, key=len, reverse=True):
        text = text.replace(piece, " ")
    before = ""
    while before != text:
        before, text = text, re.sub(r"⟦[^⟦⟧]*⟧", " ", text)
    return [word for word in _words(text) if word not in UNTRANSLATED | setting_names()]


def widgets_in(widget: Any) -> Iterator[Any]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets_in(child)


def texts_of(widget: Any) -> Iterator[str]:
    """The visible texts of a widget."""
    for name in ("description", "placeholder", "tooltip", "value"):
        if isinstance(value := getattr(widget, name, None), str):
            yield value
    for option in getattr(widget, "options", ()):
        yield str(option[0] if isinstance(option, tuple) else option)
    if hasattr(widget, "get_title"):
        yield from (widget.get_title(number) or "" for number in range(len(widget.children)))


def test_panel_is_translated(make_panel, demo_request):
    panel = make_panel(demo_request)
    panel.videos.examine_all()
    panel.settings.overrides.value = "output_video_quality: 20"
    panel.photos.add_button.click()
    for number in range(len(panel.tabs.children)):
        panel.tabs.selected_index = number
    panel.consent.value = ""
    names = ("alma.png", "clip1.mp4", "/path/to/photo.jpg")
    names += ("cluster", "gpus_per_worker", "priority", "map_paths", "OLD=NEW")
    data = (*demo_request.sources, *demo_request.targets, str(demo_request.models_dir), *names)
    texts = [text for widget in widgets_in(panel.box) for text in texts_of(widget)]
    assert sum("⟦" in text for text in texts) > 40
    assert [found for text in texts if (found := untranslated(text, *data))] == []


def test_live_page_is_translated():
    files = [
        FileReport(target="/in/a.mp4", status="running"),
        FileReport(target="/in/b.mp4", status="failed", error="REASON"),
        *(FileReport(target=f"/in/c{number}.mp4", status="queued") for number in range(20)),
    ]
    samples = [sample(number, ram_used=12_000_000_000, disk_free=1_000_000) for number in range(40)]
    found = a_status(
        *files, state="running", notes=["NOTE"], pause="PAUSE", progress=a_progress(), restarts=1
    )
    data = ("a.mp4", "b.mp4", *(f"c{number}.mp4" for number in range(20)), "REASON", "NOTE", "PAUSE", "cuda")
    for lost in (False, True):
        assert untranslated(live_html(samples, found, now=START + 99, lost=lost), *data) == []
        assert untranslated("\n".join(live_text(samples, found, now=START + 99, lost=lost)), *data) == []
    assert untranslated(live_html([sample(gpu=None)], None, now=START + 1)) == []
    facts = {"folder": "/out", "host": "h", "seconds": 9.0, "samples": 3}
    summary = MonitorSummary(state="failed", ended_by="end of run", advice="REMEDY", **facts)
    assert untranslated("\n".join(summary.lines()), "/out", "REMEDY") == []
    # Text outside brackets is detected.
    assert untranslated("<p title='x'>⟦one ⟦two⟧⟧ three a.mp4 4 GB</p>", "a.mp4") == ["three"]


DATA = (
    "a.mp4", "b.mp4", "out.mp4", "NOTE", "REASON", "h264_nvenc", "sound was converted", "face.png",
    "other.png", "/m/inswapper_128.onnx", "inswapper_128", "run-7", "Linux", "report.html", "report.json",
    "colab_helpers", "The person shown has agreed.", "Test Card", "Google Colab",
)  # fmt: skip


def test_results_and_report_are_translated(tmp_path):
    standin = ModelReport(name="inswapper_128", path="/m/inswapper_128.onnx", standin=True)
    good = a_full_file(tmp_path / "a.mp4", tmp_path / "out.mp4").model_copy(update={"provider": "cpu"})
    bad = a_file(tmp_path / "b.mp4", error="REASON")
    counts = {"memory_warnings": 2, "restarts": 1}
    report = a_report(good, bad, notes=["NOTE"], models=[standin], **counts)
    whole = report_html(report, [sample(number) for number in range(60)])
    assert whole.count("⟦") > 60
    run = Run(BatchRequest(output_dir=tmp_path), Host())
    for text in (run.html(report), results_text(report), whole):
        assert untranslated(text, *DATA, str(tmp_path)) == []


def test_diagnosis_and_models_are_translated(demo, tmp_path, capsys):
    found = diagnose(Settings(), models_dir=demo / "models", folder=tmp_path)
    assert len(found.checks) > 15
    # A check's title ends with the name of a package, a model or a folder.
    names = [check.name.split()[-1] for check in found.checks]
    assert untranslated(diagnosis_html(found), *names, str(tmp_path), str(demo)) == []
    plan = show_models(PreloadRequest(models_dir=demo / "models", output_dir=tmp_path, headless=True))
    capsys.readouterr()
    models = plan.models()
    data = (str(demo), *(model.name for model in models), *(model.role for model in models))
    for text in (models_html(models, plan.root), models_text(models, plan.root)):
        assert untranslated(text, *data) == []
