"""What a worker process is told to do: a file, so that whoever started it may go."""

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
    """A photo of the person who is put in: a name for messages and reports, and its path or ``data:`` URL."""

    name: str
    image: str

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return None if self.image.startswith("data:") else Path(self.image)

    @property
    def digest(self) -> str:
        """What tells it from others: the SHA-256 of its file, or of its ``data:`` URL."""
        return sha256_of(self.path) if self.path else hashlib.sha256(self.image.encode()).hexdigest()

    @classmethod
    def of(cls, image: ImageLike, library: Path | None = None) -> Source:
        """Make any kind of image something that can be written down; pixels are kept without loss.

        A name of the library is the folder of its photos there.
        """
        if isinstance(image, str) and image.startswith("data:"):
            return cls(f"{image[:40]}…", image)
        if isinstance(image, (str, Path)):
            refuse_address(image)
            return cls(str(image), in_library(image, library) or str(absolute(image)))
        name = tr("image in memory ({kind})", kind=type(image).__name__)
        if isinstance(image, bytes):
            return cls(name, _data_url(image, "application/octet-stream"))
        import cv2  # slow, and seldom needed here

        return cls(name, _data_url(cv2.imencode(".png", image)[1].tobytes(), "image/png"))

    @classmethod
    def near(cls, folder: Path, written: str, library: Path | None = None) -> Source:
        """Return what a map in a folder means: a path from there, a name of the library, or another path."""
        near = folder / written
        return cls.of(str(near) if os.path.exists(near) else written, library)  # noqa: PTH110 - it may raise


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Job(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """One batch whose places are known and whose consent is checked."""

    run: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    request: BatchRequest = Field(description="All that is asked for; its settings are all overrides.")
    names: tuple[str, ...] = Field((), description="What the photos are called in messages and reports.")
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = Field((), description="What was left out before the start.")

    @classmethod
    def of(
        cls,
        request: BatchRequest,
        photos: Sequence[Source],
        tasks: Sequence[Task],
        folder: Path,
        notes: Sequence[str] = (),
    ) -> Self:
        """Write down a request: nothing in it depends on files that may change until the worker reads it."""
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
            tasks=tuple(
                replace(task, target=task.target.absolute(), output=task.output.absolute()) for task in tasks
            ),
            notes=tuple(notes),
        )

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.request.output_dir or Path()

    @property
    def report_path(self) -> Path:
        """Where the report goes."""
        return self.request.report_path or self.folder / REPORT_NAME

    @property
    def sources(self) -> list[Source]:
        """The photos."""
        return [Source(*each) for each in zip(self.names, self.request.sources, strict=True)]

    @property
    def folders(self) -> list[Path]:
        """Folders that were named as targets."""
        return [Path(target) for target in self.request.targets if os.path.isdir(target)]  # noqa: PTH112

    @property
    def inputs(self) -> list[Path]:
        """Every file that the batch reads, but for the models."""
        return [*self.request.photo_paths, *(task.target for task in self.tasks)]

    @property
    def digest(self) -> str:
        """What tells this batch from another: whatever changes its results or where they go, and no more."""
        decides = {
            "sources",
            "target_person",
            "never",
            "people",
            "library",
            "output_dir",
            "consent",
            "models_dir",
            "report_path",
            "work_dir",
        }
        asked = self.model_dump(mode="json", include={"names": True, "tasks": True, "request": decides})
        settings = {k: v for k, v in self.request.overrides.items() if k != "language"}
        given = self.request.settings
        # The label's usual words are those of the language.
        usual = given.visible_label != "off" and not given.visible_label_text.strip()
        settings["language"] = self.request.language if usual else ""
        return hashlib.sha256(json.dumps([asked, settings]).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write it as JSON; OutputError where the folder cannot be written to."""
        write_text(path, to_json(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it; MissingFileError or UsageError where there is none of this version."""
        again = tr("start the batch again")
        return load(
            cls,
            path,
            missing=tr("the job cannot be read"),
            missing_remedy=again,
            foreign=tr("this is no job that this version can read"),
            foreign_remedy=again,
        )


def library_people_in(library: Path | None, photos: Iterable[str | Path]) -> list[str]:
    """Return the names of those of a library whom some photos, or folders of them, show; each once."""
    if library is None:
        return []
    library, files = Path(os.path.normpath(library)), [one for one in photos if str(one)[:5] != "data:"]
    paths = [Path(os.path.normpath(file)) for file in files]  # a map's start at the output folder: ../library
    own = [path.relative_to(library).parts for path in paths if path.is_relative_to(library)]
    return list(dict.fromkeys(parts[0] for parts in own if parts))


def consent_for(request: BatchRequest, files: Iterable[Path], given: PeopleMap | None = None) -> Consent:
    """Check the consent of a batch before any work; empty where a map makes people unrecognisable at most.

    Args:
        request: What is asked for; photos in it that are no files are looked at, too.
        files: Every photo and target that is a file.
        given: The map; None takes the one that is there, if any.

    Raises:
        ConsentError: See `require_consent`.
        ColabHelpersError: The map, or something in it, cannot be used.
    """
    photos = [Source.of(photo) for photo in request.photos if photo.startswith("data:")]
    if request.output_dir and (given or request.mapped):
        from colab_helpers.batch.people_map import PHOTOS, PORTRAITS, RESERVED, PeopleMap  # slow, and seldom

        given = given or PeopleMap.load(request.output_dir)
        done = [given.default, *(person.source for person in given.people.values())] if given else [(PHOTOS,)]
        done += [(PORTRAITS,)] if request.people == "everybody" else []  # as the map will have it
        words = {word: None for source in done for word in source}
        puts_in = words.keys() - {*RESERVED} or words.keys() & {PHOTOS, PORTRAITS}
        if request.consent.strip() in ("", DEMO_CONSENT) and not puts_in:
            return Consent()
        own = [word for word in words if word not in RESERVED]
        photos += [Source.near(request.output_dir, word, request.library) for word in own]
    people = library_people_in(request.library, [*request.sources, *(photo.image for photo in photos)])
    return require_consent(request.consent, [*files, *(photo.path for photo in photos)], people)
