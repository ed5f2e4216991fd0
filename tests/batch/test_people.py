"""All people of a batch are found first, listed in the user's map, and treated as it says."""

from __future__ import annotations

import filecmp
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from colab_helpers.api import run_batch
from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME, PEOPLE_RECORD_NAME, KnownPeople
from colab_helpers.batch.people_map import MAP_NAME, PeopleMap, summarize_people
from colab_helpers.batch.report import BatchReport
from colab_helpers.batch.resume import KEPT
from colab_helpers.batch.triage import TRIAGE_NAME, Triage
from colab_helpers.errors import UsageError
from colab_helpers.faces.analyser import FaceAnalyser
from colab_helpers.pipeline import report_progress
from colab_helpers.progress import FINDING, Progress
from tests.batch.films import CASTS, NAMES, SETTINGS, changed, film_of
from tests.conftest import CONSENT
from tests.helpers.processes import (
    BatchCommand,
    contents,
    repeated_segments,
    run_at_worker_start,
    wait_for_exit,
)
from tests.people.actors import portrait

pytestmark = pytest.mark.xdist_group("right_person")

RECORD = Path(PEOPLE_FOLDER_NAME) / PEOPLE_RECORD_NAME


@pytest.fixture(scope="session")
def faces(standins: Path) -> dict[str, np.ndarray]:
    """Embeddings of all people."""
    analyser = FaceAnalyser(SETTINGS, models_dir=standins)
    return {who: analyser.find(portrait(who))[0].embedding for who in ("alma", "bruno", "chidi")}


