"""The content check: sampled frames, refusals, and the stored state."""

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
    """A grey picture (H, W, 3); the stand-in classifies its share of magenta, at the left, as content."""
    width, height = size
    image = np.full((height, width, 3), grey, np.uint8)
    image[:, : round(share * width)] = MAGENTA
    return image


class Network:
    """Returns the scores one by one, then repeats the last."""

    def __init__(self, path: Path, *scores: float, kind: Any = MARQO) -> None:
        self.path, self.calls, self._scores, self._kind = path, 0, scores, kind

    def run(self, planes: np.ndarray) -> list[np.ndarray]:
        assert planes.shape == (1, 3, self._kind.size, self._kind.size)
        score = self._scores[min(self.calls, len(self._scores) - 1)]
        self.calls += 1
        if not self._kind.weights:
            return [np.full((1, 5, 7), score, np.float32)]
        outputs = np.zeros((1, len(self._kind.weights)))
        outputs[0, self._kind.weights.index(1.0)] = score
        return [outputs]


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., Any]:
    """Make a fake engine: networks with given scores, and faces of an age."""

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


def check_frames(check: ContentCheck, frames: int, rate: float = 1.0, cuts: Sequence[int] = ()) -> None:
    picture = BgrPicture(magenta(0.0))
    for number in range(check.frames, frames):
        check.see(FrameFaces(number, 0, picture=picture, cut=number in cuts), 7.0 + number / rate)
    check.end()


def test_one_frame_per_second_and_each_new_shot_are_sampled(engine: Callable[..., Any]) -> None:
    check = ContentCheck(engine(0.0), "x")
    assert check.decision is None
    check_frames(check, 75, rate=25.0, cuts=(2, 40, 42))  # 2 and 42 are within 0.2 s of a sample
    assert check.decision.samples == 4  # 0, 25, 40, 65
    assert (check.decision.state, check.decision.hits, check.decision.reason) == ("allowed", 0, "")
    assert (check.decision.thresholds, check.decision.scores) == ({"nsfw_2": 0.25}, {"nsfw_2": 0.0})


def test_frames_are_sampled_after_timestamps_restart(engine: Callable[..., Any]) -> None:
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
        ([FINE] * 90 + [HIT] * 10 + [FINE] * 90, 190, False),  # a scene of ten seconds, 5 % of all
        ([FINE] * 90 + [HIT, FINE] * 10 + [FINE] * 90, 200, False),
        ([FINE] * 90 + [HIT, FINE, FINE] * 10 + [FINE] * 180, 300, True),
    ],
)
def test_sexual_content_is_refused_by_its_share_or_a_long_scene(
    engine: Callable[..., Any], scores: list[float], frames: int, allowed: bool
) -> None:
    check = ContentCheck(engine(*scores), "film.mp4")
    if allowed:
        check_frames(check, frames)
        assert check.decision.state == "allowed"
        return
    first = next(number for number, score in enumerate(scores) if not score <= FINE)
    message = rf"film\.mp4: sexual content in .*nsfw_2 {scores[first]:.2f}/0\.25\).*=vote"
    with pytest.raises(ContentError, match=message):
        check_frames(check, frames)
    assert check.decision.state == "refused"
    assert check.decision.seconds[0] == first
    assert f"{first // 60}:{first % 60:04.1f}" in check.decision.reason


def test_check_stops_at_the_first_refused_scene(engine: Callable[..., Any]) -> None:
    checker = engine(HIT)
    with pytest.raises(ContentError):
        check_frames(ContentCheck(checker, "x"), 1000)
    assert checker.content[MARQO.name].calls == 10


@pytest.mark.parametrize("score", [FINE, DOUBT])
@pytest.mark.parametrize("age", [APPARENT_AGE - 1, APPARENT_AGE, None])
@pytest.mark.parametrize("from_source", [False, True])
def test_apparent_minor_is_refused_only_in_doubtful_content(
    engine: Callable[..., Any], score: float, age: float | None, from_source: bool
) -> None:
    checker = engine(*[FINE] * 5, score, FINE, age=None if from_source else age)
    check = ContentCheck(checker, "x", [60.0, age] if from_source else [60.0, None])
    if score == DOUBT and age == APPARENT_AGE - 1:
        with pytest.raises(
            ContentError,
            match=r"seems 24 years old \(below 25\) and doubtful content: 0:05\.0 .* 0\.13/0\.125\)",
        ):
            check_frames(check, 100)
        assert check.frames == 6
        assert (check.decision.state, check.decision.age, check.decision.seconds) == ("refused", 24.0, (5.0,))
    else:
        check_frames(check, 100)
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
def test_vote_needs_two_of_three_networks(
    engine: Callable[..., Any], tmp_path: Path, scores: tuple[float, ...], hits: int
) -> None:
    nets = [
        Network(tmp_path / "net", score, *[0.0] * 99, kind=kind)
        for score, kind in zip(scores, CONTENT_CONTRACTS, strict=True)
    ]
    check = ContentCheck(engine(vote=nets), "x")
    check_frames(check, 20)
    assert (check.decision.hits, check.decision.doubts) == (hits, 1)
    assert list(check.decision.thresholds.values()) == [0.25, 0.2, 10.5]
    assert list(check.decision.scores.values()) == pytest.approx(scores)


