"""Damaged and hostile files: a short set of `benchmarks.fuzz`, and what it has found."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fuzz
from benchmarks.fuzz_kinds import Kind
from colab_helpers.batch.estimate import workload_of
from colab_helpers.batch.job import Job
from colab_helpers.batch.journal import Journal, OutputsClaimed, read_journal
from colab_helpers.batch.people_map import PeopleMap
from colab_helpers.batch.report import REPORT_NAME
from colab_helpers.errors import ColabHelpersError, MediaError, SettingsError, UsageError
from colab_helpers.faces.index import FaceIndex
from colab_helpers.files import to_json
from colab_helpers.media import demuxing
from colab_helpers.media.demuxing import demux_packets, open_source
from colab_helpers.media.images import read_still
from colab_helpers.media.probe import probe
from colab_helpers.pages.pictures import clip_of, frame_at
from colab_helpers.pages.report import write_page
from colab_helpers.presets import load_presets
from colab_helpers.request import MAP_NAME, BatchRequest
from colab_helpers.ui.form import read_form
from tests.faces.test_index import filled
from tests.helpers.reports import a_file, a_report
from tests.media.make import Spec, make

DEEP = "[" * 5_000


def test_a_short_set_finds_nothing() -> None:
    """In a process of its own: a child of one that runs threads may wait for ever for what they hold."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--count", "250", "--seed", "7"]
    ended = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith(", 0 found\n")


def test_what_should_be_found_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        match sum(path.read_bytes()) % 6:
            case 0:
                raise KeyError("no error of ours")
            case 1:
                import os

                os.abort()
            case 2:
                np.ones(fuzz.MEMORY // 4)
            case 3:
                (tmp_path / "elsewhere").write_text("written")
            case 4:
                while True:
                    pass
            case _:
                raise MediaError("ours", where="", remedy="")

    monkeypatch.setattr(fuzz, "kinds", lambda _: {"any": Kind("any", [bytes(range(250))], read)})
    wanted = {"KeyError", "died of signal 6", "MemoryError: ", "open", "took more than 0.3 s"}
    found = fuzz.run(30, seed=1, seconds=0.3)
    assert {word for word in wanted if any(word in find.what for find in found)} == wanted
    assert len({find.index for find in found}) == len(found) < 30


def test_presets_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "presets.yaml"
    path.write_bytes(b"version: 1 # caf\xe9")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_presets(path)
    path.write_text(DEEP)
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_presets(path)


def test_what_is_nested_too_deeply_is_refused_as_what_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(f'{{"tasks": {DEEP}')
    with pytest.raises(UsageError, match="not a job file"):
        Job.load(tmp_path / "job.json")
    for text in (
        f"people: {DEEP}",
        "people:\n" + "- " * 5_000,
        f"people: {{a: {{settings: {'9' * 5_000}}}}}",
    ):
        (tmp_path / MAP_NAME).write_text(text)
        with pytest.raises(UsageError):
            PeopleMap.load(tmp_path)
    with pytest.raises(UsageError):
        BatchRequest(overrides=DEEP).check()
    with Journal(tmp_path / "j") as journal:
        journal.append(OutputsClaimed(key="a", names=("b",)))
    body = DEEP.encode()
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"crc":"%08x","entry":%s}\n' % (zlib.crc32(body), body))
    history = read_journal(tmp_path / "j")
    assert (len(history.entries), history.damaged) == (1, 1)


def test_a_tag_in_an_unknown_encoding_keeps_nothing_from_being_estimated_or_shown(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", Spec(frames=5, metadata={"comment": "cafXX"}))
    path.write_bytes(path.read_bytes().replace(b"cafXX", b"caf\xe9 "))
    assert workload_of(path) == (5, 96 * 64)
    assert frame_at(path, 0.0).shape == (64, 96, 3)
    assert clip_of(path)


def test_a_damaged_chunk_of_a_face_index_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    filled(tmp_path, 30)
    chunk = sorted(tmp_path.iterdir())[1]
    data = chunk.read_bytes()
    for at in range(30, len(data), len(data) // 60):
        chunk.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        index = FaceIndex(tmp_path, "key")
        assert len(list(index)) == len(index)


def test_a_stream_that_begins_late_is_passed_over() -> None:
    class Container:
        def demux(self, *streams: object) -> object:
            yield "packet"
            raise IndexError("list index out of range")

    assert list(demux_packets(Container())) == ["packet"]  # type: ignore[arg-type]


def test_pictures_too_large_are_refused_by_their_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small.png"
    Image.new("L", (8, 8)).save(small)
    data = bytearray(small.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(MediaError, match="too large"):
        read_still(bytes(data))
    bomb = tmp_path / "bomb.bmp"
    Image.new("L", (8, 8)).save(bomb)
    data = bytearray(bomb.read_bytes())
    data[18:26] = struct.pack("<ii", 100_000, 100_000)
    with pytest.raises(MediaError, match="too large"):
        read_still(bytes(data))
    clip = make(tmp_path / "a.mp4", Spec(frames=2))
    monkeypatch.setattr(demuxing, "MAX_FRAME_PIXELS", 96 * 64 - 1)
    with pytest.raises(MediaError, match="too large"):
        probe(clip)


def test_forms_and_reports_of_nonsense_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "form.ipynb"
    sources = ("a = '\ud800'", "b\0", "(" * 300, "BatchRequest.of(globals())")
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [text]} for text in sources]}))
    assert read_form(path)[0] is BatchRequest
    report = json.loads(to_json(a_report(a_file("a.mp4", "b.mp4"))))
    report["files"][0] |= {"seconds": 1e999, "fps": -1e999, "bytes_out": 5}
    (tmp_path / REPORT_NAME).write_text(json.dumps(report))
    assert write_page(tmp_path).exists()
    (tmp_path / "job.json").write_text('{"request": [], "tasks": []}')
    with pytest.raises(UsageError, match="not a job file"):
        Job.load(tmp_path / "job.json")


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXTINF:1,\n{clip}\n", "ffconcat version 1.0\nfile '{clip}'\n", "concat:{clip}|{clip}",
     "[playlist]\nFile1={clip}\n", "subfile,,start,0,end,0,,:{clip}"],
)  # fmt: skip
def test_what_names_other_files_is_not_followed(text: str, tmp_path: Path) -> None:
    clip = make(tmp_path / "clip.mp4", Spec(frames=2))
    path = tmp_path / "list.mp4"
    path.write_text(text.format(clip=clip))
    for read in (probe, clip_of, lambda one: frame_at(one, 0.0), lambda one: open_source(one).close()):
        with pytest.raises(MediaError):
            read(path)
    assert workload_of(path) is None
    for named in (f"concat:{clip}|{clip}", f"subfile,,start,0,end,0,,:{clip}", "data:video/mp4;base64,AAAA"):
        with pytest.raises(ColabHelpersError):
            probe(named)


def test_a_report_leads_to_nothing_outside_its_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "private.png", tmp_path / "out"
    folder.mkdir()
    Image.new("RGB", (96, 64), (250, 0, 0)).save(outside)
    report = a_report(a_file(outside, outside), a_file(outside, "../private.png"))
    (folder / REPORT_NAME).write_text(to_json(report))
    page = write_page(folder).read_text()
    assert "data:image" not in page
    assert json.loads((folder / REPORT_NAME).read_text())["files"][0]["output"] == str(outside)
