"""Fine-tune the multi-task model, or distil a smaller one from a teacher.

    python -m training.train training/train.toml runs/teacher
    python -m training.train training/student.toml runs/student --teacher runs/teacher [--unlabelled FOLDER]

One loss serves both: cross-entropy against target probabilities, which are the labels, the teacher's scores, or a mixture.
A head that nobody has labelled costs nothing. After a kill the same command goes on behind the last epoch that ended.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

from training.corpus import Example, codes, load, load_texts
from triage.decide import Policy, choose_urgency
from triage.evaluation import OF_DECISIONS, Answer, measure
from triage.models.base import Array, Labels
from triage.models.bert import TorchBackend, TriageNet, keep_layers, load_checkpoint, save_checkpoint
from triage.profile import Profile, load_profile
from triage.records import URGENCY_LEVELS, severity
from triage.text import clean

PROGRESS = "progress.safetensors"  # in the checkpoint folder until the training ends: what it needs to go on


def targets(examples: Sequence[Example], labels: Labels) -> Array:
    """Return target probabilities (n, labels.total): one-hot, cumulative for urgency, multi-hot; NaN where a head has no label."""
    out = np.zeros((len(examples), labels.total), np.float32)
    known = {"category": labels.category, "flags": labels.flags}
    for row, x in zip(out, examples, strict=True):
        for head, part in labels.slices.items():
            if getattr(x, head) is None:
                row[part] = np.nan
                continue
            for code in codes(x, head):
                if head == "urgency":
                    row[part][: severity(code)] = 1
                else:
                    row[part.start + known.get(head, labels.department).index(code)] = 1
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
    """Return the weighted mean over the batch of the summed head losses; `weight` is (batch,), NaN targets cost nothing."""
    total = torch.zeros_like(weight)
    for head, part in labels.slices.items():
        a, known = logits[:, part], ~target[:, part].isnan().any(-1)
        b = target[:, part].nan_to_num()
        if head in ("category", "department"):
            each = -(b * F.log_softmax(a, -1)).sum(-1)
        else:
            each = F.binary_cross_entropy_with_logits(a, b, reduction="none").mean(-1)
        total = total + heads[head] * each * known
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
        decay = optimiser["weight_decay"] if p.dim() > 1 else 0.0
        groups.append({"params": [p], "lr": rate, "initial_lr": rate, "weight_decay": decay})
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
    """What is learnt from: cleaned texts, target probabilities (n, labels.total), weights (n,), and with a teacher its
    sentence vectors (n, width)."""

    texts: list[str]
    target: Array
    weight: list[float]
    vectors: Array | None = None


def gather_material(
    config: dict[str, Any], labels: Labels, teachers: Sequence[Path], unlabelled: Path | None, more: Sequence[Path],
    profile: Profile | None = None,
) -> Material:  # fmt: skip
    """Read the training texts and those of `more` files, and the unlabelled ones when there are teachers to label them.

    Several teachers: the mean of their probabilities; the sentence vectors are the first one's. A head without a label is the
    teachers' alone.
    """
    examples = [x for path in (Path(config["data"]["train"]), *more) for x in load(path, profile)]
    texts = [clean(x.text).text for x in examples]
    target, weight = targets(examples, labels), [1.0] * len(texts)
    vectors = None
    if teachers:
        hard = config["distillation"]["hard"]
        known = set(texts)
        extra = [t for t in load_texts(unlabelled) if t not in known] if unlabelled else []
        half = config["optimiser"]["bfloat16"] and has_bfloat16(torch.device("cpu"))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            told = [TorchBackend(t, config["data"]["max_tokens"]).outputs(texts + extra) for t in teachers]
        taught = np.mean([soft_targets(logits, labels) for logits, _ in told], axis=0)
        mixed = hard * target + (1 - hard) * taught[: len(texts)]
        target = np.concatenate([np.where(np.isnan(target), taught[: len(texts)], mixed), taught[len(texts) :]])
        texts, weight = texts + extra, weight + [config["distillation"]["unlabelled"]] * len(extra)
        vectors = told[0][1]
    return Material(texts, target, weight, vectors)


def model_answers(net: TriageNet, tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> list[Answer]:
    """Return what the network alone says of each example: the likeliest category and department, all else at one half."""
    net.eval()
    ids = tokenizer([clean(x.text).text for x in examples], truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    logits = np.zeros((len(ids), net.labels.total), np.float32)
    with torch.inference_mode():
        for rows in (order[at : at + 32] for at in range(0, len(order), 32)):
            x = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            logits[rows] = (
                net(*(x[k].to(net.heads.weight.device) for k in ("input_ids", "attention_mask"))).cpu().numpy()
            )
    labels, out = net.labels, []
    for p in map(net.labels.probabilities, logits.tolist()):
        department = labels.department[int(np.argmax(p["department"]))]
        urgency = dict(zip(URGENCY_LEVELS, p["urgency"], strict=True))
        out.append(Answer(
            labels.category[int(np.argmax(p["category"]))], choose_urgency(urgency, Policy().thresholds), department,
            frozenset(c for c, q in zip(labels.department, p["co_departments"], strict=True) if q > 0.5) - {department},
            frozenset(c for c, q in zip(labels.flags, p["flags"], strict=True) if q > 0.5),
        ))  # fmt: skip
    return out


def has_bfloat16(device: torch.device) -> bool:
    """Whether the processor computes in bfloat16 itself; emulated it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def silence(net: TriageNet, target: Array) -> None:
    """Make new heads for which no row of `target` (n, labels.total) has a label say nothing: all labels alike, or none."""
    for head, part in net.labels.slices.items():
        if np.isnan(target[:, part]).all():
            with torch.no_grad():
                net.heads.weight[part] = 0.0
                net.heads.bias[part] = 0.0 if head in ("category", "department") else -4.0


