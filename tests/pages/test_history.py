"""The samples of a run as they come in: read as far as they are new, summed up in little memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from colab_helpers.pages.figures import WINDOW, SampleHistory
from colab_helpers.resources import samples as samples_file
from colab_helpers.resources.samples import SAMPLES_NAME, Sample, SampleTail
from tests.helpers.reports import bare_sample as sample


def append(folder: Path, *samples: Sample) -> None:
    with (folder / SAMPLES_NAME).open("a") as file:
        file.writelines(item.model_dump_json() + "\n" for item in samples)


def times(tail: SampleTail) -> list[float]:
    return [item.time for item in tail.read()]


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    tail = SampleTail(tmp_path / SAMPLES_NAME)
    assert times(tail) == []
    append(tmp_path, sample(1), sample(2))
    assert times(tail) == [1, 2]
    parsed: list[bytes] = []
    parse = samples_file._samples
    monkeypatch.setattr(samples_file, "_samples", lambda text: parsed.append(text) or parse(text))
    assert times(tail) == []
    append(tmp_path, sample(3))
    assert times(tail) == [3]
    assert b"".join(parsed).count(b"\n") == 1


def test_a_line_that_is_not_whole_yet_waits(tmp_path):
    path, line = tmp_path / SAMPLES_NAME, sample(2).model_dump_json() + "\n"
    append(tmp_path, sample(1))
    tail = SampleTail(path)
    with path.open("a") as file:
        file.write(line[:20])
    assert times(tail) == [1]
    with path.open("a") as file:
        file.write(line[20:] + "nonsense\n{}\n")
    append(tmp_path, sample(3))
    assert times(tail) == [2, 3]


@pytest.mark.parametrize("lines", [1, 3, 9])
def test_a_file_that_was_cut_or_replaced_is_read_again(tmp_path, lines):
    append(tmp_path, *(sample(number) for number in range(4)))
    tail, history = SampleTail(tmp_path / SAMPLES_NAME), SampleHistory()
    history.add(tail.read())
    (tmp_path / SAMPLES_NAME).unlink()
    append(tmp_path, *(sample(number, fps=30.0) for number in range(3, 3 + lines)))
    history.add(tail.read())
    # The sample that was there before is not counted twice.
    assert history.count == 4 + lines - 1
    assert [item.time for item in history.recent] == [float(number) for number in range(3 + lines)]


def test_a_file_larger_than_a_piece_and_one_without_lines(tmp_path, monkeypatch):
    append(tmp_path, *(sample(number) for number in range(50)))
    length = (tmp_path / SAMPLES_NAME).stat().st_size // 50
    monkeypatch.setattr(samples_file, "_CHUNK", 3 * length)
    assert times(SampleTail(tmp_path / SAMPLES_NAME)) == [float(number) for number in range(50)]
    (tmp_path / SAMPLES_NAME).write_text("x" * 20 * length + "\n")
    append(tmp_path, sample(7))
    assert times(SampleTail(tmp_path / SAMPLES_NAME)) == [7]


def test_the_history_stays_small():
    seen = SampleHistory(since=0.0)
    seen.add(sample(2.0 * number, ram_used=number % 100) for number in range(-9, 5000))
    assert seen.count == 5000  # those before are another run's
    assert len(seen.recent) == WINDOW / 2 + 1
