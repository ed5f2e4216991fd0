"""The demo shipped with the product."""

from __future__ import annotations

import zipfile
from pathlib import Path

import av
import pytest

from colab_helpers import demo as demo_package
from colab_helpers.demo import MODELS, copy_demo
from colab_helpers.errors import OutputError
from colab_helpers.trust.consent import DEMO_CONSENT, require_consent
from tests.people.ship import CLIPS, SIZE
from tests.people.standins import build_standins

FILES = Path(demo_package.__file__).with_name("files")


def test_demo_is_small_and_its_networks_match_the_weights() -> None:
    assert sum(path.stat().st_size for path in FILES.rglob("*")) < 5_000_000
    with zipfile.ZipFile(FILES / MODELS) as pack:
        found = {name: pack.read(name) for name in pack.namelist()}
    assert found == {
        name: model.SerializeToString(deterministic=True) for name, model in build_standins().items()
    }


def test_demo_clips_match_their_scenes() -> None:
    for name, scene in CLIPS.items():
        with av.open(str(FILES / "targets" / f"{name}.mp4")) as container:
            frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
        assert len(frames) == scene.frames
        for index in (0, 50):
            assert frames[index].shape == (SIZE[1], SIZE[0], 3)
            assert abs(frames[index].astype(int) - scene.render(index)[0]).mean() < 4


def test_demo_copy_is_complete_covered_by_consent_and_made_once(tmp_path: Path) -> None:
    demo = copy_demo(tmp_path / "demo")
    require_consent(DEMO_CONSENT, [demo.source, *demo.targets])
    assert [path.stem for path in demo.targets] == sorted(CLIPS)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.is_file()}
    assert {path for path in made if path.is_relative_to(demo.models)} == {
        demo.models / name for name in build_standins()
    }
    assert copy_demo(tmp_path / "demo") == demo
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_demo_copy_does_not_replace_existing_files(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    mine = tmp_path / "source" / "hanna.jpg"
    mine.write_bytes(b"mine")
    with pytest.raises(OutputError, match="a different file has the name of a demo file"):
        copy_demo(tmp_path)
    assert mine.read_bytes() == b"mine"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        copy_demo(tmp_path / "file" / "demo")
