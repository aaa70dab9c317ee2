"""The same request sent again and again, found while rows stream by.

A row is a copy of an earlier one when the cleaned texts are equal (exact), or when nearly all their three-character pieces
are (near; candidates by datasketch's MinHash LSH, then counted), the rules find the same facts in both, the figures are the
same, and no phone number, name or given column tells that two persons wrote. A copy takes the decision of the row it repeats,
so the model reads it once.

Looks back over at least `REACH` and at most twice as many rows: memory is bounded, and what is found depends on those rows
alone, so a run that is continued finds the same.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from triage.errors import require
from triage.privacy import find_private
from triage.rules.book import RuleBook
from triage.sources import Row
from triage.text import clean

REACH = 8192  # rows: more than a day in a city of ten million
SAME = 0.8  # share of common three-character pieces (Jaccard) from which two texts are near copies
SHORTEST = 12  # characters; of shorter texts only exact copies are found
_PERMUTATIONS = 64
_NO_LETTERS = re.compile(r"[\W_]+")
_FIGURES = re.compile(r"[0-9]+|[零〇一二两三四五六七八九十百千]+")


@dataclass(slots=True)
class Seen:
    """A row that a later one may repeat."""

    id: str
    letters: str  # the cleaned text without punctuation
    original: str
    person: str | None
    result: bytes | None = None  # its decision as JSON, once it is known
    facts: Any = None  # what must be the same in a near copy, once it was asked for


@dataclass(frozen=True, slots=True)
class Copy:
    """What a row repeats, and whether to the letter."""

    first: Seen
    exact: bool


def pieces(text: str) -> set[str]:
    """Return the three-character pieces of a text."""
    return {text[i : i + 3] for i in range(len(text) - 2)}


class _Generation:
    """The rows of one stretch: by their text, and by their MinHash."""

    def __init__(self, near: bool) -> None:
        self.exact: dict[tuple[str, str | None], Seen] = {}
        self.rows = 0
        self.seen: list[Seen] = []
        self.lsh: Any = None
        if near:
            self.lsh = require("datasketch", "rescore").MinHashLSH(threshold=SAME - 0.05, num_perm=_PERMUTATIONS)


class Window:
    """The rows that the next one is compared with.

    near: also near copies (extra `rescore`). person: a column that names who wrote (a phone number, an account); rows that
    differ in it are no copies of each other. Not safe to share between threads.
    """

    def __init__(self, rules: RuleBook, near: bool = True, person: str | None = None) -> None:
        self._rules, self._near, self._person = rules, near, person
        self._generations = [_Generation(near), _Generation(near)]
        # One for all: drawing the permutations takes longer than using them.
        self._blank: Any = None
        if near:
            self._blank = require("datasketch", "rescore").MinHash(_PERMUTATIONS, hashfunc=zlib.crc32)

    @property
    def full(self) -> bool:
        """Whether the newer stretch is long enough to forget the older."""
        return self._generations[1].rows >= REACH

    def turn(self) -> None:
        """Forget the older stretch and begin a new one."""
        self._generations = [self._generations[1], _Generation(self._near)]

    def skip(self) -> tuple[None, None]:
        """Count a row that cannot be read, and that nothing repeats."""
        self._generations[1].rows += 1
        return None, None

    def add(self, row: Row) -> tuple[Seen, Copy | None]:
        """Take a row in; returns it and what it repeats, the earliest such row of the window."""
        cleaned = clean(row.text).text
        given = row.values.get(self._person) if self._person else None
        seen = Seen(row.id, _NO_LETTERS.sub("", cleaned), row.text, None if given is None else str(given))
        older, current = self._generations
        current.rows += 1
        key = (cleaned, seen.person)
        first = older.exact.get(key) or current.exact.get(key)
        near = self._near and len(seen.letters) >= SHORTEST and key not in current.exact
        found = self._find_near(seen, search=first is None) if near else None
        current.exact.setdefault(key, seen)  # whatever it repeats: a stretch must depend on its own rows alone
        return seen, Copy(first, True) if first else found

    def _find_near(self, seen: Seen, search: bool) -> Copy | None:
        mine = pieces(seen.letters)
        sketch = self._blank.copy()
        sketch.update_batch([p.encode("utf-8", "replace") for p in sorted(mine)])
        copy = None
        for generation in self._generations if search else ():
            for number in sorted(generation.lsh.query(sketch)):
                if copy is None and self._repeats(seen, mine, generation.seen[number]):
                    copy = Copy(generation.seen[number], False)
        current = self._generations[1]
        current.lsh.insert(len(current.seen), sketch, check_duplication=False)
        current.seen.append(seen)
        return copy

    def _repeats(self, seen: Seen, mine: set[str], first: Seen) -> bool:
        if sorted(_FIGURES.findall(seen.letters)) != sorted(_FIGURES.findall(first.letters)):
            return False
        theirs = pieces(first.letters)
        if len(mine & theirs) < SAME * len(mine | theirs):
            return False
        if seen.person is not None and first.person is not None and seen.person != first.person:
            return False
        return bool(self._facts(seen) == self._facts(first))

    def _facts(self, seen: Seen) -> Any:
        """Return what else must not differ between a text and its copy: who is named, and the facts that rules find."""
        if seen.facts is None:
            original, cleaned = seen.original, clean(seen.original)
            persons = {original[p.start : p.end] for p in find_private(original)}
            findings = {(f.rule, f.status.value) for f in self._rules.apply(cleaned)}
            seen.facts = persons, findings
        return seen.facts


def groups(copies: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Put (id, id of what it repeats) together, in input order: yields first id and the ids that repeat it, also by way of
    another. A group that no copy joined for as long as the window reaches back is complete, so memory is bounded.
    """
    first: dict[str, str] = {}
    opened: dict[
        str, tuple[int, list[str]]
    ] = {}  # first id -> number of its last copy, members; the longest untouched first
    for n, (id_, repeated) in enumerate(copies):
        leader = first.get(repeated, repeated)
        _, members = opened.pop(leader, (n, []))
        members.append(id_)
        first[id_] = leader
        opened[leader] = (n, members)
        oldest = next(iter(opened))
        if n - opened[oldest][0] > 2 * REACH:
            yield oldest, opened[oldest][1]
            for member in opened.pop(oldest)[1]:
                first.pop(member, None)
    for leader, (_, members) in opened.items():
        yield leader, members
