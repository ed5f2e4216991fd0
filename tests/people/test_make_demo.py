from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from colab_helpers.trust.consent import DEMO_CONSENT, require_consent
from tests.people.clip import DemoPaths, make_demo
from tests.people.looks import IDENTITIES
from tests.people.scene import Scene

RATE = Fraction(15000, 1001)
SIZE = (320, 180)
SCENE = Scene(3000, SIZE, RATE, 1.7, 1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    folder = tmp_path_factory.mktemp("demo")
    return make_demo(folder, seed=3, seconds=1.7, size=SIZE, fps=RATE, people=1, clips=1, workers=1)


def _video(path: Path) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    with av.open(str(path)) as box:
        frames = list(box.decode(video=0))
    images = [np.asarray(frame.to_ndarray(format="bgr24")) for frame in frames]
    return images, [float(frame.time or 0) for frame in frames]


def test_demo_is_complete_and_covered_by_its_consent(demo: DemoPaths) -> None:
    assert {path.stem for path in demo.sources} == set(IDENTITIES)
    truths = {path.name for path in (demo.directory / "truth").iterdir()}
    assert truths == {"clip1.json", *(f"clip1.swap-{who}.mkv" for who in IDENTITIES)}
    assert len(list(demo.models.rglob("*.onnx"))) == 8
    require_consent(DEMO_CONSENT, [*demo.sources, *demo.targets])


def test_target_is_tagged_h264_of_the_scene_with_equally_long_audio(demo: DemoPaths) -> None:
    images, times = _video(demo.targets[0])
    assert len(images) == SCENE.frames == 25
    assert times == pytest.approx([i / float(RATE) for i in range(25)], abs=1e-6)
    for i in (0, 12, 24):
        error = images[i].astype(float) - SCENE.render(i)[0]
        assert np.abs(error.mean((0, 1))).max() < 3.5  # correct colours: matrix and range are tagged
        assert 10 * np.log10(255**2 / (error**2).mean()) > 29  # stripes lose by chroma subsampling
    with av.open(str(demo.targets[0])) as box:
        video, audio = box.streams.video[0], box.streams.audio[0]
        context = video.codec_context
        assert (context.name, audio.codec_context.name, video.average_rate) == ("h264", "aac", RATE)
        assert (int(context.colorspace), int(context.color_range)) == (1, 1)
        lengths = [float(stream.duration * stream.time_base) for stream in (video, audio)]
        assert abs(lengths[0] - lengths[1]) < 0.05


def test_truth_matches_the_scene_and_true_swaps_are_lossless(demo: DemoPaths) -> None:
    truth = json.loads(demo.truths[0].read_text())
    assert (truth["fps"], truth["size"]) == ("15000/1001", list(SIZE))
    assert [frame["i"] for frame in truth["frames"]] == list(range(SCENE.frames))
    for i in (0, 15):
        assert truth["frames"][i]["faces"] == [face.as_json() for face in SCENE.render(i)[1]]
    for who in ("alma", "hanna"):
        images, _ = _video(demo.directory / "truth" / f"clip1.swap-{who}.mkv")
        assert len(images) == SCENE.frames
        for i in (0, 23):
            assert np.array_equal(images[i], SCENE.render(i, swap_to=who)[0])


def test_clicks_coincide_with_flashes(demo: DemoPaths) -> None:
    images, times = _video(demo.targets[0])
    x0, y0, x1, y1 = SCENE.flash_box()
    bright = np.array([image[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].mean() for image in images]) > 235
    flashes = [times[i] for i in range(1, len(images)) if bright[i] and not bright[i - 1]]
    with av.open(str(demo.targets[0])) as box:
        frames = list(box.decode(audio=0))
        start, rate = float(frames[0].time or 0), frames[0].sample_rate
        sound = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    loud = np.flatnonzero(np.abs(sound) > 0.3)
    onsets = start + loud[np.insert(np.diff(loud) > rate // 4, 0, True)] / rate
    assert len(flashes) == len(onsets) == 2
    assert np.abs(onsets - flashes).max() <= 0.5 / float(RATE)


def test_clips_differ_and_files_do_not_depend_on_workers(tmp_path: Path) -> None:
    options = {"seed": 1, "seconds": 0.2, "size": (96, 64), "people": 1, "true_swaps": ["dalia", "edvin"]}
    one = make_demo(tmp_path / "one", workers=1, **options)  # type: ignore[arg-type]
    two = make_demo(tmp_path / "two", workers=2, **options)  # type: ignore[arg-type]
    # Compare the lossless files: x264's output varies with the machine's load.
    files = [sorted((made.directory / "truth").iterdir()) for made in (one, two)]
    assert len(files[0]) == 6
    for a, b in zip(*files, strict=True):
        assert a.name == b.name
        if a.suffix == ".json":
            assert a.read_text() == b.read_text()
        else:
            assert all(np.array_equal(x, y) for x, y in zip(_video(a)[0], _video(b)[0], strict=True))
    for a, b in zip(one.targets, two.targets, strict=True):
        for x, y in zip(_video(a)[0], _video(b)[0], strict=True):
            assert np.abs(x.astype(int) - y).mean() < 2
    assert not np.array_equal(_video(one.targets[0])[0][0], _video(one.targets[1])[0][0])
    with pytest.raises(ValueError, match="nobody"):
        make_demo(tmp_path / "nobody", true_swaps=["nobody"])
    assert not (tmp_path / "nobody").exists()