def test_stored_scores_are_reused_for_the_same_network_and_target(
    engine: Callable[..., Any], tmp_path: Path
) -> None:
    path, checker = tmp_path / "faces" / "content.json", engine(FINE, HIT, FINE)

    def resumed(key: str = "target") -> ContentCheck:
        return ContentCheck(checker, "x", state_path=path, key=key)

    net, first = checker.content[MARQO.name], resumed()
    for number in range(5):
        first.see(FrameFaces(number, 0, picture=BgrPicture(magenta(0.0))), float(number))
    first.keep()
    second = resumed()
    second.begin()
    assert second.frames == 5
    check_frames(second, 30)
    assert (net.calls, second.decision.hits, second.decision.samples) == (30, 1, 30)
    third = resumed()
    third.begin()
    assert third.decision == second.decision
    assert resumed("other").frames == 0
    (tmp_path / "net").write_bytes(b"other weights")
    assert resumed().frames == 0
    path.write_text("{torn")
    assert resumed().frames == 0


def test_stored_refusal_is_repeated_without_a_check(engine: Callable[..., Any], tmp_path: Path) -> None:
    path, checker = tmp_path / "content.json", engine(HIT, FINE)
    with pytest.raises(ContentError):
        check_frames(ContentCheck(checker, "x", state_path=path), 3)
    check = ContentCheck(checker, "x", state_path=path)
    with pytest.raises(ContentError, match="1 of 3"):
        check.begin()
    assert checker.content[MARQO.name].calls == 3
    assert check.decision.state == "refused"
    stored = ContentCheck(engine(DOUBT), "x", state_path=tmp_path / "other.json")
    check_frames(stored, 3)  # the source's age is not stored
    with pytest.raises(ContentError, match="12 years"):
        ContentCheck(engine(DOUBT), "x", [12.0], state_path=tmp_path / "other.json").begin()


def test_state_is_written_once_its_folder_is_available_again(
    engine: Callable[..., Any], tmp_path: Path
) -> None:
    path, errors = tmp_path / "mount" / "content.json", list[OutputError]()
    path.parent.write_text("gone")

    def retry(write: Callable[[], None]) -> None:
        try:
            write()
        except OutputError as error:
            errors.append(error)
            path.parent.unlink()
            write()

    check_frames(ContentCheck(engine(FINE), "x", state_path=path, attempt=retry), 3)
    assert (json.loads(path.read_text())["samples"], len(errors)) == (3, 1)


def test_stored_state_stays_small(engine: Callable[..., Any], tmp_path: Path) -> None:
    check = ContentCheck(engine(*[DOUBT, *[FINE] * 29] * 50), "x", state_path=tmp_path / "content.json")
    check_frames(check, 1500)
    check.keep()
    assert check.decision.doubts == 50
    assert len(check.decision.seconds) == 0
    assert (tmp_path / "content.json").stat().st_size < 2000
    assert len(json.loads((tmp_path / "content.json").read_text())["doubt_at"]) == 20


@pytest.mark.parametrize("contract", CONTENT_CONTRACTS, ids=lambda row: row.name)
@pytest.mark.parametrize("size", [(640, 360), (360, 640), (100, 100)])
def test_classifier_input_is_centred_on_black(contract: Any, size: tuple[int, int]) -> None:
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = (30, 90, 210)
    planes = classifier_input(BgrPicture(image), contract)
    edge, wide, high = contract.size, min(1, width / height), min(1, height / width)
    assert planes.shape == (1, 3, edge, edge)
    assert planes.dtype == np.float32
    values = planes[0] * np.array(contract.std).reshape(3, 1, 1) + np.array(contract.mean).reshape(3, 1, 1)
    image_area = np.abs(255 * values - np.array([210, 90, 30]).reshape(3, 1, 1)).max(0) < 0.5
    black = np.abs(values).max(0) < 0.002
    assert (image_area | black).all()
    for axis, share in ((1, high), (0, wide)):
        rows = np.flatnonzero(image_area.any(axis))
        assert len(rows) == pytest.approx(share * edge, abs=1)
        assert rows[0] == pytest.approx((edge - len(rows)) / 2, abs=1)


