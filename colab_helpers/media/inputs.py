"""Check input files: their type by suffix, whether they are readable, and what they really are."""

from __future__ import annotations

import codecs
import errno
import stat
from importlib.util import find_spec
from pathlib import Path

from colab_helpers.addresses import require_downloaded
from colab_helpers.errors import MediaError, MissingFileError
from colab_helpers.language import mark, tr

VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".flv", ".wmv", ".3gp", ".ogv", ".mxf",
))  # fmt: skip
"""Suffixes of videos; an animated GIF can be read as one."""

IMAGE_KINDS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG",
    ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".heic": "HEIF",
    ".heif": "HEIF",
}  # fmt: skip
"""Suffixes of images, with Pillow's format names."""

# Optional modules by format, and the commands that install them.
_READERS = {
    "HEIF": ("pillow_heif", "pip install pillow-heif"),
    "AVIF": ("PIL._avif", "pip install --upgrade pillow"),
}

SNIFF_BYTES = 4096
"""Bytes at the start of a file that `sniff_file_type` needs."""

COPY_AGAIN_REMEDY = mark("copy or download it again")
WRONG_SUFFIX_REMEDY = mark("give it the suffix of its kind, or choose another file")
_UNPACK = mark("unpack it and choose the file inside")
# Signatures of files that are often given a video's name by mistake.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", mark("it is a PNG picture"), WRONG_SUFFIX_REMEDY),
    (b"\xff\xd8\xff", mark("it is a JPEG picture"), WRONG_SUFFIX_REMEDY),
    (b"PK\x03\x04", mark("it is a ZIP archive"), _UNPACK),
    (b"Rar!", mark("it is a RAR archive"), _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", mark("it is a 7z archive"), _UNPACK),
    (b"\x1f\x8b", mark("it is a gzip archive"), _UNPACK),
    (b"%PDF", mark("it is a PDF document"), mark("choose another file")),
)
# Brands of still images in MP4-like files (ISO/IEC 23008-12, 10.2; AVIF 1.1, 8).
_HEIC, _AVIF = (mark("it is a HEIC picture"), ".heic"), (mark("it is an AVIF picture"), ".avif")
_STILL_BRANDS = dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), _HEIC)
_STILL_BRANDS |= dict.fromkeys((b"avif", b"avis"), _AVIF)


def is_image(path: str | Path) -> bool:
    """Return whether the suffix is that of an image."""
    return Path(path).suffix.lower() in IMAGE_KINDS


def is_video(path: str | Path) -> bool:
    """Return whether the suffix is that of a video (including GIF)."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def missing_reader_command(path: str | Path) -> str:
    """Return the command that installs a missing library for this image suffix; empty if none is needed."""
    module, command = _READERS.get(IMAGE_KINDS.get(Path(path).suffix.lower(), ""), ("", ""))
    return command if module and find_spec(module) is None else ""


def require_file(path: str | Path) -> Path:
    """Return the absolute path of a readable, non-empty file; else raise MissingFileError or MediaError."""
    path = Path(path).absolute()
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise unreadable_file_error(path, error) from error
        what = tr("the symbolic link is broken") if path.is_symlink() else tr("there is no such file")
        remedy = tr("check the name, the folder and the suffix")
        raise MissingFileError(what, where=str(path), remedy=remedy) from error
    if stat.S_ISDIR(mode):
        what, remedy = tr("this is a folder, not a file"), tr("name a file inside it")
        raise MediaError(what, where=str(path), remedy=remedy)
    if not stat.S_ISREG(mode):  # reading a pipe could block forever
        what, remedy = tr("this is a pipe or device, not a file"), tr("name a file")
        raise MediaError(what, where=str(path), remedy=remedy)
    try:
        require_downloaded(path)
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise unreadable_file_error(path, error) from error
    if empty:
        raise MediaError(tr("the file is empty"), where=str(path), remedy=tr(COPY_AGAIN_REMEDY))
    return path


def unreadable_file_error(path: Path, error: OSError) -> MediaError:
    """Return the error for a file that the system cannot read."""
    what = tr("the file cannot be read ({reason})", reason=error.strerror or error)
    return MediaError(what, where=str(path), remedy=tr("check its permissions and the disk it is on"))


def sniff_file_type(start: bytes) -> tuple[str, str]:
    """Return what a wrongly chosen file really is, and a remedy (texts for ``tr``); empty if not known.

    ``start`` is the whole file or at least its first `SNIFF_BYTES` bytes.
    """
    for signature, what, remedy in _SIGNATURES:
        if start.startswith(signature):
            return what, remedy
    if start[4:8] == b"ftyp" and start[8:12] in _STILL_BRANDS:
        what, suffix = _STILL_BRANDS[start[8:12]]
        if command := missing_reader_command(f"x{suffix}"):
            return what, tr("install the library that reads it: {command}", command=command)
        return what, WRONG_SUFFIX_REMEDY
    if not start.strip(b"\0"):
        return mark("it begins with zero bytes only"), COPY_AGAIN_REMEDY
    try:
        # Incremental, since the last character may be cut off.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start)
    except UnicodeDecodeError:
        return "", ""
    if not all(character.isprintable() or character.isspace() for character in text):
        return "", ""
    if text.lstrip()[:1] == "<":
        remedy = mark("copy or download it again; the link may require a login")
        return mark("it is a web page or an SVG drawing"), remedy
    return mark("it is text"), COPY_AGAIN_REMEDY
