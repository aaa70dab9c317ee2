"""Rules that can be deleted: another rule already says all they say, wherever they would say it."""

from __future__ import annotations

from collections.abc import Sequence

from triage.records import severity
from triage.rules.files import Rule


def shadowed(rules: Sequence[Rule]) -> list[str]:
    """Return one line for every rule that a more general rule shadows or repeats, in the order given.

    Shadowed means: whenever the rule's words and conditions are met, those of the other rule are met too, and the other makes
    the same claims or graver ones. Expressions are compared as written, so that what is told is certain, and not everything is.
    """
    lines = []
    for i, rule in enumerate(rules):
        for j, other in enumerate(rules):
            if i == j or not _claims(other, rule) or not _meets(other, rule):
                continue
            twins = _claims(rule, other) and _meets(rule, other)
            if not twins:
                lines.append(
                    f"{rule.id}: shadowed by {other.id}, which says as much of more texts; delete it or make it say more"
                )
            elif i > j:
                lines.append(f"{rule.id}: says the same as {other.id}; keep one")
    return lines


def _claims(other: Rule, rule: Rule) -> bool:
    """Whether `other` says everything that `rule` says, an urgency at least as grave."""
    for head in ("flag", "category", "department", "co_department"):
        said = getattr(rule, head)
        if said is not None and said != getattr(other, head):
            return False
    if rule.urgency and (not other.urgency or severity(other.urgency) < severity(rule.urgency)):
        return False
    return other.red_flag >= rule.red_flag and other.settles >= rule.settles


def _meets(other: Rule, rule: Rule) -> bool:
    """Whether `other` holds wherever `rule` does."""
    words = all(any(short in word for short in other.any) for word in rule.any) and set(rule.regex) <= set(other.regex)
    near = all(any(set(mine) <= set(theirs) for mine in rule.near) for theirs in other.near)
    return (
        bool(rule.any or rule.regex) and words and near
        and (not other.near or other.within >= rule.within)
        and set(other.unless) <= set(rule.unless) and set(other.absent) <= set(rule.absent)
        and set(other.when) <= set(rule.when) and set(other.ignores) >= set(rule.ignores)
        and (not other.word or (rule.word and other.any == rule.any))
        and (not rule.regex or other.value == rule.value)
    )  # fmt: skip
