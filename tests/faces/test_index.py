"""What was found is read as it was written, and nothing else passes for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.faces.index import DETECTION_INTERVAL, FaceIndex, FrameFaces
from colab_helpers.faces.tracks import embed_missing
from tests.helpers.faces import face, person


def rows(count: int) -> list[FrameFaces]:
    rng = np.random.default_rng(0)
    return [
        FrameFaces(
            n,
            40 * n + 7,
            change=float(rng.random()),
            cut=n == 9,
            searched=n % DETECTION_INTERVAL == 0,
            faces=[replace(face(200.0 + n, who=n), attributes=np.float32([n % 2, n / 3])), face(400.5)]
            if n % DETECTION_INTERVAL == 0
            else [],
            view="90" if n > 20 else "plain",
        )
        for n in range(count)
    ]


def facts(index: FaceIndex) -> list[Any]:
    return [
        (
            *(row.frame, row.pts, row.change, row.cut, row.searched, row.view),
            [
                (
                    *map(np.ndarray.tobytes, (one.box, one.kps, one.attributes)),
                    one.score,
                    one.embedding is None,
                )
                for one in row.faces
            ],
        )
        for row in index
    ]


def filled(folder: Path, count: int, *, flush_at: int = 10, key: str = "key") -> FaceIndex:
    index = FaceIndex(folder, key)
    for row in rows(count):
        index.append(row)
        if row.frame % flush_at == flush_at - 1:
            index.flush()
    return index


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    memory = FaceIndex(None)
    for row in rows(42):
        memory.append(row)
    index = filled(tmp_path, 42)
    assert facts(index) == facts(memory)
    index.finish()
    index.flush()
    chunks = sorted(tmp_path.iterdir())
    again = FaceIndex(tmp_path, "key")
    again.finish()
    again.flush()
    assert sorted(tmp_path.iterdir()) == chunks, "what is complete was written again"
    assert (len(again), again.complete, again.pts(13)) == (42, True, 40 * 13 + 7)
    assert facts(again) == facts(memory)
    embedded = next(iter(again)).faces[0].embedding
    assert embedded is not None
    assert float(embedded @ rows(1)[0].faces[0].embedding) == pytest.approx(1, abs=1e-3)


def test_an_embedding_that_was_asked_for_is_read_as_it_was_used(tmp_path: Path) -> None:
    row = FrameFaces(0, 0, searched=True, faces=[face(200)])
    embed_missing(row, lambda faces: [replace(one, embedding=person(3)) for one in faces])
    used = row.faces[0].embedding
    index = FaceIndex(tmp_path, "key")
    index.append(row)
    index.flush()
    read = next(iter(FaceIndex(tmp_path, "key"))).faces[0].embedding
    assert used is not None
    assert read is not None
    np.testing.assert_array_equal(read, used)
    assert float(np.abs(used - person(3)).max()) > 0


def test_an_unfinished_index_ends_with_a_frame_that_is_looked_at_in_any_case(tmp_path: Path) -> None:
    settled = filled(tmp_path, 38)
    settled.drop_undecided()
    assert len(settled) == 37
    again = FaceIndex(tmp_path, "key")
    assert (len(again), again.complete) == (29, False)
    for row in rows(42)[29:]:
        again.append(replace(row))
    again.finish()
    again.flush()
    assert facts(FaceIndex(tmp_path, "key")) == facts(filled(tmp_path / "other", 42))


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "gone"])
def test_a_damaged_chunk_ends_what_is_known(tmp_path: Path, harm: str) -> None:
    filled(tmp_path, 40)
    chunks = sorted(tmp_path.glob("*.npz"))
    data = chunks[1].read_bytes()
    middle = len(data) // 2
    harmed = {
        "cut": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        "empty": b"",
    }
    if harm == "gone":
        chunks[1].unlink()
    else:
        chunks[1].write_bytes(harmed[harm])
    assert len(FaceIndex(tmp_path, "key")) == 9


def test_an_index_of_another_key_is_not_read(tmp_path: Path) -> None:
    filled(tmp_path, 40)
    assert len(FaceIndex(tmp_path, "another")) == 0


def test_an_hour_of_two_faces_takes_less_than_a_fifth_of_a_gigabyte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = FaceIndex(tmp_path, "key")
    for n in range(500):
        looked = n % DETECTION_INTERVAL == 0
        faces = [replace(face(rng.random() * 900, who=n + k if n % 24 == 0 else None)) for k in range(2)]
        index.append(FrameFaces(n, n, float(rng.random()), searched=looked, faces=faces if looked else []))
    index.finish()
    index.flush()
    per_frame = sum(path.stat().st_size for path in tmp_path.glob("*")) / 500
    assert per_frame * 25 * 3600 < 0.2e9
