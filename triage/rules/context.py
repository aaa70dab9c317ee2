"""Does a mentioned fact hold now? ConText (Harkema et al. 2009, as in medSpaCy) for Chinese without word boundaries.

A cue (没有, 如果, 去年 ...) reaches over the places near it at which a fact may stand: so many characters, in the same clause or
sentence, up to a closing word (但, 现在 ...) or to the ends of the text. The cues that reach a fact are weighed: those of
weight 1 decide alone, lighter ones (昨天; 谢谢) only together with others of the same status, one of each kind. Cues that
speak for the present (又, 还在) are taken off. Of the statuses that weigh enough the one with the nearest cue wins.
All words are data: `context.toml`. What a cue reaches is settled once for each text, in time linear in its length.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from triage.records import Status
from triage.text import clause_ends, sentence_ends

ENOUGH = 0.99  # what the cues of one status must weigh together; below 1 because 0.7 + 0.3 is not quite 1


@dataclass(frozen=True, slots=True, eq=False)  # eq=False: a cue is a kind of its own, and cheap to put in a set
class Cue:
    """Words that change the status of a fact standing up to `reach` characters `after` or `before` the cue itself."""

    words: tuple[str, ...]
    status: Status  # "holds": the words weigh against the statuses named in `against`
    stands: str = "before"  # where the cue stands, seen from the fact: "before" or "after"
    reach: int = 8
    scope: str = "clause"  # "clause" or "sentence"
    around: bool = False  # reaches to both sides, over the ends of clauses and sentences
    through: bool = False  # closing words do not end its reach
    question: bool = False  # only in a sentence that asks
    no_owner: bool = False  # only in a text that names nobody in particular
    about: tuple[str, ...] = ()  # only for facts with one of these in their words (退了 is about 烧, not about 胸痛)
    not_about: tuple[str, ...] = ()  # not for facts with one of these in their words (what is 好了 is no 孤独症)
    weight: float = 1.0
    against: tuple[str, ...] = ("over", "general")


Hit = tuple[int, int]  # start, end
CueHit = tuple[int, int, Cue]
_Reach = tuple[int, int, CueHit]  # first and last place of a fact's near edge, the cue


class Context:
    """The cues, closing words, question marks and persons found in one text; answers for one span at a time."""

    def __init__(
        self, text: str, cues: Sequence[CueHit], closers: Sequence[Hit], asks: Sequence[Hit], owners: Sequence[Hit]
    ) -> None:
        self._text = text
        self._found = cues, closers, asks, bool(owners)
        self._ready = not cues
        self._before: list[_Reach] = []  # cues standing before a fact, by the first place they reach
        self._after: list[_Reach] = []  # cues standing after a fact, by the last place they reach
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._farthest = 0

    def _prepare(self) -> None:
        """Settle what each cue reaches; done when the first fact asks."""
        cues, closer_hits, asks, owned = self._found
        clauses, sentences = clause_ends(self._text), sentence_ends(self._text)
        closers = sorted(start for start, _ in closer_hits)
        asking = {bisect_right(sentences, start) for start, _ in asks}
        for start, end, cue in cues:
            if (cue.no_owner and owned) or (cue.question and bisect_right(sentences, start) not in asking):
                continue
            self._farthest = max(self._farthest, cue.reach)
            if cue.around:
                self._before.append((end, end + cue.reach, (start, end, cue)))
                self._after.append((start - cue.reach, start, (start, end, cue)))
                continue
            ends = clauses if cue.scope == "clause" else sentences
            if cue.stands == "before":
                last = min(end + cue.reach, ends[bisect_right(ends, end - 1)] - 1)
                at = bisect_left(closers, end)
                if not cue.through and at < len(closers):
                    last = min(last, closers[at])
                self._before.append((end, last, (start, end, cue)))
            else:
                at = bisect_right(ends, start)
                first = max(start - cue.reach, ends[at - 1] if at else 0)
                at = bisect_left(closers, start)
                if not cue.through and at:
                    first = max(first, closers[at - 1] + 1)
                self._after.append((first, start, (start, end, cue)))
        self._before.sort(key=lambda r: r[0])
        self._after.sort(key=lambda r: r[1])
        self._firsts = [r[0] for r in self._before]
        self._lasts = [r[1] for r in self._after]
        self._ready = True

    def status(self, start: int, end: int) -> tuple[Status, str]:
        """Return the status of the fact at [start, end) and the words of the nearest cue ("" when it holds)."""
        if not self._ready:
            self._prepare()
        low = bisect_left(self._firsts, start - self._farthest)
        high = bisect_right(self._firsts, start, low)
        reaching = [(start - r[0], r[2]) for r in self._before[low:high] if start <= r[1]]
        low = bisect_left(self._lasts, end)
        high = bisect_right(self._lasts, end + self._farthest, low)
        reaching += [(r[1] - end, r[2]) for r in self._after[low:high] if r[0] <= end]
        return self._weigh(reaching, self._text[start:end]) if reaching else (Status.HOLDS, "")

    def _weigh(self, reaching: list[tuple[int, CueHit]], fact: str) -> tuple[Status, str]:
        """Return the status whose cues weigh enough and stand nearest. `reaching`: distances and cues."""
        sums: dict[str, float] = {}
        nearest: dict[Status, tuple[int, CueHit]] = {}
        seen: set[Cue] = set()
        for found in reaching:
            cue = found[1][2]
            if cue.about and not any(word in fact for word in cue.about):
                continue
            if cue.not_about and any(word in fact for word in cue.not_about):
                continue
            holds = cue.status is Status.HOLDS
            if cue not in seen:
                seen.add(cue)
                for name in cue.against if holds else (cue.status.value,):
                    sums[name] = sums.get(name, 0.0) + (-cue.weight if holds else cue.weight)
            if not holds and (cue.status not in nearest or _closer(found) < _closer(nearest[cue.status])):
                nearest[cue.status] = found
        heavy = [found for status, found in nearest.items() if sums[status.value] >= ENOUGH]
        if not heavy:
            return Status.HOLDS, ""
        start, end, cue = min(heavy, key=_closer)[1]
        return cue.status, self._text[start:end]


def _closer(found: tuple[int, CueHit]) -> tuple[int, int]:
    """Order by distance; of two cues equally near the longer one is meant (会不会, not 不会)."""
    return found[0], found[1][0] - found[1][1]
