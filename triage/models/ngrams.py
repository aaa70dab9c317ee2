"""Characters and pairs of neighbouring characters, weighed by a linear model: a hundred times cheaper than the BERT.

It is the first stage of the cascade (`triage.cascade`) and the BERT's second opinion (`triage.models.mixture`): the two err on
different requests. Texts become TF-IDF vectors of length 1 (Salton & Buckley 1988) over the runs that training met most often.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from triage.errors import ModelError
from triage.models.base import Array, Labels
from triage.models.folder import ModelFolder
from triage.records import Scores

FILE = "ngrams.safetensors"


def runs(text: str) -> npt.NDArray[np.uint32]:
    """Return the keys (n,) of a cleaned text's characters and pairs, its beginning and end marked.

    Characters beyond the basic plane (most emoji) fall together with others there; nothing else does.
    """
    codes = np.frombuffer(f"\u0002{text}\u0003".encode("utf-32-le", "replace"), np.uint32) & np.uint32(0xFFFF)
    return np.concatenate([codes, codes[:-1] << np.uint32(16) | codes[1:]])


class NgramBackend:
    """Scores cleaned texts with a model folder's n-gram weights; safe to share between threads.

    weights: `runs` uint32 (n,) ascending, `rarity` float32 (n,) inverse document frequencies, `table` int8 (n, labels.total) with
    `scale` float32 (labels.total,), and `bias` float32 (labels.total,). Raises ModelError when one is missing.
    """

    def __init__(self, weights: dict[str, npt.NDArray[Any]], labels: Labels, model_id: str) -> None:
        try:
            self._runs, self._rarity, self._table = weights["runs"], weights["rarity"], weights["table"]
            self._scale, self._bias = weights["scale"], weights["bias"]
        except KeyError as error:
            raise ModelError(f"{FILE} of model {model_id} lacks {error}; export the model again") from None
        self.labels, self.model_id = labels, model_id

    @classmethod
    def open(cls, folder: ModelFolder) -> NgramBackend | None:
        """Load the n-grams of a model folder; None when the folder has none. Raises ModelError."""
        if FILE not in folder.manifest["files"]:
            return None
        from safetensors.numpy import load_file

        labels = Labels.from_dict(
            folder.read_json("labels.json") | {"temperature": folder.read_json("cascade.json")["temperature"]}
        )
        return cls(load_file(folder.path / FILE), labels, folder.fingerprint)

    def logits(self, text: str) -> Array:
        """Return the raw logits (labels.total,) of one cleaned text."""
        found, counts = np.unique(runs(text), return_counts=True)
        rows = np.minimum(np.searchsorted(self._runs, found), len(self._runs) - 1)
        known = self._runs[rows] == found
        rows = rows[known]
        x = (1 + np.log(counts[known], dtype=np.float32)) * self._rarity[rows]
        length = np.sqrt((x * x).sum()) or np.float32(1)
        # Summed in the order of the keys, and not by a library that may use threads: the same bits everywhere.
        out: Array = np.einsum("i,ij->j", x / length, self._table[rows], dtype=np.float32) * self._scale + self._bias
        return out

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each text."""
        return [self.labels.scores(self.logits(text)[None]) for text in texts]


def save(weights: dict[str, npt.NDArray[Any]], folder: Path) -> None:
    """Write the weights into a checkpoint or model folder that is being made."""
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, folder / FILE)
