"""Animated pictures: GIF, WebP, PNG and AVIF, frame by frame, each with its time and transparency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from PIL import Image

from colab_helpers.language import mark, tr
from colab_helpers.media.images import Still, is_written, opened, pixels_of, reading_losses

ANIMATION_KINDS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
"""Suffixes animations are written with, and Pillow's name of each format."""

GIF_TIMING = mark("GIF stores times in hundredths of a second: time stamps were rounded to them")

# What every viewer takes for a frame without a time.
_UNTIMED = 100


@dataclass(frozen=True, eq=False)
class Animation:
    """An animated picture file, whole and readable to its last frame.

    Attributes:
        path: The file.
        kind: Pillow's name of its format.
        size: Width and height in pixels.
        durations: Milliseconds each frame is shown.
        plays: How often it is shown; 0 is for ever.
        opacity: ``full``, ``masked`` where pixels are either opaque or not seen, ``partial`` where some are
            in between.
        lossless: Whether its format keeps every sample.
        losses: What reading leaves out, one sentence each.
    """

    path: Path
    kind: str
    size: tuple[int, int]
    durations: tuple[float, ...]
    plays: int
    opacity: str
    lossless: bool
    losses: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Look through a picture file; return None if it holds a single picture, or pages.

        Raises:
            MissingFileError: There is no such file.
            MediaError: It is no picture, damaged or too large.
        """
        with opened(path) as (image, data):
            kind = str(image.format)
            moving = getattr(image, "is_animated", False) and kind in ("GIF", "WEBP", "PNG", "AVIF")
            if not moving and path.suffix.lower() != ".gif":
                return None
            losses = reading_losses(image, data) if kind != "GIF" else []
            if {"icc_profile", "exif", "xmp"} & image.info.keys():
                losses.append(tr("an animation keeps no EXIF data, XMP data or colour profile"))
            if image.info.get("default_image"):
                losses.append(tr("the still picture for viewers without animation was left out"))
            looked = [
                (float(image.info.get("duration", 0)) or _UNTIMED, _opacity(rgba)) for rgba in _frames(image)
            ]
            found = {opacity for _, opacity in looked}
            return cls(
                path=path,
                kind=kind,
                size=image.size,
                durations=tuple(duration for duration, _ in looked),
                plays=_plays(image),
                opacity=next(level for level in ("partial", "masked", "full") if level in found),
                lossless=kind != "AVIF" and (kind != "WEBP" or b"VP8L" in data),
                losses=tuple(losses),
            )

    def frames(self) -> Iterator[Still]:
        """Yield every frame as it is shown, composed of those before it.

        Raises:
            MediaError: The file cannot be read any more.
        """
        with opened(self.path) as (image, _):
            for rgba in _frames(image):
                yield Still(*pixels_of(rgba))

    def losses_as(self, kind: str) -> list[str]:
        """Return what this format cannot hold of it, one sentence each."""
        if kind != "GIF":
            return []
        notes = [] if self.kind == "GIF" else [tr("GIF holds 256 colours a frame: others were approached")]
        if self.opacity == "partial":
            notes.append(tr("GIF holds no half transparency: such pixels became opaque or invisible"))
        if any(duration % 10 for duration in self.durations):
            notes.append(tr(GIF_TIMING))
        return notes


def picture_suffix(path: Path) -> str:
    """Return the suffix of a picture's result: its own where that can hold it, else ``.webp`` or ``.png``.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is no picture, damaged or too large.
    """
    own = path.suffix.lower()
    if own in ANIMATION_KINDS:
        return own
    if Animation.of(path) is not None:
        return ".webp"
    return own if is_written(own) else ".png"


def _frames(image: Image.Image) -> Iterator[Image.Image]:
    """Each frame as RGBA; ``image`` stands at it meanwhile."""
    # The first picture of an animated PNG may be one for viewers that show no animation.
    for number in range(1 if image.info.get("default_image") else 0, getattr(image, "n_frames", 1)):
        image.seek(number)
        yield image.convert("RGBA")


def _opacity(rgba: Image.Image) -> str:
    levels = rgba.getchannel("A").histogram()
    return "partial" if any(levels[1:255]) else "masked" if levels[0] else "full"


def _plays(image: Image.Image) -> int:
    """GIF counts how often it begins again, and says nothing where it never does."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return int(loop or 0)
    return 1 if loop is None else loop + 1 if loop else 0
