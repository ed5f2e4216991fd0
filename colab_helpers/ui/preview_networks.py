"""The networks behind the panel: loaded at the first need, kept between previews, released before the run."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from colab_helpers.errors import UsageError
from colab_helpers.faces.types import ByteImage, Face
from colab_helpers.language import tr
from colab_helpers.media.images import read_image
from colab_helpers.media.inputs import is_image
from colab_helpers.media.picture import BgrPicture
from colab_helpers.media.probe import VideoInfo, probe
from colab_helpers.pages.pictures import frame_at
from colab_helpers.settings import Settings

if TYPE_CHECKING:
    from colab_helpers.faces.analyser import FaceAnalyser
    from colab_helpers.faces.engine import Engine
    from colab_helpers.faces.photos import Identity, PhotoReport

_USUAL_RATE = 25
_FINDING = ("execution_provider", "face_detector_size", "face_detector_score")
"""What the networks that find faces are loaded with."""
_CHANGING = (*_FINDING, "frame_processors", "swapper_model", "enhancer_model", "half_precision",
             "cuda_graphs", "gpu_memory_wait", "max_memory", "execution_threads", "batch_size")  # fmt: skip
"""What all networks are loaded with; other settings may change while they stay."""
_AT_ONCE = ("enhancer_blend", "many_faces", "face_selector", "face_order", "reference_face_position",
            "reference_frame_number", "similar_face_distance")  # fmt: skip
"""What a picture depends on beside the networks."""


@dataclass(frozen=True, eq=False)
class Preview:
    """One frame, as it is and as the run would make it.

    Attributes:
        before: ``(H, W, 3)`` uint8 BGR; ``after`` of the same size.
        faces: How many faces were changed.
        seconds: How long it took.
        notes: Fall-backs of the networks and photos left out, one sentence each.
    """

    before: ByteImage
    after: ByteImage
    faces: int
    seconds: float
    notes: tuple[str, ...]


class PreviewNetworks:
    """Loads networks at the first need and keeps them.

    Every method raises ``ColabHelpersError`` where files or models are missing or damaged.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._engine: Engine | None = None
        self._engine_key: object = None
        self._analyser: FaceAnalyser | None = None
        self._analyser_key: object = None
        self._identity: Identity | None = None
        self._identity_key: object = None

    @property
    def are_loaded(self) -> bool:
        """Whether any network is held."""
        return self._engine is not None or self._analyser is not None

    def close(self) -> None:
        """Release all networks; the next need loads them again."""
        self._forget()
        gc.collect()

    def examine(self, settings: Settings, models: Path | None, image: ByteImage) -> PhotoReport:
        """Measure a photo of the person who is put in."""
        from colab_helpers.faces.photos import examine

        return examine(self._finder(settings, models), image)

    def faces(self, settings: Settings, models: Path | None, target: Path, image: ByteImage) -> list[Face]:
        """Find the faces in an image of a target, as the run would."""
        analyser, picture = self._finder(settings, models), BgrPicture(image)
        return analyser.search(picture) if is_image(target) else analyser.detect(picture)

    def preview(
        self, settings: Settings, models: Path | None, sources: Sequence[str], target: Path, frame: int
    ) -> Preview:
        """Change one frame of a target as the run would."""
        from colab_helpers.pipeline import process_image

        started = time.monotonic()
        before = picture_of(target, frame)
        engine = self._open(settings, models)
        identity = self._source(engine, sources)
        embedding = identity.embedding if identity else None
        after, faces = process_image(engine, embedding, before, single=is_image(target))
        notes = engine.notes + (identity.notes if identity else ())
        return Preview(before, after, faces, time.monotonic() - started, notes)

    def _finder(self, settings: Settings, models: Path | None) -> FaceAnalyser:
        key = finding_key(settings, models)
        if self._analyser is None or self._analyser_key != key:
            from colab_helpers.faces.analyser import FaceAnalyser

            self._analyser = None
            self._analyser, self._analyser_key = FaceAnalyser(settings, models_dir=models), key
        return self._analyser

    def _open(self, settings: Settings, models: Path | None) -> Engine:
        key = _key(settings, models, _CHANGING)
        if self._engine is None or self._engine_key != key:
            from colab_helpers.faces.engine import Engine

            self._engine = self._analyser = None
            self._engine, self._engine_key = Engine.open(settings, models_dir=models), key
            self._identity = None
            # One pair of networks finds faces for all.
            self._analyser, self._analyser_key = self._engine.analyser, finding_key(settings, models)
        now = {name: getattr(settings, name) for name in _AT_ONCE}
        return replace(self._engine, settings=self._engine.settings.with_overrides(**now))

    def _source(self, engine: Engine, sources: Sequence[str]) -> Identity | None:
        if engine.swapper is None:
            return None
        if not sources:
            raise UsageError(
                tr("there is no photo of the person who is put in"), remedy=tr("add one under Photos")
            )
        key = tuple((source, file_state(source)) for source in sources)
        if self._identity is None or self._identity_key != key:
            photos = [(source[:80], partial(read_image, source)) for source in sources]
            self._identity, self._identity_key = engine.identity(photos), key
        return self._identity


def picture_of(target: Path, frame: int) -> ByteImage:
    """Read a frame of a video, counted from 0, or an image; ``(H, W, 3)`` uint8 BGR.

    Raises:
        MediaError: It cannot be read.
    """
    if is_image(target):
        return read_image(target)
    # A little before the frame: the first one from there on is taken, and time stamps are rounded.
    return frame_at(target, max(0.0, frame - 0.25) / _rate(probe(target)))


def frames_of(info: VideoInfo) -> int:
    """Return how many frames a video has, as its header says or its length tells."""
    return max(1, info.frames or round(float(info.duration) * _rate(info)))


def _rate(info: VideoInfo) -> float:
    return float(info.average_rate or _USUAL_RATE)


def finding_key(settings: Settings, models: Path | None) -> object:
    """Return what is equal where the same faces are found."""
    return _key(settings, models, _FINDING)


def _key(settings: Settings, models: Path | None, names: Sequence[str]) -> object:
    return models, *(getattr(settings, name) for name in names)


def file_state(path: str) -> object:
    """Return what is equal while a file is not changed; None for a data URL, and where there is no file."""
    try:
        found = None if path.startswith("data:") else Path(path).stat()
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_size)
