"""Read photos: the source identity, and the people who are changed or never changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from colab_helpers.batch.job import Source
from colab_helpers.errors import UsageError
from colab_helpers.faces.analyser import unit
from colab_helpers.faces.assignment import Assignment
from colab_helpers.faces.engine import Engine
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.photos import Identity
from colab_helpers.faces.types import FloatArray
from colab_helpers.language import tr
from colab_helpers.media.images import read_image


def identity_of(engine: Engine, sources: Sequence[Source]) -> Identity | None:
    """Return the identity in the source photos; None if no face is swapped.

    Raises:
        UsageError: There is no photo, or they show several people.
        NoFaceError: No photo shows a usable face.
        MediaError: No photo can be read.
    """
    if engine.swapper is None:
        return None
    if not sources:
        remedy = tr("name at least one photo of the person to put in")
        raise UsageError(tr("no source photo was given"), remedy=remedy)
    return engine.identity([(source.name, partial(read_image, source.image)) for source in sources])


def request_assignment(
    identity: Identity | None, person_filter: PersonFilter | None = None, *, key: str = ""
) -> Assignment:
    """Return the assignment without a map: swap in an identity, or without one only enhance."""
    if identity is None:
        return Assignment.of(None, person_filter, key=key)
    return Assignment.of(identity.embedding, person_filter, key=key, age=identity.age)


def load_person_filter(
    engine: Engine, target_person: Sequence[str], never: Sequence[str]
) -> tuple[PersonFilter | None, list[str]]:
    """Return a filter of the people to change, None without photos, and notes of a sentence each.

    Args:
        engine: Detects and embeds the faces.
        target_person: Photos of the only person to change.
        never: Photos whose faces, all of them, are never changed.

    Raises:
        ColabHelpersError: A photo cannot be read or shows no face, or those of ``target_person`` disagree.
    """
    if not target_person and not never:
        return None, []
    wanted, notes, spared = None, [], list[FloatArray]()
    if target_person:
        photos = [Source.of(photo) for photo in target_person]
        person = engine.identity([(photo.name, partial(read_image, photo.image)) for photo in photos])
        wanted = unit(person.embedding)
        notes = [tr("only the person in {photos} is changed", photos=", ".join(person.photos)), *person.notes]
    for photo in map(Source.of, never):
        spared += map(unit, engine.embeddings(photo.name, read_image(photo.image)))
        notes.append(tr("whoever is in {photo} is never changed", photo=photo.name))
    return PersonFilter(wanted, tuple(spared)), notes
