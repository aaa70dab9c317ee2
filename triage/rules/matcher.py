"""Find every literal of all rules in a text in one pass, and say what a text must hold for an expression to match at all.

Literals go through one Aho-Corasick automaton (`ahocorasick-rs`). Expressions are RE2's (linear time, so no pattern can hang
on any text) and cost a hundred times more, so each is only tried on a text that holds the literals it cannot do without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from re import _parser as syntax  # type: ignore[attr-defined]  # the only parser of expressions there is; private since 3.11
from typing import Any

import re2
from ahocorasick_rs import AhoCorasick

MOST_WORDS = 256  # alternatives spelled out for one part of an expression; beyond that the part asks for nothing


class Expression:
    """One RE2 expression. Raises ValueError naming it when its syntax is not RE2's."""

    def __init__(self, pattern: str) -> None:
        try:
            self._compiled = re2.compile(pattern)
        except re2.error as error:
            raise ValueError(f"bad expression {pattern!r}: {error}") from None
        self.pattern = pattern

    def matches(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Yield start, end and the text of group 1 ("" without one) of every match that is not empty."""
        for match in self._compiled.finditer(text):
            start, end = match.span()
            if end > start:
                yield start, end, (match.group(1) or "") if self._compiled.groups else ""

    def needs(self) -> list[tuple[str, ...]]:
        """Return groups of literals: a text that matches holds at least one literal of every group.

        胸口[^,]{0,6}(?:疼|痛) needs one of (胸口) and one of (疼, 痛). An expression of which nothing is certain needs nothing.
        """
        try:
            tree = syntax.parse(self.pattern)
        except (syntax.error, OverflowError):  # RE2 knows more than Python's parser: then nothing is certain
            return []
        return [tuple(sorted(group)) for group in _needs(tree)]


def _needs(parts: Iterable[Any]) -> list[set[str]]:
    """Return the groups of one sequence: neighbours that can be spelled out are joined, the others asked one by one."""
    groups: list[set[str]] = []
    run = {""}
    for part in parts:
        spelled = _spelled([part])
        if spelled is not None and len(run) * len(spelled) <= MOST_WORDS:
            run = {a + b for a, b in product(run, spelled)}
            continue
        groups.append(run)
        run = {""}
        op, argument = part
        if op is syntax.SUBPATTERN:
            groups += _needs(argument[-1])
        elif op is syntax.BRANCH:
            sides = [min(_needs(side), key=len, default={""}) for side in argument[1]]
            groups.append(set().union(*sides))
        elif op in (syntax.MAX_REPEAT, syntax.MIN_REPEAT) and argument[0] > 0:
            groups += _needs(argument[2])
        elif spelled is not None:
            run = spelled
    groups.append(run)
    return [{word.lower() for word in g} for g in groups if "" not in g and len(g) <= MOST_WORDS]


def _spelled(parts: Iterable[Any]) -> set[str] | None:
    """Return every string a sequence can match, None when they are too many to say."""
    words = {""}
    for op, argument in parts:
        more: set[str] | None = None
        if op is syntax.LITERAL:
            more = {chr(argument)}
        elif op is syntax.IN:
            more = _characters(argument)
        elif op is syntax.SUBPATTERN:
            more = _spelled(argument[-1])
        elif op is syntax.BRANCH:
            sides = [_spelled(side) for side in argument[1]]
            more = None if None in sides else set().union(*(s for s in sides if s is not None))
        elif op in (syntax.MAX_REPEAT, syntax.MIN_REPEAT) and argument[:2] == (0, 1):
            inner = _spelled(argument[2])
            more = None if inner is None else inner | {""}
        if more is None or len(words) * len(more) > MOST_WORDS:
            return None
        words = {a + b for a, b in product(words, more)}
    return words


def _characters(members: Iterable[Any]) -> set[str] | None:
    """Return the characters of a class, None when it is negated, named or wide."""
    characters: set[str] = set()
    for kind, argument in members:
        if kind is syntax.LITERAL:
            characters.add(chr(argument))
        elif kind is syntax.RANGE and argument[1] - argument[0] < MOST_WORDS:
            characters.update(map(chr, range(argument[0], argument[1] + 1)))
        else:
            return None
    return characters


class Literals:
    """Multi-string search; strings are numbered in the order given."""

    def __init__(self, words: Sequence[str]) -> None:
        self._automaton = AhoCorasick(words) if words else None

    def find(self, text: str) -> list[tuple[int, int, int]]:
        """Return (number, start, end) of every occurrence, overlapping ones included, in order of their end."""
        return self._automaton.find_matches_as_indexes(text, overlapping=True) if self._automaton else []
