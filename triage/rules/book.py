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
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from triage.profile import Profile
from triage.records import Finding, Status
from triage.rules.context import Context, Cue, CueHit, Hit
from triage.rules.files import Faults, Rule, RuleSource, read_rules
from triage.rules.matcher import Expression, Literals
from triage.text import CleanText, clean, parse_number

SHIPPED = Path(__file__).parent
# What a rule may say of a request, and the head of the profile whose codes it says it in.
LABELS = (("flag", "flag"), ("category", "category"), ("department", "department"), ("co_department", "department"))
UNLESS_WITHIN = 6  # characters between a fact and the words that forbid it


class Dropped(NamedTuple):
    """A mention at [start, end) of the original that a rule did not count, and which of its conditions said so."""

    start: int
    end: int
    rule: str
    reason: str


class RuleBook:
    """All rules, compiled. `apply` is pure and safe to call from many threads. `folders`: where they were read from.

    Every group of words that a rule asks for (near, unless, absent, what an expression needs) has a bit. One pass over the text
    finds all words and so the bits that are there; most rules are settled by comparing bits, and only the others by places.
    """

    def __init__(self, source: RuleSource, folders: Sequence[Path] = ()) -> None:
        self.folders = tuple(folder.resolve() for folder in folders)
        self.rules = tuple(source.rules[k] for k in sorted(source.rules))
        self.fingerprint = hashlib.sha256(
            json.dumps([repr(self.rules), repr(source)], ensure_ascii=False).encode()
        ).hexdigest()[:16]
        words: dict[str, _Word] = defaultdict(_Word)
        groups: dict[tuple[str, ...], int] = {}

        def bit(group: Sequence[str]) -> int:
            """Return the bit of a group, a new one for a group not seen before; 0 for an empty one."""
            key = tuple(group)
            if key and key not in groups:
                groups[key] = 1 << len(groups)
                for word in key:
                    words[word].bits |= groups[key]
            return groups.get(key, 0)

        self._decoy, self._closer = bit(source.decoys), bit(source.closers)
        self._ask, self._owner = bit(source.asks), bit(source.owners)
        self._cue = bit(tuple(dict.fromkeys(word for cue in source.cues for word in cue.words)))
        for cue in source.cues:
            for word in cue.words:
                words[word].cues.append(cue)
        self._compounds = [rule for rule in self.rules if rule.when and not (rule.any or rule.regex)]
        self._conditional = {rule.id: rule.when for rule in self.rules if rule.when}
        self._tests: list[_Test] = []
        self._tries: list[tuple[Expression, int, int]] = []  # expression, its rule, the bits it needs
        self._always: list[int] = []  # expressions that need nothing
        for i, rule in enumerate(self.rules):
            near = tuple(bit(group) for group in rule.near)
            self._tests.append(_Test(rule, sum(set(near)), near, bit(rule.unless), bit(rule.absent)))
            for word in rule.any:
                words[word].facts.append(i)
            for expression in map(Expression, rule.regex):
                needs = expression.needs()
                # The words that are rarest, to judge by their length, call for a try; the others are then compared as bits.
                rarest = max(needs, key=lambda group: min(map(len, group)), default=())
                for word in rarest:
                    words[word].tries.append(len(self._tries))
                if not rarest:
                    self._always.append(len(self._tries))
                self._tries.append((expression, i, sum({bit(group) for group in needs})))
        self._literals = Literals(list(words))
        self._bits = [word.bits for word in words.values()]
        self._cues = [word.cues for word in words.values()]
        self._facts = [[(i, self._tests[i]) for i in word.facts] for word in words.values()]
        self._calls = [word.tries for word in words.values()]

    def check_against(self, profile: Profile) -> None:
        """Raise RuleError that lists every rule speaking for a label the profile does not have."""
        faults = Faults()
        for rule in self.rules:
            for key, head in LABELS:
                code = getattr(rule, key)
                if code is not None and code not in profile.labels[head]:
                    known = ", ".join(profile.labels[head])
                    faults.add(rule.id, f"{key} {code!r} is no {head} of profile {profile.name}; it has {known}")
        faults.raise_if_any()

    def status(self, clean_text: CleanText, start: int, end: int) -> tuple[Status, str]:
        """Return whether a fact at [start, end) of the cleaned text holds, and the cue's words ("" when it holds)."""
        return _Places(self, clean_text.text).context.status(start, end)

    def apply(self, clean_text: CleanText) -> list[Finding]:
        """Return every finding, ordered by place, then rule id; facts that do not hold are among them."""
        text = clean_text.text
        places = _Places(self, text)
        present, missing, tests = places.present, ~places.present, self._tests
        facts: dict[int, list[Hit]] = {}
        for number, start, end in places.hits:
            for i, test in self._facts[number]:
                if not (test.needs & missing or test.absent & present):
                    facts.setdefault(i, []).append((start, end))
        calls = self._calls
        for number in sorted({*self._always, *(n for literal in places.literals for n in calls[literal])}):
            expression, i, needs = self._tries[number]
            if needs & missing or tests[i].needs & missing or tests[i].absent & present:
                continue
            for start, end, group in expression.matches(text):
                if _in_range(group, self.rules[i].value):
                    facts.setdefault(i, []).append((start, end))
        found: list[Finding] = []
        for i, hits in facts.items():
            test, rule = tests[i], self.rules[i]
            for start, end in _longest(hits):
                if test.refusal(places, start, end):
                    continue
                status, cue = places.status(start, end)
                if status.value in rule.ignores:
                    status, cue = Status.HOLDS, ""
                a, b = clean_text.span(start, end)
                found.append(_finding(rule, a, b, clean_text.original[a:b], status, cue))
        return self._compound(found)

    def dropped(self, clean_text: CleanText) -> list[Dropped]:
        """Return the mentions that are no findings because a condition of their rule refused them, ordered by place."""
        places = _Places(self, clean_text.text)
        kept, out = {f.rule for f in self.apply(clean_text)}, set[Dropped]()

        def judge(i: int, start: int, end: int, reason: str) -> None:
            rule = self.rules[i]
            if not reason and rule.when and rule.id not in kept:
                reason = f"when: {', '.join(rule.when)}"
            elif reason in ("absent", "unless"):
                reason += ": " + ", ".join(w for w in getattr(rule, reason) if w in clean_text.text)
            if reason:
                out.add(Dropped(*clean_text.span(start, end), rule.id, reason))

        for number, start, end in places.hits:
            for i, test in self._facts[number]:
                judge(i, start, end, test.refusal(places, start, end))
        for expression, i, needs in self._tries:
            if not needs & ~places.present:
                for start, end, group in expression.matches(clean_text.text):
                    within = _in_range(group, self.rules[i].value)
                    judge(i, start, end, self._tests[i].refusal(places, start, end) if within else "value")
        return sorted(out)

    def _compound(self, found: list[Finding]) -> list[Finding]:
        """Add the rules that need other facts, drop those whose other facts do not hold."""
        held: dict[str, Finding] = {}
        for f in found:
            if f.holds and f.rule not in self._conditional:
                held.setdefault(f.rule, f)
                if f.flag:
                    held.setdefault(f.flag, f)
        kept = [f for f in found if all(w in held for w in self._conditional.get(f.rule, ()))]
        if held:
            for rule in self._compounds:
                if all(w in held for w in rule.when):
                    first = held[rule.when[0]]
                    kept.append(_finding(rule, first.start, first.end, first.text, Status.HOLDS, ""))
        return sorted(kept, key=lambda f: (f.start, f.end, f.rule))


