"""Every way in, and what it refuses: without consent, with refused content, and without what looks at it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from colab_helpers.__main__ import main
from colab_helpers.api import run_batch, swap_file, swap_image, swap_video
from colab_helpers.batch.job import consent_for
from colab_helpers.batch.report import BatchReport
from colab_helpers.command_line import FAILURE, WRONG_USAGE
from colab_helpers.diagnosis.bench_networks import constant_graph, write_networks
from colab_helpers.errors import ColabHelpersError, ConsentError, ContentError, ModelError
from colab_helpers.faces.engine import Engine
from colab_helpers.files import sha256_of
from colab_helpers.pages.report import report_html
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import DEMO_CONSENT
from colab_helpers.trust.content import ContentCheck
from colab_helpers.ui import headless
from colab_helpers.ui.batch_swap import run_batch_swap, show_results
from colab_helpers.ui.preview_networks import PreviewNetworks
from tests.conftest import CONSENT
from tests.helpers.marks import marks, read_mark
from tests.helpers.processes import SECONDS, UNLABELLED, stop_at
from tests.media.make import Spec, make
from tests.people.standins import CONTENT_FILE
from tests.trust.test_content import magenta

SIZE, RATE = (160, 120), Fraction(10)
NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "es" / "batch_swap.ipynb"
NO_CONSENT = "no statement of consent was given"
NO_NETWORK = r"nsfw_2\.onnx: the model file is missing.*preload"
REFUSED = r"sexual content in 1 of 1 checked frames: 0:00\.0 .*nsfw_2 2\.\d+/0\.25\)"


def film(path: Path, shares: list[float], *, cut: int = 1000) -> Path:
    """A clip of pictures, each of a share of what the stand-in takes for content, for a tenth of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "4"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number, share in enumerate(shares):
            image = magenta(share, SIZE, grey=120 if number < cut else 30)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def place(tmp_path: Path, constant_models: Path) -> Path:
    """A folder with a photo, models, and targets that are refused: a clip, a picture, and a moving one."""
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((256, 256, 3), 120, np.uint8))
    shutil.copytree(constant_models, tmp_path / "models")
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "clip.mp4", [1.0] * 5)
    cv2.imwrite(str(tmp_path / "in" / "still.png"), magenta(1.0, SIZE))
    return tmp_path


Way = Callable[[Path, str], str]
"""Does it in a folder with a statement of consent; returns what is said, raises, or says the exit code."""


def by_swap_video(place: Path, consent: str) -> str:
    options: dict[str, Any] = {"settings": SECONDS, "models_dir": place / "models", "consent": consent}
    swap_video(place / "photo.png", place / "in" / "clip.mp4", place / "out.mp4", **options)
    return ""


def by_swap_file(place: Path, consent: str) -> str:
    options: dict[str, Any] = {"settings": SECONDS, "models_dir": place / "models", "consent": consent}
    report = swap_file([place / "photo.png"], place / "in" / "still.png", place / "out.png", **options)
    assert not report.ok
    return str(report.files[0].error)


def by_swap_image(place: Path, consent: str) -> str:
    options: dict[str, Any] = {"settings": SECONDS, "models_dir": place / "models", "consent": consent}
    swap_image(place / "photo.png", cv2.imread(str(place / "in" / "still.png")), **options)
    return ""


def batch(place: Path, consent: str, **options: Any) -> BatchReport:
    given = {"settings": SECONDS, "models_dir": place / "models", "consent": consent, "in_process": True}
    return run_batch([place / "photo.png"], [place / "in"], place / "out", **(given | options))


def by_batch(place: Path, consent: str) -> str:
    report = batch(place, consent)
    assert [file.status for file in report.files] == ["failed", "failed"]
    assert re.search(REFUSED, str(report.files[1].error))
    return str(report.files[0].error)


def by_form(place: Path, consent: str) -> str:
    request = BatchRequest(
        sources=[place / "photo.png"], targets=[place / "in" / "clip.mp4"], output_dir=place / "out",
        models_dir=place / "models", consent=consent, headless=True, overrides=SECONDS.model_dump(),
    )  # fmt: skip
    run = run_batch_swap(request)
    with pytest.raises(ColabHelpersError) as caught:
        show_results(run)
    return str(caught.value)


