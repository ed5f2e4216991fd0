"""The visible label in results, reports and manifests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from colab_helpers.api import swap_image
from colab_helpers.batch import keys
from colab_helpers.batch.keys import work_key
from colab_helpers.errors import SettingsError
from colab_helpers.files import sha256_of
from colab_helpers.media import label as labels
from colab_helpers.media.images import is_writable
from colab_helpers.media.inputs import is_video
from colab_helpers.settings import Settings
from colab_helpers.trust.marking import DISCLOSURE, LABEL
from colab_helpers.trust.signing import local_anchor
from colab_helpers.trust.verify import verify
from tests.helpers.marks import actions, made, marks, media, published, read_mark
from tests.helpers.processes import CPU

ON = CPU.with_overrides(visible_label="always", visible_label_text="Not real", disclosure="")


@pytest.mark.usefixtures("pages")
def test_label_or_disclosure_is_in_result_report_and_manifest(batch, tmp_path: Path) -> None:
    targets = [made(tmp_path / f"a{suffix}") for suffix in (".mp4", ".png")]
    plain, labelled = (
        batch(*targets, settings=settings, out=tmp_path / name)
        for name, settings in (("plain", CPU), ("labelled", ON))
    )
    for before, after in zip(plain.files, labelled.files, strict=True):
        assert before.mark is not None
        assert after.mark is not None
        assert (before.mark.label, before.mark.disclosure) == ("", "test")
        assert (after.mark.label, after.mark.disclosure) == ("Not real", "")
        stores = [read_mark(Path(str(file.output)))[1] for file in (before, after)]
        parameters = [actions(store)[1]["parameters"] for store in stores]
        assert [(each.get(LABEL), each.get(DISCLOSURE)) for each in parameters] == [
            (None, "test"),
            ("Not real", None),
        ]
        assert "visible label: Not real" in " ".join(verify(Path(str(after.output)), anchors=b"").lines)
        assert "disclosed by: test" in " ".join(verify(Path(str(before.output)), anchors=b"").lines)
    packets = [media(tmp_path / name / "a.mp4") for name in ("plain", "labelled")]
    pictures, sounds = (
        [[one for one in each if (one[0] == 0) == video] for each in packets] for video in (1, 0)
    )
    assert sounds[0] == sounds[1] != []
    assert sorted(one[1] for one in pictures[0]) == sorted(one[1] for one in pictures[1])
    assert pictures[0] != pictures[1]
    page = (tmp_path / "labelled" / "report.html").read_text()
    assert page.count("made on this machine; visible label: Not real") == 2
    image = cv2.imread(str(tmp_path / "labelled" / "a.png"))
    assert image is not None
    assert (cv2.imread(str(tmp_path / "plain" / "a.png")) != image)[20:].any()


KINDS = [".mp4", ".mov", ".mkv", ".webm", ".avi"]
KINDS += [".jpg", ".png", ".webp", ".gif", ".apng", ".tif", ".bmp", ".avif", ".heic"]


def test_results_of_every_format_are_marked(batch, tmp_path: Path) -> None:
    known = [kind for kind in KINDS if is_video(f"a{kind}") or is_writable(kind)]
    assert set(KINDS) - set(known) <= {".avif", ".heic"}  # unless they can be written here
    targets = [made(tmp_path / f"{kind[1:]}{kind}") for kind in known]
    report = batch(*targets, settings=ON.with_overrides(keep_frames=True))
    assert [file.error for file in report.files] == [None] * len(known)
    for file in report.files:
        output = Path(str(file.output))
        found = verify(output, anchors=local_anchor())
        assert (found.state, found.trusted) == ("valid", True), output
        assert "compositeWithTrainedAlgorithmicMedia" in found.lines[1], output
        assert "visible label: Not real" in found.lines[1]
        assert sha256_of(Path(file.target)) in found.lines[0]
        for kept in sorted(Path(file.frames_folder).iterdir()) if file.frames_folder else []:
            verdict = verify(kept, anchors=b"")
            assert verdict.state == "unmarked"
            assert verdict.lines[-1] == "its metadata says: compositeWithTrainedAlgorithmicMedia", kept
    assert sum(bool(file.frames_folder) for file in report.files) == 6


def test_manifest_of_unknown_structure_is_reported(tmp_path: Path) -> None:
    target = made(tmp_path / "a.png")
    by = marks(target, networks={"swap": [1, {"two": 2}]})
    found = verify(published(target, tmp_path / "b.png", by=by), anchors=b"")
    assert (found.state, found.lines[0]) == ("valid", "its manifest has an unknown structure")


def test_swapped_picture_in_memory_is_labelled(photo: Path, constant_models: Path, consent: str) -> None:
    image = np.full((240, 320, 3), 120, np.uint8)
    given = {"consent": consent, "models_dir": constant_models}
    plain, labelled = (swap_image(photo, image, settings=settings, **given) for settings in (CPU, ON))
    changed = np.argwhere((plain != labelled).any(axis=2))
    assert len(changed) > 200
    assert changed[:, 0].min() > 200


def test_undrawable_label_is_refused_before_any_work(batch, tmp_path: Path) -> None:
    settings = ON.with_overrides(visible_label_text="\x07")
    with pytest.raises(SettingsError, match="cannot be drawn"):
        batch(made(tmp_path / "a.png"), settings=settings)
    assert not list((tmp_path / "out").glob("*.png"))


def test_work_key_includes_the_label_but_not_the_disclosure(monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**settings: object) -> str:
        given = {"target": "t", "sources": ["s"], "person_filter": [], "models": {}, "encoder": "auto"}
        return work_key(settings=Settings(**settings), **given)

    default = key()
    changed = {key(visible_label_text="b"), key(visible_label="start"), key(visible_label_size=3)}
    assert len({default, *changed}) == 4
    assert key(disclosure="x") == default
    assert key(visible_label_text="AI-altered faces") == default
    monkeypatch.setattr(labels, "tr", lambda text: "Rostros alterados con IA")
    assert key() != default
    assert keys.Label is labels.Label