@dataclass(slots=True)
class _Word:
    """What one literal is to the rules: bits of its groups, rules whose fact it is, expressions it calls for, cues."""

    bits: int = 0
    facts: list[int] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)
    cues: list[Cue] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Test:
    """The conditions of one rule, as bits: all of `needs` somewhere, each of `near` close by, `unless` not, `absent` nowhere."""

    rule: Rule
    needs: int
    near: tuple[int, ...]
    unless: int
    absent: int

    def refusal(self, places: _Places, start: int, end: int) -> str:
        """Return the condition of the rule that the words at [start, end) do not meet, "" when they meet all."""
        if self.absent & places.present:
            return "absent"
        if places.decoys is not None and places.decoys.swallows(start, end):
            return "decoy"
        if self.rule.word and not {start, end} <= places.word_edges:
            return "word"
        if self.unless & places.present and places.of(self.unless).near(start, end, UNLESS_WITHIN):
            return "unless"
        if not all(places.of(group).near(start, end, self.rule.within) for group in self.near):
            return "near"
        return ""


class _Places:
    """The literals of one text: which groups are `present`, and, only when asked, where."""

    def __init__(self, book: RuleBook, text: str) -> None:
        self._book, self._text = book, text
        self._groups: dict[int, _Spans] = {}
        self._statuses: dict[Hit, tuple[Status, str]] = {}
        self.hits = book._literals.find(text)
        self.literals = {hit[0] for hit in self.hits}
        self.present = 0
        for number in self.literals:
            self.present |= book._bits[number]
        self.decoys = self.of(book._decoy) if book._decoy & self.present else None

    def _spans(self, group: int) -> list[Hit]:
        if not group & self.present:
            return []
        bits = self._book._bits
        return [(start, end) for number, start, end in self.hits if bits[number] & group]

    def of(self, group: int) -> _Spans:
        """Return where the words of a group stand."""
        if group not in self._groups:
            self._groups[group] = _Spans(self._spans(group))
        return self._groups[group]

    @cached_property
    def context(self) -> Context:
        """The cues of the text that no decoy swallows, and what bounds them."""
        book, cues = self._book, list[CueHit]()
        if book._cue & self.present:
            for number, start, end in self.hits:
                for cue in book._cues[number]:
                    if self.decoys is None or not self.decoys.swallows(start, end):
                        cues.append((start, end, cue))
        return Context(self._text, cues, *(self._spans(g) for g in (book._closer, book._ask, book._owner)))

    def status(self, start: int, end: int) -> tuple[Status, str]:
        """Return what the context says of a span; several rules ask for the same one."""
        if (start, end) not in self._statuses:
            self._statuses[start, end] = self.context.status(start, end)
        return self._statuses[start, end]

    @cached_property
    def word_edges(self) -> frozenset[int]:
        """The offsets at which jieba's words begin or end. Its dictionary loads (0.8 s) at the first such rule."""
        import jieba

        jieba.setLogLevel(60)
        edges = [0]
        for word in jieba.cut(self._text):
            edges.append(edges[-1] + len(word))
        return frozenset(edges)


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


