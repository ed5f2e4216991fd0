"""What the doctor finds: the lines of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

CheckStatus = Literal["pass", "warn", "fail"]
INSTALL_REMEDY = "run 'bash setup.sh install' (on Colab: run the cell \"Get ready\" again)"


class Check(BaseModel):
    """One finding.

    Attributes:
        name: What was examined, in a word or two.
        status: ``warn``: a run works, but with something less; ``fail``: it does not, or not rightly.
        detail: What was found.
        remedy: What to do about it; empty only if the status is ``pass``.
        figures: Measured values for machines, by name; the names end in their unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    status: CheckStatus
    detail: str
    remedy: str = ""
    figures: dict[str, float] = {}


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
        """What failed."""
        return [check for check in self.checks if check.status == "fail"]

    def lines(self) -> list[str]:
        """The table as plain text, each remedy below its finding, the count last."""
        width = max((len(check.name) for check in self.checks), default=0) + 2
        found = [line for check in self.checks for line in _lines(check, width)]
        return [*found, self.summary()]

    def summary(self) -> str:
        """How many findings of each kind, in one line."""
        count = Counter(check.status for check in self.checks)
        return f"{count['pass']} passed, {count['warn']} warning(s), {count['fail']} failed"


def _lines(check: Check, width: int) -> list[str]:
    line = f"{check.status.upper():5}{check.name:{width}}{check.detail}"
    return [line, *([f"{'':{width + 5}}what to do: {check.remedy}"] if check.remedy else [])]
