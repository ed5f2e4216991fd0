"""Taking one file out of a zip, whose own hash was checked before."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from colab_helpers.language import tr


class ArchiveError(Exception):
    """A zip that is damaged, or does not hold the file."""


def extract_member(archive: Path, member: str, destination: Path, *, expected_bytes: int | None) -> None:
    """Write one member of a zip to a file; its own path is not used, and nothing else is extracted.

    Args:
        archive: The zip.
        member: Its name; found inside a folder as well (antelopev2.zip nests its files).
        destination: Overwritten. May be left incomplete when this raises.
        expected_bytes: Size the member must have; None where unknown.

    Raises:
        ArchiveError: The zip is damaged, or does not hold the member once, or with another size.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [info for info in opened.infolist() if f"/{info.filename}".endswith(f"/{member}")]
            if len(found) != 1:
                raise ArchiveError(
                    tr(
                        "the zip holds {member!r} {count} times instead of once",
                        member=member,
                        count=len(found),
                    )
                )
            size = found[0].file_size
            if expected_bytes not in (None, size):
                raise ArchiveError(
                    tr(
                        "{name!r} has {size} bytes instead of {expected}",
                        name=found[0].filename,
                        size=size,
                        expected=expected_bytes,
                    )
                )
            with opened.open(found[0]) as packed, destination.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(tr("the zip is damaged ({error})", error=error)) from error
