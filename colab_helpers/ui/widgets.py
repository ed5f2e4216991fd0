"""The widgets of the panel, alike in label and layout, each linked to what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traitlets import HasTraits, link

LABELS = {"description_width": "145px"}
"""The labels beside all widgets, as wide as the longest in any language."""

_WAITING = ("Text", "Textarea", "IntSlider")
"""Inputs that would otherwise tell of every letter and every step on their way."""


class Widgets:
    """Makes widgets whose values are the traits of a model.

    Args:
        library: The module ipywidgets, 7 or 8.
        model: A widget made for the name of one of its traits shows that trait, and changes it.
    """

    def __init__(self, library: Any, model: HasTraits) -> None:
        self.library, self._model = library, model

    def input(self, kind: str, name: str = "", /, *, label: str, width: str = "80%", **values: Any) -> Any:
        """Make an input with its label beside it."""
        layout = {"width": width, **values.pop("layout", {})}
        if kind in _WAITING:
            values["continuous_update"] = False
        made = getattr(self.library, kind)(description=label, style=LABELS, layout=layout, **values)
        if name:
            link((self._model, name), (made, "value"))
        return made

    def html(self, value: str = "", *, width: str = "auto") -> Any:
        """Make a place for HTML."""
        return self.library.HTML(value, layout={"width": width})

    def button(self, label: str, action: Callable[[], None], *, hint: str = "") -> Any:
        """Make a button that does something."""
        made = self.library.Button(description=label, tooltip=hint, layout={"width": "auto"})
        made.on_click(lambda _: action())
        return made

    def row(self, *children: Any, align: str = "center") -> Any:
        """Put widgets side by side, on as many lines as it takes."""
        return self.library.HBox(children, layout={"flex_flow": "row wrap", "align_items": align})

    def column(self, *children: Any, layout: dict[str, str] | None = None) -> Any:
        """Put widgets below each other."""
        return self.library.VBox(children, layout=layout or {})
