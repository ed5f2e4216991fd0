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

from colab_helpers.batch.plan import Task
from colab_helpers.batch.report import write_text
from colab_helpers.errors import MissingFileError, UsageError
from colab_helpers.files import absolute, from_json, to_json
from colab_helpers.language import Language, language, tr
from colab_helpers.settings import Settings

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
        cls,
        sources: Sequence[ImageLike],
        tasks: Sequence[Task],
        output_dir: Path,
        *,
        consent: str,
        settings: Settings,
        models_dir: Path | None = None,
        report_path: Path,
        work_dir: Path | None = None,
        session_minutes: float = 0.0,
        shortest_first: bool = False,
    ) -> Self:
        """Write down a batch, wherever this process happens to stand."""
        return cls(
            sources=tuple(Source.of(source) for source in sources),
            tasks=tuple((_absolute(task.target), _absolute(task.output), task.repeated) for task in tasks),
            output_dir=_absolute(output_dir),
            consent=consent,
            settings=settings.model_dump(mode="json"),
            models_dir=None if models_dir is None else _absolute(models_dir),
            report_path=_absolute(report_path),
            work_dir=None if work_dir is None else _absolute(work_dir),
            session_minutes=session_minutes,
            shortest_first=shortest_first,
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
        """What tells this batch from another; asking for the same again, in any language, gives the same."""
        text = to_json(self, exclude={"run": True, "language": True, "settings": {"language"}})
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
    return str(absolute(path))
