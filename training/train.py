"""Fine-tune the multi-task model, or distil a smaller one from a teacher.

    python -m training.train training/train.toml runs/teacher
    python -m training.train training/student.toml runs/student --teacher runs/teacher [--unlabelled FOLDER]

One loss serves both: cross-entropy against target probabilities, which are the labels, the teacher's scores, or a mixture.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from training.corpus import Example, load, load_texts
from training.evaluate import OF_DECISIONS, Answer, measure
from triage.decide import Policy, choose_urgency
from triage.errors import ModelError
from triage.models.base import Array, Labels
from triage.models.bert import TorchBackend, TriageNet, keep_layers, load_checkpoint, save_checkpoint
from triage.profile import load_profile
from triage.records import URGENCY_LEVELS, severity
from triage.text import clean


def targets(examples: Sequence[Example], labels: Labels) -> Array:
    """Return target probabilities (n, labels.total): one-hot, cumulative for urgency, multi-hot."""
    out = np.zeros((len(examples), labels.total), np.float32)
    at = labels.slices
    for row, x in zip(out, examples, strict=True):
        row[at["category"].start + labels.category.index(x.category)] = 1
        row[at["urgency"].start : at["urgency"].start + severity(x.urgency)] = 1
        row[at["department"].start + labels.department.index(x.department)] = 1
        for code in x.co_departments:
            row[at["co_departments"].start + labels.department.index(code)] = 1
        for code in x.flags:
            row[at["flags"].start + labels.flags.index(code)] = 1
    return out


def soft_targets(logits: Array, labels: Labels) -> Array:
    """Turn a teacher's logits into target probabilities of the same layout as `targets`."""
    out = 1 / (1 + np.exp(-logits))
    for head in ("category", "department"):
        part = labels.slices[head]
        e = np.exp(logits[:, part] - logits[:, part].max(1, keepdims=True))
        out[:, part] = e / e.sum(1, keepdims=True)
    return np.asarray(out, np.float32)


def loss(logits: Tensor, target: Tensor, weight: Tensor, labels: Labels, heads: dict[str, float]) -> Tensor:
    """Return the weighted mean over the batch of the summed head losses; `weight` is (batch,)."""
    total = torch.zeros(len(logits))
    for head, part in labels.slices.items():
        a, b = logits[:, part], target[:, part]
        if head in ("category", "department"):
            each = -(b * F.log_softmax(a, -1)).sum(-1)
        else:
            each = F.binary_cross_entropy_with_logits(a, b, reduction="none").mean(-1)
        total = total + heads[head] * each
    return (total * weight).sum() / weight.sum()


def parameter_groups(net: TriageNet, optimiser: dict[str, Any]) -> list[dict[str, Any]]:
    """Layer-wise learning rates (Howard & Ruder 2018); no weight decay on norms and biases."""
    depth = net.encoder.config.num_hidden_layers
    groups = []
    for name, p in net.named_parameters():
        if name.startswith("encoder."):
            parts = name.split(".")
            level = int(parts[parts.index("layer") + 1]) + 1 if "layer" in parts else 0
            rate = optimiser["learning_rate"] * optimiser["layer_decay"] ** (depth - level)
        else:
            rate = optimiser["head_learning_rate"]
        groups.append({"params": [p], "lr": rate, "weight_decay": optimiser["weight_decay"] if p.dim() > 1 else 0.0})
    return groups


