"""The only place where rules meet the model.

Every label is a yes/no question (is it `medical`? is it at least `urgent`? does `cardiac` hold?). Three kinds of evidence
answer it: the model's log-odds, rules that speak for it, rules that speak against it. Their weights are one logistic
regression a head, fitted on validation data (`training.calibrate`), so that the answer is a calibrated probability.
Named red-flag rules are then a floor under the urgency, and doubt about something grave goes to a person.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from triage.errors import ModelError
from triage.privacy import redact
from triage.profile import Profile
from triage.records import URGENCY_LEVELS, Decision, Finding, Flag, Label, Scores, Status, most_severe, severity
from triage.text import CleanText, other_script

THRESHOLDS = URGENCY_LEVELS[1:]  # "at least priority", "at least urgent", "at least critical"
QUESTIONS = ("category", "department", "co_departments", "flags", *THRESHOLDS)


@dataclass(frozen=True, slots=True)
class Weights:
    """Log-odds of a label = bias + model × model's log-odds + rules_for (if any rule says so) + rules_against."""

    bias: float = 0.0
    model: float = 1.0
    rules_for: float = 3.0
    rules_against: float = -1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Weights and decision thresholds per question, kept in a model folder as `decision.json`."""

    weights: Mapping[str, Weights] = field(default_factory=lambda: {q: Weights() for q in QUESTIONS})
    thresholds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(QUESTIONS, 0.5))
    review_category_below: float = 0.5
    review_urgent_between: tuple[float, float] = (0.25, 0.75)
    # Red flags step back, and a person looks, where the model finds "at least urgent" less likely than this: news,
    # drills and jokes use the words of emergencies.
    floor_veto: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Policy:
        """Read the JSON form. Raises ModelError when a question is missing."""
        try:
            return cls(
                {q: Weights(**raw["weights"][q]) for q in QUESTIONS},
                {q: float(raw["thresholds"][q]) for q in QUESTIONS},
                float(raw["review_category_below"]),
                (float(raw["review_urgent_between"][0]), float(raw["review_urgent_between"][1])),
                float(raw["floor_veto"]),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ModelError(f"decision.json lacks {error}; run training.calibrate again") from None


class Evidence(NamedTuple):
    """What one question is answered from (a tuple: there are sixty a request)."""

    log_odds: float
    rules_for: bool
    rules_against: bool

    def probability(self, w: Weights) -> float:
        """Return the calibrated probability of yes."""
        z = w.bias + w.model * self.log_odds + w.rules_for * self.rules_for + w.rules_against * self.rules_against
        return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


def log_odds(p: float) -> float:
    """Return ln(p / (1 - p)), p kept within [0.01, 0.99]: no single witness is ever certain."""
    return -_CERTAIN if p <= 0.01 else _CERTAIN if p >= 0.99 else math.log(p / (1 - p))


_CERTAIN = math.log(99)


def gather(findings: Sequence[Finding], scores: Scores) -> dict[str, dict[str, Evidence]]:
    """Put the two witnesses side by side: question -> label -> evidence."""
    holding = [f for f in findings if f.holds]
    flags_for = {f.flag for f in holding}
    keys = {f.co_department for f in holding}
    flags_against = {f.flag for f in findings if not f.holds} - flags_for
    out = {
        "category": _choice(scores.category, [f.category for f in holding]),
        "department": _choice(scores.department, [f.department for f in holding]),
        "co_departments": {code: Evidence(log_odds(p), code in keys, False) for code, p in scores.co_departments.items()},
        "flags": {code: Evidence(log_odds(p), code in flags_for, code in flags_against) for code, p in scores.flags.items()},
    }  # fmt: skip
    spoken = most_severe([f.urgency for f in holding if f.urgency])
    at_least = 1.0
    for lower, level in zip(URGENCY_LEVELS, THRESHOLDS, strict=False):
        at_least -= scores.urgency[lower]
        reached = spoken is not None and severity(spoken) >= severity(level)
        out[level] = {level: Evidence(log_odds(at_least), reached, spoken is not None and not reached)}
    return out


def _choice(scores: Mapping[str, float], votes: Iterable[str | None]) -> dict[str, Evidence]:
    named = {v for v in votes if v}
    return {c: Evidence(log_odds(p), c in named, bool(named) and c not in named) for c, p in scores.items()}


def urgency_distribution(evidence: Mapping[str, Mapping[str, Evidence]], policy: Policy) -> dict[str, float]:
    """Return the probability of each level, ascending; "at least" never rises with the level."""
    at_least = [1.0]
    for level in THRESHOLDS:
        at_least.append(min(at_least[-1], evidence[level][level].probability(policy.weights[level])))
    at_least.append(0.0)
    return {level: at_least[i] - at_least[i + 1] for i, level in enumerate(URGENCY_LEVELS)}


def choose_urgency(distribution: Mapping[str, float], thresholds: Mapping[str, float]) -> str:
    """Return the highest level whose "at least" probability reaches its threshold."""
    chosen, at_least = URGENCY_LEVELS[0], 1.0
    for lower, level in zip(URGENCY_LEVELS, THRESHOLDS, strict=False):
        at_least -= distribution[lower]
        if at_least >= thresholds[level]:
            chosen = level
    return chosen


def decide(
    text: CleanText,
    findings: Sequence[Finding],
    scores: Scores,
    districts: tuple[str, ...],
    profile: Profile,
    policy: Policy,
    fingerprints: Mapping[str, str],
) -> Decision:
    """Weigh findings and scores into one decision with its reasons."""
    evidence = gather(findings, scores)
    told = findings
    if findings and (safe := redact(text.original)) != text.original:  # reasons are shown, logged and stored
        told = [replace(f, text=safe[f.start : f.end]) for f in findings]
    reasons: list[str] = []
    review: list[str] = []

    def best(question: str) -> Label:
        p = {code: e.probability(policy.weights[question]) for code, e in evidence[question].items()}
        total = sum(p.values())
        code = max(p, key=lambda c: p[c])
        return Label(code, profile.label_name(question, code), p[code] / total)

    category, likeliest = best("category"), best("department")
    settled = next((f.department for f in told if f.holds and f.settles and f.department), likeliest.code)
    department = likeliest
    if settled != likeliest.code:
        department = Label(settled, profile.label_name("department", settled), 1.0)
    distribution = urgency_distribution(evidence, policy)
    level = choose_urgency(distribution, policy.thresholds)
    floors = [f for f in told if f.holds and f.red_flag]
    model_urgent = scores.urgency["urgent"] + scores.urgency["critical"]
    if floors and model_urgent < policy.floor_veto:
        review.append(f"review: rule {floors[0].rule} finds {floors[0].text}, the model is sure it is not urgent")
        floors = []
    floor = most_severe([f.urgency for f in floors if f.urgency])
    if floor is not None and severity(floor) > severity(level):
        level = floor
        below = sum(p for name, p in distribution.items() if severity(name) < severity(floor))
        distribution = {n: 0.0 if severity(n) < severity(floor) else p for n, p in distribution.items()}
        distribution[floor] += below
        if model_urgent < 0.5 and severity(floor) >= severity("urgent"):
            review.append(f"review: rules say {floor}, the model finds urgent or more unlikely ({model_urgent:.2f})")
    urgency = Label(level, profile.label_name("urgency", level), distribution[level])

    flags = []
    for code, e in evidence["flags"].items():
        p = e.probability(policy.weights["flags"])
        shown = tuple(f for f in told if f.holds and f.flag == code)
        # A red flag that moves the urgency also stands as a flag, or the decision would contradict its own reason.
        if p >= policy.thresholds["flags"] or any(f in floors or f.settles for f in shown):
            flags.append(Flag(code, profile.label_name("flag", code), p, shown))
    co = sorted(
        (
            Label(code, profile.label_name("department", code), p)
            for code, e in evidence["co_departments"].items()
            if code != department.code
            and (
                (p := e.probability(policy.weights["co_departments"])) >= policy.thresholds["co_departments"]
                or (floors and any(f.co_department == code for f in told if f.holds))  # who holds the key to a red flag
                or code == likeliest.code  # who would take it, had no rule settled it, still has to move
            )
        ),
        key=lambda label: -label.score,
    )

    if not text.text.strip():
        reasons.append("the text holds nothing readable")
    if other_script(text.text) > 0.3:  # neither rules nor model know a word of it
        review.append("review: much of it is in a script that is not read here; have it translated")
    reasons += _because("urgency", level, [f for f in told if f.holds and f.urgency == level], distribution[level])
    reasons += _because("category", category.code, [f for f in told if f.holds and f.category == category.code],
                        category.score)  # fmt: skip
    for f in told:
        if not f.holds and (f.flag or f.urgency):
            reasons.append(f"{f.rule} mentioned but {f.status.value}: {f.text}" + (f" ({f.cue})" if f.cue else ""))
    review += _doubts(evidence, told, scores, category, level, policy)
    return Decision(
        text.original, category, urgency, department, tuple(co), tuple(flags), districts, bool(review),
        tuple(dict.fromkeys(reasons + review)), tuple(findings), fingerprints,
    )  # fmt: skip


def _because(head: str, code: str, shown: Sequence[Finding], score: float) -> list[str]:
    if not shown:
        return [f"{head} {code}: the whole text, by the model ({score:.2f})"]
    first = list({f.rule: f for f in reversed(shown)}.values())[::-1][:3]
    return [f"{head} {code} because {f.text} (rule {f.rule}, characters {f.start}-{f.end})" for f in first]


def _doubts(
    evidence: Mapping[str, Mapping[str, Evidence]], findings: Sequence[Finding], scores: Scores, category: Label,
    level: str, policy: Policy,
) -> list[str]:  # fmt: skip
    """Return why a person should look: doubt about something grave, or no confidence in what the request is about."""
    doubts = []
    urgent = evidence["urgent"]["urgent"].probability(policy.weights["urgent"])
    low, high = policy.review_urgent_between
    if low <= urgent <= high:
        doubts.append(f"review: whether it is urgent is in doubt ({urgent:.2f})")
    denied = [f for f in findings if f.status in (Status.DENIED, Status.OVER) and f.red_flag]
    if scores.urgency["critical"] >= 0.5 and denied and severity(level) < severity("critical"):
        doubts.append(f"review: the model says critical, but {denied[0].text} counts as {denied[0].status.value}")
    elif scores.urgency["critical"] >= 0.5 and severity(level) < severity("urgent"):
        doubts.append(f"review: the model alone says critical ({scores.urgency['critical']:.2f})")
    if category.score < policy.review_category_below:
        doubts.append(f"review: what it is about is in doubt ({category.code} {category.score:.2f})")
    return doubts
