"""What a look at a target comes to: which frames are looked at, what is refused, and what is kept of it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colab_helpers.api import swap_file
from colab_helpers.errors import ContentError, ModelError, OutputError
from colab_helpers.faces.index import FrameFaces
from colab_helpers.media.picture import BgrPicture
from colab_helpers.models.contracts import CONTENT_CONTRACTS, check_content
from colab_helpers.models.session import Runtime
from colab_helpers.settings import Settings
from colab_helpers.trust import content
from colab_helpers.trust.content import APPARENT_AGE, ContentCheck, check_pictures, classifier_input
from tests.helpers.processes import CPU
from tests.people.standins import CONTENT_FILE

MARQO, ERAX, FREEPIK = CONTENT_CONTRACTS
MAGENTA = (255, 0, 255)


def magenta(share: float, size: tuple[int, int] = (384, 384), *, grey: int = 120) -> np.ndarray:
    """A grey picture (H, W, 3) of which a share, from the left, is what the stand-in takes for content."""
    width, height = size
    image = np.full((height, width, 3), grey, np.uint8)
    image[:, : round(share * width)] = MAGENTA
    return image


class Network:
    """Answers by a list of scores, one each time it is asked; the last for ever."""

    def __init__(self, path: Path, *scores: float, kind: Any = MARQO) -> None:
        self.path, self.asked, self._scores, self._kind = path, 0, scores, kind

    def run(self, planes: np.ndarray) -> list[np.ndarray]:
        assert planes.shape == (1, 3, self._kind.size, self._kind.size)
        score = self._scores[min(self.asked, len(self._scores) - 1)]
        self.asked += 1
        if not self._kind.weights:
            return [np.full((1, 5, 7), score, np.float32)]
        outputs = np.zeros((1, len(self._kind.weights)))
        outputs[0, self._kind.weights.index(1.0)] = score
        return [outputs]


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., Any]:
    """Makes what a check asks: networks of some scores, and faces of an age."""

    def make(*scores: float, age: float | None = 40.0, vote: Sequence[Network] = ()) -> Any:
        (tmp_path / "net").write_bytes(b"weights")
        found = {MARQO.name: Network(tmp_path / "net", *scores)}
        if vote:
            found = {row.name: net for row, net in zip(CONTENT_CONTRACTS, vote, strict=True)}
        return SimpleNamespace(
            missing=None,
            content=found,
            settings=Settings(content_check="vote" if vote else "single"),
            analyser=SimpleNamespace(detect=lambda _picture: ["a face"]),
            ages=lambda _picture, faces: [age for _ in faces if age is not None],
        )

    return make


def watch(check: ContentCheck, frames: int, rate: float = 1.0, cuts: Sequence[int] = ()) -> None:
    picture = BgrPicture(magenta(0.0))
    for number in range(check.frames, frames):
        check.see(FrameFaces(number, 0, picture=picture, cut=number in cuts), 7.0 + number / rate)
    check.end()


def test_a_frame_a_second_and_the_first_of_each_shot_are_looked_at(engine: Callable[..., Any]) -> None:
    check = ContentCheck(engine(0.0), "x")
    assert check.decision is None
    watch(check, 75, rate=25.0, cuts=(2, 40, 42))  # 2 and 42 come less than 0.2 s after one was looked at
    assert check.decision.samples == 4  # 0, 25, 40, 65
    assert (check.decision.state, check.decision.hits, check.decision.reason) == ("allowed", 0, "")
    assert (check.decision.thresholds, check.decision.scores) == ({"nsfw_2": 0.25}, {"nsfw_2": 0.0})


def test_a_clock_that_goes_back_hides_nothing(engine: Callable[..., Any]) -> None:
    check, picture = ContentCheck(engine(0.0), "x"), BgrPicture(magenta(0.0))
    for number, seconds in enumerate((90.0, 90.5, 3.0, 3.5, 4.0)):
        check.see(FrameFaces(number, 0, picture=picture), seconds)
    check.end()
    assert check.decision.samples == 3


HIT, DOUBT, FINE = 0.26, 0.13, 0.12


@pytest.mark.parametrize(
    ("scores", "frames", "allowed"),
    [
        ([HIT], 1, False),
        ([math.nan], 1, False),
        ([DOUBT], 9, True),
        ([HIT, *[FINE] * 8], 9, False),  # more than 10 %
        ([HIT, *[FINE] * 9], 10, True),
        ([FINE] * 90 + [HIT] * 9 + [FINE] * 90, 189, True),
        ([FINE] * 90 + [HIT] * 10 + [FINE] * 90, 190, False),  # a scene of ten seconds, 5 % of the whole
        ([FINE] * 90 + [HIT, FINE] * 10 + [FINE] * 90, 200, False),
        ([FINE] * 90 + [HIT, FINE, FINE] * 10 + [FINE] * 180, 300, True),
    ],
)
def test_sexual_content_is_refused_by_its_share_or_by_a_scene(
    engine: Callable[..., Any], scores: list[float], frames: int, allowed: bool
) -> None:
    check = ContentCheck(engine(*scores), "film.mp4")
    if allowed:
        watch(check, frames)
        assert check.decision.state == "allowed"
        return
    first = next(number for number, score in enumerate(scores) if not score <= FINE)
    told = rf"film\.mp4: sexual content in .*nsfw_2 {scores[first]:.2f}/0\.25\).*=vote"
    with pytest.raises(ContentError, match=told):
        watch(check, frames)
    assert check.decision.state == "refused"
    assert check.decision.seconds[0] == first
    assert f"{first // 60}:{first % 60:04.1f}" in check.decision.reason


def test_a_scene_is_refused_as_soon_as_it_is_seen(engine: Callable[..., Any]) -> None:
    made = engine(HIT)
    with pytest.raises(ContentError):
        watch(ContentCheck(made, "x"), 1000)
    assert made.content[MARQO.name].asked == 10


@pytest.mark.parametrize("score", [FINE, DOUBT])
@pytest.mark.parametrize("age", [APPARENT_AGE - 1, APPARENT_AGE, None])
@pytest.mark.parametrize("put_in", [False, True])
def test_a_seeming_minor_is_refused_in_doubtful_content_alone(
    engine: Callable[..., Any], score: float, age: float | None, put_in: bool
) -> None:
    made = engine(*[FINE] * 5, score, FINE, age=None if put_in else age)
    check = ContentCheck(made, "x", [60.0, age] if put_in else [60.0, None])
    if score == DOUBT and age == APPARENT_AGE - 1:
        with pytest.raises(
            ContentError,
            match=r"seems 24 years old \(below 25\) and doubtful content: 0:05\.0 .* 0\.13/0\.125\)",
        ):
            watch(check, 100)
        assert check.frames == 6
        assert (check.decision.state, check.decision.age, check.decision.seconds) == ("refused", 24.0, (5.0,))
    else:
        watch(check, 100)
        assert check.decision.age == (None if score == FINE else 60.0 if age is None else age)


@pytest.mark.parametrize(
    ("scores", "hits"),
    [
        ((0.3, 0.1, 5.0), 0),
        ((0.3, 0.3, 5.0), 1),
        ((0.1, 0.3, 11.0), 1),
        ((0.1, 0.1, 11.0), 0),
        ((0.3, 0.3, 11.0), 1),
    ],
)
def test_two_of_three_have_to_agree(
    engine: Callable[..., Any], tmp_path: Path, scores: tuple[float, ...], hits: int
) -> None:
    nets = [
        Network(tmp_path / "net", score, *[0.0] * 99, kind=kind)
        for score, kind in zip(scores, CONTENT_CONTRACTS, strict=True)
    ]
    check = ContentCheck(engine(vote=nets), "x")
    watch(check, 20)
    assert (check.decision.hits, check.decision.doubts) == (hits, 1)
    assert list(check.decision.thresholds.values()) == [0.25, 0.2, 10.5]
    assert list(check.decision.scores.values()) == pytest.approx(scores)


def test_what_was_seen_is_not_asked_again_unless_another_network_or_target_is(
    engine: Callable[..., Any], tmp_path: Path
) -> None:
    place, made = tmp_path / "faces" / "content.json", engine(FINE, HIT, FINE)

    def again(key: str = "target") -> ContentCheck:
        return ContentCheck(made, "x", state_path=place, key=key)

    net, first = made.content[MARQO.name], again()
    for number in range(5):
        first.see(FrameFaces(number, 0, picture=BgrPicture(magenta(0.0))), float(number))
    first.keep()
    second = again()
    second.begin()
    assert second.frames == 5
    watch(second, 30)
    assert (net.asked, second.decision.hits, second.decision.samples) == (30, 1, 30)
    third = again()
    third.begin()
    assert third.decision == second.decision
    assert again("other").frames == 0
    (tmp_path / "net").write_bytes(b"other weights")
    assert again().frames == 0
    place.write_text("{torn")
    assert again().frames == 0


def test_what_was_refused_is_refused_before_anything_is_done_again(
    engine: Callable[..., Any], tmp_path: Path
) -> None:
    place, made = tmp_path / "content.json", engine(HIT, FINE)
    with pytest.raises(ContentError):
        watch(ContentCheck(made, "x", state_path=place), 3)
    check = ContentCheck(made, "x", state_path=place)
    with pytest.raises(ContentError, match="1 of 3"):
        check.begin()
    assert made.content[MARQO.name].asked == 3
    assert check.decision.state == "refused"
    child = ContentCheck(engine(DOUBT), "x", state_path=tmp_path / "other.json")
    watch(child, 3)  # what is kept says nothing of who is put in
    with pytest.raises(ContentError, match="12 years"):
        ContentCheck(engine(DOUBT), "x", [12.0], state_path=tmp_path / "other.json").begin()


def test_what_was_seen_is_written_as_soon_as_its_place_is_back(
    engine: Callable[..., Any], tmp_path: Path
) -> None:
    place, waits = tmp_path / "mount" / "content.json", list[OutputError]()
    place.parent.write_text("gone")

    def patient(write: Callable[[], None]) -> None:
        try:
            write()
        except OutputError as error:
            waits.append(error)
            place.parent.unlink()
            write()

    watch(ContentCheck(engine(FINE), "x", state_path=place, attempt=patient), 3)
    assert (json.loads(place.read_text())["samples"], len(waits)) == (3, 1)


def test_what_is_kept_stays_small(engine: Callable[..., Any], tmp_path: Path) -> None:
    check = ContentCheck(engine(*[DOUBT, *[FINE] * 29] * 50), "x", state_path=tmp_path / "content.json")
    watch(check, 1500)
    check.keep()
    assert check.decision.doubts == 50
    assert len(check.decision.seconds) == 0
    assert (tmp_path / "content.json").stat().st_size < 2000
    assert len(json.loads((tmp_path / "content.json").read_text())["doubt_at"]) == 20


@pytest.mark.parametrize("contract", CONTENT_CONTRACTS, ids=lambda row: row.name)
@pytest.mark.parametrize("size", [(640, 360), (360, 640), (100, 100)])
def test_a_picture_is_shown_whole_in_the_middle_of_black(contract: Any, size: tuple[int, int]) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = (30, 90, 210)
    planes = classifier_input(BgrPicture(image), contract)
    edge, wide, high = contract.size, min(1, width / height), min(1, height / width)
    assert planes.shape == (1, 3, edge, edge)
    assert planes.dtype == np.float32
    values = planes[0] * np.array(contract.std).reshape(3, 1, 1) + np.array(contract.mean).reshape(3, 1, 1)
    shown = np.abs(255 * values - np.array([210, 90, 30]).reshape(3, 1, 1)).max(0) < 0.5
    black = np.abs(values).max(0) < 0.002
    assert (shown | black).all()
    for axis, share in ((1, high), (0, wide)):
        there = np.flatnonzero(shown.any(axis))
        assert len(there) == pytest.approx(share * edge, abs=1)
        assert there[0] == pytest.approx((edge - len(there)) / 2, abs=1)


def test_scores_are_those_of_the_contracts() -> None:
    assert MARQO.score(np.array([[3.0, 1.0]])) == 2.0
    assert FREEPIK.score(np.array([[1.0, 2.0, 5.0, 7.0]])) == 9.0
    boxes = np.zeros((1, 9, 8400), np.float32)
    boxes[0, :4] = 600.0  # where a box is, says nothing
    boxes[0, 6, 77] = 0.75
    assert ERAX.score(boxes) == 0.75


def test_the_stand_in_keeps_marqos_contract(standins: Path, constant_models: Path, tmp_path: Path) -> None:
    for folder in (standins, constant_models):
        network = Runtime("cpu").open(folder / CONTENT_FILE)
        check_content(network.session, "nsfw_2", where="x")
        with pytest.raises(ModelError, match=r"not what Freepik's does"):
            check_content(network.session, "nsfw_3", where="x")
        assert network.standin
        for share in (0.0, 0.17, 0.2, 1.0):
            score = MARQO.score(network.run(classifier_input(BgrPicture(magenta(share)), MARQO))[0])
            assert score == pytest.approx(4 * share - 0.5, abs=0.02)


def test_pictures_are_looked_at_like_frames(engine: Callable[..., Any]) -> None:
    made = engine(FINE)
    check_pictures(check := ContentCheck(made, "x"), ((n / 4, BgrPicture(magenta(0.0))) for n in range(9)))
    assert check.decision.samples == made.content[MARQO.name].asked == 3


def test_the_picture_that_is_delivered_is_the_one_looked_at(
    photo: Path, constant_models: Path, consent: str, tmp_path: Path
) -> None:
    still, *moving = (Image.fromarray(magenta(share)[..., ::-1]) for share in (1.0, *[0.0] * 30))
    still.save(tmp_path / "a.png", save_all=True, append_images=moving, default_image=True)
    given: dict[str, Any] = {"consent": consent, "settings": CPU, "models_dir": constant_models}
    for suffix, state in {".jpg": "refused", ".png": "allowed"}.items():  # the default image, and all others
        report = swap_file([photo], tmp_path / "a.png", tmp_path / f"out{suffix}", **given)
        assert report.files[0].content.state == state
        assert (tmp_path / f"out{suffix}").exists() == (state == "allowed")


def test_declared_times_hide_no_picture(engine: Callable[..., Any]) -> None:
    made = engine(FINE)
    check_pictures(check := ContentCheck(made, "x"), ((n / 100, BgrPicture(magenta(0.0))) for n in range(50)))
    assert check.decision.samples == 5
    shots = ((n / 100, BgrPicture(magenta(0.0, grey=200 * (n >= 25)))) for n in range(50))
    check_pictures(check := ContentCheck(made, "x"), shots)
    assert check.decision.samples == 6  # 25, too


def test_a_frame_counts_as_seen_once_it_was_looked_at(engine: Callable[..., Any], tmp_path: Path) -> None:
    place, made = tmp_path / "content.json", engine(FINE)
    check, asked, done = ContentCheck(made, "x", state_path=place), threading.Event(), threading.Event()
    run = made.content[MARQO.name].run

    def slow(planes: np.ndarray) -> list[np.ndarray]:
        asked.set()
        done.wait(0.2)
        return run(planes)

    made.content[MARQO.name].run = slow
    frame = FrameFaces(0, 0, picture=BgrPicture(magenta(0.0)))
    seeing = threading.Thread(target=check.see, args=(frame, 0.0))
    seeing.start()
    asked.wait()
    check.keep()
    seeing.join()
    kept = json.loads(place.read_text())
    assert (kept["frames"], kept["samples"]) == (1, 1)

    def fails(_planes: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError

    made.content[MARQO.name].run = fails
    with pytest.raises(RuntimeError):
        check.see(replace(frame, frame=1), 1.0)
    assert check.frames == 1


def test_without_its_networks_nothing_is_checked_and_nothing_done(engine: Callable[..., Any]) -> None:
    made = engine(FINE)
    made.missing = Path("/models/nsfw_2.onnx")
    with pytest.raises(ModelError, match=r"nsfw_2\.onnx: the model file is missing.*preload"):
        ContentCheck(made, "x")
    assert content.CHECK_INTERVAL == 1.0
