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


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPaths:
    steps: list[tuple[int, int]] = []
    paths = make_demo(
        tmp_path_factory.mktemp("demo"), seed=3, seconds=1.7, size=SIZE, fps=RATE, people=1, clips=1,
        workers=1, on_progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)
    return paths


def _video(path: Path) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    with av.open(str(path)) as box:
        frames = list(box.decode(video=0))
        return [np.asarray(f.to_ndarray(format="bgr24")) for f in frames], [
            float(f.time or 0) for f in frames
        ]


def _scene() -> Scene:
    return Scene(3000, SIZE, RATE, 1.7, 1)


def test_writes_everything(demo: DemoPaths) -> None:
    root = demo.directory
    assert {p.stem for p in demo.sources} == set(IDENTITIES)
    swaps = sorted(path.name for path in (root / "truth").glob("*.mkv"))
    assert swaps == [f"clip1.swap-{who}.mkv" for who in sorted(IDENTITIES)]
    models = {str(p.relative_to(root / "models")) for p in (root / "models").rglob("*.onnx")}
    assert models == {
        "buffalo_l/det_10g.onnx",
        "buffalo_l/w600k_r50.onnx",
        "buffalo_l/genderage.onnx",
        "inswapper_128.onnx",
        "GFPGANv1.4.onnx",
    }
    assert all(p.is_file() for p in (*demo.sources, *demo.targets, *demo.truths))


def test_target_is_the_scene(demo: DemoPaths) -> None:
    images, times = _video(demo.targets[0])
    scene = _scene()
    assert len(images) == scene.frames == 25
    assert times == pytest.approx([i / float(RATE) for i in range(25)], abs=1e-6)
    for i in (0, 12, 24):
        error = images[i].astype(float) - scene.render(i)[0]
        assert np.abs(error.mean((0, 1))).max() < 3.5  # colours survive: matrix and range are tagged
        assert 10 * np.log10(255**2 / (error**2).mean()) > 29  # chroma is subsampled, stripes suffer


def test_target_says_how_it_is_coded(demo: DemoPaths) -> None:
    with av.open(str(demo.targets[0])) as box:
        video, audio = box.streams.video[0], box.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.average_rate == RATE
        assert int(video.codec_context.colorspace) == 1
        assert int(video.codec_context.color_range) == 1
        assert video.duration is not None
        assert video.time_base is not None
        assert audio.duration is not None
        assert audio.time_base is not None
        lengths = float(video.duration * video.time_base), float(audio.duration * audio.time_base)
        assert abs(lengths[0] - lengths[1]) < 0.05


def test_truth_file_equals_the_scene(demo: DemoPaths) -> None:
    truth = json.loads(demo.truths[0].read_text())
    assert truth["fps"] == "15000/1001"
    assert truth["size"] == list(SIZE)
    scene = _scene()
    assert [f["i"] for f in truth["frames"]] == list(range(scene.frames))
    for i in (0, 15):
        assert truth["frames"][i]["faces"] == [face.as_json() for face in scene.render(i)[1]]
    face = truth["frames"][0]["faces"][0]
    assert set(face) == {"who", "box", "kps", "visible", "roll"}
    assert np.shape(face["kps"]) == (5, 2)
    assert len(face["box"]) == 4


@pytest.mark.parametrize("who", ["alma", "hanna"])
def test_true_swap_is_lossless(demo: DemoPaths, who: str) -> None:
    images, _ = _video(demo.directory / "truth" / f"clip1.swap-{who}.mkv")
    scene = _scene()
    assert len(images) == scene.frames
    for i in (0, 23):
        assert np.array_equal(images[i], scene.render(i, swap_to=who)[0])


def test_clicks_coincide_with_flashes(demo: DemoPaths) -> None:
    images, times = _video(demo.targets[0])
    x0, y0, x1, y1 = _scene().flash_box()
    bright = np.array([image[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].mean() for image in images]) > 235
    flashes = [times[i] for i in range(1, len(images)) if bright[i] and not bright[i - 1]]
    with av.open(str(demo.targets[0])) as box:
        frames = list(box.decode(audio=0))
        start, rate = float(frames[0].time or 0), frames[0].sample_rate
        sound = np.concatenate([f.to_ndarray()[0] for f in frames])
    loud = np.flatnonzero(np.abs(sound) > 0.3)
    onsets = start + loud[np.insert(np.diff(loud) > rate // 4, 0, True)] / rate
    assert len(flashes) == len(onsets) == 2
    assert np.abs(onsets - flashes).max() <= 0.5 / float(RATE)


def test_clips_differ_and_processes_give_the_same_files(tmp_path: Path) -> None:
    options = {"seed": 1, "seconds": 0.2, "size": (96, 64), "people": 1, "clips": 2}
    one = make_demo(tmp_path / "one", workers=1, **options)  # type: ignore[arg-type]
    two = make_demo(tmp_path / "two", workers=2, **options)  # type: ignore[arg-type]
    # The lossless files tell whether the pictures are the same; x264's bits vary with the machine's load.
    for a, b in zip(*(sorted((d.directory / "truth").iterdir()) for d in (one, two)), strict=True):
        if a.suffix == ".mkv":
            assert all(np.array_equal(x, y) for x, y in zip(_video(a)[0], _video(b)[0], strict=True))
        else:
            assert a.read_text() == b.read_text()
    for a, b in zip(one.targets, two.targets, strict=True):
        for x, y in zip(_video(a)[0], _video(b)[0], strict=True):
            assert np.abs(x.astype(int) - y).mean() < 2
    assert not np.array_equal(_video(one.targets[0])[0][0], _video(one.targets[1])[0][0])


def test_unwritable_folder_and_bad_values_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory"):
        make_demo(tmp_path / "file" / "demo", seconds=0.2, clips=1, workers=1)
    with pytest.raises(ValueError, match="people"):
        make_demo(tmp_path / "demo", people=40)
    assert not (tmp_path / "demo").exists()


def test_the_true_swaps_can_be_left_out(tmp_path: Path) -> None:
    make_demo(tmp_path, seconds=0.2, size=(160, 90), clips=1, true_swaps=False, workers=1)
    assert [path.name for path in (tmp_path / "truth").iterdir()] == ["clip1.json"]


def test_the_true_swaps_of_some_alone(tmp_path: Path) -> None:
    common = {"seconds": 0.2, "size": (160, 90), "clips": 1, "workers": 1}
    make_demo(tmp_path / "some", true_swaps=["dalia"], **common)  # type: ignore[arg-type]
    found = {path.name for path in (tmp_path / "some" / "truth").iterdir()}
    assert found == {"clip1.json", "clip1.swap-dalia.mkv"}
    with pytest.raises(ValueError, match="nobody"):
        make_demo(tmp_path / "nobody", true_swaps=["nobody"], **common)  # type: ignore[arg-type]


def test_its_files_are_covered_by_the_demos_statement_of_consent(demo: DemoPaths) -> None:
    require_consent(DEMO_CONSENT, [*demo.sources, *demo.targets])
