"""The report of a run: the request, the machine, and the outcome of every file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from colab_helpers.addresses import is_placeholder
from colab_helpers.batch.object_store import fetch
from colab_helpers.batch.stop import STATUS_NAME
from colab_helpers.batch.write_policy import WritePolicy
from colab_helpers.errors import OutputError, UsageError, wrap_os_error
from colab_helpers.files import to_json, write_atomically
from colab_helpers.language import mark, printable, tr, with_store_addresses
from colab_helpers.media.inputs import is_image, is_video
from colab_helpers.trust.records import Consent, ContentDecision

REPORT_NAME, HTML_REPORT_NAME = "report.json", "report.html"
JOURNAL_NAME = "journal.jsonl"

KEPT = mark("kept from an earlier run")
"""Note on a file whose earlier result is reused."""

FileStatus = Literal["queued", "running", "done", "failed", "skipped", "cancelled"]
STATE_WORDS: dict[FileStatus, str] = {
    "queued": mark("queued"),
    "running": mark("running"),
    "done": mark("done"),
    "failed": mark("failed"),
    "skipped": mark("skipped"),
    "cancelled": mark("cancelled"),
}
"""Text for each state, to be shown with ``tr``."""


def _consent(value: object) -> object:
    """Accept reports of earlier versions, whose consent was a string."""
    return {"statement": value} if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, defer_build=True)


class PersonReport(_Model):
    """What was done to one person over a whole video; frames are counted from 0."""

    people: int = Field(1, description="People in this row: the last one may sum up all hardly seen.")
    name: str | None = Field(None, description="Name of the person, if people are known by name.")
    action: Literal["swap", "blur", "pixelate"] | None = Field(
        None, description="What was done to the face; none if it was left unchanged."
    )
    source: str | None = Field(None, description="Who was put in, if anybody; empty for the run's photos.")
    seen: int = Field(0, description="Frames that show the face.")
    changed: int = Field(0, description="Frames in which it was changed.")
    filled: int = Field(0, description="Those of them in which the detector missed the face.")
    hidden: int = Field(0, description="Frames in which it was not changed because something covers it.")
    unselected: int = Field(0, description="Frames in which the settings choose another face, or none.")
    lost: int = Field(
        0,
        description="Frames without a face that is there before and after in the same shot: the detector "
        "lost it, or it left the picture for a moment.",
    )
    samples: int = Field(0, description="Frames in which it was compared with the source: one per second.")
    likeness_swap: float | None = Field(None, description="Mean cosine of source and swapper output.")
    likeness_mask: float | None = Field(None, description="The same for what the mask left of that.")
    likeness_final: float | None = Field(None, description="The same for the result.")
    flicker: float | None = Field(None, description="As for the file, for this face alone.")
    flicker_target: float | None = Field(None, description="The same for the unchanged target.")
    present_spans: list[tuple[int, int]] = Field(
        [], description="Spans from where the face appears to where it leaves: first frame, last frame + 1."
    )
    missed_spans: list[tuple[int, int]] = Field(
        [], description="Spans in which a face that is changed elsewhere was seen or lost, but not changed."
    )
    portrait_seconds: float | None = Field(None, description="Time of its best frame, after the first one.")
    portrait_box: tuple[float, float, float, float] | None = Field(
        None, description="Bounding box in that frame: left, top, right, bottom in pixels as stored."
    )
    portrait: str = Field("", description="Thumbnail of the face in that frame, as a JPEG data: URL.")


class Quality(_Model):
    """Measured quality of a video."""

    similarity_mean: float | None = Field(
        None, description="Cosine similarity of the result's faces and the source, averaged over samples."
    )
    similarity_p5: float | None = Field(None, description="Similarity that 95 % of the samples reach.")
    similarity_samples: int = Field(0, description="Faces that were compared: about one per second.")
    flicker: float | None = Field(
        None,
        description="Root mean square, in grey levels, of how much the change of the face's mean "
        "brightness differs from one frame to the next; 0 is perfectly steady.",
    )
    missed_spans: list[tuple[int, int]] = Field(
        [], description="Spans of frames without a changed face: first frame, last frame + 1."
    )
    filled: int = Field(0, description="Faces that the detector missed, changed where their track puts them.")
    people: list[PersonReport] = Field([], description="The same for each person, by their first frame.")


class MarkReport(_Model):
    """The marks of a result, and who signed them."""

    beside: bool = Field(description="Whether the manifest is a file beside it, with the suffix .c2pa.")
    signed_by: str = Field(description="Name in the certificate that signed it.")
    made_here: bool = Field(description="Whether that certificate was made on this machine.")
    label: str = Field("", description="Text burnt into its frames; empty if AI changed no face.")
    disclosure: str = Field("", description="How else viewers are told, as the settings state.")


class FileReport(_Model):
    """One target. Sizes and memory in bytes, times in seconds."""

    source: list[str] = Field([], description="Source photos.")
    source_sha256: list[str] = Field([], description="Digests of the photos of everybody who is put in.")
    target: str
    output: str | None = None
    frames_folder: str | None = Field(None, description="Folder of the result's frames, if they were kept.")
    status: FileStatus
    frames_in: int = 0
    frames_out: int = 0
    faces_swapped: int = Field(0, description="Faces changed, counted over all frames.")
    frames_without_face: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    encoder: str | None = None
    provider: str | None = None
    fallbacks: list[str] = Field([], description="Everything that was replaced, converted or lowered.")
    memory_before: int = Field(0, description="Resident memory of the process before this file.")
    memory_after: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    video_seconds: float | None = None
    audio_seconds: float | None = None
    times_kept: bool | None = Field(
        None, description="Whether every frame has the target's timestamp; None for images and GIFs."
    )
    segments: int = Field(0, description="Segments the result was joined from; 0 if written in one go.")
    segments_kept: int = Field(0, description="Those of them that an earlier run had finished.")
    made_by: dict[str, list[tuple[int, int]]] = Field(
        {},
        description="Segments that each worker made, in a batch of several, as spans: first, last + 1. Under "
        "the empty name those of a run with a single worker.",
    )
    quality: Quality | None = None
    mark: MarkReport | None = Field(None, description="None if the result is a copy of its target.")
    manifest: str | None = Field(None, description="SHA-256 of the manifest file beside it, if there is one.")
    content: ContentDecision | None = Field(None, description="Outcome of the target's content check.")
    error: str | None = None

    @property
    def memory_difference(self) -> int:
        """Bytes by which the process grew during this file."""
        return self.memory_after - self.memory_before

    @property
    def share(self) -> float:
        """Progress, 0 to 1; while it runs, ``frames_in`` is the expected number of the result's frames."""
        if self.status == "running":
            return min(self.frames_out, self.frames_in) / self.frames_in if self.frames_in else 0.0
        return float(self.status != "queued")


