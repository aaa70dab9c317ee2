"""Rules as data: compile the TOML packs and apply them to a text.

A rule file holds `[lexicon]` (named word lists, used as "@name" in any file), `[[rule]]` blocks and `[[decoy]]` words
(市中心 is no heart). The fields of a rule are those of `files.Rule`; docs/rules.md tells them to people who do not read Python.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.profile import Profile
from triage.records import Finding, Status
from triage.rules.context import Context, CueHit, Hit
from triage.rules.files import Faults, Rule, RuleSource, read_rules
from triage.rules.matcher import Matcher
from triage.text import CleanText, clean, parse_number

SHIPPED = Path(__file__).parent
UNLESS_WITHIN = 6  # characters between a fact and the words that forbid it


class RuleBook:
    """All rules, compiled. `apply` is pure and safe to call from many threads. `folders`: where they were read from."""

    def __init__(self, source: RuleSource, folders: Sequence[Path] = ()) -> None:
        self.folders = tuple(folder.resolve() for folder in folders)
        self.rules = tuple(source.rules[k] for k in sorted(source.rules))
        self.fingerprint = hashlib.sha256(
            json.dumps([repr(self.rules), repr(source)], ensure_ascii=False).encode()
        ).hexdigest()[:16]
        roles: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        groups: dict[tuple[str, ...], int] = {}
        self._by_id = {rule.id: rule for rule in self.rules}
        self._compounds = [rule for rule in self.rules if rule.when and not (rule.any or rule.regex)]
        self._near: list[list[int]] = []
        self._unless: list[int | None] = []
        self._absent: list[int | None] = []

        def group(words: tuple[str, ...]) -> int:
            if words not in groups:
                groups[words] = len(groups)
                for word in words:
                    roles[word].append(("group", groups[words]))
            return groups[words]

        expressions: list[str] = []
        self._expression_rule: list[int] = []
        for i, rule in enumerate(self.rules):
            for word in rule.any:
                roles[word].append(("fact", i))
            expressions += rule.regex
            self._expression_rule += [i] * len(rule.regex)
            self._near.append([group(words) for words in rule.near])
            self._unless.append(group(rule.unless) if rule.unless else None)
            self._absent.append(group(rule.absent) if rule.absent else None)
        for cue in source.cues:
            for word in cue.words:
                roles[word].append(("cue", cue))
        for kind, words in (("decoy", source.decoys), ("closer", source.closers),
                            ("ask", source.asks), ("owner", source.owners)):  # fmt: skip
            for word in words:
                roles[word].append((kind, None))
        self._roles = list(roles.values())
        self._matcher = Matcher(list(roles), expressions)

    def check_against(self, profile: Profile) -> None:
        """Raise RuleError that lists every rule speaking for a label the profile does not have."""
        faults = Faults()
        for rule in self.rules:
            for key, head in (("flag", "flag"), ("category", "category"),
                              ("department", "department"), ("co_department", "department")):  # fmt: skip
                code = getattr(rule, key)
                if code is not None and code not in profile.labels[head]:
                    known = ", ".join(profile.labels[head])
                    faults.add(rule.id, f"{key} {code!r} is no {head} of profile {profile.name}; it has {known}")
        faults.raise_if_any()

    def status(self, clean_text: CleanText, start: int, end: int) -> tuple[Status, str]:
        """Return whether a fact at [start, end) of the cleaned text holds, and the cue's words ("" when it holds)."""
        return self._scan(clean_text.text).context.status(start, end)

    def _scan(self, text: str) -> _Scan:
        """Find every literal of every rule and cue in one pass."""
        facts: dict[int, list[Hit]] = defaultdict(list)
        groups: dict[int, list[Hit]] = defaultdict(list)
        marks: dict[str, list[Hit]] = {"decoy": [], "closer": [], "ask": [], "owner": []}
        cues: list[CueHit] = []
        for pattern, start, end in self._matcher.literals(text):
            for kind, ref in self._roles[pattern]:
                if kind == "fact":
                    facts[ref].append((start, end))
                elif kind == "group":
                    groups[ref].append((start, end))
                elif kind == "cue":
                    cues.append((start, end, ref))
                else:
                    marks[kind].append((start, end))
        decoys = _Spans(marks["decoy"])
        return _Scan(text, facts, groups, decoys, [c for c in cues if not decoys.swallows(c[0], c[1])], marks)

    def apply(self, clean_text: CleanText) -> list[Finding]:
        """Return every finding, ordered by place, then rule id; facts that do not hold are among them."""
        text = clean_text.text
        scan = self._scan(text)
        facts, groups, decoys = scan.facts, scan.groups, scan.decoys
        for expression, start, end, number in self._matcher.expressions(text):
            i = self._expression_rule[expression]
            if _in_range(number, self.rules[i].value):
                facts[i].append((start, end))
        if not facts:
            return self._compound([])
        context = scan.context
        spans: dict[int, _Spans] = {}

        def near(ref: int, start: int, end: int, gap: int) -> bool:
            if ref not in spans:  # most groups that occur are never asked for
                spans[ref] = _Spans(groups[ref])
            return spans[ref].near(start, end, gap)

        edges = _word_edges(text) if any(self.rules[i].word for i in facts) else frozenset()
        found: list[Finding] = []
        for i, hits in facts.items():
            rule, unless = self.rules[i], self._unless[i]
            if self._absent[i] in groups or not all(g in groups for g in self._near[i]):
                continue
            for start, end in _longest(hits):
                if decoys.swallows(start, end) or (rule.word and not {start, end} <= edges):
                    continue
                if unless is not None and unless in groups and near(unless, start, end, UNLESS_WITHIN):
                    continue
                if not all(near(g, start, end, rule.within) for g in self._near[i]):
                    continue
                status, cue = context.status(start, end)
                if status.value in rule.ignores:
                    status, cue = Status.HOLDS, ""
                a, b = clean_text.span(start, end)
                found.append(_finding(rule, a, b, clean_text.original[a:b], status, cue))
        return self._compound(found)

    def _compound(self, found: list[Finding]) -> list[Finding]:
        """Add the rules that need other facts, drop those whose other facts do not hold."""
        by_id = self._by_id
        held: dict[str, Finding] = {}
        for f in found:
            if f.holds and not by_id[f.rule].when:
                held.setdefault(f.rule, f)
                if f.flag:
                    held.setdefault(f.flag, f)
        kept = [f for f in found if all(w in held for w in by_id[f.rule].when)]
        for rule in self._compounds:
            if all(w in held for w in rule.when):
                first = held[rule.when[0]]
                kept.append(_finding(rule, first.start, first.end, first.text, Status.HOLDS, ""))
        return sorted(kept, key=lambda f: (f.start, f.end, f.rule))


