"""Fit what turns two witnesses into one decision, on validation data: temperatures, weights, thresholds.

Used by `training.run`; every number it writes goes to `labels.json` (temperatures) and `decision.json` (the rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from training.corpus import Example
from training.evaluate import ONLY_RULES
from training.train import targets
from triage.cascade import certainty, grave_words
from triage.decide import QUESTIONS, THRESHOLDS, Evidence, Policy, Weights, decide, gather
from triage.engine import Triager
from triage.models.base import Array, Backend, Labels
from triage.records import Decision, severity
from triage.rules.book import RuleBook
from triage.text import clean

# (share of the requests at or above a level that its threshold must keep on validation, lowest threshold allowed):
# a miss costs more than an alarm, but below 0.35 "urgent" mostly gains alarms.
KEEP = {"urgent": (0.98, 0.35), "critical": (0.97, 0.2)}
HIGHEST_VETO = 0.001  # of a red flag by the model: see Policy.floor_veto
RISK = 0.01  # share of critical requests that may be called lower than urgent without being shown to a person
# Weight of the n-grams' logits beside the BERT's, at most. They see words and no context, and a word is not a fact: flags are the
# BERT's and the rules' alone, and nowhere do they have the last word, though validation, so like the training data, would allow it.
HEAVIEST = {"category": 0.8, "urgency": 0.8, "department": 0.8, "co_departments": 0.8, "flags": 0.0}
PRICE = 0.01  # wrong labels (category, urgency, department) that the cascade may add for each request it answers early


def _cost(z: npt.NDArray[np.float64], y: Array, head: str) -> float:
    """Return minus the log-likelihood of answers y (n, width) under logits z (n, width) of a head."""
    if head in ("category", "department"):
        return float(-(y * (z - np.logaddexp.reduce(z, axis=1, keepdims=True))).sum())
    return float((np.logaddexp(0, z) - y * z).sum())


def temperatures(logits: Array, examples: Sequence[Example], labels: Labels) -> Labels:
    """Fit one temperature a head by log-likelihood (Guo et al. 2017). `logits` is (n, labels.total). A head without labels has none."""
    return blend(logits, np.zeros_like(logits), examples, labels)[1]


def blend(bert: Array, ngrams: Array, examples: Sequence[Example], labels: Labels) -> tuple[dict[str, float], Labels]:
    """Fit for each head how much the n-grams' logits count beside the BERT's, and the temperature of the sum.

    Both are (n, labels.total). Returns the weights for `triage.models.mixture` and the labels with temperatures.
    """
    truth = targets(examples, labels)
    weight, temperature = {}, {}
    for head, part in labels.slices.items():
        known = ~np.isnan(truth[:, part]).any(1)
        if not known.any():
            continue
        one, other, y = (a[known, part].astype(np.float64) for a in (bert, ngrams, truth))

        def cost(at: Sequence[float], one: Any = one, other: Any = other, y: Any = y, head: str = head) -> float:
            return _cost((one + at[1] * other) / at[0], y, head) / len(y)

        heaviest = HEAVIEST[head] if other.any() else 0.0
        bounds = [(0.2, 8.0), (0.0, heaviest)]
        at = minimize(cost, [1.0, heaviest / 2], method="L-BFGS-B", bounds=bounds).x
        temperature[head], weight[head] = round(float(at[0]), 3), round(float(at[1]), 3)
    return weight, replace(labels, temperature=temperature)


def _true(example: Example, question: str, label: str) -> bool:
    if question in THRESHOLDS:
        return severity(example.urgency or "routine") >= severity(question)
    value = getattr(example, question)
    return bool(label == value if isinstance(value, str) else label in value)


def fit_policy(backend: Backend, rules: RuleBook, examples: Sequence[Example]) -> Policy:
    """Fit weights by logistic regression over every (example, label) of a question, then the thresholds.

    A question that nobody has labelled is left to the rules alone; one whose every answer is the same keeps its usual weights.
    """
    texts = [clean(x.text) for x in examples]
    found, scores = [rules.apply(t) for t in texts], backend.score([t.text for t in texts])
    seen = [gather(f, s) for f, s in zip(found, scores, strict=True)]
    weights: dict[str, Weights] = {}
    thresholds = dict.fromkeys(QUESTIONS, 0.5)
    for question in QUESTIONS:
        asked: list[tuple[Evidence, bool]] = [
            (e, _true(x, question, label))
            for x, evidence in zip(examples, seen, strict=True)
            if getattr(x, "urgency" if question in THRESHOLDS else question) is not None
            for label, e in evidence[question].items()
        ]
        if len({t for _, t in asked}) < 2:
            weights[question] = Weights() if asked else ONLY_RULES[question]
            continue
        features = np.array([[e.log_odds, e.rules_for, e.rules_against] for e, _ in asked], np.float64)
        truth = np.array([t for _, t in asked])
        fit = LogisticRegression(C=10.0, max_iter=1000).fit(features, truth)
        bias, (model, rules_for, rules_against) = float(fit.intercept_[0]), (float(c) for c in fit.coef_[0])
        weights[question] = Weights(round(bias, 3), round(model, 3), round(rules_for, 3), round(rules_against, 3))
        p = np.array([e.probability(weights[question]) for e, _ in asked])
        if question in ("flags", "co_departments"):
            thresholds[question] = _best_f1(p, truth)
        if question in KEEP:
            thresholds[question] = _keep_recall(p[truth], *KEEP[question])
    truly_urgent = [
        s.urgency["urgent"] + s.urgency["critical"]
        for x, findings, s in zip(examples, found, scores, strict=True)
        if any(f.holds and f.red_flag for f in findings) and _true(x, "urgent", "")
    ]
    veto = min([HIGHEST_VETO, *(p / 2 for p in truly_urgent)])  # half the lowest: a margin for what validation lacks
    policy = Policy(weights, thresholds, floor_veto=round(veto, 4))
    critical = np.array([e["urgent"]["urgent"].probability(weights["urgent"])
                         for x, e in zip(examples, seen, strict=True) if x.urgency == "critical"])  # fmt: skip
    return replace(policy, review_urgent_between=(review_from(critical, thresholds["urgent"]), thresholds["urgent"]))


def review_from(critical: npt.NDArray[np.float64], urgent: float, risk: float = RISK) -> float:
    """Return the probability of "at least urgent" from which a request called lower than urgent is shown to a person.

    Conformal risk control (Angelopoulos et al. 2022) on the probabilities (n,) of critical requests: the highest threshold
    under which at most `risk` of the critical requests of the same kind are expected to fall, finite sample and all. 0, so that all
    are shown, when there are too few to promise it.
    """
    allowed = int(np.floor(risk * (len(critical) + 1))) - 1
    if allowed < 0:
        return 0.0
    return round(float(min(np.sort(critical)[allowed] if allowed < len(critical) else urgent, urgent)), 4)


def fit_cascade(triager: Triager, first: Backend, examples: Sequence[Example]) -> float:
    """Return the lowest certainty from which the first stage may answer: no critical request of the examples is then answered
    early, and those that are have at most PRICE more wrong labels each than `triager` (without a cascade) gives them."""
    texts = [clean(x.text) for x in examples]
    findings, scores = [triager.rules.apply(t) for t in texts], first.score([t.text for t in texts])
    sure = np.array([0.0 if grave_words(f) else certainty(s) for f, s in zip(findings, scores, strict=True)])
    full = triager.predict_many([x.text for x in examples])
    early = [
        decide(t, f, s, (), triager.profile, triager.policy, {})
        for t, f, s in zip(texts, findings, scores, strict=True)
    ]

    def wrong(decisions: Sequence[Decision]) -> npt.NDArray[np.int64]:
        return np.array([sum(getattr(x, head) not in (None, getattr(d, head).code) for head in ("category", "urgency", "department"))
                         for d, x in zip(decisions, examples, strict=True)])  # fmt: skip

    critical = np.array([x.urgency == "critical" for x in examples])
    more = wrong(early) - wrong(full)
    for certain in np.arange(0.5, 1.0, 0.01):
        out = sure >= certain
        if not (out & critical).any() and more[out].sum() <= PRICE * out.sum():
            return round(float(certain), 2)
    return 1.01  # never


def _best_f1(p: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    grid = np.arange(0.2, 0.71, 0.02)
    scores = [2 * ((p >= t) & truth).sum() / max(1, (p >= t).sum() + truth.sum()) for t in grid]
    return round(float(grid[int(np.argmax(scores))]), 3)


def _keep_recall(positives: npt.NDArray[np.float64], share: float, lowest: float) -> float:
    """Return the highest threshold, within [lowest, 0.5], that keeps `share` of the positives."""
    return round(float(np.clip(np.quantile(positives, 1 - share), lowest, 0.5)), 3)