def by_preview(place: Path, consent: str) -> str:
    request = BatchRequest(
        sources=[place / "photo.png"], targets=[place / "in"], models_dir=place / "models", consent=consent,
        overrides=SECONDS.model_dump(),
    )  # fmt: skip
    PreviewNetworks().preview(request, place / "out", place / "in" / "clip.mp4", 2)
    return ""


def shell(verb: str, target: str, out: str) -> Way:
    def run(place: Path, consent: str) -> str:
        settings = ["--visible-label", "off", "--disclosure", "test", "--output-video-encoder", "libx264"]
        code = main(
            [*verb.split(), "-s", str(place / "photo.png"), "-t", str(place / "in" / target),
             "-o", str(place / out), "--models-dir", str(place / "models"), "--consent", consent,
             "--execution-provider", "cpu", *settings]
        )  # fmt: skip
        return f"code {code}"

    return run


WAYS: dict[str, Way] = {
    "swap_video": by_swap_video,
    "swap_file": by_swap_file,
    "swap_image": by_swap_image,
    "run_batch": by_batch,
    "the form": by_form,
    "swap": shell("swap", "still.png", "out.png"),
    "batch": shell("batch", "clip.mp4", "out"),
    "roop": shell("roop python run.py", "still.png", "out.png"),
    "the preview": by_preview,
}
CASES: dict[str, tuple[type[ColabHelpersError], str, int]] = {
    "no consent": (ConsentError, NO_CONSENT, WRONG_USAGE),
    "refused content": (ContentError, REFUSED, FAILURE),
    "no network": (ModelError, NO_NETWORK, WRONG_USAGE),
}


