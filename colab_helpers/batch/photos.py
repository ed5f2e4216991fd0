"""Who photos show: who is put in, who is changed, and who never is."""

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
    """Find out who the sources show; None where no face is swapped.

    UsageError without a photo or with several people; NoFaceError, MediaError where no photo is of use.
    """
    if engine.swapper is None:
        return None
    if not sources:
        raise UsageError(
            tr("no source photo was given"), remedy=tr("name at least one photo of the person to put in")
        )
    return engine.identity([(source.name, partial(read_image, source.image)) for source in sources])


def request_assignment(
    identity: Identity | None, person_filter: PersonFilter | None = None, *, key: str = ""
) -> Assignment:
    """Return what is done where no map says it: somebody is put in, or faces are enhanced as they are."""
    if identity is None:
        return Assignment.of(None, person_filter, key=key)
    return Assignment.of(identity.embedding, person_filter, key=key, age=identity.age)


def load_person_filter(
    engine: Engine, target_person: Sequence[str], never: Sequence[str]
) -> tuple[PersonFilter | None, list[str]]:
    """Find out who is changed and who never is, by photos; None without any; also notes, a sentence each.

    All photos of the ``target_person`` show one person; of those of ``never`` all faces count.
    ColabHelpersError where a photo cannot be read or shows no face, or the photos of the person do not agree.
    """
    if not target_person and not never:
        return None, []
    wanted, notes, spared = None, [], list[FloatArray]()
    if target_person:
        photos = [Source.of(photo) for photo in target_person]
        person = engine.identity([(photo.name, partial(read_image, photo.image)) for photo in photos])
        wanted = unit(person.embedding)
        notes = [tr("only the person on {photos} is changed", photos=", ".join(person.photos)), *person.notes]
    for photo in map(Source.of, never):
        spared += map(unit, engine.embeddings(photo.name, read_image(photo.image)))
        notes.append(tr("whoever is on {photo} is never changed", photo=photo.name))
    return PersonFilter(wanted, tuple(spared)), notes