def groups_of(known: KnownPeople, faces: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The group of each person, by ground truth."""
    found = {}
    for who, look in faces.items():
        found[who] = max(known.groups, key=lambda name: float(known.groups[name].look @ look))
    assert len(set(found.values())) == len(faces)
    return found


def edit(out: Path, *changes: tuple[str, str]) -> None:
    text = (out / MAP_NAME).read_text()
    for old, new in changes:
        assert text.count(old) == 1, (old, text)
        text = text.replace(old, new)
    (out / MAP_NAME).write_text(text)


def kept(report: BatchReport) -> list[bool]:
    return [KEPT in file.fallbacks for file in report.files]


def changes(films: Path, out: Path) -> list[set[str]]:
    return [changed(films, out, name) for name in CASTS]


def test_edited_map_redoes_only_the_affected_files(run, films, faces, detected_frames, tmp_path) -> None:
    out, files = tmp_path / "out", (*NAMES, "still.png")
    assert run(*files, people="find", target_person=[films / "alma.jpg"]).ok
    assert detected_frames
    known, people_map = KnownPeople.load(out), PeopleMap.load(out)
    who = groups_of(known, faces)
    assert {name: person.source for name, person in people_map.people.items()} == {
        name: ("photos",) if name == who["alma"] else ("leave",) for name in known.groups
    }
    assert changes(films, out) == [{"alma"}, {"alma"}, set()]
    assert filecmp.cmp(films / "third.mp4", out / "third.mp4", shallow=False)
    for name, cast in CASTS.items():
        seen = {who[one] for one in cast}
        assert seen <= {row.name for row in summarize_people(known, people_map) if f"{name}.mp4" in row.files}
    record = (out / RECORD).read_bytes()
    detected_frames.clear()

    alma, bruno = (f"  {who[one]}:\n    faces: [{who[one]}]\n    source: " for one in ("alma", "bruno"))
    edit(out, (alma, alma.replace(f"  {who['alma']}:", "  Alma B.:  # hers")))
    assert kept(run(*files)) == [True] * 4
    text = (out / MAP_NAME).read_bytes()
    edit(out, (f"{bruno}leave", f"{bruno}{films / 'chidi.jpg'}"))
    report = run(*files)
    assert kept(report) == [False, True, False, False]
    assert changes(films, out) == [{"alma", "bruno"}, {"alma"}, {"bruno"}]
    people = {person.name: person.source for person in report.files[0].quality.people if person.changed}
    assert people == {"Alma B.": "", who["bruno"]: str(films / "chidi.jpg")}

    edit(
        out, (f"[{who['alma']}]", f"[{who['alma']}, {who['bruno']}]"), (f"{bruno}{films / 'chidi.jpg'}\n", "")
    )
    report = run(*files)
    assert kept(report) == [False, True, False, False]
    assert {person.name for person in report.files[0].quality.people if person.changed} == {"Alma B."}
    assert not detected_frames, "no frame of a video was searched again"
    assert (out / RECORD).read_bytes() == record
    assert b"Alma B.:  # hers" in text


def test_new_videos_join_known_people(run, films, faces, detected_frames, tmp_path, monkeypatch) -> None:
    """The settings follow the largest person of frame 8 of the first two videos."""
    monkeypatch.setattr(report_progress, "PROGRESS_INTERVAL", 0.0)
    out = tmp_path / "out"
    following = SETTINGS.with_overrides(many_faces=False, face_selector="reference", reference_frame_number=8)
    updates: list[Progress] = []
    report = run(*NAMES[:2], people="only", settings=following, on_progress=updates.append)
    assert report.ok
    assert {progress.stage for progress in updates} == {FINDING}
    assert max(progress.frame for progress in updates) == updates[-1].frames == 18
    assert [file.status for file in report.files] == ["skipped"] * 2
    assert all(" s" in file.fallbacks[0] for file in report.files)
    assert not list(out.glob("*.mp4"))
    frames = [film_of(name).render(8)[1] for name in ("first", "second")]
    visible = [[face for face in frame if face.visible > 0.5] for frame in frames]
    followed = {max(frame, key=lambda face: np.prod(face.box[2:] - face.box[:2])).who for frame in visible}
    who, people_map = groups_of(KnownPeople.load(out), faces), PeopleMap.load(out)
    assert {one for one in who if people_map.people[who[one]].source == ("photos",)} == followed
    assert people_map.default == ("leave",)

    edit(out, (f"{who['chidi']}:\n", "'Chidi, 2nd':\n"), ("default: leave\n", "default: leave  # others\n"))
    text, before = (out / MAP_NAME).read_text(), KnownPeople.load(out)
    detected_frames.clear()
    assert run(*NAMES[:2], people="only", settings=following).ok
    assert not detected_frames
    assert run("third.mp4", "still.png", people="only", work_dir=tmp_path / "work").ok
    assert not list((tmp_path / "work").rglob("*.mp4")), "local copies of the targets are removed"
    after = KnownPeople.load(out)
    assert {key: after.videos[key].tracks for key in before.videos} == {
        key: video.tracks for key, video in before.videos.items()
    }
    assert groups_of(after, faces) == who
    assert {"third.mp4", "still.png"} <= {after.videos[key].target for key, _ in after.tracks()[who["bruno"]]}
    assert after.groups.keys() == before.groups.keys()
    assert (out / MAP_NAME).read_text() == text, "there are no new people"
    triage = Triage.model_validate_json((out / TRIAGE_NAME).read_text())
    assert "Chidi, 2nd" in triage.files[0].people
    assert triage.files[0].sight.frames == 18

    shutil.rmtree(out / ".faces")
    assert run("first.mp4", people="only").ok
    assert detected_frames, "without its index, its track numbers are unknown"
    assert groups_of(KnownPeople.load(out), faces) == who

    edit(out, (f"faces: [{who['bruno']}]", "faces: [p99]"))
    with pytest.raises(UsageError, match=r"p99"):
        run("third.mp4")


def test_first_map_follows_the_requested_gender(run, films, faces, detected_frames, tmp_path) -> None:
    out, women = tmp_path / "out", SETTINGS.with_overrides(face_selector_gender="female")
    assert run(*NAMES[:2], settings=women).ok
    assert [changed(films, out, name) for name in ("first", "second")] == [{"alma"}, {"alma"}]
    assert detected_frames
    detected_frames.clear()
    assert run(*NAMES[:2], settings=women, people="only").ok
    assert not detected_frames, "the index holds the gender of each face"
    who, people_map = groups_of(KnownPeople.load(out), faces), PeopleMap.load(out)
    assert {one for one in who if people_map.people[who[one]].source == ("photos",)} == {"alma"}
    assert people_map.default == ("leave",)


KILL = """
    import os, signal
    from pathlib import Path
    from colab_helpers.batch import find_people
    from colab_helpers.batch.known_people import KnownPeople
    from colab_helpers.batch.people_map import PeopleMap
    from colab_helpers.batch.status import StatusWriter
    from colab_helpers.batch.triage import Triage
    from colab_helpers.pipeline import report_progress
    report_progress.PROGRESS_INTERVAL = 0.0
    pending = Path(os.environ["KILLS"])
    def deadly(owner, name):
        original = getattr(owner, name)
        def call(*given, **named):
            moment, *later = pending.read_text().split() or [":"]
            which, left = moment.split(":")
            if which == owner.__name__.split(".")[-1] + "." + name:
                due = left == "1"
                pending.write_text(" ".join(later if due else [f"{which}:{int(left) - 1}", *later]))
                if due:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)
        setattr(owner, name, call)
    deadly(KnownPeople, "save"); deadly(KnownPeople, "add"); deadly(PeopleMap, "save")
    deadly(StatusWriter, "progress"); deadly(Triage, "save"); deadly(find_people, "write_image")
