"""Fit the linear model over characters and pairs: first stage of the cascade, and second opinion beside the BERT.

    python -m training.ngrams training/student.toml runs/student [--also-train FILE.jsonl] [--unlabelled FOLDER]

Writes `ngrams.safetensors` into the checkpoint folder, where `training.export` finds it. Takes a minute. Labelled texts count with
their labels, unlabelled ones with what the checkpoint says of them: each is learnt as "yes" and as "no", weighted by its probability.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from training.train import Material, gather_material
from triage.models.base import Labels
from triage.models.bert import load_checkpoint
from triage.models.ngrams import runs, save
from triage.profile import Profile, load_profile

LEAST = 0.02  # probability from which a text is an example of an answer at all
NEVER = -6.0  # log-odds of a label that no text has; of one that all have, the reverse


def _keys(text: str) -> list[int]:
    keys: list[int] = runs(text).tolist()
    return keys


def weights(material: Material, settings: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return what `triage.models.ngrams.NgramBackend` computes with.

    settings: `runs` (the most frequent are kept), `at_least` (texts that a run must stand in), `strength` (inverse
    regularisation of the logistic regressions, one a label).
    """
    counter = CountVectorizer(
        analyzer=_keys, max_features=settings["runs"], min_df=min(settings["at_least"], len(material.texts))
    )
    counts = counter.fit_transform(material.texts)
    scaler = TfidfTransformer(sublinear_tf=True)
    x, weight = scaler.fit_transform(counts), np.asarray(material.weight)
    table, bias = np.zeros(material.target.shape[1:] + x.shape[1:]), np.full(material.target.shape[1], NEVER)
    for column in track(range(len(table)), "n-grams", console=Console(stderr=True)):
        p = material.target[:, column].astype(np.float64)
        yes, no = p > LEAST, p < 1 - LEAST  # an unlabelled text (NaN) is neither
        if not (yes & (p > 0.5)).any():
            continue
        if not no.any():
            bias[column] = -NEVER
            continue
        truth = np.r_[np.ones(yes.sum()), np.zeros(no.sum())]
        fit = LogisticRegression(C=settings["strength"], solver="liblinear", random_state=0).fit(
            vstack([x[yes], x[no]]), truth, sample_weight=np.r_[(p * weight)[yes], ((1 - p) * weight)[no]]
        )
        table[column], bias[column] = fit.coef_[0], fit.intercept_[0]
    keys = counter.get_feature_names_out().astype(np.uint32)
    order = np.argsort(keys)
    scale = np.maximum(np.abs(table).max(1), 1e-6) / 127
    return {
        "runs": keys[order],
        "rarity": scaler.idf_[order].astype(np.float32),
        "table": np.round(table / scale[:, None]).astype(np.int8)[:, order].T,
        "scale": scale.astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def fit(
    config: dict[str, Any], checkpoint: Path, unlabelled: Path | None = None, more: tuple[Path, ...] = (),
    profile: Profile | None = None,
) -> None:  # fmt: skip
    """Fit by `[ngrams]` of the configuration and save into the checkpoint's folder; the checkpoint labels the unlabelled texts."""
    labels: Labels = load_checkpoint(checkpoint)[0].labels
    config = config | {"distillation": config["distillation"] | {"hard": 1.0}}
    material = gather_material(config, labels, [checkpoint] if unlabelled else [], unlabelled, more, profile)
    save(weights(material, config["ngrams"]), checkpoint)


@click.command()
@click.argument("config", type=click.Path(path_type=Path, exists=True))
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--unlabelled", type=click.Path(path_type=Path, exists=True), help="folder of JSONL with `text`")
@click.option("--also-train", "more", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="another labelled JSONL file to learn from")  # fmt: skip
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels to learn")
def main(config: Path, checkpoint: Path, unlabelled: Path | None, more: tuple[Path, ...], profile: str) -> None:
    """Fit the n-grams for the CHECKPOINT that training.train wrote by CONFIG."""
    fit(tomllib.loads(config.read_text("utf-8")), checkpoint, unlabelled, more, load_profile(profile))


if __name__ == "__main__":
    main()
