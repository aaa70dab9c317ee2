"""`TriageClassifier`: one head of labels as a scikit-learn estimator, fitted on your own texts in seconds (extra `sklearn`).

    from triage.sklearn import TriageClassifier

    model = TriageClassifier(features="model").fit(texts, labels)  # labels: one code a text, or 0/1 columns, one a flag
    GridSearchCV(TriageClassifier(), {"C": [1, 10, 100], "features": ["ngrams", "model"]}).fit(texts, labels)

A quick way to labels of your own, or to see what a few hundred labels are worth. The rules have no say in it, and it is not what
`triage predict` runs: for that, train a model folder (README, "Retraining").
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from triage.errors import require
from triage.models.folder import SHIPPED, ModelFolder
from triage.models.onnx import OnnxBackend
from triage.text import clean

require("sklearn", "sklearn")  # before the names below, to say which extra is missing

from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin  # noqa: E402
from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.multiclass import OneVsRestClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline, make_union  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets, type_of_target  # noqa: E402
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d  # noqa: E402

FEATURES = ("ngrams", "model")
WIDEST = 50_000  # columns


def cleaned(text: str) -> str:
    """Return a text as models read it (a named function, so that estimators can be copied to other processes)."""
    return clean(text).text


def ngrams(longest: int = 3) -> TfidfVectorizer:
    """Return what turns texts into sparse rows: TF-IDF of the WIDEST most frequent runs of 1 to `longest` characters."""
    return TfidfVectorizer(
        preprocessor=cleaned, analyzer="char", ngram_range=(1, longest), sublinear_tf=True, max_features=WIDEST
    )


@lru_cache(maxsize=2)
def _backend(folder: Path) -> OnnxBackend:
    return OnnxBackend(ModelFolder.open(folder))


class Logits(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turns texts into the logits (n, labels.total) of a frozen model folder, the mean over a long text's windows."""

    def __init__(self, model: str | Path | None = None) -> None:
        self.model = model

    def fit(self, texts: Sequence[str], labels: Any = None) -> Self:
        """Learn nothing."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the logits of each text. Raises ModelError for a model folder that is not sound."""
        backend = _backend(Path(self.model or SHIPPED))
        rows = [backend.logits(cleaned(text)).mean(0) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, backend.labels.total), np.float32)


class TriageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A logistic regression on texts: category, urgency, department, or several flags at once.

    features: "ngrams", runs of characters; or "model", which joins to them the logits of a frozen model (about 5 ms a text).
    model: the model folder for that, default the shipped one. C: inverse strength of regularisation; longest: characters of a
    run; max_iter, class_weight: as in scikit-learn's LogisticRegression.

    Fitted: `classes_` (the codes; for 0/1 columns their numbers), `n_iter_`.
    """

    def __init__(
        self, *, features: str = "ngrams", model: str | Path | None = None, C: float = 10.0, longest: int = 3,
        max_iter: int = 300, class_weight: Any = None,
    ) -> None:  # fmt: skip
        self.features, self.model, self.C, self.longest = features, model, C, longest
        self.max_iter, self.class_weight = max_iter, class_weight

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Sequence[str], y: Any) -> Self:
        """Fit on texts (n,) and one label each (n,), or 0/1 columns (n, labels).

        Raises TypeError for what is no text, ValueError for labels that fit no texts, or are all the same.
        """
        texts = _texts(X)
        if y is None:
            raise ValueError("TriageClassifier requires y to be passed, but the target y is None")
        labels = check_array(y, ensure_2d=False, dtype=None, input_name="y")
        check_classification_targets(labels)
        several = type_of_target(labels) == "multilabel-indicator"
        labels = labels if several else column_or_1d(labels, warn=True)
        check_consistent_length(texts, labels)
        if self.features not in FEATURES:
            raise ValueError(f"features must be one of {', '.join(FEATURES)}, not {self.features!r}")
        if not several and len(kinds := np.unique(labels)) < 2:
            raise ValueError(f"TriageClassifier needs at least two classes, here is {len(kinds)} class; add labels")
        linear = LogisticRegression(C=self.C, max_iter=self.max_iter, class_weight=self.class_weight, tol=1e-3)
        parts = [ngrams(self.longest)]
        if self.features == "model":
            parts.append(make_pipeline(Logits(self.model), StandardScaler()))
        self._pipeline = make_pipeline(make_union(*parts), OneVsRestClassifier(linear) if several else linear)
        self._pipeline.fit(texts, labels)
        self.classes_ = self._pipeline.classes_
        fitted = self._pipeline[-1].estimators_ if several else [self._pipeline[-1]]
        self.n_iter_ = max((int(np.max(getattr(one, "n_iter_", 1))) for one in fitted), default=1)
        return self

    def predict(self, X: Sequence[str]) -> npt.NDArray[Any]:
        """Return the likeliest label of each text (n,), or 0/1 columns (n, labels)."""
        check_is_fitted(self, "classes_")
        out: npt.NDArray[Any] = self._pipeline.predict(_texts(X))
        return out

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return how likely each label of `classes_` is (n, labels), each in [0, 1]; of one label a text they sum to 1."""
        check_is_fitted(self, "classes_")
        out: npt.NDArray[np.float64] = self._pipeline.predict_proba(_texts(X))
        return out


def _texts(texts: Any) -> list[str]:
    """Return the texts as a list. Raises TypeError naming the first that is none, ValueError for another shape or no texts."""
    if isinstance(texts, str):
        raise ValueError("texts must be a sequence of str, not one str; give [text]")
    if getattr(texts, "ndim", 1) != 1:
        raise ValueError(f"texts must be 1-D, one str each, not {texts.ndim}-D; give one column")
    out = [*texts]
    for i, text in enumerate(out):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] must be a str, not {type(text).__name__}")
    if not out:
        raise ValueError("found 0 sample(s): give at least one text (minimum of 1 is required)")
    return out
