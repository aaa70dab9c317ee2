"""How good are the decisions? Measures for labelled requests, with the spread that chance alone would give them.

Every measure is made of sums over requests, so a thousand bootstrap resamples are one matrix product (`figures`). Beside
the measures stand two tables that an average hides: who is served worse (`GROUPS`), and what a score is worth (`reliability`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from triage.decide import THRESHOLDS, gather
from triage.engine import Triager
from triage.errors import InputError
from triage.models.base import Backend
from triage.profile import Profile
from triage.records import URGENCY_LEVELS, Decision, Scores, severity
from triage.sources import BadRow, FileSource
from triage.text import clean

Floats = npt.NDArray[np.float64]
Figure = tuple[float, float, float]  # a measure and its 95 % interval (three times the same without resamples)

ONE = ("urgency", "category", "department")  # columns with one label a request
SEVERAL = {"co_departments": "department", "flags": "flag"}  # columns with several, and the head whose codes they hold
RESAMPLES, BINS = 1000, 15
FEW = 50  # a group of fewer requests is marked: its figures say little
_CHUNK = 512  # texts decided at a time
_CELLS = 2_000_000  # numbers of one block of resamples (16 MB)

# Each measure is a share in [0, 1] (kappa: up to 1); `better` tells which way.
MEASURES = {
    "category macro-F1": "up", "category accuracy": "up", "urgency accuracy": "up", "urgency weighted kappa": "up",
    "critical recall": "up", "critical precision": "up", "under-triage": "down", "over-triage": "down",
    "critical unseen": "down", "department accuracy": "up", "co-departments micro-F1": "up", "flags micro-F1": "up",
    "contrast pairs both right": "up", "district accuracy": "up", "review share": "down", "answered by first stage": "up",
}  # fmt: skip
# Not the model's doing: places are looked up, review and cascade belong to the whole.
OF_DECISIONS = {"critical unseen", "district accuracy", "review share", "answered by first stage"}
MEANINGS = {
    "under-triage": "critical or urgent called priority or routine",
    "over-triage": "priority or routine called critical or urgent",
    "critical unseen": "critical called lower than urgent and not shown to a person",
    "contrast pairs both right": "in what the two differ of urgency, category, department; else in the flags that differ",
    "answered by first stage": "requests that never reach the BERT",
}
GROUP_MEASURES = ("urgency accuracy", "critical recall", "under-triage", "category accuracy")


class Labelled(Protocol):
    """A request and its true labels; None where the file does not say (`Truth`, or the corpus's `Example`)."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def urgency(self) -> str | None: ...  # noqa: D102
    @property
    def category(self) -> str | None: ...  # noqa: D102
    @property
    def department(self) -> str | None: ...  # noqa: D102
    @property
    def co_departments(self) -> Collection[str] | None: ...  # noqa: D102
    @property
    def flags(self) -> Collection[str] | None: ...  # noqa: D102
    @property
    def districts(self) -> Collection[str] | None: ...  # noqa: D102
    @property
    def voice(self) -> str: ...  # noqa: D102
    @property
    def pair(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Truth:
    """One row of a labelled file; see `Labelled`."""

    id: str
    text: str
    urgency: str | None = None
    category: str | None = None
    department: str | None = None
    co_departments: frozenset[str] | None = None
    flags: frozenset[str] | None = None
    districts: frozenset[str] | None = None
    voice: str = ""
    pair: str = ""


def read_labelled(
    path: str, profile: Profile, form: str | None = None, text_column: str = "text", id_column: str = "id"
) -> tuple[list[Truth], list[str]]:
    """Read a labelled file in any form of `triage.sources`; return the good rows and what is wrong with each of the others.

    Columns urgency, category, department (a code; empty: not said), co_departments, flags, districts (a list, or codes
    with commas between; empty: none), voice, pair. Any may be missing. No fault quotes a cell. Raises InputError for a file that
    cannot be read.
    """
    known: dict[str, Collection[str]] = {h: profile.labels[h] for h in ONE}
    known |= {column: profile.labels[head] for column, head in SEVERAL.items()} | {"districts": profile.districts}
    good, faults, seen = [], [], set[str]()
    for row in FileSource(path, form, text_column, id_column).items():
        if row is None or isinstance(row, BadRow):
            faults += [str(row)] if row else []
            continue
        wrong = [f"column {id_column!r}: stands already in a row above; make ids unique"] if row.id in seen else []
        labels: dict[str, Any] = {}
        for column, codes in known.items():
            try:
                labels[column] = _label(row.values.get(column), codes, column in ONE)
            except ValueError as fault:
                wrong.append(f"column {column!r}: {fault}")
        if not wrong and all(value is None for value in labels.values()):
            wrong = [f"no label; fill {', '.join(known)}, any of them"]
        seen.add(row.id)
        faults += [f"{row.place}: {w}" for w in wrong]
        if not wrong:
            labels |= {c: str(row.values.get(c) or "") for c in ("voice", "pair")}
            good.append(Truth(row.id, row.text, **labels))
    return good, faults


def _label(value: Any, codes: Collection[str], one: bool) -> Any:
    """Read one cell: a code, or a set of codes; None: not said. Raises ValueError with the mend, never with the cell."""
    if value is None or (one and value == ""):
        return None
    if isinstance(value, str) and not one:
        value = [v.strip() for v in re.split("[,;，；、]", value) if v.strip()]
    several = [value] if one else value
    if not isinstance(several, list) or not all(isinstance(v, str) for v in several):
        raise ValueError("must be one code" if one else "must be a list of codes, or codes with commas between")
    if not set(several) <= set(codes):
        raise ValueError(f"must be of {', '.join(codes) if len(codes) <= 30 else f'the {len(codes)} of the profile'}")
    return value if one else frozenset(several)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is compared with the truth: the labels of one decision.

    score: the decision's score of its category, urgency, department. chance: flags and co_departments -> label -> its probability,
    given or not; "at least" -> level of urgency -> the same.
    early: whether the cascade's first stage has answered. Empty for answers that come without.
    """

    category: str
    urgency: str
    department: str
    co_departments: frozenset[str]
    flags: frozenset[str]
    districts: tuple[str, ...] = ()
    needs_review: bool = False
    score: Mapping[str, float] = field(default_factory=dict)
    chance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    early: bool = False

    @classmethod
    def of(cls, d: Decision, chance: Mapping[str, Mapping[str, float]] | None = None, early: bool = False) -> Answer:
        """Take the labels out of a decision."""
        return cls(d.category.code, d.urgency.code, d.department.code, frozenset(x.code for x in d.co_departments),
                   frozenset(f.code for f in d.flags), d.districts, d.needs_review,
                   {head: getattr(d, head).score for head in ONE}, chance or {}, early)  # fmt: skip


class Remembered:
    """A backend that scores each text once, however often it is asked."""

    def __init__(self, backend: Backend) -> None:
        self.model_id, self.labels, self._backend = backend.model_id, backend.labels, backend
        self._known: dict[str, Scores] = {}

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each text."""
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        self._known |= zip(new, self._backend.score(new), strict=True)
        return [self._known[t] for t in texts]


def answers(triager: Triager, texts: Sequence[str]) -> list[Answer]:
    """Decide on every text, and keep besides what a decision does not show: the odds of labels not given, the stage."""
    out: list[Answer] = []
    for part in (texts[at : at + _CHUNK] for at in range(0, len(texts), _CHUNK)):
        once = copy(triager)
        once.backend = Remembered(triager.backend)
        decisions, cleaned = once.predict_many(part), [clean(t).text for t in part]
        findings = [d.findings for d in decisions]
        first = once.cascade.answers(cleaned, findings) if once.cascade else [None] * len(part)
        rest = iter(once.backend.score([t for t, known in zip(cleaned, first, strict=True) if known is None]))
        for d, known in zip(decisions, first, strict=True):
            evidence = gather(d.findings, known or next(rest))
            chance = {
                q: {label: e.probability(once.policy.weights[q]) for label, e in evidence[q].items()} for q in SEVERAL
            }
            chance["co_departments"].pop(d.department.code, None)  # who leads is not asked
            chance["at least"] = {q: evidence[q][q].probability(once.policy.weights[q]) for q in THRESHOLDS}
            out.append(Answer.of(d, chance, known is not None))
    return out


def _sums(
    examples: Sequence[Labelled], answers: Sequence[Answer], min_support: int
) -> tuple[dict[str, tuple[Floats, Floats]], list[str], Floats]:
    """Return what the measures are made of, one number a request: {name: (above, below)} of each ratio, the names of the
    categories' F1 among them, and for kappa (n, 9): squared distance, then one-hot levels wanted and given."""
    n = len(examples)

    def column(values: Iterator[Any]) -> Floats:
        return np.fromiter(values, np.float64, n)

    rows = list(zip(examples, answers, strict=True))
    ratios: dict[str, tuple[Floats, Floats]] = {}
    for head in ONE:
        said = column(getattr(x, head) is not None for x in examples)
        ratios[f"{head} accuracy"] = column(getattr(x, head) == getattr(a, head) for x, a in rows), said
    for head, name in (("co_departments", "co-departments micro-F1"), ("flags", "flags micro-F1")):
        both = [(getattr(x, head), getattr(a, head)) for x, a in rows]
        ratios[name] = (column(0 if w is None else 2 * len(set(w) & g) for w, g in both),
                        column(0 if w is None else len(w) + len(g) for w, g in both))  # fmt: skip
    ratios["district accuracy"] = (
        column(x.districts is not None and set(x.districts) == set(a.districts) for x, a in rows),
        column(x.districts is not None for x in examples),
    )
    want = column(-1 if x.urgency is None else severity(x.urgency) for x in examples)
    got = column(severity(a.urgency) for a in answers)
    review, early = column(a.needs_review for a in answers), column(a.early for a in answers)
    grave, calm, critical = (np.asarray(c, np.float64) for c in (want >= 2, (want >= 0) & (want < 2), want == 3))
    ratios |= {
        "critical recall": (critical * (got == 3), critical),
        "critical precision": (critical * (got == 3), (want >= 0) * (got == 3.0)),
        "under-triage": (grave * (got < 2), grave),
        "over-triage": (calm * (got >= 2), calm),
        "critical unseen": (critical * (got < 2) * (1 - review), critical),
        "contrast pairs both right": _pairs(examples, answers),
        "review share": (review, np.ones(n)),
        "answered by first stage": (early, np.ones(n) if early.any() else np.zeros(n)),
    }
    support = Counter(x.category for x in examples if x.category is not None)
    categories = [f"F1 of {c}" for c, count in support.items() if count >= min_support]
    for name in categories:
        c = name.removeprefix("F1 of ")
        truly, called = column(x.category == c for x in examples), column(a.category == c for a in answers)
        ratios[name] = 2 * truly * called, truly + called * ratios["category accuracy"][1]
    known, levels = (want >= 0)[:, None], np.arange(len(URGENCY_LEVELS))
    kappa = np.hstack([(want - got)[:, None] ** 2, want[:, None] == levels, got[:, None] == levels]) * known
    return ratios, categories, kappa


def _pairs(examples: Sequence[Labelled], answers: Sequence[Answer]) -> tuple[Floats, Floats]:
    """Return each request's part of a contrast pair that is right in all its texts, and of a pair at all."""
    pairs: dict[str, list[int]] = defaultdict(list)
    for i, x in enumerate(examples):
        if x.pair:
            pairs[x.pair].append(i)
    right, inside = np.zeros(len(examples)), np.zeros(len(examples))
    for members in pairs.values():
        heads = [h for h in ONE if len({getattr(examples[i], h) for i in members}) > 1]
        flags = [frozenset[str](examples[i].flags or ()) for i in members]
        contrast = frozenset[str]() if heads else frozenset.union(*flags) - frozenset.intersection(*flags)
        if len(members) > 1 and (heads or contrast):
            inside[members] = 1 / len(members)
            right[members] = inside[members] * all(
                all(getattr(examples[i], h) == getattr(answers[i], h) for h in heads)
                and not (f ^ answers[i].flags) & contrast
                for i, f in zip(members, flags, strict=True)
            )
    return right, inside


def _values(weights: Floats, sums: tuple[dict[str, tuple[Floats, Floats]], list[str], Floats]) -> dict[str, Floats]:
    """Return every measure (b,) for requests that count `weights` (b, n) times; NaN where nothing is to be measured."""
    ratios, categories, kappa = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        above, below = (weights @ np.stack([r[i] for r in ratios.values()], 1) for i in (0, 1))
        values = dict(zip(ratios, (above / below).T, strict=True))
        counts = weights @ kappa
        distance = np.subtract.outer(np.arange(4), np.arange(4)) ** 2
        expected = np.einsum("bi,bj,ij->b", counts[:, 1:5], counts[:, 5:], distance) / counts[:, 1:5].sum(1)
        values["urgency weighted kappa"] = 1 - counts[:, 0] / expected
        each = np.array([values[c] for c in categories]).reshape(len(categories), len(weights))
        values["category macro-F1"] = np.nansum(each, 0) / (~np.isnan(each)).sum(0)
    return {name: values[name] for name in MEASURES}


def measure(examples: Sequence[Labelled], answers: Sequence[Answer], min_support: int = 1) -> dict[str, float]:
    """Return every measure of MEASURES, NaN where the labels for it are missing. Macro-F1 runs over the categories with
    at least `min_support` examples."""
    once = _values(np.ones((1, len(examples))), _sums(examples, answers, min_support))
    return {name: float(v[0]) for name, v in once.items()}


def _draws(examples: Sequence[Labelled], resamples: int) -> Iterator[Floats]:
    """Yield blocks (b, n) of how often each request is drawn, with replacement; always the same. The texts of a contrast pair are
    drawn together, since they are not independent."""
    numbers = {unit: i for i, unit in enumerate(dict.fromkeys(x.pair or (i,) for i, x in enumerate(examples)))}
    unit_of = np.array([numbers[x.pair or (i,)] for i, x in enumerate(examples)])
    units, draw = len(numbers), np.random.default_rng(0)
    for size in np.diff([*range(0, resamples, max(1, _CELLS // len(examples))), resamples]):
        drawn = draw.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        yield counts[:, unit_of].astype(np.float64)


def figures(
    examples: Sequence[Labelled], answers: Sequence[Answer], min_support: int = 1, resamples: int = RESAMPLES
) -> dict[str, Figure]:
    """Return every measure that the labels allow with its 95 % bootstrap interval (Efron 1979, percentile).

    Always the same draws: equal input gives equal intervals. resamples = 0: no intervals, three times the value.
    """
    sums = _sums(examples, answers, min_support)
    values = {k: float(v[0]) for k, v in _values(np.ones((1, len(examples))), sums).items() if not np.isnan(v[0])}
    if not resamples:
        return {k: (v, v, v) for k, v in values.items()}
    blocks = [_values(weights, sums) for weights in _draws(examples, resamples)]
    out: dict[str, Figure] = {}
    for name, value in values.items():
        low, high = np.nanpercentile(np.concatenate([b[name] for b in blocks]), (2.5, 97.5)).tolist()
        if low == high and value in (0, 1) and name in sums[0] and not name.endswith("F1"):
            # All right, or none: resamples know no other, yet of n it may be chance (Clopper & Pearson 1934).
            unseen = 1 - 0.025 ** (1 / sums[0][name][1].sum())
            low, high = (value - unseen, value) if value else (0.0, unseen)
        out[name] = value, low, high
    return out


def differences(
    examples: Sequence[Labelled], before: Sequence[Answer], after: Sequence[Answer], resamples: int = RESAMPLES
) -> dict[str, Figure]:
    """Return after minus before of every measure that the labels allow, with its 95 % interval (paired bootstrap, Efron 1979).

    In each resample both sides answer the same requests, so what is hard for both cancels out.
    """
    sides = [_sums(examples, given, 1) for given in (before, after)]

    def moved(weights: Floats) -> dict[str, Floats]:
        old, new = (_values(weights, side) for side in sides)
        return {name: new[name] - old[name] for name in MEASURES}

    observed = moved(np.ones((1, len(examples))))
    blocks = [moved(weights) for weights in _draws(examples, resamples)]
    out: dict[str, Figure] = {}
    for name, (value,) in observed.items():
        if not np.isnan(value):
            low, high = np.nanpercentile(np.concatenate([b[name] for b in blocks]), (2.5, 97.5))
            out[name] = float(value), float(low), float(high)
    return out


def is_worse(measure: str, difference: Figure) -> bool:
    """Whether a difference is for the worse, and by more than chance."""
    return difference[2] < 0 if MEASURES[measure] == "up" else difference[1] > 0


@dataclass(frozen=True, slots=True)
class Reliability:
    """What a head's scores are worth. points: (mean score, share right, how many) of each bin, ascending.

    error: expected calibration error (Naeini et al. 2015), the mean distance of the two, bins of equal mass. chance: what scores
    that are exactly right would not exceed 19 times in 20 on so many answers: below it nothing is shown to be wrong.
    """

    error: float
    chance: float
    points: tuple[tuple[float, float, int], ...]


def events(examples: Sequence[Labelled], answers: Sequence[Answer]) -> dict[str, tuple[Floats, Floats]]:
    """Return head -> (scores, whether right): the label given of category, department, urgency, every yes or no of the rest; and, since
    nearly all of these are easy noes, the flags given once more by themselves."""
    rows = list(zip(examples, answers, strict=True))
    pairs = {h: [(a.score[h], getattr(x, h) == getattr(a, h)) for x, a in rows if getattr(x, h) is not None and a.score]
             for h in ONE}  # fmt: skip
    pairs |= {h: [(p, label in getattr(x, h)) for x, a in rows if getattr(x, h) is not None
                  for label, p in a.chance.get(h, {}).items()] for h in SEVERAL}  # fmt: skip
    pairs["flags given"] = [(a.chance["flags"][c], c in x.flags) for x, a in rows if x.flags is not None and a.chance
                            for c in sorted(a.flags)]  # fmt: skip
    return {
        h: (both[:, 0], both[:, 1]) for h, asked in pairs.items() if asked for both in [np.array(asked, np.float64)]
    }


def reliability(score: Floats, right: Floats, bins: int = BINS, resamples: int = 100) -> Reliability:
    """Compare scores (n,) in [0, 1] with how often they are right (n,); n ≥ 1."""
    order = np.argsort(score, kind="stable")
    score, right = score[order], right[order]
    edges = np.linspace(0, len(score), min(bins, len(score)) + 1).astype(int)
    sizes = np.diff(edges)

    def error(right: Floats) -> float:
        return float(np.abs(np.add.reduceat(score - right, edges[:-1])).sum() / len(score))

    draw = np.random.default_rng(0)
    exact = [error((draw.random(len(score)) < score).astype(np.float64)) for _ in range(resamples)]
    means = (np.add.reduceat(v, edges[:-1]) / sizes for v in (score, right))
    return Reliability(error(right), float(np.quantile(exact, 0.95)) if exact else 0.0,
                       tuple((float(s), float(r), int(m)) for s, r, m in zip(*means, sizes, strict=True)))  # fmt: skip


def _told(voice: str, text: str = "(?!)") -> Callable[[Labelled, str], bool]:
    """Return a test: the file's `voice` or the cleaned text tells it."""
    in_voice, in_text = re.compile(voice), re.compile(text)
    return lambda x, cleaned: bool(in_voice.search(x.voice.lower()) or in_text.search(cleaned))


def _traditional(x: Labelled, cleaned: str) -> bool:
    """Whether two or more characters are not what simplified script has: one alone may be a name or a slip."""
    plain = unicodedata.normalize("NFKC", x.text).lower()
    return len(plain) == len(cleaned) and sum(a != b and a > "\u2e7f" for a, b in zip(plain, cleaned, strict=True)) > 1


def _long(least: int, most: float) -> Callable[[Labelled, str], bool]:
    return lambda x, cleaned: least <= len(cleaned) <= most


# Who writes, or whom it is about: told by the corpus's `voice` field (who writes, and how) or by the words; both miss some.
GROUPS: dict[str, Callable[[Labelled, str], bool]] = {
    "elderly": _told(
        r"\bold(er)? (wo)?man|\bold (person|lady|wife|husband|couple)|grand(mother|father|ma|pa)\b|granny|elderly|pension|retired",
        "老人|老年|老头|老太|老伴|爷爷|奶奶|姥姥|姥爷|外婆|外公|(?<![0-9])([6-9][0-9]|1[01][0-9])多?岁|[六七八九]十[一二三四五六七八九多几来]*岁",
    ),
    "disabled": _told(
        r"deaf|\bblind\b|wheelchair|disab|autis|paraly[sz]ed|hard[ -]of[ -]hearing|mute\b",
        "残疾|残障|轮椅|瘫|盲人|失明|聋|哑|听障|视障|自闭症|孤独症|脑瘫|智障|假肢|截肢",
    ),
    "infants": _told(
        r"newborn|infant|\bbaby|prem(ature|ie)|preterm",
        "婴儿|婴幼儿|新生儿|早产儿|宝宝|奶粉|吃奶|满月|[0-9一二两三四五六七八九十]个?(多|半)?月(大|的(孩子|娃|宝|小孩|儿子|女儿))",
    ),
    "foreigners, other languages, foreign names": _told(
        r"foreign|\benglish|\bfrench|\bkorean|\bjapanese|\brussian|expat",
        "外国人|外籍|国籍|老外|留学生|中国话|(韩|美|法|德|英|泰)国人|日本人|俄罗斯人|印度人|越南人|非洲人|巴基斯坦"
        r"|([a-z']{2,}[ ,.!?]+){4}|[\u3040-\u30ff\uac00-\ud7a3\u0400-\u04ff\u0600-\u06ff]{2}"
        "|[\u4e00-\u9fff]{2}[·•][\u4e00-\u9fff]{2}",
    ),
    "dialect": _told(r"dialect|[话語语]\b|cantonese|henan speech|\baccent"),
    "voice input": _told(
        r"voice (input|typ|note|dialect|slip|mist|soft|error|henan)|\b(by|via|on|typed by) voice|speech input"
        r"|dictat|^voice\b|(woman|man|mother|grandmother|wife|villager),? voice$"
    ),
    "traditional script": _traditional,
    "up to 20 characters": _long(0, 20),
    "21 to 60 characters": _long(21, 60),
    "61 to 120 characters": _long(61, 120),
    "over 120 characters": _long(121, float("inf")),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of texts, for the terminal (rich) or for a file (Markdown)."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def rich(self) -> Any:
        """Return it as a rich table."""
        from rich.table import Table

        table = Table(*self.header, title=self.title, caption="\n".join(self.notes) or None, caption_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return it as Markdown, with its title as heading."""
        body = ["| " + " | ".join(row) + " |" for row in (self.header, ["---"] * len(self.header), *self.rows)]
        return "\n".join([f"### {self.title}", "", *body, *(f"\n{note}" for note in self.notes), ""])


def cell(figure: Figure | None) -> str:
    """Return a figure as people read it: value (low–high)."""
    if figure is None:
        return "–"
    value, low, high = figure
    return f"{value:.3f}" + (f" ({low:.2f}–{high:.2f})" if high > low else "")


def compared(title: str, systems: Mapping[str, Mapping[str, Figure]]) -> Grid:
    """Lay out the measures of some systems, one column each; measures that none has are left out."""
    shown = [m for m in MEASURES if any(m in s for s in systems.values())]
    rows = [[f"{m} {'↑' if MEASURES[m] == 'up' else '↓'}", *(cell(s.get(m)) for s in systems.values())] for m in shown]
    return Grid(title, ("measure", *systems), rows, [f"{m}: {MEANINGS[m]}." for m in shown if m in MEANINGS])


@dataclass(frozen=True, slots=True)
class Report:
    """One system on one labelled file: measures, groups (name -> how many, measures), reliability of each head."""

    requests: int
    critical: int
    measures: Mapping[str, Figure]
    groups: Mapping[str, tuple[int, Mapping[str, Figure]]]
    calibration: Mapping[str, Reliability]

    @classmethod
    def of(
        cls, examples: Sequence[Labelled], answers: Sequence[Answer], min_support: int = 1, resamples: int = RESAMPLES
    ) -> Report:
        """Measure; see `figures` for the arguments. Raises InputError for no requests at all."""
        if not examples:
            raise InputError("no labelled request to measure; give at least one good row")
        cleaned = [clean(x.text).text for x in examples]
        groups = {}
        for name, belongs in GROUPS.items():
            members = [i for i, (x, text) in enumerate(zip(examples, cleaned, strict=True)) if belongs(x, text)]
            if members:
                part = figures([examples[i] for i in members], [answers[i] for i in members], resamples=resamples)
                groups[name] = len(members), {m: part[m] for m in GROUP_MEASURES if m in part}
        calibration = {head: reliability(*both, resamples=resamples // 10)
                       for head, both in events(examples, answers).items()}  # fmt: skip
        return cls(len(examples), sum(x.urgency == "critical" for x in examples),
                   figures(examples, answers, min_support, resamples), groups, calibration)  # fmt: skip

    def grids(self, name: str) -> list[Grid]:
        """Return its tables: measures, groups, calibration."""
        title = f"{name}: {self.requests:,} requests, {self.critical:,} critical"
        everybody = {m: self.measures[m] for m in GROUP_MEASURES if m in self.measures}
        rows = [["everybody", f"{self.requests:,}", *map(cell, everybody.values())]]
        for group, (n, part) in self.groups.items():
            told = [
                cell(part.get(m)) + (" ▼" if m in part and worse(m, part[m], all_) else "")
                for m, all_ in everybody.items()
            ]
            rows.append([group, f"{n:,}" + (" *" if n < FEW else ""), *told])
        notes = [f"* fewer than {FEW} requests: says little.  ▼ worse than everybody by more than chance (95 %)."]
        heads = [[head, f"{r.error:.3f}", f"{r.chance:.3f}", f"{sum(n for *_, n in r.points):,}"]
                 for head, r in self.calibration.items()]  # fmt: skip
        return [
            compared(title, {"value": self.measures}),
            Grid(f"{name}: groups", ("group", "requests", *everybody), rows, notes),
            Grid(f"{name}: calibration of the scores", ("head", "error ↓", "chance", "answers"), heads,
                 [f"error: expected calibration error, {BINS} bins of equal mass; "
                  "chance: what exactly right scores stay below 19 times in 20."]),
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "requests": self.requests,
            "critical": self.critical,
            "measures": {m: list(f) for m, f in self.measures.items()},
            "groups": {g: {"requests": n, **{m: list(f) for m, f in part.items()}} for g, (n, part) in self.groups.items()},
            "calibration": {h: {"error": r.error, "chance": r.chance, "points": [list(p) for p in r.points]}
                            for h, r in self.calibration.items()},
        }  # fmt: skip


def worse(name: str, part: Figure, everybody: Figure) -> bool:
    """Whether the whole interval of a group lies on the worse side of everybody's figure."""
    return part[2] < everybody[0] if MEASURES[name] == "up" else part[1] > everybody[0]
