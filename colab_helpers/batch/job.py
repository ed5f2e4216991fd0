"""What a worker process is told to do: a file, so that whoever started it may go."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from colab_helpers.batch.names import REPORT_NAME
from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import write_text
from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.files import absolute, from_json, to_json
from colab_helpers.language import Language, language, tr
from colab_helpers.request import BatchRequest, refuse_address

ImageLike = str | Path | bytes | npt.NDArray[np.uint8]
"""A path, an encoded image, a ``data:`` URL, or a ``(H, W, 3)`` uint8 BGR array."""


class Source(BaseModel):
    """A photo of the person who is put in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="For messages and reports.")
    image: str = Field(description="Path, or data: URL.")

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return None if self.image.startswith("data:") else Path(self.image)

    @classmethod
    def of(cls, image: ImageLike) -> Source:
        """Any kind of image as something that can be written down; pixels are kept without loss."""
        if isinstance(image, str) and image.startswith("data:"):
            return cls(name=f"{image[:40]}…", image=image)
        if isinstance(image, (str, Path)):
            refuse_address(image)
            return cls(name=str(image), image=str(absolute(image)))
        name = tr("image in memory ({kind})", kind=type(image).__name__)
        if isinstance(image, bytes):
            return cls(name=name, image=_data_url(image, "application/octet-stream"))
        import cv2  # slow, and seldom needed here

        encoded = cv2.imencode(".png", image)[1].tobytes()
        return cls(name=name, image=_data_url(encoded, "image/png"))


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Job(BaseModel):
    """One batch. All paths are absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    sources: tuple[Source, ...]
    tasks: tuple[tuple[str, str, bool], ...] = Field(
        description="Target and wanted result of each file, and whether the target was named repeatedly."
    )
    folders: tuple[str, ...] = Field((), description="Folders that were named as targets.")
    output_dir: str
    consent: str
    settings: dict[str, Any]
    models_dir: str | None = None
    report_path: str
    work_dir: str | None = Field(None, description="Local disk for unfinished work; by default chosen.")
    session_minutes: float = Field(0.0, ge=0, description="Time the session has left; 0: not known.")
    shortest_first: bool = False
    language: Language = Field(default_factory=language, description="What the worker speaks.")

    @classmethod
    def of(
        cls, request: BatchRequest, sources: Sequence[Source], tasks: Sequence[Task], folder: Path
    ) -> Self:
        """Write down a batch whose places are known and whose consent is checked."""
        return cls(
            sources=tuple(sources),
            tasks=tuple((_absolute(task.target), _absolute(task.output), task.repeated) for task in tasks),
            folders=tuple(str(path) for path in request.target_paths if path.is_dir()),
            output_dir=str(folder),
            consent=request.consent,
            settings=request.settings.model_dump(mode="json"),
            models_dir=_text(request.models_dir),
            report_path=str(request.report_path or folder / REPORT_NAME),
            work_dir=_text(request.work_dir),
            session_minutes=request.session_minutes,
            shortest_first=request.shortest_first,
        )

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return Path(self.output_dir)

    @property
    def plan(self) -> list[Task]:
        """The tasks."""
        return [Task(Path(target), Path(output), repeated=more) for target, output, more in self.tasks]

    @property
    def inputs(self) -> list[Path]:
        """Every file that the batch reads, but for the models."""
        return [
            *(source.path for source in self.sources if source.path),
            *(Path(t) for t, _, _ in self.tasks),
        ]

    @property
    def digest(self) -> str:
        """What tells this batch from another: whatever changes its results or where they go, and no more."""
        told = {"run", "folders", "language", "session_minutes", "shortest_first"}
        text = to_json(self, exclude={**dict.fromkeys(told, True), "settings": {"language"}})
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            OutputError: The folder cannot be written to.
        """
        write_text(path, to_json(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it.

        Raises:
            MissingFileError: It is not there.
            UsageError: It is no job of this version.
        """
        try:
            return from_json(cls, path.read_bytes())
        except OSError as error:
            raise MissingFileError(
                tr("the job cannot be read ({reason})", reason=error.strerror),
                where=str(path),
                remedy=tr("start the batch again"),
            ) from error
        except ValueError as error:
            raise UsageError(
                tr("this is no job that this version can read"),
                where=str(path),
                remedy=tr("start the batch again"),
            ) from error


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
