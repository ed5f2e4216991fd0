from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from colab_helpers.errors import ModelError, SettingsError
from colab_helpers.models.catalog import (
    Catalog,
    Licence,
    ModelEntry,
    ModelFile,
    Role,
    Source,
    load_catalog,
    merge,
    needed_models,
)
from colab_helpers.settings import Settings, load_presets, load_settings

CATALOG = load_catalog()
ENTRIES = list(CATALOG.models.values())
HASH = "0" * 64


def sources(entry: ModelEntry) -> list[Source]:
    return [source for file in entry.files for source in file.sources]


@pytest.mark.parametrize("entry", ENTRIES, ids=list(CATALOG.models))
def test_entry(entry: ModelEntry) -> None:
    for source in sources(entry):
        for value in (source.sha256 or ()) + ((source.archive and source.archive.sha256) or ()):
            assert re.fullmatch(r"[0-9a-f]{64}", value)
            assert len(set(value)) > 4
        for url in source.urls:
            parts = urlsplit(url)
            assert parts.scheme == "https"
            assert parts.hostname in {"github.com", "huggingface.co", "hf-mirror.com"}
            assert not parts.query
            assert url.endswith((".onnx", ".pth", ".zip"))
            assert url.endswith(".zip") == (source.archive is not None)
    assert entry.licence.name
    assert entry.licence.link.startswith("https://")
    assert entry.licence.forbids.endswith(".")
    assert entry.description.endswith(".")
    assert entry.bytes is not None
    assert entry.memory_bytes is not None
    assert entry.memory_bytes > 1.3 * entry.bytes


@pytest.mark.parametrize("entry", ENTRIES, ids=list(CATALOG.models))
def test_contract(entry: ModelEntry) -> None:
    if entry.converts_to is not None:
        return
    assert entry.files[0].path == f"{entry.name}.onnx"
    assert entry.contract is not None
    assert entry.contract.outputs
    for tensor in entry.contract.inputs:
        assert tensor.name
        assert (tensor.mean is None) == (tensor.std is None) == (tensor.layout is None)
        if tensor.layout is not None:
            assert tensor.colour is not None
            assert tensor.shape[{"NCHW": 1, "NHWC": 3}[tensor.layout]] == 3
        if tensor.mean and tensor.std and tensor.range:
            ends = tuple((pixel - tensor.mean[0]) / tensor.std[0] for pixel in (0, 255))
            assert ends == pytest.approx(tensor.range)


def test_no_address_stands_twice_in_one_file() -> None:
    for entry in ENTRIES:
        for file in entry.files:
            assert len(file.urls) == len(set(file.urls)), file.path


def test_what_must_be_there() -> None:
    names = set(CATALOG.models)
    assert {f"buffalo_l/{part}" for part in ("det_10g", "w600k_r50", "genderage", "2d106det")} <= names
    assert {"inswapper_128", "inswapper_128_fp16", "GFPGANv1.4", "GFPGANv1.4.pth", "codeformer"} <= names
    assert {"restoreformer_plus_plus", "gpen_bfr_256", "gpen_bfr_512", "bisenet_resnet_34"} <= names
    assert {f"xseg_{number}" for number in (1, 2, 3)} <= names
    assert {f"nsfw_{number}" for number in (1, 2, 3)} <= names
    assert {"hyperswap_1a_256", "hyperswap_1b_256", "hyperswap_1c_256", "ghost_1_256"} <= names
    assert {entry.role for entry in ENTRIES} == set(get_args(Role))


def test_same_name_with_two_hashes() -> None:
    file = CATALOG.get("inswapper_128").files[0]
    assert len(file.accepted) == 2
    assert len({source.bytes for source in file.sources}) == 2


def test_unknown_hashes_are_said_to_be_unknown() -> None:
    unknown = {entry.name for entry in ENTRIES for source in sources(entry) if source.sha256 is None}
    assert unknown == {"ghost_1_256", "crossface_ghost", "nsfw_1", "nsfw_2", "nsfw_3"}
    for name in unknown:
        assert CATALOG.get(name).files[0].open_to_pinning


def test_who_swaps_freely() -> None:
    free = [entry.name for entry in ENTRIES if entry.role == "swapper" and not entry.licence.non_commercial]
    assert free == ["ghost_1_256"]


def test_conversion_source() -> None:
    found = CATALOG.conversion_source("GFPGANv1.4")
    assert found is not None
    assert found.files[0].path == "originals/GFPGANv1.4.pth"
    assert CATALOG.conversion_source("codeformer") is None


