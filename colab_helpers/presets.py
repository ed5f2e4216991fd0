"""``presets.yaml``: named overlays over the defaults of ``Settings``, the shipped ones and the user's own."""

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
"""Of the shipped file, and of the user's own in the folder that ``machine.home`` names."""


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
        """Return the keys a preset sets, including those of the one preset it extends."""
        preset = self.get(name)
        if preset.extends is None:
            return dict(preset.settings)
        base = self.get(preset.extends)
        if base.extends is not None:
            text = mark("preset {name!r} extends {base!r}, which itself extends {further!r}")
            raise SettingsError(
                tr(text, name=name, base=preset.extends, further=base.extends),
                remedy=tr("extend a preset that stands on its own: one level is allowed"),
            )
        return {**base.settings, **preset.settings}

    def get(self, name: str) -> Preset:
        """Return a preset or machine profile by name."""
        if name not in self.known:
            names = ", ".join([*self.presets, *self.profiles])
            raise SettingsError(
                tr("there is no preset {name!r}", name=name),
                remedy=tr("choose one of {names}; join several with '+'", names=names),
            )
        return self.known[name]


@cache
def _shipped() -> PresetFile:
    """The presets of the package, which lie in it, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return load_presets(next(path for path in (package, package.parent) if (path / PRESETS_NAME).exists()))


def load_presets(path: Path | None = None) -> PresetFile:
    """Read and check a preset file, or that in a folder; the shipped one if None.

    Raises:
        SettingsError: The file is missing, not YAML, or does not follow the schema.
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
        told = dict.fromkeys(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        what = tr("{context}: {complaints}", context=tr("preset file"), complaints="; ".join(told))
        raise SettingsError(what, where=str(path)) from error


def all_presets(folder: Path) -> PresetFile:
    """Return the shipped presets and those in a user's folder; where names are equal the shipped one counts.

    Raises:
        SettingsError: The user's file does not follow the schema.
    """
    shipped = load_presets()
    if not (folder / PRESETS_NAME).is_file():
        return shipped
    own = load_presets(folder)

    def joined(ours: dict[str, Preset], theirs: dict[str, Preset]) -> dict[str, Preset]:
        return {**ours, **{name: each for name, each in theirs.items() if name not in shipped.known}}

    return PresetFile(
        version=1,
        presets=joined(shipped.presets, own.presets),
        profiles=joined(shipped.profiles, own.profiles),
    )
