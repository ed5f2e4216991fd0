"""One frame of a video whose faces an earlier run has found, made as a run makes it."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import replace

import numpy as np

from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.index import FaceIndex
from colab_helpers.faces.quality import FrameStats
from colab_helpers.faces.types import ByteImage
from colab_helpers.media.label import Label
from colab_helpers.media.picture import VideoPicture
from colab_helpers.media.probe import VideoInfo
from colab_helpers.media.reader import Frame, read_frames
from colab_helpers.pipeline.face_tracking import FaceTracking
from colab_helpers.pipeline.frames import FrameChanger
from colab_helpers.pipeline.video_stages import frame_jobs, open_video_tracking, segment_length
from colab_helpers.pipeline.visibility import VISIBILITY_WINDOW, with_visibility


def decide_faces(engine: Engine, info: VideoInfo, index: FaceIndex, assignment: Assignment) -> FaceTracking:
    """Decide who is changed in a video whose index is complete; NoFaceError as in a run."""
    faces = open_video_tracking(engine, info, index, assignment)
    if faces.selection.needs_all_tracks:
        deque(faces.find_all(()), maxlen=0)
    return faces


def process_indexed_frame(
    engine: Engine, info: VideoInfo, number: int, faces: FaceTracking, label: Label | None = None
) -> tuple[ByteImage, ByteImage, int]:
    """Change one frame of a video, or its last where ``number`` is beyond; ``faces`` are `decided_faces`.

    Return it as players show it, before and after, ``(H, W, 3)`` uint8 BGR, and how many faces were changed.
    The label is burnt in where AI changed a face of the frame.
    """
    number = min(number, len(faces.index) - 1)
    begin, changer = max(0, number - VISIBILITY_WINDOW), FrameChanger(engine, faces.selection)
    length = segment_length(engine.settings, info)
    before = faces.index.pts(begin - 1) if begin else None
    with read_frames(info, start=begin, previous_pts=before) as reader:
        with_denoised_crops = changer.with_denoised_crops(
            faces.works(frame_jobs(reader, info)), length=length
        )
        with closing(with_visibility(with_denoised_crops, changer, workers=1)) as works:
            work = next(work for work in works if work.index == number)
            unchanged = _shown(work.item, info)
            changer.change(work)
            by_ai = FrameStats(actions=faces.selection.actions(work.faces)).by_ai
            if enhancer := engine.frame_enhancer:
                large = enhancer.enlarge_frame(work.item.video)
                work.item = replace(work.item, video=large)
                work.picture = VideoPicture(large, rotation=info.upright_rotation)
            if label is not None and by_ai and label.is_shown(work.seconds):
                label.draw(work.picture, info)
            return unchanged, _shown(work.item, info), len(work.faces)


def _shown(frame: Frame, info: VideoInfo) -> ByteImage:
    return info.upright(np.asarray(frame.video.to_ndarray(format="bgr24"), np.uint8))
