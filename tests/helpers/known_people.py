"""Synthetic people records of an output folder, with portraits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from colab_helpers.batch.known_people import (
    PEOPLE_FOLDER_NAME,
    FaceVisibility,
    KnownPeople,
    KnownTarget,
    KnownTrack,
)
from tests.people.actors import portrait

RATE = 25.0


def unit_embedding(*indices: int) -> np.ndarray:
    """A unit embedding with equal values at some indices; common indices make two similar."""
    vector = np.zeros(512, np.float32)
    vector[list(indices)] = 1
    return vector / np.linalg.norm(vector)


def write_people(
    folder: Path, videos: Mapping[str, Sequence[tuple[str, np.ndarray]]], *, seconds: float = 2.0
) -> KnownPeople:
    """Write the record of pass 1 for videos that show several people in turn, each with a portrait.

    Args:
        folder: The output folder.
        videos: For each target name the people shown: name of a rendered person and embedding.
        seconds: Time on screen of each person.
    """
    (folder / PEOPLE_FOLDER_NAME).mkdir(parents=True, exist_ok=True)
    known = KnownPeople(recogniser="r")
    for target, cast in videos.items():
        seen = {}
        for track, (who, embedding) in enumerate(cast):
            crop = f"{target}-{track}.png"
            cv2.imwrite(str(folder / PEOPLE_FOLDER_NAME / crop), portrait(who, size=160))
            first = round(track * (seconds + 1) * RATE)
            last = first + round(seconds * RATE) - 1
            seen[track] = KnownTrack(
                look=embedding, asked=5, first=first, last=last, found=last - first, crop=crop, worth=0.5
            )
        sight, tracks = FaceVisibility(frames=100, faces=1.0), dict.fromkeys(seen, "")
        known.found[target] = KnownTarget(
            target=target, sha256=target, rate=RATE, sight=sight, tracks=tracks, seen=seen
        )
    known.add(list(videos))
    known.save(folder)
    return known
