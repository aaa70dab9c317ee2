"""Fit the first stage of the cascade: character n-grams that imitate the student.

    python -m training.ngrams training/student.toml runs/student [--also-train FILE.jsonl] [--unlabelled FOLDER]

Writes `ngrams.safetensors` into the checkpoint folder, where `training.export` finds it. Takes a few minutes.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

from training.train import gather_material, loss
from triage.models.base import Labels
from triage.models.bert import load_checkpoint
from triage.models.ngrams import BUCKETS, buckets, save
from triage.profile import Profile, load_profile


class NgramNet(nn.Module):
    """What `triage.models.ngrams.NgramBackend` computes, before its table is rounded to int8."""

    def __init__(self, width: int, total: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(BUCKETS, width, mode="sum")
        nn.init.normal_(self.table.weight, std=0.1)
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, total)
        self.drop = nn.Dropout(0.3)

    def forward(self, rows: Tensor, starts: Tensor) -> Tensor:
        """Concatenated rows of a batch and where each text's begin, to logits (batch, total)."""
        lengths = torch.diff(starts, append=torch.tensor([len(rows)]))
        x = self.table(rows, starts) / lengths.sqrt()[:, None]
        logits: Tensor = self.out(self.drop(torch.relu(self.hidden(x))))
        return logits


def fit(
    config: dict[str, Any], checkpoint: Path, unlabelled: Path | None = None, more: tuple[Path, ...] = (),
    profile: Profile | None = None,
) -> None:  # fmt: skip
    """Fit by `[ngrams]` of the configuration, with the checkpoint as teacher, and save into the checkpoint's folder."""
    settings, labels = config["ngrams"], load_checkpoint(checkpoint)[0].labels
    config = config | {"distillation": config["distillation"] | {"hard": settings["hard"]}}
    material = gather_material(config, labels, [checkpoint], unlabelled, more, profile)
    rows = [torch.from_numpy(buckets(text)) for text in material.texts]
    torch.manual_seed(settings["seed"])
    net = NgramNet(settings["width"], labels.total)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    size, epochs = settings["batch"], settings["epochs"]
    steps = epochs * -(-len(rows) // size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    weight = torch.tensor(material.weight)
    for _ in track(range(epochs), description="n-grams"):
        for chosen in torch.split(torch.randperm(len(rows)), size):
            # A tenth of the runs is left out each time: no single one must decide.
            kept = [r[torch.rand(len(r)) > settings["left_out"]] for r in (rows[i] for i in chosen)]
            kept = [k if len(k) else rows[i][:1] for k, i in zip(kept, chosen, strict=True)]
            starts = torch.tensor([0, *np.cumsum([len(k) for k in kept])[:-1]])
            logits = net(torch.cat(kept), starts)
            target = torch.from_numpy(material.target[chosen.numpy()])
            step_loss = loss(logits, target, weight[chosen], labels, config["loss"])
            optimizer.zero_grad()
            step_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    save(rounded(net, labels), checkpoint)


def rounded(net: NgramNet, labels: Labels) -> dict[str, Any]:
    """Return the network's tables as `NgramBackend` wants them: the big one in int8, one scale a column."""
    table = net.table.weight.detach().numpy()
    scale = np.abs(table).max(0) / 127
    linear = {f"{name}{suffix}": value for name, layer in (("hidden", net.hidden), ("out", net.out))
              for suffix, value in (("", layer.weight.detach().numpy().T), ("_bias", layer.bias.detach().numpy()))}  # fmt: skip
    assert linear["out"].shape[1] == labels.total
    return {"table": np.round(table / scale).astype(np.int8), "scale": scale.astype(np.float32), **linear}


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True))
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--unlabelled", type=click.Path(path_type=Path, exists=True), help="folder of JSONL with `text`")
@click.option("--also-train", "more", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="another labelled JSONL file to learn from")  # fmt: skip
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels to learn")
def main(config: Path, checkpoint: Path, unlabelled: Path | None, more: tuple[Path, ...], profile: str) -> None:
    """Fit the first stage for the CHECKPOINT that training.train wrote by CONFIG."""
    fit(tomllib.loads(config.read_text("utf-8")), checkpoint, unlabelled, more, load_profile(profile))


if __name__ == "__main__":
    main()
