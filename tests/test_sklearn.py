"""The estimator keeps scikit-learn's contract, as far as a contract about numbers can be asked of something that reads texts."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from training.corpus import DATA, load
from triage.errors import TriageError
from triage.models.folder import SHIPPED
from triage.sklearn import TriageClassifier


class OfNumbers(TriageClassifier):
    """Reads rows of numbers as texts, one Chinese character a number: so scikit-learn's checks can be asked of it."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = True, False, False
        return tags

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(self._told(X), y)

    def predict(self, X: Any) -> Any:
        return super().predict(self._told(X))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(self._told(X))

    @staticmethod
    def _told(rows: Any) -> Any:
        rows = rows if issparse(rows) else np.asarray(rows)
        if issparse(rows) or rows.ndim != 2:
            return rows
        # A column has its own characters, so that its place counts; a number is told to half a unit.
        return ["".join(chr(0x4E00 + 150 * (i % 100) + int(np.clip(2 * x, -60, 60)) + 64) for i, x in enumerate(map(float, row)))
                for row in rows]  # fmt: skip


NUMBERS = "numbers are what the test turns into texts; the estimator never sees them"
WIDTH = "texts have no number of features"
SPARSE = "texts are never sparse; the error says that they must be 1-D"
ONE_D = "texts are 1-D, and what is no text is a TypeError, as everywhere in triage"
EXPECTED = {
    "check_estimators_nan_inf": NUMBERS,
    "check_complex_data": NUMBERS,
    "check_n_features_in_after_fitting": WIDTH,
    "check_n_features_in": WIDTH,
    "check_estimators_empty_data_messages": WIDTH,
    "check_classifiers_train": WIDTH,
    "check_estimator_sparse_tag": SPARSE,
    "check_estimator_sparse_array": SPARSE,
    "check_estimator_sparse_matrix": SPARSE,
    "check_fit1d": ONE_D,
    "check_fit2d_predict1d": ONE_D,
}


@parametrize_with_checks([OfNumbers()], expected_failed_checks=lambda _: EXPECTED)  # type: ignore[untyped-decorator]
def test_scikit_learn_s_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def some() -> tuple[list[str], list[str]]:
    examples = [x for x in load(DATA / "train.jsonl") if x.category in ("food", "testing", "education")][::4][:400]
    return [x.text for x in examples], [str(x.category) for x in examples]


def test_it_learns_from_texts(some: tuple[list[str], list[str]]) -> None:
    texts, labels = some
    model = TriageClassifier().fit(texts[:320], labels[:320])
    assert list(model.classes_) == ["education", "food", "testing"]
    assert model.score(texts[320:], labels[320:]) > 0.7
    chance = model.predict_proba(texts[320:])
    assert chance.shape == (80, 3)
    assert np.allclose(chance.sum(1), 1)
    assert (model.classes_[chance.argmax(1)] == model.predict(texts[320:])).all()


def test_the_frozen_model_makes_few_labels_go_further(some: tuple[list[str], list[str]]) -> None:
    texts, labels = some
    few = {features: TriageClassifier(features=features).fit(texts[:30], labels[:30]).score(texts[320:], labels[320:])
           for features in ("ngrams", "model")}  # fmt: skip
    assert few["model"] > max(few["ngrams"], 0.85)
    same = (
        TriageClassifier(features="model", model=SHIPPED).fit(texts[:30], labels[:30]).score(texts[320:], labels[320:])
    )
    assert same == few["model"]


def test_several_flags_at_once() -> None:
    examples = [x for x in load(DATA / "train.jsonl") if {"pregnancy", "elderly"} & {*(x.flags or ())}][:150]
    wanted = np.array([[flag in (x.flags or ()) for flag in ("pregnancy", "elderly")] for x in examples], np.int64)
    texts = [x.text for x in examples]
    model = TriageClassifier(class_weight="balanced").fit(texts[:100], wanted[:100])
    assert list(model.classes_) == [0, 1]
    assert model.predict(texts[100:]).shape == model.predict_proba(texts[100:]).shape == (50, 2)
    assert (model.predict(texts[100:]) == wanted[100:]).mean() > 0.8


def test_script_and_width_change_nothing(some: tuple[list[str], list[str]]) -> None:
    model = TriageClassifier().fit(*some)
    plain, other = model.predict_proba(["孩子3岁，网课听不了，学校说没办法", "孩子３岁，網課聽不了，學校說沒辦法"])
    assert (plain == other).all()


def test_it_works_in_searches_pipelines_and_other_processes(some: tuple[list[str], list[str]]) -> None:
    texts, labels = some
    upper = FunctionTransformer(_polite)
    search = GridSearchCV(
        make_pipeline(upper, TriageClassifier()), {"triageclassifier__C": [0.01, 10.0]}, cv=3, n_jobs=2
    )
    best: Pipeline = search.fit(texts, labels).best_estimator_
    assert search.best_params_ == {"triageclassifier__C": 10.0}
    assert cross_val_score(TriageClassifier(), pd.Series(texts), labels, cv=3).mean() > 0.75
    assert (pickle.loads(pickle.dumps(best)).predict(texts) == best.predict(texts)).all()
    assert clone(TriageClassifier(C=3)).get_params()["C"] == 3
    with_model = TriageClassifier(features="model").fit(texts[:20], labels[:20])
    assert (pickle.loads(pickle.dumps(with_model)).predict(texts[:9]) == with_model.predict(texts[:9])).all()


def _polite(texts: list[str]) -> list[str]:
    return ["您好，" + text for text in texts]


@pytest.mark.parametrize(
    ("texts", "labels", "error", "message"),
    [
        ("几点做核酸", ["a"], ValueError, r"give \[text\]"),
        (["几点", 3], ["a", "b"], TypeError, r"texts\[1\] must be a str, not int"),
        (["几点", float("nan")], ["a", "b"], TypeError, r"texts\[1\] must be a str, not float"),
        ([], [], ValueError, "at least one text"),
        (np.array([["几点"], ["没有菜了"]]), ["a", "b"], ValueError, "must be 1-D"),
        (["几点", "没有菜了"], ["a"], ValueError, "inconsistent numbers of samples"),
        (["几点", "没有菜了"], ["a", "a"], ValueError, "at least two classes, here is 1 class"),
        (["几点", "没有菜了"], [0.5, 1.5], ValueError, "Unknown label type"),
    ],
)
def test_wrong_input_is_told_apart(texts: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TriageClassifier().fit(texts, labels)


def test_unknown_features_are_named() -> None:
    with pytest.raises(ValueError, match="features must be one of ngrams, model, not 'words'"):
        TriageClassifier(features="words").fit(["几点", "没有菜了"], ["a", "b"])


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "triage.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(TriageError, match=r"needs sklearn, which is not installed: pip install 'triage\[sklearn\]'"):
        importlib.import_module("triage.sklearn")
