"""The library of people: photos saved under a name, for later runs."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from colab_helpers.errors import MediaError, MissingFileError, OutputError, UsageError
from colab_helpers.files import sha256_of
from colab_helpers.language import tr
from colab_helpers.media.images import read_image, write_image

PEOPLE = "people"
"""Folder of the library, in the host's home folder."""

_CARD = "person.json"
_NAME = re.compile(r"\w(?:[\w .'-]{0,58}\w)?")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Person(BaseModel):
    """Somebody in the library; written as ``person.json`` beside the photos.

    Attributes:
        saved: Day, as ``2026-11-21``.
        consent: The statement of consent as it stood when the person was saved.
        photos: Names of the files and their SHA-256.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: str
    saved: str
    consent: str
    photos: dict[str, str]


class PeopleLibrary:
    """People whose photos are kept for later runs, one folder each.

    Args:
        home: The host's home folder.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / PEOPLE

    def people(self) -> list[Person]:
        """Everybody, by name; what is no person's folder is passed over."""
        found = [self._card(path) for path in sorted(self.folder.glob(f"*/{_CARD}"))]
        return [person for person in found if person is not None]

    def _card(self, path: Path) -> Person | None:
        try:
            person = Person.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None
        return person if person.name == path.parent.name else None

    def photos(self, name: str) -> list[Path]:
        """The photos of somebody.

        Raises:
            UsageError: The name cannot be one.
            MissingFileError: Nobody of that name is in the library, or a photo is gone or was changed.
        """
        folder = self.folder / checked_name(name)
        person = self._card(folder / _CARD)
        if person is None:
            raise MissingFileError(
                tr("nobody called {name!r} is in the library", name=name), where=str(folder)
            )
        paths = [folder / Path(photo).name for photo in person.photos]
        for path, digest in zip(paths, person.photos.values(), strict=True):
            if not path.is_file() or sha256_of(path) != digest:
                raise MissingFileError(
                    tr("the photo is gone or was changed"),
                    where=str(path),
                    remedy=tr("save the person again"),
                )
        return paths

    def save(self, name: str, photos: Sequence[str], *, consent: str) -> Person:
        """Copy photos into the library, all of them or none; another person of that name is replaced.

        Args:
            name: Letters, digits, blanks and ``.``, ``-``, ``'``, ``_``.
            photos: Paths or data URLs.
            consent: On what ground this person may be shown.

        Raises:
            UsageError: The name cannot be one, or there are no photos.
            MediaError: A photo cannot be read.
            OutputError: The library cannot be written.
        """
        place = self.folder / checked_name(name)
        if not photos:
            raise UsageError(tr("there are no photos to save"), remedy=tr("add photos first"))
        fresh, old = self.folder / f".{name}.new", self.folder / f".{name}.old"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            person = Person(
                name=name,
                saved=time.strftime("%Y-%m-%d"),
                consent=consent,
                photos=dict(_copied(photo, fresh, number) for number, photo in enumerate(photos, 1)),
            )
            (fresh / _CARD).write_text(person.model_dump_json(indent=2) + "\n", encoding="utf-8")
            _exchange(fresh, place, old)
        except MediaError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        except OSError as error:
            raise OutputError(
                tr("the person cannot be saved ({reason})", reason=error.strerror or error),
                where=str(place),
                remedy=tr("check your rights to the folder, or name another in COLAB_HELPERS_HOME"),
            ) from error
        return person

    def remove(self, name: str) -> None:
        """Delete somebody and the copies of their photos.

        Raises:
            UsageError: The name cannot be one.
        """
        shutil.rmtree(self.folder / checked_name(name), ignore_errors=True)


def checked_name(name: str) -> str:
    """A name that is safe as a folder's.

    Raises:
        UsageError: It is not.
    """
    if not _NAME.fullmatch(name) or ".." in name or _RESERVED.fullmatch(name):
        raise UsageError(
            tr("{name!r} cannot be a name in the library", name=name),
            remedy=tr(
                "use letters, digits, blanks, dots and dashes, at most 60; a letter or digit at both ends"
            ),
        )
    return name


def _copied(photo: str, folder: Path, number: int) -> tuple[str, str]:
    """Copy one photo; returns its name there and its hash."""
    image = read_image(photo)  # whatever cannot be read need not be kept
    if photo.startswith("data:"):
        copy = write_image(folder / f"{number:02d}.png", image)
    else:
        source = Path(photo)
        copy = folder / f"{number:02d}{source.suffix.lower()}"
        shutil.copyfile(source, copy)
    return copy.name, sha256_of(copy)


def _exchange(fresh: Path, place: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)
