"""Every entry point refuses runs without consent, without the content network, or with refused content."""

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
    """Write a clip whose frames have shares of the colour that the content stand-in refuses."""
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
def folder(tmp_path: Path, constant_models: Path) -> Path:
    """A folder with a photo, models, and two refused targets: a clip and a picture."""
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((256, 256, 3), 120, np.uint8))
    shutil.copytree(constant_models, tmp_path / "models")
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "clip.mp4", [1.0] * 5)
    cv2.imwrite(str(tmp_path / "in" / "still.png"), magenta(1.0, SIZE))
    return tmp_path


EntryPoint = Callable[[Path, str], str]
"""Runs in a folder with a statement of consent; raises or returns the error text or the exit code."""


def by_swap_video(folder: Path, consent: str) -> str:
    options: dict[str, Any] = {"settings": SECONDS, "models_dir": folder / "models", "consent": consent}
    swap_video(folder / "photo.png", folder / "in" / "clip.mp4", folder / "out.mp4", **options)
    return ""


def by_swap_file(folder: Path, consent: str) -> str:
    options: dict[str, Any] = {"settings": SECONDS, "models_dir": folder / "models", "consent": consent}
    report = swap_file([folder / "photo.png"], folder / "in" / "still.png", folder / "out.png", **options)
    assert not report.ok
    return str(report.files[0].error)


def by_swap_image(folder: Path, consent: str) -> str:
    options: dict[str, Any] = {"settings": SECONDS, "models_dir": folder / "models", "consent": consent}
    swap_image(folder / "photo.png", cv2.imread(str(folder / "in" / "still.png")), **options)
    return ""


def batch(folder: Path, consent: str, **options: Any) -> BatchReport:
    defaults = {"settings": SECONDS, "models_dir": folder / "models", "consent": consent, "in_process": True}
    return run_batch([folder / "photo.png"], [folder / "in"], folder / "out", **(defaults | options))


def by_batch(folder: Path, consent: str) -> str:
    report = batch(folder, consent)
    assert [file.status for file in report.files] == ["failed", "failed"]
    assert re.search(REFUSED, str(report.files[1].error))
    return str(report.files[0].error)


def by_form(folder: Path, consent: str) -> str:
    request = BatchRequest(
        sources=[folder / "photo.png"], targets=[folder / "in" / "clip.mp4"], output_dir=folder / "out",
        models_dir=folder / "models", consent=consent, headless=True, overrides=SECONDS.model_dump(),
    )  # fmt: skip
    run = run_batch_swap(request)
    with pytest.raises(ColabHelpersError) as caught:
        show_results(run)
    return str(caught.value)


def by_preview(folder: Path, consent: str) -> str:
    request = BatchRequest(
        sources=[folder / "photo.png"], targets=[folder / "in"], models_dir=folder / "models",
        consent=consent, overrides=SECONDS.model_dump(),
    )  # fmt: skip
    PreviewNetworks().preview(request, folder / "out", folder / "in" / "clip.mp4", 2)
    return ""


def shell(verb: str, target: str, out: str) -> EntryPoint:
    def run(folder: Path, consent: str) -> str:
        settings = ["--visible-label", "off", "--disclosure", "test", "--output-video-encoder", "libx264"]
        code = main(
            [*verb.split(), "-s", str(folder / "photo.png"), "-t", str(folder / "in" / target),
             "-o", str(folder / out), "--models-dir", str(folder / "models"), "--consent", consent,
             "--execution-provider", "cpu", *settings]
        )  # fmt: skip
        return f"code {code}"

    return run


