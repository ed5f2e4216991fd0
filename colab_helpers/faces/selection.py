"""Which of a frame's faces are changed, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from colab_helpers.errors import NoFaceError
from colab_helpers.faces.assignment import Assignment, KnownPerson, Treatment, fallback_treatment
from colab_helpers.faces.geometry import face_distance
from colab_helpers.faces.person_clustering import (
    PersonFilter,
    TrackSummary,
    cluster_tracks,
    group_tracks,
    is_identifiable,
    mean_embedding,
)
from colab_helpers.faces.tracks import Track
from colab_helpers.faces.types import UNKNOWN, Face, FloatArray
from colab_helpers.language import tr
from colab_helpers.settings import FaceOrder, Settings

_KEYS: dict[FaceOrder, Callable[[Face], float]] = {
    "largest": lambda face: -face.area,
    "smallest": lambda face: face.area,
    "left-right": lambda face: face.centre[0],
    "right-left": lambda face: -face.centre[0],
    "top-bottom": lambda face: face.centre[1],
    "bottom-top": lambda face: -face.centre[1],
    "best": lambda face: -face.score,
}


_SAME_FACE = 0.2
"""Squared distance up to which two looks at one face of one picture differ, from one machine to another."""


def order_faces(faces: Sequence[Face], order: FaceOrder) -> list[Face]:
    """Sort the faces of one frame."""
    return sorted(faces, key=_KEYS[order])


def needs_embeddings(settings: Settings) -> bool:
    """Whether the choice depends on who the faces are."""
    return not settings.many_faces and settings.face_selector == "reference"


def select_faces(
    faces: Sequence[Face], settings: Settings, *, person_filter: PersonFilter | None = None
) -> list[Face]:
    """Keep the faces that are to be changed.

    Args:
        faces: All faces of one frame; with embeddings where somebody is sought.
        settings: ``many_faces``, ``face_selector``, ``face_min_size``, sex and age asked for, ``face_order``,
            ``reference_face_position`` and ``similar_face_distance`` decide.
        person_filter: Who is changed, or never is, where that is asked for by name; where it says who, other
            settings have no say.
    """
    ordered = order_faces(faces, settings.face_order)
    if person_filter is None or person_filter.wanted is None:
        ordered = [face for face in ordered if _is_meant(face, settings)]
    if person_filter is not None:
        apart = [(person_filter.distance(face.embedding, limit=settings.similar_face_distance), face)
                 for face in ordered if face.embedding is not None]  # fmt: skip
        picked = [pair for pair in apart if pair[0] < np.inf]
        if person_filter.wanted is not None:
            picked = sorted(picked, key=lambda pair: pair[0])[:1]
        return [face for _, face in picked]
    if settings.many_faces:
        return ordered
    if settings.face_selector != "reference":
        ordered = order_faces(ordered, "largest") if settings.face_selector == "principal" else ordered
        position = settings.reference_face_position
        return ordered[position : position + 1]
    raise ValueError("face_selector=reference needs to know who is sought")


def _is_meant(face: Face, settings: Settings) -> bool:
    """Whether a face, or the mean of a person's, is as large and of the sex and age that settings ask for.

    Who was never asked, or seems as often the one as the other, is not: it may be somebody who is left.
    """
    male, age = face.attributes.tolist()
    sexes = {"any": True, "female": male < 0.5, "male": male > 0.5}
    aged = settings.face_selector_age_start <= age <= settings.face_selector_age_end
    meant = not settings.asks_attributes or (sexes[settings.face_selector_gender] and aged)
    return meant and face.area >= settings.face_min_size**2


class Selection:
    """Which faces of a video are changed: decided for each person over the whole video, not frame by frame.

    Args:
        settings: As for `select_faces`.
        assignment: What is done to whom.

    Attributes:
        assignment: As given.
        needs_all_tracks: Whether `decide` has to be told all tracks before `of` can answer.
    """

    def __init__(self, settings: Settings, assignment: Assignment) -> None:
        self._settings, self.assignment = settings, assignment
        chooses = not settings.many_faces or settings.face_min_size > 0 or settings.asks_attributes
        self.needs_all_tracks = assignment.has_people_map or assignment.person_filter is not None or chooses
        self._done = {one.digest: _done(one, settings) for one in assignment.treatments}
        self._rank: Mapping[int | None, float] = {}
        self._people: dict[int | None, KnownPerson] = {}
        self._doubtful: dict[int | None, Treatment | None] = {}

    def treatment(self, track: int | None) -> Treatment | None:
        """Return what is done to the faces of a track that are changed; None where they never are."""
        person = self._people.get(track)
        if person is None:
            return self._doubtful.get(track, self.assignment.default_treatment)
        return person.treatment

    def name(self, track: int | None) -> str | None:
        """Return who of the people that are known a track shows; None for everybody else."""
        person = self._people.get(track)
        return None if person is None else person.name

    def actions(self, faces: Iterable[Face]) -> set[str]:
        """Return what is done to any of the faces that are changed: swap, enhance, blur, pixelate."""
        treatments = {one.digest for face in faces if (one := self.treatment(face.track)) is not None}
        return {action for digest in treatments for action in self._done[digest]}

    def decide(self, tracks: Sequence[Track]) -> None:
        """Rank the tracks of a whole video."""
        settings, person_filter = self._settings, self.assignment.person_filter
        if self.assignment.has_people_map:
            self._recognise(tracks)
            return
        if person_filter is not None:
            seen = [one for track in tracks if (one := TrackSummary.of("", track)) is not None]
            ranks = person_filter.tracks(seen, limit=settings.similar_face_distance)
            if person_filter.wanted is None:
                meant = [person for person in group_tracks(tracks) if _is_meant(_typical(person), settings)]
                ranks = {one.number: 0.0 for person in meant for one in person if one.number in ranks}
            self._rank = ranks
            return
        if not self.needs_all_tracks:
            return
        ranks = {}
        for person in group_tracks(tracks):
            typical = _typical(person)
            rank = _KEYS[settings.face_order](typical)
            if settings.face_selector == "principal":
                rank = -sum(track.area / track.found * (track.last + 1 - track.first) for track in person)
            if _is_meant(typical, settings):
                ranks |= dict.fromkeys((track.number for track in person), rank)
        self._rank = ranks

    def _recognise(self, tracks: Sequence[Track]) -> None:
        """Find out which of the people who are known each track shows.

        Whoever was hardly seen and looks like nobody may be anybody; see `fallback_treatment`.
        """
        assignment = self.assignment
        told = ((number, assignment.people.get(name)) for number, name in assignment.tracks.items())
        self._people = {number: person for number, person in told if person is not None}
        left = [track for track in tracks if track.number not in assignment.tracks]
        seen = [one for track in left if (one := TrackSummary.of("", track)) is not None]
        doubtful = [track.number for track in left if track.embedding is None]
        for group in cluster_tracks(seen):
            shown = [seen[n] for n in group]
            person = assignment.known(mean_embedding(shown), limit=self._settings.similar_face_distance)
            if person is not None:
                self._people |= dict.fromkeys((one.track for one in shown), person)
            elif not is_identifiable(shown):
                doubtful += [one.track for one in shown]
        done = fallback_treatment(
            assignment.default_treatment, (person.treatment for person in assignment.people.values())
        )
        self._doubtful = dict.fromkeys(doubtful, done)

    def of(self, faces: Sequence[Face]) -> list[Face]:
        """Return those of a frame's faces that are changed."""
        settings, person_filter = self._settings, self.assignment.person_filter
        everybody = settings.many_faces if person_filter is None else person_filter.wanted is None
        faces = [face for face in faces if self.treatment(face.track) is not None]
        if self.assignment.has_people_map or not self.needs_all_tracks:
            return order_faces(faces, settings.face_order)
        ranked = [face for face in faces if face.track in self._rank]
        if everybody:
            return order_faces(ranked, settings.face_order)
        ranked.sort(key=lambda face: self._rank[face.track])
        position = settings.reference_face_position if person_filter is None else 0
        return ranked[position : position + 1]

    def in_picture(self, faces: Sequence[Face]) -> list[Face]:
        """Return those of a single picture's faces that are changed, each with a track of its own.

        Args:
            faces: With embeddings where people are known or sought, or sex or age is asked for.
        """
        settings, assignment = self._settings, self.assignment
        faces = [replace(face, track=number) for number, face in enumerate(faces)]
        if not assignment.has_people_map:
            return (
                select_faces(faces, settings, person_filter=assignment.person_filter)
                if assignment.default_treatment is not None
                else []
            )
        for face in faces:
            assert face.embedding is not None
            assert face.track is not None
            seen = assignment.looks.get(face.track)
            if seen is not None and face_distance(face.embedding, seen) <= _SAME_FACE:
                person = assignment.people.get(assignment.tracks[face.track])
            else:  # faces may be found in another order, or others, than when that was decided
                person = assignment.known(face.embedding, limit=settings.similar_face_distance)
            if person is not None:
                self._people[face.track] = person
        return self.of(faces)


