"""One frame of a video whose faces an earlier run has found, made as a run makes it."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import replace

import numpy as np

from colab_helpers.faces.cast import Cast
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex
from colab_helpers.faces.quality import Measured
from colab_helpers.faces.types import ByteImage
from colab_helpers.media.label import Label
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.pipeline.covering import AROUND, with_covers
from colab_helpers.pipeline.following import Following
from colab_helpers.pipeline.frames import FrameChanger
from colab_helpers.pipeline.video_stages import following_of, segment_length, works_of


def decided_faces(engine: Engine, info: VideoInfo, index: FaceIndex, cast: Cast) -> Following:
    """Decide who is changed in a video whose index is complete; NoFaceError as in a run."""
    faces = following_of(engine, info, index, cast)
    if faces.selection.needs_all:
        deque(faces.find_all(()), maxlen=0)
    return faces


def process_known_frame(
    engine: Engine, info: VideoInfo, number: int, faces: Following, label: Label | None = None
) -> tuple[ByteImage, ByteImage, int]:
    """Change one frame of a video, or its last where ``number`` is beyond; ``faces`` are `decided_faces`.

    Return it as players show it, before and after, ``(H, W, 3)`` uint8 BGR, and how many faces were changed.
    The label is burnt in where AI changed a face of the frame.
    """
    number = min(number, len(faces.index) - 1)
    begin, changer = max(0, number - AROUND), FrameChanger(engine, faces.selection)
    length = segment_length(engine.settings, info)
    before = faces.index.pts(begin - 1) if begin else None
    with read_frames(info, start=begin, previous_pts=before) as reader:
        steadied = changer.steadied(faces.works(works_of(reader, info)), length=length)
        with closing(with_covers(steadied, changer, workers=1)) as works:
            work = next(work for work in works if work.index == number)
            unchanged = _shown(work.item, info)
            changer.change(work)
            by_ai = Measured(actions=faces.selection.actions(work.faces)).by_ai
            if enhancer := engine.frame_enhancer:
                large = enhancer.enlarge_frame(work.item.video)
                work.item = replace(work.item, video=large)
                work.picture = VideoPicture(large, rotation=info.heads_up)
            if label is not None and by_ai and label.is_shown(work.seconds):
                label.draw(work.picture, info)
            return unchanged, _shown(work.item, info), len(work.faces)


def _shown(frame: Frame, info: VideoInfo) -> ByteImage:
    return info.upright(np.asarray(frame.video.to_ndarray(format="bgr24"), np.uint8))