def left(place: Path) -> set[str]:
    """Files and folders of a place, but for records that say what happened and where faces are."""
    records = {"report.json", "report.html", "status.json", "journal.jsonl", "samples.jsonl", "job.json",
               "STOP", "about.json", "content.json", "worker.log"}  # fmt: skip
    return {
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.is_file() and path.name not in records and path.suffix not in (".npz", ".lock")
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_refuses_and_leaves_nothing(
    place: Path, way: str, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, told, code = CASES[case]
    if case == "no network":
        (place / "models" / CONTENT_FILE).unlink()
    before = left(place)
    raised: ColabHelpersError | None = None
    try:
        said = WAYS[way](place, "" if case == "no consent" else CONSENT)
    except ColabHelpersError as error:
        raised, said = error, str(error)
    assert raised is None or type(raised) is kind
    if raised is None and way in ("swap", "batch", "roop"):
        assert said == f"code {code}"
        printed = capsys.readouterr()
        said = " ".join((printed.err + printed.out).split())
    assert re.search(told, said), said
    assert left(place) == before
    if case != "refused content":
        assert not (place / "out").exists() or not list((place / "out").rglob("*.npz"))


def test_a_notebook_ends_with_its_code_and_says_it_in_spanish(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {"sources": place / "photo.png", "targets": place / "in", "models_dir": place / "models"}
    words = [f"{name}={value}" for name, value in values.items()]
    words += [f"consent={CONSENT}", f"output_dir={place / 'out'}", f"overrides={json.dumps(UNLABELLED)}"]
    before = left(place)
    assert headless.main([str(NOTEBOOK), str(place / "out" / "done.ipynb"), *words]) == headless.EXIT_FAILED
    assert left(place) - before == {"out/done.ipynb"}
    report = json.loads((place / "out" / "report.json").read_text())
    assert [file["content"]["state"] for file in report["files"]] == ["refused", "refused"]
    assert all("contenido sexual en 1 de 1" in file["error"] for file in report["files"])
    assert json.loads((place / "out" / "status.json").read_text())["picture"] is None


def test_the_others_are_done_and_page_and_manifest_say_what_was_seen(place: Path) -> None:
    make(place / "in" / "fine.mp4", Spec(frames=30, size=SIZE, rate=RATE))
    report, engine = batch(place, CONSENT), Engine.open(SECONDS, models_dir=place / "models")
    states = {Path(file.target).name: file for file in report.files}
    assert {name: file.status for name, file in states.items()} == {
        "clip.mp4": "failed", "fine.mp4": "done", "still.png": "failed",
    }  # fmt: skip
    seen = states["fine.mp4"].content
    assert (seen.state, seen.samples, seen.hits, list(seen.networks)) == (
        "allowed", 3, 0, ["nsfw_2", "buffalo_l/genderage"],
    )  # fmt: skip
    _, store = read_mark(place / "out" / "fine.mp4")
    stated = {one["label"]: one["data"] for one in store["manifests"][store["active_manifest"]]["assertions"]}
    assert stated["colab_helpers.consent"] == {
        "statement": CONSENT, "sources": [sha256_of(place / "photo.png")],
    }  # fmt: skip
    assert stated["colab_helpers.content"] == seen.model_dump(mode="json", exclude_defaults=True)
    with pytest.raises(RuntimeError, match="checked and allowed"):
        marks(place / "in" / "fine.mp4", content=ContentCheck(engine, "x")).seal(
            place / "photo.png", place / "other.png", ["swap"]
        )
    page = report_html(report, [])
    assert "nsfw_2 checked 3 frame(s) and found nothing to refuse" in page
    assert "refused: sexual content in 1 of 1 checked frames" in page
    assert {"nsfw_2", "genderage"} <= {model.name for model in report.models}


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are looked at from now on."""
    seen: list[float] = []
    look = ContentCheck._classify

    def watched(self: ContentCheck, picture: object, seconds: float) -> None:
        seen.append(seconds)
        look(self, picture, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(ContentCheck, "_classify", watched)
    return seen


def test_a_run_that_is_taken_up_asks_about_each_frame_once(place: Path, looked: list[float]) -> None:
    shutil.rmtree(place / "in")
    (place / "in").mkdir()
    film(place / "in" / "clip.mp4", [0.0] * 65, cut=35)
    whole = batch(place, CONSENT, report_path=place / "whole.json").files[0].content
    seconds, out = list(looked), place / "out"
    assert seconds == [0.0, 1.0, 2.0, 3.0, 3.5, 4.5, 5.5]  # one more where the shot changes
    shutil.rmtree(out)
    looked.clear()
    assert batch(place, CONSENT, on_progress=stop_at(25)).stopped
    before = list(looked)
    looked.clear()
    again = batch(place, CONSENT).files[0]
    assert (again.status, again.segments_kept > 0, again.content) == ("done", True, whole)
    assert 0.0 not in looked
    assert sorted({*before, *looked}) == seconds
    cv2.imwrite(str(place / "photo.png"), np.full((200, 200, 3), 90, np.uint8))
    looked.clear()
    assert batch(place, CONSENT).files[0].content == whole  # another face is put in: made anew
    assert looked == []


@pytest.mark.parametrize("keep_fps", [True, False])
def test_a_check_that_is_behind_is_brought_up_and_the_work_stays(
    place: Path, looked: list[float], keep_fps: bool
) -> None:
    settings = SECONDS.model_copy(update={"keep_fps": keep_fps})
    shutil.rmtree(place / "in")
    (place / "in").mkdir()
    film(place / "in" / "clip.mp4", [0.0] * 65, cut=35)
    assert batch(place, CONSENT, settings=settings, on_progress=stop_at(25 if keep_fps else 75)).stopped
    chunks = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*.npz")}
    next((place / "out").rglob("content.json")).unlink()
    looked.clear()
    again = batch(place, CONSENT, settings=settings).files[0]
    assert (again.status, again.segments_kept > 0, again.content.samples) == ("done", True, 7)
    assert [round(one, 1) for one in looked] == [0.0, 1.0, 2.0, 3.0, 3.5, 4.5, 5.5]
    assert chunks
    assert all(path.stat().st_mtime_ns == made for path, made in chunks.items())


def test_another_network_is_asked_anew_and_nothing_else_changes(place: Path, looked: list[float]) -> None:
    shutil.rmtree(place / "in")
    (place / "in").mkdir()
    film(place / "in" / "clip.mp4", [0.0] * 20)
    first = batch(place, CONSENT).files[0]
    result = (place / "out" / "clip.mp4").read_bytes()
    (place / "out" / "clip.mp4").unlink()
    network = place / "models" / CONTENT_FILE
    network.write_bytes(network.read_bytes() + b"\x12\x01x")  # another producer's name
    looked.clear()
    again = batch(place, CONSENT).files[0]
    assert looked == [0.0, 1.0]
    assert again.content.networks != first.content.networks
    assert len((place / "out" / "clip.mp4").read_bytes()) == pytest.approx(len(result), abs=200)


def test_who_is_found_first_is_looked_at_in_the_same_pass(place: Path, looked: list[float]) -> None:
    (place / "in" / "still.png").unlink()
    film(place / "in" / "fine.mp4", [0.0] * 20)
    report = batch(place, CONSENT, people="find")
    assert {Path(file.target).name: file.status for file in report.files} == {
        "clip.mp4": "failed", "fine.mp4": "done",
    }  # fmt: skip
    assert sorted(looked) == [0.0, 0.0, 1.0]
    found = json.loads((place / "out" / "people" / "people.json").read_text())
    assert [video["target"] for video in found["videos"].values()] == ["fine.mp4"]


def write_age(models: Path, years: float) -> None:
    told = np.array([[1, 0, years / 100]], np.float32)
    graph = constant_graph({"data": ["None", 3, 96, 96]}, {"fc1": told})
    write_networks(models, {"buffalo_l/genderage": graph})


def test_a_child_in_doubtful_content_is_refused_and_in_any_other_not(place: Path) -> None:
    write_age(place / "models", 12.0)
    cv2.imwrite(str(place / "in" / "still.png"), magenta(0.22, SIZE))
    film(place / "in" / "clip.mp4", [0.15] * 5)
    states = {Path(file.target).name: file for file in batch(place, CONSENT).files}
    assert states["clip.mp4"].status == "done"
    assert states["still.png"].status == "failed"
    assert (
        "a face that seems 12 years old (below 25) and doubtful content: 0:00.0" in states["still.png"].error
    )
    write_age(place / "models", 31.0)
    assert [file.status for file in batch(place, CONSENT).files] == ["done", "done"]


HIDDEN = "default: blur\npeople:\n  Bob: {photos: [bob.png], source: leave}\n"


def test_who_is_only_made_unrecognisable_needs_no_consent(place: Path) -> None:
    cv2.imwrite(str(place / "in" / "still.png"), magenta(0.0, SIZE))
    (place / "in" / "clip.mp4").unlink()
    (place / "out").mkdir()
    shutil.copy(place / "photo.png", place / "out" / "bob.png")
    (place / "out" / "people.yaml").write_text(HIDDEN.replace("leave", "pixelate"))
    report = batch(place, "")
    assert [file.status for file in report.files] == ["done"]
    assert (report.consent.record(), report.files[0].content.state) == ({}, "allowed")
    assert "not needed: no source face was used" in report_html(report, [])
    for source in ("photos", "bob.png"):
        (place / "out" / "people.yaml").write_text(HIDDEN.replace("leave", source))
        with pytest.raises(ConsentError, match=NO_CONSENT):
            batch(place, "")
    (place / "out" / "people.yaml").write_text(HIDDEN.replace("blur", "photos"))
    with pytest.raises(ConsentError, match=NO_CONSENT):
        batch(place, "")


def test_a_map_that_swaps_after_all_is_refused_for_want_of_consent(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(place / "in" / "still.png"), magenta(0.0, SIZE))
    (place / "in" / "clip.mp4").unlink()
    (place / "out").mkdir()
    shutil.copy(place / "photo.png", place / "out" / "bob.png")
    (place / "out" / "people.yaml").write_text(HIDDEN)
    opened = Engine.open

    def edited(*given: Any, **options: Any) -> Engine:
        (place / "out" / "people.yaml").write_text(HIDDEN.replace("leave", "photos"))
        return opened(*given, **options)

    monkeypatch.setattr(Engine, "open", edited)
    with pytest.raises(ConsentError, match=NO_CONSENT):
        batch(place, "")
    assert not (place / "out" / "still.png").exists()


def test_whom_a_map_or_pixels_put_in_is_covered_or_refused(place: Path) -> None:
    demo, out, library = place / "demo", place / "out", place / "library"
    photo, target = demo / "sources" / "a.png", demo / "targets" / "b.png"
    for path in (photo, target, library / "Jon Lee" / "1.png", out / "mine.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    files = {path.relative_to(demo).as_posix(): sha256_of(path) for path in (photo, target)}
    (demo / "demo.json").write_text(json.dumps({"files": files}))
    (place / "consent.yaml").write_text("people:\n  Ana: self\n")
    named, url = str(place / "consent.yaml"), "data:image/png;base64,eA=="

    def checked(consent: str, word: str, *sources: str) -> str:
        (out / "people.yaml").write_text(
            f"default: leave\npeople:\n  x: {{photos: [x.png], source: '{word}'}}"
        )
        request = BatchRequest(
            sources=sources, targets=[target], output_dir=out, library=library, consent=consent
        )
        return consent_for(request, [*request.photo_paths, target]).text

    assert checked(DEMO_CONSENT, "blur") == ""
    assert checked(DEMO_CONSENT, "../demo/sources/a.png") == checked(DEMO_CONSENT, "photos") == DEMO_CONSENT
    for word in ("mine.png", str(out / "mine.png"), "Jon Lee", url, url * 500):
        with pytest.raises(ConsentError, match="rendered people only"):
            checked(DEMO_CONSENT, word)
    with pytest.raises(ConsentError, match="rendered people only"):
        checked(DEMO_CONSENT, "photos", url)
    assert checked(named, "mine.png") == checked(named, "leave")
    for word in ("Jon Lee", "../library/Jon Lee/1.png", str(library / "Jon Lee" / "1.png")):
        with pytest.raises(ConsentError, match="no ground of consent is given for Jon Lee"):
            checked(named, word)
    pixels = np.zeros((9, 9, 3), np.uint8)
    for given in ((photo, pixels), (pixels, target)):
        with pytest.raises(ConsentError, match="rendered people only"):
            swap_image(*given, consent=DEMO_CONSENT)
    with pytest.raises(ConsentError, match="rendered people only"):
        swap_video(pixels, target, place / "x.png", consent=DEMO_CONSENT)


def test_a_file_of_consent_names_whom_the_library_puts_in(place: Path) -> None:
    cv2.imwrite(str(place / "in" / "still.png"), magenta(0.0, SIZE))
    (place / "in" / "clip.mp4").unlink()
    (place / "library" / "ana").mkdir(parents=True)
    shutil.copy(place / "photo.png", place / "library" / "ana" / "1.png")
    path = place / "consent.yaml"
    path.write_text("people:\n  Bob: self\n")
    given: dict[str, Any] = {
        "library": place / "library",
        "settings": SECONDS,
        "models_dir": place / "models",
    }
    target, out = place / "in" / "still.png", place / "out"
    for run in (
        lambda: run_batch(["ana"], [target], out, consent=str(path), in_process=True, **given),
        lambda: swap_file(["ana"], target, place / "one.png", consent=str(path), **given),
    ):
        path.write_text("people:\n  Bob: self\n")
        with pytest.raises(ConsentError, match="no ground of consent is given for ana"):
            run()
        assert not out.exists() or left(out) == set()
        path.write_text("people:\n  Ána: self\n  Bob: {ground: licensed, given_by: Studio}\n")
        report = run()
        assert report.ok
        assert report.consent.record() == {
            "statement": "Ána: self; Bob: licensed (Studio)",
            "people": [
                {"name": "Ána", "ground": "self"},
                {"name": "Bob", "ground": "licensed", "given_by": "Studio"},
            ],
        }
        assert report.files[0].source_sha256 == [sha256_of(place / "photo.png")]
        page = report_html(report, [])
        assert page.count("Bob: licensed (Studio)") == 2
        assert sha256_of(place / "photo.png") in page
        shutil.rmtree(out, ignore_errors=True)
