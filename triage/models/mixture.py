"""BERT and n-grams as one model: their logits are added up (a product of experts, Hinton 2002).

The n-grams know the words of the corpus by heart, the BERT what words mean: together they are right more often than either.
How much the n-grams count is fitted for each head on validation data (`training.calibrate.blend`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from triage.models.base import Array, Backend, Labels
from triage.models.folder import ModelFolder
from triage.models.ngrams import NgramBackend
from triage.models.onnx import OnnxBackend
from triage.records import Scores


class Mixture:
    """Scores cleaned texts with both; safe to share between threads. weight: of the n-grams' logits, for each head."""

    def __init__(self, bert: OnnxBackend, ngrams: NgramBackend, weight: Mapping[str, float]) -> None:
        self.labels, self.model_id, self.bert = bert.labels, bert.model_id, bert
        self._ngrams, self._weight = ngrams, spread(weight, bert.labels)

    def logits(self, text: str) -> Array:
        """Return the raw logits (windows, labels.total) of one cleaned text.

        A text of several windows is the BERT's alone: among so many words the few that matter are lost on the n-grams.
        """
        bert = self.bert.logits(text)
        return bert if len(bert) > 1 else bert + self._weight * self._ngrams.logits(text)

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each text."""
        return [self.labels.scores(self.logits(text)) for text in texts]


def spread(weight: Mapping[str, float], labels: Labels) -> Array:
    """Return one weight a logit (labels.total,) from one a head; a head that is not named has none."""
    return np.concatenate([np.full(size, weight.get(head, 0.0), np.float32) for head, size in labels.sizes.items()])


def open_models(folder: ModelFolder) -> tuple[Backend, NgramBackend | None]:
    """Return the model of a folder and its n-grams; a folder without n-grams is a BERT alone. Raises ModelError."""
    bert, ngrams = OnnxBackend(folder), NgramBackend.open(folder)
    if ngrams is None:
        return bert, None
    return Mixture(bert, ngrams, folder.read_json("cascade.json")["weight"]), ngrams
