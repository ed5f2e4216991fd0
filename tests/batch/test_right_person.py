"""One person is changed in every video of a batch, or never is, whoever else is seen."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.main_job import images
from colab_helpers.__main__ import SUCCESS, main
from colab_helpers.batch.earlier import KEPT
from colab_helpers.batch.report import BatchReport
from colab_helpers.errors import NoFaceError
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.settings import load_settings
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import Scene

pytestmark = pytest.mark.xdist_group("right_person")

SIZE = (480, 270)
CASTS = {"first": ("alma", "bruno"), "second": ("chidi", "alma"), "third": ("chidi", "bruno")}
SETTINGS = load_settings(execution_provider="cpu", frame_processors=["face_swapper"], output_video_quality=4)


class Film(Scene):
    """A scene behind a title card of five dark frames."""

    def render(self, i: int, swap_to: str | None = None):  # type: ignore[no-untyped-def]
        image, faces = super().render(i, swap_to)
        return (image // 40, ()) if i < 5 else (image, faces)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for seed, (name, cast) in enumerate(CASTS.items()):
        film = Film(40 + seed, SIZE, Fraction(12), 1.5, 2, cast=cast)
        write_target(folder / f"{name}.mp4", film, crf=4, preset="ultrafast")
    for who in ("alma", "chidi", "hanna"):
        cv2.imwrite(str(folder / f"{who}.jpg"), portrait(who))
    cv2.imwrite(str(folder / "still.png"), Scene(50, SIZE, people=2, cast=("alma", "bruno")).render(0)[0])
    return folder


@pytest.fixture
def run(films: Path, batch: Callable[..., BatchReport], standins: Path) -> Callable[..., BatchReport]:
    def run(*names: str, **options: object) -> BatchReport:
        options = {"settings": SETTINGS, "models_dir": standins, "sources": [films / "hanna.jpg"]} | options
        return batch(*(films / name for name in names), **options)

    return run


def changed(films: Path, out: Path, name: str, seed: int) -> set[str]:
    """Who is changed clearly, in any frame in which at least two thirds of the face are seen."""
    film = Film(seed, SIZE, Fraction(12), 1.5, 2, cast=CASTS[name])
    who = set()
    shown = [images(folder / f"{name}.mp4") for folder in (films, out)]
    for i, (old, new) in enumerate(zip(*shown, strict=True)):
        for face in film.render(i)[1]:
            left, top, right, bottom = face.box.astype(int).clip(0)
            if face.visible > 0.66:
                apart = np.abs(old[top:bottom, left:right].astype(int) - new[top:bottom, left:right])
                who |= {face.who} if float(np.mean(apart)) > 4 else set()
    return who


def counted(look: Callable[..., object], looks: list[object], *given: object) -> object:
    looks.append(given[1])
    return look(*given)


NAMES = [f"{name}.mp4" for name in CASTS]


def test_the_person_on_the_photo_alone_is_changed_wherever_she_is(run, films, tmp_path, monkeypatch) -> None:
    report = run(*NAMES, "still.png", target_person=[films / "alma.jpg"])
    assert report.ok
    assert any("alma.jpg" in note for note in report.notes)
    found = [changed(films, tmp_path / "out", name, 40 + seed) for seed, name in enumerate(CASTS)]
    assert found == [{"alma"}, {"alma"}, set()]
    assert [file.faces_swapped > 5 for file in report.files] == [True, True, False, False]
    assert report.files[3].faces_swapped == 1
    assert any("no face to change was found" in note for note in report.files[2].fallbacks)

    looks: list[object] = []
    for name in ("detect", "surest"):
        look = partial(counted, getattr(FaceAnalyser, name), looks)
        monkeypatch.setattr(FaceAnalyser, name, lambda *given, look=look: look(*given))
    asked = {"target_person": [films / "alma.jpg"], "never": [films / "chidi.jpg"]}
    again = run(*NAMES, **asked)
    assert not any(KEPT in file.fallbacks for file in again.files)
    assert not [picture for picture in looks if type(picture).__name__ == "VideoPicture"]
    assert [KEPT in file.fallbacks for file in run(*NAMES, **asked).files] == [True] * 3


def test_one_file_from_a_shell_comes_out_as_in_a_batch(run, films, standins, consent, tmp_path) -> None:
    run("first.mp4", target_person=[films / "alma.jpg"])
    photos = ["-s", str(films / "hanna.jpg"), "--target-person", str(films / "alma.jpg")]
    places = ["-t", str(films / "first.mp4"), "-o", str(tmp_path / "one.mp4"), "--models-dir", str(standins)]
    chosen = [
        "--frame-processors",
        "face_swapper",
        "--output-video-quality",
        "4",
        "--execution-provider",
        "cpu",
    ]
    assert main(["swap", *photos, *places, *chosen, "--consent", consent]) == SUCCESS
    for one, other in zip(images(tmp_path / "one.mp4"), images(tmp_path / "out" / "first.mp4"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whoever_is_on_a_photo_is_never_changed(run, films, tmp_path) -> None:
    assert run(*NAMES, never=[films / "alma.jpg"]).ok
    found = [changed(films, tmp_path / "out", name, 40 + seed) for seed, name in enumerate(CASTS)]
    assert found == [{"bruno"}, {"chidi"}, {"chidi", "bruno"}]


def test_a_photo_of_nobody_is_refused_before_any_work(run, films, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((200, 200, 3), 127, np.uint8))
    for option in ("target_person", "never"):
        with pytest.raises(NoFaceError, match="wall"):
            run(*NAMES, **{option: [tmp_path / "wall.png"]})
        assert not list((tmp_path / "out").glob("*.mp4"))