@dataclass(frozen=True, slots=True)
class _Scan:
    """What one pass over a text found: facts by rule, words by group, decoys, cues that no decoy swallows, other marks."""

    text: str
    facts: dict[int, list[Hit]]
    groups: dict[int, list[Hit]]
    decoys: _Spans
    cues: list[CueHit]
    marks: dict[str, list[Hit]]

    @property
    def context(self) -> Context:
        return Context(self.text, self.cues, self.marks["closer"], self.marks["ask"], self.marks["owner"])


class _Spans:
    """Spans of one text, asked for neighbours in logarithmic time."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = sorted(hits)
        self._starts = [s for s, _ in self._hits]
        self._longest = max((e - s for s, e in hits), default=0)

    def _around(self, start: int, end: int, gap: int) -> Sequence[Hit]:
        low = bisect_left(self._starts, start - gap - self._longest)
        return self._hits[low : bisect_right(self._starts, end + gap)]

    def near(self, start: int, end: int, gap: int) -> bool:
        return any(s - end <= gap and start - e <= gap for s, e in self._around(start, end, gap))

    def swallows(self, start: int, end: int) -> bool:
        """Whether a span overlaps [start, end) without lying strictly inside it: the longer word wins."""
        return any(s < end and start < e and e - s > end - start for s, e in self._around(start, end, 0))


def _word_edges(text: str) -> frozenset[int]:
    """Return the offsets at which jieba's words begin or end. Its dictionary loads (0.8 s) at the first such rule."""
    import jieba

    jieba.setLogLevel(60)
    edges = [0]
    for word in jieba.cut(text):
        edges.append(edges[-1] + len(word))
    return frozenset(edges)


def _in_range(number: str, limits: Mapping[str, float]) -> bool:
    if not limits:
        return True
    value = parse_number(number)
    return value is not None and limits.get("min", value) <= value <= limits.get("max", value)


def _longest(hits: Sequence[Hit]) -> list[Hit]:
    """Drop hits that overlap a longer one (or an equal one before them)."""
    kept: list[Hit] = []
    end_so_far = -1
    for start, end in sorted(hits, key=lambda h: (h[0], -h[1])):
        if start >= end_so_far:
            kept.append((start, end))
            end_so_far = end
        elif end - start > kept[-1][1] - kept[-1][0]:
            kept[-1] = (start, end)
            end_so_far = end
    return kept


def _finding(rule: Rule, start: int, end: int, text: str, status: Status, cue: str) -> Finding:
    return Finding(rule.id, start, end, text, status, cue, rule.flag, rule.urgency, rule.category, rule.department,
                   rule.co_department, rule.red_flag, rule.settles)  # fmt: skip


def _own_examples(book: RuleBook, faults: Faults) -> None:
    for rule in book.rules:
        for kind, sentences in (("hit", rule.hit), ("miss", rule.miss)):
            for sentence in sentences:
                held = any(f.rule == rule.id and f.holds for f in book.apply(clean(sentence)))
                if held != (kind == "hit"):
                    faults.add(rule.id, f"{kind} sentence is {'found' if held else 'not found'}: {sentence}")


def load_rules(*folders: Path, check: bool = False) -> RuleBook:
    """Load the shipped rules, with the rules of other folders laid over them by id.

    `check` also tries every rule on its own `hit` and `miss` sentences (slower; what `triage rules check` does).
    Raises RuleError that lists every fault of every file.
    """
    faults = Faults()
    source = read_rules([SHIPPED, *folders], faults)
    faults.raise_if_any()
    known = {r.flag for r in source.rules.values()} | set(source.rules)
    for rule in source.rules.values():
        for needed in rule.when:
            if needed not in known:
                faults.add(rule.id, f"when: no flag and no rule is named {needed!r}")
    faults.raise_if_any()
    book = RuleBook(source, folders)
    if check:
        _own_examples(book, faults)
        faults.raise_if_any()
    return book