class FacesDigest:
    """Tells apart what faces, where, and how, were to be changed over consecutive frames."""

    def __init__(self, selection: Selection) -> None:
        self._digest, self._selection = hashlib.sha256(), selection

    def add(self, faces: Sequence[Face]) -> None:
        """Add the faces of the next frame."""
        self._digest.update(len(faces).to_bytes(4, "little"))
        for face in faces:
            numbers = [*face.box, *face.kps.ravel(), face.weight]
            self._digest.update(np.array(numbers, np.float32).tobytes())
            treatment = self._selection.treatment(face.track)
            self._digest.update(treatment.digest.encode() if treatment is not None else b"")

    def take(self) -> str:
        """Return the digest of the frames since this was last asked."""
        digest, self._digest = self._digest.hexdigest(), hashlib.sha256()
        return digest


def _done(treatment: Treatment, settings: Settings) -> list[str]:
    """What a treatment really does to a face, with the steps of its own where it has any."""
    if treatment.action != "swap":
        return [treatment.action]
    own = treatment.settings.get("frame_processors", "auto")
    steps = (settings if own == "auto" else settings.with_overrides(frame_processors=own)).frame_processors
    done = {
        "swap": "face_swapper" in steps and treatment.source is not None,
        "enhance": "face_enhancer" in steps,
    }
    return [action for action, does in done.items() if does]


