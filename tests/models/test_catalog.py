from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.errors import ModelError
from colab_helpers.models.catalog import (
    ModelEntry,
    Source,
    load_catalog,
    required_model_names,
    required_models,
)
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings, load_settings

CATALOG = load_catalog()


@pytest.mark.parametrize("entry", CATALOG.models.values(), ids=CATALOG.models)
def test_catalog_entry_has_mirrors_hash_size_and_licence(entry: ModelEntry) -> None:
    assert len(entry.urls) == len(set(entry.urls)) > 1
    for url in entry.urls:
        assert re.fullmatch(
            r"https://(github\.com|huggingface\.co|hf-mirror\.com)/[^?]+\.(onnx|safetensors)", url
        )
    for source in entry.sources:  # either SHA-256 or CRC-32
        assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in source.sha256)
        assert bool(source.sha256) != bool(re.fullmatch(r"[0-9a-f]{8}", source.crc32))
    assert entry.bytes > 1_000_000
    assert entry.licence.link.startswith("https://")
    assert entry.licence.forbids.endswith(".")


def test_catalog_lists_only_supported_models() -> None:
    names: dict[str, set[str]] = {}
    for entry in CATALOG.models.values():
        names.setdefault(entry.role, set()).add(entry.name)
    assert names == {
        "detector": {"buffalo_l/det_10g"},
        "recogniser": {"buffalo_l/w600k_r50"},
        "attributes": {"buffalo_l/genderage"},
        "swapper": {"inswapper_128", "inswapper_128_fp16", *(f"hyperswap_1{each}_256" for each in "abc")},
        "enhancer": {"GFPGANv1.4", "codeformer", "restoreformer_plus_plus", "gpen_bfr_256", "gpen_bfr_512"},
        "occluder": {"xseg_1", "xseg_2", "xseg_3"},
        "parser": {"bisenet_resnet_34"},
        "frame_enhancer": {"RealESRGAN_x2plus", "realesr-general-x4v3"},
        "painter": {"sdxl_lightning_4step.safetensors"},
        "content": {"nsfw_1", "nsfw_2", "nsfw_3"},
    }


def test_sources_of_one_model_may_have_different_hashes() -> None:
    sources = CATALOG.models["inswapper_128"].sources
    assert len({sha256 for source in sources for sha256 in source.sha256}) == 2


@pytest.mark.parametrize("preset", [*load_presets().presets, *load_presets().profiles])
def test_required_models_of_every_preset(preset: str) -> None:
    settings = load_settings(preset)
    names = [entry.name for entry in required_models(settings)]
    assert names[:2] == ["buffalo_l/det_10g", "buffalo_l/w600k_r50"]
    assert ("inswapper_128" in names) == ("face_swapper" in settings.frame_processors)
    assert ("GFPGANv1.4" in names) == ("face_enhancer" in settings.frame_processors)


def test_attributes_model_is_required_only_for_sex_or_age_selection() -> None:
    names = [entry.name for entry in required_models(Settings(face_selector_age_start=18))]
    assert names[1:3] == ["buffalo_l/w600k_r50", "buffalo_l/genderage"]
    found = required_model_names(Settings(face_selector_gender="male"))
    assert found[2] == ("attributes", names[2])
    assert found.count(found[2]) == 1


def test_content_models_are_always_required(tmp_path: Path) -> None:
    for values in ({}, {"frame_processors": "face_enhancer"}):
        entries = required_models(Settings(**values), root=tmp_path)[-2:]
        assert [(entry.name, entry.role) for entry in entries] == [
            ("nsfw_2", "content"), ("buffalo_l/genderage", "attributes"),
        ]  # fmt: skip
        assert required_model_names(Settings(**values))[-2:] == [
            (entry.role, entry.name) for entry in entries
        ]
    names = [entry.name for entry in required_models(Settings(content_check="vote"))]
    assert names[-4:] == ["nsfw_2", "nsfw_1", "nsfw_3", "buffalo_l/genderage"]


def test_source_without_sha256_is_verified_by_crc32(tmp_path: Path) -> None:
    checked = Source(urls=("https://x.invalid",), crc32="414fa339", bytes=43)  # CRC-32 of the sentence
    path = tmp_path / "net.onnx"
    path.write_bytes(b"The quick brown fox jumps over the lazy dog")
    assert checked.matches(path, "whatever")
    assert checked.digest == "414fa339"
    path.write_bytes(b"The quick brown fox jumps over the lazy cog")
    assert not checked.matches(path, "whatever")
    assert not checked.model_copy(update={"crc32": "", "sha256": ("1",)}).matches(path, "whatever")


@pytest.mark.parametrize(
    ("values", "offered"),
    [
        ({"swapper_model": "nonsense"}, "inswapper_128, inswapper_128_fp16"),
        ({"swapper_model": "GFPGANv1.4"}, "inswapper_128, inswapper_128_fp16"),
        ({"swapper_model": "simswap_256"}, "inswapper_128, inswapper_128_fp16"),
        ({"enhancer_model": "gpen_bfr_2048"}, "GFPGANv1.4, codeformer, restoreformer_plus_plus"),
        ({"occluder_model": "xseg", "face_mask_types": "occlusion"}, "xseg_1, xseg_2, xseg_3"),
        ({"parser_model": "xseg_1", "face_mask_types": "region"}, "bisenet_resnet_34"),
    ],
)
def test_error_for_unsuitable_model_lists_suitable_ones(values: dict[str, str], offered: str) -> None:
    with pytest.raises(ModelError, match=f"choose one of {offered}") as caught:
        required_models(Settings(**values))
    assert str(caught.value).startswith(next(iter(values.values())))


def test_converter_of_the_swapper_is_required(tmp_path: Path) -> None:
    settings = Settings(swapper_model="ghost_2_256", frame_processors=("face_swapper",))
    (tmp_path / "ghost_2_256.onnx").touch()
    with pytest.raises(ModelError, match=r"crossface_ghost: .*put crossface_ghost\.onnx into"):
        required_models(settings, root=tmp_path)
    (tmp_path / "crossface_ghost.onnx").touch()
    found = {entry.name: entry.role for entry in required_models(settings, root=tmp_path)[2:-2]}
    assert found == {"ghost_2_256": "swapper", "crossface_ghost": "converter"}


def test_mask_models_are_required_if_requested_or_present(tmp_path: Path) -> None:
    def mask_models(**values: Any) -> list[tuple[str, str]]:
        return [
            (entry.name, entry.role) for entry in required_models(Settings(**values), root=tmp_path)[4:-2]
        ]

    occluder, parser = ("xseg_1", "occluder"), ("bisenet_resnet_34", "parser")
    assert mask_models() == []
    assert mask_models(face_mask_types="box") == []
    assert mask_models(face_mask_types="box,occlusion") == [occluder]
    assert mask_models(face_mask_types="region,occlusion") == [occluder, parser]
    (tmp_path / "xseg_1.onnx").touch()
    assert mask_models() == [occluder]
    assert mask_models(face_mask_types="box") == []
    (tmp_path / "mine.onnx").touch()
    assert mask_models(occluder_model="mine") == [("mine", "occluder")]
    assert required_models(Settings(occluder_model="mine"), root=tmp_path)[-3].licence_id == "own"