@pytest.mark.parametrize("preset", [*load_presets().presets, *load_presets().profiles])
def test_every_preset_finds_its_models(preset: str) -> None:
    settings = load_settings(preset)
    names = [entry.name for entry in needed_models(settings)]
    assert names[:2] == ["buffalo_l/det_10g", "buffalo_l/w600k_r50"]
    assert ("inswapper_128" in names) == ("face_swapper" in settings.frame_processors)
    assert ("GFPGANv1.4" in names) == ("face_enhancer" in settings.frame_processors)


def test_needed_models_brings_what_a_model_needs() -> None:
    settings = Settings(frame_processors=("face_swapper",), swapper_model="ghost_1_256")
    assert [entry.name for entry in needed_models(settings)][2:] == ["ghost_1_256", "crossface_ghost"]


@pytest.mark.parametrize(
    "values",
    [
        {"swapper_model": "nonsense"},
        {"swapper_model": "GFPGANv1.4"},
        {"enhancer_model": "inswapper_128"},
        {"enhancer_model": "GFPGANv1.4.pth"},
    ],
)
def test_unsuitable_model_is_refused_with_the_suitable_ones(values: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="choose one of") as caught:
        needed_models(Settings(**values))
    [(key, value)] = values.items()
    assert value in str(caught.value)
    assert ("hyperswap_1a_256" if key == "swapper_model" else "codeformer") in str(caught.value)


# --- the user's own entries ---------------------------------------------------------------------------------

ADDRESS = {"role": "enhancer", "urls": "https://example.com/x.onnx", "licence": "mit"}
OWN_LICENCE = {"name": "Mine", "link": "https://example.com", "non_commercial": True, "forbids": "All."}


def test_user_entry_with_address() -> None:
    entry = load_catalog({"mine": {**ADDRESS, "sha256": HASH, "bytes": 1000}}).get("mine", role="enhancer")
    assert entry.files[0].path == "mine.onnx"
    assert entry.files[0].urls == ("https://example.com/x.onnx",)
    assert entry.files[0].accepted == {HASH}
    assert entry.licence.name == "MIT"
    assert entry.memory_bytes == 1300
    assert "mine" not in load_catalog().models


def test_user_entry_with_path(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(bytes(100))
    catalog = merge(CATALOG, {"mine": {"role": "swapper", "path": "x.onnx"}}, folder=tmp_path)
    entry = catalog.get("mine")
    assert entry.files[0].local == tmp_path / "x.onnx"
    assert entry.bytes == 100
    assert not entry.licence.non_commercial
    settings = Settings(frame_processors=("face_swapper",), swapper_model="mine")
    assert entry in needed_models(settings, catalog)


def test_user_entry_with_its_own_licence() -> None:
    entry = load_catalog({"mine": {**ADDRESS, "licence": OWN_LICENCE}}).get("mine")
    assert (entry.licence_id, entry.licence.non_commercial) == ("Mine", True)
    assert entry.files[0].open_to_pinning


def test_user_entry_replaces_a_shipped_one() -> None:
    catalog = load_catalog({"inswapper_128": {"role": "swapper", "path": "/models/x.onnx"}})
    assert catalog.get("inswapper_128").files[0].local == Path("/models/x.onnx")


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


def test_catalogue_is_frozen() -> None:
    with pytest.raises(ValidationError):
        CATALOG.get("inswapper_128").role = "enhancer"  # type: ignore[misc]


SOURCE = {"urls": ["https://a.example/x"], "sha256": HASH, "bytes": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"licence": "unknown"},
        {"unknown": 1},
        {"files": []},
        {"files": [{"path": "x.onnx"}]},
        {
            "files": [
                {
                    "path": "../x.onnx",
                    "sources": [SOURCE],
                }
            ]
        },
        {"requires": ["nothing"]},
        {"converts_to": "nothing"},
    ],
)
def test_wrong_catalogue(change: dict[str, Any]) -> None:
    licence = {"name": "MIT", "link": "https://a.example", "non_commercial": False, "forbids": "x"}
    entry = {
        "role": "swapper",
        "description": "x",
        "licence": "mit",
        "files": [{"path": "x.onnx", "sources": [SOURCE]}],
    }
    good = {"version": 1, "licences": {"mit": licence}, "models": {"x": entry}}
    assert Catalog.model_validate(good).get("x").licence == Licence(**licence)
    with pytest.raises(ValidationError):
        Catalog.model_validate({**good, "models": {"x": {**entry, **change}}})


def test_file_comes_from_one_place() -> None:
    with pytest.raises(ValidationError, match="either"):
        ModelFile(path="x.onnx")
