"""What a re-scoring changed, as report.json and as one HTML page that needs nothing else: counts, plots, lists to go through.

The lists name requests by id and place and carry the reasons of the new decision, in which private parts are covered; the
requests' texts are not in them.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

from triage.changes import HEADS, Tally
from triage.duplicates import groups
from triage.records import URGENCY_LEVELS
from triage.sinks import lasting, write_lasting

MOST = 2_000  # requests a list of the page holds; changes.jsonl holds all
GROUPS = 50
_GRAVEST_FIRST = tuple(reversed(URGENCY_LEVELS))
_COLOURS = {"critical": "#b3261e", "urgent": "#e8710a", "priority": "#f2c94c", "routine": "#6fae75"}
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c1c1e}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.25rem .6rem;border:1px solid #d8d8dc;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}.big{font-size:1.6rem;font-weight:600}.same{color:#777}
figure{margin:1rem 0}li{margin:.2rem 0}.level{padding:0 .35rem;border-radius:.3rem}"""


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)


def _listed(folder: Path, wanted: str) -> Iterator[dict[str, Any]]:
    """Yield the changes of one list, in input order: raised_to_critical, raised, lowered or elsewhere."""

    def name(change: Mapping[str, Any]) -> str:
        to_critical = change["kind"] == "raised" and change["after"]["urgency"] == "critical"
        return "raised_to_critical" if to_critical else str(change["kind"])

    return (c for c in _lines(folder / "changes.jsonl") if name(c) == wanted)


def write_report(folder: Path, tally: Tally, rows: int, bad: int, copies: int) -> dict[str, Any]:
    """Write report.json and report.html into a run folder, from its counts and logs; returns the former.

    Raises StoppedError when they cannot be written.
    """
    biggest = heapq.nlargest(
        GROUPS, groups((c["id"], c["repeats"]) for c in _lines(folder / "duplicates.jsonl")), key=lambda g: len(g[1])
    )
    report = {
        "rows": rows, "answered": tally.rows, "bad": bad, "copies": copies, **tally.to_dict(),
        "raised_to_critical": [c["id"] for c in _listed(folder, "raised_to_critical")],
        "duplicates": [{"first": first, "repeated_by": members} for first, members in biggest],
    }  # fmt: skip
    with lasting(folder):
        write_lasting(folder / "report.json", json.dumps(report, ensure_ascii=False, indent=1).encode() + b"\n")
        write_lasting(folder / "report.html", "".join(_page(folder, tally, report)).encode("utf-8", "replace"))
    return report


def _page(folder: Path, tally: Tally, report: Mapping[str, Any]) -> Iterator[str]:
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Re-scoring</title><style>{STYLE}</style><h1>Re-scoring</h1>'
    figures = [("requests", report["answered"]), ("bad rows", report["bad"]), ("copies", report["copies"]),
               ("raised to critical", tally.to_critical), ("raised", tally.moved["raised"]),
               ("lowered", tally.moved["lowered"]), ("only another department", tally.moved["elsewhere"])]  # fmt: skip
    yield "<table><tr>" + "".join(f"<th>{n}" for n, _ in figures) + "<tr>"
    yield "".join(f'<td class="n"><span class="big">{v:,}</span>' for _, v in figures) + "</table>"
    before = {
        level: sum(n for (old, _), n in tally.heads["urgency"].items() if old == level) for level in URGENCY_LEVELS
    }
    yield "<h2>Urgency</h2>" + _bars(
        [("before", before), ("now", tally.after)] if tally.compared else [("now", tally.after)]
    )
    if not tally.compared:
        yield "<p>The input holds no earlier urgency, so there is nothing to compare with."
    for head in HEADS:
        if tally.heads[head]:
            yield f"<h2>{head.capitalize()}: before (rows) and now (columns)</h2>" + _confusion(tally, head)
    if tally.flags:
        yield "<h2>Flags that came (+) and went (-)</h2><p>"
        yield ", ".join(f"{escape(f)} {n:,}" for f, n in tally.flags.most_common())
    for wanted, title in (
        ("raised_to_critical", "Raised to critical: act first"), ("lowered", "Lowered: a person has to confirm"),
        ("raised", "Raised to another level"), ("elsewhere", "Same urgency, another department"),
    ):  # fmt: skip
        total = tally.to_critical if wanted == "raised_to_critical" else tally.moved[wanted]
        total -= tally.to_critical if wanted == "raised" else 0
        yield from _list(title, list(islice(_listed(folder, wanted), MOST)), total)
    if report["duplicates"]:
        yield f"<h2>Sent again: the {len(report['duplicates'])} largest groups</h2><ul>"
        for group in report["duplicates"]:
            others = ", ".join(escape(i) for i in group["repeated_by"][:20])
            yield f"<li>{escape(group['first'])}: {len(group['repeated_by'])} × ({others})"
        yield "</ul>"


