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
def test_entry(entry: ModelEntry) -> None:
    assert len(entry.urls) == len(set(entry.urls)) > 1
    for url in entry.urls:
        assert re.fullmatch(
            r"https://(github\.com|huggingface\.co|hf-mirror\.com)/[^?]+\.(onnx|safetensors)", url
        )
    for source in entry.sources:  # one or the other tells whether the right one came
        assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in source.sha256)
        assert bool(source.sha256) != bool(re.fullmatch(r"[0-9a-f]{8}", source.crc32))
    assert entry.bytes > 1_000_000
    assert entry.licence.link.startswith("https://")
    assert entry.licence.forbids.endswith(".")


def test_only_what_the_product_runs_is_offered() -> None:
    assert {entry.name: entry.role for entry in CATALOG.models.values()} == {
        "buffalo_l/det_10g": "detector",
        "buffalo_l/w600k_r50": "recogniser",
        "buffalo_l/genderage": "attributes",
        "inswapper_128": "swapper",
        "inswapper_128_fp16": "swapper",
        "hyperswap_1a_256": "swapper",
        "hyperswap_1b_256": "swapper",
        "hyperswap_1c_256": "swapper",
        "GFPGANv1.4": "enhancer",
        "codeformer": "enhancer",
        "restoreformer_plus_plus": "enhancer",
        "gpen_bfr_256": "enhancer",
        "gpen_bfr_512": "enhancer",
        "xseg_1": "occluder",
        "xseg_2": "occluder",
        "xseg_3": "occluder",
        "bisenet_resnet_34": "parser",
        "RealESRGAN_x2plus": "frame_enhancer",
        "realesr-general-x4v3": "frame_enhancer",
        "sdxl_lightning_4step.safetensors": "painter",
        "nsfw_1": "content",
        "nsfw_2": "content",
        "nsfw_3": "content",
    }


def test_one_name_has_several_hashes() -> None:
    sources = CATALOG.models["inswapper_128"].sources
    assert len({sha256 for source in sources for sha256 in source.sha256}) == 2


@pytest.mark.parametrize("preset", [*load_presets().presets, *load_presets().profiles])
def test_every_preset_finds_its_models(preset: str) -> None:
    settings = load_settings(preset)
    names = [entry.name for entry in required_models(settings)]
    assert names[:2] == ["buffalo_l/det_10g", "buffalo_l/w600k_r50"]
    assert ("inswapper_128" in names) == ("face_swapper" in settings.frame_processors)
    assert ("GFPGANv1.4" in names) == ("face_enhancer" in settings.frame_processors)


def test_sex_and_age_need_their_network_only_where_they_are_asked_for() -> None:
    names = [entry.name for entry in required_models(Settings(face_selector_age_start=18))]
    assert names[1:3] == ["buffalo_l/w600k_r50", "buffalo_l/genderage"]
    found = required_model_names(Settings(face_selector_gender="male"))
    assert found[2] == ("attributes", names[2])
    assert found.count(found[2]) == 1


def test_content_is_checked_whatever_is_done(tmp_path: Path) -> None:
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


def test_a_crc32_and_the_size_tell_a_file_where_no_sha256_is_published(tmp_path: Path) -> None:
    given = Source(urls=("https://x.invalid",), crc32="414fa339", bytes=43)  # of the sentence, as zlib says
    path = tmp_path / "net.onnx"
    path.write_bytes(b"The quick brown fox jumps over the lazy dog")
    assert given.matches(path, "whatever")
    assert given.digest == "414fa339"
    path.write_bytes(b"The quick brown fox jumps over the lazy cog")
    assert not given.matches(path, "whatever")
    assert not given.model_copy(update={"crc32": "", "sha256": ("1",)}).matches(path, "whatever")


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
def test_unsuitable_model_is_refused_with_the_suitable_ones(values: dict[str, str], offered: str) -> None:
    with pytest.raises(ModelError, match=f"choose one of {offered}") as caught:
        required_models(Settings(**values))
    assert str(caught.value).startswith(next(iter(values.values())))


def test_a_swapper_brings_the_network_that_prepares_the_source(tmp_path: Path) -> None:
    settings = Settings(swapper_model="ghost_2_256", frame_processors=("face_swapper",))
    (tmp_path / "ghost_2_256.onnx").touch()
    with pytest.raises(ModelError, match=r"crossface_ghost: .*put crossface_ghost\.onnx into"):
        required_models(settings, root=tmp_path)
    (tmp_path / "crossface_ghost.onnx").touch()
    found = {entry.name: entry.role for entry in required_models(settings, root=tmp_path)[2:-2]}
    assert found == {"ghost_2_256": "swapper", "crossface_ghost": "converter"}


def test_masks_need_their_networks_where_they_are_asked_for_or_lie_there(tmp_path: Path) -> None:
    def masking(**values: Any) -> list[tuple[str, str]]:
        return [
            (entry.name, entry.role) for entry in required_models(Settings(**values), root=tmp_path)[4:-2]
        ]

    occluder, parser = ("xseg_1", "occluder"), ("bisenet_resnet_34", "parser")
    assert masking() == []
    assert masking(face_mask_types="box") == []
    assert masking(face_mask_types="box,occlusion") == [occluder]
    assert masking(face_mask_types="region,occlusion") == [occluder, parser]
    (tmp_path / "xseg_1.onnx").touch()
    assert masking() == [occluder]
    assert masking(face_mask_types="box") == []
    (tmp_path / "mine.onnx").touch()
    assert masking(occluder_model="mine") == [("mine", "occluder")]
    assert required_models(Settings(occluder_model="mine"), root=tmp_path)[-3].licence_id == "own"