def save_progress(path: Path, net: TriageNet, optimizer: torch.optim.Optimizer, about: dict[str, str]) -> None:
    """Write weights and moments at once (safetensors), so that a kill leaves the file of the last epoch or of this one."""
    tensors = {f"net {name}": value for name, value in net.state_dict().items()}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer {i} {name}": value for name, value in moments.items()}
    scratch = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, scratch, about)
    scratch.replace(path)


def load_progress(path: Path, net: TriageNet, optimizer: torch.optim.Optimizer, of: str) -> dict[str, str]:
    """Put back what `save_progress` wrote, and return its `about`; {} when there is none, or one of another training."""
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        about: dict[str, str] = file.metadata()
        if about["of"] != of:
            return {}
        weights: dict[str, Tensor] = {}
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name in file.keys():  # noqa: SIM118 - no mapping
            kind, *rest = name.split(" ")
            if kind == "net":
                weights[rest[0]] = file.get_tensor(name)
            else:
                moments[int(rest[0])][rest[1]] = file.get_tensor(name)
    net.load_state_dict(weights)
    optimizer.load_state_dict({"state": dict(moments), "param_groups": optimizer.state_dict()["param_groups"]})
    return about


def train(
    config: dict[str, Any], out: Path, teachers: Sequence[Path] = (), unlabelled: Path | None = None,
    more: Sequence[Path] = (), also: Sequence[Path] = (), profile: Profile | None = None,
) -> TriageNet:  # fmt: skip
    """Train by `config` (see train.toml) and write the checkpoint folder `out`, anew after every epoch; returns the network.

    more: further labelled files to learn from. unlabelled: a folder of texts for the teacher to label. profile: the labels to
    learn, by default those of `load_profile`.
    After every epoch the log shows the validation split and the labelled files `also`. An epoch's chances depend on seed and number
    alone, so a training that was killed and called again ends as one that was not. On a GPU when there is one.
    Raises InputError for bad data, OSError when the encoder cannot be found.
    """
    optimiser, profile = config["optimiser"], profile or load_profile()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(optimiser["seed"])
    labels = Labels.of(profile)
    source, layers = config["encoder"]["source"], config["encoder"]["layers"]
    new_heads = True
    if (
        Path(source) / "checkpoint.safetensors"
    ).is_file():  # a student starts from its teacher's layers and heads; else go on
        net, tokenizer = load_checkpoint(Path(source))
        new_heads = not net.labels.alike(labels)
        if new_heads:  # of another profile: what it has learnt of requests, and other labels
            net = TriageNet(net.encoder, labels)
        if layers:
            keep_layers(net.encoder, layers)
    else:
        encoder = AutoModel.from_pretrained(source, add_pooling_layer=False)
        tokenizer = AutoTokenizer.from_pretrained(source)
        net = TriageNet(keep_layers(encoder, layers) if layers else encoder, labels)
    net.encoder.config.pool_after = config["encoder"]["pool_after"]
    material = gather_material(config, labels, teachers, unlabelled, more, profile)
    if new_heads:
        silence(net, material.target)
    net.to(device)
    checks = {path.stem: load(path, profile) for path in (Path(config["data"]["validation"]), *also)}
    net.norm.momentum = optimiser["norm_momentum"]
    optimizer = torch.optim.AdamW(parameter_groups(net, optimiser), fused=True)
    went_in = (
        json.dumps([config, labels.to_dict(), material.texts, material.weight]).encode() + material.target.tobytes()
    )
    of, kept = hashlib.sha256(went_in).hexdigest(), out / PROGRESS
    done = {name: int(n) for name, n in load_progress(kept, net, optimizer, of).items() if name != "of"}
    ids = tokenizer(material.texts, truncation=True, max_length=config["data"]["max_tokens"])["input_ids"]
    an_epoch = math.ceil(len(material.texts) / optimiser["batch"])
    epochs = max(optimiser["epochs"], math.ceil(optimiser.get("least_steps", 0) / an_epoch))
    steps = epochs * an_epoch
    taken = done.get("steps", 0)
    schedule = get_linear_schedule_with_warmup(optimizer, int(optimiser["warmup"] * steps), steps, taken - 1)
    half = optimiser["bfloat16"] and has_bfloat16(device)
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar) as progress:
        whole = progress.add_task("all epochs", total=steps, completed=taken)
        for epoch in range(done.get("epoch", 0) + 1, epochs + 1):
            rng = random.Random(optimiser["seed"] * 1000 + epoch)
            torch.manual_seed(optimiser["seed"] * 1000 + epoch)
            net.train()
            if epoch > epochs - optimiser["settle_epochs"]:
                net.norm.eval()
            plan, running = batches([len(i) for i in ids], optimiser["batch"], rng), 0.0
            for chosen in progress.track(plan, description=f"epoch {epoch}"):
                x = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
                weight = torch.tensor([material.weight[i] for i in chosen], device=device)
                target = torch.from_numpy(material.target[chosen]).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    vector = net.embed(x["input_ids"].to(device), x["attention_mask"].to(device))
                    logits = net.heads(net.dropout(vector)).float()
                step_loss = loss(logits, target, weight, labels, config["loss"])
                if material.vectors is not None:
                    wanted = torch.from_numpy(material.vectors[chosen]).to(device)
                    apart = 1 - F.cosine_similarity(vector.float(), wanted)
                    step_loss = step_loss + config["distillation"]["vector"] * (apart * weight).sum() / weight.sum()
                step_loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                running += step_loss.item()
                taken += 1
                progress.advance(whole)
            progress.console.print(f"epoch {epoch}: loss {running / len(plan):.3f}", soft_wrap=True)
            for name, examples in checks.items():
                got = measure(
                    examples, model_answers(net, tokenizer, examples, config["data"]["max_tokens"]), min_support=10
                )
                told = ", ".join(f"{m} {got[m]:.3f}" for m in got if m not in OF_DECISIONS and got[m] == got[m])
                progress.console.print(f"  {name}: {told}", soft_wrap=True)
            save_checkpoint(net.eval(), tokenizer, out)
            save_progress(kept, net, optimizer, {"of": of, "epoch": str(epoch), "steps": str(taken)})
    kept.unlink(missing_ok=True)
    return net


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--teacher", "teachers", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="checkpoint folder to distil from; several: their mean")  # fmt: skip
@click.option(
    "--unlabelled", type=click.Path(path_type=Path, exists=True), help="folder of JSONL with `text`, to distil on"
)
@click.option("--also-train", "more", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="another labelled JSONL file to learn from")  # fmt: skip
@click.option("--also-evaluate", "also", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="another labelled JSONL file to watch")  # fmt: skip
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels to learn")
@click.option("--threads", type=int, default=0, help="torch threads; default all cores")
def main(
    config: Path,
    out: Path,
    teachers: tuple[Path, ...],
    unlabelled: Path | None,
    more: tuple[Path, ...],
    also: tuple[Path, ...],
    profile: str,
    threads: int,
) -> None:
    """Train the model that CONFIG describes and write the checkpoint folder OUT."""
    if threads:
        torch.set_num_threads(threads)
    train(tomllib.loads(config.read_text("utf-8")), out, teachers, unlabelled, more, also, load_profile(profile))
    shutil.copy(config, out / "training.toml")
    click.echo(json.dumps({"checkpoint": str(out)}))


if __name__ == "__main__":
    main()
