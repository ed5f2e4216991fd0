"""What the tabs of the panel share: the widgets, the place, the networks, and what is chosen now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from colab_helpers.errors import SettingsError
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings
from colab_helpers.ui.host import Host, repeat
from colab_helpers.ui.ledger import Ledger
from colab_helpers.ui.panel_studio import Studio, finding_key

if TYPE_CHECKING:
    from colab_helpers.faces.photos import PhotoReport

LABELS = {"description_width": "145px"}
"""The labels beside all widgets of the panel, as wide as the longest in any language."""

Part = Literal["sources", "targets", "settings", "consent"]


@dataclass(eq=False)
class Desk:
    """Shared by all tabs.

    Attributes:
        widgets: The module ipywidgets, 7 or 8.
        host: Where the notebook runs.
        studio: The networks.
        ledger: Remembers which batch is at work.
        repeat: Calls something every so many seconds until it says False, while no cell runs.
        read: What is chosen now; set when all tabs are there.
        listeners: Told which part of the choice has changed.
    """

    widgets: Any
    host: Host
    studio: Studio = field(default_factory=Studio)
    ledger: Ledger = field(default_factory=Ledger)
    repeat: Callable[[Callable[[], bool], float], None] = repeat
    read: Callable[[], BatchRequest] = BatchRequest
    listeners: list[Callable[[Part], None]] = field(default_factory=list)

    def tell(self, part: Part) -> None:
        """Tell everybody that a part has changed."""
        for listener in self.listeners:
            listener(part)

    def settings(self) -> Settings:
        """The settings chosen now.

        Raises:
            SettingsError: They cannot be used.
        """
        return self.read().settings

    def models(self) -> Path | None:
        """The models folder chosen now; None for the usual one."""
        return self.read().models_dir

    def finding_key(self) -> object:
        """Equal while the same faces would be found."""
        return finding_key(self._finding(), self.models())

    def faces(self, image: ByteImage) -> list[Face]:
        """The faces in a picture, found as the run would.

        Raises:
            ColabHelpersError: The networks cannot be had.
        """
        return self.studio.faces(self._finding(), self.models(), image)

    def examine(self, image: ByteImage) -> PhotoReport:
        """Measure a photo of the person who is put in.

        Raises:
            ColabHelpersError: The networks cannot be had.
        """
        return self.studio.examine(self._finding(), self.models(), image)

    def _finding(self) -> Settings:
        """Settings to find faces with; the usual ones while those chosen cannot be used."""
        try:
            return self.settings()
        except SettingsError:
            return Settings()

    def html(self, value: str = "") -> Any:
        """A place for HTML."""
        return self.widgets.HTML(value, layout={"width": "auto"})

    def text(self, label: str, value: str = "", *, hint: str = "", width: str = "60%") -> Any:
        """A line to write in, with its label beside it."""
        return self.widgets.Text(
            value,
            description=label,
            placeholder=hint,
            continuous_update=False,
            style=LABELS,
            layout={"width": width},
        )

    def button(self, label: str, action: Callable[[], None], *, hint: str = "", width: str = "auto") -> Any:
        """A button that does something."""
        made = self.widgets.Button(description=label, tooltip=hint, layout={"width": width})
        made.on_click(lambda _: action())
        return made

    def row(self, *children: Any) -> Any:
        """Widgets side by side, on as many lines as it takes."""
        layout = {"flex_flow": "row wrap", "align_items": "center"}
        return self.widgets.HBox(children, layout=layout)

    def column(self, *children: Any) -> Any:
        """Widgets below each other."""
        return self.widgets.VBox(children)
