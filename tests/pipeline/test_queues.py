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


def test_few_frames_are_held(tmp_path: Path, inverting_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, held, most = make(tmp_path / "in.mp4", Spec(frames=120)), weakref.WeakSet[Any](), list[int]()

    def seen(work: FrameJob[Any, Any], prepare: Any = FrameJob.__post_init__) -> None:
        prepare(work)
        held.add(work)
        most.append(len(held))

    monkeypatch.setattr(FrameJob, "__post_init__", seen)
    process_video(engine(inverting_models), SOURCE, target, tmp_path / "out.mp4")
    # What tells of the faces comes LAG frames later, two groups of looks at a time; eight are on their way.
    assert DECISION_LAG + 2 * DETECTION_INTERVAL <= max(most) <= DECISION_LAG + 2 * DETECTION_INTERVAL + 8
