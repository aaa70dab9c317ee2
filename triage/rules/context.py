"""Does a mentioned fact hold now? ConText (Harkema et al. 2009, as in medSpaCy) for Chinese without word boundaries.

A cue (没有, 如果, 去年 ...) stands before or after a fact, within a reach of characters, in the same clause or sentence;
a closing word (但, 现在 ...) between the two ends its scope. The nearest cue decides. Cues are data: `context.toml`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from triage.records import Status
from triage.text import clause_ends, sentence_ends


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that change the status of a fact standing up to `reach` characters `after` or `before` the cue itself."""

    words: tuple[str, ...]
    status: Status
    stands: str = "before"  # where the cue stands, seen from the fact: "before" or "after"
    reach: int = 8
    scope: str = "clause"  # "clause" or "sentence"
    question: bool = False  # only in a sentence that asks
    no_owner: bool = False  # only in a sentence that names nobody in particular


Hit = tuple[int, int]  # start, end
CueHit = tuple[int, int, Cue]


class Context:
    """The cues, closing words, question marks and persons found in one text; answers for one span at a time."""

    def __init__(
        self, text: str, cues: Sequence[CueHit], closers: Sequence[Hit], asks: Sequence[Hit], owners: Sequence[Hit]
    ) -> None:
        self._text = text
        self._clauses = clause_ends(text)
        self._sentences = sentence_ends(text)
        longest = max((c.reach for _, _, c in cues), default=0)
        self._cues = sorted(cues, key=lambda hit: (hit[0], -hit[1]))
        self._starts = [start for start, _, _ in self._cues]
        self._margin = longest + max((e - s for s, e, _ in cues), default=0)
        self._closers = sorted(start for start, _ in closers)
        self._asks = sorted(start for start, _ in asks)
        self._owners = sorted(start for start, _ in owners)

    def _between(self, sorted_starts: Sequence[int], start: int, end: int) -> bool:
        at = bisect_left(sorted_starts, start)
        return at < len(sorted_starts) and sorted_starts[at] < end

    def _sentence(self, position: int) -> Hit:
        at = bisect_right(self._sentences, position)
        return (self._sentences[at - 1] if at else 0), self._sentences[min(at, len(self._sentences) - 1)]

    def status(self, start: int, end: int) -> tuple[Status, str]:
        """Return the status of the fact at [start, end) and the cue's words ("" when it holds)."""
        nearest: tuple[int, Status, str] | None = None
        low = bisect_left(self._starts, start - self._margin)
        high = bisect_right(self._starts, end + self._margin)
        for cue_start, cue_end, cue in self._cues[low:high]:
            if cue.stands == "before":
                gap, between = start - cue_end, (cue_end, start)
            else:
                gap, between = cue_start - end, (end, cue_start)
            if gap < 0 or gap > cue.reach or (nearest is not None and gap >= nearest[0]):
                continue
            ends = self._clauses if cue.scope == "clause" else self._sentences
            if bisect_right(ends, between[0]) != bisect_right(ends, between[1]):
                continue
            if self._between(self._closers, *between):
                continue
            sentence = self._sentence(start)
            if cue.question and not self._between(self._asks, *sentence):
                continue
            if cue.no_owner and self._between(self._owners, *sentence):
                continue
            nearest = gap, cue.status, self._text[cue_start:cue_end]
        return (nearest[1], nearest[2]) if nearest else (Status.HOLDS, "")
