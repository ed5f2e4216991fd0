"""What the doctor finds: the lines of its table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from colab_helpers.language import mark, tr

CheckStatus = Literal["pass", "warn", "fail"]
INSTALL_REMEDY = mark("run 'bash setup.sh install' (on Colab: run the cell \"Get ready\" again)")

_STATUS_WORDS: dict[CheckStatus, str] = {"pass": mark("PASS"), "warn": mark("WARN"), "fail": mark("FAIL")}
# The names of findings on models begin with these.
_NONE: Mapping[str, float] = {}
_TITLES = {"model": mark("model {name}"), "parity": mark("parity {name}")}


class Check(BaseModel):
    """One finding; its name, in a word or two of English, is the same in every language.

    ``warn``: a run works, but with something less; ``fail``: it does not, or not rightly. Only what passes
    has no remedy. Figures are measured values for machines, whose names end in their unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""
    figures: dict[str, float] = {}

    @property
    def title(self) -> str:
        """The name as it is shown."""
        kind, _, subject = self.name.partition(" ")
        if subject and kind in _TITLES:
            return tr(_TITLES[kind], name=subject)
        return tr(self.name)


def finding(
    name: str, detail: str, remedy: str = "", *, warns: bool = False, figures: Mapping[str, float] = _NONE
) -> Check:
    """Make a finding: without a remedy it passes, else it fails, or only warns."""
    # JSON knows neither infinity nor "not a number".
    finite = {key: float(value) for key, value in figures.items() if math.isfinite(value)}
    status: CheckStatus = "pass" if not remedy else "warn" if warns else "fail"
    return Check(name=name, status=status, detail=detail, remedy=remedy, figures=finite)


class Diagnosis(BaseModel):
    """All findings; ``ok`` means that nothing failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    checks: list[Check]
    ok: bool

    @classmethod
    def of(cls, checks: Iterable[Check]) -> Diagnosis:
        """Sum up findings."""
        found = list(checks)
        return cls(checks=found, ok=all(check.status != "fail" for check in found))

    def failures(self) -> list[Check]:
        """Return what failed."""
        return [check for check in self.checks if check.status == "fail"]

    def lines(self) -> list[str]:
        """Return the table as plain text, each remedy below its finding, the count last."""
        width = max((len(check.title) for check in self.checks), default=0) + 2
        margin = max(len(tr(word)) for word in _STATUS_WORDS.values()) + 1
        lines = []
        for check in self.checks:
            lines.append(f"{tr(_STATUS_WORDS[check.status]):{margin}}{check.title:{width}}{check.detail}")
            if check.remedy:
                lines.append(" " * (margin + width) + tr("what to do: {remedy}", remedy=check.remedy))
        return [*lines, self.summary()]

    def summary(self) -> str:
        """Return how many findings of each kind there are, in one line."""
        count = Counter(check.status for check in self.checks)
        return tr(
            "{passed} passed, {warnings} warning(s), {failed} failed",
            passed=count["pass"],
            warnings=count["warn"],
            failed=count["fail"],
        )