def _level(code: str) -> str:
    colour = _COLOURS.get(code, "#ddd")
    return f'<span class="level" style="background:{colour}33;border:1px solid {colour}">{escape(code)}</span>'


def _bars(rounds: Sequence[tuple[str, Mapping[str, int]]]) -> str:
    """Draw one bar a round, parted by urgency, as SVG."""
    width, height = 720, 36
    parts = [
        f'<figure><svg viewBox="0 0 860 {len(rounds) * (height + 10) + 26}" width="860" role="img" aria-label="urgency">'
    ]
    for i, (name, counts) in enumerate(rounds):
        total, x, y = sum(counts.values()) or 1, 80.0, i * (height + 10)
        parts.append(f'<text x="0" y="{y + 23}" font-size="15">{name}</text>')
        for level in _GRAVEST_FIRST:
            w = counts.get(level, 0) / total * width
            title = f"{level}: {counts.get(level, 0):,} ({counts.get(level, 0) / total:.1%})"
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="{height}" fill="{_COLOURS[level]}"><title>{title}</title></rect>'
            )
            if w > 60:
                parts.append(f'<text x="{x + 6:.1f}" y="{y + 23}" font-size="14">{counts.get(level, 0):,}</text>')
            x += w
    y = len(rounds) * (height + 10) + 16
    for i, level in enumerate(_GRAVEST_FIRST):
        parts.append(f'<rect x="{80 + i * 110}" y="{y - 11}" width="12" height="12" fill="{_COLOURS[level]}"/>')
        parts.append(f'<text x="{97 + i * 110}" y="{y}" font-size="14">{level}</text>')
    return "".join(parts) + "</svg></figure>"


def _confusion(tally: Tally, head: str) -> str:
    pairs = tally.heads[head]
    order = {level: i for i, level in enumerate(_GRAVEST_FIRST)}
    codes = sorted({code for pair in pairs for code in pair}, key=lambda c: (order.get(c, 9), c))
    most = max((n for (old, new), n in pairs.items() if old != new), default=1)
    out = ["<table><tr><th>", *(f"<th>{escape(c)}" for c in codes)]
    for old in codes:
        out.append(f"<tr><th>{escape(old)}")
        for new in codes:
            n = pairs[old, new]
            shade = "" if old == new or not n else f' style="background:rgba(179,38,30,{0.1 + 0.6 * n / most:.2f})"'
            out.append(f'<td class="n{" same" if old == new else ""}"{shade}>{n or "":,}' if n else '<td class="n">')
    return "".join(out) + "</table>"


def _list(title: str, changes: Sequence[Mapping[str, Any]], total: int) -> Iterator[str]:
    if not total:
        return
    yield f"<h2>{title} ({total:,})</h2><table><tr><th>request<th>place<th>before<th>now<th>why now"
    for c in changes:
        if c["kind"] == "elsewhere":
            old, new = (escape(c[when].get("department", "")) for when in ("before", "after"))
        else:
            old, new = (_level(c[when]["urgency"]) for when in ("before", "after"))
        reasons = "<br>".join(escape(r) for r in c["reasons"])
        yield f"<tr><td>{escape(c['id'])}<td>{escape(c['place'])}<td>{old}<td>{new}{' ?' if c['needs_review'] else ''}<td>{reasons}"
    yield "</table>"
    if total > len(changes):
        yield f"<p>{total - len(changes):,} more stand in changes.jsonl."
