"""Seed files for `benchmarks.fuzz`, and the function that reads each kind."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colab_helpers.batch.estimate import workload_of
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import FileDone, Journal, OutputsClaimed, WorkStarted, read_journal
from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME, PEOPLE_RECORD_NAME, KnownPeople
from colab_helpers.batch.people_map import PeopleMap
from colab_helpers.batch.report import REPORT_NAME
from colab_helpers.batch.status import read_status
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.faces.index import FaceIndex
from colab_helpers.files import to_json
from colab_helpers.media.animation import ANIMATION_KINDS, Animation
from colab_helpers.media.images import is_writable, read_image, read_still
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import probe
from colab_helpers.media.reader import read_frames
from colab_helpers.models.inventory import ModelRecord, read_record
from colab_helpers.pages.report import write_page
from colab_helpers.presets import load_presets
from colab_helpers.request import MAP_NAME, BatchRequest
from colab_helpers.resources.samples import read_samples
from colab_helpers.trust.consent import parse_consent
from colab_helpers.trust.signing import load_credentials
from colab_helpers.trust.verify import verify
from colab_helpers.ui.form import fill_in, read_form
from tests.batch.test_people_map import known, tracks_of
from tests.faces.test_index import filled
from tests.helpers.marks import certificate, made, published
from tests.helpers.reports import a_full_file, a_report, a_status, sample
from tests.media.make import Sound, Spec, make

_NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: The file's name, with its suffix.
        seeds: Contents of valid files, to be mutated.
        read: Reads the file at a path.
        text: Whether mutations insert text tokens; if not, they overwrite binary integers.
    """

    name: str
    seeds: Sequence[bytes]
    read: Callable[[Path], object]
    text: bool = False


def kinds(folder: Path) -> dict[str, Kind]:
    """Return all kinds by name; their seeds are created in ``folder``."""
    every = [*_pictures(folder), *_videos(folder), *_marked(folder), *_texts(folder)]
    return {kind.name: kind for kind in every}


def _scan_target(path: Path) -> None:
    """Read a picture, or up to 20 frames of an animation."""
    animation = Animation.of(path) if path.suffix in ANIMATION_KINDS else None
    for still in islice(animation.frames(), 20) if animation else [read_still(path)]:
        assert still.bgr.shape[2] == 3


def _scan_video(path: Path) -> None:
    """Read the first frames of a video as a run does."""
    workload_of(path)
    info = probe(path)
    with read_frames(info) as reader:
        for frame in islice(reader, 8):
            VideoPicture(frame.video, rotation=info.upright_rotation).detector_view(64)


def _pictures(folder: Path) -> Iterator[Kind]:
    image = Image.fromarray(np.random.default_rng(5).integers(0, 255, (24, 32, 4), np.uint8))
    for suffix in (".png", ".jpg", ".webp", ".gif", ".tif", ".bmp", ".avif", ".heic"):
        if suffix != ".gif" and not is_writable(suffix):
            continue
        files = []
        for number, mode in enumerate(("RGB", "RGBA", "L")):
            path = folder / f"seed{number}{suffix}"
            options: dict[str, Any] = {"exif": Image.Exif().tobytes()}
            if mode == "RGBA" and suffix in ANIMATION_KINDS:
                options |= {"save_all": True, "append_images": [image.convert("RGB")] * 2}
            image.convert("RGB" if suffix in (".jpg", ".bmp") else mode).save(path, **options)
            files.append(path.read_bytes())
        yield Kind(f"picture{suffix}", files, _scan_target)
        if suffix == ".png":
            yield Kind("data.url", files, lambda path: read_image(path.read_bytes()))


def _videos(folder: Path) -> Iterator[Kind]:
    codecs = {".avi": "mpeg4", ".webm": "libvpx-vp9", ".gif": "gif", ".mpg": "mpeg2video"}
    for suffix in (".mp4", ".mkv", ".ts", *codecs):
        codec = codecs.get(suffix, "libx264")
        sounds = (Sound("mp2"),) if suffix in (".ts", ".mpg") else ()
        options = {"pix_fmt": "rgb8", "options": {}} if codec == "gif" else {}
        spec = Spec(frames=6, size=(48, 32), codec=codec, sounds=sounds, **options)  # type: ignore[arg-type]
        yield Kind(f"video{suffix}", [make(folder / f"seed{suffix}", spec).read_bytes()], _scan_video)


