from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from colab_helpers.errors import ModelError, SettingsError
from colab_helpers.models.catalog import Catalog, Licence, ModelEntry, load_catalog, needed_models
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings, load_settings

CATALOG = load_catalog()
ENTRIES = list(CATALOG.models.values())
HASH = "0" * 64


@pytest.mark.parametrize("entry", ENTRIES, ids=list(CATALOG.models))
def test_entry(entry: ModelEntry) -> None:
    for source in entry.sources:
        for value in (*source.sha256, *([source.archive.sha256] if source.archive else ())):
            assert len(set(value)) > 4
        for url in source.urls:
            parts = urlsplit(url)
            assert parts.scheme == "https"
            assert parts.hostname in {"github.com", "huggingface.co", "hf-mirror.com"}
            assert not parts.query
            assert url.endswith(".zip" if source.archive is not None else ".onnx")
    assert len(entry.urls) == len(set(entry.urls))
    assert entry.licence.link.startswith("https://")
    assert entry.licence.forbids.endswith(".")
    assert entry.description.endswith(".")
    assert entry.bytes is not None


def test_only_what_the_product_runs_is_offered() -> None:
    assert {entry.name: entry.role for entry in ENTRIES} == {
        "buffalo_l/det_10g": "detector",
        "buffalo_l/w600k_r50": "recogniser",
        "inswapper_128": "swapper",
        "inswapper_128_fp16": "swapper",
        "GFPGANv1.4": "enhancer",
        "restoreformer_plus_plus": "enhancer",
        "gpen_bfr_256": "enhancer",
        "gpen_bfr_512": "enhancer",
    }


def test_one_name_has_several_hashes_and_one_file_several_names() -> None:
    entry = CATALOG.get("inswapper_128")
    assert len(entry.accepted) == len({source.bytes for source in entry.sources}) == 2
    assert CATALOG.get("GFPGANv1.4").file_names == ("GFPGANv1.4.onnx", "gfpgan_1.4.onnx")
    assert CATALOG.get("buffalo_l/det_10g").file_names == ("det_10g.onnx",)


@pytest.mark.parametrize("preset", [*load_presets().presets, *load_presets().profiles])
def test_every_preset_finds_its_models(preset: str) -> None:
    settings = load_settings(preset)
    names = [entry.name for entry in needed_models(settings)]
    assert names[:2] == ["buffalo_l/det_10g", "buffalo_l/w600k_r50"]
    assert ("inswapper_128" in names) == ("face_swapper" in settings.frame_processors)
    assert ("GFPGANv1.4" in names) == ("face_enhancer" in settings.frame_processors)


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ({"swapper_model": "nonsense"}, "inswapper_128, inswapper_128_fp16"),
        ({"swapper_model": "GFPGANv1.4"}, "inswapper_128, inswapper_128_fp16"),
        ({"enhancer_model": "inswapper_128"}, "GFPGANv1.4, restoreformer_plus_plus"),
        ({"enhancer_model": "codeformer"}, "GFPGANv1.4, restoreformer_plus_plus"),
    ],
)
def test_unsuitable_model_is_refused_with_the_suitable_ones(values: dict[str, str], offered: str) -> None:
    with pytest.raises(ModelError, match=f"choose one of {offered}") as caught:
        needed_models(Settings(**values))
    assert str(caught.value).startswith(next(iter(values.values())))


# --- the user's own entries ---------------------------------------------------------------------------------

ADDRESS = {"role": "enhancer", "urls": "https://example.com/x.onnx", "licence": "mit", "sha256": HASH}
OWN_LICENCE = {"name": "Mine", "link": "https://example.com", "non_commercial": True, "forbids": "All."}


def test_user_entry_with_address() -> None:
    entry = load_catalog({"mine": {**ADDRESS, "bytes": 1000}}).get("mine", role="enhancer")
    assert (entry.path, entry.urls, entry.accepted, entry.bytes) == (
        "mine.onnx",
        ("https://example.com/x.onnx",),
        {HASH},
        1000,
    )
    assert entry.licence.name == "MIT"
    assert "mine" not in load_catalog().models


