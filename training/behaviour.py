"""Does it behave? Capabilities after CheckList (Ribeiro et al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models").

    python -m training.behaviour                                    # the shipped model
    python -m training.behaviour --model FOLDER --failures --json out.json

Three kinds of tests, whose sentences and word lists stand in `training/data/behaviour/`:
minimum    plain sentences that each tell one thing, or tell that it is not so, must be understood
invariance a request told in another manner keeps its urgency, category and department
direction  a grave fact, less medicine or a frailer age raises the urgency, their opposite never does
and texts outside the platform's scope must not come out critical. What is expected follows docs/labelling.md.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from training.corpus import DATA
from triage.engine import Triager
from triage.models.folder import SHIPPED
from triage.records import Decision, Status, severity

FOLDER = DATA / "behaviour"
NOT_HOLDING = tuple(s.value for s in Status if s is not Status.HOLDS)


@dataclass(frozen=True, slots=True)
class Case:
    """One test: `passes` judges the decisions on `texts`, in their order; `about` says what of the capability is tried."""

    capability: str
    about: str
    texts: tuple[str, ...]
    passes: Callable[[Sequence[Decision]], bool]


@lru_cache(maxsize=8)
def written(name: str) -> dict[str, Any]:
    """Return what `training/data/behaviour/<name>.toml` holds."""
    return tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))


def requests() -> Iterator[tuple[str, str, str]]:
    """Yield the plain requests: category, urgency, text."""
    for category, levels in written("requests").items():
        for urgency, texts in levels.items():
            yield from ((category, urgency, text) for text in texts)


def _level(decision: Decision) -> int:
    return severity(decision.urgency.code)


def _is(head: str, code: str) -> Callable[[Sequence[Decision]], bool]:
    return lambda d: getattr(d[0], head).code == code


def _not_critical(d: Sequence[Decision]) -> bool:
    return d[0].urgency.code != "critical"


def _flagged(code: str) -> Callable[[Sequence[Decision]], bool]:
    return lambda d: code in {f.code for f in d[0].flags}


def _harmless(flag: str) -> Callable[[Sequence[Decision]], bool]:
    return lambda d: _not_critical(d) and not _flagged(flag)(d)


def minimum() -> Iterator[Case]:
    """Yield the sentences that must be understood: labels, critical facts, flags, and each of the last two not holding."""
    for category, urgency, text in requests():
        yield Case("minimum: category", category, (text,), _is("category", category))
        yield Case("minimum: urgency", urgency, (text,), _is("urgency", urgency))
    for fact, told in written("facts").items():
        for text in told["holds"]:
            yield Case("minimum: critical fact", fact, (text,), _is("urgency", "critical"))
        for status in NOT_HOLDING:
            yield from (Case(f"minimum: {status}", fact, (text,), _not_critical) for text in told[status])
    for flag, told in written("flags").items():
        yield from (Case("minimum: flag", flag, (text,), _flagged(flag)) for text in told["holds"])
        for status in NOT_HOLDING:
            yield from (Case(f"minimum: {status}", flag, (text,), _harmless(flag)) for text in told[status])


def outside() -> Iterator[Case]:
    """Yield the texts that ask for no help."""
    for kind, group in written("outside").items():
        yield from (Case("outside: not critical", kind, (text,), _not_critical) for text in group["texts"])


# The changes of manner. Each takes a text and a turn that walks through the word lists, and returns the changed texts.

_HALF_WIDTH = str.maketrans("，。？！：；（）“”", ',.?!:;()""')
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1) if chr(code).isalnum()}
_MARK = re.compile(r"(?<!\d)[^\w\s]+|[^\w\s]+(?!\d)")  # not within 38.5 or 24:00
_ENDS = "。？！"
_SENTENCE = re.compile(f"[^{_ENDS}]+[{_ENDS}]?")


def _turn(words: Sequence[str], turn: int) -> str:
    return words[turn % len(words)]


def _another(lists: str) -> Callable[[str, int], list[str]]:
    """Exchange the listed name or place that a text has; open the text with one where it has none."""

    def change(text: str, turn: int) -> list[str]:
        words, openings = written("changes")[lists]["words"], written("changes")[lists]["openings"]
        own = next((word for word in words if word in text), None)
        others = [word for word in words if word != own]
        if own:
            return [text.replace(own, _turn(others, turn + i)) for i in range(3)]
        return [_turn(openings, turn).format(_turn(others, turn)) + text]

    return change


def _misspelt(lists: str) -> Callable[[str, int], list[str]]:
    """Put each wrong form of the list once where its right form stands."""

    def change(text: str, _: int) -> list[str]:
        return [text.replace(right, wrong, 1) for right, wrong in written("changes")[lists].items() if right in text]

    return change


def _framed(lists: str) -> Callable[[str, int], list[str]]:
    """Put something before a text, something after it, and take out the listed words where the list has any."""

    def change(text: str, turn: int) -> list[str]:
        words = written("changes")[lists]
        plain = re.sub("|".join(words["words"]), "", text) if "words" in words else text
        opening, closing = _turn(words["openings"], turn), _turn(words["closings"], turn)
        return [opening + text, text + (closing.removeprefix("，") if text[-1] in _ENDS else closing), plain]

    return change


def _repunctuated(text: str, _: int) -> list[str]:
    return [_MARK.sub("", text), _MARK.sub(" ", text), _MARK.sub("，", text), text.translate(_HALF_WIDTH),
            text.translate(_FULL_WIDTH)]  # fmt: skip


@lru_cache(maxsize=2)
def _converter(standard: str) -> Any:
    from opencc import OpenCC

    return OpenCC(standard)


def _traditional(text: str, _: int) -> list[str]:
    return [_converter(standard).convert(text) for standard in ("s2t", "s2hk")]


def _reordered(text: str, _: int) -> list[str]:
    """Move the first sentence to the end."""
    first, *rest = (s if s[-1] in _ENDS else s + "。" for s in _SENTENCE.findall(text))
    return ["".join([*rest, first])] if rest else []


CHANGES: dict[str, Callable[[str, int], list[str]]] = {
    "names": _another("names"), "places": _another("places"), "politeness": _framed("politeness"),
    "shouting": _framed("shouting"), "typos": _misspelt("typos"), "homophones": _misspelt("homophones"),
    "punctuation": _repunctuated, "traditional": _traditional, "order": _reordered,
}  # fmt: skip


def _same(d: Sequence[Decision]) -> bool:
    return len({(x.urgency.code, x.category.code, x.department.code) for x in d}) == 1


def invariance() -> Iterator[Case]:
    """Yield every plain request beside each of its changed forms."""
    for name, change in CHANGES.items():
        for turn, (category, _, text) in enumerate(requests()):
            for changed in dict.fromkeys(change(text, turn)):
                if changed != text:
                    yield Case(f"invariance: {name}", category, (text, changed), _same)


def _raised_to(level: str) -> Callable[[Sequence[Decision]], bool]:
    return lambda d: _level(d[0]) < severity(level) <= _level(d[1])


def _denial_counts(d: Sequence[Decision]) -> bool:
    """Base, base with the fact denied, base with the fact told: the denial raises nothing, and is not taken for the fact."""
    return _level(d[1]) <= _level(d[0]) and _level(d[1]) < _level(d[2])


def _falls(d: Sequence[Decision]) -> bool:
    levels = [_level(x) for x in d]
    return all(later <= sooner for sooner, later in pairwise(levels)) and levels[-1] < levels[0]


def direction() -> Iterator[Case]:
    """Yield what must move the urgency one way: facts told and denied, medicine that lasts longer, ages."""
    data = written("directions")
    for fact, base in product(data["fact"], data["bases"]):
        for form in ("{base}。{fact}", "{fact}，{base}"):
            told, denied = (form.format(base=base, fact=fact[key]) for key in ("told", "denied"))
            yield Case("direction: fact added", fact["told"], (base, told), _raised_to(fact["level"]))
            yield Case("direction: fact denied", fact["denied"], (base, denied, told), _denial_counts)
    for request, lasts in product(data["medicine"]["requests"], data["medicine"]["lasts"]):
        series = tuple(request.format(lasts=last) for last in lasts)
        yield Case("direction: medicine lasts longer", request, series, _falls)
    for row in data["age"]:
        for graver, milder in product(row["graver"], row["milder"]):
            pair = tuple(row["request"].format(age=age) for age in (graver, milder))
            yield Case("direction: age", row["request"], pair, _falls)


def cases() -> list[Case]:
    """Return the whole suite."""
    return [*minimum(), *invariance(), *direction(), *outside()]


def judge(triager: Triager, suite: Sequence[Case]) -> list[tuple[Case, list[Decision], bool]]:
    """Decide on every text of the suite once; returns each case with its decisions and whether it passes."""
    texts = dict.fromkeys(text for case in suite for text in case.texts)
    decided = dict(zip(texts, triager.predict_many(texts), strict=True))
    judged = []
    for case in suite:
        decisions = [decided[text] for text in case.texts]
        judged.append((case, decisions, case.passes(decisions)))
    return judged


def count(judged: Sequence[tuple[Case, list[Decision], bool]]) -> dict[str, tuple[int, int]]:
    """Return {capability: (cases passed, cases)}."""
    total, passed = Counter(c.capability for c, _, _ in judged), Counter(c.capability for c, _, ok in judged if ok)
    return {capability: (passed[capability], n) for capability, n in total.items()}


def run(triager: Triager) -> dict[str, tuple[int, int]]:
    """Try the whole suite; returns {capability: (cases passed, cases)}."""
    return count(judge(triager, cases()))


def as_table(title: str, counts: dict[str, tuple[int, int]]) -> Table:
    """Lay out the pass rate of every capability."""
    table = Table("capability", "cases", "failed", "pass rate", title=title)
    for capability, (passed, total) in counts.items():
        table.add_row(capability, str(total), str(total - passed), f"{passed / total:.3f}")
    return table


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=SHIPPED, show_default="the shipped model")
@click.option("--failures", is_flag=True, help="list the cases that fail")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the counts here as well")
def main(model: Path, failures: bool, json_path: Path | None) -> None:
    """Print the pass rate of every capability for a model folder with the shipped rules."""
    triager, console = Triager.load(model), Console()
    judged = judge(triager, cases())
    if failures:
        for case, decisions, ok in judged:
            if not ok:
                console.print(f"{case.capability} ({case.about})", style="bold", highlight=False)
                for d in decisions:
                    codes = " ".join((d.urgency.code, d.category.code, d.department.code, *(f.code for f in d.flags)))
                    console.print(f"  {codes} | {d.text!r}", markup=False, highlight=False, soft_wrap=True)
    counts = count(judged)
    console.print(as_table(f"model {triager.fingerprints['model']}, rules {triager.fingerprints['rules']}", counts))
    if json_path:
        rows = {c: {"passed": passed, "cases": total} for c, (passed, total) in counts.items()}
        json_path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
