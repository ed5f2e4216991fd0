"""Selection of the faces to change, and of the treatment of each."""

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
from colab_helpers.language import mark, tr
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
_SAME_FACE = 0.2  # maximum squared distance of embeddings of one face in one picture on different machines


def order_faces(faces: Sequence[Face], order: FaceOrder) -> list[Face]:
    """Sort the faces of one frame."""
    return sorted(faces, key=_KEYS[order])


def needs_embeddings(settings: Settings) -> bool:
    """Return whether the selection depends on embeddings."""
    return not settings.many_faces and settings.face_selector == "reference"


def select_faces(
    faces: Sequence[Face], settings: Settings, *, person_filter: PersonFilter | None = None
) -> list[Face]:
    """Select the faces of a single frame to change.

    Args:
        faces: All faces of the frame; with embeddings if there is a ``person_filter``.
        settings: Used are ``many_faces``, ``face_selector``, ``face_min_size``, sex and age, ``face_order``,
            ``reference_face_position`` and ``similar_face_distance``.
        person_filter: Selects or excludes people; a wanted person overrides the other settings.

    Raises:
        ValueError: ``face_selector`` is ``reference``, but there is no ``person_filter``.
    """
    ordered = order_faces(faces, settings.face_order)
    if person_filter is None or person_filter.wanted is None:
        ordered = [face for face in ordered if _is_eligible(face, settings)]
    if person_filter is not None:
        pairs = [(person_filter.distance(face.embedding, limit=settings.similar_face_distance), face)
                 for face in ordered if face.embedding is not None]  # fmt: skip
        pairs = [pair for pair in pairs if pair[0] < np.inf]
        if person_filter.wanted is not None:
            pairs = sorted(pairs, key=lambda pair: pair[0])[:1]
        return [face for _, face in pairs]
    if settings.many_faces:
        return ordered
    if settings.face_selector != "reference":
        ordered = order_faces(ordered, "largest") if settings.face_selector == "principal" else ordered
        position = settings.reference_face_position
        return ordered[position : position + 1]
    raise ValueError("face_selector=reference needs a person_filter")


def _is_eligible(face: Face, settings: Settings) -> bool:
    """Return whether a face, or a person's average face, has the size, sex and age that the settings require.

    A face of unknown or ambiguous sex is not eligible if the settings require one.
    """
    male, age = face.attributes.tolist()
    sexes = {"any": True, "female": male < 0.5, "male": male > 0.5}
    age_fits = settings.face_selector_age_start <= age <= settings.face_selector_age_end
    eligible = not settings.needs_attributes or (sexes[settings.face_selector_gender] and age_fits)
    return eligible and face.area >= settings.face_min_size**2


