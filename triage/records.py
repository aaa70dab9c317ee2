"""The records that travel through triage: a request, a finding, scores, and the decision with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

URGENCY_LEVELS = ("routine", "priority", "urgent", "critical")  # ascending: index = severity


class Status(StrEnum):
    """Whether a mentioned fact holds now (after medSpaCy's ConText: negation, hypothetical, historical, general)."""

    HOLDS = "holds"
    DENIED = "denied"
    HYPOTHETICAL = "hypothetical"
    OVER = "over"
    GENERAL = "general"


@dataclass(frozen=True, slots=True)
class HelpRequest:
    """One request as it came in. `extra` carries the caller's other columns through unchanged."""

    id: str
    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact that a rule found: `text` is original[start:end]; `cue` is the word that decided a status other than holds."""

    rule: str
    start: int
    end: int
    text: str
    status: Status
    cue: str = ""
    flag: str | None = None
    urgency: str | None = None
    category: str | None = None
    department: str | None = None
    co_department: str | None = None
    red_flag: bool = False
    settles: bool = False

    @property
    def holds(self) -> bool:
        """Whether the fact holds now for somebody in the request."""
        return self.status is Status.HOLDS

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values, without empty fields."""
        return {k: v for k, v in asdict(self).items() if v not in (None, "", False)}


@dataclass(frozen=True, slots=True)
class Scores:
    """How likely a backend finds each label, each in [0, 1].

    `category`, `department` and `urgency` sum to 1; `co_departments` and `flags` are independent of each other.
    """

    category: Mapping[str, float]
    urgency: Mapping[str, float]
    department: Mapping[str, float]
    co_departments: Mapping[str, float]
    flags: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Label:
    """A decided label: stable `code`, Chinese `name`, calibrated `score` in [0, 1]."""

    code: str
    name: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return code, name and score (4 decimals)."""
        return {"code": self.code, "name": self.name, "score": round(self.score, 4)}


@dataclass(frozen=True, slots=True)
class Flag:
    """A risk flag that holds, with the findings that show it (empty when only the model saw it)."""

    code: str
    name: str
    score: float
    evidence: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return code, name, score (4 decimals) and evidence."""
        return {"code": self.code, "name": self.name, "score": round(self.score, 4),
                "evidence": [f.to_dict() for f in self.evidence]}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """What triage says of one request. `to_dict` is the JSON of the command line; `explain` is for people."""

    text: str
    category: Label
    urgency: Label
    department: Label
    co_departments: tuple[Label, ...]
    flags: tuple[Flag, ...]
    districts: tuple[str, ...]
    needs_review: bool
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]
    fingerprints: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the request's text is not among them, only the evidence is, private parts covered."""
        return {
            "category": self.category.to_dict(),
            "urgency": self.urgency.to_dict(),
            "department": self.department.to_dict(),
            "co_departments": [d.to_dict() for d in self.co_departments],
            "flags": [f.to_dict() for f in self.flags],
            "districts": list(self.districts),
            "needs_review": self.needs_review,
            "reasons": list(self.reasons),
            "fingerprints": dict(self.fingerprints),
        }

    def explain(self) -> str:
        """Return a few lines of plain text: the labels, then why."""
        lines = [
            f"{self.urgency.name} {self.urgency.code} ({self.urgency.score:.2f})",
            f"{self.category.name} {self.category.code} ({self.category.score:.2f})",
            f"{self.department.name} {self.department.code} ({self.department.score:.2f})"
            + "".join(f" + {d.name} {d.code}" for d in self.co_departments),
        ]
        if self.flags:
            lines.append("，".join(f"{f.name} {f.code} ({f.score:.2f})" for f in self.flags))
        if self.districts:
            lines.append("，".join(self.districts))
        lines += [f"- {reason}" for reason in self.reasons]
        if self.needs_review:
            lines.append("! needs review")
        return "\n".join(lines)


def severity(level: str) -> int:
    """Return 0 (routine) to 3 (critical)."""
    return URGENCY_LEVELS.index(level)


def most_severe(levels: Sequence[str]) -> str | None:
    """Return the gravest of the levels, None when there are none."""
    return max(levels, key=severity, default=None)
