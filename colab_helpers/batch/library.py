"""Libraries of people, ``library/NAME/*.jpg``, and the photos that names, folders and paths stand for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from colab_helpers.batch.job import Source
from colab_helpers.batch.object_store import sync_inputs
from colab_helpers.batch.plan import UNLISTED, notes_on_skipped
from colab_helpers.errors import ConsentError, MissingFileError, wrap_os_error
from colab_helpers.files import absolute, natural_key
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image, missing_reader_command
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import parse_consent
from colab_helpers.trust.marking import GENERATED_SOURCE_TYPE

_HEADER_BYTES = 1 << 20  # metadata come before the pixels, within so many bytes


def library_names(library: Path | None) -> list[str]:
    """List the people of a library in natural order, whatever their folders contain; none without a library.

    Raise MissingFileError if the library cannot be listed.
    """
    if library is None:
        return []
    remedy = mark("set library to a folder that contains a folder of photos for each person")
    with wrap_os_error(MissingFileError, UNLISTED, library, remedy):
        names = [path.name for path in library.iterdir() if path.is_dir() and path.name[0] != "."]
    return sorted(names, key=natural_key)


def synthetic_people(library: Path | None) -> list[str]:
    """List the synthetic people of a library.

    Both the statement of consent beside the folder and the metadata of every photo must say so, since photos
    of a real person may have been added to the folder, or have replaced the portrait.
    """
    names = []
    for name in library_names(library):
        with suppress(ConsentError, MissingFileError):  # no statement, or an unreadable one
            people = parse_consent(f"{library}/{name}.consent.yaml").people
            if any((person.name, person.ground) == (name, "synthetic") for person in people):
                names += [name] if all(map(_is_generated, find_photos(f"{library}/{name}"))) else []
    return names


def _is_generated(photo: str) -> bool:
    """Return whether a photo's metadata declares it as entirely generated."""
    with suppress(OSError), Path(photo).open("rb") as file:
        return GENERATED_SOURCE_TYPE.encode() in file.read(_HEADER_BYTES)
    return False


def expand_photo_folders(request: BatchRequest) -> tuple[BatchRequest, list[str]]:
    """Replace folders of photos in a request by their photos; also return notes on skipped files."""
    named = {name: getattr(request, name) for name in ("sources", "target_person", "never")}
    sources = {name: expand_photos(map(Source.of, paths), request.library) for name, paths in named.items()}
    folders = [Path(path) for paths in named.values() for path in paths if os.path.isdir(path)]  # noqa: PTH112
    photos = {name: [photo.image for photo in found] for name, found in sources.items()}
    return request.with_values(**photos), notes_on_skipped(folders, wanted=is_photo)


def expand_photos(sources: Iterable[Source], library: Path | None = None) -> list[Source]:
    """Replace each folder by its photos.

    Raise MissingFileError if a folder contains none, or the library has no such name.
    """
    expanded = list[Source]()
    for source in sources:
        path = source.path
        if library and path is not None and not path.suffix and not path.exists():
            what = tr("no such file, and no person of that name in the library")
            remedy = tr("name one of {names}", names=", ".join(library_names(library)))
            raise MissingFileError(what, where=source.name, remedy=remedy)
        is_folder = path is not None and path.is_dir()
        expanded += map(Source.of, find_photos(source.image)) if is_folder else [source]
    return expanded


def find_photos(location: str) -> list[str]:
    """Return a file or ``data:`` URL itself, or the photos in a folder in natural order.

    Raise MissingFileError if there is no such path, or no photo in the folder.
    """
    if location.startswith("data:"):
        return [location]
    path = absolute(location)
    sync_inputs(None, (), [path])
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise MissingFileError(tr("no such file or folder"), where=location, remedy=tr("check the path"))
    photos = (item for item in path.iterdir() if item.is_file() and is_photo(item))
    found = sorted(photos, key=lambda item: natural_key(item.name))
    if not found:
        remedy = "; ".join([*notes_on_skipped([path], wanted=is_photo), tr("name another folder")])
        raise MissingFileError(tr("the folder contains no photo"), where=location, remedy=remedy)
    return [str(item) for item in found]


def is_photo(path: Path) -> bool:
    """Return whether a file in a folder counts as a photo: an image that can be read here."""
    return is_image(path) and not missing_reader_command(path)
