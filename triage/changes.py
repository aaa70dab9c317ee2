"""What is different between two rounds of decisions on the same requests: before and after a rule, a model, a night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triage.records import Decision, severity


@dataclass(frozen=True, slots=True)
class Changes:
    """Counts of (before, after) codes where they differ, and the places of the requests that changed urgency.

    `raised` and `lowered` hold indices into the two rounds, those that became or ceased to be critical first.
    """

    total: int
    urgency: Counter[tuple[str, str]]
    category: Counter[tuple[str, str]]
    department: Counter[tuple[str, str]]
    flags: Counter[str]  # "+code" and "-code"
    raised: tuple[int, ...]
    lowered: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; changed codes as "before > after"."""
        heads = {
            h: {f"{a} > {b}": n for (a, b), n in getattr(self, h).items()}
            for h in ("urgency", "category", "department")
        }
        return {"total": self.total, **heads, "flags": dict(self.flags), "raised": self.raised, "lowered": self.lowered}


def compare(before: Sequence[Decision], after: Sequence[Decision]) -> Changes:
    """Compare two rounds, request by request. Raises ValueError when they differ in number."""
    heads: dict[str, Counter[tuple[str, str]]] = {"urgency": Counter(), "category": Counter(), "department": Counter()}
    flags: Counter[str] = Counter()
    moved: list[tuple[int, int, int]] = []  # index, severity before, severity after
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        for head, count in heads.items():
            old, new = getattr(a, head).code, getattr(b, head).code
            if old != new:
                count[old, new] += 1
        old_flags, new_flags = ({f.code for f in d.flags} for d in (a, b))
        flags.update("+" + code for code in new_flags - old_flags)
        flags.update("-" + code for code in old_flags - new_flags)
        if a.urgency.code != b.urgency.code:
            moved.append((i, severity(a.urgency.code), severity(b.urgency.code)))
    gravest = sorted(moved, key=lambda m: (-max(m[1], m[2]), m[0]))
    return Changes(
        len(before), heads["urgency"], heads["category"], heads["department"], flags,
        tuple(i for i, old, new in gravest if new > old), tuple(i for i, old, new in gravest if new < old),
    )  # fmt: skip
