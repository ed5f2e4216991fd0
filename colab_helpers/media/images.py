"""Read and write still images as files, bytes, data URLs or arrays, by Pillow.

Pixels are 8-bit BGR as viewers show them: upright, with other colour models converted to RGB. RGB colours
stay in the space of the image's own colour profile, which is copied to the result. `Still` holds an image's
metadata and names what was lost.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngInfo

from colab_helpers.errors import ColabHelpersError, MediaError, OutputError
from colab_helpers.files import copy_atomically
from colab_helpers.language import mark, tr
from colab_helpers.media.blending import over_white
from colab_helpers.media.formats import ByteImage
from colab_helpers.media.image_sources import bgr_from_array, read_image_bytes, too_large_error
from colab_helpers.media.inputs import IMAGE_KINDS, SNIFF_BYTES, WRONG_SUFFIX_REMEDY, sniff_file_type

ImageFormat = Literal["png", "jpeg", "webp"]

MAX_PIXELS = 178_000_000
"""Largest image accepted, by its header, against decompression bombs; a little below Pillow's own limit."""

# Pillow warns from half its limit on.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_PLAIN = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_LOSSY, _OPAQUE = {"JPEG", "WEBP", "AVIF", "HEIF"}, {"JPEG", "BMP"}
# Compression level 1 is as small as OpenCV's PNG and six times faster than Pillow's default.
_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "WEBP": {"exact": True},
}
# What a result keeps of the first EXIF directory: tags about the image, not about the file's layout. The
# thumbnail's directory is dropped, since it shows the original face.
_EXIF_TAGS = (
    "ImageDescription", "Make", "Model", "Software", "DateTime", "Artist", "HostComputer", "Copyright",
)  # fmt: skip
_EXIF_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_KEPT = {"exif": mark("EXIF data"), "icc_profile": mark("colour profile")}
_DROPPED = {"xmp": mark("XMP data of the target"), "comment": mark("comment"), "text": mark("text notes")}
_GREY, _PALETTE = mark("grey"), mark("a palette of colours")
_MODES = {
    "1": mark("black and white"), "L": _GREY, "LA": _GREY, "P": _PALETTE, "PA": _PALETTE,
    "CMYK": "CMYK", "YCbCr": "YCbCr", "LAB": "CIE Lab",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Still:
    """A still image with its alpha plane and metadata."""

    bgr: ByteImage  # ``(H, W, 3)`` uint8, upright; not premultiplied by alpha
    alpha: ByteImage | None = None  # ``(H, W)`` uint8, 255 is opaque; None if all of it is
    # Metadata by Pillow's names: ``exif``, ``icc_profile``; in results also ``xmp``, which BMP and TIFF drop.
    parts: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""  # Pillow's name of the file's format; empty for bare pixels
    # How the file was encoded: the ``subsampling`` of a JPEG, whether a WebP is ``lossless``.
    options: Mapping[str, Any] = field(default_factory=dict)
    losses: tuple[str, ...] = ()  # what was lost in reading, one sentence each

    def losses_in(self, path: Path) -> list[str]:
        """Return what the format of an output file cannot hold, one sentence each."""
        kind = IMAGE_KINDS[path.suffix.lower()]
        dropped = [name for part, name in _KEPT.items() if part in self.parts and kind == "BMP"]
        notes = [tr("{kind} cannot hold {part}: dropped", kind=kind, part=tr(name)) for name in dropped]
        if self.alpha is not None and kind in _OPAQUE:
            notes.append(tr("{kind} has no transparency: it was filled with white", kind=kind))
        return notes


def read_image(source: str | Path | bytes | npt.NDArray[Any]) -> ByteImage:
    """Read an image as a new ``(H, W, 3)`` uint8 BGR array, with transparency composited over white.

    ``source`` is a path; the bytes of a PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or HEIC file, of which the
    first image is read; such bytes as a ``data:`` URL; or a uint8 array: grey ``(H, W)``, BGR ``(H, W, 3)``
    or BGRA ``(H, W, 4)``.

    Raises:
        MissingFileError: There is no such file.
        MediaError: It is no image, damaged, or larger than `MAX_PIXELS` or `MAX_BYTES`.
    """
    if isinstance(source, np.ndarray):
        return bgr_from_array(source)
    still = read_still(source)
    return still.bgr if still.alpha is None else over_white(still.bgr, still.alpha)


def read_still(source: str | Path | bytes) -> Still:
    """Read an image with its alpha plane and metadata; see `read_image`."""
    with open_image(source) as (image, data):
        return _still(image, data)


def write_image(path: str | Path, bgr: ByteImage, *, quality: int = 95) -> Path:
    """Write pixels without metadata; see `write_still`."""
    return write_still(path, Still(bgr), quality=quality)


def write_still(path: str | Path, still: Still, *, quality: int = 95) -> Path:
    """Write an image atomically and return its absolute path; see `encode_still`."""
    path = Path(path).absolute()
    copy_atomically(path, io.BytesIO(encode_still(still, path, quality=quality)))
    return path


def encode_still(still: Still, path: Path, *, quality: int = 95) -> bytes:
    """Encode an image in the format of the path's suffix, without what `Still.losses_in` names.

    ``quality``, 1 to 100, applies to lossy formats. Raise OutputError if the suffix cannot be written on this
    machine, or the format cannot hold an image of this size.
    """
    if not is_writable(suffix := path.suffix):
        bare = mark("pictures cannot be written as a file without suffix")
        what = tr("pictures cannot be written as {suffix}", suffix=suffix) if suffix else tr(bare)
        remedy = tr("use one of {names}", names=", ".join(filter(is_writable, IMAGE_KINDS)))
        raise OutputError(what, where=str(path), remedy=remedy)
    return _encode(still, IMAGE_KINDS[suffix.lower()], quality)


def is_writable(suffix: str) -> bool:
    """Return whether images can be written with this suffix on this machine."""
    return IMAGE_KINDS.get(suffix.lower()) in readable_formats()


def to_data_url(bgr: ByteImage, kind: ImageFormat = "png", *, quality: int = 95) -> str:
    """Return an image as ``data:image/…;base64,…`` text, for web pages and JSON."""
    body = base64.b64encode(_encode(Still(bgr), kind.upper(), quality)).decode("ascii")
    return f"data:image/{kind};base64,{body}"


@contextmanager
def open_image(source: str | Path | bytes) -> Iterator[tuple[Image.Image, bytes]]:
    """Open an image file; yield Pillow's image, not decoded yet, and the file's bytes.

    Raise MissingFileError if there is no such file, MediaError if it is no image, too large, or found damaged
    in the ``with`` block.
    """
    data, where = read_image_bytes(source)
    formats = readable_formats() if data[4:8] == b"ftyp" else _PLAIN  # load the HEIF library only if needed
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                size = tr("{width}x{height} pixels", width=image.width, height=image.height)
                raise too_large_error(size, where)
            yield image, data
    except (ColabHelpersError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        size = tr("more than {most} million pixels", most=MAX_PIXELS // 10**6)
        raise too_large_error(size, where) from error
    except UnidentifiedImageError as error:
        raise _unreadable(data, where) from error
    except Exception as error:  # Pillow's decoders raise all kinds of errors on damaged files
        raise _damaged(where) from error


def split_alpha(image: Image.Image) -> tuple[ByteImage, ByteImage | None]:
    """Return the BGR and alpha planes of a Pillow RGB or RGBA image; alpha is None if all of it is opaque."""
    samples = np.asarray(image, np.uint8)
    bgr = np.asarray(cv2.cvtColor(samples[..., :3], cv2.COLOR_RGB2BGR), np.uint8)
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    return bgr, alpha if alpha is not None and alpha.min() < 255 else None


# --- reading ------------------------------------------------------------------------------------------


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that may be read, excluding those that run programs or name other files (EPS, …)."""
    names = (*_PLAIN, "AVIF") if features.check("avif") else _PLAIN
    try:
        import pillow_heif
    except ImportError:
        return names
    pillow_heif.register_heif_opener()
    return (*names, "HEIF")


def _still(image: Image.Image, data: bytes) -> Still:
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    losses = reading_losses(image, data)
    if (pages := getattr(image, "n_frames", 1)) > 1:
        losses.append(tr("only the first of {pages} pictures in the file was used", pages=pages))
    image.load()
    subsampling = JpegImagePlugin.get_sampling(image) if kind == "JPEG" else -1
    options = {"subsampling": subsampling} if subsampling >= 0 else {}
    options |= {"lossless": True} if kind == "WEBP" and b"VP8L" in data else {}
    info = image.info | {"text": getattr(image, "text", {}).keys() - {"XML:com.adobe.xmp"}}
    losses += [tr("the result has no {part}", part=tr(_DROPPED[part])) for part in _DROPPED if info.get(part)]
    parts = {"exif": _exif(image)}
    rgb, parts["icc_profile"] = _in_rgb(_upright(image))
    if image.info.get("icc_profile") and not parts["icc_profile"]:
        losses.append(tr("its colour profile is not an RGB one: the result is sRGB without a profile"))
    kept = {name: part for name, part in parts.items() if part}
    return Still(*split_alpha(rgb), kept, kind, options, tuple(losses))


def reading_losses(image: Image.Image, data: bytes) -> list[str]:
    """Return what is lost in 8-bit RGB, as far as it is known before decoding."""
    bits = 32 if image.mode in ("I", "F") else 8
    if ";16" in f"{image.mode}{getattr(image, 'tile', '')}":
        bits = 16
    box = data.find(b"pixi", 0, 1 << 16)  # ISO/IEC 23008-12, 6.5.6: type, flags, channels, bits per channel
    if image.format in ("AVIF", "HEIF") and 0 < box < len(data) - 9:
        bits = data[box + 9]
    mode = _MODES.get("L" if image.mode[0] in "IF" else image.mode)
    return [
        *([tr("{bits} bits per sample became 8", bits=bits)] if bits > 8 else []),
        *([tr("{mode} became RGB", mode=tr(mode))] if mode else []),
    ]


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image upright by its EXIF orientation."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - damaged EXIF data must not make a good image unreadable
        return image


def _exif(image: Image.Image) -> bytes:
    """Return the EXIF data that holds for the upright image; empty if there is none or it is damaged."""
    try:
        original, kept = image.getexif(), Image.Exif()
        for tag in (getattr(ExifTags.Base, name) for name in _EXIF_TAGS):
            if tag in original:
                kept[tag] = original[tag]
        for directory in _EXIF_DIRECTORIES:
            kept.get_ifd(directory).update(original.get_ifd(directory))
        return kept.tobytes() if len(kept) or any(map(kept.get_ifd, _EXIF_DIRECTORIES)) else b""
    except Exception:  # noqa: BLE001 - what cannot be read cannot be kept
        return b""


def _in_rgb(image: Image.Image) -> tuple[Image.Image, bytes]:
    """Return the image as RGB or RGBA, and its colour profile, empty if it no longer applies."""
    if image.mode[0] in "IF":  # grey of more than 8 bits, or from 0 to 1
        raw = np.asarray(image)
        grey = np.clip(np.nan_to_num(raw), 0, 1) * 255 if image.mode == "F" else np.clip(raw, 0, 65535) / 257
        return Image.fromarray(np.asarray(grey + 0.5, np.uint8)).convert("RGB"), b""
    profile = image.info.get("icc_profile", b"")
    if profile and image.mode in ("CMYK", "L", "LAB"):
        with suppress(OSError, ImageCms.PyCMSError):
            space = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            rgb = ImageCms.profileToProfile(image, space, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if rgb is not None:
                return rgb, b""
        profile = b""
    return image.convert("RGBA" if image.has_transparency_data else "RGB"), profile


def _unreadable(data: bytes, where: str) -> MediaError:
    kind, remedy = sniff_file_type(data[:SNIFF_BYTES])
    # A known type with this remedy is an image: Pillow cannot read it, so it is damaged.
    if not kind or remedy == WRONG_SUFFIX_REMEDY:
        return _damaged(where)
    what = tr("this is not a picture that can be read ({kind})", kind=tr(kind))
    return MediaError(what, where=where, remedy=tr(remedy))


def _damaged(where: str) -> MediaError:
    what = tr("this is not a picture that can be read, or it is damaged")
    return MediaError(what, where=where, remedy=tr("open it in an image program and save it as PNG or JPEG"))


# --- writing ------------------------------------------------------------------------------------------


def _encode(still: Still, kind: str, quality: int) -> bytes:
    bgr, alpha = still.bgr, still.alpha
    if alpha is not None and kind in _OPAQUE:
        bgr, alpha = over_white(bgr, alpha), None
    image = Image.fromarray(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    options: dict[str, Any] = {"quality": quality} if kind in _LOSSY else {}
    options |= _OPTIONS.get(kind, {})
    options |= still.options if still.kind == kind else {}
    if kind != "BMP":
        options |= still.parts
    if kind == "PNG" and "xmp" in options:  # XMP specification part 3, 1.1.5
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", options.pop("xmp").decode())
    if kind == "TIFF" and "exif" in options:
        options["compression"] = "raw"  # Pillow compresses by libtiff, which writes no EXIF directory
    memory = io.BytesIO()
    try:
        image.save(memory, kind, **options)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        what = tr("the picture cannot be stored as {kind} ({reason})", kind=kind.lower(), reason=reason)
        raise OutputError(what, remedy=tr("use png")) from error
    return memory.getvalue()
