"""What users run: the int8 BERT on ONNX Runtime.

Dynamic int8 takes one scale per tensor, so padding and batch mates would change an answer. Therefore every window runs
alone and unpadded on a single-threaded session: the same bits alone or in any batch. Callers run several side by side in threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from triage.models.base import Array, Labels
from triage.models.folder import ModelFolder
from triage.records import Scores

WINDOW = 192  # tokens, specials included; nine requests in ten are shorter
OVERLAP = 48  # tokens shared by neighbouring windows, so that no sentence is only seen cut in two


class OnnxBackend:
    """Scores cleaned texts with a model folder's `model.onnx`; safe to share between threads."""

    def __init__(self, folder: ModelFolder) -> None:
        self.model_id, self.about = folder.fingerprint, folder.manifest
        self.labels = Labels.from_dict(folder.read_json("labels.json"))
        self._tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(WINDOW, stride=OVERLAP)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # With texts of all lengths the arena only ever grows.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder.path / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def windows(self, text: str) -> list[tuple[int, ...]]:
        """Return the token ids of one cleaned text, specials included, in overlapping windows."""
        encoding = self._tokenizer.encode(text)
        return [tuple(e.ids) for e in (encoding, *encoding.overflowing)]

    def run(self, ids: Sequence[int]) -> Array:
        """Return the raw logits (labels.total,) of one window."""
        out: Array = self._session.run(None, {"input_ids": np.asarray([ids], dtype=np.int64)})[0][0]
        return out

    def logits(self, text: str) -> Array:
        """Return the raw logits (windows, labels.total) of one cleaned text."""
        return np.stack([self.run(w) for w in self.windows(text)])

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each text; long texts are read in overlapping windows."""
        return [self.labels.scores(self.logits(text)) for text in texts]
