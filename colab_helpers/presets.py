"""Presets: named overlays over the defaults of ``Settings``, shipped or the user's own (``presets.yaml``)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from colab_helpers.errors import SettingsError
from colab_helpers.files import absolute, from_yaml
from colab_helpers.language import mark, tr

PRESETS_NAME = "presets.yaml"
"""Name of the shipped file, and of the user's file in the folder ``machine.home()``."""


class Preset(BaseModel, extra="forbid", frozen=True):
    """One entry of ``presets.yaml``."""

    description: str
    extends: str | None = None
    settings: dict[str, Any] = {}


class PresetFile(BaseModel, extra="forbid", frozen=True):
    """Schema of ``presets.yaml``: named overlays over the defaults of ``Settings``."""

    version: Literal[1]
    presets: dict[str, Preset]
    profiles: dict[str, Preset] = {}

    @property
    def known(self) -> dict[str, Preset]:
        """Presets and machine profiles by name."""
        return {**self.profiles, **self.presets}

    def values(self, name: str) -> dict[str, Any]:
        """Return the settings of a preset, including those of the preset it extends."""
        preset = self.get(name)
        if preset.extends is None:
            return dict(preset.settings)
        base = self.get(preset.extends)
        if base.extends is not None:
            text = mark("preset {name!r} extends {base!r}, which itself extends {further!r}")
            what = tr(text, name=name, base=preset.extends, further=base.extends)
            remedy = tr("extend a preset that extends no other: only one level is allowed")
            raise SettingsError(what, remedy=remedy)
        return {**base.settings, **preset.settings}

    def get(self, name: str) -> Preset:
        """Return a preset or machine profile by name; raise SettingsError if there is none."""
        if name not in self.known:
            names = ", ".join([*self.presets, *self.profiles])
            remedy = tr("choose one of {names}; join several with '+'", names=names)
            raise SettingsError(tr("there is no preset {name!r}", name=name), remedy=remedy)
        return self.known[name]


@cache
def _shipped() -> PresetFile:
    """Load the package's presets, from its folder or, in a checkout, the folder above."""
    package = Path(__file__).resolve().parent
    return load_presets(next(path for path in (package, package.parent) if (path / PRESETS_NAME).exists()))


def load_presets(path: Path | None = None) -> PresetFile:
    """Read and validate a preset file, given by its path or folder; the shipped one if None.

    Raise SettingsError if the file is missing, not YAML, or does not follow the schema.
    """
    if path is None:
        return _shipped()
    path = absolute(path / PRESETS_NAME if path.is_dir() else path)
    try:
        return PresetFile.model_validate(from_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        what = tr("cannot be read ({reason})", reason=error.strerror)
        raise SettingsError(what, where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(tr("is not valid YAML: {error}", error=error), where=str(path)) from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        complaints = "; ".join(dict.fromkeys(problems))
        what = tr("{context}: {complaints}", context=tr("preset file"), complaints=complaints)
        raise SettingsError(what, where=str(path)) from error


def all_presets(folder: Path) -> PresetFile:
    """Return the shipped presets and those in a user's folder; for equal names the shipped one wins.

    Raise SettingsError if the user's file does not follow the schema.
    """
    shipped = load_presets()
    if not (folder / PRESETS_NAME).is_file():
        return shipped
    own = load_presets(folder)

    def merge(ours: dict[str, Preset], theirs: dict[str, Preset]) -> dict[str, Preset]:
        return {**ours, **{name: preset for name, preset in theirs.items() if name not in shipped.known}}

    presets, profiles = merge(shipped.presets, own.presets), merge(shipped.profiles, own.profiles)
    return PresetFile(version=1, presets=presets, profiles=profiles)
