"""How good is a model folder? What ships beside its parts, the baselines and its teacher, on any file of the corpus's form.

    python -m training.evaluate                                  # shipped model, test split
    python -m training.evaluate --also FILE.jsonl --teacher runs/teacher --encoder runs/encoder --plots FOLDER --json F

`triage evaluate` measures one system on one file; the measures themselves are in `triage.evaluation`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from training.corpus import DATA, Example, load
from triage.decide import QUESTIONS, Policy, Weights
from triage.engine import Triager
from triage.evaluation import (
    OF_DECISIONS,
    RESAMPLES,
    Answer,
    Figure,
    Grid,
    Remembered,
    Report,
    answers,
    compared,
    figures,
)
from triage.models.folder import SHIPPED
from triage.models.stub import StubBackend
from triage.privacy import redact
from triage.records import Finding, severity
from triage.rules.book import RuleBook
from triage.text import CleanText, clean

SHOWN = 80  # characters of an error example
WIDTH = None if sys.stdout.isatty() else 240  # ten systems side by side in a file
ONLY_MODEL = {q: Weights(0.0, 1.0, 0.0, 0.0) for q in QUESTIONS}
ONLY_RULES = dict.fromkeys(QUESTIONS, Weights(-2.0, 0.0, 4.0, 0.0))


class _Heard(RuleBook):
    """A rule book of which only a part is heard."""

    def __init__(self, book: RuleBook, part: Callable[[list[Finding]], list[Finding]]) -> None:
        self.rules, self.fingerprint, self._book, self._part = book.rules, book.fingerprint, book, part

    def apply(self, clean_text: CleanText) -> list[Finding]:
        return self._part(self._book.apply(clean_text))


def _floors(findings: list[Finding]) -> list[Finding]:
    """Keep of the findings only that a red flag raises the urgency."""
    return [
        Finding(f.rule, f.start, f.end, f.text, f.status, urgency=f.urgency, red_flag=True) for f in findings if f.red_flag
    ]  # fmt: skip


def parts(triager: Triager) -> dict[str, Triager]:
    """Return the systems that a triager is made of, itself first; each without what its name does not say."""
    whole = copy(triager)
    whole.cascade = None
    book, veto, stub = triager.rules, triager.policy.floor_veto, StubBackend(triager.profile)

    def changed(rules: RuleBook, policy: Policy) -> Triager:
        out = copy(whole)
        out.rules, out.policy = rules, policy
        return out

    rules_alone = changed(book, Policy(weights=ONLY_RULES))
    rules_alone.backend = stub
    return {
        "shipped": triager,
        **({"no cascade": whole} if triager.cascade else {}),
        "model alone": changed(_Heard(book, lambda findings: []), Policy(weights=ONLY_MODEL)),
        "rules alone": rules_alone,
        "model and floors": changed(_Heard(book, _floors), Policy(weights=ONLY_MODEL, floor_veto=veto)),
    }


def taught(triager: Triager, teacher: Path, judged: Sequence[Example]) -> Triager:
    """Return the triager with a checkpoint in place of the model, calibrated on `judged` as `training.export` does."""
    from training.calibrate import fit_policy, temperatures  # they need this module's measures while training
    from triage.models.bert import TorchBackend

    backend = TorchBackend(teacher)
    backend.labels = temperatures(backend.logits([clean(x.text).text for x in judged]), judged, backend.labels)
    return Triager(backend, triager.rules, triager.profile, fit_policy(backend, triager.rules, judged), workers=1)


class Linear:
    """One linear model a head over given features (texts to a matrix (n, width)), fitted once on labelled requests."""

    def __init__(
        self, features: Callable[[Sequence[str]], Any], model: Callable[[bool], Any], train: Sequence[Example]
    ) -> None:
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.preprocessing import MultiLabelBinarizer

        self._features = features
        x = features([e.text for e in train])
        self._single = [
            model(False).fit(x, [getattr(e, h) for e in train]) for h in ("category", "urgency", "department")
        ]
        self._several = []
        for head in ("co_departments", "flags"):
            binarizer = MultiLabelBinarizer()
            truth = binarizer.fit_transform([getattr(e, head) for e in train])
            self._several.append((binarizer, OneVsRestClassifier(model(True)).fit(x, truth)))

    def answers(self, examples: Sequence[Example]) -> list[Answer]:
        """Return what the linear models say."""
        x = self._features([e.text for e in examples])
        single = [model.predict(x) for model in self._single]
        several = [map(frozenset, binarizer.inverse_transform(model.predict(x))) for binarizer, model in self._several]
        return [Answer(str(c), str(u), str(d), co, f) for c, u, d, co, f in zip(*single, *several, strict=True)]


def embedder(encoder: Path) -> Callable[[Sequence[str]], Any]:
    """Return what turns texts into the frozen encoder's sentence vectors (n, hidden), as e5 wants them (Wang et al. 2024)."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    net = AutoModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    def embed(texts: Sequence[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = np.zeros((len(texts), net.config.hidden_size), np.float32)
        with torch.inference_mode():
            for rows in (order[at : at + 32] for at in range(0, len(order), 32)):
                inputs = tokenizer([f"query: {clean(texts[i]).text}" for i in rows], padding=True, truncation=True,
                                   max_length=192, return_tensors="pt")  # fmt: skip
                mask = inputs["attention_mask"][..., None]
                out[rows] = ((net(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)).numpy()
        return out

    return embed


class Baselines:
    """What anybody could build in an afternoon, fitted once on the training split; and the floor that any model must beat."""

    def __init__(self, train: Sequence[Example], encoder: Path | None = None) -> None:
        import jieba
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
        from sklearn.linear_model import LogisticRegression, SGDClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC

        jieba.setLogLevel(60)

        def weight(rare: bool) -> str | None:  # a flag holds in one request of fifty
            return "balanced" if rare else None

        words = TfidfVectorizer(tokenizer=jieba.lcut, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True)
        runs = HashingVectorizer(analyzer="char", ngram_range=(1, 4), n_features=1 << 18)
        words.fit([e.text for e in train])
        self._linear = {
            "TF-IDF + SVM": Linear(words.transform, lambda rare: LinearSVC(class_weight=weight(rare)), train),
            "character n-grams": Linear(
                runs.transform,
                lambda rare: SGDClassifier(loss="log_loss", alpha=1e-6, class_weight=weight(rare), random_state=0),
                train,
            ),
        }
        if encoder:
            # e5's vectors are nearly parallel: unscaled, a linear model hardly learns from them.
            self._linear["frozen e5 + logistic"] = Linear(
                embedder(encoder),
                lambda rare: make_pipeline(
                    StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight=weight(rare))
                ),
                train,
            )
        self._usual: dict[tuple[str | None, str], Counter[str]] = defaultdict(Counter)  # category None: of all
        for e in train:
            for head in ("urgency", "department"):
                for category in (e.category, None):
                    self._usual[category, head][getattr(e, head)] += 1

    def answers(self, examples: Sequence[Example]) -> dict[str, list[Answer]]:
        """Return what each baseline says; "from category": what is usual for the true category."""

        def usual(category: str | None, head: str) -> str:
            return (self._usual.get((category, head)) or self._usual[None, head]).most_common(1)[0][0]

        known = [Answer(x.category or "", usual(x.category, "urgency"), usual(x.category, "department"), frozenset(), frozenset())
                 for x in examples]  # fmt: skip
        return {name: linear.answers(examples) for name, linear in self._linear.items()} | {"from category": known}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All systems on one file, the full report of the one that ships, and its worst errors (ids and labels)."""

    name: str
    report: Report
    systems: Mapping[str, Mapping[str, Figure]]
    errors: Sequence[Mapping[str, str]] = ()

    def grids(self) -> list[Grid]:
        """Return its tables: all systems, then groups and calibration of the one that ships."""
        return [compared(self.title, self.systems), *self.report.grids(self.name)[1:]]

    @property
    def title(self) -> str:
        """Name and size of the file."""
        return f"{self.name}: {self.report.requests:,} requests, {self.report.critical:,} critical"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        systems = {s: {m: list(f) for m, f in measures.items()} for s, measures in self.systems.items()}
        return {"systems": systems, **self.report.to_dict()}


def evaluate(
    triager: Triager, examples: Sequence[Example], baselines: Baselines | None = None, teacher: Triager | None = None,
    *, name: str = "", min_support: int = 1, show_errors: int = 0, resamples: int = RESAMPLES,
) -> Evaluation:  # fmt: skip
    """Measure a triager beside its parts, the baselines and a teacher.

    min_support: see `triage.evaluation.measure`. show_errors: how many of the worst errors to keep with their redacted texts;
    0 for every file whose texts must not be shown.
    """
    whole = copy(triager)
    whole.backend = Remembered(triager.backend)  # the parts ask the same model the same
    texts = [x.text for x in examples]
    given = {system: answers(one, texts) for system, one in parts(whole).items()}
    given["rules alone"] = _routed(whole, texts, given["rules alone"])
    if teacher is not None:
        given["teacher"] = answers(teacher, texts)
    systems = {system: figures(examples, a, min_support, resamples) for system, a in given.items()}
    for system, simple in (baselines.answers(examples) if baselines else {}).items():
        got = figures(examples, simple, min_support, resamples)
        systems[system] = {m: f for m, f in got.items() if m not in OF_DECISIONS}  # they find no places, ask no person
    return Evaluation(name, Report.of(examples, given["shipped"], min_support, resamples), systems,
                      worst_errors(examples, given["shipped"], show_errors))  # fmt: skip


def _routed(triager: Triager, texts: Sequence[str], given: Sequence[Answer]) -> list[Answer]:
    """Give answers of which no rule names the department the usual one of their category."""
    named = (any(f.holds and f.department for f in triager.rules.apply(clean(t))) for t in texts)
    return [
        a if spoken else replace(a, department=triager.profile.routing.get(a.category, a.department))
        for a, spoken in zip(given, named, strict=True)
    ]


def worst_errors(examples: Sequence[Example], given: Sequence[Answer], most: int) -> list[dict[str, str]]:
    """Return the errors that cost most, in this order: called too low, by many levels, unseen; then too high; then wrong
    categories, the surest first."""

    def cost(pair: tuple[Example, Answer]) -> tuple[float, ...]:
        x, a = pair
        levels = severity(x.urgency or a.urgency) - severity(a.urgency)
        return max(levels, 0), not a.needs_review, -min(levels, 0), x.category != a.category, a.score["category"]

    wrong = [(x, a) for x, a in zip(examples, given, strict=True)
             if x.urgency not in (None, a.urgency) or x.category not in (None, a.category)]  # fmt: skip
    return [
        {
            "id": x.id,
            "request": redact(x.text).replace("\n", " ")[:SHOWN],
            "true": f"{x.urgency}, {x.category}",
            "called": f"{a.urgency}, {a.category}" + (", to review" if a.needs_review else ""),
        }
        for x, a in sorted(wrong, key=cost, reverse=True)[:most]
    ]


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=SHIPPED, show_default="the shipped model")
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), default=DATA / "test.jsonl", show_default="the test split"
)
@click.option("--also", type=click.Path(path_type=Path, exists=True), multiple=True, help="another labelled file")
@click.option("--without", type=click.Path(path_type=Path, exists=True), help="a JSON list of ids to leave out")
@click.option(
    "--teacher", type=click.Path(path_type=Path, exists=True), help="its checkpoint folder, for one more column"
)
@click.option(
    "--encoder", type=click.Path(path_type=Path), help="frozen encoder for one more baseline, e.g. runs/encoder"
)
@click.option("--plots", type=click.Path(path_type=Path), help="write reliability diagrams into this folder")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here as well")
def main(
    model: Path, data: Path, also: tuple[Path, ...], without: Path | None, teacher: Path | None, encoder: Path | None,
    plots: Path | None, json_path: Path | None,
) -> None:  # fmt: skip
    """Print the evaluation tables of a model folder."""
    left_out = set(json.loads(without.read_text("utf-8"))) if without else set()
    triager, console = Triager.load(model), Console(width=WIDTH)
    if encoder and not encoder.is_dir():
        console.print(
            f"{encoder}: no such folder; the frozen encoder is left out (python -m training.base_model makes it)"
        )
        encoder = None
    baselines = Baselines(load(DATA / "train.jsonl"), encoder)
    master = taught(triager, teacher, load(DATA / "validation.jsonl")) if teacher else None
    console.print(f"model {triager.fingerprints['model']}, rules {triager.fingerprints['rules']}")
    results = {}
    for path in (data, *also):
        examples = [x for x in load(path, triager.profile) if x.id not in left_out]
        got = evaluate(triager, examples, baselines, master, name=path.name, min_support=1 if path == data else 10)
        for grid in got.grids():
            console.print(grid.rich())
        results[path.stem] = got.to_dict()
        if plots:
            from training import plots as draw

            plots.mkdir(parents=True, exist_ok=True)
            draw.reliability(got.report.calibration).savefig(plots / f"reliability_{path.stem}.png", dpi=120)
    if json_path:
        json_path.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
