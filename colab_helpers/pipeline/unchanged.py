"""A video in which nobody is changed: its file is copied, not decoded and encoded again."""

from __future__ import annotations

from colab_helpers.faces.person_counts import people_of
from colab_helpers.faces.quality import Counts, Measured, add_span
from colab_helpers.files import write_whole
from colab_helpers.pipeline.following import Following
from colab_helpers.pipeline.outcome import FileResult
from colab_helpers.pipeline.video_stages import VideoRun


def is_unchanged(video: VideoRun, faces: Following) -> bool:
    """Whether the target, as it is, is what was asked for.

    Only where all its faces are found before anything is changed in any case: a run that was interrupted ends
    as one that was not.
    """
    settings, suffix = video.settings, video.info.path.suffix.lower()
    asked = settings.keep_fps and not settings.skip_audio and not settings.keep_frames
    same = asked and settings.output_video_encoder == "auto" and video.output.suffix.lower() == suffix
    return same and faces.selection.needs_all and not any(map(faces.selection.of, faces.known_faces()))


def copied(video: VideoRun, faces: Following) -> FileResult:
    """Copy it, and count who is seen; OutputError where the copy cannot be written."""
    measured, info = Measured(), video.info
    for frame, shown in enumerate(faces.known_faces()):
        measured.add_frame(frame, 0)
        for face in shown:
            counts = measured.tracks.setdefault(face.track or 0, Counts())
            counts.seen += 1
            add_span(counts.spans, frame, frame + 1)
    measured.sum_up_crowd()
    with info.path.open("rb") as content:
        write_whole(video.output, content)
    return FileResult(
        frames_in=len(faces.index),
        frames_out=len(faces.index),
        measured=measured,
        seconds=0.0,
        encoder=None,
        provider=video.engine.provider,
        notes=(),
        video_seconds=float(info.duration),
        times_kept=True,
        people=people_of(faces.tracks, measured, faces.selection),
    )