def test_scores_of_each_network_kind() -> None:
    assert MARQO.score(np.array([[3.0, 1.0]])) == 2.0
    assert FREEPIK.score(np.array([[1.0, 2.0, 5.0, 7.0]])) == 9.0
    boxes = np.zeros((1, 9, 8400), np.float32)
    boxes[0, :4] = 600.0  # coordinates are ignored
    boxes[0, 6, 77] = 0.75
    assert ERAX.score(boxes) == 0.75


def test_stand_in_has_marqos_shapes(standins: Path, constant_models: Path, tmp_path: Path) -> None:
    for folder in (standins, constant_models):
        network = Runtime("cpu").open(folder / CONTENT_FILE)
        check_content(network.session, "nsfw_2", where="x")
        with pytest.raises(ModelError, match=r"unlike Freepik's network"):
            check_content(network.session, "nsfw_3", where="x")
        assert network.standin
        for share in (0.0, 0.17, 0.2, 1.0):
            score = MARQO.score(network.run(classifier_input(BgrPicture(magenta(share)), MARQO))[0])
            assert score == pytest.approx(4 * share - 0.5, abs=0.02)


def test_pictures_are_sampled_like_frames(engine: Callable[..., Any]) -> None:
    checker = engine(FINE)
    check_pictures(check := ContentCheck(checker, "x"), ((n / 4, BgrPicture(magenta(0.0))) for n in range(9)))
    assert check.decision.samples == checker.content[MARQO.name].calls == 3


def test_written_pictures_are_the_checked_ones(
    photo: Path, constant_models: Path, consent: str, tmp_path: Path
) -> None:
    still, *moving = (Image.fromarray(magenta(share)[..., ::-1]) for share in (1.0, *[0.0] * 30))
    still.save(tmp_path / "a.png", save_all=True, append_images=moving, default_image=True)
    options: dict[str, Any] = {"consent": consent, "settings": CPU, "models_dir": constant_models}
    for suffix, state in {".jpg": "refused", ".png": "allowed"}.items():  # .jpg takes the default image
        report = swap_file([photo], tmp_path / "a.png", tmp_path / f"out{suffix}", **options)
        assert report.files[0].content.state == state
        assert (tmp_path / f"out{suffix}").exists() == (state == "allowed")


def test_pictures_with_short_durations_are_sampled(engine: Callable[..., Any]) -> None:
    checker = engine(FINE)
    pictures = ((n / 100, BgrPicture(magenta(0.0))) for n in range(50))
    check_pictures(check := ContentCheck(checker, "x"), pictures)
    assert check.decision.samples == 5
    shots = ((n / 100, BgrPicture(magenta(0.0, grey=200 * (n >= 25)))) for n in range(50))
    check_pictures(check := ContentCheck(checker, "x"), shots)
    assert check.decision.samples == 6  # also 25


def test_frame_is_counted_after_its_check(engine: Callable[..., Any], tmp_path: Path) -> None:
    path, checker = tmp_path / "content.json", engine(FINE)
    check, started, done = ContentCheck(checker, "x", state_path=path), threading.Event(), threading.Event()
    run = checker.content[MARQO.name].run

    def slow(planes: np.ndarray) -> list[np.ndarray]:
        started.set()
        done.wait(0.2)
        return run(planes)

    checker.content[MARQO.name].run = slow
    frame = FrameFaces(0, 0, picture=BgrPicture(magenta(0.0)))
    thread = threading.Thread(target=check.see, args=(frame, 0.0))
    thread.start()
    started.wait()
    check.keep()
    thread.join()
    stored = json.loads(path.read_text())
    assert (stored["frames"], stored["samples"]) == (1, 1)

    def fail(_planes: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError

    checker.content[MARQO.name].run = fail
    with pytest.raises(RuntimeError):
        check.see(replace(frame, frame=1), 1.0)
    assert check.frames == 1


def test_missing_classifier_is_an_error(engine: Callable[..., Any]) -> None:
    checker = engine(FINE)
    checker.missing = Path("/models/nsfw_2.onnx")
    with pytest.raises(ModelError, match=r"nsfw_2\.onnx: the model file is missing.*preload"):
        ContentCheck(checker, "x")
    assert content.CHECK_INTERVAL == 1.0
