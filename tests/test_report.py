"""The report of a run: one page that needs nothing else, its twin in Markdown, nobody's telephone in either."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from training import plots, report
from training.corpus import DATA, Example, load
from triage.engine import Triager
from triage.evaluation import Answer, Reliability, answers, figures
from triage.models.folder import SHIPPED
from triage.report_html import STYLE

PHONE = "13812345678"


def put(path: Path, rows: list[Example]) -> None:
    path.write_text("".join(json.dumps(asdict(x), ensure_ascii=False) + "\n" for x in rows), "utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of requests; in each stands a telephone, and some have no department."""
    data = tmp_path_factory.mktemp("data")
    for split, rows in {"train": load(DATA / "train.jsonl")[::70], "validation": load(DATA / "validation.jsonl")[::20],
                        "test": load(DATA / "train.jsonl")[5::190]}.items():  # fmt: skip
        put(data / f"{split}.jsonl", [replace(x, text=f"{x.text}，电话{PHONE}", department=x.department if i % 2 else None,
                                              co_departments=x.co_departments if i % 2 else None) for i, x in enumerate(rows)])  # fmt: skip
    (data / "left_out.json").write_text('{"the same text again": ["a7"]}', "utf-8")
    put(data / "old.jsonl", load(DATA / "train.jsonl")[7::100])
    return data


@pytest.fixture(scope="module")
def written(folder: Path) -> tuple[str, str, list[report.Section]]:
    out = folder / "out"
    sections = report.write(SHIPPED, folder, out, seconds={"student": 61.0}, old=folder / "old.jsonl")
    return (out / "report.html").read_text("utf-8"), (out / "report.md").read_text("utf-8"), sections


def test_every_section_stands_in_both(written: tuple[str, str, list[report.Section]]) -> None:
    page, text, sections = written
    assert {section.key for section in sections} == set(report.TEXTS)
    for section in sections:
        for twin in (page, text):
            assert section.title in twin
            assert all(grid.title in twin for grid in section.grids if grid.rows)
        assert all(any("\u4e00" <= c <= "\u9fff" for c in part) for part in (section.title, section.note))
    assert "a7" in page
    assert "61 s" in text


def test_the_page_needs_nothing_else(written: tuple[str, str, list[report.Section]]) -> None:
    page = written[0]
    assert not re.search(
        r"""(src|href)\s*=\s*["'](?!#|data:)|url\((?!#)|@import|font-family""", page.replace(STYLE, "")
    )
    assert page.count("<svg") == sum(len(section.plots) for section in written[2]) >= 6


def test_nobody_can_be_rung_up(written: tuple[str, str, list[report.Section]]) -> None:
    for twin in written[:2]:
        assert PHONE not in twin
        assert "电话" in twin  # so texts were there, covered


def test_a_model_is_measured_against_the_one_in_force(
    folder: Path, written: tuple[str, str, list[report.Section]]
) -> None:
    assert "This is the model in force." in written[1]
    other = folder / "other"
    other.mkdir()
    for path in SHIPPED.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "manifest.json").write_text(
        json.dumps(json.loads((SHIPPED / "manifest.json").read_text("utf-8")), indent=2), "utf-8"
    )
    triager, test = Triager.load(other), load(folder / "test.jsonl")
    same = answers(triager, [x.text for x in test])

    def rows(given: list[Answer]) -> dict[str, list[str]]:
        got = report.against(triager, SHIPPED, test, given, "zhengzhou", figures(test, given))
        return {row[0].split(" ↑")[0]: list(row) for row in got.grids[0].rows}

    assert {(row[3].split()[0], row[4]) for row in rows(same).values()} == {("+0.000", "")}
    careless = [replace(a, urgency="routine") for a in same]
    assert rows(careless)["critical recall"][4] == "▼"


def said(urgency: str, likely: float, review: bool = False) -> Answer:
    return Answer(
        "other", urgency, "d", frozenset(), frozenset(), needs_review=review, chance={"at least": {"urgent": likely}}
    )


def test_who_is_doubted_most_is_shown_first() -> None:
    truth = [Example(str(i), "", None, u, None) for i, u in enumerate(["critical", "critical", "routine", "critical"])]
    given = [said("critical", 0.9), said("routine", 0.3), said("routine", 0.2), said("priority", 0.1)]
    assert plots.review_curve(truth, given) == [(0.0, pytest.approx(1 / 3)), (0.25, pytest.approx(2 / 3)), (0.75, 1.0)]
    assert plots.review_curve(truth[2:3], given[2:3]) == []


def test_words_that_came_and_went_are_found() -> None:
    def rows(words: str, n: int) -> list[Example]:
        return [Example(str(i), f"{words}今天谢谢", None, None, None) for i in range(n)]

    new, old = report.typical([*rows("停水", 30), *rows("停电", 30)], [*rows("核酸", 30), *rows("停电", 30)])
    assert new[0][0] == "停水"
    assert old[0][0] == "核酸"
    assert "停电" not in {row[0] for row in [*new, *old]}
    assert report.typical([], []) == ([], [])


def test_plots_are_drawn_in_chinese_with_the_font_that_comes_along() -> None:
    figure = plots.reliability({"urgency": Reliability(0.1, 0.1, ((0.2, 0.3, 5), (0.8, 0.7, 5)))})
    drawn = plots.svg(figure)
    assert drawn == plots.svg(figure)
    assert "<text" not in drawn
    assert "TriageSans" in drawn  # glyphs are named after their font
