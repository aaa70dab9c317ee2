"""How good is a model folder? Tables for any labelled file: the mixture beside each witness alone and the baselines.

    python -m training.evaluate                                  # shipped model, test split
    python -m training.evaluate --also FILE.jsonl --json out.json

Rows of the table: rules with the model (what ships), the model alone, the rules alone, jieba TF-IDF with a linear model
trained on the training split, and the floor: urgency and department guessed from the category alone.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from training.corpus import DATA, Example, load
from triage.decide import QUESTIONS, Policy, Weights
from triage.engine import Triager
from triage.models.base import Backend
from triage.models.folder import SHIPPED
from triage.models.stub import StubBackend
from triage.profile import load_profile
from triage.records import Decision, Scores, severity
from triage.rules.book import RuleBook
from triage.text import CleanText


@dataclass(frozen=True, slots=True)
class Answer:
    """What is compared with an `Example`: the labels of one decision."""

    category: str
    urgency: str
    department: str
    co_departments: frozenset[str]
    flags: frozenset[str]
    districts: tuple[str, ...] = ()
    needs_review: bool = False

    @classmethod
    def of(cls, d: Decision) -> Answer:
        """Take the labels out of a decision."""
        return cls(d.category.code, d.urgency.code, d.department.code, frozenset(x.code for x in d.co_departments),
                   frozenset(f.code for f in d.flags), d.districts, d.needs_review)  # fmt: skip


# Each measure is a share in [0, 1] (kappa: up to 1); `better` tells which way.
MEASURES = {
    "category macro-F1": "up", "urgency accuracy": "up", "urgency weighted kappa": "up", "critical recall": "up",
    "critical precision": "up", "under-triage": "down", "over-triage": "down", "department accuracy": "up",
    "co-departments micro-F1": "up", "flags micro-F1": "up", "district accuracy": "up", "review share": "down",
}  # fmt: skip


OF_DECISIONS = {"district accuracy", "review share"}  # the model has no say in them


def _micro_f1(wanted: Sequence[frozenset[str]], given: Sequence[frozenset[str]]) -> float:
    hits = sum(len(a & b) for a, b in zip(wanted, given, strict=True))
    return 2 * hits / max(1, sum(map(len, wanted)) + sum(map(len, given)))


def measure(examples: Sequence[Example], answers: Sequence[Answer], min_support: int = 1) -> dict[str, float]:
    """Return every measure of MEASURES. Macro-F1 runs over the categories with at least `min_support` examples."""
    support = Counter(x.category for x in examples)
    categories = [c for c, n in support.items() if n >= min_support]
    want = np.array([severity(x.urgency) for x in examples])
    got = np.array([severity(a.urgency) for a in answers])
    grave = want >= severity("urgent")
    critical, said = want == 3, got == 3
    return {
        "category macro-F1": f1_score([x.category for x in examples], [a.category for a in answers], labels=categories,
                                      average="macro", zero_division=0),
        "urgency accuracy": float((want == got).mean()),
        "urgency weighted kappa": float(cohen_kappa_score(want, got, weights="quadratic")),
        "critical recall": float(said[critical].mean()) if critical.any() else float("nan"),
        "critical precision": float(critical[said].mean()) if said.any() else float("nan"),
        "under-triage": float((got[grave] < 2).mean()) if grave.any() else float("nan"),
        "over-triage": float((got[~grave] >= 2).mean()) if (~grave).any() else float("nan"),
        "department accuracy": accuracy_score([x.department for x in examples], [a.department for a in answers]),
        "co-departments micro-F1": _micro_f1([frozenset(x.co_departments) for x in examples],
                                             [a.co_departments for a in answers]),
        "flags micro-F1": _micro_f1([frozenset(x.flags) for x in examples], [a.flags for a in answers]),
        "district accuracy": float(np.mean([set(x.districts) == set(a.districts) for x, a in zip(examples, answers, strict=True)])),
        "review share": float(np.mean([a.needs_review for a in answers])),
    }  # fmt: skip


class _Remembered:
    """A backend that scores each text once, however many systems are compared."""

    def __init__(self, backend: Backend) -> None:
        self.model_id, self.labels, self._backend = backend.model_id, backend.labels, backend
        self._known: dict[str, Scores] = {}

    def score(self, texts: Sequence[str]) -> list[Scores]:
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        self._known |= zip(new, self._backend.score(new), strict=True)
        return [self._known[t] for t in texts]


class _Silent(RuleBook):
    """A rule book that finds nothing, to see the model alone."""

    def __init__(self, book: RuleBook) -> None:
        self.rules, self.fingerprint = (), "silent"

    def apply(self, clean_text: CleanText) -> list[Any]:
        return []


def model_alone(triager: Triager) -> Triager:
    """The same triager without rules; the model's own calibrated probabilities decide."""
    policy = Policy(weights={q: Weights(0.0, 1.0, 0.0, 0.0) for q in QUESTIONS})
    return Triager(triager.backend, _Silent(triager.rules), triager.profile, policy)


def rules_alone(triager: Triager) -> Triager:
    """The same triager without a model: rules vote, silence means the routing of the category and `routine`."""
    weights = dict.fromkeys(QUESTIONS, Weights(-2.0, 0.0, 4.0, 0.0))
    return Triager(StubBackend(triager.profile), triager.rules, triager.profile, Policy(weights=weights))


