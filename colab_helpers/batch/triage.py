"""How each target looks before it is worked on, as ``triage.json``: who is there, and how well seen."""

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
    """One target; shares are from 0 to 1, see `FaceVisibility`."""

    target: str
    people: dict[str, float] = Field(description="Seconds on screen of everybody, by name.")
    sight: FaceVisibility
    estimate: float | None = Field(
        None, description="Seconds that it will take, at the pace of earlier files."
    )

    @property
    def remarks(self) -> list[str]:
        """What speaks against a good result, in a word or two each."""
        return [tr(text) for text, holds in _REMARKS.items() if holds(self.sight)]


class Triage(BaseModel, extra="forbid", populate_by_name=True):
    """All targets that were looked at, in the order of the batch."""

    schema_version: Literal[1] = Field(1, alias="schema")
    files: list[FileTriage]

    def save(self, output_dir: Path) -> None:
        """Write it; OutputError where that is not possible."""
        write_text(output_dir / TRIAGE_NAME, to_json(self, indent=1) + "\n")

    def lines(self) -> list[str]:
        """What is worth knowing of the whole batch: each remark, with the files it holds of."""
        told = []
        for text, holds in _REMARKS.items():
            names = [file.target for file in self.files if holds(file.sight)]
            if names:
                told.append(f"{tr(text)}: {first_of(names, _MAX_NAMED)}")
        return told


_REMARKS: Mapping[str, Callable[[FaceVisibility], bool]] = {
    mark("no face is seen"): lambda sight: not sight.faces,
    mark("faces are turned away most of the time"): lambda sight: sight.turned > 0.5,
    mark("faces are very small most of the time"): lambda sight: sight.small > 0.5,
    mark("faces are too dark"): lambda sight: sight.dark > 0.5,
    mark("something stands before the faces"): lambda sight: (sight.covered or 0) > 0.3,
}


def build_triage(videos: Iterable[KnownTarget], names: Mapping[str, str], pace: float | None) -> Triage:
    """Put together what is known of targets, in the order of the batch; ``names`` are by group.

    ``pace`` is how many frames a second earlier files took; None where there were none.
    """
    files = []
    for video in videos:
        people: dict[str, float] = {}
        for group in dict.fromkeys(video.tracks.values()):
            if group:
                people[names[group]] = round(people.get(names[group], 0.0) + video.seconds(group), 3)
        took = round(video.sight.frames / pace, 1) if pace else None
        files.append(FileTriage(target=video.target, people=people, sight=video.sight, estimate=took))
    return Triage(files=files)


def measured_throughput(history: History) -> float | None:
    """Return how many frames a second earlier files of a folder took; None where nothing was done."""
    done = [entry.report for entry in history.entries if isinstance(entry, FileDone)]
    whole = [report for report in done if report.seconds and not report.segments_kept]
    seconds = sum(report.seconds for report in whole)
    return sum(report.frames_out for report in whole) / seconds if seconds else None
