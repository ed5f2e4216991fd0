"""The report of a run: what was asked, on what machine, and what became of every file."""

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
"""Note on a file that was not done again."""

FileStatus = Literal["queued", "running", "done", "failed", "skipped", "cancelled"]
STATE_WORDS: dict[FileStatus, str] = {
    "queued": mark("queued"),
    "running": mark("running"),
    "done": mark("done"),
    "failed": mark("failed"),
    "skipped": mark("skipped"),
    "cancelled": mark("cancelled"),
}
"""What each state is called; ``tr`` of it is shown."""


def _consent(value: object) -> object:
    """A sentence was all there was in earlier versions."""
    return {"statement": value} if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, defer_build=True)


class PersonReport(_Model):
    """What became of one person of a video, over all of it; frames are counted from 0."""

    people: int = Field(1, description="How many the row sums up: the last may be of all hardly seen.")
    name: str | None = Field(None, description="What the face is called, where people are known by name.")
    action: Literal["swap", "blur", "pixelate"] | None = Field(
        None, description="What was done to it; none where it was left as it is."
    )
    source: str | None = Field(
        None, description="Who was put in; empty is the person on the run's own photos, none nobody."
    )
    seen: int = Field(0, description="Frames that show the face.")
    changed: int = Field(0, description="Frames in which it was changed.")
    filled: int = Field(0, description="Those of them in which the detector missed it.")
    hidden: int = Field(0, description="Frames in which it was not changed: something stands before it.")
    unselected: int = Field(0, description="Frames in which the settings choose somebody else, or nobody.")
    lost: int = Field(
        0,
        description="Frames in which nothing was found of a face that is there before and after, in the "
        "same shot: the detector lost it, or it left the picture for a moment.",
    )
    samples: int = Field(0, description="Frames in which it was compared with the source: one a second.")
    likeness_swap: float | None = Field(
        None, description="Mean cosine between the source and what the swapper's network painted."
    )
    likeness_mask: float | None = Field(None, description="The same of what was pasted of it.")
    likeness_final: float | None = Field(None, description="The same of the result.")
    flicker: float | None = Field(None, description="As for the file; only of this face.")
    flicker_target: float | None = Field(
        None, description="The same of the target's own brightness, unchanged."
    )
    present_spans: list[tuple[int, int]] = Field(
        [], description="First frame and the one after the last, from where the face comes to where it goes."
    )
    missed_spans: list[tuple[int, int]] = Field(
        [], description="Frames in which a face that is changed elsewhere was seen or lost, but not changed."
    )
    portrait_seconds: float | None = Field(
        None, description="Time of its best frame in the target, after the first one."
    )
    portrait_box: tuple[float, float, float, float] | None = Field(
        None, description="Where it is there: left, top, right, bottom in pixels of the stored frame."
    )
    portrait: str = Field("", description="That picture, small, as a JPEG data: URL.")


class Quality(_Model):
    """How well a video came out, as far as numbers tell."""

    similarity_mean: float | None = Field(
        None, description="Cosine between the result's faces and the source, averaged over samples."
    )
    similarity_p5: float | None = Field(
        None, description="The cosine that 95 % of the samples reach or exceed."
    )
    similarity_samples: int = Field(0, description="Faces that were compared: about one a second.")
    flicker: float | None = Field(
        None,
        description="Root mean square, in grey levels, of how much the change of the face's mean "
        "brightness differs from one frame to the next; 0 is perfectly steady.",
    )
    missed_spans: list[tuple[int, int]] = Field(
        [],
        description="Frames without a changed face: first frame, and the one after the last.",
    )
    filled: int = Field(
        0, description="Faces that the detector missed for a moment, changed where their track says."
    )
    people: list[PersonReport] = Field([], description="The same for each person, by their first frame.")


class MarkReport(_Model):
    """What a result says of itself, and who signed that."""

    beside: bool = Field(description="Whether its manifest lies in a file of its name and .c2pa beside it.")
    signed_by: str = Field(description="Whose certificate signed it, as that says.")
    made_here: bool = Field(description="Whether that certificate was made on this machine.")
    label: str = Field("", description="Words burnt into its pictures; none where AI changed no face.")
    disclosure: str = Field("", description="How else those who see it are told, as the settings say.")


