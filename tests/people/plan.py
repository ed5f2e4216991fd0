"""How much is drawn and trained, and the drawing, on every core."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import TypeVar

import cv2

from tests.people.textures import keep_textures

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Plan:
    """How much is drawn and trained."""

    small: int = 2100  # composites of 256 pixels
    large: int = 400  # composites of 448 pixels
    empty: int = 1200  # backgrounds without people
    crops: int = 5000  # bodies for the aligned crops, two poses and three faces each
    first: int = 2200  # optimiser steps for the detector's first look
    second: int = 4000  # the same for its second look
    recogniser: int = 4500  # the same for the recogniser
    attributes: int = 2500  # the same for age and presentation
    swapper: int = 12000  # the same for the swapper
    masked: int = 1500  # people for the masks, two poses each, covered in three ways
    occluder: int = 2600  # optimiser steps for the occluder
    parser: int = 1200  # the same for the parser

    def scaled(self, factor: float) -> Plan:
        """Return a smaller or larger plan."""
        return Plan(**{name: max(round(factor * n), 8) for name, n in asdict(self).items()})


def _ready(textures: int) -> None:
    """Make a process ready to draw."""
    cv2.setNumThreads(1)
    keep_textures(textures)


def drawn_by_all(draw: Callable[[int], Drawn], seeds: range, textures: int = 96) -> list[Drawn]:
    """Draw samples on every core."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_ready, initargs=(textures,)) as pool:
        return list(pool.map(draw, seeds, chunksize=8))
