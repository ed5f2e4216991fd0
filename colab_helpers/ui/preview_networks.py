"""The networks behind the panel: loaded on demand, cached between previews, released before a run."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
_DEFAULT_RATE = 25
_DETECTION_FIELDS = ("execution_provider", "face_detector_size", "face_detector_score", "needs_attributes")
"""Settings that require reloading the face detection networks."""
_LIVE_FIELDS = (*SELECTION_SETTINGS, "enhancer_blend", "colour_match", "face_mask_blur", "face_mask_padding",
            "face_mask_regions", "segment_seconds", "keep_fps")  # fmt: skip
"""Settings that take effect without reloading networks."""
_RELOAD_FIELDS = (*_DETECTION_FIELDS, *(name for name in Settings.model_fields if name not in _LIVE_FIELDS))
"""Settings that require reloading all networks."""


@dataclass(frozen=True, eq=False)
class Preview:
    """One frame of a target, and the same as a run would change it.

    Attributes:
        before: ``(H, W, 3)`` uint8 BGR.
        after: The same in size and type.
        faces: Number of changed faces.
        known: Whether an earlier run's face index was used, so that a run gives the same result.
        seconds: Time taken.
        notes: Fallbacks of the networks and photos left out, one sentence each.
    """

    before: ByteImage
    after: ByteImage
    faces: int
    known: bool
    seconds: float
    notes: tuple[str, ...]


class PreviewNetworks:
    """Loads networks on demand and caches them.

    Every method raises ``ColabHelpersError`` if files or models are missing or damaged.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[object, Any]] = {}

    def close(self) -> None:
        """Release all networks; they are loaded again on demand."""
        self._cache.clear()
        gc.collect()

    def _get_or_create(self, name: str, key: object, create: Callable[[], T]) -> T:
        """Return the cached object of that name if its key is the same, else create and cache it."""
        if name not in self._cache or self._cache[name][0] != key:
            self._cache.pop(name, None)  # free its memory before the next one is created
            self._cache[name] = key, create()
        cached: T = self._cache[name][1]
        return cached

    def examine(self, settings: Settings, models: Path | None, image: ByteImage) -> PhotoReport:
        """Examine a source photo."""
        from colab_helpers.faces.photos import examine

        return examine(self._analyser(settings, models), image)

    def faces(self, settings: Settings, models: Path | None, target: Path, image: ByteImage) -> list[Face]:
        """Detect the faces in a frame of a target, as a run does."""
        analyser, picture = self._analyser(settings, models), BgrPicture(image)
        return analyser.search(picture) if is_image(target) else analyser.detect(picture)

    def preview(self, request: BatchRequest, folder: Path, target: Path, frame: int) -> Preview:
        """Change one frame of a target as a run into ``folder`` would.

        Raises:
            ConsentError: There is no usable statement of consent.
            ContentError: The content check refuses the frame.
        """
        from colab_helpers.batch.resume import model_digest
        from colab_helpers.pipeline import process_image
        from colab_helpers.pipeline.indexed_frame import process_indexed_frame
        from colab_helpers.trust.content import ContentCheck, check_pictures

        started, single = time.monotonic(), is_image(target)
        request, _ = expand_photo_folders(request)
        # Read before networks are loaded, so that an unreadable file is reported at once.
        before = read_target_frame(target, frame)
        consent_for(request.with_values(output_dir=folder), [*request.photo_paths, target])
        engine = self._engine(request.settings, request.models_dir)
        index = None if single else self._index(engine, folder, target)
        assignment, notes = self._assignment(engine, request, folder, index.key if index else "")
        ages = [one.age for one in assignment.treatments if one.action == "swap"]
        check = ContentCheck(engine, target, ages, digest=model_digest)
        tracking = self._tracking(engine, target, index, assignment) if index else None
        label = Label.of(request.settings)
        if tracking is None:
            is_labelled = label and label.is_shown(0 if single else frame / _rate(probe(target)))
            label = label if is_labelled else None
            after, _, stats, _ = process_image(engine, assignment, before, single=single, label=label)
            faces = stats.faces
        else:
            before, after, faces = process_indexed_frame(engine, probe(target), frame, tracking, label)
        check_pictures(check, [(0.0, BgrPicture(before))])  # the very frame that is shown
        seconds = time.monotonic() - started
        return Preview(before, after, faces, tracking is not None, seconds, (*engine.notes, *notes))

    def _assignment(
        self, engine: Engine, request: BatchRequest, folder: Path, key: str
    ) -> tuple[Assignment, list[str]]:
        """Return the assignment of a run for the target whose face index has that key, and notes on it."""
        from colab_helpers.batch.batch_assignment import TreatmentResolver, assign_people
        from colab_helpers.batch.photos import load_person_filter
        from colab_helpers.faces.assignment import Assignment

        people = PeopleMap.load(folder)
        people = with_portraits(people) if request.people == "everybody" else people
        identity = self._identity(engine, request.sources) if people is None or request.sources else None
        notes = list(identity.notes) if identity else []
        if request.people == "everybody":
            notes.append(tr("people not found yet are blurred in the preview; a run gives them portraits"))
        cached = self._get_or_create
        if people is not None:
            photos = list(map(Source.of, request.sources))
            resolver = TreatmentResolver(engine, folder, request.library, identity, photos)
            limit = request.settings.similar_face_distance
            record = size_and_mtime(folder / PEOPLE_FOLDER_NAME / PEOPLE_RECORD_NAME)
            state = identity, folder, request.library, people, record, limit
            known = partial(KnownPeople.load, folder)
            batch = cached("batch", state, lambda: assign_people(people, known(), resolver, limit=limit))
            return cached("assignment", (batch, key), lambda: batch.assignment(key)), notes
        filters = request.target_person, request.never
        states = tuple(tuple((photo, size_and_mtime(photo)) for photo in photos) for photos in filters)
        person_filter, more = cached("filter", states, lambda: load_person_filter(engine, *filters))
        source = identity.embedding if identity else None
        key_parts = identity, person_filter
        return cached("assignment", key_parts, lambda: Assignment.of(source, person_filter)), [*notes, *more]

    def _index(self, engine: Engine, folder: Path, target: Path) -> FaceIndex | None:
        """Return the face index that an earlier run has written for a video, if it fits."""
        from colab_helpers.batch.face_indexes import find_index
        from colab_helpers.batch.resume import model_digest

        if not engine.settings.keep_fps:  # the slider counts the target's frames, the index the output's
            return None
        models = {net.name: model_digest(net.path) for net in engine.analyser.networks}
        return find_index(folder, target, engine.settings, models)

    def _tracking(
        self, engine: Engine, target: Path, index: FaceIndex, assignment: Assignment
    ) -> FaceTracking:
        """Return whom a run changes in a video, from its face index."""
        from colab_helpers.pipeline.indexed_frame import decide_faces

        selection = [getattr(engine.settings, name) for name in SELECTION_SETTINGS]
        key = (index.key, target, assignment, *selection)
        decide = partial(decide_faces, engine)
        return self._get_or_create("tracking", key, lambda: decide(probe(target), index, assignment))

    def _analyser(self, settings: Settings, models: Path | None) -> FaceAnalyser:
        from colab_helpers.faces.analyser import FaceAnalyser

        key = detection_key(settings, models)
        return self._get_or_create("analyser", key, lambda: FaceAnalyser(settings, models_dir=models))

    def _engine(self, settings: Settings, models: Path | None) -> Engine:
        def create() -> Engine:
            from colab_helpers.faces.engine import Engine

            self._cache.clear()  # embeddings, too: they belong to the old analyser
            engine = Engine.open(settings, models_dir=models)
            # Share its detection networks with the other tabs.
            self._cache["analyser"] = detection_key(settings, models), engine.analyser
            return engine

        engine = self._get_or_create("engine", _key(settings, models, _RELOAD_FIELDS), create)
        live = {name: getattr(settings, name) for name in _LIVE_FIELDS}
        return replace(engine, settings=engine.settings.with_overrides(**live))

    def _identity(self, engine: Engine, sources: Sequence[str]) -> Identity | None:
        from colab_helpers.batch.photos import identity_of

        if engine.swapper is None:
            return None
        if not sources:
            raise UsageError(tr("there is no source photo"), remedy=tr('add one in the tab "Photos"'))
        key = tuple((source, size_and_mtime(source)) for source in sources)
        photos = list(map(Source.of, sources))
        return self._get_or_create("identity", key, lambda: identity_of(engine, photos))


def read_target_frame(target: Path, frame: int) -> ByteImage:
    """Read frame number ``frame`` (from 0) of a video, or an image: ``(H, W, 3)`` uint8 BGR."""
    if is_image(target):
        return read_image(target)
    # Seek slightly before the frame, since timestamps are rounded: the next frame is taken.
    return frame_at(target, max(0.0, frame - 0.25) / _rate(probe(target)))


def frame_count(info: VideoInfo) -> int:
    """Return the number of frames of a video from its header, or estimated from its length."""
    return max(1, info.frames or round(float(info.duration) * _rate(info)))


def _rate(info: VideoInfo) -> float:
    return float(info.average_rate or _DEFAULT_RATE)


def detection_key(settings: Settings, models: Path | None) -> object:
    """Return a cache key of the inputs that face detection depends on."""
    return _key(settings, models, _DETECTION_FIELDS)


def _key(settings: Settings, models: Path | None, names: Sequence[str]) -> object:
    return models, *(getattr(settings, name) for name in names)
