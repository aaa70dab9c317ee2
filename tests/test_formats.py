"""Labelled requests in, as people have them, and out to be labelled: every format, every fault."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from training.corpus import DATA, Example, load
from training.formats import read, to_doccano, to_label_studio
from triage.errors import InputError
from triage.profile import Profile, load_profile

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