class FileReport(_Model):
    """One target. Sizes and memory in bytes, times in seconds."""

    source: list[str] = Field([], description="Photos of the person who is put in.")
    source_sha256: list[str] = Field([], description="Of the photos of everybody who is put in.")
    target: str
    output: str | None = None
    frames_folder: str | None = Field(None, description="Where its frames were kept, if they were.")
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
        None,
        description="Whether every frame is shown exactly when the target's is; None for images and GIFs.",
    )
    segments: int = Field(0, description="Segments the result was joined from; 0 if written in one go.")
    segments_kept: int = Field(0, description="Those of them that an earlier, interrupted run had finished.")
    made_by: dict[str, list[tuple[int, int]]] = Field(
        {},
        description="Which worker made which of them, where a batch had several: spans of numbers, the "
        "first and the one after the last; under the empty name those of a run by one.",
    )
    quality: Quality | None = None
    mark: MarkReport | None = Field(None, description="None where a result is a copy of its target.")
    manifest: str | None = Field(
        None,
        description="SHA-256 of the manifest in a file of its name and .c2pa beside it, if there is one.",
    )
    content: ContentDecision | None = Field(None, description="What was seen in the target beside faces.")
    error: str | None = None

    @property
    def memory_difference(self) -> int:
        """Bytes by which the process grew over this file."""
        return self.memory_after - self.memory_before

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1; while it runs, ``frames_in`` is what its result will have."""
        if self.status == "running":
            return min(self.frames_out, self.frames_in) / self.frames_in if self.frames_in else 0.0
        return float(self.status != "queued")


class Summary(_Model):
    """The run in numbers."""

    total: int
    succeeded: int
    failed: int
    skipped: int
    success_rate: float = Field(description="Share of files that succeeded, 0 to 1.")
    bytes: int = Field(description="Size of all results.")
    seconds: float
    memory_warnings: int = Field(description="How often RAM in use was found above 85 %.")
    restarts: int = Field(0, description="How often the worker process died and was started again.")


class ModelReport(_Model):
    """One network of the run."""

    name: str
    path: str
    standin: bool = Field(description="One of the demo's stand-ins, not the real network.")


class BatchReport(_Model):
    """Everything about one run; written as ``report.json``."""

    schema_version: Literal[1] = Field(1, alias="schema")
    run: str = Field("", description="Names the run; a continued run keeps it.")
    stopped: bool = Field(False, description="Whether somebody stopped it before its end.")
    consent: Annotated[Consent, BeforeValidator(_consent)]
    settings: dict[str, Any]
    machine: dict[str, Any]
    models: list[ModelReport] = []
    notes: list[str] = Field([], description="Fall-backs that concern the whole run.")
    summary: Summary
    not_in_consent: list[str] = Field(
        [], description="People who were changed or put in, by name, whom the statement does not name."
    )
    files: list[FileReport]

    @property
    def ok(self) -> bool:
        """Whether every file succeeded, or none was to be done."""
        return self.summary.succeeded + self.summary.skipped == self.summary.total and not self.stopped

    def within(self, folder: Path) -> BatchReport:
        """Return it with each result in a folder, by its name alone.

        The folder may be mounted elsewhere today, and what somebody else wrote into it leads nowhere else.
        """
        placed = [
            file.model_copy(update={"output": str(folder / Path(file.output).name)}) if file.output else file
            for file in self.files
        ]
        return self.model_copy(update={"files": placed})

    def save(self, path: Path) -> None:
        """Write it as JSON: to a temporary file first, then renamed."""
        write_text(path, with_store_addresses(to_json(self, indent=2)) + "\n")


def changed_people(files: Iterable[FileReport]) -> dict[str, list[str]]:
    """Return what was done to everybody who was changed and is known by name: actions and sources."""
    done: dict[str, dict[str, None]] = {}
    for person in (one for file in files if file.quality for one in file.quality.people):
        if person.name and person.changed and person.action:
            done.setdefault(person.name, {})[action_text(person)] = None
    return {name: list(actions) for name, actions in done.items()}


def swapped_people(files: Iterable[FileReport]) -> list[str]:
    """Return the names of those who were replaced, as far as they are known, and of those put in."""
    people = [one for file in files if file.quality for one in file.quality.people if one.changed]
    names = [
        name for one in people if one.action == "swap" for name in (one.name, *_library_names(one.source))
    ]
    return [name for name in names if name]


def _library_names(source: str | None) -> list[str]:
    """The names in a source: what else it lists are paths of photos."""
    return [part for part in (source or "").split(", ") if not re.search(r"[./\\]", part)]


def action_text(person: PersonReport) -> str:
    """Say what was done to one of the people, and who was put in; empty where nothing was done."""
    words = {"blur": tr("blurred"), "pixelate": tr("pixelated"), None: ""}
    if person.action != "swap":
        return words[person.action]
    return tr("replaced by {source}", source=person.source) if person.source else tr("changed")


def summarize(
    files: Sequence[FileReport], *, seconds: float, memory_warnings: int, restarts: int = 0
) -> Summary:
    """Count and add up."""
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


# Report and status; journal; samples; the reports of the doctor and of preload; page; sheet; or nothing yet.
_OWN_HEAD = re.compile(
    rb'\s*(\{\s*"(schema": ?\d|crc":"|time": ?\d|version": 1,\s*"(checks|ok)")'
    rb'|<!DOCTYPE html>.*content="colab_helpers"|$)',
    re.DOTALL,
)


def html_path(report: Path) -> Path:
    """Return where the page beside a report goes: ``report.html`` beside ``report.json``."""
    page = report.with_suffix(".html")
    return page if page != report else report.with_name(f"{report.name}.html")


def is_own_file(path: Path) -> bool:
    """Whether a file is one that a run keeps beside its results, or an empty one, rather than the user's."""
    try:
        if not path.is_file():  # a pipe might be read for ever
            return False
        if is_placeholder(path):
            fetch(path)
        with path.open("rb") as file:
            head = file.read(200)
    except OSError:
        return False
    if _OWN_HEAD.match(head):
        return True
    # A journal whose first line was damaged is told by the status beside it.
    return path.suffix == ".jsonl" and is_own_file(path.with_name(STATUS_NAME))


def check_report_path(path: Path, write_policy: WritePolicy, *, page: bool = True) -> None:
    """Make sure that a report, and the page beside it, may be written; UsageError where they may not."""
    if is_video(path) or is_image(path) or path.suffix == ".jsonl" or path.name == STATUS_NAME:
        raise UsageError(
            tr("a report cannot have this name, which results or records may have"),
            where=str(path),
            remedy=tr("name it like {name}", name=REPORT_NAME),
        )
    for place in (path, html_path(path))[: 1 + page]:
        write_policy.ensure_writable(place)


def write_text(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing, missing folders too; OutputError where it cannot be."""
    remedy = mark("choose another folder or free space")
    with wrap_os_error(OutputError, mark("cannot be written ({reason})"), path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, printable(text).encode())
