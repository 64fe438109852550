"""What was proven: a verdict for every gradient, as a text or a table."""

import html
import math
from dataclasses import dataclass
from typing import Any

from oracle.proof.compare import Mismatch, Result

RIGHT = "right"
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Verdict:
    """What became of one gradient, "dx", of a result, "y", or of one of the two functions.

    kind       "right", "not judged" or one of oracle.proof.finding.KINDS
    sentence   what is wrong, in the smallest example that shows it
    example    that example, for `example=`
    hint       the mistake that may fit, or nothing
    reproduce  a line to be pasted
    error      the largest error over the largest number, where there are numbers
    """

    name: str
    kind: str = RIGHT
    sentence: str = ""
    example: dict[str, Any] | None = None
    hint: str = ""
    reproduce: str = ""
    error: float = math.nan
    result: Result | None = None

    @property
    def ok(self) -> bool:
        return self.kind in (RIGHT, NOT_JUDGED)

    @property
    def text(self) -> str:
        if self.kind == NOT_JUDGED:
            return self.sentence
        if self.kind == RIGHT:
            return digits(self.error)
        likely = f" Likely mistake: {self.hint}." if self.hint else ""
        return f"{self.sentence}.{likely}"


@dataclass(frozen=True)
class Report:
    """The verdicts on one backward pass, in how many examples, beside which reference.

    `remarks` are good to know and no mistakes, or mistakes that were allowed.
    """

    title: str
    verdicts: tuple[Verdict, ...]
    examples: int
    reference: str
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in self.verdicts)

    @property
    def summary(self) -> str:
        wrong = sum(not verdict.ok for verdict in self.verdicts)
        found = "all right" if not wrong else "1 mistake" if wrong == 1 else f"{wrong} mistakes"
        return f"{self.title}: {found}, in {self.examples} examples beside {self.reference}"

    def __getitem__(self, name: str) -> Verdict:
        """The first verdict on that gradient that is not right, or the one that says it is."""
        found = [verdict for verdict in self.verdicts if verdict.name == name]
        if not found:
            raise KeyError(name)
        return next((verdict for verdict in found if not verdict.ok), found[0])

    def __str__(self) -> str:
        names = max((len(v.name) for v in self.verdicts), default=0)
        kinds = max((len(v.kind) for v in self.verdicts), default=0)
        lines = [f"  {v.name:{names}}  {v.kind:{kinds}}  {v.text}" for v in self.verdicts]
        return "\n".join([self.summary, *lines, *(f"  {remark}" for remark in self.remarks)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(v.name)}</td><td>{html.escape(v.kind)}</td>"
            f"<td style='text-align:left'>{html.escape(v.text)}</td></tr>"
            for v in self.verdicts
        )
        below = "".join(f"<div>{html.escape(remark)}</div>" for remark in self.remarks)
        return f"<div>{html.escape(self.summary)}</div><table>{rows}</table>{below}"

    def raise_if_wrong(self, gradient: str = "") -> None:
        """Raise a Mismatch, an AssertionError, with `report`, where anything is wrong; or where
        anything is wrong with that gradient, or with the functions as a whole."""
        __tracebackhide__ = True
        others = {v.name for v in self.verdicts if v.name.startswith("d")} - {gradient}
        wrong = [v for v in self.verdicts if not v.ok and not (gradient and v.name in others)]
        if wrong:
            raise Failure(self, wrong) from None


class Failure(Mismatch):
    """What check_backward raises; `report` has every verdict."""

    def __init__(self, report: Report, wrong: list[Verdict]):
        lines = [f"{verdict.text}\nReproduce: {verdict.reproduce}" for verdict in wrong]
        super().__init__("\n".join(lines), wrong[0].result)
        self.report = report


def digits(error: float) -> str:
    """A relative error in plain words."""
    if math.isnan(error):
        return ""
    if error == 0:
        return "to the last bit"
    return f"to {min(max(0, math.floor(-math.log10(error))), 16)} digits"
