"""Rules as data: load the TOML packs, refuse faulty ones with every fault named, apply them to a text.

A rule file holds `[lexicon]` (named word lists, used as "@name" in any file), `[[rule]]` blocks and `[[decoy]]` words
(市中心 is no heart). The fields of a rule are those of `Rule`; docs/rules.md tells them to people who do not read Python.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from triage.errors import RuleError
from triage.records import URGENCY_LEVELS, Finding, Status
from triage.rules.context import Context, Cue, CueHit, Hit
from triage.rules.matcher import Matcher, compile_expression
from triage.text import CleanText, clean, parse_number

SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it looks for, and what it says of the request when the fact holds."""

    id: str
    means: str
    any: tuple[str, ...] = ()  # literals, one of which is the fact
    regex: tuple[str, ...] = ()  # RE2 expressions, one of which is the fact; group 1 is a number where `value` asks
    value: Mapping[str, float] = field(default_factory=dict)  # {min, max} for the number in group 1, both inclusive
    near: tuple[tuple[str, ...], ...] = ()  # groups of literals; one of each group must stand near the fact
    within: int = 12  # how near, in characters between the two
    word: bool = False  # the literal must begin and end where jieba sees a word begin and end
    unless: tuple[str, ...] = ()  # literals that forbid the fact when they stand within 6 characters or overlap it
    absent: tuple[str, ...] = ()  # literals that forbid the fact wherever they stand in the request
    when: tuple[str, ...] = ()  # flags or rule ids that must hold somewhere in the request as well
    flag: str | None = None
    urgency: str | None = None
    category: str | None = None
    department: str | None = None
    red_flag: bool = False  # the urgency is a floor that no model may lower
    ignores: tuple[str, ...] = ()  # statuses that do not apply (the words 没有奶粉了 deny nothing)
    weight: float = 1.0  # how strongly it speaks for category and department
    hit: tuple[str, ...] = ()
    miss: tuple[str, ...] = ()


UNLESS_WITHIN = 6
_LISTS = {"any", "regex", "unless", "absent", "when", "ignores", "hit", "miss"}
_LITERALS = {"any", "unless", "absent"}
_FIELDS = {f.name for f in fields(Rule)}
_CUE_FIELDS = {f.name for f in fields(Cue)}
_RULE_FILE_KEYS = {"lexicon", "rule", "decoy", "cue", "closers", "asks", "owners"}


