from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from colab_helpers.__main__ import VERBS
from colab_helpers.command_line import build_parser, option_name, settings_of
from colab_helpers.errors import SettingsError
from colab_helpers.faces.engine import resolve
from colab_helpers.machine import GIB, Gpu, Machine
from colab_helpers.presets import load_presets
from colab_helpers.settings import Settings, load_settings

MACHINE = Machine(2, int(12.7 * GIB), None, python="3.13", system="test", on_colab=False)
# Names fixed by the requirements.
REQUIRED = {
    "similar_face_distance", "reference_face_position", "reference_frame_number", "many_faces",
    "temp_frame_format", "temp_frame_quality", "output_video_encoder", "output_video_quality", "keep_fps",
    "max_memory", "batch_size", "execution_threads", "keep_frames",
}  # fmt: skip


def test_presets_and_profiles_load() -> None:
    presets = load_presets()
    assert {"balanced", "speed", "quality", "stable", "light", "long_video"} <= set(presets.presets)
    assert {"ram_8", "ram_16", "ram_32", "t4", "cpu"} <= set(presets.profiles)
    for name in [*presets.presets, *presets.profiles]:
        load_settings(name)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("balanced", {"output_video_quality": 25, "max_memory": 10, "many_faces": True, "keep_fps": True}),
        ("speed", {"output_video_quality": 28, "temp_frame_format": "jpg", "temp_frame_quality": 85}),
        ("quality", {"output_video_quality": 18, "temp_frame_format": "png", "temp_frame_quality": 100}),
        ("stable", {"max_memory": 4, "execution_threads": 2}),
        ("light", {"frame_processors": ("face_swapper",), "temp_frame_quality": 75,
                   "output_video_encoder": "libx264"}),
        ("quality+ram_8", {"output_video_quality": 18, "max_memory": 6, "batch_size": 1}),
    ],
)  # fmt: skip
def test_presets_have_required_values(preset: str, expected: dict[str, object]) -> None:
    settings = load_settings(preset)
    assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        ("nope", {}, ["nope", "balanced", "speed"]),
        ("balanced", {"output_video_quality": 52}, ["balanced", "output_video_quality", "52", "0 to 51"]),
        ("balanced", {"many_face": True}, ["many_face", "many_faces"]),
        ("balanced", {"output_video_encoder": "av1"}, ["output_video_encoder", "av1", "h264_nvenc"]),
        ("balanced", {"execution_threads": "many"}, ["execution_threads", "many", "auto", "1 to 64"]),
        ("balanced", {"half_precision": "some"}, ["half_precision", "some", "true, false or auto"]),
        ("balanced", {"batch_size": True}, ["batch_size = True is not allowed"]),
        ("balanced", {"frame_processors": []}, ["frame_processors"]),
        ("balanced", {"frame_processors": "face_enhancer,face_swapper"}, ["order"]),
        ("balanced", {"frame_processors": ["face_swapper", "face_swapper"]}, ["twice"]),
        ("balanced", {"face_mask_padding": [1, 2, 3]}, ["a list of 4 items, each a whole number from 0"]),
        ("balanced", {"face_mask_types": "hull"}, ["face_mask_types", "box, occlusion, region or auto"]),
        ("balanced", {"face_selector": "reference"}, ["many_faces"]),
    ],
)  # fmt: skip
def test_errors_name_key_value_and_allowed_values(
    preset: str, overrides: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(preset, **overrides)
    for word in words:
        assert word in str(caught.value)


def test_extends_is_limited_to_one_level(tmp_path: Path) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text(
        "version: 1\npresets:\n  a: {description: a}\n  b: {description: b, extends: a}\n"
        "  c: {description: c, extends: b}\n"
    )
    load_settings("b", presets_file=path)
    with pytest.raises(SettingsError, match="one level"):
        load_settings("c", presets_file=path)


@pytest.mark.parametrize("text", ["version: 2\npresets: {}", "presets: [", "version: 1\npresets: {}\nx: 1"])
def test_invalid_preset_file_error_names_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "presets.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"presets\.yaml"):
        load_settings(presets_file=path)


def test_auto_values_depend_on_machine_and_explicit_ones_stay() -> None:
    settings = Settings()
    cpu, notes = resolve(settings, MACHINE, cuda=False)
    assert (cpu.execution_threads, cpu.max_memory, notes) == (1, 10.7, ())
    gpu_machine = dataclasses.replace(MACHINE, gpu=Gpu("T4", 15 * GIB, "550"))
    cuda, _ = resolve(settings, gpu_machine, cuda=True)
    assert (cuda.execution_threads, cuda.batch_size) == (8, 5)
    assert resolve(load_settings(execution_threads=3), gpu_machine, cuda=True)[0].execution_threads == 3
    lowered, notes = resolve(load_settings(max_memory=64), MACHINE, cuda=False)
    assert lowered.max_memory == 10.7
    assert notes[0].startswith("max_memory lowered from 64 to 10.7 GB")
    assert MACHINE.safe_capacity == int((12.7 - 2) / 2.5)  # formula from the documentation
    assert [one.capacity for one in (MACHINE, gpu_machine)] == [(4, "RAM"), (3, "VRAM")]


def _parse(*arguments: str) -> Settings:
    return settings_of(build_parser(VERBS).parse_args(["doctor", *arguments]))


def test_each_setting_is_an_option_with_same_default_and_validation() -> None:
    assert set(Settings.model_fields) >= REQUIRED
    assert _parse() == load_settings("balanced")
    assert _parse("--keep-frames").keep_frames  # a switch without a value, as in roop
    assert not _parse("--many-faces", "false").many_faces
    assert _parse("--set", "output_video_quality=1", "--output-video-quality", "2").output_video_quality == 2
    for name in Settings.model_fields:
        value = getattr(load_settings(), name)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert _parse(option_name(name), text) == load_settings("balanced")
        assert _parse("--set", f"{name}={text}") == load_settings("balanced")
        with pytest.raises(SettingsError):
            _parse(option_name(name), "[[]]")


def test_list_options_accept_several_words() -> None:
    for name in ("--frame-processors", "--frame-processor"):
        both = _parse(name, "face_swapper", "face_enhancer").frame_processors
        assert both == ("face_swapper", "face_enhancer")
        assert _parse(name, "face_swapper").frame_processors == ("face_swapper",)
    assert _parse("--face-mask-types", "box", "region").face_mask_types == ("box", "region")
    assert _parse("--face-mask-padding", "10", "0", "5", "0").face_mask_padding == (10, 0, 5, 0)
    assert _parse("--face-mask-padding", "10,0,5,0").face_mask_padding == (10, 0, 5, 0)
