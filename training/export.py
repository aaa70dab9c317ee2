"""Make a model folder out of a checkpoint: int8 ONNX, temperatures, decision weights, evaluation, card, checksums.

python -m training.export runs/student triage/models/default [--also FILE.jsonl]
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console

from training.calibrate import fit_policy, temperatures
from training.corpus import DATA, load
from training.evaluate import MEASURES, Baselines, as_table, evaluate
from triage.engine import Triager
from triage.models.base import Labels
from triage.models.bert import TriageNet, load_checkpoint
from triage.models.folder import MANIFEST, ModelFolder
from triage.models.onnx import OnnxBackend
from triage.rules.book import load_rules
from triage.text import clean


class _Unpadded(torch.nn.Module):
    """The network for one unpadded text: there is no mask, so nothing of one is in the graph."""

    def __init__(self, net: TriageNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(input_ids)
        return logits


def write_onnx(net: TriageNet, path: Path) -> None:
    """Write the network as dynamic-int8 ONNX: input_ids (1, length) int64 to logits (1, labels.total) float32."""
    net.encoder.set_attn_implementation("eager")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporter and quantiser warn about what they do themselves
        exact = Path(scratch) / "exact.onnx"
        torch.onnx.export(
            _Unpadded(net.eval()), (torch.full((1, 16), 5),), str(exact), input_names=["input_ids"],
            output_names=["logits"], dynamic_axes={"input_ids": {1: "length"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
        # One scale a channel, and 7 bits: processors without VNNI saturate on 8 x 8 bits, and the answers would differ.
        quantize_dynamic(exact, path, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)


def write_json(path: Path, content: object) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")


def card(evaluation: dict[str, dict[str, dict[str, float]]], about: dict[str, object], note: str) -> str:
    """Return the model card (Hugging Face form) with the evaluation tables."""
    lines = [
        "---", "language: zh", "license: mit", "tags: [triage, text-classification, emergency, onnx, int8]",
        "base_model: intfloat/multilingual-e5-small", "---", "", "# triage default model", "",
        "Multi-task Chinese BERT: category, urgency (ordered), department, co-departments and risk flags of a citizen's",
        "request for help. Meant to be read together with the rules, by `triage`; not a diagnosis, not a replacement for",
        "the people who answer. Trained on the written corpus in `training/data` (its card tells how it was made).", "",
        *(f"- {k}: {v}" for k, v in about.items()), "",
    ]  # fmt: skip
    for name, result in evaluation.items():
        lines += [
            f"## Evaluation on {name}",
            "",
            "| measure | " + " | ".join(result) + " |",
            "|---|" + "---|" * len(result),
        ]
        for measure, better in MEASURES.items():
            arrow = "↑" if better == "up" else "↓"
            lines.append(f"| {measure} {arrow} | " + " | ".join(f"{result[r][measure]:.3f}" for r in result) + " |")
        lines.append("")
    lines += [
        "## How it was trained", "",
        note, "", "`training.toml` is the configuration of the last step.", "",
        "## Limits", "",
        "- Mostly written, not collected, training data: real requests are barer and messier than the corpus.",
        "- Zhengzhou, January 2022 is most of it; other emergencies and cities are a fifth.",
        "- Photographs, voice and anything that is not in the text are not seen.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def package(checkpoint: Path, out: Path, also: tuple[Path, ...] = (), note: str = "") -> ModelFolder:
    """Export, calibrate, evaluate and seal; `out` is only replaced when all of it has worked.

    Raises ModelError for a folder that is no checkpoint, InputError for bad data.
    """
    net, _ = load_checkpoint(checkpoint)
    validation, train = load(DATA / "validation.jsonl"), load(DATA / "train.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "model"
        work.mkdir()
        write_onnx(net, work / "model.onnx")
        shutil.copy(checkpoint / "tokenizer.json", work / "tokenizer.json")
        shutil.copy(checkpoint / "training.toml", work / "training.toml")
        write_json(work / "labels.json", net.labels.to_dict())

        backend = OnnxBackend(ModelFolder.seal(work))
        raw = np.stack([backend.logits(clean(x.text).text)[0] for x in validation])
        labels: Labels = temperatures(raw, validation, net.labels)
        write_json(work / "labels.json", labels.to_dict())
        policy = fit_policy(OnnxBackend(ModelFolder.seal(work)), load_rules(), validation)
        write_json(work / "decision.json", policy.to_dict())
        ModelFolder.seal(work)

        triager, baselines = Triager.load(work), Baselines(train)
        evaluation = {}
        for path in (DATA / "validation.jsonl", DATA / "test.jsonl", *also):
            examples = load(path)
            name = f"{path.name}: {len(examples)} requests, {sum(x.urgency == 'critical' for x in examples)} critical"
            evaluation[name] = evaluate(triager, examples, baselines, min_support=10 if path in also else 1)
            Console().print(as_table(name, evaluation[name]))
        about: dict[str, object] = {
            "kind": "onnx-bert-int8",
            "layers": net.encoder.config.num_hidden_layers,
            "width": net.encoder.config.hidden_size,
            "vocabulary": net.encoder.config.vocab_size,
            "training requests": len(train),
            "data sha256": hashlib.sha256((DATA / "train.jsonl").read_bytes()).hexdigest()[:16],
            "rules": triager.fingerprints["rules"],
            "made with": f"torch {version('torch')}, transformers {version('transformers')}, onnxruntime {version('onnxruntime')}",
        }
        write_json(work / "evaluation.json", evaluation)
        (work / "README.md").write_text(card(evaluation, about, note), "utf-8")
        ModelFolder.seal(work, **about)
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted(work.iterdir(), key=lambda p: p.name == MANIFEST):  # the manifest last: it declares the rest
            shutil.copy(path, out / path.name)
    return ModelFolder.open(out)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--also", type=click.Path(path_type=Path, exists=True), multiple=True, help="evaluate on this file as well"
)
@click.option("--note", default="", help="how it was trained, for the model card")
def main(checkpoint: Path, out: Path, also: tuple[Path, ...], note: str) -> None:
    """Make the model folder OUT out of a CHECKPOINT folder that training.train wrote."""
    folder = package(checkpoint, out, also, note)
    size = sum(p.stat().st_size for p in folder.path.iterdir()) / 1e6
    click.echo(f"{folder.path}: {folder.fingerprint}, {size:.1f} MB")


if __name__ == "__main__":
    main()
