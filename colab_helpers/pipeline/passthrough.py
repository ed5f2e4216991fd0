"""Passthrough of a video in which nobody is changed: its file is copied instead of encoded again."""

from __future__ import annotations

from typing import Any

from colab_helpers.faces.person_stats import summarize_people
from colab_helpers.faces.quality import FrameStats
from colab_helpers.files import copy_atomically
from colab_helpers.media.containers import MUXERS
from colab_helpers.pipeline.face_tracking import FaceTracking
from colab_helpers.pipeline.frames import FrameJob, MeasuredFace, StatsCollector
from colab_helpers.pipeline.outcome import FileResult
from colab_helpers.pipeline.video_stages import VideoRun

_ENCODERS = {"h264": ("libx264", "h264_nvenc"), "hevc": ("libx265", "hevc_nvenc")}


def passthrough_stats(video: VideoRun, faces: FaceTracking) -> FrameStats | None:
    """Return the statistics of a video to be copied as nobody is changed; None if not, or not yet known."""
    return _count_unchanged(video, faces) if faces.index.complete and is_copy_acceptable(video) else None


def copy_target(video: VideoRun, faces: FaceTracking, measured: FrameStats) -> FileResult:
    """Copy a video in which nobody is changed; raise OutputError if the copy cannot be written."""
    with video.info.path.open("rb") as content:
        copy_atomically(video.output, content, on_chunk=lambda: video.progress.joining(len(faces.index)))
    return FileResult(
        frames_in=len(faces.index),
        frames_out=len(faces.index),
        measured=measured,
        seconds=0.0,
        encoder=None,
        provider=video.engine.provider,
        notes=(),
        video_seconds=float(video.info.duration),
        times_kept=True,
        people=summarize_people(faces.tracks, measured, faces.selection),
    )


def is_copy_acceptable(video: VideoRun) -> bool:
    """Return whether a copy of the target meets the settings, provided that nobody is changed."""
    info, settings, suffix = video.info, video.settings, video.output.suffix.lower()
    encoder = settings.output_video_encoder
    return (
        video.engine.frame_enhancer is None
        and settings.keep_fps
        and not settings.keep_frames
        and not (settings.skip_audio and info.audio)
        and suffix == info.path.suffix.lower()
        and MUXERS[suffix] in info.container.split(",")
        and (encoder == "auto" or encoder in _ENCODERS.get(info.codec, ()))
    )


def _count_unchanged(video: VideoRun, faces: FaceTracking) -> FrameStats | None:
    """Count the faces of a video as a run does that changes none; None if any is to be changed."""
    collector, info = StatsCollector(faces.selection), video.info
    for row, found in zip(faces.index, faces.known_faces(), strict=True):
        video.progress.finding(row.frame + 1)
        if faces.selection.of(found):
            return None
        job = FrameJob[None, Any](row.frame, None, None, measured_faces=[*map(MeasuredFace, found)])
        job.seconds = float(row.pts * info.time_base - info.start)
        collector.add(job)
    return collector.take()
