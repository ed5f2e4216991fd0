"""Who is who in the targets, and what is done to each of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from colab_helpers.faces.geometry import face_distance
from colab_helpers.faces.person_clustering import PersonFilter
from colab_helpers.faces.types import FloatArray

Action = Literal["swap", "blur", "pixelate"]
PER_PERSON_SETTINGS = (
    "frame_processors",
    "enhancer_blend",
    "enhancer_weight",
    "colour_match",
    "face_mask_types",
    "face_mask_blur",
    "face_mask_padding",
    "face_mask_regions",
)
"""Settings that may be another for one person; networks have to be among those that the run loads."""


@dataclass(frozen=True, eq=False)
class Treatment:
    """What is done to the faces of one person.

    Attributes:
        action: Put somebody in, or make them unrecognisable.
        source: ``(512,)`` embedding of who is put in, as `Identity` has it; None where nothing is swapped.
        source_name: What a report calls who is put in; "" is the person on the run's own photos.
        settings: Settings of their own where somebody is put in, by name; see `PER_PERSON_SETTINGS`.
        key: What tells the source from others, on every machine: embeddings differ by a rounding from one to
            another: their photos' SHA-256. Empty where nothing is kept from one run to the next.
        age: How old who is put in seems, in years; None where nobody was asked.
    """

    action: Action = "swap"
    source: FloatArray | None = None
    source_name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    age: float | None = None

    @cached_property
    def digest(self) -> str:
        """Equal only where the same is done to a face."""
        source = "" if self.source is None else self.key or self.source.astype("<f4").tobytes().hex()
        parts = json.dumps([self.action, source, dict(self.settings)], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


def fallback_treatment(
    default_treatment: Treatment | None, may_be: Iterable[Treatment | None]
) -> Treatment | None:
    """Return what is done to a face that may be any of several people's, or somebody's whom nobody knows.

    Whoever may have to be hidden is; nobody is put in who may be wrong there.

    Args:
        default_treatment: What is done to people whom nobody knows.
        may_be: What is done to each of the others, in any order.
    """
    may_be = list(may_be)
    hidden = [one for one in may_be if one is not None and one.action != "swap"]
    if default_treatment is not None and default_treatment.action != "swap":
        return default_treatment
    if hidden:
        return min(hidden, key=lambda one: one.digest)
    same = default_treatment is not None and {one and one.digest for one in may_be} <= {
        default_treatment.digest
    }
    return default_treatment if same else None


@dataclass(frozen=True, eq=False)
class KnownPerson:
    """Somebody in the targets who is known by name.

    Attributes:
        looks: ``(k, 512)`` unit embeddings.
        treatment: What is done to their faces; None leaves them as they are.
    """

    name: str
    looks: FloatArray
    treatment: Treatment | None


@dataclass(frozen=True, eq=False)
class Assignment:
    """What is done to whom in one target.

    Attributes:
        default_treatment: What is done to those whom the settings, or ``person_filter``, choose; where a map
            says who is, to everybody whom it does not know. None leaves them as they are.
        person_filter: Who is changed, where photos say it; without a map only.
        has_people_map: Whether a map says who is changed, even one that knows nobody: then settings have no
        say.
        people: Everybody who is known, by name.
        tracks: Name of the person that a track of this target's shows, where that was decided over more than
            this target. Others are known by their looks.
        looks: ``(512,)`` unit embedding of each of these tracks, by which a picture's faces are told.
    """

    default_treatment: Treatment | None = None
    person_filter: PersonFilter | None = None
    people: Mapping[str, KnownPerson] = field(default_factory=dict)
    tracks: Mapping[int, str] = field(default_factory=dict)
    looks: Mapping[int, FloatArray] = field(default_factory=dict)
    has_people_map: bool = False

    @classmethod
    def of(
        cls,
        source: FloatArray | None,
        person_filter: PersonFilter | None = None,
        *,
        key: str = "",
        age: float | None = None,
    ) -> Assignment:
        """One source for whoever is changed; see `Treatment`."""
        return cls(Treatment(source=source, key=key, age=age), person_filter)

    @property
    def treatments(self) -> list[Treatment]:
        """All that is done to anybody, each once, in the order in which it is done within a frame.

        Nothing is painted over a face that was made unrecognisable; else the order depends on nothing but
        what is done.
        """
        asked = [self.default_treatment, *(person.treatment for person in self.people.values())]
        found = {one.digest: one for one in asked if one is not None}
        return sorted(found.values(), key=lambda one: (one.action != "swap", one.digest))

    def known(self, look: FloatArray, *, limit: float) -> KnownPerson | None:
        """Return who looks most like ``(512,)``; None where nobody is within a squared distance."""
        apart = {name: min(face_distance(look, one) for one in person.looks)
                 for name, person in self.people.items() if len(person.looks)}  # fmt: skip
        name = min(apart, key=lambda name: apart[name], default=None)
        return self.people[name] if name is not None and apart[name] <= limit else None
