"""What do the rules bring on labelled requests? Coverage, precision, what only one rule catches, who contradicts whom.

Rules are measured like the features of a model: a rule that is right half the time is no rule, whatever its author meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from triage.errors import InputError
from triage.records import URGENCY_LEVELS, Finding, HelpRequest, severity
from triage.rules.book import RuleBook
from triage.text import clean

HEADS = ("urgency", "category", "department", "flag")
EXAMPLES = 5  # ids of wrong requests kept for each rule


@dataclass(frozen=True, slots=True)
class Truth:
    """The labels of one request that a rule can be right or wrong about; None where the file does not say."""

    urgency: str | None
    category: str | None
    department: str | None
    flags: frozenset[str] | None

    @classmethod
    def of(cls, request: HelpRequest) -> Truth:
        """Read the labels from a request's other columns: urgency, category, department, flags (a list, or "a,b").

        An empty cell means "not said", but empty flags mean "none". Raises InputError, without quoting the cell, for a request
        without any label or with one that cannot be.
        """
        row, place = request.extra, f"request {request.id}"
        flags = row.get("flags")
        if isinstance(flags, str):
            flags = [f.strip() for f in flags.replace(";", ",").split(",") if f.strip()]
        if flags is not None and not (isinstance(flags, list) and all(isinstance(f, str) for f in flags)):
            raise InputError(f"{place}: flags must be a list of codes, or codes with commas between")
        urgency = row.get("urgency") or None
        if urgency is not None and urgency not in URGENCY_LEVELS:
            raise InputError(f"{place}: urgency is none of {', '.join(URGENCY_LEVELS)}")
        truth = cls(urgency, row.get("category") or None, row.get("department") or None,
                    None if flags is None else frozenset(flags))  # fmt: skip
        if truth == cls(None, None, None, None):
            raise InputError(f"{place}: no label to measure rules by; fill urgency, category, department or flags")
        return truth

    def has(self, head: str, label: str) -> bool | None:
        """Whether a label is true of the request (urgency: at least so urgent); None where the file does not say."""
        if head == "flag":
            return None if self.flags is None else label in self.flags
        wanted: str | None = getattr(self, head)
        if wanted is None:
            return None
        return severity(wanted) >= severity(label) if head == "urgency" else wanted == label

    def confirms(self, finding: Finding, head: str) -> bool | None:
        """Whether the truth is what a finding says of `head`; None where either is silent."""
        said = getattr(finding, head)
        return None if said is None else self.has(head, said)


@dataclass(slots=True)
class RuleReport:
    """One rule over a file: requests in which it holds, and per head [right, spoken]; `only` counts the requests of which
    no other rule said the same right thing; `against` the rules that named another category or department there."""

    rule: str
    holds: int = 0
    silenced: int = 0  # requests in which it is mentioned and does not hold
    right: dict[str, list[int]] = field(default_factory=lambda: {h: [0, 0] for h in HEADS})
    only: int = 0
    against: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # ids of the first requests with a wrong claim

    def precision(self, head: str) -> float | None:
        """Return the share of right claims about a head; None without a claim."""
        right, spoken = self.right[head]
        return right / spoken if spoken else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"rule": self.rule, "holds": self.holds, "silenced": self.silenced, "right": self.right, "only": self.only,
                "against": dict(self.against), "wrong": self.wrong}  # fmt: skip


def _same(a: Finding, b: Finding, head: str) -> bool:
    """Whether another finding backs a claim: the same label, or at least the same urgency."""
    said, other = getattr(a, head), getattr(b, head)
    if said is None or other is None:
        return False
    return bool(severity(other) >= severity(said)) if head == "urgency" else bool(said == other)


def report(book: RuleBook, requests: Sequence[HelpRequest]) -> list[RuleReport]:
    """Measure every rule on labelled requests, in the order of rule ids. Raises InputError for requests without labels."""
    out = {rule.id: RuleReport(rule.id) for rule in book.rules}
    for request in requests:
        truth, findings = Truth.of(request), book.apply(clean(request.text))
        holding = {f.rule: f for f in findings if f.holds}
        for rule in {f.rule for f in findings} - set(holding):
            out[rule].silenced += 1
        for rule, finding in holding.items():
            _count(out[rule], finding, truth, [f for r, f in holding.items() if r != rule], request.id)
    return list(out.values())


def _count(row: RuleReport, finding: Finding, truth: Truth, others: Iterable[Finding], request: str) -> None:
    others = list(others)
    row.holds += 1
    alone = wrong = False
    for head in HEADS:
        verdict = truth.confirms(finding, head)
        if verdict is None:
            continue
        row.right[head][0] += verdict
        row.right[head][1] += 1
        wrong |= not verdict
        alone |= verdict and not any(_same(finding, f, head) for f in others)
    row.only += alone
    row.against.update({f.rule for f in others if any(
        getattr(finding, h) and getattr(f, h) not in (None, getattr(finding, h)) for h in ("category", "department")
    )})  # fmt: skip
    if wrong and len(row.wrong) < EXAMPLES:
        row.wrong.append(request)


def totals(reports: Sequence[RuleReport]) -> Mapping[str, float | None]:
    """Return the share of right claims of all rules together, per head."""
    out: dict[str, float | None] = {}
    for head in HEADS:
        right, spoken = (sum(r.right[head][i] for r in reports) for i in (0, 1))
        out[head] = right / spoken if spoken else None
    return out
