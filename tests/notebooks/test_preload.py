"""preload.ipynb run with papermill, and the functions that its cells call; nothing is downloaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from colab_helpers.diagnosis import networks
from colab_helpers.diagnosis.findings import finding
from colab_helpers.errors import LicenceError
from colab_helpers.files import sha256_of
from colab_helpers.language import use_language
from colab_helpers.models import catalog
from colab_helpers.models import preload as models_preload
from colab_helpers.models.catalog import Licence, Source, load_catalog
from colab_helpers.request import PreloadRequest
from colab_helpers.ui import headless, preload
from colab_helpers.ui.preload import (
    PreloadError,
    PreloadPlan,
    PreloadResult,
    fetch_models,
    models_html,
    models_text,
    show_models,
    show_preload,
)

NOTEBOOK = "preload"
ROLES = {
    "buffalo_l/det_10g": "detector", "buffalo_l/w600k_r50": "recogniser", "inswapper_128": "swapper",
    "GFPGANv1.4": "enhancer", "nsfw_2": "content", "buffalo_l/genderage": "attributes",
}  # fmt: skip
FREE = {"GFPGANv1.4", "nsfw_2"}
RESEARCH = {
    "name": "Research",
    "link": "https://licence.example",
    "non_commercial": True,
    "forbids": "Selling <it>.",
}


def result_of(folder: Path) -> PreloadResult:
    return PreloadResult.model_validate_json((folder / "preload.json").read_bytes())


def states(result: PreloadResult) -> list[str]:
    return [model.state for model in result.models]


def plan_for(folder: Path, **values: object) -> PreloadPlan:
    options = {"models_dir": str(folder / "models"), "output_dir": str(folder / "run"), "headless": True}
    return show_models(PreloadRequest(**{**options, **values}))


def anonymous_copies(standins: Path, folder: Path) -> Path:
    """Copy the stand-ins without the metadata that identifies them."""
    for name in ROLES:
        model = onnx.load(standins / f"{name}.onnx")
        del model.metadata_props[:]
        path = folder / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
    return folder


def test_empty_form_shows_and_runs_demo_networks(run, tmp_path, capfd):
    assert run(tmp_path) == 0
    result = result_of(tmp_path)
    assert result.ok
    assert states(result) == ["stand-in"] * 7
    assert result.fetched is None
    assert len([check for check in result.diagnosis.checks if check.name.startswith("model ")]) == 7
    printed = capfd.readouterr().out
    assert "stand-in inswapper_128 (swapper, " in printed
    assert "Nothing is missing. The demo's stand-in networks" in printed
    assert f"report:   {tmp_path / 'preload.json'}" in printed
    with use_language("es"):  # a longer word is still separated from the name
        assert "sustituta inswapper_128 (swapper, " in models_text(result.models, tmp_path)


def test_custom_model_needs_no_catalog_entry_and_can_be_converted(standins, tmp_path):
    models = Path(shutil.copytree(standins, tmp_path / "models"))
    (models / "inswapper_128.onnx").rename(models / "mine.onnx")
    own = {"swapper_model": "mine", "frame_processors": ["face_swapper"], "half_precision": True}
    plan = plan_for(tmp_path, overrides=own, convert=True)
    (swapper,) = (model for model in plan.models() if model.role == "swapper")
    assert (swapper.name, swapper.role, swapper.state) == ("mine", "swapper", "stand-in")
    result = fetch_models(plan)
    assert result.ok
    (converted,) = result.converted
    assert converted.name.startswith("mine-half-")
    detail = next(check.detail for check in result.diagnosis.checks if check.name == "model mine")
    assert f"a run loads {converted.name}" in detail


def test_nothing_is_fetched_without_accepted_licences(run, tmp_path, capfd):
    options = {"accept_licences": "false", "models_dir": tmp_path / "models"}
    assert run(tmp_path / "run", **options) == headless.EXIT_USAGE
    result = result_of(tmp_path / "run")
    assert not result.ok
    assert states(result) == ["missing"] * len(ROLES)
    assert "tick accept_licences" in result.error
    printed = capfd.readouterr()
    assert "missing  inswapper_128 (swapper, 555 MB): " in printed.out
    assert "To be fetched: buffalo_l/det_10g, " in printed.out
    assert "LicenceError" in printed.err
    assert list(tmp_path.rglob("*.onnx")) == []


def test_papermill_value_false_does_not_accept_licences(papermill, tmp_path):
    """Papermill passes the text "false"."""
    done = papermill(accept_licences="false", demo="false", models_dir="models", output_dir="out")
    assert done.returncode != 0
    assert "LicenceError" in done.stderr
    assert states(result_of(tmp_path / "out")) == ["missing"] * len(ROLES)
    assert not (tmp_path / "models").exists()


@pytest.fixture
def cache(standins, tmp_path, monkeypatch) -> Path:
    """A shared cache with every model; all but ``FREE`` have a restrictive licence."""
    place = anonymous_copies(standins, tmp_path / "cache")
    research = {"licence": Licence(**RESEARCH), "licence_id": "research"}
    known, models = load_catalog(), {}
    free = {"licence": known.licences["apache"], "licence_id": "apache"}
    for name in ROLES:
        path = place / f"{name}.onnx"
        found = Source(urls=("https://x.invalid",), sha256=(sha256_of(path),), bytes=path.stat().st_size)
        terms = free if name in FREE else research
        models[name] = known.models[name].model_copy(update={"sources": (found,), **terms})
    for module in (preload, models_preload, networks, catalog):
        monkeypatch.setattr(module, "load_catalog", lambda: replace(known, models=models))
    # The stand-ins work on rendered people only.
    monkeypatch.setattr(networks.reference, "photograph", lambda *_: finding("photograph", "not shown"))
    return place


def test_accepted_models_are_copied_verified_and_run(cache, tmp_path, capsys):
    plan = plan_for(tmp_path, accept_licences=True, shared_cache=cache)
    assert {model.state for model in plan.models()} == {"missing"}
    assert "Research (https://licence.example). Forbidden: Selling <it>." in capsys.readouterr().out
    result = fetch_models(plan)
    assert result.ok
    assert result == result_of(tmp_path / "run")
    assert states(result) == ["there"] * len(ROLES)
    assert {file.source for file in result.fetched.files} == {"copied"}
    accepted = {file.name for file in result.fetched.files if file.record.licence_accepted_at}
    assert accepted == set(ROLES) - FREE
    passed = {check.name for check in result.diagnosis.checks if check.status == "pass"}
    assert {"model GFPGANv1.4", "parity det_10g", "parity w600k_r50", "parity inswapper_128"} <= passed
    show_preload(plan, result)
    assert "Nothing is missing." in capsys.readouterr().out
    # Models present need no acceptance and are not fetched again.
    again = fetch_models(plan_for(tmp_path, offline=True))
    assert {file.source for file in again.fetched.files} == {"present"}
    # Damage since then is reported.
    (tmp_path / "models" / "inswapper_128.onnx").write_bytes(b"<html>")
    (model,) = [model for model in plan.models() if model.state == "damaged"]
    assert model.note.startswith("inswapper_128: ONNX Runtime cannot load the model")
    assert model.note in models_text(plan.models(), plan.root)


def test_unaccepted_licence_prevents_all_fetches(cache, tmp_path):
    plan = plan_for(tmp_path)
    with pytest.raises(LicenceError) as caught:
        fetch_models(plan)
    assert "accept_licences=true" in caught.value.remedy
    assert "Selling <it>." in caught.value.what
    assert not list((tmp_path / "models").rglob("*.onnx"))
    assert result_of(tmp_path / "run").error == str(caught.value)
    page = models_html(plan.models(), tmp_path)
    assert page.count("<tr>") == 1 + len(ROLES)
    assert "Selling &lt;it&gt;." in page
    assert '<a href="https://licence.example">Research</a>' in page


def test_network_with_nan_output_fails_check(cache, tmp_path, capsys):
    shape = [1, 3, 512, 512]
    graph = helper.make_graph(
        [helper.make_node("Div", ["input", "zero"], ["output"])],
        "enhancer",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, cache / "GFPGANv1.4.onnx")
    options = {"overrides": {"frame_processors": ["face_enhancer"]}, "shared_cache": cache}
    plan = plan_for(tmp_path, accept_licences=True, **options)
    result = fetch_models(plan)
    assert not result.ok
    with pytest.raises(PreloadError, match=r"model GFPGANv1\.4: .*NaN or infinity"):
        show_preload(plan, result)
    assert "FAIL model GFPGANv1.4" in capsys.readouterr().out


def test_unknown_model_file_is_reported_and_used(standins, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    models = anonymous_copies(standins, tmp_path / "models")
    plan = plan_for(tmp_path, offline=True)
    assert {model.state for model in plan.models()} == {"unknown"}
    before = {path: path.read_bytes() for path in models.rglob("*.onnx")}
    result = fetch_models(plan)  # no licence accepted, nothing fetched
    assert result.ok
    assert states(result) == ["unknown"] * len(ROLES)
    notes = [note for note in result.fetched.notes if "not a published file" in note]
    assert [note.split(":")[0] for note in notes] == [f"{name}.onnx" for name in ROLES]
    assert before == {path: path.read_bytes() for path in models.rglob("*.onnx")}
