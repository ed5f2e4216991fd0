"""Preset and overrides of the panel, and the help of every setting."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from colab_helpers.errors import ColabHelpersError, SettingsError, allowed_values
from colab_helpers.language import mark, tr
from colab_helpers.machine import home
from colab_helpers.presets import PresetFile, all_presets, load_presets
from colab_helpers.settings import Settings, field_help
from colab_helpers.ui.form_state import FormState
from colab_helpers.ui.markup import RED, error_message, paragraph, table
from colab_helpers.ui.widgets import Widgets

NO_PROFILE = mark("(as it comes)")


class SettingsBox:
    """Preset, profile of the machine, and any single setting as a line of text."""

    def __init__(self, widgets: Widgets, form_state: FormState) -> None:
        self._form_state = form_state
        self._presets, damage = _all_presets()
        preset, profile = _split(form_state.preset, self._presets)
        none = tr(NO_PROFILE)
        self.preset = widgets.input(
            "Dropdown",
            label=tr("Preset"),
            width="360px",
            options=list(dict.fromkeys([*self._presets.presets, preset])),
            value=preset,
        )
        self.profile = widgets.input(
            "Dropdown",
            label=tr("Machine"),
            width="360px",
            options=[none, *self._presets.profiles],
            value=profile or none,
        )
        self.overrides = widgets.input(
            "Textarea",
            "overrides",
            label=tr("Overrides"),
            placeholder=tr("name: value, one a line, such as batch_size: 2"),
            layout={"height": "70px"},
        )
        self.description, self.complaint, self.help = widgets.html(), widgets.html(), widgets.html()
        self.several = _several(widgets)
        folded = widgets.library.Accordion(children=[self.several, self.help], selected_index=None)
        for place, title in enumerate((tr("Several GPUs, several machines"), tr("All settings"))):
            folded.set_title(place, title)
        for each in (self.preset, self.profile):
            each.observe(self._chosen, "value")
        self.box = widgets.column(
            widgets.row(self.preset, self.profile),
            self.description,
            self.overrides,
            self.complaint,
            folded,
            widgets.html(paragraph(damage, RED)),
        )

    def _chosen(self, _: object) -> None:
        profile = self.profile.value
        chosen = str(self.preset.value)
        self._form_state.preset = chosen if profile == tr(NO_PROFILE) else f"{chosen}+{profile}"

    def refresh(self) -> None:
        """Bring what is said in step with what is chosen."""
        try:
            chosen = [self._presets.get(name.strip()) for name in self._form_state.preset.split("+")]
            self.description.value = paragraph(" ".join(tr(preset.description) for preset in chosen))
            self.help.value = help_html(self._form_state.request().settings)
            self.complaint.value = ""
        except ColabHelpersError as error:
            told = tr("The run would refuse these settings: {what}.", what=error.what.rstrip("."))
            self.complaint.value = paragraph(" ".join([told, *suggestions(error)]), RED)


def _several(widgets: Widgets) -> Any:
    """Make what says how many workers do a batch, and where, and what it means."""
    share: dict[str, Any] = {"min": 0.05, "max": 1.0, "step": 0.05}
    kinds = {"gpus": "Text", "cluster": "Text", "gpus_per_worker": "BoundedFloatText"}
    kinds |= {"priority": "IntText", "map_paths": "Textarea"}
    inputs = [
        widgets.input(kind, name, label=name, **(share if name == "gpus_per_worker" else {}))
        for name, kind in kinds.items()
    ]
    meanings = (
        field_help("gpus"),
        tr("have a cluster do it: HOST:PORT, or auto"),
        tr("of a GPU, for each worker there"),
        tr("a batch there waits as long as one of a higher priority works"),
        "OLD=NEW: " + tr("what lies below OLD here lies below NEW on the cluster's machines"),
    )
    rows = zip(kinds, meanings, strict=True)
    return widgets.column(*inputs, widgets.html(table((tr("setting"), tr("meaning")), rows)))


def _all_presets() -> tuple[PresetFile, str]:
    """Return all presets; where the user's file is damaged, the shipped ones and what is wrong."""
    try:
        return all_presets(home()), ""
    except SettingsError as error:
        return load_presets(), error_message(error)


def _split(preset: str, presets: PresetFile) -> tuple[str, str]:
    """Return a preset's name, and the profile that stands last in it."""
    first, plus, last = preset.rpartition("+")
    return (first.strip(), last.strip()) if plus and last.strip() in presets.profiles else (preset, "")


def suggestions(error: ColabHelpersError) -> list[str]:
    """Name the setting that was meant, for each name that there is not."""
    cause = error.__cause__
    details = cause.errors() if isinstance(cause, ValidationError) else []
    unknown = [str(item["loc"][-1]) for item in details if item["type"] == "extra_forbidden"]
    meant = {name: get_close_matches(name, Settings.model_fields, n=1) for name in unknown}
    return [
        tr("Did you mean {name} instead of {written}?", name=found[0], written=name)
        for name, found in meant.items()
        if found
    ]


def value_text(value: Any) -> str:
    """Return a setting's value as a person writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def help_html(settings: Settings) -> Markup:
    """Return every setting with its value now, what it may be, and what it means."""
    schemas = Settings.model_json_schema()["properties"]
    rows = [
        (name, value_text(value), allowed_values(schemas[name]), field_help(name))
        for name, value in settings.model_dump().items()
    ]
    heads = (tr("setting"), tr("value now"), tr("allowed"), tr("meaning"))
    return table(heads, rows)