class Summary(_Model):
    """Totals of a run."""

    total: int
    succeeded: int
    failed: int
    skipped: int
    success_rate: float = Field(description="Share of files that succeeded, 0 to 1.")
    bytes: int = Field(description="Size of all results.")
    seconds: float
    memory_warnings: int = Field(description="How often RAM usage was above 85 %.")
    restarts: int = Field(0, description="How often the worker process died and was restarted.")


class ModelReport(_Model):
    """One model of the run."""

    name: str
    path: str
    standin: bool = Field(description="Whether it is a stand-in of the demo, not the real model.")


class BatchReport(_Model):
    """The report of a run, written as ``report.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    run: str = Field("", description="Identifier of the run; a resumed run keeps it.")
    stopped: bool = Field(False, description="Whether it was stopped before its end.")
    consent: Annotated[Consent, BeforeValidator(_consent)]
    settings: dict[str, Any]
    machine: dict[str, Any]
    models: list[ModelReport] = []
    notes: list[str] = Field([], description="Fallbacks and warnings for the whole run.")
    summary: Summary
    not_in_consent: list[str] = Field(
        [], description="Names of people who were changed or put in, but are not in the consent statement."
    )
    files: list[FileReport]

    @property
    def ok(self) -> bool:
        """Whether every file succeeded or was skipped, and the run was not stopped."""
        return self.summary.succeeded + self.summary.skipped == self.summary.total and not self.stopped

    def within(self, folder: Path) -> BatchReport:
        """Return the report with all outputs in this folder, by file name alone.

        The folder may be mounted at another path today, and an untrusted report cannot point outside it.
        """
        files = [
            file.model_copy(update={"output": str(folder / Path(file.output).name)}) if file.output else file
            for file in self.files
        ]
        return self.model_copy(update={"files": files})

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        write_text(path, with_store_addresses(to_json(self, indent=2)) + "\n")


def changed_people(files: Iterable[FileReport]) -> dict[str, list[str]]:
    """Return the texts of what was done to each changed person, by name."""
    texts: dict[str, dict[str, None]] = {}
    for person in (one for file in files if file.quality for one in file.quality.people):
        if person.name and person.changed and person.action:
            texts.setdefault(person.name, {})[action_text(person)] = None
    return {name: list(actions) for name, actions in texts.items()}


def swapped_people(files: Iterable[FileReport]) -> list[str]:
    """Return the known names of the people who were replaced, and of those who were put in."""
    people = [one for file in files if file.quality for one in file.quality.people if one.changed]
    swapped = [one for one in people if one.action == "swap"]
    return [name for one in swapped for name in (one.name, *_library_names(one.source)) if name]


def _library_names(source: str | None) -> list[str]:
    """Return the library names in a source, without the paths of photos."""
    return [part for part in (source or "").split(", ") if not re.search(r"[./\\]", part)]


def action_text(person: PersonReport) -> str:
    """Return what was done to a person, and who was put in, as text; empty if nothing was done."""
    if person.action != "swap":
        return {"blur": tr("blurred"), "pixelate": tr("pixelated"), None: ""}[person.action]
    return tr("replaced by {source}", source=person.source) if person.source else tr("changed")


def summarize(
    files: Sequence[FileReport], *, seconds: float, memory_warnings: int, restarts: int = 0
) -> Summary:
    """Return the totals of some files."""
    statuses = [file.status for file in files]
    return Summary(
        total=len(files),
        succeeded=statuses.count("done"),
        failed=statuses.count("failed"),
        skipped=statuses.count("skipped"),
        success_rate=statuses.count("done") / len(files) if files else 0.0,
        bytes=sum(file.bytes_out for file in files),
        seconds=seconds,
        memory_warnings=memory_warnings,
        restarts=restarts,
    )


# Starts of report, status, journal, samples, doctor and preload reports, pages and sheets; or an empty file.
_OWN_HEAD = re.compile(
    rb'\s*(\{\s*"(schema": ?\d|crc":"|time": ?\d|version": 1,\s*"(checks|ok)")'
    rb'|<!DOCTYPE html>.*content="colab_helpers"|$)',
    re.DOTALL,
)


def html_path(report: Path) -> Path:
    """Return the path of the page beside a report: ``report.html`` beside ``report.json``."""
    page = report.with_suffix(".html")
    return page if page != report else report.with_name(f"{report.name}.html")


def is_own_file(path: Path) -> bool:
    """Return whether a file is empty or was written by a run beside its results, so it may be replaced."""
    try:
        if not path.is_file():  # reading a pipe could block
            return False
        if is_placeholder(path):
            fetch(path)
        with path.open("rb") as file:
            head = file.read(200)
    except OSError:
        return False
    if _OWN_HEAD.match(head):
        return True
    # A journal whose first line is damaged is recognized by the status file beside it.
    return path.suffix == ".jsonl" and is_own_file(path.with_name(STATUS_NAME))


def check_report_path(path: Path, write_policy: WritePolicy, *, page: bool = True) -> None:
    """Raise UsageError if a report or, with ``page``, the page beside it may not be written."""
    if is_video(path) or is_image(path) or path.suffix == ".jsonl" or path.name == STATUS_NAME:
        what = tr("a report cannot have this name: it is reserved for results and records")
        raise UsageError(what, where=str(path), remedy=tr("choose a name like {name}", name=REPORT_NAME))
    for file in (path, html_path(path))[: 1 + page]:
        write_policy.ensure_writable(file)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, with missing folders; raise OutputError if that fails."""
    remedy = mark("choose another folder or free space")
    with wrap_os_error(OutputError, mark("cannot be written ({reason})"), path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, printable(text).encode())
