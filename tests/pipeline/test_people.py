"""Statistics of each person in a video, and preview frames, against ground truth."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.geometry import arcface_template, similarity_transform
from colab_helpers.faces.masks import face_mask
from colab_helpers.faces.quality import brightness, source_similarity
from colab_helpers.faces.types import Face
from colab_helpers.media.images import read_image
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.pages.pictures import portrait_of
from colab_helpers.pipeline import process_image, process_video
from colab_helpers.pipeline.indexed_frame import decide_faces, process_indexed_frame
from colab_helpers.pipeline.video_stages import frame_jobs, open_video_tracking
from tests.helpers.faces import person
from tests.media.make import Spec, make
from tests.people.actors import portrait
from tests.people.clip import write_target
from tests.people.scene import Scene
from tests.pipeline.swapping import SOURCE, Store, assert_same, interrupted, segmented


@dataclass
class UnreliableDetector:
    """Two people in every frame, one missed in a quarter of the detected frames, occluded there or not."""

    models: Engine
    is_hidden: bool
    lost: set[int] = field(default_factory=set)

    def detect(self, picture: Any, view: Any = "plain") -> list[Face]:
        (face,) = self.original_detect(picture, view)
        other = replace(face, box=face.box + 300, kps=face.kps + 300)
        number = round(picture.frame.time * 25)
        if 2 < number < 57 and random.Random(number).random() < 0.25:
            self.lost.add(number)
            return [face]
        return [face, other]

    def embed(self, picture: Any, faces: Any) -> list[Face]:
        """Embeddings by position; an occluded face is unlike its person."""
        who = [replace(face, embedding=person(int(face.box[0] > 400))) for face in faces]
        return [replace(f, embedding=-f.embedding) if f.filled and self.is_hidden else f for f in who]

    def __enter__(self) -> UnreliableDetector:
        self.patch = pytest.MonkeyPatch()
        analyser = self.models.analyser
        self.original_detect = analyser.detect
        self.patch.setattr(analyser, "detect", self.detect)
        self.patch.setattr(analyser, "embed", self.embed)
        self.patch.setattr(analyser, "search_views", lambda picture: (self.detect(picture), "plain"))
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.mark.parametrize("hidden", [False, True])
def test_person_missed_in_some_frames_is_reported(
    hidden: bool, tmp_path: Path, constant_models: Path
) -> None:
    models = segmented(constant_models, execution_threads=2, frame_processors="face_swapper")
    target = make(tmp_path / "in.mp4", Spec(size=(640, 640), frames=60))
    with UnreliableDetector(models, hidden) as detector:
        result, _ = interrupted(models, target, tmp_path / "a.mp4", [])
        lost = detector.lost
        again, _ = interrupted(models, target, tmp_path / "b.mp4", [33, 51])
    assert_same(result, again)
    assert 5 < len(lost) < 25
    reliable, unreliable = result.people
    assert (reliable.counts.seen, reliable.counts.changed, reliable.missed, reliable.lost) == (60, 60, [], 0)
    assert unreliable.counts.seen == 60
    assert result.measured.spans == []
    if not hidden:
        assert (unreliable.counts.changed, unreliable.counts.filled) == (60, len(lost))
        assert unreliable.missed == []
        assert any(f"{len(lost)} face(s) that the detector missed" in note for note in result.notes)
        return
    assert (unreliable.counts.changed, unreliable.counts.hidden) == (60 - len(lost), len(lost))
    assert {frame for start, stop in unreliable.missed for frame in range(start, stop)} == lost
    assert result.measured.filled == 0


def test_unselected_person_is_counted(tmp_path: Path, constant_models: Path) -> None:
    models = segmented(
        constant_models, many_faces=False, face_order="left-right", frame_processors="face_swapper"
    )
    target = make(tmp_path / "in.mp4", Spec(size=(640, 640), frames=60))
    with UnreliableDetector(models, is_hidden=False):
        result, _ = interrupted(models, target, tmp_path / "a.mp4", [40])
    left, right = result.people
    assert (left.counts.changed, left.missed, left.present) == (60, [], [(0, 60)])
    assert (right.counts.seen, right.counts.changed, right.counts.hidden) == (60, 0, 0)
    assert (right.present, right.missed) == ([(0, 60)], [])


def test_similarity_after_each_stage_matches_its_pixels(
    tmp_path: Path, standins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_target(target, Scene(5, (480, 270), seconds=1.2, people=1), crf=12, preset="ultrafast")
    models = segmented(standins, face_mask_types="box")
    store = Store(tmp_path / "work")
    source = models.analyser.find(portrait("alma"))[0].embedding
    assert source is not None
    similarities: list[float] = []

    def record(*args: Any) -> float:
        similarities.append(source_similarity(*args))
        return similarities[-1]

    monkeypatch.setattr("colab_helpers.pipeline.frames.source_similarity", record)
    found = process_video(models, Assignment.of(source), target, output, store=store).people[0]
    assert found.counts.samples == 2
    assert len(similarities) == 3 * 2  # none in the 28 frames between
    expected = np.zeros(3)
    info, tracking = probe(target), open_video_tracking(models, probe(target), store.face_index(), SOURCE)
    sampled = list(tracking.jobs(frame_jobs(read_frames(info), info)))[::25]
    finished = list(read_frames(probe(output)))[::25]
    for job, final in zip(sampled, finished, strict=True):
        (face,) = job.faces
        matrix = similarity_transform(face.kps, arcface_template(128))
        crop = models.swapper.swap([job.picture.crop(matrix, 128)], models.swapper.latent(source)[None])[0]
        small = cv2.warpAffine(crop, np.float64([[1, 0, -8], [0, 1, 0]]), (112, 112))
        blob = cv2.dnn.blobFromImage(small, 1 / 127.5, mean=(127.5, 127.5, 127.5), swapRB=True)
        (feature,) = models.analyser.networks[1].run(blob)[0]
        job.picture.paste(crop, matrix, face_mask(128), box=face.box)
        pasted = models.analyser.embed(job.picture, [face])[0].embedding
        encoded = models.analyser.embed(VideoPicture(final.video), [face])[0].embedding
        expected += [feature @ source / np.linalg.norm(feature), pasted @ source, encoded @ source]
    counts = found.counts
    assert [counts.swap, counts.mask, counts.final] == pytest.approx(list(expected), abs=0.001)
    assert len({round(value, 3) for value in expected}) == 3
    best = counts.portrait
    assert best is not None
    own, changed = (read_image(portrait_of(file, best.seconds, best.box)) for file in (target, output))
    saved = cv2.resize(read_image(best.url), own.shape[1::-1]).astype(int)
    middle = (slice(24, 48), slice(24, 48))
    difference, difference_changed = (np.abs((saved - one)[middle]).mean() for one in (own, changed))
    assert difference < 7 < difference_changed


def test_flicker_matches_result_and_target_files(tmp_path: Path, inverting_models: Path) -> None:
    target, output = make(tmp_path / "in.mp4", Spec(size=(320, 180), frames=50)), tmp_path / "out.mp4"
    models = segmented(inverting_models, frame_processors="face_swapper")
    (found,) = process_video(models, SOURCE, target, output).people
    levels = []
    for path in (target, output):
        pictures = [VideoPicture(frame.video) for frame in read_frames(probe(path))]
        (face,) = models.analyser.detect(pictures[0])
        levels.append([brightness(picture, face, 0).level for picture in pictures])
    steps = np.diff(np.array(levels), axis=1)
    steps[:, 24] = 0  # segments are not compared with each other
    assert found.counts.pairs == 48
    assert found.counts.own == pytest.approx(np.square(steps[0]).sum(), rel=0.01)
    assert found.counts.flicker == pytest.approx(np.square(steps[1] - steps[0]).sum(), rel=0.01)
    assert found.counts.flicker > 1.1 * found.counts.own > 100


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("crossed") / "in.mp4"
    scene = Scene(7, (320, 180), seconds=1.6, people=2, crossing=True)
    write_target(target, scene, crf=18, preset="ultrafast")
    return target


@pytest.mark.parametrize("selection", [{}, {"many_faces": False}], ids=["all", "one"])
def test_indexed_frame_equals_the_rendered_frame(
    tmp_path: Path, standins: Path, crossed: Path, selection: dict[str, Any]
) -> None:
    target, output = Path(shutil.copy(crossed, tmp_path)), tmp_path / "out.mp4"
    models = segmented(standins, frame_processors="face_swapper", **selection)
    store = Store(tmp_path / "work")
    process_video(models, SOURCE, target, output, store=store)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    info = probe(target)
    decided = decide_faces(models, info, store.face_index(), SOURCE)
    frames = {"in": list(read_frames(info)), "out": list(read_frames(probe(output)))}
    differing = 0
    for number in (39, 0, 26, 25, 8):
        unchanged, changed, faces = process_indexed_frame(models, info, number, decided)
        for name, image in (("in", unchanged), ("out", changed)):
            np.testing.assert_array_equal(image, frames[name][number].video.to_ndarray(format="bgr24"))
        assert faces == (1 if "many_faces" in selection else 2)
        without_index = process_image(models, SOURCE, unchanged, single=False)[0]
        differing += not np.array_equal(without_index, changed)
    assert differing
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
