"""The networks behind the panel: loaded at the first need, kept between previews, released before the run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from colab_helpers.batch.job import Source, consent_for
from colab_helpers.batch.keys import SELECTION_SETTINGS
from colab_helpers.batch.known_people import PEOPLE_FOLDER_NAME, PEOPLE_RECORD_NAME, KnownPeople
from colab_helpers.batch.library import expand_photo_folders
from colab_helpers.batch.people_map import PeopleMap, with_portraits
from colab_helpers.errors import UsageError
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.files import size_and_mtime
from colab_helpers.language import tr
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import is_image
from colab_helpers.media.label import Label
from colab_helpers.media.picture import BgrPicture
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.pages.pictures import frame_at
from colab_helpers.request import BatchRequest
from colab_helpers.settings import Settings

if TYPE_CHECKING:
    from colab_helpers.faces.analyser import FaceAnalyser
    from colab_helpers.faces.assignment import Assignment
    from colab_helpers.faces.engine import Engine
    from colab_helpers.faces.index import FaceIndex
    from colab_helpers.faces.photos import Identity, PhotoReport
    from colab_helpers.pipeline.face_tracking import FaceTracking

T = TypeVar("T")
_USUAL_RATE = 25
_DETECTION_FIELDS = ("execution_provider", "face_detector_size", "face_detector_score", "asks_attributes")
"""What the networks that find faces are loaded with."""
_LIVE_FIELDS = (*SELECTION_SETTINGS, "enhancer_blend", "colour_match", "face_mask_blur", "face_mask_padding",
            "face_mask_regions", "segment_seconds", "keep_fps")  # fmt: skip
"""What a picture depends on beside the networks."""
_RELOAD_FIELDS = (*_DETECTION_FIELDS, *(name for name in Settings.model_fields if name not in _LIVE_FIELDS))
"""What all networks are loaded with: whatever may not change while they stay."""


@dataclass(frozen=True, eq=False)
class Preview:
    """One frame, as it is and as the run would make it.

    Attributes:
        before: ``(H, W, 3)`` uint8 BGR; ``after`` of the same size.
        faces: How many faces were changed.
        known: Whether a run has found the faces of the whole video, so that this is what a run makes.
        seconds: How long it took.
        notes: Fall-backs of the networks and photos left out, one sentence each.
    """

    before: ByteImage
    after: ByteImage
    faces: int
    known: bool
    seconds: float
    notes: tuple[str, ...]


class PreviewNetworks:
    """Loads networks at the first need and keeps them.

    Every method raises ``ColabHelpersError`` where files or models are missing or damaged.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[object, Any]] = {}

    def close(self) -> None:
        """Release all networks; the next need loads them again."""
        self._cache.clear()
        gc.collect()

    def _get_or_create(self, name: str, key: object, make: Callable[[], T]) -> T:
        """Return what is held under a name; made where there is none, or one for another key."""
        if name not in self._cache or self._cache[name][0] != key:
            self._cache.pop(name, None)  # its memory is needed for the next
            self._cache[name] = key, make()
        found: T = self._cache[name][1]
        return found

    def examine(self, settings: Settings, models: Path | None, image: ByteImage) -> PhotoReport:
        """Measure a photo of the person who is put in."""
        from colab_helpers.faces.photos import examine

        return examine(self._finder(settings, models), image)

    def faces(self, settings: Settings, models: Path | None, target: Path, image: ByteImage) -> list[Face]:
        """Find the faces in an image of a target, as the run would."""
        analyser, picture = self._finder(settings, models), BgrPicture(image)
        return analyser.search(picture) if is_image(target) else analyser.detect(picture)

    def preview(self, request: BatchRequest, folder: Path, target: Path, frame: int) -> Preview:
        """Change one frame of a target as the run would; ``folder`` is where its results would go.

        Raises:
            ConsentError, ContentError: Nobody agreed; the frame is refused.
        """
        from colab_helpers.batch.resume import model_digest
        from colab_helpers.pipeline import process_image
        from colab_helpers.pipeline.indexed_frame import process_indexed_frame
        from colab_helpers.trust.content import ContentCheck, check_pictures

        started, single = time.monotonic(), is_image(target)
        request, _ = expand_photo_folders(request)
        # Read before networks are loaded: what cannot be read is said at once.
        before = read_target_frame(target, frame)
        consent_for(request.with_values(output_dir=folder), [*request.photo_paths, target])
        engine = self._engine(request.settings, request.models_dir)
        index = None if single else self._index(engine, folder, target)
        assignment, notes = self._cast(engine, request, folder, index.key if index else "")
        ages = [one.age for one in assignment.treatments if one.action == "swap"]
        check = ContentCheck(engine, target, ages, digest=model_digest)
        known = self._decided(engine, target, index, assignment) if index else None
        label = Label.of(request.settings)
        if known is None:
            shown = label and label.is_shown(0 if single else frame / _rate(probe(target)))
            shown_label = label if shown else None
            after, _, measured, _ = process_image(
                engine, assignment, before, single=single, label=shown_label
            )
            faces = measured.faces
        else:
            before, after, faces = process_indexed_frame(engine, probe(target), frame, known, label)
        check_pictures(check, [(0.0, BgrPicture(before))])  # the very frame that is shown
        took = time.monotonic() - started
        return Preview(before, after, faces, known is not None, took, (*engine.notes, *notes))

    def _cast(
        self, engine: Engine, request: BatchRequest, folder: Path, key: str
    ) -> tuple[Assignment, list[str]]:
        """Return what a run does to whom in a target, by the key of its index, and notes on that."""
        from colab_helpers.batch.batch_assignment import TreatmentResolver, assign_people
        from colab_helpers.batch.photos import load_person_filter
        from colab_helpers.faces.assignment import Assignment

        given = PeopleMap.load(folder)
        given = with_portraits(given) if request.people == "everybody" else given
        identity = self._identity(engine, request.sources) if given is None or request.sources else None
        told = list(identity.notes) if identity else []
        if request.people == "everybody":
            told.append(tr("whoever was not found yet is blurred here, and gets a portrait in the run"))
        if given is not None:
            photos = list(map(Source.of, request.sources))
            made = TreatmentResolver(engine, folder, request.library, identity, photos)
            limit = request.settings.similar_face_distance
            record = size_and_mtime(folder / PEOPLE_FOLDER_NAME / PEOPLE_RECORD_NAME)
            state = identity, folder, request.library, given, record, limit
            known = self._get_or_create(
                "casting", state, lambda: assign_people(given, KnownPeople.load(folder), made, limit=limit)
            )
            return self._get_or_create("cast", (known, key), lambda: known.assignment(key)), told
        asked = request.target_person, request.never
        states = tuple(tuple((photo, size_and_mtime(photo)) for photo in photos) for photos in asked)
        person_filter, more = self._get_or_create(
            "sought", states, lambda: load_person_filter(engine, *asked)
        )
        source = identity.embedding if identity else None
        return self._get_or_create(
            "cast", (identity, person_filter), lambda: Assignment.of(source, person_filter)
        ), [*told, *more]

    def _index(self, engine: Engine, folder: Path, target: Path) -> FaceIndex | None:
        """Return what an earlier run has found in a video."""
        from colab_helpers.batch.face_indexes import find_index
        from colab_helpers.batch.resume import model_digest

        if not engine.settings.keep_fps:  # the slider counts the target's frames, and an index the result's
            return None
        models = {net.name: model_digest(net.path) for net in engine.analyser.networks}
        return find_index(folder, target, engine.settings, models)

    def _decided(
        self, engine: Engine, target: Path, index: FaceIndex, assignment: Assignment
    ) -> FaceTracking:
        """Return whom a run changes in a video where an earlier one has found its faces."""
        from colab_helpers.pipeline.indexed_frame import decide_faces

        key = (
            index.key,
            target,
            assignment,
            *(getattr(engine.settings, name) for name in SELECTION_SETTINGS),
        )
        return self._get_or_create(
            "faces", key, lambda: decide_faces(engine, probe(target), index, assignment)
        )

    def _finder(self, settings: Settings, models: Path | None) -> FaceAnalyser:
        from colab_helpers.faces.analyser import FaceAnalyser

        key = detection_key(settings, models)
        return self._get_or_create("analyser", key, lambda: FaceAnalyser(settings, models_dir=models))

    def _engine(self, settings: Settings, models: Path | None) -> Engine:
        def opened() -> Engine:
            from colab_helpers.faces.engine import Engine

            self._cache.clear()  # known faces, too: they belong to its analyser
            engine = Engine.open(settings, models_dir=models)
            # One pair of networks finds faces for all.
            self._cache["analyser"] = detection_key(settings, models), engine.analyser
            return engine

        engine = self._get_or_create("engine", _key(settings, models, _RELOAD_FIELDS), opened)
        now = {name: getattr(settings, name) for name in _LIVE_FIELDS}
        return replace(engine, settings=engine.settings.with_overrides(**now))

    def _identity(self, engine: Engine, sources: Sequence[str]) -> Identity | None:
        from colab_helpers.batch.photos import identity_of

        if engine.swapper is None:
            return None
        if not sources:
            raise UsageError(
                tr("there is no photo of the person who is put in"), remedy=tr("add one under Photos")
            )
        key = tuple((source, size_and_mtime(source)) for source in sources)
        photos = list(map(Source.of, sources))
        return self._get_or_create("identity", key, lambda: identity_of(engine, photos))


def read_target_frame(target: Path, frame: int) -> ByteImage:
    """Read a frame of a video, counted from 0, or an image; ``(H, W, 3)`` uint8 BGR."""
    if is_image(target):
        return read_image(target)
    # A little before the frame: the first one from there on is taken, and time stamps are rounded.
    return frame_at(target, max(0.0, frame - 0.25) / _rate(probe(target)))


def frame_count(info: VideoInfo) -> int:
    """Return how many frames a video has, as its header says or its length tells."""
    return max(1, info.frames or round(float(info.duration) * _rate(info)))


def _rate(info: VideoInfo) -> float:
    return float(info.average_rate or _USUAL_RATE)


def detection_key(settings: Settings, models: Path | None) -> object:
    """Return what is equal where the same faces are found."""
    return _key(settings, models, _DETECTION_FIELDS)


def _key(settings: Settings, models: Path | None, names: Sequence[str]) -> object:
    return models, *(getattr(settings, name) for name in names)
