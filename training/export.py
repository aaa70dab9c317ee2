"""Make a model folder out of a checkpoint: int8 ONNX, temperatures, decision weights, evaluation, card, checksums.

python -m training.export runs/student triage/models/default [--also FILE.jsonl] [--teacher FOLDER] [--encoder FOLDER]
    [--data FOLDER --profile P]
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from safetensors.numpy import load_file

from training.calibrate import RISK, blend, fit_cascade, fit_policy, temperatures
from training.corpus import DATA, HEADS, Example, codes, load
from training.evaluate import WIDTH, Baselines, Evaluation, evaluate, taught
from triage.engine import Triager
from triage.evaluation import MEASURES, Grid, cell
from triage.models import ngrams
from triage.models.base import Array
from triage.models.bert import TriageNet, load_checkpoint
from triage.models.folder import MANIFEST, ModelFolder
from triage.models.mixture import Mixture
from triage.models.ngrams import NgramBackend
from triage.models.onnx import OnnxBackend
from triage.profile import Profile, load_profile
from triage.rules.book import load_rules
from triage.text import clean

E5 = "intfloat/multilingual-e5-small"  # what `training.base_model` makes by default
ERRORS = 10  # of the validation split, shown in the card


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


CORPUS = (
    "The corpus of `training/data` (its card tells how it was written, labelled, and what went wrong): written for this project, "
    "not collected; nobody in it is real."
)
LIMITS = """\
- Training data written, not collected: real requests are barer and messier than the corpus.
- Zhengzhou, January 2022 is most of it; other emergencies and cities are a fifth.
- Dialect is mostly Henan's; groups marked * above are too small to promise anything.
- All annotators were language models of one kind: agreement shows consistency rather than correctness.
- Co-departments are labelled less surely than the rest."""
OTHER_LIMITS = """\
- What the training data does not tell, the model has not learnt; groups marked * above are too small to promise anything.
- How sure the labels are, this card does not know: let two people label a hundred requests without seeing each other's."""


def card(evaluations: Sequence[Evaluation], about: Mapping[str, object], note: str, origin: str = "") -> str:
    """Return the model card (Hugging Face form; Mitchell et al. 2019) of a model, generated from its evaluations.

    origin: what the training data is, when it is not the corpus.
    The first evaluation's worst errors are shown with their texts: it must be of texts written for the project.
    """

    def tables(*grids: Grid) -> str:
        return "\n".join(grid.markdown() for grid in grids)

    promised = Grid("What review promises, and what came out", ("requests", "critical", "critical unseen", "review share"),
                    [[e.title, str(e.report.critical), *(cell(e.report.measures.get(m)) for m in ("critical unseen", "review share"))]
                     for e in evaluations])  # fmt: skip
    errors = [[str(value).replace("|", "/") for value in error.values()] for e in evaluations[:1] for error in e.errors]
    metadata = ["language: zh", "license: mit", "library_name: triage", "pipeline_tag: text-classification",
                "tags: [triage, emergency, onnx, int8]", f"base_model: {about.get('encoder', E5)}"]  # fmt: skip
    sections = [
        "\n".join(["---", *metadata, "---"]),
        "# triage model",
        "Multi-task Chinese BERT: category, urgency (ordered), department, co-departments and risk flags of a citizen's request "
        "for help, read together with the rules of `triage`.",
        "\n".join(f"- {name}: {value}" for name, value in about.items()),
        "## Intended use",
        "To put requests that came in as text in order, and to show a dispatcher what first, whom to send, and the words that say so. "
        "A person reads every request; the model decides in which order. It expects Chinese as citizens type, say or forward it, "
        "and the departments and categories of a profile.",
        "## Out of scope",
        "- Diagnosis, advice to the caller, and closing a request that nobody has read.\n"
        "- Judging people: whether somebody tells the truth, deserves help, or is who they say.\n"
        "- Speech, photographs, locations: nothing is seen that is not in the text. Languages other than Chinese.\n"
        "- Categories, departments or an urgency scale of another kind: they need training, not a profile.",
        "## Training data",
        (origin or CORPUS) + " " + (f"How it was trained: {note.rstrip('.')}. " if note else "")
        + "`training.toml` configures the last step. Temperatures, weights and thresholds are fitted on the validation split.",
        "## Evaluation",
        "Value (95 % bootstrap interval). The validation split has served for calibration, so its figures flatter. *model and floors*: "
        "of the rules only the red flags. *from category*: the true category known, its usual urgency and department guessed.",
        tables(*(e.grids()[0] for e in evaluations)),
        "## Who is served worse?",
        tables(*(e.grids()[1] for e in evaluations)),
        "## Calibration",
        tables(*(e.grids()[2] for e in evaluations)),
        "## Cascade",
        tables(*(price(e) for e in evaluations if "no cascade" in e.systems)) or "This model has no first stage.",
        "## Review",
        f"Fitted so that at most {RISK:.0%} of critical requests are called lower than urgent and not shown to a person, by conformal "
        "risk control on the validation split; it holds for requests of the same kind, not for others.",
        tables(promised),
        "## Limits",
        OTHER_LIMITS if origin else LIMITS,
    ]  # fmt: skip
    if errors:
        sections += [
            "## Error examples",
            tables(Grid(f"Worst errors on {evaluations[0].name}", ("id", "request", "true", "called"), errors)),
        ]
    return "\n\n".join(s.strip("\n") for s in sections) + "\n"