@pytest.mark.parametrize(
    "written", ["nets/x.onnx", "./nets/../nets/x.onnx", "{folder}/nets/x.onnx", "~/nets/x.onnx"]
)
def test_a_users_path_counts_from_the_preset_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    folder = tmp_path / "presets"
    (folder / "nets").mkdir(parents=True)
    (folder / "nets" / "x.onnx").write_bytes(bytes(100))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    file = folder / "presets.yaml"
    path = written.format(folder=folder)
    file.write_text(f"version: 1\npresets: {{}}\nmodels:\n  mine: {{role: swapper, path: {path}}}\n")
    for name in (file, Path("presets") / "presets.yaml"):
        catalog = load_catalog(load_presets(name).models)
        entry = catalog.get("mine")
        assert entry.local is not None
        assert entry.local.is_absolute()
        assert entry.local.samefile(folder / "nets" / "x.onnx")
        assert (entry.bytes, entry.licence.non_commercial) == (100, False)
    settings = Settings(frame_processors=("face_swapper",), swapper_model="mine")
    assert entry in needed_models(settings, catalog)


def test_user_entry_with_its_own_licence_over_a_shipped_one() -> None:
    catalog = load_catalog(
        {"mine": {**ADDRESS, "licence": OWN_LICENCE}, "inswapper_128": {"role": "swapper", "path": "/x.onnx"}}
    )
    entry = catalog.get("mine")
    assert (entry.licence_id, entry.licence.non_commercial) == ("Mine", True)
    assert catalog.get("inswapper_128").local == Path("/x.onnx")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "role"),
        (None, "valid dictionary"),
        ({"role": "swapper"}, "either path or urls"),
        ({**ADDRESS, "path": "x"}, "either path or urls"),
        ({**ADDRESS, "role": "painter"}, "painter"),
        ({**ADDRESS, "licence": None}, "licence"),
        ({**ADDRESS, "licence": "none such"}, "none such"),
        ({**ADDRESS, "urls": "http://example.com/x"}, "must start with https"),
        ({**ADDRESS, "urls": "http://localhost.example.com/x"}, "must start with https"),
        ({**ADDRESS, "urls": "https:///x"}, "must start with https"),
        ({**ADDRESS, "sha256": "abc"}, "sha256"),
        ({**ADDRESS, "sha256": None}, "give the sha256"),
        ({**ADDRESS, "bytes": 0}, "bytes"),
        ({**ADDRESS, "colour": "RGB"}, "colour"),
    ],
)
def test_user_entry_that_is_wrong(values: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_catalog({"mine": values})
    assert "models: mine" in str(caught.value)


@pytest.mark.parametrize("name", ["../mine", "/mine", "a/../../mine", "C:mine", "a\\b"])
def test_names_stay_inside_the_models_folder(name: str) -> None:
    with pytest.raises(SettingsError, match="relative path"):
        load_catalog({name: {"role": "swapper", "path": "/x.onnx"}})


# --- the schema ---------------------------------------------------------------------------------------------


SOURCE = {"urls": ["https://a.example/x"], "sha256": HASH, "bytes": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"licence": "unknown"},
        {"unknown": 1},
        {"sources": []},
        {"sources": [{**SOURCE, "sha256": None}]},
        {"local": "/x.onnx"},
    ],
)
def test_wrong_catalogue(change: dict[str, Any]) -> None:
    licence = {"name": "MIT", "link": "https://a.example", "non_commercial": False, "forbids": "x"}
    entry = {
        "role": "swapper",
        "description": "x",
        "licence": "mit",
        "sources": [SOURCE],
    }
    good = {"version": 1, "licences": {"mit": licence}, "models": {"x": entry}}
    assert Catalog.model_validate(good).get("x").licence == Licence(**licence)
    with pytest.raises(ValidationError):
        Catalog.model_validate({**good, "models": {"x": {**entry, **change}}})