"""

MOMENTS = (
    ("StatusWriter.progress", 12), ("find_people.write_image", 2), ("KnownPeople.save", 1),
    ("KnownPeople.add", 1), ("PeopleMap.save", 1), ("Triage.save", 1), ("StatusWriter.progress", 8),
)  # fmt: skip
"""What is called, in order, and how often at least."""

FOUND_FIRST = SETTINGS.with_overrides(segment_seconds=1.0, output_video_encoder="libx264")


@pytest.fixture(scope="module")
def uninterrupted(films: Path, standins: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run that is not killed."""
    out = tmp_path_factory.mktemp("uninterrupted")
    targets = [films / name for name in NAMES[:2]]
    usual = {"consent": CONSENT, "models_dir": standins, "in_process": True}
    assert run_batch([films / "hanna.jpg"], targets, out, people="find", settings=FOUND_FIRST, **usual).ok
    return out


@pytest.mark.parametrize("chosen", [(0, 3, 5), (1, 2, 4, 6)])
def test_names_stay_the_same_after_kills_at_random_moments(
    chosen, uninterrupted, films, standins, consent, monkeypatch, tmp_path
) -> None:
    """Killed at random calls of the consecutive steps of finding and changing people."""
    targets = tmp_path / "targets"
    targets.mkdir()
    for name in NAMES[:2]:
        shutil.copy2(films / name, targets)
    rng = random.Random(chosen[0])
    kills = " ".join(f"{MOMENTS[n][0]}:{rng.randint(1, MOMENTS[n][1])}" for n in chosen)
    run_at_worker_start(monkeypatch, tmp_path, KILL)
    (tmp_path / "kills").write_text(kills)
    monkeypatch.setenv("KILLS", str(tmp_path / "kills"))
    options = ["--frame-processors", "face_swapper", "--output-video-quality", "4", "--people", "find"]
    shell = BatchCommand(targets, films / "hanna.jpg", standins, consent, tmp_path / "out", *options)
    try:
        wait_for_exit(shell.start())
    finally:
        shell.clean()
    assert (tmp_path / "kills").read_text() == "", "not every worker was killed"
    for name in (RECORD, Path(MAP_NAME)):
        # Quoted where YAML would read a number.
        texts = [re.sub(f"'?{KnownPeople.load(out).record}'?", "its own", (out / name).read_text())
                 for out in (shell.out, uninterrupted)]  # fmt: skip
        assert texts[0] == texts[1]
    assert contents(shell.out) == contents(uninterrupted)
    assert repeated_segments(shell.out) == {}
