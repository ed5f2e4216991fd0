"""Presets of one's own beside the shipped ones, and what a preset means in plain words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from colab_helpers.errors import OutputError, SettingsError
from colab_helpers.files import write_atomically
from colab_helpers.language import tr
from colab_helpers.presets import PRESETS_NAME, Preset, PresetFile, load_presets, own_presets
from colab_helpers.settings import Settings

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# x264 and x265: six steps of CRF about halve or double the size.
_USUAL_QUALITY, _STEPS = 25, 6


def save_preset(home: Path, name: str, settings: Settings, *, description: str = "") -> None:
    """Add a preset to the user's file, or replace the one of that name there.

    Raises:
        SettingsError: The name cannot be used, or the file there is damaged.
        OutputError: The file cannot be written.
    """
    own = own_presets(home) or PresetFile(version=1, presets={})
    shipped = load_presets()
    if not _NAME.fullmatch(name):
        raise SettingsError(
            tr("{name!r} is no name for a preset", name=name),
            remedy=tr("use up to 40 lower-case letters, digits and _, beginning with a letter"),
        )
    if name in {**shipped.presets, **shipped.profiles}:
        raise SettingsError(
            tr("{name!r} is a preset that comes with the program", name=name),
            remedy=tr("choose another name"),
        )
    preset = Preset(description=description or tr("Saved from the panel."), settings=_kept(settings))
    saved = own.model_copy(update={"presets": {**own.presets, name: preset}})
    text = yaml.safe_dump(saved.model_dump(mode="json", exclude_none=True), sort_keys=False)
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_atomically(home / PRESETS_NAME, text.encode())
    except OSError as error:
        raise OutputError(
            tr("the preset cannot be saved ({reason})", reason=error.strerror or error),
            where=str(home / PRESETS_NAME),
            remedy=tr("check your rights to the folder, or name another in COLAB_HELPERS_HOME"),
        ) from error


def _kept(settings: Settings) -> dict[str, Any]:
    """The fields that are not at their defaults, as YAML takes them."""
    usual, values = Settings().model_dump(mode="json"), settings.model_dump(mode="json")
    return {name: value for name, value in values.items() if value != usual[name]}


def differences(settings: Settings, base: Settings) -> list[str]:
    """What settings have different from a preset's, one line each."""
    ours, theirs = settings.model_dump(), base.model_dump()
    return [
        tr(
            "{name}: {ours} instead of {theirs}",
            name=name,
            ours=value_text(ours[name]),
            theirs=value_text(theirs[name]),
        )
        for name in ours
        if ours[name] != theirs[name]
    ]


def value_text(value: object) -> str:
    """A setting's value as a person writes it."""
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def meaning(settings: Settings) -> list[str]:
    """What settings mean for work, speed, memory and size, one sentence each; nothing here is measured."""
    return [_work(settings), _speed(settings), _memory(settings), _size(settings)]


def _work(settings: Settings) -> str:
    steps = {"face_swapper": tr("swapped"), "face_enhancer": tr("restored in detail")}
    done = tr(", then ").join(steps[step] for step in settings.frame_processors)
    if settings.many_faces:
        return tr("Work: Every face is {done}.", done=done)
    return tr("Work: One person's face is {done}.", done=done)


def _speed(settings: Settings) -> str:
    enhanced = "face_enhancer" in settings.frame_processors
    word = (
        tr("the slowest network, the enhancer, is in use")
        if enhanced
        else tr("fast, because the enhancer, the slowest network, is left out")
    )
    encoder = {"auto": tr("the GPU's encoder is used where it works"), "libx264": tr("the CPU encodes")}
    coding = encoder.get(
        settings.output_video_encoder, tr("{encoder} encodes", encoder=settings.output_video_encoder)
    )
    slower = (
        tr("; the detector looks closer, which takes longer") if settings.face_detector_size > 640 else ""
    )
    return tr("Speed: {word}; {coding}{slower}.", word=word, coding=coding, slower=slower)


def _memory(settings: Settings) -> str:
    ram = (
        tr("all RAM but 2 GB")
        if settings.max_memory == "auto"
        else tr("at most {max_memory:g} GB of RAM", max_memory=settings.max_memory)
    )
    count = settings.batch_size
    batch = (
        tr("frames at once as memory allows")
        if count == "auto"
        else tr("1 frame at once")
        if count == 1
        else tr("{count} frames at once", count=count)
    )
    enhanced = "face_enhancer" in settings.frame_processors
    gpu = (
        tr("the enhancer, the largest network, needs most of the VRAM")
        if enhanced
        else tr("little VRAM is needed")
    )
    more = "" if count in (1, "auto") else tr("; each frame at once takes more of it")
    return tr("Memory: {ram}; {batch}; {gpu}{more}.", ram=ram, batch=batch, gpu=gpu, more=more)


def _size(settings: Settings) -> str:
    steps = (settings.output_video_quality - _USUAL_QUALITY) / _STEPS
    factor = 2.0 ** abs(steps)
    if abs(steps) < 0.1:
        word = tr("usual size")
    elif steps > 0:
        word = tr("files about {factor:.1f} times smaller than usual", factor=factor)
    else:
        word = tr("files about {factor:.1f} times larger than usual", factor=factor)
    quality = settings.output_video_quality
    return tr("Size: {word} (quality {quality} of 0 to 51, lower is better).", word=word, quality=quality)
