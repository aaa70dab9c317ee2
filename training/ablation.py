"""What does more data, or a choice in training, bring? Small trainings side by side, measured on the validation split.

    python -m training.ablation training/ablation.toml runs/ablation [--also-evaluate FILE.jsonl] [--plot curve.png]

Every `[[run]]` of the TOML changes something of the base configuration: `size` (training requests, drawn at random, the two of
a contrast pair together), `seed`, or any section of it. Runs of one name are averaged over their seeds. Finished runs are
kept in the folder, so that a broken-off ablation goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import random
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from training.corpus import load
from training.train import model_answers, train
from triage.evaluation import MEASURES, OF_DECISIONS, measure
from triage.models.bert import load_checkpoint

SHOWN = [m for m in MEASURES if m not in OF_DECISIONS]
CURVE = ("category macro-F1", "urgency weighted kappa", "critical recall")  # what the plot shows


def draw(lines: Sequence[str], size: int, seed: int) -> list[str]:
    """Return `size` of the JSONL lines at random, contrast pairs unbroken (so one more line at most)."""
    groups: dict[str, list[str]] = defaultdict(list)
    for i, line in enumerate(lines):
        groups[json.loads(line).get("pair") or f"line {i}"].append(line)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    out: list[str] = []
    for group in order:
        if len(out) >= size:
            break
        out += group
    return out


def configuration(base: dict[str, Any], run: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the base configuration changed by one run, and the JSONL lines it trains on."""
    config = {section: dict(values) for section, values in base.items()}
    for section, values in run.items():
        if isinstance(values, dict):
            config[section] |= values
    config["optimiser"]["seed"] = run.get("seed", config["optimiser"]["seed"])
    lines = [line for line in Path(config["data"]["train"]).read_text("utf-8").splitlines() if line.strip()]
    return config, draw(lines, run.get("size", len(lines)), config["optimiser"]["seed"])


def perform(base: dict[str, Any], run: dict[str, Any], folder: Path, also: Sequence[Path]) -> dict[str, Any]:
    """Train one run; returns {"requests": how many, "measures": {evaluated file: measures}, "of": hash of all that went in}.

    A run that has finished before with the same configuration, corpus and files is only read.
    """
    config, lines = configuration(base, run)
    evaluated = [Path(config["data"]["validation"]), *also]
    went_in = json.dumps([config, lines, [path.read_text("utf-8") for path in evaluated]])
    digest, done = hashlib.sha256(went_in.encode()).hexdigest()[:16], folder / "result.json"
    if done.is_file() and (known := json.loads(done.read_text("utf-8")))["of"] == digest:
        return dict(known)
    folder.mkdir(parents=True, exist_ok=True)
    config["data"]["train"] = str(folder / "train.jsonl")
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    train(config, folder)
    net, tokenizer = load_checkpoint(folder)
    measures = {}
    for path in evaluated:
        examples = load(path)
        got = measure(examples, model_answers(net, tokenizer, examples, config["data"]["max_tokens"]), min_support=10)
        measures[path.stem] = {m: got[m] for m in SHOWN}
    result = {"requests": len(lines), "measures": measures, "of": digest}
    done.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def mean(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return {evaluated file: {measure: (mean, standard deviation)}} over the seeds of one run."""
    return {
        evaluated: {m: (float(np.mean(v)), float(np.std(v))) for m in SHOWN
                    if (v := [r["measures"][evaluated][m] for r in results])}
        for evaluated in results[0]["measures"]
    }  # fmt: skip


def plot(curve: dict[int, dict[str, dict[str, tuple[float, float]]]], path: Path) -> None:
    """Draw the learning curve {requests: `mean`}: one panel a measure, one line an evaluated file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(CURVE), figsize=(4 * len(CURVE), 3.2), sharex=True)
    x = sorted(curve)
    for panel, name in zip(panels, CURVE, strict=True):
        for evaluated in curve[x[0]]:
            panel.plot(x, [curve[n][evaluated][name][0] for n in x], marker="o", label=evaluated)
        panel.set(title=name, xlabel="training requests", xscale="log", xticks=x, xticklabels=[f"{n:,}" for n in x])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


@click.command()
@click.argument("plan", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--also-evaluate", "also", type=click.Path(path_type=Path, exists=True), multiple=True)
@click.option(
    "--plot",
    "picture",
    type=click.Path(path_type=Path),
    help="draw the runs that change only the size as a learning curve",
)
def main(plan: Path, out: Path, also: tuple[Path, ...], picture: Path | None) -> None:
    """Perform the runs of PLAN in the folder OUT and print their measures."""
    base = tomllib.loads(plan.read_text("utf-8"))
    runs, console = base.pop("run"), Console()
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number, run in enumerate(runs):
        console.print(f"run {number + 1} of {len(runs)}: {run['name']}")
        results[run["name"]].append(perform(base, run, out / f"{number:02d}", also))
    means = {name: mean(repeats) for name, repeats in results.items()}
    for evaluated in next(iter(means.values())):
        table = Table("run", *SHOWN, title=f"{evaluated}, model alone")
        for name, repeats in results.items():
            figures = means[name][evaluated].values()
            table.add_row(name, *(f"{m:.3f}" + (f" ± {sd:.3f}" if len(repeats) > 1 else "") for m, sd in figures))
        console.print(table)
    if picture:
        sized = {run["name"] for run in runs if not set(run) - {"name", "size", "seed"}}
        plot({results[name][0]["requests"]: means[name] for name in sized}, picture)


if __name__ == "__main__":
    main()
