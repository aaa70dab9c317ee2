"""Which words tell a label, and no rule knows them? Found by jieba and the chi-square test on labelled requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from triage.errors import InputError, TriageError
from triage.records import URGENCY_LEVELS, HelpRequest
from triage.rules.book import RuleBook
from triage.rules.report import HEADS, Truth
from triage.text import clean

FEWEST = 3  # requests with the label that must use a word


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A word that occurs in `told` requests, of which `right` have the label; `chi2` orders the suggestions."""

    word: str
    right: int
    told: int
    chi2: float


def suggest(book: RuleBook, requests: Sequence[HelpRequest], head: str, label: str, most: int = 30) -> list[Suggestion]:
    """Return words and pairs of words that speak for a label more often than chance and stand in no rule.

    head: urgency (means: at least so urgent), category, department or flag.
    Raises InputError for a head that is none of these or a label nothing has; TriageError where scikit-learn is missing.
    """
    if head not in HEADS:
        raise InputError(f"{head!r} is none of {', '.join(HEADS)}; write for example flag=cardiac")
    try:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.feature_selection import chi2
    except ImportError:
        raise TriageError("suggestions need scikit-learn: pip install 'triage[train]'") from None
    import jieba
    import numpy as np

    jieba.setLogLevel(60)
    if head == "urgency" and label not in URGENCY_LEVELS:
        raise InputError(f"urgency {label!r} is none of {', '.join(URGENCY_LEVELS)}")
    labelled = [(r, t) for r in requests if (t := Truth.of(r).has(head, label)) is not None]
    truth = np.array([t for _, t in labelled], bool)
    if not truth.any():
        raise InputError(f"no request has {head} {label}; check the code's spelling")
    vectorizer = CountVectorizer(
        tokenizer=jieba.lcut, token_pattern=None, ngram_range=(1, 2), binary=True, lowercase=False
    )
    seen = vectorizer.fit_transform([clean(r.text).text for r, _ in labelled])
    told, right = np.asarray(seen.sum(0)).ravel(), np.asarray(seen[truth].sum(0)).ravel()
    score = np.nan_to_num(chi2(seen, truth)[0])
    words = ["".join(w.split(" ")) for w in vectorizer.get_feature_names_out()]
    known = {w for rule in book.rules for w in rule.any if len(w) > 1}
    out: list[Suggestion] = []
    for i in np.argsort(-score, kind="stable"):
        word = words[i]
        usable = len(word) >= 2 and all("\u4e00" <= c <= "\u9fff" for c in word)
        if not usable or right[i] < FEWEST or right[i] / told[i] <= truth.mean():
            continue
        if any(w in word or word in w for w in known) or any(word in s.word or s.word in word for s in out):
            continue
        out.append(Suggestion(word, int(right[i]), int(told[i]), round(float(score[i]), 1)))
        if len(out) == most:
            break
    return out
