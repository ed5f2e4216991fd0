"""Face index: round trip, resume, damaged files, size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colab_helpers.faces.index import DETECTION_INTERVAL, FaceIndex, FrameFaces
from colab_helpers.faces.tracks import embed_missing
from tests.helpers.faces import face, person


def sample_rows(count: int) -> list[FrameFaces]:
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


def row_values(index: FaceIndex) -> list[Any]:
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
    for row in sample_rows(count):
        index.append(row)
        if row.frame % flush_at == flush_at - 1:
            index.flush()
    return index


def test_index_round_trip(tmp_path: Path) -> None:
    in_memory = FaceIndex(None)
    for row in sample_rows(42):
        in_memory.append(row)
    index = filled(tmp_path, 42)
    assert row_values(index) == row_values(in_memory)
    index.finish()
    index.flush()
    paths = sorted(tmp_path.iterdir())
    reread = FaceIndex(tmp_path, "key")
    reread.finish()
    reread.flush()
    assert sorted(tmp_path.iterdir()) == paths, "a complete index was rewritten"
    assert (len(reread), reread.complete, reread.pts(13)) == (42, True, 40 * 13 + 7)
    assert row_values(reread) == row_values(in_memory)
    embedded = next(iter(reread)).faces[0].embedding
    assert embedded is not None
    assert float(embedded @ sample_rows(1)[0].faces[0].embedding) == pytest.approx(1, abs=1e-3)


def test_late_embedding_is_read_back_exactly(tmp_path: Path) -> None:
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


def test_unfinished_index_ends_at_a_detected_frame(tmp_path: Path) -> None:
    unfinished = filled(tmp_path, 38)
    unfinished.drop_undecided()
    assert len(unfinished) == 37
    reread = FaceIndex(tmp_path, "key")
    assert (len(reread), reread.complete) == (29, False)
    for row in sample_rows(42)[29:]:
        reread.append(replace(row))
    reread.finish()
    reread.flush()
    assert row_values(FaceIndex(tmp_path, "key")) == row_values(filled(tmp_path / "other", 42))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "missing"])
def test_index_ends_before_a_damaged_chunk(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, 40)
    paths = sorted(tmp_path.glob("*.npz"))
    data = paths[1].read_bytes()
    middle = len(data) // 2
    damaged = {
        "cut": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :],
        "empty": b"",
    }
    if damage == "missing":
        paths[1].unlink()
    else:
        paths[1].write_bytes(damaged[damage])
    assert len(FaceIndex(tmp_path, "key")) == 9


def test_index_with_another_key_is_not_read(tmp_path: Path) -> None:
    filled(tmp_path, 40)
    assert len(FaceIndex(tmp_path, "another")) == 0


def test_index_of_an_hour_with_two_faces_takes_less_than_200_mb(tmp_path: Path) -> None:
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