def _marked(folder: Path) -> Iterator[Kind]:
    for suffix in (".mp4", ".png", ".jpg"):
        path = published(made(folder / f"plain{suffix}"), folder / f"marked{suffix}")
        yield Kind(f"marked{suffix}", [path.read_bytes()], lambda path: verify(path, anchors=b""))
    certificate(folder / "seed.pem")
    key = (folder / "seed.pem").read_bytes()
    yield Kind("own.pem", [key], lambda path: load_credentials(str(path)), text=True)


def _texts(folder: Path) -> Iterator[Kind]:
    done = a_full_file(folder / "target.mp4", folder / "out.mp4")
    with Journal(folder / "journal.jsonl") as journal:
        journal.append(OutputsClaimed(key="a", names=("out.mp4",)))
        journal.append(WorkStarted(key="a", run="r", target="target.mp4", pid=1))
        journal.append(FileDone(key="a", sha256="1", report=done))
    job = Job(request=BatchRequest(output_dir=folder, targets=["a.mp4"]), names=(), tasks=())
    record = ModelRecord(sha256="1", bytes=2, mtime_ns=3, source="present", licence="MIT")
    people = (
        b"version: 1\ndefault: leave # all\npeople:\n  Ana:\n    faces: [p1]\n    source: [a.jpg, b.jpg]\n"
    )
    settings = b"{batch_size: 2, face_mask_types: [box], visible_label_text: two words, keep_fps: false}"
    readers: dict[str, tuple[str | bytes, Callable[[Path], object]]] = {
        "presets.yaml": ((_NOTEBOOKS.parent / "presets.yaml").read_bytes(), load_presets),
        MAP_NAME: (people, lambda path: PeopleMap.load(path.parent)),
        f"{PEOPLE_FOLDER_NAME}/{PEOPLE_RECORD_NAME}": (
            to_json(known(a=tracks_of("a", 1, 2))), lambda path: KnownPeople.load(path.parents[1])),
        "journal.jsonl": (
            (folder / "journal.jsonl").read_bytes(), lambda path: read_journal(_resealed(path))),
        STATUS_NAME: (a_status(done).text(), lambda path: read_status(path.parent).alive()),
        REPORT_NAME: (to_json(a_report(done)), lambda path: write_page(path.parent)),
        "job.json": (to_json(job), Job.load),
        "samples.jsonl": ("\n".join(map(to_json, (sample(0), sample(1)))), read_samples),
        "model.onnx.json": (to_json(record), lambda path: read_record(path.with_suffix(""))),
        "consent.yaml": (
            b"statement: a\npeople:\n  Ana: self\n  Bo: {ground: licensed, given_by: C, document: d}\n",
            lambda path: parse_consent(str(path))),
        "overrides": (settings, lambda path: BatchRequest(overrides=path.read_text("latin-1")).check()),
        "form.ipynb": ((_NOTEBOOKS / "batch_swap.ipynb").read_bytes(), _fill_in),
    }  # fmt: skip
    for name, (content, read) in readers.items():
        yield Kind(name, [content.encode() if isinstance(content, str) else content], read, text=True)
    filled(folder / "index", 30)
    chunks = [path.read_bytes() for path in (folder / "index").iterdir()]
    yield Kind("index/00000000.npz", chunks, lambda path: deque(FaceIndex(path.parent, "key"), maxlen=0))


def _resealed(path: Path) -> Path:
    """Correct the checksum of each journal line; lines with a wrong one would be skipped."""
    head = len('{"crc":"00000000","entry":')
    bodies = [line[head:-1] for line in path.read_bytes().split(b"\n")]
    lines = [b'{"crc":"%08x","entry":%s}' % (zlib.crc32(body), body) for body in bodies]
    path.write_bytes(b"\n".join(lines))
    return path


def _fill_in(path: Path) -> None:
    """Read a notebook's form and fill it in with its own values."""
    model, form = read_form(path)
    fill_in(model, form, form.items())
