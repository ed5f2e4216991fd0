"""Amounts of training, and parallel drawing of samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import TypeVar

import cv2

from tests.people.textures import set_cache_size

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Plan:
    """Numbers of samples and optimiser steps."""

    small: int = 2100  # composites of 256 pixels
    large: int = 400  # composites of 448 pixels
    empty: int = 1200  # backgrounds without people
    crops: int = 5000  # bodies for the aligned crops, two poses and three faces each
    proposals: int = 2200  # optimiser steps for the detector's proposal network
    refiner: int = 4000  # the same for its refiner
    recogniser: int = 4500  # the same for the recogniser
    attributes: int = 2500  # the same for age and presentation
    swapper: int = 12000  # the same for the swapper
    masks: int = 1500  # people for the masks, two poses each, covered in three ways
    occluder: int = 2600  # optimiser steps for the occluder
    parser: int = 1200  # the same for the parser

    def scaled(self, factor: float) -> Plan:
        """Return a smaller or larger plan."""
        return Plan(**{name: max(round(factor * n), 8) for name, n in asdict(self).items()})


def _init_worker(textures: int) -> None:
    cv2.setNumThreads(1)
    set_cache_size(textures)


def draw_parallel(draw: Callable[[int], Sample], seeds: range, textures: int = 96) -> list[Sample]:
    """Draw samples in parallel on every core."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=_init_worker, initargs=(textures,)) as pool:
        return list(pool.map(draw, seeds, chunksize=8))