ENTRY_POINTS: dict[str, EntryPoint] = {
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


def files_in(folder: Path) -> set[str]:
    """Files of a folder except run records and face indexes."""
    records = {"report.json", "report.html", "status.json", "journal.jsonl", "samples.jsonl", "job.json",
               "STOP", "about.json", "content.json", "worker.log"}  # fmt: skip
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name not in records and path.suffix not in (".npz", ".lock")
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ENTRY_POINTS)
def test_every_entry_point_refuses_without_leaving_files(
    folder: Path, way: str, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, message, code = CASES[case]
    if case == "no network":
        (folder / "models" / CONTENT_FILE).unlink()
    before = files_in(folder)
    raised: ColabHelpersError | None = None
    try:
        text = ENTRY_POINTS[way](folder, "" if case == "no consent" else CONSENT)
    except ColabHelpersError as error:
        raised, text = error, str(error)
    assert raised is None or type(raised) is kind
    if raised is None and way in ("swap", "batch", "roop"):
        assert text == f"code {code}"
        printed = capsys.readouterr()
        text = " ".join((printed.err + printed.out).split())
    assert re.search(message, text), text
    assert files_in(folder) == before
    if case != "refused content":
        assert not (folder / "out").exists() or not list((folder / "out").rglob("*.npz"))


def test_notebook_refusal_has_exit_code_and_spanish_text(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    values = {"sources": folder / "photo.png", "targets": folder / "in", "models_dir": folder / "models"}
    words = [f"{name}={value}" for name, value in values.items()]
    words += [f"consent={CONSENT}", f"output_dir={folder / 'out'}", f"overrides={json.dumps(UNLABELLED)}"]
    before = files_in(folder)
    assert headless.main([str(NOTEBOOK), str(folder / "out" / "done.ipynb"), *words]) == headless.EXIT_FAILED
    assert files_in(folder) - before == {"out/done.ipynb"}
    report = json.loads((folder / "out" / "report.json").read_text())
    assert [file["content"]["state"] for file in report["files"]] == ["refused", "refused"]
    assert all("contenido sexual en 1 de 1" in file["error"] for file in report["files"])
    assert json.loads((folder / "out" / "status.json").read_text())["picture"] is None


def test_allowed_file_is_done_and_check_is_documented(folder: Path) -> None:
    make(folder / "in" / "fine.mp4", Spec(frames=30, size=SIZE, rate=RATE))
    report, engine = batch(folder, CONSENT), Engine.open(SECONDS, models_dir=folder / "models")
    states = {Path(file.target).name: file for file in report.files}
    assert {name: file.status for name, file in states.items()} == {
        "clip.mp4": "failed", "fine.mp4": "done", "still.png": "failed",
    }  # fmt: skip
    check = states["fine.mp4"].content
    assert (check.state, check.samples, check.hits, list(check.networks)) == (
        "allowed", 3, 0, ["nsfw_2", "buffalo_l/genderage"],
    )  # fmt: skip
    _, store = read_mark(folder / "out" / "fine.mp4")
    listed = store["manifests"][store["active_manifest"]]["assertions"]
    assertions = {one["label"]: one["data"] for one in listed}
    assert assertions["colab_helpers.consent"] == {
        "statement": CONSENT, "sources": [sha256_of(folder / "photo.png")],
    }  # fmt: skip
    assert assertions["colab_helpers.content"] == check.model_dump(mode="json", exclude_defaults=True)
    with pytest.raises(RuntimeError, match="checked and allowed"):
        marks(folder / "in" / "fine.mp4", content=ContentCheck(engine, "x")).seal(
            folder / "photo.png", folder / "other.png", ["swap"]
        )
    page = report_html(report, [])
    assert "nsfw_2 checked 3 frame(s) and found nothing to refuse" in page
    assert "refused: sexual content in 1 of 1 checked frames" in page
    assert {"nsfw_2", "genderage"} <= {model.name for model in report.models}


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Timestamps of the frames checked from now on."""
    seen: list[float] = []
    original = ContentCheck._classify

    def record(self: ContentCheck, picture: object, seconds: float) -> None:
        seen.append(seconds)
        original(self, picture, seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(ContentCheck, "_classify", record)
    return seen


def test_resumed_run_checks_each_frame_once(folder: Path, checked: list[float]) -> None:
    shutil.rmtree(folder / "in")
    (folder / "in").mkdir()
    film(folder / "in" / "clip.mp4", [0.0] * 65, cut=35)
    whole = batch(folder, CONSENT, report_path=folder / "whole.json").files[0].content
    seconds, out = list(checked), folder / "out"
    assert seconds == [0.0, 1.0, 2.0, 3.0, 3.5, 4.5, 5.5]  # one more at the cut
    shutil.rmtree(out)
    checked.clear()
    assert batch(folder, CONSENT, on_progress=stop_at(25)).stopped
    before = list(checked)
    checked.clear()
    again = batch(folder, CONSENT).files[0]
    assert (again.status, again.segments_kept > 0, again.content) == ("done", True, whole)
    assert 0.0 not in checked
    assert sorted({*before, *checked}) == seconds
    cv2.imwrite(str(folder / "photo.png"), np.full((200, 200, 3), 90, np.uint8))
    checked.clear()
    assert batch(folder, CONSENT).files[0].content == whole  # another source: processed again
    assert checked == []


@pytest.mark.parametrize("keep_fps", [True, False])
def test_missing_check_is_repeated_and_segments_kept(
    folder: Path, checked: list[float], keep_fps: bool
) -> None:
    settings = SECONDS.model_copy(update={"keep_fps": keep_fps})
    shutil.rmtree(folder / "in")
    (folder / "in").mkdir()
    film(folder / "in" / "clip.mp4", [0.0] * 65, cut=35)
    assert batch(folder, CONSENT, settings=settings, on_progress=stop_at(25 if keep_fps else 75)).stopped
    chunks = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.npz")}
    next((folder / "out").rglob("content.json")).unlink()
    checked.clear()
    again = batch(folder, CONSENT, settings=settings).files[0]
    assert (again.status, again.segments_kept > 0, again.content.samples) == ("done", True, 7)
    assert [round(one, 1) for one in checked] == [0.0, 1.0, 2.0, 3.0, 3.5, 4.5, 5.5]
    assert chunks
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in chunks.items())


def test_changed_network_repeats_check_but_not_result(folder: Path, checked: list[float]) -> None:
    shutil.rmtree(folder / "in")
    (folder / "in").mkdir()
    film(folder / "in" / "clip.mp4", [0.0] * 20)
    first = batch(folder, CONSENT).files[0]
    result = (folder / "out" / "clip.mp4").read_bytes()
    (folder / "out" / "clip.mp4").unlink()
    network = folder / "models" / CONTENT_FILE
    network.write_bytes(network.read_bytes() + b"\x12\x01x")  # another producer name
    checked.clear()
    again = batch(folder, CONSENT).files[0]
    assert checked == [0.0, 1.0]
    assert again.content.networks != first.content.networks
    assert len((folder / "out" / "clip.mp4").read_bytes()) == pytest.approx(len(result), abs=200)


def test_finding_people_also_checks_content(folder: Path, checked: list[float]) -> None:
    (folder / "in" / "still.png").unlink()
    film(folder / "in" / "fine.mp4", [0.0] * 20)
    report = batch(folder, CONSENT, people="find")
    assert {Path(file.target).name: file.status for file in report.files} == {
        "clip.mp4": "failed", "fine.mp4": "done",
    }  # fmt: skip
    assert sorted(checked) == [0.0, 0.0, 1.0]
    found = json.loads((folder / "out" / "people" / "people.json").read_text())
    assert [video["target"] for video in found["videos"].values()] == ["fine.mp4"]


def write_age(models: Path, years: float) -> None:
    output = np.array([[1, 0, years / 100]], np.float32)
    graph = constant_graph({"data": ["None", 3, 96, 96]}, {"fc1": output})
    write_networks(models, {"buffalo_l/genderage": graph})


def test_child_is_refused_only_in_doubtful_content(folder: Path) -> None:
    write_age(folder / "models", 12.0)
    cv2.imwrite(str(folder / "in" / "still.png"), magenta(0.22, SIZE))
    film(folder / "in" / "clip.mp4", [0.15] * 5)
    states = {Path(file.target).name: file for file in batch(folder, CONSENT).files}
    assert states["clip.mp4"].status == "done"
    assert states["still.png"].status == "failed"
    assert (
        "a face that seems 12 years old (below 25) and doubtful content: 0:00.0" in states["still.png"].error
    )
    write_age(folder / "models", 31.0)
    assert [file.status for file in batch(folder, CONSENT).files] == ["done", "done"]


HIDDEN = "default: blur\npeople:\n  Bob: {photos: [bob.png], source: leave}\n"


def test_blurring_needs_no_consent(folder: Path) -> None:
    cv2.imwrite(str(folder / "in" / "still.png"), magenta(0.0, SIZE))
    (folder / "in" / "clip.mp4").unlink()
    (folder / "out").mkdir()
    shutil.copy(folder / "photo.png", folder / "out" / "bob.png")
    (folder / "out" / "people.yaml").write_text(HIDDEN.replace("leave", "pixelate"))
    report = batch(folder, "")
    assert [file.status for file in report.files] == ["done"]
    assert (report.consent.record(), report.files[0].content.state) == ({}, "allowed")
    assert "not needed: no source face was used" in report_html(report, [])
    for source in ("photos", "bob.png"):
        (folder / "out" / "people.yaml").write_text(HIDDEN.replace("leave", source))
        with pytest.raises(ConsentError, match=NO_CONSENT):
            batch(folder, "")
    (folder / "out" / "people.yaml").write_text(HIDDEN.replace("blur", "photos"))
    with pytest.raises(ConsentError, match=NO_CONSENT):
        batch(folder, "")


def test_map_edited_to_swap_during_run_needs_consent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(folder / "in" / "still.png"), magenta(0.0, SIZE))
    (folder / "in" / "clip.mp4").unlink()
    (folder / "out").mkdir()
    shutil.copy(folder / "photo.png", folder / "out" / "bob.png")
    (folder / "out" / "people.yaml").write_text(HIDDEN)
    original = Engine.open

    def edit_and_open(*arguments: Any, **options: Any) -> Engine:
        (folder / "out" / "people.yaml").write_text(HIDDEN.replace("leave", "photos"))
        return original(*arguments, **options)

    monkeypatch.setattr(Engine, "open", edit_and_open)
    with pytest.raises(ConsentError, match=NO_CONSENT):
        batch(folder, "")
    assert not (folder / "out" / "still.png").exists()


def test_consent_must_cover_sources_of_map_and_pixels(folder: Path) -> None:
    demo, out, library = folder / "demo", folder / "out", folder / "library"
    photo, target = demo / "sources" / "a.png", demo / "targets" / "b.png"
    for path in (photo, target, library / "Jon Lee" / "1.png", out / "mine.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    files = {path.relative_to(demo).as_posix(): sha256_of(path) for path in (photo, target)}
    (demo / "demo.json").write_text(json.dumps({"files": files}))
    (folder / "consent.yaml").write_text("people:\n  Ana: self\n")
    statement, url = str(folder / "consent.yaml"), "data:image/png;base64,eA=="

    def accepted(consent: str, word: str, *sources: str) -> str:
        (out / "people.yaml").write_text(
            f"default: leave\npeople:\n  x: {{photos: [x.png], source: '{word}'}}"
        )
        request = BatchRequest(
            sources=sources, targets=[target], output_dir=out, library=library, consent=consent
        )
        return consent_for(request, [*request.photo_paths, target]).text

    assert accepted(DEMO_CONSENT, "blur") == ""
    assert accepted(DEMO_CONSENT, "../demo/sources/a.png") == accepted(DEMO_CONSENT, "photos") == DEMO_CONSENT
    for word in ("mine.png", str(out / "mine.png"), "Jon Lee", url, url * 500):
        with pytest.raises(ConsentError, match="rendered people only"):
            accepted(DEMO_CONSENT, word)
    with pytest.raises(ConsentError, match="rendered people only"):
        accepted(DEMO_CONSENT, "photos", url)
    assert accepted(statement, "mine.png") == accepted(statement, "leave")
    for word in ("Jon Lee", "../library/Jon Lee/1.png", str(library / "Jon Lee" / "1.png")):
        with pytest.raises(ConsentError, match="no ground of consent is given for Jon Lee"):
            accepted(statement, word)
    pixels = np.zeros((9, 9, 3), np.uint8)
    for pair in ((photo, pixels), (pixels, target)):
        with pytest.raises(ConsentError, match="rendered people only"):
            swap_image(*pair, consent=DEMO_CONSENT)
    with pytest.raises(ConsentError, match="rendered people only"):
        swap_video(pixels, target, folder / "x.png", consent=DEMO_CONSENT)


def test_consent_file_must_name_library_people(folder: Path) -> None:
    cv2.imwrite(str(folder / "in" / "still.png"), magenta(0.0, SIZE))
    (folder / "in" / "clip.mp4").unlink()
    (folder / "library" / "ana").mkdir(parents=True)
    shutil.copy(folder / "photo.png", folder / "library" / "ana" / "1.png")
    path = folder / "consent.yaml"
    path.write_text("people:\n  Bob: self\n")
    options: dict[str, Any] = {
        "library": folder / "library",
        "settings": SECONDS,
        "models_dir": folder / "models",
    }
    target, out = folder / "in" / "still.png", folder / "out"
    for run in (
        lambda: run_batch(["ana"], [target], out, consent=str(path), in_process=True, **options),
        lambda: swap_file(["ana"], target, folder / "one.png", consent=str(path), **options),
    ):
        path.write_text("people:\n  Bob: self\n")
        with pytest.raises(ConsentError, match="no ground of consent is given for ana"):
            run()
        assert not out.exists() or files_in(out) == set()
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
        assert report.files[0].source_sha256 == [sha256_of(folder / "photo.png")]
        page = report_html(report, [])
        assert page.count("Bob: licensed (Studio)") == 2
        assert sha256_of(folder / "photo.png") in page
        shutil.rmtree(out, ignore_errors=True)