def _typical(person: Sequence[Track]) -> Face:
    """A face as large, as far to a side, as sure and as old as a person's are on average."""
    found = sum(track.found for track in person)
    centre = sum(track.centre for track in person) / found
    half = float(np.sqrt(sum(track.area for track in person) / found)) / 2
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    asked = sum(track.asked for track in person)
    told = np.sum([track.attributes for track in person], 0) / asked if asked else UNKNOWN
    score = sum(track.score for track in person) / found
    return Face(box, np.zeros((5, 2), np.float32), score, attributes=told)


def reference_embedding(faces: Sequence[Face], settings: Settings, *, where: str) -> FloatArray:
    """The embedding of the face that the settings name as reference.

    Raises:
        NoFaceError: The reference frame shows fewer faces than ``reference_face_position`` asks for.
    """
    ordered = order_faces(faces, settings.face_order)
    position = settings.reference_face_position
    if position >= len(ordered) or ordered[position].embedding is None:
        raise NoFaceError(
            tr(
                "frame {frame} shows {faces} face(s), but reference_face_position is {position}",
                frame=settings.reference_frame_number,
                faces=len(ordered),
                position=position,
            ),
            where=where,
            remedy=tr("choose another reference_frame_number or reference_face_position"),
        )
    embedding = ordered[position].embedding
    assert embedding is not None
    return embedding