def _in_range(number: str, limits: Mapping[str, float]) -> bool:
    if not limits:
        return True
    value = parse_number(number)
    return value is not None and limits.get("min", value) <= value <= limits.get("max", value)


def _longest(hits: Sequence[Hit]) -> list[Hit]:
    """Drop hits that overlap a longer one (or an equal one before them)."""
    if len(hits) == 1:
        return list(hits)
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


def _unsay(source: RuleSource, profile: Profile) -> bool:
    """Take out of the shipped rules the labels that a profile lacks (a flood has no testing department, but it has hearts);
    return whether there were any."""
    before = dict(source.rules)
    for name, rule in before.items():
        if Path(source.places[name]).parent == SHIPPED:
            lacking = [key for key, head in LABELS if getattr(rule, key) not in (None, *profile.labels[head])]
            source.rules[name] = replace(rule, **dict.fromkeys(lacking)) if lacking else rule  # type: ignore[arg-type]
    return source.rules != before


def load_rules(*folders: Path, check: bool = False, profile: Profile | None = None) -> RuleBook:
    """Load the shipped rules, with the rules of other folders laid over them by id.

    `check` also tries every rule on its own `hit` and `miss` sentences (slower; what `triage rules check` does).
    profile: shipped rules speak only of its labels; those of other folders say what they say (`RuleBook.check_against`).
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
    if profile is not None and _unsay(source, profile):
        book = RuleBook(source, folders)
    return book