def batches(lengths: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Shuffle into batches of similar length: little padding, and still another order every epoch."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.8, 1.25))
    # Batch normalisation needs more than one row, so a last single row is left out of this epoch.
    out = [order[i : i + size] for i in range(0, len(order), size) if len(order) - i > 1]
    rng.shuffle(out)
    return out


@dataclass(frozen=True, slots=True)
class Material:
    """What is learnt from: cleaned texts, target probabilities (n, labels.total) and weights (n,)."""

    texts: list[str]
    target: Array
    weight: list[float]


def gather_material(
    config: dict[str, Any], labels: Labels, teacher: Path | None, unlabelled: Path | None, more: Sequence[Path]
) -> Material:
    """Read the training texts and those of `more` files, and the unlabelled ones when there is a teacher to label them."""
    examples = [x for path in (Path(config["data"]["train"]), *more) for x in load(path)]
    texts = [clean(x.text).text for x in examples]
    target, weight = targets(examples, labels), [1.0] * len(texts)
    if teacher is not None:
        hard = config["distillation"]["hard"]
        extra = [t for t in load_texts(unlabelled) if t not in set(texts)] if unlabelled else []
        taught = soft_targets(TorchBackend(teacher, config["data"]["max_tokens"]).logits(texts + extra), labels)
        target = np.concatenate([hard * target + (1 - hard) * taught[: len(texts)], taught[len(texts) :]])
        texts, weight = texts + extra, weight + [config["distillation"]["unlabelled"]] * len(extra)
    return Material(texts, target, weight)


def model_answers(net: TriageNet, tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> list[Answer]:
    """Return what the network alone says of each example: the likeliest category and department, all else at one half."""
    net.eval()
    ids = tokenizer([clean(x.text).text for x in examples], truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    logits = np.zeros((len(ids), net.labels.total), np.float32)
    with torch.inference_mode():
        for rows in (order[at : at + 32] for at in range(0, len(order), 32)):
            x = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            logits[rows] = net(x["input_ids"], x["attention_mask"]).numpy()
    labels, p = net.labels, net.labels.probabilities(logits)
    departments = [labels.department[i] for i in p["department"].argmax(1)]
    return [
        Answer(
            labels.category[p["category"][i].argmax()],
            choose_urgency(dict(zip(URGENCY_LEVELS, map(float, p["urgency"][i]), strict=True)), Policy().thresholds),
            department,
            frozenset(c for c, q in zip(labels.department, p["co_departments"][i], strict=True) if q > 0.5)
            - {department},
            frozenset(c for c, q in zip(labels.flags, p["flags"][i], strict=True) if q > 0.5),
        )
        for i, department in enumerate(departments)
    ]


def train(
    config: dict[str, Any], out: Path, teacher: Path | None = None, unlabelled: Path | None = None,
    more: Sequence[Path] = (), also: Sequence[Path] = (),
) -> TriageNet:  # fmt: skip
    """Train by `config` (see train.toml) and write the checkpoint folder `out`, anew after every epoch; returns the network.

    more: further labelled files to learn from. unlabelled: a folder of texts for the teacher to label.
    After every epoch the log shows the validation split and the labelled files `also`.
    Raises InputError for bad data, OSError when the encoder cannot be found.
    """
    optimiser, profile = config["optimiser"], load_profile()
    torch.manual_seed(optimiser["seed"])
    rng = random.Random(optimiser["seed"])
    labels = Labels(
        tuple(profile.labels["category"]), tuple(profile.labels["department"]), tuple(profile.labels["flag"])
    )
    source, layers = config["encoder"]["source"], config["encoder"]["layers"]
    if (Path(source) / "checkpoint.safetensors").is_file():  # a student starts from its teacher's layers; else go on
        net, tokenizer = load_checkpoint(Path(source))
        if layers:
            net = TriageNet(keep_layers(net.encoder, layers), labels)
        elif net.labels.to_dict() | {"temperature": {}} != labels.to_dict():
            raise ModelError(f"{source}: its labels are not those of the profile; give an encoder, or `layers`")
    else:
        encoder = AutoModel.from_pretrained(source, add_pooling_layer=False)
        tokenizer = AutoTokenizer.from_pretrained(source)
        net = TriageNet(keep_layers(encoder, layers) if layers else encoder, labels)
    material = gather_material(config, labels, teacher, unlabelled, more)
    checks = {path.stem: load(path) for path in (Path(config["data"]["validation"]), *also)}
    net.norm.momentum = optimiser["norm_momentum"]
    optimizer = torch.optim.AdamW(parameter_groups(net, optimiser), fused=True)
    ids = tokenizer(material.texts, truncation=True, max_length=config["data"]["max_tokens"])["input_ids"]
    steps = optimiser["epochs"] * math.ceil(len(material.texts) / optimiser["batch"])
    schedule = get_linear_schedule_with_warmup(optimizer, int(optimiser["warmup"] * steps), steps)
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar) as progress:
        for epoch in range(1, optimiser["epochs"] + 1):
            net.train()
            if epoch > optimiser["epochs"] - optimiser["settle_epochs"]:
                net.norm.eval()
            plan, running = batches([len(i) for i in ids], optimiser["batch"], rng), 0.0
            for chosen in progress.track(plan, description=f"epoch {epoch}"):
                x = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
                weight = torch.tensor([material.weight[i] for i in chosen])
                with torch.autocast("cpu", torch.bfloat16, enabled=optimiser["bfloat16"]):
                    logits = net(x["input_ids"], x["attention_mask"]).float()
                step_loss = loss(logits, torch.from_numpy(material.target[chosen]), weight, labels, config["loss"])
                step_loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                running += step_loss.item()
            progress.console.print(f"epoch {epoch}: loss {running / len(plan):.3f}", soft_wrap=True)
            for name, examples in checks.items():
                got = measure(
                    examples, model_answers(net, tokenizer, examples, config["data"]["max_tokens"]), min_support=10
                )
                told = ", ".join(f"{m} {got[m]:.3f}" for m in got if m not in OF_DECISIONS)
                progress.console.print(f"  {name}: {told}", soft_wrap=True)
            save_checkpoint(net.eval(), tokenizer, out)
    return net


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), help="checkpoint folder to distil from")
@click.option(
    "--unlabelled", type=click.Path(path_type=Path, exists=True), help="folder of JSONL with `text`, to distil on"
)
@click.option("--also-train", "more", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="another labelled JSONL file to learn from")  # fmt: skip
@click.option("--also-evaluate", "also", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="another labelled JSONL file to watch")  # fmt: skip
@click.option("--threads", type=int, default=0, help="torch threads; default all cores")
def main(
    config: Path,
    out: Path,
    teacher: Path | None,
    unlabelled: Path | None,
    more: tuple[Path, ...],
    also: tuple[Path, ...],
    threads: int,
) -> None:
    """Train the model that CONFIG describes and write the checkpoint folder OUT."""
    if threads:
        torch.set_num_threads(threads)
    train(tomllib.loads(config.read_text("utf-8")), out, teacher, unlabelled, more, also)
    shutil.copy(config, out / "training.toml")
    click.echo(json.dumps({"checkpoint": str(out)}))


if __name__ == "__main__":
    main()
