"""What does more data, or a choice in training, bring? Small trainings side by side, measured on the validation split.

    python -m training.ablation training/ablation.toml runs/ablation [--also-evaluate FILE.jsonl] [--plot curve.png]

Every `[[run]]` of the TOML changes something of the base configuration: `size` (training requests, drawn at random, the two of
a contrast pair together), `seed`, or any section of it. Runs of one name are averaged over their seeds. Finished runs are
kept in the folder, so that a broken-off ablation goes on where it stopped.
"""

from __future__ import annotations

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
from training.evaluate import MEASURES, OF_DECISIONS, measure
from training.train import model_answers, train
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


def configuration(base: dict[str, Any], run: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the base configuration changed by one run; a drawn training file is written into `folder`."""
    config = {section: dict(values) for section, values in base.items()}
    for section, values in run.items():
        if isinstance(values, dict):
            config[section] |= values
    config["optimiser"]["seed"] = run.get("seed", config["optimiser"]["seed"])
    lines = [line for line in Path(config["data"]["train"]).read_text("utf-8").splitlines() if line.strip()]
    drawn = draw(lines, run.get("size", len(lines)), config["optimiser"]["seed"])
    config["data"]["train"] = str(folder / "train.jsonl")
    (folder / "train.jsonl").write_text("\n".join(drawn) + "\n", "utf-8")
    return config


def perform(
    base: dict[str, Any], run: dict[str, Any], folder: Path, also: Sequence[Path]
) -> dict[str, dict[str, float]]:
    """Train one run and return {evaluated file: measures}; a run that has finished before is only read."""
    done = folder / "result.json"
    if done.is_file():
        known: dict[str, dict[str, float]] = json.loads(done.read_text("utf-8"))
        return known
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration(base, run, folder)
    train(config, folder)
    net, tokenizer = load_checkpoint(folder)
    result = {}
    for path in (Path(config["data"]["validation"]), *also):
        examples = load(path)
        got = measure(examples, model_answers(net, tokenizer, examples, config["data"]["max_tokens"]), min_support=10)
        result[path.stem] = {m: got[m] for m in SHOWN}
    done.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def plot(sizes: dict[int, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw the learning curve: one panel a measure, one line an evaluated file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(CURVE), figsize=(4 * len(CURVE), 3.2), sharex=True)
    x = sorted(sizes)
    for panel, name in zip(panels, CURVE, strict=True):
        for evaluated in sizes[x[0]]:
            panel.plot(x, [sizes[n][evaluated][name] for n in x], marker="o", label=evaluated)
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
    "--plot", "picture", type=click.Path(path_type=Path), help="draw the runs with a `size` as a learning curve"
)
def main(plan: Path, out: Path, also: tuple[Path, ...], picture: Path | None) -> None:
    """Perform the runs of PLAN in the folder OUT and print their measures."""
    base = tomllib.loads(plan.read_text("utf-8"))
    runs, console = base.pop("run"), Console()
    results: dict[str, list[dict[str, dict[str, float]]]] = defaultdict(list)
    sizes = {}
    for number, run in enumerate(runs):
        console.print(f"run {number + 1} of {len(runs)}: {run['name']}")
        result = perform(base, run, out / f"{number:02d}", also)
        results[run["name"]].append(result)
        if "size" in run:
            sizes[run["size"]] = result
    for evaluated in next(iter(results.values()))[0]:
        table = Table("run", *SHOWN, title=f"{evaluated}, model alone")
        for name, repeats in results.items():
            columns = ([r[evaluated][m] for r in repeats] for m in SHOWN)
            table.add_row(name, *(f"{np.mean(c):.3f}" + (f" ± {np.std(c):.3f}" if len(c) > 1 else "") for c in columns))
        console.print(table)
    if picture:
        plot(sizes, picture)


if __name__ == "__main__":
    main()
