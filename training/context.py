"""How well is it told whether a mentioned fact holds? The rules' context algorithm alone, on annotated mentions.

    python -m training.context [training/data/context/test.jsonl]

One JSON object a line: `text`, `fact` (words that occur once in it) and `status`, as people judged it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from training.corpus import DATA
from triage.errors import InputError
from triage.records import Status
from triage.rules.book import RuleBook, load_rules
from triage.text import clean


def load_mentions(path: Path) -> list[dict[str, str]]:
    """Read annotated mentions. Raises InputError naming every line whose fact or status is not usable."""
    rows, faults = [], []
    for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        row: dict[str, str] = json.loads(line)
        if clean(row["text"]).text.count(clean(row["fact"]).text) != 1:
            faults.append(f"{path}:{n}: the fact must occur once in the text")
        elif row["status"] not in set(Status):
            faults.append(f"{path}:{n}: status must be one of {', '.join(Status)}")
        rows.append(row)
    if faults:
        raise InputError("\n".join(faults))
    return rows


def judge(book: RuleBook, rows: list[dict[str, str]]) -> list[str]:
    """Return the status that the context algorithm gives each annotated fact."""
    out = []
    for row in rows:
        text, fact = clean(row["text"]), clean(row["fact"]).text
        start = text.text.index(fact)
        out.append(book.status(text, start, start + len(fact))[0].value)
    return out


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True), default=DATA / "context" / "test.jsonl")
@click.option("--errors", is_flag=True, help="list the mentions that are judged otherwise")
def main(data: Path, errors: bool) -> None:
    """Print precision, recall and F1 of every status on the annotated mentions of DATA."""
    from sklearn.metrics import classification_report

    rows, console = load_mentions(data), Console()
    given = judge(load_rules(), rows)
    report: dict[str, Any] = classification_report(
        [r["status"] for r in rows], given, output_dict=True, zero_division=0
    )
    table = Table("status", "precision", "recall", "F1", "support", title=f"{data.name}: {len(rows)} mentions")
    for name in (*Status, "macro avg"):
        values = report[name]
        table.add_row(
            name, *(f"{values[k]:.3f}" for k in ("precision", "recall", "f1-score")), f"{values['support']:.0f}"
        )
    console.print(table)
    if errors:
        for row, got in zip(rows, given, strict=True):
            if got != row["status"]:
                console.print(f"{row['status']} -> {got}: {row['fact']} | {row['text']}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
