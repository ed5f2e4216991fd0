from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

from colab_helpers.faces.index import DETECTION_INTERVAL
from colab_helpers.faces.tracks import DECISION_LAG
from colab_helpers.pipeline.frames import FrameJob
from colab_helpers.pipeline.video import process_video
from tests.media.make import Spec, make
from tests.pipeline.swapping import SOURCE, engine


def test_frames_in_memory(tmp_path: Path, inverting_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, held, counts = make(tmp_path / "in.mp4", Spec(frames=120)), weakref.WeakSet[Any](), list[int]()

    def count(work: FrameJob[Any, Any], prepare: Any = FrameJob.__post_init__) -> None:
        prepare(work)
        held.add(work)
        counts.append(len(held))

    monkeypatch.setattr(FrameJob, "__post_init__", count)
    process_video(engine(inverting_models), SOURCE, target, tmp_path / "out.mp4")
    # The decision lag, two detection intervals read ahead, and eight frames in the queues.
    assert DECISION_LAG + 2 * DETECTION_INTERVAL <= max(counts) <= DECISION_LAG + 2 * DETECTION_INTERVAL + 8
