"""Processing of a single frame of a video whose face index is complete, exactly as in a run."""

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
    """Decide who is changed in a video whose index is complete; raise NoFaceError as a run does."""
    faces = open_video_tracking(engine, info, index, assignment)
    if faces.selection.needs_all_tracks:
        deque(faces.find_all(()), maxlen=0)
    return faces


def process_indexed_frame(
    engine: Engine, info: VideoInfo, number: int, faces: FaceTracking, label: Label | None = None
) -> tuple[ByteImage, ByteImage, int]:
    """Change one frame of a video, or the last if ``number`` is beyond it; ``faces`` as from `decide_faces`.

    Return the upright frame before and after, ``(H, W, 3)`` uint8 BGR, and the number of changed faces. The
    label is burnt in if AI changed a face of the frame.
    """
    number = min(number, len(faces.index) - 1)
    start, changer = max(0, number - VISIBILITY_WINDOW), FrameChanger(engine, faces.selection)
    length = segment_length(engine.settings, info)
    previous_pts = faces.index.pts(start - 1) if start else None
    with read_frames(info, start=start, previous_pts=previous_pts) as reader:
        denoised = changer.with_denoised_crops(faces.jobs(frame_jobs(reader, info)), length=length)
        with closing(with_visibility(denoised, changer, workers=1)) as jobs:
            job = next(job for job in jobs if job.index == number)
            unchanged = _upright(job.item, info)
            changer.change(job)
            by_ai = FrameStats(actions=faces.selection.actions(job.faces)).by_ai
            if enhancer := engine.frame_enhancer:
                enlarged = enhancer.enlarge_frame(job.item.video)
                job.item = replace(job.item, video=enlarged)
                job.picture = VideoPicture(enlarged, rotation=info.upright_rotation)
            if label is not None and by_ai and label.is_shown(job.seconds):
                label.draw(job.picture, info)
            return unchanged, _upright(job.item, info), len(job.faces)


def _upright(frame: Frame, info: VideoInfo) -> ByteImage:
    return info.upright(np.asarray(frame.video.to_ndarray(format="bgr24"), np.uint8))
