"""The cascade: a cheap first stage answers what it is certain of, only the rest is read by the BERT.

Certain means: no rule so much as mentions something grave, and the first stage's calibrated probability of its answer reaches
`certain` for every head at once, with an urgency below urgent. The threshold is fitted by `training.calibrate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triage.models.base import Backend
from triage.records import Finding, Scores

GRAVE = ("urgent", "critical")


def certainty(scores: Scores) -> float:
    """Return how likely the least certain head is right, in [0, 1]; 0 when the likeliest urgency is urgent or critical."""
    level, urgency = max(scores.urgency.items(), key=lambda item: item[1])
    if level in GRAVE:
        return 0.0
    yes_or_no = (max(p, 1 - p) for p in scores.flags.values())
    return min(urgency, max(scores.category.values()), max(scores.department.values()), min(yes_or_no, default=1.0))


def grave_words(findings: Sequence[Finding]) -> bool:
    """Whether a rule speaks of something urgent or critical, be it denied or long over: then the BERT reads the text."""
    return any(f.red_flag or f.urgency in GRAVE for f in findings)


@dataclass(frozen=True, slots=True)
class Cascade:
    """A first stage and how certain it must be to answer alone."""

    first: Backend
    certain: float

    def answers(self, texts: Sequence[str], findings: Sequence[Sequence[Finding]]) -> list[Scores | None]:
        """Return the scores of each cleaned text the first stage may answer, None for those that need the BERT."""
        open_ = [i for i, found in enumerate(findings) if not grave_words(found)]
        out: list[Scores | None] = [None] * len(texts)
        for i, scores in zip(open_, self.first.score([texts[i] for i in open_]), strict=True):
            if certainty(scores) >= self.certain:
                out[i] = scores
        return out
