"""Taking one file out of a zip without trusting the zip."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from colab_helpers.language import tr

MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 8 * 1024**3
MAX_RATIO = 200
"""Weights hardly shrink; a member this much larger than its packed form is a bomb."""
_RATIO_MATTERS_FROM = 1 << 20
_BLOCK = 1 << 20


class ArchiveError(Exception):
    """A zip that is damaged, dangerous, or does not hold the file."""


def extract_member(archive: Path, member: str, destination: Path, *, expected_bytes: int | None) -> None:
    """Write one member of a zip to a file.

    Nothing else is extracted, and the member's own path is not used; still a zip with paths that lead
    outside, or with links, is refused as a whole: nobody makes one by accident.

    Args:
        archive: The zip.
        member: Its name; found inside a folder as well (antelopev2.zip nests its files).
        destination: Overwritten. May be left incomplete when this raises.
        expected_bytes: Size the member must have; None where unknown.

    Raises:
        ArchiveError: The zip is damaged or dangerous, or does not hold the member once.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
            _refuse_dangerous(infos)
            info = _find(infos, member)
            _refuse_bomb(info, expected_bytes)
            _write(opened, info, destination)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise ArchiveError(tr("the zip is damaged ({error})", error=error)) from error


def _refuse_dangerous(infos: list[zipfile.ZipInfo]) -> None:
    if len(infos) > MAX_MEMBERS:
        raise ArchiveError(tr("the zip has {count} members", count=len(infos)))
    for info in infos:
        # zipfile turns backslashes into slashes on Windows only; the name as stored counts.
        name = info.orig_filename.replace("\\", "/")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or ":" in name or "\0" in name:
            raise ArchiveError(
                tr("the zip holds a path that leads outside: {name!r}", name=info.orig_filename)
            )
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ArchiveError(tr("the zip holds a link: {name!r}", name=info.filename))


def _find(infos: list[zipfile.ZipInfo], member: str) -> zipfile.ZipInfo:
    files = [info for info in infos if not info.is_dir()]
    exact = [info for info in files if info.filename == member]
    found = exact or [info for info in files if info.filename.endswith("/" + member)]
    if len(found) != 1:
        raise ArchiveError(
            tr("the zip holds {member!r} {count} times instead of once", member=member, count=len(found))
        )
    return found[0]


def _refuse_bomb(info: zipfile.ZipInfo, expected_bytes: int | None) -> None:
    if info.flag_bits & 0x1:
        raise ArchiveError(tr("{name!r} is encrypted", name=info.filename))
    if expected_bytes is not None and info.file_size != expected_bytes:
        raise ArchiveError(
            tr(
                "{name!r} has {size} bytes instead of {expected}",
                name=info.filename,
                size=info.file_size,
                expected=expected_bytes,
            )
        )
    if info.file_size > MAX_MEMBER_BYTES:
        raise ArchiveError(
            tr("{name!r} would unpack to {size} bytes", name=info.filename, size=info.file_size)
        )
    if info.file_size > max(_RATIO_MATTERS_FROM, MAX_RATIO * info.compress_size):
        raise ArchiveError(
            tr(
                "{name!r} unpacks to {ratio} times its size and more: a zip bomb",
                name=info.filename,
                ratio=MAX_RATIO,
            )
        )


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, destination: Path) -> None:
    # zipfile stops at the declared size and checks the CRC, so a lying header cannot fill the disk.
    with opened.open(info) as packed, destination.open("wb") as file:
        while block := packed.read(_BLOCK):
            file.write(block)
