"""The job file that tells a worker process what to do, independently of the process that started it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from pydantic import BaseModel, Field

from colab_helpers.addresses import refuse_address
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import REPORT_NAME, write_text
from colab_helpers.files import absolute, load, sha256_of, to_json
from colab_helpers.language import language, tr
from colab_helpers.request import BatchRequest, in_library
from colab_helpers.settings import DEFAULT_PRESET
from colab_helpers.trust.consent import DEMO_CONSENT, require_consent
from colab_helpers.trust.records import Consent

if TYPE_CHECKING:
    from colab_helpers.batch.people_map import PeopleMap
    from colab_helpers.media.formats import ByteImage

ImageLike: TypeAlias = "str | Path | bytes | ByteImage"
"""A path, an encoded image, a ``data:`` URL, or a ``(H, W, 3)`` uint8 BGR array."""


@dataclass(frozen=True)
class Source:
    """A source photo: its name in messages and reports, and its path or ``data:`` URL."""

    name: str
    image: str

    @property
    def path(self) -> Path | None:
        """Path of the file; None for a ``data:`` URL."""
        return None if self.image.startswith("data:") else Path(self.image)

    @property
    def digest(self) -> str:
        """SHA-256 of the file, or of the ``data:`` URL."""
        return sha256_of(self.path) if self.path else hashlib.sha256(self.image.encode()).hexdigest()

    @classmethod
    def of(cls, image: ImageLike, library: Path | None = None) -> Source:
        """Return the source for any kind of image; arrays become lossless PNGs.

        A name of the library stands for the folder of its photos there.
        """
        if isinstance(image, str) and image.startswith("data:"):
            return cls(f"{image[:40]}…", image)
        if isinstance(image, (str, Path)):
            refuse_address(image)
            return cls(str(image), in_library(image, library) or str(absolute(image)))
        name = tr("image in memory ({kind})", kind=type(image).__name__)
        if isinstance(image, bytes):
            return cls(name, _data_url(image, "application/octet-stream"))
        import cv2  # slow to import, and rarely needed here

        return cls(name, _data_url(cv2.imencode(".png", image)[1].tobytes(), "image/png"))

    @classmethod
    def near(cls, folder: Path, word: str, library: Path | None = None) -> Source:
        """Return the source for a map's word: a path from the folder, a library name, or another path."""
        near = folder / word
        return cls.of(str(near) if os.path.exists(near) else word, library)  # noqa: PTH110 - it may raise


def _data_url(content: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


class Job(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """A validated batch: its paths are absolute and its consent is checked."""

    run: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    request: BatchRequest = Field(description="The request, with all its settings as overrides.")
    names: tuple[str, ...] = Field((), description="Names of the photos in messages and reports.")
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = Field((), description="What was left out of the batch.")

    @classmethod
    def of(
        cls,
        request: BatchRequest,
        photos: Sequence[Source],
        tasks: Sequence[Task],
        folder: Path,
        notes: Sequence[str] = (),
    ) -> Self:
        """Freeze a request, so that no file that may change before the worker starts affects it."""
        return cls(
            request=request.with_values(
                sources=[photo.image for photo in photos],
                targets=[str(path) for path in request.target_paths],
                output_dir=folder,
                report_path=request.report_path or folder / REPORT_NAME,
                preset=DEFAULT_PRESET,
                overrides=request.settings.model_dump(mode="json"),
                language=language(),
            ),
            names=tuple(photo.name for photo in photos),
            tasks=tuple(replace(t, target=t.target.absolute(), output=t.output.absolute()) for t in tasks),
            notes=tuple(notes),
        )

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.request.output_dir or Path()

    @property
    def report_path(self) -> Path:
        """Path of ``report.json``."""
        return self.request.report_path or self.folder / REPORT_NAME

    @property
    def sources(self) -> list[Source]:
        """The source photos."""
        return [Source(*pair) for pair in zip(self.names, self.request.sources, strict=True)]

    @property
    def folders(self) -> list[Path]:
        """Targets that are folders."""
        return [Path(target) for target in self.request.targets if os.path.isdir(target)]  # noqa: PTH112

    @property
    def inputs(self) -> list[Path]:
        """Every file that the batch reads, except models."""
        return [*self.request.photo_paths, *(task.target for task in self.tasks)]

    @property
    def digest(self) -> str:
        """SHA-256 over everything that affects the results or where they go, and nothing else."""
        fields = {"sources", "target_person", "never", "people", "library", "output_dir", "consent",
                  "models_dir", "report_path", "work_dir"}  # fmt: skip
        included = self.model_dump(mode="json", include={"names": True, "tasks": True, "request": fields})
        overrides = {k: v for k, v in self.request.overrides.items() if k != "language"}
        settings = self.request.settings
        # The default text of the label depends on the language.
        has_default_label = settings.visible_label != "off" and not settings.visible_label_text.strip()
        overrides["language"] = self.request.language if has_default_label else ""
        return hashlib.sha256(json.dumps([included, overrides]).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the job as JSON; raise OutputError if the folder cannot be written to."""
        write_text(path, to_json(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job; raise MissingFileError if it cannot be read, UsageError if it is of another version."""
        missing, foreign = tr("the job file cannot be read"), tr("not a job file that this version can read")
        remedy = tr("start the batch again")
        return load(cls, path, missing=missing, missing_remedy=remedy, foreign=foreign, foreign_remedy=remedy)


def library_people_in(library: Path | None, photos: Iterable[str | Path]) -> list[str]:
    """Return the names of the library people to whom photos, or folders of photos, belong; each once."""
    if library is None:
        return []
    library, files = Path(os.path.normpath(library)), [photo for photo in photos if str(photo)[:5] != "data:"]
    paths = [Path(os.path.normpath(file)) for file in files]  # a map may have ../library
    inside = [path.relative_to(library).parts for path in paths if path.is_relative_to(library)]
    return list(dict.fromkeys(parts[0] for parts in inside if parts))


def consent_for(request: BatchRequest, files: Iterable[Path], people_map: PeopleMap | None = None) -> Consent:
    """Check the consent of a batch before any work; return an empty one if people are at most anonymized.

    Args:
        request: The request; its photos that are ``data:`` URLs are checked, too.
        files: Every photo and target that is a file.
        people_map: The map; None reads the one in the output folder, if any.

    Raises:
        ConsentError: See `require_consent`.
        ColabHelpersError: The map, or something in it, cannot be used.
    """
    photos = [Source.of(photo) for photo in request.photos if photo.startswith("data:")]
    if request.output_dir and (people_map or request.mapped):
        from colab_helpers.batch.people_map import PHOTOS, PORTRAITS, RESERVED, PeopleMap  # slow to import

        people_map, words = people_map or PeopleMap.load(request.output_dir), {PHOTOS: None}
        if people_map:
            used = [people_map.default, *(person.source for person in people_map.people.values())]
            words = {word: None for source in used for word in source}
        if request.people == "everybody":  # as the map's default will be
            words[PORTRAITS] = None
        own = [word for word in words if word not in RESERVED]
        if request.consent.strip() in ("", DEMO_CONSENT) and not (own or {PHOTOS, PORTRAITS} & words.keys()):
            return Consent()
        photos += [Source.near(request.output_dir, word, request.library) for word in own]
    people = library_people_in(request.library, [*request.sources, *(photo.image for photo in photos)])
    return require_consent(request.consent, [*files, *(photo.path for photo in photos)], people)
