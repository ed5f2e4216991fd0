"""What belongs to a picture beside its colours, and which formats hold it: EXIF data, profile, texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from colab_helpers.language import mark, tr

_XMP_KEY, _XMP_TAG = "XML:com.adobe.xmp", 700
# What a result keeps of the first EXIF directory: what is said of the picture, not how its file is laid out.
# The directory with the thumbnail is left out: it shows the old face.
_EXIF_TAGS = (
    "ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright",
    "Rating", "XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject",
)  # fmt: skip
_EXIF_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_JPEG_EXIF_ROOM = 65_000

_NAMES = {
    "exif": mark("EXIF data"),
    "icc_profile": mark("colour profile"),
    "xmp": mark("XMP data"),
    "text": mark("text notes"),
    "comment": mark("comment"),
}
_USUAL = {"exif", "icc_profile", "xmp"}
# What each format has room for.
_HOLDS = {
    "PNG": {*_USUAL, "text", "dpi"},
    "JPEG": {*_USUAL, "comment", "dpi"},
    "WEBP": _USUAL,
    "TIFF": {*_USUAL, "dpi"},
    "BMP": {"dpi"},
    "AVIF": _USUAL,
    "HEIF": _USUAL,
}


def parts_of(stored: Image.Image, upright: Image.Image) -> dict[str, Any]:
    """Return what a file says of its picture, by Pillow's names; XMP, too, may say how it is turned."""
    found = {name: upright.info.get(name) for name in ("icc_profile", "xmp", "comment")}
    texts = {key: str(text) for key, text in getattr(stored, "text", {}).items() if key != _XMP_KEY}
    found |= {"exif": _exif(stored), "text": texts, "dpi": _dpi(stored)}
    return {name: value for name, value in found.items() if value}


def held_parts(parts: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return those of a picture's parts that a format has room for."""
    held = {name: part for name, part in parts.items() if name in _HOLDS[kind]}
    if kind == "JPEG" and len(held.get("exif", b"")) > _JPEG_EXIF_ROOM:
        del held["exif"]
    return held


def lost_parts(parts: Mapping[str, Any], kind: str) -> list[str]:
    """Return which of a picture's parts a format has no room for, one sentence each."""
    held = held_parts(parts, kind)
    lost = [_NAMES[name] for name in parts if name in _NAMES and name not in held]
    return [tr("{kind} holds no {part}: it was left out", kind=kind, part=tr(name)) for name in lost]


def save_options(parts: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the arguments of Pillow's ``save`` that put a picture's parts into a format."""
    options = held_parts(parts, kind)
    if kind == "PNG":
        options["pnginfo"] = info = PngInfo()
        xmp = options.pop("xmp", b"")
        texts = options.pop("text", {}) | ({_XMP_KEY: xmp.decode(errors="replace")} if xmp else {})
        for key, text in texts.items():
            info.add_itxt(key, text)
    if kind == "TIFF" and "exif" in options:
        options["compression"] = "raw"  # libtiff, which compresses, writes no EXIF directory
    if kind == "TIFF" and "xmp" in options:
        options["tiffinfo"] = {_XMP_TAG: options.pop("xmp")}
    return options


def _exif(image: Image.Image) -> bytes:
    """EXIF data that fits the upright picture; empty where there is none or it is damaged."""
    try:
        before, kept = image.getexif(), Image.Exif()
        for name in _EXIF_TAGS:
            tag = getattr(ExifTags.Base, name)
            if tag in before:
                kept[tag] = before[tag]
        for directory in _EXIF_DIRECTORIES:
            kept.get_ifd(directory).update(before.get_ifd(directory))
        return kept.tobytes() if len(kept) or any(map(kept.get_ifd, _EXIF_DIRECTORIES)) else b""
    except Exception:  # noqa: BLE001 - what cannot be read cannot be kept
        return b""


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1 << 16 and 1 < y < 1 << 16 else None
