"""How good are the labels? Agreement of two annotators who did not see each other, and labels that look wrong.

`training/data/second.jsonl` keeps what the second annotator said, one object a line: `id`, `first` and `second`, each with
the five labels of the guide. `first` is the corpus' label at that time; what was settled since stands in the corpus.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from training.corpus import DATA, Example
from triage.profile import Profile
from triage.records import severity
from triage.text import clean

SINGLE, SEVERAL = ("category", "urgency", "department"), ("co_departments", "flags")


@dataclass(frozen=True, slots=True)
class Twice:
    """One request labelled by two: `first` and `second` hold category, urgency, department, co_departments, flags."""

    id: str
    first: dict[str, Any]
    second: dict[str, Any]


def load_second(path: Path = DATA / "second.jsonl") -> list[Twice]:
    """Read the second labelling. Raises OSError when there is none."""
    return [Twice(**json.loads(line)) for line in path.read_text("utf-8").splitlines() if line.strip()]


def agreement(rows: Sequence[Twice], profile: Profile) -> dict[str, float]:
    """Return Cohen's kappa per head (urgency: quadratic weights; flags: over all flag decisions) and per label.

    Names are `head` and `head=label`; a label that neither annotator used is left out, one that both always used is nan.
    """
    from sklearn.metrics import cohen_kappa_score

    out = {}
    for head in SINGLE:
        a, b = [r.first[head] for r in rows], [r.second[head] for r in rows]
        if head == "urgency":
            out[head] = float(
                cohen_kappa_score([severity(x) for x in a], [severity(x) for x in b], weights="quadratic")
            )
        else:
            out[head] = float(cohen_kappa_score(a, b))
        for code in profile.labels[head]:
            out |= _binary(f"{head}={code}", [x == code for x in a], [x == code for x in b])
    for head in SEVERAL:
        codes = profile.labels["flag" if head == "flags" else "department"]
        table = {c: ([c in r.first[head] for r in rows], [c in r.second[head] for r in rows]) for c in codes}
        out |= _binary(head, [x for a, _ in table.values() for x in a], [x for _, b in table.values() for x in b])
        for code, (first, second) in table.items():
            out |= _binary(f"{head}={code}", first, second)
    return out


def _binary(name: str, first: list[bool], second: list[bool]) -> dict[str, float]:
    from sklearn.metrics import cohen_kappa_score

    if not any(first) and not any(second):
        return {}
    return {name: float("nan") if all(first) and all(second) else float(cohen_kappa_score(first, second))}


def agreement_table(rows: Sequence[Twice], splits: dict[str, list[Example]], profile: Profile) -> Table:
    """Lay out the agreement, one column a split, with the share of the split that was labelled twice."""
    split_of = {x.id: name for name, examples in splits.items() for x in examples}
    parts = {name: [r for r in rows if split_of.get(r.id) == name] for name in splits}
    figures = {name: agreement(part, profile) for name, part in parts.items() if part}
    table = Table("Cohen's kappa", *figures, title="two blind labellings, before disagreements were settled")
    table.add_row(
        "requests labelled twice", *(f"{len(parts[s])} ({len(parts[s]) / len(splits[s]):.0%})" for s in figures)
    )
    for name in dict.fromkeys(name for f in figures.values() for name in f):
        table.add_row(name, *(f"{f[name]:.3f}" if name in f else "-" for f in figures.values()),
                      end_section=name in {"category", "urgency", "department", *SEVERAL})  # fmt: skip
    return table


def suspects(examples: Sequence[Example], head: str, folds: int = 5) -> list[tuple[Example, str, float]]:
    """Return (example, label predicted for it, quality of its own label in [0, 1]), worst first.

    Confident learning (Northcutt et al. 2021) on out-of-fold predictions of a character n-gram linear model: quick enough
    for a laptop, and it has read no example that it judges. The two rows of a contrast pair share a fold.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    codes = sorted({getattr(x, head) for x in examples})
    labels = np.array([codes.index(getattr(x, head)) for x in examples])
    model = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, min_df=2),
        SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0),
    )
    predicted = cross_val_predict(model, [clean(x.text).text for x in examples], labels, method="predict_proba",
                                  cv=GroupKFold(folds), groups=[x.pair or x.id for x in examples])  # fmt: skip
    chosen = find_label_issues(labels, predicted, filter_by="both", return_indices_ranked_by="self_confidence")
    quality = get_label_quality_scores(labels, predicted)
    return [(examples[i], codes[int(predicted[i].argmax())], float(quality[i])) for i in chosen]
