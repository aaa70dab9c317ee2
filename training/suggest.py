"""Which requests should people label next?

    python -m training.suggest BACKLOG -n 200 --out to_label.jsonl    # BACKLOG: any file that `triage predict` reads
    python -m training.formats to-label-studio to_label.jsonl tasks.json
    python -m training.suggest --simulate --plot suggest.png          # what it saves, tried on the corpus

A request is worth a label when the model is unsure of it, most of all of its urgency ("margin sampling", Settles 2009), and a tenth
of the labels goes to requests in which the model finds unlikely what the rules say. Of requests that resemble each other not all
are taken ("maximal marginal relevance", Carbonell & Goldstein 1998). Only ids and figures are shown; texts go to --out, redacted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from training.corpus import DATA, Example, load
from triage.engine import SLICE, Triager, usable_cores
from triage.errors import InputError
from triage.models.folder import SHIPPED
from triage.privacy import redact
from triage.records import URGENCY_LEVELS, Finding, HelpRequest, Scores, severity
from triage.rules.book import RuleBook, load_rules
from triage.sources import read_requests, split_bad
from triage.text import clean

Floats = npt.NDArray[np.float64]

WEIGHTS = {"urgency": 3.0, "category": 1.0, "department": 1.0, "flags": 1.0}  # of each head's uncertainty
DISPUTED = 0.1  # share that goes to what rules and model see differently; far more costs kappa in the simulation
ALIKE = 0.2  # what a request loses when one just like it is taken already
DIMENSIONS = 64


def doubt(chances: Iterable[float]) -> float:
    """Return how near the two likeliest of at least two labels are: 0 certain, 1 alike."""
    second, first = sorted(chances)[-2:]
    return 1 - (first - second)


def uncertainty(scores: Scores) -> float:
    """Return how unsure a model is of a request, in [0, 1]: the doubt in each head, of the flags the least decided one."""
    heads = {h: doubt(getattr(scores, h).values()) for h in ("urgency", "category", "department") if getattr(scores, h)}
    if scores.flags:
        heads["flags"] = max(doubt([p, 1 - p]) for p in scores.flags.values())
    return sum(WEIGHTS[h] * d for h, d in heads.items()) / sum(WEIGHTS[h] for h in heads)


def disagreement(findings: Sequence[Finding], scores: Scores) -> float:
    """Return how unlikely the model finds what the rules say, in [0, 1]: the worst contradiction counts.

    A finding that holds is contradicted by a low probability of its labels; a red flag that does not hold, by a high one.
    """
    against = [0.0]
    for f in findings:
        if f.urgency and (f.holds or f.red_flag):
            at_least = sum(scores.urgency[level] for level in URGENCY_LEVELS[severity(f.urgency) :])
            against.append(1 - at_least if f.holds else at_least)
        if f.holds:
            says = ((scores.category, f.category), (scores.department, f.department), (scores.flags, f.flag))
            against += [1 - chances[code] for chances, code in says if code and code in chances]
    return max(against)


def embed(texts: Sequence[str]) -> Floats:
    """Return a vector of length 1 for each text (n, ≤ DIMENSIONS): latent semantic analysis of character runs (Deerwester 1990)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    from triage.sklearn import ngrams

    wide = ngrams().fit_transform(texts)
    narrow = make_pipeline(TruncatedSVD(min(DIMENSIONS, max(1, len(texts) - 1)), random_state=0), Normalizer())
    out: Floats = narrow.fit_transform(wide)
    return out


def spread(vectors: Floats, value: Floats, wanted: int) -> list[int]:
    """Return the rows (at most `wanted`) of most value, less what is like a row before them; vectors (n, width), value (n,)."""
    left, nearest = value.astype(np.float64), np.zeros(len(value))
    chosen: list[int] = []
    while len(chosen) < min(wanted, len(value)):
        best = int(np.argmax(left - ALIKE * nearest))
        chosen.append(best)
        left[best] = -np.inf
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return chosen


def choose(vectors: Floats, unsure: Floats, disputed: Floats, wanted: int) -> list[int]:
    """Return the rows to label: a few that are disputed, then the most unsure of the others; three arrays of n rows."""
    first = spread(vectors, disputed, round(DISPUTED * wanted))
    rest = np.setdiff1d(np.arange(len(unsure)), first)
    return first + [int(rest[i]) for i in spread(vectors[rest], unsure[rest], wanted - len(first))]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A request to label, and why."""

    request: HelpRequest
    uncertainty: float
    disagreement: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is private in the text is covered."""
        return {"id": self.request.id, "text": redact(self.request.text), "uncertainty": round(self.uncertainty, 4),
                "disagreement": round(self.disagreement, 4)}  # fmt: skip


