"""May a model come into force? It and the one it would replace on the same labelled requests, with the same rules.

A candidate is refused when it is worse in what costs lives, critical recall and under-triage, by more than chance (95 %, paired
bootstrap); when a golden request does not come out right; or when it does worse in a suite of behaviour tests. Everything that
says why is named by the ids of its requests. `triage.registry` keeps what was found and puts models in force.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.engine import Triager
from triage.errors import InputError
from triage.evaluation import (
    FEW,
    MEASURES,
    Answer,
    Figure,
    Grid,
    Labelled,
    answers,
    compared,
    differences,
    figures,
    is_worse,
)
from triage.profile import Profile
from triage.records import Decision, severity

GOLDEN = Path(__file__).parent / "golden.jsonl"  # for the shipped profile
HEADS = ("urgency", "category", "department")
_LISTS = {**{h: h for h in HEADS}, "flags": "flag", "not_flags": "flag", "co_departments": "department"}

Suite = Callable[[Triager], Mapping[str, tuple[int, int]]]  # capability -> (cases passed, cases)


@dataclass(frozen=True, slots=True)
class Golden:
    """A request that must come out right. What is empty is not asked.

    urgency, category, department: the codes that are right. flags: all must be found; not_flags: none may be.
    co_departments: one of them must be named. district: must stand first.
    """

    id: str
    text: str
    urgency: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    department: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    not_flags: tuple[str, ...] = ()
    co_departments: tuple[str, ...] = ()
    district: str | None = None

    def faults(self, decision: Decision) -> list[str]:
        """Return what is wrong with a decision on the text, in codes."""
        found, co = {f.code for f in decision.flags}, {d.code for d in decision.co_departments}
        called = {head: getattr(decision, head).code for head in HEADS}
        wrong = [
            f"{head} {called[head]}, not {' or '.join(right)}"
            for head in HEADS
            if (right := getattr(self, head)) and called[head] not in right
        ]
        wrong += [f"flag {code} is missing" for code in self.flags if code not in found]
        wrong += [f"flag {code} does not hold" for code in self.not_flags if code in found]
        if self.co_departments and not co & set(self.co_departments):
            wrong.append(f"co-department {' or '.join(self.co_departments)} is missing")
        if self.district and decision.districts[:1] != (self.district,):
            wrong.append(f"district {self.district} does not stand first")
        return wrong


def load_golden(path: Path, profile: Profile) -> list[Golden]:
    """Read golden requests, one JSON object a line, the fields those of `Golden`. Raises InputError with every fault at once."""
    out, faults = [], []
    for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(line).items()}
            golden = Golden(**row)
        except (ValueError, TypeError, AttributeError) as error:
            faults.append(f"{path}:{n}: not a golden request ({error}); the fields are those of triage.gate.Golden")
            continue
        out.append(golden)
        for field, head in _LISTS.items():
            known: Sequence[str] = list(profile.labels[head])
            if not isinstance(codes := getattr(golden, field), tuple):
                faults.append(f"{path}:{n}: field {field!r}: must be a list of codes")
            elif not set(codes) <= set(known):
                faults.append(f"{path}:{n}: field {field!r}: not all are codes of profile {profile.name}")
    if faults and path == GOLDEN:
        faults.append(f"these are requests to Zhengzhou; give profile {profile.name} its own with --golden FILE")
    if not out and not faults:
        faults.append(f"{path}: no golden request; write at least one")
    if faults:
        raise InputError("\n".join(faults))
    return out


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a candidate may not come into force; `rows` name the requests that say so: id, true label, what it is called."""

    why: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems on the same labelled requests. `refusals` is empty when the second may replace the first."""

    fingerprints: tuple[Mapping[str, str], Mapping[str, str]]
    requests: int
    critical: int
    before: Mapping[str, Figure]
    after: Mapping[str, Figure]
    difference: Mapping[str, Figure]
    refusals: tuple[Refusal, ...] = ()

    def grid(self, title: str, names: tuple[str, str]) -> Grid:
        """Return the table of all measures."""
        grid = compared(
            f"{title}: {self.requests:,} requests, {self.critical:,} critical",
            dict(zip(names, (self.before, self.after), strict=True)),
        )
        shown = [m for m in MEASURES if m in self.before or m in self.after]
        changes = [_change(m, self.difference[m]) if m in self.difference else "–" for m in shown]
        rows = [[*row, change] for row, change in zip(grid.rows, changes, strict=True)]
        notes = [
            *grid.notes,
            "difference: the second minus the first, 95 % paired bootstrap; ▼ worse, ▲ better than chance.",
        ]
        if self.critical < FEW:
            notes.append(f"{self.critical} critical requests are few: small losses cannot be told from chance.")
        return Grid(grid.title, [*grid.header, "difference"], rows, notes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "fingerprints": [dict(f) for f in self.fingerprints], "requests": self.requests, "critical": self.critical,
            "measures": {m: {"before": list(self.before[m]), "after": list(self.after[m]), "difference": list(d)}
                         for m, d in self.difference.items()},
            "refusals": [{"why": r.why, "rows": list(r.rows)} for r in self.refusals],
        }  # fmt: skip


def _change(measure: str, difference: Figure) -> str:
    value, low, high = difference
    better = low > 0 if MEASURES[measure] == "up" else high < 0
    sign = " ▼" if is_worse(measure, difference) else " ▲" if better else ""
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f}){sign}"


def compare(
    before: Triager, after: Triager, examples: Sequence[Labelled], golden: Sequence[Golden], suite: Suite | None = None
) -> Comparison:
    """Compare what is in force with a candidate. Raises InputError when no request is labelled critical."""
    critical = sum(x.urgency == "critical" for x in examples)
    if not critical:
        raise InputError("no request is labelled critical, so critical recall cannot be compared; add some that are")
    old, new = (answers(triager, [x.text for x in examples]) for triager in (before, after))
    difference = differences(examples, old, new)
    refusals = [
        Refusal(f"{measure} is worse by more than chance: {_change(measure, difference[measure])}",
                _lost(examples, old, new, least, called))
        for measure, least, called in (("critical recall", 3, 3), ("under-triage", 2, 2))
        if is_worse(measure, difference[measure])
    ]  # fmt: skip
    wrong = {g.id: g.faults(d) for g, d in zip(golden, after.predict_many([g.text for g in golden]), strict=True)}
    if rows := tuple(f"{id}: {'; '.join(faults)}" for id, faults in wrong.items() if faults):
        refusals.append(Refusal(f"{len(rows)} of {len(golden)} golden requests come out wrong", rows))
    if suite and (fallen := _fallen(suite(before), suite(after))):
        refusals.append(Refusal("it does worse in the suite by more than chance", fallen))
    return Comparison((before.fingerprints, after.fingerprints), len(examples), critical,
                      figures(examples, old), figures(examples, new), difference, tuple(refusals))  # fmt: skip


def _lost(
    examples: Sequence[Labelled], old: Sequence[Answer], new: Sequence[Answer], least: int, called: int
) -> tuple[str, ...]:
    """Return the requests of at least some severity that were called so grave before, and are not now; the gravest first."""
    rows = [
        (x, a, b)
        for x, a, b in zip(examples, old, new, strict=True)
        if x.urgency is not None
        and severity(x.urgency) >= least
        and severity(a.urgency) >= called > severity(b.urgency)
    ]
    rows.sort(key=lambda row: severity(row[2].urgency) - severity(str(row[0].urgency)))
    return tuple(f"{x.id}: {x.urgency}, called {b.urgency}, before {a.urgency}" for x, a, b in rows)


def _fallen(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """Return the capabilities whose pass rate fell by more than chance (95 %, Agresti & Caffo 2000)."""
    rows = []
    for capability, (passed, cases) in after.items():
        old = before[capability]
        p, q = ((k + 1) / (n + 2) for k, n in (old, (passed, cases)))
        if p - q > 1.96 * math.sqrt(p * (1 - p) / (old[1] + 2) + q * (1 - q) / (cases + 2)):
            rows.append(f"{capability}: {passed} of {cases} cases pass, before {old[0]} of {old[1]}")
    return tuple(rows)
