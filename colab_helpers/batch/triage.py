"""Triage of targets before they are processed, ``triage.json``: who is in them, and how well visible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from colab_helpers.batch.journal import FileDone, History
from colab_helpers.batch.known_people import FaceVisibility, KnownTarget
from colab_helpers.batch.report import write_text
from colab_helpers.files import to_json
from colab_helpers.language import first_of, mark, tr

TRIAGE_NAME = "triage.json"
_MAX_NAMED = 6


class FileTriage(BaseModel, extra="forbid"):
    """Triage of one target."""

    target: str
    people: dict[str, float] = Field(description="Seconds on screen of each person, by name.")
    sight: FaceVisibility
    estimate: float | None = Field(None, description="Expected seconds, at the throughput of earlier files.")

    @property
    def remarks(self) -> list[str]:
        """What may spoil the result, in a few words each."""
        return [tr(text) for text, applies in _REMARKS.items() if applies(self.sight)]


class Triage(BaseModel, extra="forbid", populate_by_name=True):
    """All targets that were scanned, in the order of the batch."""

    schema_version: Literal[1] = Field(1, alias="schema")
    files: list[FileTriage]

    def save(self, output_dir: Path) -> None:
        """Write ``triage.json``; raise OutputError if that fails."""
        write_text(output_dir / TRIAGE_NAME, to_json(self, indent=1) + "\n")

    def lines(self) -> list[str]:
        """Return each remark with the files that it applies to."""
        lines = []
        for text, applies in _REMARKS.items():
            if names := [file.target for file in self.files if applies(file.sight)]:
                lines.append(f"{tr(text)}: {first_of(names, _MAX_NAMED)}")
        return lines


_REMARKS: Mapping[str, Callable[[FaceVisibility], bool]] = {
    mark("no face is seen"): lambda sight: not sight.faces,
    mark("faces are turned away most of the time"): lambda sight: sight.turned > 0.5,
    mark("faces are very small most of the time"): lambda sight: sight.small > 0.5,
    mark("faces are too dark"): lambda sight: sight.dark > 0.5,
    mark("faces are partly covered"): lambda sight: (sight.covered or 0) > 0.3,
}


def build_triage(videos: Iterable[KnownTarget], names: Mapping[str, str], pace: float | None) -> Triage:
    """Build the triage of targets, in their order.

    ``names`` are those of people by group, ``pace`` is the throughput of earlier files in frames per second.
    """
    files = []
    for video in videos:
        people: dict[str, float] = {}
        for group in dict.fromkeys(video.tracks.values()):
            if group:
                people[names[group]] = round(people.get(names[group], 0.0) + video.seconds(group), 3)
        estimate = round(video.sight.frames / pace, 1) if pace else None
        files.append(FileTriage(target=video.target, people=people, sight=video.sight, estimate=estimate))
    return Triage(files=files)


def measured_throughput(history: History) -> float | None:
    """Return the frames per second of earlier files that were not resumed; None if there are none."""
    done = [entry.report for entry in history.entries if isinstance(entry, FileDone)]
    timed = [report for report in done if report.seconds and not report.segments_kept]
    seconds = sum(report.seconds for report in timed)
    return sum(report.frames_out for report in timed) / seconds if seconds else None
