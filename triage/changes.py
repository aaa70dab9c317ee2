"""What is different between two rounds of decisions on the same requests: before and after a rule, a model, a night.

`compare` takes two rounds that are in memory; `Tally` counts while rows stream by, and is small whatever their number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from triage.records import URGENCY_LEVELS, Decision, severity

HEADS = ("urgency", "category", "department")


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
    tally = Tally()
    moved: list[tuple[int, int, int]] = []  # index, severity before, severity after
    for i, (a, b) in enumerate(zip(before, after, strict=True)):
        if tally.add(codes(a.to_dict()), codes(b.to_dict())) in ("raised", "lowered"):
            moved.append((i, severity(a.urgency.code), severity(b.urgency.code)))
    gravest = sorted(moved, key=lambda m: (-max(m[1], m[2]), m[0]))
    differ = {head: Counter({k: n for k, n in tally.heads[head].items() if k[0] != k[1]}) for head in HEADS}
    return Changes(
        len(before), differ["urgency"], differ["category"], differ["department"], tally.flags,
        tuple(i for i, old, new in gravest if new > old), tuple(i for i, old, new in gravest if new < old),
    )  # fmt: skip


def codes(decision: Mapping[str, Any]) -> dict[str, Any]:
    """Return the codes of a decision's JSON form: one of each head, a list of flags."""
    return {**{h: decision[h]["code"] for h in HEADS}, "flags": [f["code"] for f in decision["flags"]]}


@dataclass(slots=True)
class Tally:
    """Counts of two rounds of decisions, added up row by row. `heads` holds (before, after) -> requests, changed or not."""

    rows: int = 0
    compared: int = 0  # rows that brought an earlier urgency
    after: Counter[str] = field(default_factory=Counter)  # urgency now, over all rows
    heads: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: {h: Counter() for h in HEADS})
    flags: Counter[str] = field(default_factory=Counter)  # "+code" and "-code"
    moved: Counter[str] = field(
        default_factory=Counter
    )  # raised, lowered, elsewhere (another department, same urgency)
    to_critical: int = 0

    def add(self, before: Mapping[str, Any], after: Mapping[str, Any], times: int = 1) -> str | None:
        """Count a request, or several alike, by its codes; heads that `before` lacks are not compared.

        Returns "raised" or "lowered" for its urgency, else "elsewhere" for another department, else None.
        """
        self.rows += times
        self.after[after["urgency"]] += times
        for head in HEADS:
            if head in before:
                self.heads[head][before[head], after[head]] += times
        if "flags" in before:
            old, new = set(before["flags"]), set(after["flags"])
            self.flags.update({"+" + code: times for code in new - old})
            self.flags.update({"-" + code: times for code in old - new})
        kind = None
        if "urgency" in before:
            self.compared += times
            step = severity(after["urgency"]) - severity(before["urgency"])
            kind = "raised" if step > 0 else "lowered" if step < 0 else None
            self.to_critical += times * (step > 0 and after["urgency"] == "critical")
        if kind is None and before.get("department", after["department"]) != after["department"]:
            kind = "elsewhere"
        if kind:
            self.moved[kind] += times
        return kind

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; pairs of codes as "before > after"."""
        heads = {h: {f"{a} > {b}": n for (a, b), n in sorted(self.heads[h].items())} for h in HEADS}
        counts = {n: dict(sorted(getattr(self, n).items())) for n in ("after", "flags", "moved")}
        return {"rows": self.rows, "compared": self.compared, "to_critical": self.to_critical, **counts, "heads": heads}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Tally:
        """Read the JSON form."""
        heads = {h: Counter({tuple(k.split(" > ", 1)): n for k, n in raw["heads"][h].items()}) for h in HEADS}
        return cls(raw["rows"], raw["compared"], Counter(raw["after"]), heads, Counter(raw["flags"]), Counter(raw["moved"]),
                   raw["to_critical"])  # fmt: skip


class Earlier:
    """Finds the earlier decision among a row's columns.

    A head is looked for in the JSON column `triage`, in `triage_<head>`, then in `<head>`, as a code, a label's name or an
    object with a `code`. columns: head -> column, where it stands elsewhere. labels: head -> code -> name, as in a profile.
    """

    def __init__(self, labels: Mapping[str, Mapping[str, str]], columns: Mapping[str, str] | None = None) -> None:
        self._names = {head: {name: code for code, name in labels[head].items()} for head in HEADS}
        self._columns = dict(columns or {})

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return head -> code, of the heads that are there, and the list of flags if it is."""
        whole = _parsed(row.get("triage"))
        whole = whole if isinstance(whole, Mapping) else {}
        out: dict[str, Any] = {}
        for head in HEADS:
            for value in self._places(head, row, whole):
                code = value.get("code") if isinstance(value, Mapping) else value
                code = self._names.get(head, {}).get(str(code), code)
                if isinstance(code, str) and code and (head != "urgency" or code in URGENCY_LEVELS):
                    out[head] = code
                    break
        for value in self._places("flags", row, whole):
            value = _parsed(value)
            if isinstance(value, list):
                out["flags"] = [str(f.get("code") if isinstance(f, Mapping) else f) for f in value]
                break
        return out

    def _places(self, head: str, row: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterable[Any]:
        if head in self._columns:
            return [row.get(self._columns[head])]
        return [whole.get(head), row.get(f"triage_{head}"), _parsed(row.get(head))]


def _parsed(value: Any) -> Any:
    """Return what a JSON text holds, anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return None
    return value
