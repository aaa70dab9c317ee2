"""The model in torch (extra `train`): a Hugging Face encoder, mean pooling, batch normalisation, one linear layer.

Batch normalisation spreads e5's nearly parallel sentence vectors; without it a linear head hardly learns from them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from triage.errors import ModelError
from triage.models.base import Array, Labels
from triage.records import Scores


class TriageNet(nn.Module):
    """Token ids (batch, length) to logits (batch, `labels.total`), heads in the order of `Labels.slices`.

    `pool_after`: behind so many layers neighbouring tokens are averaged in pairs, and the layers above read half as many
    (Funnel-Transformer, Dai et al. 2020; here once, because requests are short). 0 pools nothing and takes any encoder;
    else it must be a BERT.
    """

    def __init__(self, encoder: Any, labels: Labels, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.labels = labels
        self.norm = nn.BatchNorm1d(encoder.config.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.Linear(encoder.config.hidden_size, labels.total)

    @property
    def pool_after(self) -> int:
        """Kept in the encoder's configuration, so that a checkpoint folder tells it."""
        return int(getattr(self.encoder.config, "pool_after", 0))

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return one spread-out vector a text (batch, hidden); without a mask every token counts."""
        if self.pool_after:
            hidden, attention_mask = self._pooled_layers(input_ids, attention_mask)
        else:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        hidden = hidden.float()
        if attention_mask is None:
            pooled = hidden.mean(1)
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        spread: Tensor = self.norm(pooled)
        return spread

    def _pooled_layers(self, input_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        hidden = self.encoder.embeddings(input_ids=input_ids)
        for depth, layer in enumerate(self.encoder.encoder.layer):
            if depth == self.pool_after:
                hidden, mask = halve(hidden, mask)
            hidden = layer(hidden, None if mask is None else mask[:, None, None, :].bool())
        return hidden, mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return logits; without a mask every token counts."""
        logits: Tensor = self.heads(self.dropout(self.embed(input_ids, attention_mask)))
        return logits


def halve(hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Average neighbouring tokens in pairs: (batch, length, width) to (batch, ceil(length / 2), width).

    A last token without a partner, or with padding for one, stays as it is; so padding changes nothing.
    """
    left, right = hidden[:, ::2], torch.cat([hidden, hidden[:, -1:]], 1)[:, 1::2]
    if mask is None:
        return (left + right) / 2, None
    both = torch.cat([mask, 0 * mask[:, -1:]], 1)[:, 1::2, None].bool()
    return torch.where(both, (left + right) / 2, left), mask[:, ::2]


def keep_layers(encoder: Any, count: int) -> Any:
    """Keep `count` of a BERT-like encoder's layers, evenly spaced, the first (which knows raw embeddings) and the last among them."""
    layers = encoder.encoder.layer
    chosen = np.linspace(0 if count > 1 else len(layers) - 1, len(layers) - 1, count).round().astype(int)
    encoder.encoder.layer = nn.ModuleList(layers[int(i)] for i in chosen)
    encoder.config.num_hidden_layers = count
    return encoder


def save_checkpoint(net: TriageNet, tokenizer: Any, folder: Path) -> None:
    """Write encoder configuration, tokenizer, labels and weights (safetensors) to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    net.encoder.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "labels.json").write_text(json.dumps(net.labels.to_dict(), ensure_ascii=False, indent=1), "utf-8")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "checkpoint.safetensors")


def load_checkpoint(folder: Path) -> tuple[TriageNet, Any]:
    """Read what `save_checkpoint` wrote; returns the network in evaluation mode and its tokenizer."""
    if not (folder / "checkpoint.safetensors").is_file():
        raise ModelError(f"{folder}: no checkpoint.safetensors here; give a folder that `training.train` wrote")
    labels = Labels.from_dict(json.loads((folder / "labels.json").read_text("utf-8")))
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(folder), add_pooling_layer=False)
    net = TriageNet(encoder, labels)
    net.load_state_dict(load_file(folder / "checkpoint.safetensors"))
    return net.eval(), AutoTokenizer.from_pretrained(folder)


class TorchBackend:
    """Scores with the torch network: for training scripts and for checking the exported model, not for users."""

    def __init__(self, folder: Path, max_tokens: int = 256) -> None:
        self._net, self._tokenizer = load_checkpoint(folder)
        self._max_tokens = max_tokens
        self.labels = self._net.labels
        self.model_id = f"torch:{folder.name}"

    def outputs(self, texts: Sequence[str], batch: int = 32) -> tuple[Array, Array]:
        """Return logits (n, total) and sentence vectors (n, hidden) of the first `max_tokens` tokens of each text."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        logits = np.zeros((len(texts), self.labels.total), np.float32)
        vectors = np.zeros((len(texts), self._net.norm.num_features), np.float32)
        with torch.inference_mode():
            for at in range(0, len(order), batch):
                rows = order[at : at + batch]
                inputs = self._tokenizer([texts[i] for i in rows], padding=True, truncation=True,
                                         max_length=self._max_tokens, return_tensors="pt")  # fmt: skip
                embedded = self._net.embed(inputs["input_ids"], inputs["attention_mask"])
                vectors[rows], logits[rows] = embedded.float().numpy(), self._net.heads(embedded).float().numpy()
        return logits, vectors

    def logits(self, texts: Sequence[str]) -> Array:
        """Return logits (n, total) of the first `max_tokens` tokens of each text."""
        return self.outputs(texts)[0]

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Return the scores of each text; longer texts are read up to `max_tokens`."""
        return [self.labels.scores(row[None]) for row in self.logits(texts)]