class Selection:
    """Selects the faces of a video to change: for each person over the whole video, not frame by frame.

    Args:
        settings: See `select_faces`.
        assignment: Treatments of the people.

    Attributes:
        needs_all_tracks: Whether `decide` must be called with all tracks before `of`.
    """

    def __init__(self, settings: Settings, assignment: Assignment) -> None:
        self._settings, self.assignment = settings, assignment
        by_settings = not settings.many_faces or settings.face_min_size > 0 or settings.needs_attributes
        by_person = assignment.has_people_map or assignment.person_filter is not None
        self.needs_all_tracks = by_person or by_settings
        self._applied_actions = {one.digest: _applied_actions(one, settings) for one in assignment.treatments}
        self._rank: Mapping[int | None, float] = {}
        self._people: dict[int | None, KnownPerson] = {}
        self._fallbacks: dict[int | None, Treatment | None] = {}

    def treatment(self, track: int | None) -> Treatment | None:
        """Return the treatment of a track's faces where they are selected; None if they are never changed."""
        person = self._people.get(track)
        if person is None:
            return self._fallbacks.get(track, self.assignment.default_treatment)
        return person.treatment

    def name(self, track: int | None) -> str | None:
        """Return the name of the known person that a track shows; None for an unknown one."""
        person = self._people.get(track)
        return None if person is None else person.name

    def actions(self, faces: Iterable[Face]) -> set[str]:
        """Return the actions applied to these faces: swap, enhance, blur, pixelate."""
        treatments = {one.digest for face in faces if (one := self.treatment(face.track)) is not None}
        return {action for digest in treatments for action in self._applied_actions[digest]}

    def decide(self, tracks: Sequence[Track]) -> None:
        """Decide, from all tracks of a video, which are changed and in which order of preference."""
        settings, person_filter = self._settings, self.assignment.person_filter
        if self.assignment.has_people_map:
            self._recognise(tracks)
            return
        if person_filter is not None:
            seen = [one for track in tracks if (one := TrackSummary.of("", track)) is not None]
            ranks = person_filter.tracks(seen, limit=settings.similar_face_distance)
            if person_filter.wanted is None:
                people = [group for group in group_tracks(tracks) if _is_eligible(_average(group), settings)]
                ranks = {one.number: 0.0 for group in people for one in group if one.number in ranks}
            self._rank = ranks
            return
        if not self.needs_all_tracks:
            return
        ranks = {}
        for person in group_tracks(tracks):
            average = _average(person)
            rank = _KEYS[settings.face_order](average)
            if settings.face_selector == "principal":
                rank = -sum(track.area / track.found * (track.last + 1 - track.first) for track in person)
            if _is_eligible(average, settings):
                ranks |= dict.fromkeys((track.number for track in person), rank)
        self._rank = ranks

    def _recognise(self, tracks: Sequence[Track]) -> None:
        """Identify the known person, if any, that each track shows.

        Tracks with too few embeddings to be identified get the `fallback_treatment`.
        """
        assignment = self.assignment
        pairs = ((number, assignment.people.get(name)) for number, name in assignment.tracks.items())
        self._people = {number: person for number, person in pairs if person is not None}
        others = [track for track in tracks if track.number not in assignment.tracks]
        summaries = [one for track in others if (one := TrackSummary.of("", track)) is not None]
        unidentified = [track.number for track in others if track.embedding is None]
        for group in cluster_tracks(summaries):
            same = [summaries[n] for n in group]
            person = assignment.known(mean_embedding(same), limit=self._settings.similar_face_distance)
            if person is not None:
                self._people |= dict.fromkeys((one.track for one in same), person)
            elif not is_identifiable(same):
                unidentified += [one.track for one in same]
        known = (person.treatment for person in assignment.people.values())
        treatment = fallback_treatment(assignment.default_treatment, known)
        self._fallbacks = dict.fromkeys(unidentified, treatment)

    def of(self, faces: Sequence[Face]) -> list[Face]:
        """Return the faces of a frame to change."""
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
        """Return the faces of a still picture to change, each with a track of its own.

        Args:
            faces: All faces; with embeddings if there is a people map or person filter, and with attributes
                if sex or age matters.
        """
        settings, assignment = self._settings, self.assignment
        faces = [replace(face, track=number) for number, face in enumerate(faces)]
        if not assignment.has_people_map:
            if assignment.default_treatment is None:
                return []
            return select_faces(faces, settings, person_filter=assignment.person_filter)
        for face in faces:
            assert face.embedding is not None
            assert face.track is not None
            look = assignment.looks.get(face.track)
            if look is not None and face_distance(face.embedding, look) <= _SAME_FACE:
                person = assignment.people.get(assignment.tracks[face.track])
            else:  # the detector may have found other faces, or another order, when tracks were assigned
                person = assignment.known(face.embedding, limit=settings.similar_face_distance)
            if person is not None:
                self._people[face.track] = person
        return self.of(faces)


class FacesDigest:
    """Digest of the faces to change over consecutive frames: positions, weights and treatments."""

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
        """Return the digest of the frames added since the last call, and start anew."""
        digest, self._digest = self._digest.hexdigest(), hashlib.sha256()
        return digest


def _applied_actions(treatment: Treatment, settings: Settings) -> list[str]:
    """Return the actions that a treatment applies to a face, by its own frame processors or the run's."""
    if treatment.action != "swap":
        return [treatment.action]
    own = treatment.settings.get("frame_processors", "auto")
    steps = (settings if own == "auto" else settings.with_overrides(frame_processors=own)).frame_processors
    actions = ["swap"] if "face_swapper" in steps and treatment.source is not None else []
    return [*actions, "enhance"] if "face_enhancer" in steps else actions


def _average(person: Sequence[Track]) -> Face:
    """Return a face with a person's average area, position, score and attributes."""
    found = sum(track.found for track in person)
    centre = sum(track.centre for track in person) / found
    half = float(np.sqrt(sum(track.area for track in person) / found)) / 2
    box = np.concatenate([centre - half, centre + half]).astype(np.float32)
    asked = sum(track.asked for track in person)
    attributes = np.sum([track.attributes for track in person], 0) / asked if asked else UNKNOWN
    score = sum(track.score for track in person) / found
    return Face(box, np.zeros((5, 2), np.float32), score, attributes=attributes)


def reference_embedding(faces: Sequence[Face], settings: Settings, *, where: str) -> FloatArray:
    """Return the embedding of the reference face that the settings choose.

    Raises:
        NoFaceError: The reference frame shows fewer faces than ``reference_face_position`` asks for.
    """
    ordered = order_faces(faces, settings.face_order)
    position = settings.reference_face_position
    if position >= len(ordered) or ordered[position].embedding is None:
        text = mark("frame {frame} shows {faces} face(s), but reference_face_position is {position}")
        frame = settings.reference_frame_number
        raise NoFaceError(
            tr(text, frame=frame, faces=len(ordered), position=position),
            where=where,
            remedy=tr("choose another reference_frame_number or reference_face_position"),
        )
    embedding = ordered[position].embedding
    assert embedding is not None
    return embedding