def price(evaluation: Evaluation) -> Grid:
    """Return what the cascade costs: each measure with and without it."""
    shipped, whole = evaluation.systems["shipped"], evaluation.systems["no cascade"]
    rows = [
        [m, cell(whole[m]), cell(shipped[m]), f"{shipped[m][0] - whole[m][0]:+.3f}"] for m in MEASURES if m in whole
    ]
    share = cell(shipped.get("answered by first stage", (0.0, 0.0, 0.0)))
    return Grid(
        f"{evaluation.name}: the first stage answers {share} alone", ("measure", "without", "with", "price"), rows
    )


def logits(backend: OnnxBackend | NgramBackend, examples: Sequence[Example]) -> Array:
    """Return the raw logits (n, labels.total) of each request, of a long one those of its first window."""
    return np.stack([np.atleast_2d(backend.logits(clean(x.text).text))[0] for x in examples])


def calibrate(work: Path, judged: Sequence[Example], city: Profile) -> None:
    """Write labels.json, decision.json and, where there are n-grams, cascade.json into a folder that holds the weights."""
    bert, rules = OnnxBackend(ModelFolder.seal(work)), load_rules(profile=city)
    raw = logits(bert, judged)
    if (work / ngrams.FILE).is_file():
        first = NgramBackend(load_file(work / ngrams.FILE), bert.labels, bert.model_id)
        second = logits(first, judged)
        first.labels = temperatures(second, judged, bert.labels)
        weight, bert.labels = blend(raw, second, judged, bert.labels)
        policy = fit_policy(backend := Mixture(bert, first, weight), rules, judged)
        write_json(work / "cascade.json", {
            "temperature": dict(first.labels.temperature), "weight": weight,
            "certain": fit_cascade(Triager(backend, rules, city, policy), first, judged),
        })  # fmt: skip
    else:
        bert.labels = temperatures(raw, judged, bert.labels)
        policy = fit_policy(bert, rules, judged)
    write_json(work / "labels.json", bert.labels.to_dict())
    write_json(work / "decision.json", policy.to_dict())
    ModelFolder.seal(work)


def for_baselines(train: Sequence[Example]) -> list[Example]:
    """Return the requests that every head is labelled of; none where a head then has too few labels to choose between."""
    whole = [x for x in train if all(getattr(x, head) is not None for head in HEADS)]
    return whole if all(len({code for x in whole for code in codes(x, head)}) > 1 for head in HEADS) else []


