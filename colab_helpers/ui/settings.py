"""Preset and overrides in the panel, and help on every setting."""

from __future__ import annotations

from difflib import get_close_matches
from functools import partial
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from colab_helpers.errors import ColabHelpersError, SettingsError, allowed_values
from colab_helpers.language import mark, tr
from colab_helpers.machine import home
from colab_helpers.pages.svg import BAD
from colab_helpers.presets import PresetFile, all_presets, load_presets
from colab_helpers.settings import Settings, field_help
from colab_helpers.ui.form_state import FormState
from colab_helpers.ui.markup import error_message, paragraph, table
from colab_helpers.ui.widgets import Widgets

NO_PROFILE = mark("(no profile)")


class SettingsBox:
    """Inputs for preset, machine profile and overrides (one setting per line)."""

    def __init__(self, widgets: Widgets, form_state: FormState) -> None:
        self._form_state = form_state
        self._presets, problem = _all_presets()
        preset, profile = _split(form_state.preset, self._presets)
        none = tr(NO_PROFILE)
        menu = partial(widgets.input, "Dropdown", width="360px")
        options = list(dict.fromkeys([*self._presets.presets, preset]))
        self.preset = menu(label=tr("Preset"), options=options, value=preset)
        options = [none, *self._presets.profiles]
        self.profile = menu(label=tr("Machine"), options=options, value=profile or none)
        hint, layout = tr("name: value, one per line, such as batch_size: 2"), {"height": "70px"}
        text = partial(widgets.input, "Textarea", "overrides", label=tr("Overrides"))
        self.overrides = text(placeholder=hint, layout=layout)
        self.description, self.error, self.help = widgets.html(), widgets.html(), widgets.html()
        self.workers = _worker_inputs(widgets)
        accordion = widgets.library.Accordion(children=[self.workers, self.help], selected_index=None)
        for index, title in enumerate((tr("Several GPUs, several machines"), tr("All settings"))):
            accordion.set_title(index, title)
        for each in (self.preset, self.profile):
            each.observe(self._on_choice, "value")
        menus, damage = widgets.row(self.preset, self.profile), widgets.html(paragraph(problem, BAD))
        self.box = widgets.column(menus, self.description, self.overrides, self.error, accordion, damage)

    def _on_choice(self, _: object) -> None:
        preset, profile = str(self.preset.value), self.profile.value
        self._form_state.preset = preset if profile == tr(NO_PROFILE) else f"{preset}+{profile}"

    def refresh(self) -> None:
        """Update description, help and errors for the current settings."""
        try:
            presets = [self._presets.get(name.strip()) for name in self._form_state.preset.split("+")]
            self.description.value = paragraph(" ".join(tr(preset.description) for preset in presets))
            self.help.value = help_html(self._form_state.request().settings)
            self.error.value = ""
        except ColabHelpersError as error:
            text = tr("The run would refuse these settings: {what}.", what=error.what.rstrip("."))
            self.error.value = paragraph(" ".join([text, *suggestions(error)]), BAD)


def _worker_inputs(widgets: Widgets) -> Any:
    """Create the inputs for number and place of workers, with a table that explains them."""
    share: dict[str, Any] = {"min": 0.05, "max": 1.0, "step": 0.05}
    kinds = {"gpus": "Text", "cluster": "Text", "gpus_per_worker": "BoundedFloatText"}
    kinds |= {"priority": "IntText", "map_paths": "Textarea"}
    inputs = [
        widgets.input(kind, name, label=name, **(share if name == "gpus_per_worker" else {}))
        for name, kind in kinds.items()
    ]
    meanings = (
        field_help("gpus"),
        tr("run the batch on a cluster: HOST:PORT, or auto"),
        tr("share of a GPU for each worker of the cluster"),
        tr("a batch on the cluster waits while one of higher priority runs"),
        "OLD=NEW: " + tr("files below OLD here are found below NEW on the cluster's machines"),
    )
    rows = zip(kinds, meanings, strict=True)
    return widgets.column(*inputs, widgets.html(table((tr("setting"), tr("meaning")), rows)))


def _all_presets() -> tuple[PresetFile, str]:
    """Return all presets; if the user's file is invalid, only the shipped ones and the error message."""
    try:
        return all_presets(home()), ""
    except SettingsError as error:
        return load_presets(), error_message(error)


def _split(preset: str, presets: PresetFile) -> tuple[str, str]:
    """Split ``preset+profile``; the profile is empty if the last part is not one."""
    first, plus, last = preset.rpartition("+")
    return (first.strip(), last.strip()) if plus and last.strip() in presets.profiles else (preset, "")


def suggestions(error: ColabHelpersError) -> list[str]:
    """Suggest the closest setting for each unknown name in the error."""
    cause = error.__cause__
    details = cause.errors() if isinstance(cause, ValidationError) else []
    unknown = [str(item["loc"][-1]) for item in details if item["type"] == "extra_forbidden"]
    text = mark("Did you mean {name} instead of {written}?")
    pairs = ((get_close_matches(name, Settings.model_fields, n=1), name) for name in unknown)
    return [tr(text, name=matches[0], written=name) for matches, name in pairs if matches]


def value_text(value: Any) -> str:
    """Format a setting's value as in an override."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def help_html(settings: Settings) -> Markup:
    """Return a table of all settings with current value, allowed values and meaning."""
    schemas = Settings.model_json_schema()["properties"]
    rows = [
        (name, value_text(value), allowed_values(schemas[name]), field_help(name))
        for name, value in settings.model_dump().items()
    ]
    heads = (tr("setting"), tr("current value"), tr("allowed"), tr("meaning"))
    return table(heads, rows)
