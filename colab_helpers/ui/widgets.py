"""Create the panel's widgets with uniform labels and layout, linked to traits of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traitlets import HasTraits, link

LABELS = {"description_width": "145px"}
"""Style of the labels, as wide as the longest in any language."""

_DEFERRED = ("Text", "Textarea", "IntSlider")
"""Inputs that report a change only when it is complete, not each keystroke or step."""


class Widgets:
    """Creates widgets, linked to traits of ``model`` by name; ``library`` is ipywidgets 7 or 8."""

    def __init__(self, library: Any, model: HasTraits) -> None:
        self.library, self._model = library, model

    def input(self, kind: str, name: str = "", /, *, label: str, width: str = "80%", **values: Any) -> Any:
        """Create a labelled input, linked to the trait ``name`` if given."""
        layout = {"width": width, **values.pop("layout", {})}
        if kind in _DEFERRED:
            values["continuous_update"] = False
        widget = getattr(self.library, kind)(description=label, style=LABELS, layout=layout, **values)
        if name:
            link((self._model, name), (widget, "value"))
        return widget

    def html(self, value: str = "", *, width: str = "auto") -> Any:
        """Create an HTML widget."""
        return self.library.HTML(value, layout={"width": width})

    def button(self, label: str, action: Callable[[], None], *, hint: str = "") -> Any:
        """Create a button that calls ``action``."""
        button = self.library.Button(description=label, tooltip=hint, layout={"width": "auto"})
        button.on_click(lambda _: action())
        return button

    def row(self, *children: Any, align: str = "center") -> Any:
        """Put widgets side by side, wrapped into lines as needed."""
        return self.library.HBox(children, layout={"flex_flow": "row wrap", "align_items": align})

    def column(self, *children: Any, layout: dict[str, str] | None = None) -> Any:
        """Stack widgets vertically."""
        return self.library.VBox(children, layout=layout or {})