def suggest(triager: Triager, requests: Sequence[HelpRequest], wanted: int) -> list[Suggestion]:
    """Return the requests to label next, at most `wanted`: the disputed, then the unsure; of equal texts one."""
    once = list({clean(r.text).text: r for r in reversed(requests)}.values())[::-1]

    def judge(part: Sequence[HelpRequest]) -> list[Suggestion]:
        cleaned = [clean(r.text) for r in part]
        scores = triager.backend.score([c.text for c in cleaned])
        return [
            Suggestion(r, uncertainty(s), disagreement(triager.rules.apply(c), s))
            for r, c, s in zip(part, cleaned, scores, strict=True)
        ]

    slices = [once[at : at + SLICE] for at in range(0, len(once), SLICE)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        done = track(pool.map(judge, slices), "reading", len(slices), console=Console(stderr=True))
        judged = [one for part in done for one in part]
    unsure, disputed = (np.array([getattr(s, what) for s in judged]) for what in ("uncertainty", "disagreement"))
    return [judged[i] for i in choose(embed([s.request.text for s in judged]), unsure, disputed, wanted)]


# ---- what it saves: a simulation


class Pupil:
    """Learns urgency as the BERT does, from three questions ("at least so urgent?"), but linearly, and in a second."""

    def __init__(self, features: Any, levels: npt.NDArray[np.int64]) -> None:
        """Fit on features (n, width) and levels (n,), 0 to 3."""
        from sklearn.linear_model import LogisticRegression

        linear = [LogisticRegression(C=20, solver="liblinear", tol=1e-2) for _ in URGENCY_LEVELS[1:]]
        self._questions = [one.fit(features, levels > level) for level, one in enumerate(linear)]

    def at_least(self, features: Any) -> Floats:
        """Return the probability (n, 3) of being at least priority, urgent, critical."""
        each = [q.predict_proba(features)[:, -1] for q in self._questions]
        out: Floats = np.minimum.accumulate(np.stack(each, 1), 1)
        return out

    def scores(self, features: Any) -> Iterator[Scores]:
        """Yield the scores of each row, urgency alone."""
        for row in self.at_least(features).tolist():
            levels = [a - b for a, b in pairwise([1.0, *row, 0.0])]
            yield Scores({}, dict(zip(URGENCY_LEVELS, levels, strict=True)), {}, {}, {})


Pick = Callable[[Pupil, npt.NDArray[np.int64], int], npt.NDArray[np.int64]]
Curve = list[tuple[int, float]]  # (labels, weighted kappa), ascending


class Simulation:
    """The pool is labelled batch by batch, by chance or as suggested; a pupil learns from it and is judged on other requests.

    The pupil stands for the BERT, which would take hours: what is compared is the choice, not the model.
    """

    def __init__(self, pool: Sequence[Example], judged: Sequence[Example], book: RuleBook) -> None:
        from triage.sklearn import ngrams

        texts, wide = [x.text for x in pool], ngrams()
        self._pool, self._judged = wide.fit_transform(texts), wide.transform([x.text for x in judged])
        self._levels, self._truth = (np.array([severity(str(x.urgency)) for x in rows]) for rows in (pool, judged))
        self._vectors = embed(texts)
        self._findings = [book.apply(clean(t)) for t in track(texts, "rules", console=Console(stderr=True))]

    def _by_chance(self, draw: np.random.Generator) -> Pick:
        return lambda pupil, open_, n: draw.choice(open_, n, replace=False)

    def _suggested(self, pupil: Pupil, open_: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
        scores = [*pupil.scores(self._pool[open_])]
        unsure = np.array([uncertainty(s) for s in scores])
        disputed = np.array([disagreement(self._findings[i], s) for i, s in zip(open_, scores, strict=True)])
        return open_[choose(self._vectors[open_], unsure, disputed, n)]

    def _run(self, pick: Pick, first: npt.NDArray[np.int64], batch: int, most: int, enough: float = math.inf) -> Curve:
        from sklearn.metrics import cohen_kappa_score

        labelled, curve = first, []
        while True:
            pupil = Pupil(self._pool[labelled], self._levels[labelled])
            given = (pupil.at_least(self._judged) >= 0.5).sum(1)
            kappa = float(cohen_kappa_score(self._truth, given, weights="quadratic", labels=range(4)))
            curve.append((len(labelled), kappa))
            open_ = np.setdiff1d(np.arange(len(self._levels)), labelled)
            if len(labelled) >= most or not len(open_) or kappa >= enough:
                return curve
            labelled = np.r_[labelled, pick(pupil, open_, min(batch, len(open_)))]

    def run(self, seed: int, batch: int, most: int) -> dict[str, Curve]:
        """Return the curve of each way to choose; both begin with the same batch. "suggested" ends where it reaches chance's best."""
        draw = np.random.default_rng(seed)
        first = draw.permutation(len(self._levels))[:batch]
        chance = self._run(self._by_chance(draw), first, batch, most)
        return {
            "chance": chance,
            "suggested": self._run(self._suggested, first, batch, most, max(k for _, k in chance)),
        }


def needed(curve: Curve, kappa: float) -> float:
    """Return after how many labels a curve first reaches a kappa, between two points linearly; NaN when it never does."""
    before = (0, 0.0)
    for labels, reached in curve:
        if reached >= kappa:
            return before[0] + (labels - before[0]) * (kappa - before[1]) / max(reached - before[1], 1e-9)
        before = (labels, reached)
    return math.nan


def saving(runs: Sequence[Mapping[str, Curve]]) -> list[tuple[int, float, list[float]]]:
    """Return, for quarters of chance's labels: how many, the mean kappa they give, and each run's share of labels for the same
    kappa when they are suggested."""
    most = runs[0]["chance"][-1][0]
    steps = [n for n, _ in runs[0]["chance"] if any(abs(n - most * q / 4) < most / 50 for q in (1, 2, 3, 4))]
    out = []
    for n in steps:
        reached = [max(k for labels, k in run["chance"] if labels <= n) for run in runs]
        shares = [needed(run["suggested"], k) / needed(run["chance"], k) for run, k in zip(runs, reached, strict=True)]
        out.append((n, float(np.mean(reached)), shares))
    return out


def plot(runs: Sequence[Mapping[str, Curve]], path: Path) -> None:
    """Draw kappa against labels: every run thin, the names once."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 4))
    for name, colour in (("chance", "tab:grey"), ("suggested", "tab:blue")):
        for i, run in enumerate(runs):
            panel.plot(*zip(*run[name], strict=True), color=colour, alpha=0.7, label=None if i else name)
    panel.set(xlabel="labels", ylabel="urgency, weighted kappa")
    panel.grid(alpha=0.3)
    panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.argument("backlog", required=False)
@click.option("-n", "wanted", default=200, show_default=True, help="how many to suggest")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSONL: id, redacted text, why")
@click.option("--model", type=click.Path(path_type=Path), default=SHIPPED, show_default="the shipped model")
@click.option("--rules", type=click.Path(path_type=Path, exists=True, file_okay=False), help="laid over the shipped")
@click.option("--profile", default="zhengzhou", show_default=True)
@click.option("--simulate", is_flag=True, help="label the training split anew, by chance and as suggested, and compare")
@click.option("--seeds", default=3, show_default=True)
@click.option("--batch", default=200, show_default=True, help="labels between two rounds of learning")
@click.option("--most", default=4000, show_default=True, help="labels at the end")
@click.option("--plot", "picture", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False))
def main(
    backlog: str | None, wanted: int, out: Path | None, model: Path, rules: Path | None, profile: str, simulate: bool,
    seeds: int, batch: int, most: int, picture: Path | None, json_path: Path | None,
) -> None:  # fmt: skip
    """Choose the requests of BACKLOG that are most worth a label; or --simulate what such a choice saves."""
    if simulate:
        simulation = Simulation(load(DATA / "train.jsonl"), load(DATA / "validation.jsonl"), load_rules())
        runs = [simulation.run(seed, batch, most) for seed in track(range(seeds), "runs", console=Console(stderr=True))]
        table = Table("labels by chance", "weighted kappa", "suggested: share of them for the same", "of each run",
                      title="urgency of the validation split, a linear model over character runs")  # fmt: skip
        for n, kappa, shares in saving(runs):
            table.add_row(f"{n:,}", f"{kappa:.3f}", f"{np.mean(shares):.0%}", ", ".join(f"{s:.0%}" for s in shares))
        Console().print(table)
        if picture:
            plot(runs, picture)
        if json_path:
            json_path.write_text(json.dumps(runs) + "\n", "utf-8")
        return
    if backlog is None:
        raise click.UsageError("give a BACKLOG, or --simulate")
    try:
        requests, bad = split_bad(list(read_requests(backlog)))
    except InputError as error:
        raise click.ClickException(str(error)) from None
    for row in bad:
        click.echo(f"left out: {row}", err=True)
    chosen = suggest(Triager.load(model, profile=profile, rules=rules), requests, wanted)
    if out:
        out.write_text("".join(json.dumps(s.to_dict(), ensure_ascii=False) + "\n" for s in chosen), "utf-8")
        click.echo(f"{out}: {len(chosen)} of {len(requests)} requests")
        return
    table = Table("id", "uncertainty", "disagreement", title=f"{len(chosen)} of {len(requests)} requests")
    for s in chosen:
        table.add_row(s.request.id, f"{s.uncertainty:.2f}", f"{s.disagreement:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