def package(
    checkpoint: Path, out: Path, also: tuple[Path, ...] = (), note: str = "", more: tuple[Path, ...] = (),
    teacher: Path | None = None, encoder: Path | None = None, *, data: Path = DATA, profile: str | Path = "zhengzhou",
    origin: str = "", made: Mapping[str, object] | None = None,
) -> ModelFolder:  # fmt: skip
    """Export, calibrate, evaluate and seal; `out` is only replaced when all of it has worked.

    data: folder of train.jsonl, validation.jsonl, test.jsonl, labelled by `profile`. origin: what the data is, for the card, when
    it is not the corpus; its texts are then not shown. made: what else the manifest shall hold.
    more: labelled files to calibrate on beside the validation split. also: files to evaluate on beside the test split.
    teacher, encoder: checkpoint and frozen encoder to compare with.
    Raises ModelError for a folder that is no checkpoint, InputError for bad data.
    """
    net, _ = load_checkpoint(checkpoint)
    city = load_profile(profile)
    judged = [x for path in (data / "validation.jsonl", *more) for x in load(path, city)]
    train = load(data / "train.jsonl", city)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "model"
        work.mkdir()
        write_onnx(net, work / "model.onnx")
        tokenizer = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))
        (work / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), "utf-8")
        shutil.copy(checkpoint / "training.toml", work / "training.toml")
        write_json(work / "labels.json", net.labels.to_dict())
        if (checkpoint / ngrams.FILE).is_file():
            shutil.copy(checkpoint / ngrams.FILE, work / ngrams.FILE)
        calibrate(work, judged, city)

        triager, simple = Triager.load(work, profile=profile), for_baselines(train)
        baselines = Baselines(simple, encoder) if simple else None
        master = taught(triager, teacher, judged) if teacher else None
        evaluations: list[Evaluation] = []
        for path in (data / "validation.jsonl", data / "test.jsonl", *also):
            evaluations.append(evaluate(
                triager, load(path, city), baselines, master, name=path.name, min_support=10 if path in also else 1,
                show_errors=0 if evaluations or origin else ERRORS,
            ))  # fmt: skip
            for grid in evaluations[-1].grids():
                Console(width=WIDTH).print(grid.rich())
        about: dict[str, object] = {
            "kind": "onnx-bert-int8",
            "profile": f"{city.name} {city.fingerprint}",
            "encoder": (made or {}).get("encoder", E5),
            "first stage": f"answers from {triager.cascade.certain:.2f}" if triager.cascade else "none",
            "layers": net.encoder.config.num_hidden_layers,
            "tokens halved after layer": net.pool_after,
            "width": net.encoder.config.hidden_size,
            "attention heads": net.encoder.config.num_attention_heads,
            "vocabulary": net.encoder.config.vocab_size,
            "training requests": len(train),
            "data sha256": hashlib.sha256((data / "train.jsonl").read_bytes()).hexdigest()[:16],
            "rules": triager.fingerprints["rules"],
            "made with": f"torch {version('torch')}, transformers {version('transformers')}, onnxruntime {version('onnxruntime')}",
        }
        write_json(work / "evaluation.json", {e.name: e.to_dict() for e in evaluations})
        (work / "README.md").write_text(card(evaluations, about, note, origin), "utf-8")
        ModelFolder.seal(work, **about, **({"run": made} if made else {}))
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
@click.option("--also-calibrate", "more", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="fit temperatures, weights and thresholds on this file as well")  # fmt: skip
@click.option("--note", default="", help="how it was trained, for the model card")
@click.option("--teacher", type=click.Path(path_type=Path, exists=True), help="its checkpoint folder, to compare with")
@click.option("--encoder", type=click.Path(path_type=Path, exists=True), help="frozen encoder to compare with")
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA, show_default="the corpus",
              help="folder of train.jsonl, validation.jsonl, test.jsonl")  # fmt: skip
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels the data holds")
def main(
    checkpoint: Path, out: Path, also: tuple[Path, ...], more: tuple[Path, ...], note: str, teacher: Path | None,
    encoder: Path | None, data: Path, profile: str,
) -> None:  # fmt: skip
    """Make the model folder OUT out of a CHECKPOINT folder that training.train wrote."""
    origin = "" if data.resolve() == DATA.resolve() else f"The labelled requests of `{data.name}`."
    folder = package(checkpoint, out, also, note, more, teacher, encoder, data=data, profile=profile, origin=origin)
    size = sum(p.stat().st_size for p in folder.path.iterdir()) / 1e6
    click.echo(f"{folder.path}: {folder.fingerprint}, {size:.1f} MB")


if __name__ == "__main__":
    main()
