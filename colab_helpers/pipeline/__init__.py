"""One file from end to end: read, find faces, change them, write, as bounded stages in threads.

Frames are decoded once and detected once. A frame without a face to change goes from the decoder to the
encoder as it is; in the others only the samples inside the faces' boxes are touched.
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
