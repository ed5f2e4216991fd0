"""Which person in the targets gets which treatment."""

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
    "frame_processors", "enhancer_blend", "enhancer_weight", "colour_match",
    "face_mask_types", "face_mask_blur", "face_mask_padding", "face_mask_regions",
)  # fmt: skip
"""Settings that may differ for one person; they can only use networks that the run loads anyway."""


@dataclass(frozen=True, eq=False)
class Treatment:
    """What is done to the faces of one person.

    Attributes:
        action: Swap the face, or anonymize it.
        source: ``(512,)`` embedding of the source, as in `Identity`; None if nothing is swapped.
        source_name: Name of the source in reports; "" is the person on the run's own photos.
        settings: Overrides of settings for swapped faces, by name; see `PER_PERSON_SETTINGS`.
        key: SHA-256 of the source photos, which identifies the source across machines, on which embeddings
            differ by rounding errors. Empty if nothing is kept between runs.
        age: Estimated age of the source, in years; None if not estimated.
    """

    action: Action = "swap"
    source: FloatArray | None = None
    source_name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    age: float | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 that is equal only for treatments with the same effect."""
        source = "" if self.source is None else self.key or self.source.astype("<f4").tobytes().hex()
        parts = json.dumps([self.action, source, dict(self.settings)], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


def fallback_treatment(default: Treatment | None, candidates: Iterable[Treatment | None]) -> Treatment | None:
    """Return the treatment of a face that may belong to any of several people, or to an unknown one.

    If any of them is anonymized, so is the face; it is swapped only if all have the same treatment.

    Args:
        default: Treatment of unknown people.
        candidates: Treatments of the known people, in any order.
    """
    candidates = list(candidates)
    if default is not None and default.action != "swap":
        return default
    anonymized = [one for one in candidates if one is not None and one.action != "swap"]
    if anonymized:
        return min(anonymized, key=lambda one: one.digest)
    if default is None:
        return None
    same = all(one is not None and one.digest == default.digest for one in candidates)
    return default if same else None


@dataclass(frozen=True, eq=False)
class KnownPerson:
    """A person in the targets who is known by name.

    Attributes:
        looks: ``(k, 512)`` unit embeddings.
        treatment: Treatment of their faces; None leaves them unchanged.
    """

    name: str
    looks: FloatArray
    treatment: Treatment | None


@dataclass(frozen=True, eq=False)
class Assignment:
    """The treatments of all people in one target.

    Attributes:
        default_treatment: Treatment of those whom the settings or ``person_filter`` select or, with a people
            map, of everybody not in it. None leaves them unchanged.
        person_filter: Selects people by photos; only without a people map.
        people: The known people, by name.
        tracks: Person's name for each track of this target that was identified together with other targets.
            Other tracks are identified by their embeddings.
        looks: ``(512,)`` unit embedding of each of these tracks, to recognise a still picture's faces.
        has_people_map: Whether a people map, even an empty one, selects who is changed instead of settings.
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
        """Assign one source to everybody who is changed; see `Treatment`."""
        return cls(Treatment(source=source, key=key, age=age), person_filter)

    @property
    def treatments(self) -> list[Treatment]:
        """All different treatments, in the order in which they are applied within a frame.

        Anonymization comes last, so that no swap is pasted over an anonymized face; otherwise the order
        depends on the treatments' digests alone.
        """
        treatments = [self.default_treatment, *(person.treatment for person in self.people.values())]
        unique = {one.digest: one for one in treatments if one is not None}
        return sorted(unique.values(), key=lambda one: (one.action != "swap", one.digest))

    def known(self, look: FloatArray, *, limit: float) -> KnownPerson | None:
        """Return the person nearest to an embedding ``(512,)``; None beyond ``limit``, a squared distance."""
        distances = {name: min(face_distance(look, one) for one in person.looks)
                     for name, person in self.people.items() if len(person.looks)}  # fmt: skip
        name = min(distances, key=lambda name: distances[name], default=None)
        return self.people[name] if name is not None and distances[name] <= limit else None
