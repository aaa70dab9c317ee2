"""Find every literal and every regular expression of all rules in a text, in one pass each.

Literals go through one Aho-Corasick automaton (`ahocorasick-rs`). RE2 (linear time, so no pattern can hang on any text)
names the few expressions whose necessary words occur (its prefilter: 20 µs a text for hundreds, where a set of all of
them takes milliseconds); only those are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import re2
from ahocorasick_rs import AhoCorasick


def compile_expression(expression: str) -> Any:
    """Return the compiled RE2 expression. Raises ValueError naming it when its syntax is not RE2's."""
    try:
        return re2.compile(expression)
    except re2.error as error:
        raise ValueError(f"bad expression {expression!r}: {error}") from None


class Matcher:
    """Multi-pattern search; both kinds of pattern are numbered in the order given.

    Raises ValueError naming the expression when one is not valid RE2 syntax.
    """

    def __init__(self, literals: Sequence[str], expressions: Sequence[str]) -> None:
        self._automaton = AhoCorasick(literals) if literals else None
        self._expressions = []
        self._filter = re2.Filter()
        for expression in expressions:
            self._expressions.append(compile_expression(expression))
            self._filter.Add(expression)
        if expressions:
            self._filter.Compile()

    def literals(self, text: str) -> list[tuple[int, int, int]]:
        """Return (literal, start, end) of every occurrence, overlapping ones included, in order of their end."""
        if self._automaton is None:
            return []
        return list(self._automaton.find_matches_as_indexes(text, overlapping=True))

    def expressions(self, text: str) -> Iterator[tuple[int, int, int, str]]:
        """Yield (expression, start, end, text of group 1 or "") of every match."""
        if not self._expressions:
            return
        for i in sorted(self._filter.Match(text, True)):
            for match in self._expressions[i].finditer(text):
                if match.end() > match.start():
                    yield i, match.start(), match.end(), (match.group(1) or "") if match.re.groups else ""
