"""The first stage of the cascade: a bag of character n-grams, two small layers; a hundred times cheaper than the BERT.

Every run of one to three characters is hashed to a row of an int8 table; the rows are added up, and a small network gives the same
logits as the BERT does, from which it was distilled (fastText, Joulin et al. 2017, with characters for words). Sums of integers
are exact, so the answer depends neither on order nor on batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.models.base import Array, Labels
from triage.models.folder import ModelFolder
from triage.records import Scores

LONGEST = 3  # characters in a run
BUCKETS = 1 << 15
FILE = "ngrams.safetensors"
_MIX = np.uint32(0x9E3779B1)  # 2^32 / golden ratio (Knuth, multiplicative hashing)


def buckets(text: str) -> npt.NDArray[np.int64]:
    """Return the rows (n,) of a cleaned text's character runs, in [0, BUCKETS)."""
    codes = np.frombuffer(("\u0002" + text + "\u0003").encode("utf-32-le", "replace"), np.uint32)
    run = codes * _MIX
    found = []
    for length in range(1, LONGEST + 1):
        if length > 1:
            run = (run[:-1] ^ (run[:-1] >> np.uint32(15))) * _MIX + codes[length - 1 :]
        found.append((run ^ (run >> np.uint32(13))) * _MIX >> np.uint32(17))
        if len(run) == 1:
            break
    return np.concatenate(found).astype(np.int64)


class NgramBackend:
    """Scores cleaned texts with a model folder's n-gram tables; safe to share between threads.

    weights: `table` int8 (BUCKETS, width), `scale` float32 (width,), `hidden` (width, width), `hidden_bias`, `out` (width,
    labels.total), `out_bias`.
    """

    def __init__(self, weights: dict[str, npt.NDArray[Any]], labels: Labels, model_id: str) -> None:
        self._weights, self.labels, self.model_id = weights, labels, model_id

    @classmethod
    def open(cls, folder: ModelFolder) -> NgramBackend | None:
        """Load the first stage of a model folder; None when the folder has none."""
        if FILE not in folder.manifest["files"]:
            return None
        from safetensors.numpy import load_file

        labels = Labels.from_dict(
            folder.read_json("labels.json") | {"temperature": folder.read_json("cascade.json")["temperature"]}
        )
        return cls(load_file(folder.path / FILE), labels, folder.fingerprint)

    def logits(self, text: str) -> Array:
        """Return the raw logits (labels.total,) of one cleaned text."""
        w, rows = self._weights, buckets(text)
        total = w["table"][rows].sum(0, dtype=np.int32)
        x = total * (w["scale"] / np.float32(np.sqrt(len(rows))))
        hidden = np.maximum(x @ w["hidden"] + w["hidden_bias"], 0)
        out: Array = hidden @ w["out"] + w["out_bias"]
        return out

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each text."""
        return [self.labels.scores(self.logits(text)[None]) for text in texts]


def save(weights: dict[str, npt.NDArray[Any]], folder: Path) -> None:
    """Write the tables into a model folder that is being made."""
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / FILE)
