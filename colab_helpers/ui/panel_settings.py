"""The tab of the settings: a preset, what it means, every field, and what differs from the preset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from colab_helpers.errors import ColabHelpersError, SettingsError
from colab_helpers.language import mark, tr
from colab_helpers.presets import PresetFile, all_presets, load_presets
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings, preset_values, validate_settings
from colab_helpers.ui.panel_desk import LABELS, Desk
from colab_helpers.ui.panel_fields import GROUPS, FieldEditor, complaint, group_of, schemas
from colab_helpers.ui.panel_parts import GREEN, RED, bullets, paragraph, words
from colab_helpers.ui.panel_presets import differences, meaning, save_preset

NO_PROFILE = mark("(as it comes)")


class SettingsTab:
    """Preset, profile of the machine, and any single setting.

    Args:
        desk: Shared by all tabs.
        first: What stands there first.

    Attributes:
        overrides: What was changed by hand, by name; wins over the preset. Also holds what no widget can.
    """

    def __init__(self, desk: Desk, first: BatchRequest) -> None:
        self._desk = desk
        self._filling = False
        self.overrides = dict(first.overrides)
        self._presets, self._damage = _presets_of(desk)
        self._make(first)
        self._fill()

    def _make(self, first: BatchRequest) -> None:
        desk, w = self._desk, self._desk.widgets
        preset, profile = _split(first.preset, self._presets)
        width = {"width": "360px"}
        names = list(dict.fromkeys([*self._presets.presets, preset]))
        profiles = [tr(NO_PROFILE), *self._presets.profiles]
        self.preset = w.Dropdown(
            options=names, value=preset, description=tr("Preset"), style=LABELS, layout=width
        )
        self.profile = w.Dropdown(
            options=profiles, value=profile, description=tr("Machine"), style=LABELS, layout=width
        )
        self.models = desk.text(
            tr("Models folder"), str(first.models_dir or ""), hint=tr("the usual place"), width="80%"
        )
        self.editors = {name: FieldEditor(desk, name, schema) for name, schema in schemas().items()}
        self.advanced = self._accordion()
        self.description, self.changes, self.message = desk.html(), desk.html(), desk.html()
        self.reset_button = desk.button(tr("Back to the preset"), self._reset)
        self.name = desk.text(tr("Save as preset"), hint=tr("my_preset"), width="auto")
        self.save_button = desk.button(tr("Save"), self._save)
        self.preset.observe(self._preset_chosen, "value")
        self.profile.observe(self._preset_chosen, "value")
        self.models.observe(lambda _: desk.tell("settings"), "value")
        for editor in self.editors.values():
            editor.widget.observe(self._edited(editor), "value")
        self.box = desk.column(
            desk.row(self.preset, self.profile),
            self.description,
            self.changes,
            desk.row(self.reset_button, self.name, self.save_button),
            self.message,
            self.models,
            self.advanced,
        )

    def _accordion(self) -> Any:
        w = self._desk.widgets
        layout = {"flex_flow": "row wrap"}
        boxes = []
        for group in GROUPS:
            members = [editor for name, editor in self.editors.items() if group_of(name) == group]
            for editor in members:
                editor.box.layout = {"width": "376px", "margin": "2px 6px 8px 0"}
            boxes.append(w.HBox([editor.box for editor in members], layout=layout))
        accordion = w.Accordion(children=boxes)
        for number, title in enumerate(GROUPS.values()):
            accordion.set_title(number, tr("Advanced: {title}", title=tr(title)))
        accordion.selected_index = None
        return accordion

    @property
    def preset_text(self) -> str:
        """The preset and the profile, joined as ``load_settings`` takes them."""
        chosen = str(self.preset.value)
        return chosen if self.profile.value == tr(NO_PROFILE) else f"{chosen}+{self.profile.value}"

    # --- what was clicked -----------------------------------------------------------------------------

    def _preset_chosen(self, _: object) -> None:
        if not self._filling:
            self._fill()
            self._desk.tell("settings")

    def _edited(self, editor: FieldEditor) -> Callable[[object], None]:
        def take(_: object) -> None:
            if not self._filling:
                self.overrides[editor.name] = editor.value
                self._fill(but=editor)
                self._desk.tell("settings")

        return take

    def _reset(self) -> None:
        self.overrides.clear()
        self._fill()
        self._desk.tell("settings")

    def _save(self) -> None:
        name = self.name.value.strip()
        try:
            settings = validate_settings({**self._base(), **self.overrides}, preset=self.preset_text)
            save_preset(
                self._desk.host.home,
                name,
                settings,
                description=tr("From {preset}.", preset=self.preset_text),
            )
            self._presets, self._damage = _presets_of(self._desk)
        except ColabHelpersError as error:
            self.message.value = paragraph(words(error), RED)
            return
        with self._quietly():
            self.preset.options = list(dict.fromkeys([*self._presets.presets, str(self.preset.value)]))
            self.preset.value, self.profile.value = name, tr(NO_PROFILE)
        self.overrides.clear()
        self._fill()
        self.message.value = paragraph(tr("Saved as the preset {name}.", name=name), GREEN)
        self._desk.tell("settings")

    # --- showing --------------------------------------------------------------------------------------

    def _base(self) -> dict[str, Any]:
        return preset_values(self._presets, self.preset_text)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Set widgets without hearing of it."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    def _fill(self, *, but: FieldEditor | None = None) -> None:
        """Bring everything shown in step with preset and overrides."""
        self.message.value = paragraph(self._damage, RED)
        try:
            base = validate_settings(self._base(), preset=self.preset_text)
        except SettingsError as error:
            self.description.value, self.changes.value = paragraph(words(error), RED), ""
            return
        usual = base.model_dump()
        self._drop_usual(usual)
        with self._quietly():
            for name, editor in self.editors.items():
                if editor is not but:
                    editor.show(self.overrides.get(name, usual[name]))
                editor.complain(complaint(name, self.overrides[name]) if name in self.overrides else "")
        self._explain(base)

    def _drop_usual(self, usual: dict[str, Any]) -> None:
        """An override that says what the preset says is none."""
        for name in [name for name in self.overrides if name in usual]:
            if _same(self.overrides[name], usual[name]):
                del self.overrides[name]

    def _explain(self, base: Settings) -> None:
        text, refused = self.preset_text, ""
        try:
            settings = validate_settings({**self._base(), **self.overrides}, preset=text)
        except SettingsError as error:
            settings = self._as_far_as_good(base)
            refused = paragraph(tr("The run would refuse these settings: {what}.", what=error.what), RED)
            self._complain_together(error.what)
        self.description.value = self._description(settings)
        changed = differences(settings, base)
        head = (
            tr("Different from {preset}:", preset=text)
            if changed
            else tr("Nothing differs from {preset}.", preset=text)
        )
        self.changes.value = refused + (paragraph(head) if changed or not refused else "") + bullets(changed)

    def _complain_together(self, what: str) -> None:
        """Say beside each changed field what keeps it from going with the others."""
        for name in self.overrides.keys() & self.editors.keys():
            if name in what and not complaint(name, self.overrides[name]):
                self.editors[name].complain(what.partition(": ")[2] or what)

    def _as_far_as_good(self, base: Settings) -> Settings:
        """The settings without what is wrong in itself; the preset's where the rest does not go together."""
        good = {name: value for name, value in self.overrides.items() if not complaint(name, value)}
        try:
            return validate_settings({**self._base(), **good}, preset=self.preset_text)
        except SettingsError:
            return base

    def _description(self, settings: Settings) -> str:
        chosen = [tr(self._presets.get(name.strip()).description) for name in self.preset_text.split("+")]
        return paragraph(" ".join(chosen)) + bullets(meaning(settings))


def _presets_of(desk: Desk) -> tuple[PresetFile, str]:
    """All presets; where the user's file is damaged, the shipped ones and what is wrong with it."""
    try:
        return all_presets(desk.host.home), ""
    except SettingsError as error:
        return load_presets(), words(error)


def _split(preset: str, presets: PresetFile) -> tuple[str, str]:
    """A preset's name, and the profile that stands last in it."""
    first, plus, last = preset.rpartition("+")
    return (
        (first.strip(), last.strip())
        if plus and last.strip() in presets.profiles
        else (preset, tr(NO_PROFILE))
    )


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, bool) != isinstance(theirs, bool):
        return False
    return (tuple(ours) if isinstance(ours, list) else ours) == theirs
