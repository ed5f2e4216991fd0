"""The rendered demo, where nothing else is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from colab_helpers.trust.consent import is_demo_file

DEMO_FOLDER = "demo"
"""Where in the folder for runs, or in a run's own, the demo lies."""
DEMO_SOURCE = 5
"""Which of the demo's portraits is put in, from 0: one who looks unlike the people of its first clips."""


@dataclass(frozen=True)
class Demo:
    """Photo of the person who is put in, clips, and the folder of the stand-in networks."""

    source: Path
    targets: tuple[Path, ...]
    models: Path


def copy_demo(folder: Path) -> Demo:
    """Return the demo in a folder; made if it is not there or not whole.

    Raises:
        OutputError: It cannot be written.
    """
    from colab_helpers.demo.clip import make_demo
    from colab_helpers.demo.looks import IDENTITIES

    source = folder / "source" / f"{list(IDENTITIES)[DEMO_SOURCE]}.png"
    targets = tuple(sorted((folder / "targets").glob("*.mp4")))
    if not targets or not all(map(is_demo_file, (source, *targets))):
        targets = tuple(make_demo(folder, true_swaps=False).targets)
    return Demo(source, targets, copy_models(folder / "models"))


def copy_models(folder: Path) -> Path:
    """Return the folder of the demo's stand-in networks; they are made if missing."""
    from colab_helpers.demo.standins import write_standins

    write_standins(folder)
    return folder