def routed(answers: Sequence[Answer], findings: Sequence[bool], routing: dict[str, str]) -> list[Answer]:
    """Give answers without a rule for the department the category's usual one."""
    return [
        a if spoken else replace(a, department=routing[a.category]) for a, spoken in zip(answers, findings, strict=True)
    ]


class Baselines:
    """What anybody could build in an afternoon, fitted once: jieba TF-IDF (words and pairs of words) with a linear model a
    head; and the floor that any model must beat: the true category known, its most frequent urgency and department guessed."""

    def __init__(self, train: Sequence[Example]) -> None:
        import jieba
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.preprocessing import MultiLabelBinarizer

        jieba.setLogLevel(60)
        self._vectorizer = TfidfVectorizer(
            tokenizer=jieba.lcut, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True
        )
        x = self._vectorizer.fit_transform([e.text for e in train])
        self._single = {
            head: LogisticRegression(C=30, max_iter=2000).fit(x, [getattr(e, head) for e in train])
            for head in ("category", "urgency", "department")
        }
        self._several = {}
        for head in ("co_departments", "flags"):
            binarizer = MultiLabelBinarizer()
            model = OneVsRestClassifier(LogisticRegression(C=30, max_iter=2000, class_weight="balanced"))
            self._several[head] = binarizer, model.fit(x, binarizer.fit_transform([getattr(e, head) for e in train]))
        self._usual: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for e in train:
            for head in ("urgency", "department"):
                self._usual[e.category, head][getattr(e, head)] += 1

    def linear(self, examples: Sequence[Example]) -> list[Answer]:
        """Return what TF-IDF and the linear models say."""
        x = self._vectorizer.transform([e.text for e in examples])
        single = [model.predict(x) for model in self._single.values()]
        several = [map(frozenset, binarizer.inverse_transform(model.predict(x)))
                   for binarizer, model in self._several.values()]  # fmt: skip
        return [Answer(str(c), str(u), str(d), co, f) for c, u, d, co, f in zip(*single, *several, strict=True)]

    def floor(self, examples: Sequence[Example]) -> list[Answer]:
        """Return what the true category alone tells."""

        def top(category: str, head: str) -> str:
            return self._usual[category, head].most_common(1)[0][0]

        return [Answer(x.category, top(x.category, "urgency"), top(x.category, "department"), frozenset(), frozenset())
                for x in examples]  # fmt: skip


def answers(triager: Triager, examples: Sequence[Example]) -> list[Answer]:
    """Decide on every example."""
    decisions = triager.predict_many([x.text for x in examples])
    out = [Answer.of(d) for d in decisions]
    if isinstance(triager.backend, StubBackend):
        spoken = [any(f.holds and f.department for f in d.findings) for d in decisions]
        out = routed(out, spoken, triager.profile.routing)
    return out


def evaluate(
    triager: Triager, examples: Sequence[Example], baselines: Baselines | None = None, min_support: int = 1
) -> dict[str, dict[str, float]]:
    """Return {row of the table: measures}."""
    triager = Triager(_Remembered(triager.backend), triager.rules, triager.profile, triager.policy)
    rows = {
        "rules and model": answers(triager, examples),
        "model alone": answers(model_alone(triager), examples),
        "rules alone": answers(rules_alone(triager), examples),
    }
    if baselines is not None:
        rows["TF-IDF + linear"] = baselines.linear(examples)
        rows["from category"] = baselines.floor(examples)
    return {name: measure(examples, a, min_support) for name, a in rows.items()}


def as_table(title: str, result: dict[str, dict[str, float]]) -> Table:
    """Lay out one evaluation, one column a system."""
    table = Table("measure", *result, title=title)
    for name, better in MEASURES.items():
        table.add_row(f"{name} {'↑' if better == 'up' else '↓'}", *(f"{result[row][name]:.3f}" for row in result))
    return table


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=SHIPPED, show_default="the shipped model")
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), default=DATA / "test.jsonl", show_default="the test split"
)
@click.option("--also", type=click.Path(path_type=Path, exists=True), multiple=True, help="another labelled file")
@click.option("--without", type=click.Path(path_type=Path, exists=True), help="a JSON list of ids to leave out")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here as well")
def main(model: Path, data: Path, also: tuple[Path, ...], without: Path | None, json_path: Path | None) -> None:
    """Print the evaluation tables of a model folder."""
    left_out = set(json.loads(without.read_text("utf-8"))) if without else set()
    triager, baselines, console = Triager.load(model), Baselines(load(DATA / "train.jsonl")), Console()
    console.print(f"model {triager.fingerprints['model']}, rules {triager.fingerprints['rules']}")
    results = {}
    for path in (data, *also):
        examples = [x for x in load(path, load_profile()) if x.id not in left_out]
        results[path.stem] = evaluate(triager, examples, baselines, min_support=1 if path == data else 10)
        console.print(as_table(f"{path.name}: {len(examples)} requests, "
                               f"{sum(x.urgency == 'critical' for x in examples)} critical", results[path.stem]))  # fmt: skip
    if json_path:
        json_path.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
