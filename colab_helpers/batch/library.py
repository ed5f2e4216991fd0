"""A library of people, ``library/NAME/*.jpg``, and the photos that a name, a folder or a path stands for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from colab_helpers.batch.job import Source
from colab_helpers.batch.object_store import sync_inputs
from colab_helpers.batch.plan import UNLISTED, skipped_files
from colab_helpers.errors import ConsentError, MissingFileError, wrap_os_error
from colab_helpers.files import absolute, natural_key
from colab_helpers.language import mark, tr
from colab_helpers.media.inputs import is_image, missing_reader_command
from colab_helpers.request import BatchRequest
from colab_helpers.trust.consent import parse_consent
from colab_helpers.trust.marking import GENERATED_SOURCE_TYPE

_HEAD = 1 << 20  # bytes of a picture in which metadata stand, before its pixels


def library_names(library: Path | None) -> list[str]:
    """List the people of a library in natural order, whatever their folders hold; none without a library.

    MissingFileError where it is no folder that can be listed.
    """
    if library is None:
        return []
    remedy = mark("name a folder that holds a folder of photos for each person in library")
    with wrap_os_error(MissingFileError, UNLISTED, library, remedy):
        names = [path.name for path in library.iterdir() if path.is_dir() and path.name[0] != "."]
    return sorted(names, key=natural_key)


def synthetic_people(library: Path | None) -> list[str]:
    """List those of a library who do not exist.

    The statement of consent beside each has it, and so has each of the photos: who puts one of somebody real
    there, or has a folder where a portrait was, has stated nothing of them.
    """
    found = []
    for name in library_names(library):
        with suppress(ConsentError, MissingFileError):  # none is there, or none that can be read
            stated = parse_consent(f"{library}/{name}.consent.yaml").people
            if any((one.name, one.ground) == (name, "synthetic") for one in stated):
                found += [name] if all(map(_says_created, find_photos(f"{library}/{name}"))) else []
    return found


def _says_created(photo: str) -> bool:
    """Whether a photo's own metadata says that a network made all of it."""
    with suppress(OSError), Path(photo).open("rb") as file:
        return GENERATED_SOURCE_TYPE.encode() in file.read(_HEAD)
    return False


def expand_photo_folders(request: BatchRequest) -> tuple[BatchRequest, list[str]]:
    """Return a request in which photos stand in place of their folders; also what of those is left out."""
    named = {name: getattr(request, name) for name in ("sources", "target_person", "never")}
    found = {name: expand_photos(map(Source.of, paths), request.library) for name, paths in named.items()}
    folders = [Path(path) for paths in named.values() for path in paths if os.path.isdir(path)]  # noqa: PTH112
    photos = {name: [one.image for one in each] for name, each in found.items()}
    return request.with_values(**photos), skipped_files(folders, wanted=is_photo)


def expand_photos(sources: Iterable[Source], library: Path | None = None) -> list[Source]:
    """Put the photos of each folder in its place.

    MissingFileError where a folder holds none, or there is no such name in the library.
    """
    found = list[Source]()
    for source in sources:
        path = source.path
        if library and path is not None and not path.suffix and not path.exists():
            what = tr("there is neither such a file nor anybody of that name in the library")
            remedy = tr("name one of {names}", names=", ".join(library_names(library)))
            raise MissingFileError(what, where=source.name, remedy=remedy)
        found += map(Source.of, find_photos(source.image)) if path is not None and path.is_dir() else [source]
    return found


def find_photos(written: str) -> list[str]:
    """Find the photos that a person means: a file, those of a folder in natural order, or a data URL."""
    if written.startswith("data:"):
        return [written]
    path = absolute(written)
    sync_inputs(None, (), [path])
    if path.is_file():
        return [str(path)]
    if not path.is_dir():
        raise MissingFileError(
            tr("there is no such file or folder"), where=written, remedy=tr("check the path")
        )
    photos = (item for item in path.iterdir() if item.is_file() and is_photo(item))
    found = sorted(photos, key=lambda item: natural_key(item.name))
    if not found:
        remedy = "; ".join([*skipped_files([path], wanted=is_photo), tr("name another")])
        raise MissingFileError(tr("the folder holds no photo"), where=written, remedy=remedy)
    return [str(item) for item in found]


def is_photo(path: Path) -> bool:
    """Whether a file of a folder is taken as a photo."""
    return is_image(path) and not missing_reader_command(path)
