"""Three short films of rendered people with different casts, and a check of who was changed."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from benchmarks.main_job import images
from colab_helpers.settings import load_settings
from tests.helpers.processes import UNLABELLED
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import FaceTruth, Scene

SIZE = (480, 270)
CASTS = {"first": ("alma", "bruno"), "second": ("chidi", "alma"), "third": ("chidi", "bruno")}
SETTINGS = load_settings(
    execution_provider="cpu", frame_processors=["face_swapper"], output_video_quality=4, **UNLABELLED
)


class Film(Scene):
    """A scene after a title card of five dark frames."""

    def render(self, i: int, swap_to: str | None = None):  # type: ignore[no-untyped-def]
        image, faces = super().render(i, swap_to)
        return (image // 40, ()) if i < 5 else (image, faces)


def film_of(name: str) -> Film:
    return Film(40 + list(CASTS).index(name), SIZE, Fraction(12), 1.5, 2, cast=CASTS[name])


@cache
def truth_of(name: str) -> list[tuple[FaceTruth, ...]]:
    """The true faces of each frame."""
    film = film_of(name)
    return [tuple(film.render(i)[1]) for i in range(film.frames)]


def write_films(folder: Path) -> None:
    """Write the films, portraits of some people, and a picture of two."""
    for name in CASTS:
        write_target(folder / f"{name}.mp4", film_of(name), crf=4, preset="ultrafast")
    for who in ("alma", "chidi", "hanna"):
        cv2.imwrite(str(folder / f"{who}.jpg"), portrait(who))
    cv2.imwrite(str(folder / "still.png"), Scene(50, SIZE, people=2, cast=("alma", "bruno")).render(0)[0])


def changed(films: Path, out: Path, name: str) -> set[str]:
    """People changed clearly in any frame that shows at least two thirds of their face."""
    who = set[str]()
    videos = [images(folder / f"{name}.mp4") for folder in (films, out)]
    for old, new, faces in zip(*videos, truth_of(name), strict=True):
        for face in faces:
            left, top, right, bottom = face.box.astype(int).clip(0)
            if face.visible > 0.66:
                difference = np.abs(old[top:bottom, left:right].astype(int) - new[top:bottom, left:right])
                who |= {face.who} if float(np.mean(difference)) > 4 else set()
    return who


NAMES = [f"{name}.mp4" for name in CASTS]
