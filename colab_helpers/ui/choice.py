"""What a person has chosen for a batch: the form's answers, and the panel's as they stand now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from traitlets import Bool, Float, HasTraits, Int, Tuple, Unicode

from colab_helpers.demo import Demo
from colab_helpers.errors import ColabHelpersError
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings
from colab_helpers.ui.preview_networks import PreviewNetworks
from colab_helpers.ui.runs import Runs


class Choice(HasTraits):
    """What one cell of the notebook leaves to the next; each trait is linked to a widget of the panel.

    Begins with the form's answers. The networks of an earlier choice, by the same cell, are released, and the
    batches it has begun go on here.

    Attributes:
        targets: A path a line; ``map_paths`` a pair a line.
        overrides: Settings, ``name: value`` a line.
        has_panel: Whether there is a panel, with a button that begins the run.
        demo: Used where neither sources nor targets are chosen.
    """

    library = Unicode()
    people = Unicode("auto")
    sources = Tuple()
    targets = Unicode()
    output_dir = Unicode()
    preset = Unicode()
    overrides = Unicode()
    video_range = Unicode()
    consent = Unicode()
    instead_of_label = Unicode()
    models_dir = Unicode()
    session_minutes = Float()
    shortest_first = Bool()
    gpus = Unicode("all")
    cluster = Unicode()
    gpus_per_worker = Float(1.0)
    priority = Int()
    map_paths = Unicode()

    def __init__(self, first: BatchRequest, earlier: Choice | None = None) -> None:
        shown = {name: _shown(getattr(first, name)) for name in self.trait_names()}
        lines = {name: "\n".join(getattr(first, name)) for name in ("targets", "map_paths")}
        super().__init__(**{**shown, **lines})
        self._first = first
        self.has_panel = self.is_closed = False
        self.demo: Demo | None = None
        self.networks = PreviewNetworks()
        self.runs: Runs = earlier.runs if earlier else Runs()
        if earlier:
            earlier.close()

    def close(self) -> None:
        """Leave everything to a later choice."""
        self.is_closed = True
        self.networks.close()
        self.unobserve_all()
        self.runs.unobserve_all()

    @property
    def listed_targets(self) -> tuple[str, ...]:
        """The lines of ``targets``."""
        return tuple(line.strip() for line in self.targets.splitlines() if line.strip())

    def request(self, **changes: Any) -> BatchRequest:
        """Return what is chosen now; where nothing is named, the demo."""
        if not self.has_panel:
            return self._first
        values: dict[str, Any] = {name: getattr(self, name) for name in self.trait_names()}
        texts = ("video_range", "library", "gpus", "cluster")
        values |= {name: values[name].strip() for name in texts}
        values |= {"targets": self.listed_targets, **changes}
        demo = self.demo
        if demo and not values["sources"] and not values["targets"]:
            values |= {"sources": [demo.source], "targets": demo.targets}
            values["models_dir"] = values["models_dir"] or demo.models
        return self._first.replaced(**values)

    def finding(self) -> tuple[Settings, Path | None]:
        """Return settings and models to find faces with; the usual ones while those chosen cannot be used."""
        models = self.request(overrides={}).models_dir
        try:
            return self.request().settings, models
        except ColabHelpersError:
            return Settings(), models


def _shown(value: Any) -> Any:
    """Return a value of the form as its widget holds it."""
    if isinstance(value, dict):  # JSON is YAML, too
        return "\n".join(f"{name}: {json.dumps(each, default=str)}" for name, each in value.items())
    if isinstance(value, Path):
        return str(value)
    return "" if value is None else value
