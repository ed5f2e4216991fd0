"""Pipeline of one file: read, find faces, change them and write, in threads with bounded queues between them.

Each frame is decoded and searched for faces once. A frame without a face to change goes from decoder to
encoder untouched; in the others only samples inside the bounding boxes of faces are modified.
"""

from __future__ import annotations

from colab_helpers.pipeline.image import process_image, process_picture
from colab_helpers.pipeline.kept_frames import frames_folder, move_frames
from colab_helpers.pipeline.outcome import FileResult, FinishedSegment, SegmentStore
from colab_helpers.pipeline.video import process_video

__all__ = [
    "FileResult",
    "FinishedSegment",
    "SegmentStore",
    "frames_folder",
    "move_frames",
    "process_image",
    "process_picture",
    "process_video",
]
