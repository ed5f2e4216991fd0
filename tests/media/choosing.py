"""Encoders chosen for a video that need not be there."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from colab_helpers.media.colour_tags import ColourTags
from colab_helpers.media.encoders import EncoderChoice, encoder_for
from colab_helpers.media.probe import VideoInfo

PLAIN = VideoInfo(
    path=Path("a.mp4"), container="mov,mp4", codec="h264", video_index=0, width=320, height=240,
    pix_fmt="yuv420p", time_base=Fraction(1, 25), average_rate=Fraction(25), frames=1, frames_declared=True,
    start=Fraction(0), duration=Fraction(1), rotation=0, display_matrix=None, sample_aspect_ratio=None,
    colour=ColourTags(), light=None, interlaced=False,
)  # fmt: skip


def choose(
    wanted: Any = "auto", *, quality: int = 23, preset: str | None = None, **info: Any
) -> EncoderChoice:
    return encoder_for(replace(PLAIN, **info), wanted=wanted, quality=quality, preset=preset)
