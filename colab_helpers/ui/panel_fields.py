"""One widget for each field of ``Settings``, made from the model itself."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from itertools import permutations
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from colab_helpers.errors import SettingsError
from colab_helpers.language import mark
from colab_helpers.settings import FrameProcessor, Settings, field_help, validate_settings
from colab_helpers.ui.panel_desk import Desk
from colab_helpers.ui.panel_parts import RED, paragraph
from colab_helpers.ui.panel_presets import value_text

_LABEL = {"description_width": "165px"}
_WIDTH = {"width": "372px"}
_HELP = "margin:0;line-height:1.3;opacity:.75"
_LONGEST_SLIDER = 100
_MOST_CHOICES = 10

Schema = Mapping[str, Any]


def schemas() -> dict[str, Schema]:
    """The JSON schema of each field: its kinds of value, choices and limits."""
    found: dict[str, Schema] = Settings.model_json_schema()["properties"]
    return found


def complaint(name: str, value: object) -> str:
    """What ``Settings`` says of a value by itself, whatever the others are; empty if it takes it."""
    try:
        validate_settings({name: value}, preset="panel")
    except SettingsError as error:
        cause = error.__cause__
        by_itself = isinstance(cause, ValidationError) and any(item["loc"] for item in cause.errors())
        return error.what.partition(": ")[2] if by_itself else ""
    return ""


class FieldEditor:
    """A widget for one setting, its description, and a place for a complaint.

    Attributes:
        name: The field of ``Settings``.
        widget: Where the value is chosen.
        box: Everything of it.
    """

    def __init__(self, desk: Desk, name: str, schema: Schema) -> None:
        self.name = name
        self._written = False
        self.widget = self._make(desk.widgets, schema)
        self.help = desk.html(f'<p style="{_HELP}">{html.escape(field_help(name))}</p>')
        self.error = desk.html()
        self.box = desk.column(self.widget, self.help, self.error)

    def _make(self, w: Any, schema: Schema) -> Any:
        parts = schema.get("anyOf", [schema])
        common = {"description": self.name, "style": _LABEL, "layout": _WIDTH}
        choices = _choices(self.name, parts)
        if choices:
            return w.Dropdown(options=[(value_text(choice), choice) for choice in choices], **common)
        (part, *others) = parts
        if part["type"] == "boolean":
            return w.Checkbox(description=self.name, indent=True, style=_LABEL)
        if part["type"] == "integer" and not others and _span(part) <= _LONGEST_SLIDER:
            return w.IntSlider(min=part["minimum"], max=part["maximum"], continuous_update=False, **common)
        self._written = True
        return w.Text(continuous_update=False, **common)

    @property
    def value(self) -> object:
        """What is chosen, as ``Settings`` takes it; what is written and no number stays text."""
        value = self.widget.value
        if not self._written:
            return value
        if get_origin(Settings.model_fields[self.name].annotation) is None and self._is_text():
            return value.strip()
        return _parsed(value)

    def _is_text(self) -> bool:
        return Settings.model_fields[self.name].annotation is str

    def show(self, value: object) -> None:
        """Show a value, as far as the widget can hold it."""
        shown: Any = _number_text(value) if self._written else value
        if isinstance(shown, list):
            shown = tuple(shown)
        options = getattr(self.widget, "options", None)
        if options is not None and shown not in [choice for _, choice in options]:
            return
        if hasattr(self.widget, "max") and not _is_within(shown, self.widget.min, self.widget.max):
            return
        self.widget.value = shown

    def complain(self, text: str) -> None:
        """Say what is wrong with the value; nothing if nothing is."""
        self.error.value = paragraph(text, RED)


def _choices(name: str, parts: list[Schema]) -> list[Any]:
    """The values of a field that has but few; empty for others."""
    if name == "frame_processors":
        return _orders()
    found: list[Any] = []
    for part in parts:
        if "enum" in part:
            found += part["enum"]
        elif "const" in part:
            found.append(part["const"])
        elif part["type"] == "boolean" and len(parts) > 1:
            found += [True, False]
        elif part["type"] == "integer" and _span(part) <= _MOST_CHOICES:
            found += range(part["minimum"], part["maximum"] + 1)
        else:
            return []
    return found


def _orders() -> list[tuple[str, ...]]:
    """The steps in every order that ``Settings`` takes."""
    names = get_args(FrameProcessor)
    orders = [order for count in range(len(names), 0, -1) for order in permutations(names, count)]
    return [order for order in orders if _is_taken({"frame_processors": order})]


def _is_taken(values: Mapping[str, object]) -> bool:
    try:
        validate_settings(values, preset="panel")
    except SettingsError:
        return False
    return True


def _span(part: Schema) -> float:
    """How far a number may go from its least value; endless without limits."""
    return float(part["maximum"] - part["minimum"]) if {"minimum", "maximum"} <= part.keys() else math.inf


def _is_within(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and low <= value <= high


def _parsed(text: str) -> object:
    """A number where it is one."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (int, float)) else text.strip()


def _number_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


GROUPS: dict[Literal["faces", "networks", "result", "run"], str] = {
    "faces": mark("Which faces"),
    "networks": mark("Networks and machine"),
    "result": mark("Result files"),
    "run": mark("Long runs"),
}
"""Parts of the advanced settings, with their titles."""

_OF_GROUP = {
    "faces": ("many_faces", "face_", "reference_", "similar_"),
    "networks": ("frame_processors", "swapper_", "enhancer_", "execution_", "half_", "cuda_",
                 "batch_", "max_memory", "gpu_"),
    "result": ("output_video", "output_image", "keep_", "temp_", "skip_"),
}  # fmt: skip


def group_of(name: str) -> str:
    """The part of the advanced settings that a field stands in; new ones stand with the last."""
    return next((group for group, starts in _OF_GROUP.items() if name.startswith(starts)), "run")