class _Faults:
    """Collects what is wrong, so that an author sees all of it at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, message: str) -> None:
        self.lines.append(f"{place}: {message}")

    def raise_if_any(self) -> None:
        if self.lines:
            raise RuleError(f"{len(self.lines)} fault(s) in the rules:\n  " + "\n  ".join(self.lines))


@dataclass
class _Source:
    """What all files of a rule folder say together."""

    rules: dict[str, Rule] = field(default_factory=dict)
    decoys: list[str] = field(default_factory=list)
    cues: list[Cue] = field(default_factory=list)
    closers: list[str] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)


def _words(values: object, lexicon: Mapping[str, list[str]], place: str, faults: _Faults) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        faults.add(place, f"must be a list of non-empty strings, not {values!r}")
        return ()
    words: list[str] = []
    for value in values:
        if value.startswith("@"):
            if value[1:] not in lexicon:
                faults.add(place, f"no lexicon is named {value[1:]!r}")
            words += lexicon.get(value[1:], [])
        else:
            words.append(value)
    return tuple(dict.fromkeys(words))


def _cleaned(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(clean(w).text for w in words))


def _parse_rule(raw: Mapping[str, Any], lexicon: Mapping[str, list[str]], place: str, faults: _Faults) -> Rule | None:
    place = f"{place}: rule {raw.get('id', '?')}"
    before = len(faults.lines)
    if unknown := sorted(set(raw) - _FIELDS):
        faults.add(place, f"unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(_FIELDS))}")
    for key in ("id", "means"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            faults.add(place, f"needs `{key}`, a text")
    values: dict[str, Any] = {k: v for k, v in raw.items() if k in _FIELDS}
    for key in _LISTS & set(values):
        words = _words(values[key], lexicon if key in _LITERALS else {}, f"{place}: {key}", faults)
        values[key] = _cleaned(words) if key in _LITERALS else words
    if "near" in values:
        near = values["near"]
        groups = near if isinstance(near, list) and near and isinstance(near[0], list) else [near]
        values["near"] = tuple(_cleaned(_words(g, lexicon, f"{place}: near", faults)) for g in groups)
    if not (values.get("any") or values.get("regex") or values.get("when")):
        faults.add(place, "needs `any`, `regex` or `when`")
    if not any(values.get(k) for k in ("flag", "urgency", "category", "department")):
        faults.add(place, "says nothing: needs a flag, urgency, category or department")
    if values.get("urgency", "routine") not in URGENCY_LEVELS:
        faults.add(place, f"urgency {values['urgency']!r} is none of {', '.join(URGENCY_LEVELS)}")
    if values.get("red_flag") and not values.get("urgency"):
        faults.add(place, "a red flag needs an `urgency` to be the floor")
    if bad := set(values.get("ignores", ())) - {s.value for s in Status}:
        faults.add(place, f"ignores: unknown status {', '.join(sorted(bad))}")
    value = values.get("value", {})
    if not isinstance(value, dict) or set(value) - {"min", "max"}:
        faults.add(place, "value: must be a table with `min` and/or `max`")
    if not isinstance(values.get("within", 12), int):
        faults.add(place, "within: must be a number of characters")
    if not values.get("hit") and (values.get("any") or values.get("regex")):
        faults.add(place, "needs at least one `hit` sentence that it finds")
    for pattern in values.get("regex", ()):
        try:
            compile_expression(pattern)
        except ValueError as error:
            faults.add(place, str(error))
    return Rule(**values) if len(faults.lines) == before else None


def _parse_cue(raw: Mapping[str, Any], place: str, faults: _Faults) -> Cue | None:
    before = len(faults.lines)
    if unknown := sorted(set(raw) - _CUE_FIELDS):
        faults.add(place, f"unknown key(s) {', '.join(unknown)}")
    words = _cleaned(_words(raw.get("words"), {}, f"{place}: words", faults))
    if raw.get("status") not in {s.value for s in Status}:
        faults.add(place, f"status {raw.get('status')!r} is none of {', '.join(s.value for s in Status)}")
    if raw.get("stands", "before") not in {"before", "after"} or raw.get("scope", "clause") not in {
        "clause",
        "sentence",
    }:
        faults.add(place, "stands: before or after; scope: clause or sentence")
    if len(faults.lines) > before:
        return None
    return Cue(**{**raw, "words": words, "status": Status(raw["status"])})


def _read(folders: Sequence[Path], faults: _Faults) -> _Source:
    """Read the TOML files of the folders; a rule of a later folder replaces the one of the same id before it."""
    documents: list[tuple[str, dict[str, Any]]] = []
    lexicon: dict[str, list[str]] = {}
    for folder in folders:
        paths = sorted(folder.glob("*.toml"))
        if not paths:
            faults.add(str(folder), "no rule files (*.toml) here")
        for path in paths:
            try:
                document = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                faults.add(str(path), f"not valid TOML: {error}")
                continue
            if unknown := sorted(set(document) - _RULE_FILE_KEYS):
                faults.add(str(path), f"unknown table(s) {', '.join(unknown)}")
            for name, words in document.get("lexicon", {}).items():
                lexicon[name] = list(_words(words, lexicon, f"{path}: lexicon {name}", faults))
            documents.append((str(path), document))
    source = _Source()
    seen: dict[str, str] = {}
    for place, document in documents:
        for raw in document.get("rule", []):
            rule = _parse_rule(raw, lexicon, place, faults)
            if rule is None:
                continue
            if Path(seen.get(rule.id, "")).parent == Path(place).parent:
                faults.add(place, f"rule {rule.id}: the id stands already in {seen[rule.id]}")
            seen[rule.id] = place
            source.rules[rule.id] = rule
        for n, raw in enumerate(document.get("cue", []), 1):
            cue = _parse_cue(raw, f"{place}: cue {n}", faults)
            if cue is not None:
                source.cues.append(cue)
        for key, words in (("closers", source.closers), ("asks", source.asks), ("owners", source.owners)):
            words += _cleaned(_words(document.get(key, []), lexicon, f"{place}: {key}", faults))
        for raw in document.get("decoy", []):
            if set(raw) != {"words"}:
                faults.add(place, f"a decoy holds `words` and nothing else, not {', '.join(sorted(raw))}")
            source.decoys += _cleaned(_words(raw.get("words"), lexicon, f"{place}: decoy", faults))
    return source


class RuleBook:
    """All rules, compiled. `apply` is pure and safe to call from many threads."""

    def __init__(self, source: _Source) -> None:
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

    def apply(self, clean_text: CleanText) -> list[Finding]:
        """Return every finding, ordered by place, then rule id; facts that do not hold are among them."""
        text = clean_text.text
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
        for expression, start, end, number in self._matcher.expressions(text):
            i = self._expression_rule[expression]
            if _in_range(number, self.rules[i].value):
                facts[i].append((start, end))
        if not facts:
            return self._compound([])
        decoys = _Spans(marks["decoy"])
        cues = [c for c in cues if not decoys.swallows(c[0], c[1])]
        context = Context(text, cues, marks["closer"], marks["ask"], marks["owner"])
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
                   rule.red_flag, rule.weight)  # fmt: skip


def _own_examples(book: RuleBook, faults: _Faults) -> None:
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
    faults = _Faults()
    source = _read([SHIPPED, *folders], faults)
    faults.raise_if_any()
    known = {r.flag for r in source.rules.values()} | set(source.rules)
    for rule in source.rules.values():
        for needed in rule.when:
            if needed not in known:
                faults.add(rule.id, f"when: no flag and no rule is named {needed!r}")
    faults.raise_if_any()
    book = RuleBook(source)
    if check:
        _own_examples(book, faults)
        faults.raise_if_any()
    return book
