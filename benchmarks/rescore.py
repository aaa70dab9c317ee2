"""How fast and how small is re-scoring a backlog?

    python -m benchmarks.rescore                    # a day's 5,566 requests, start-up included; rate against the scorer alone
    python -m benchmarks.rescore --rows 200000
    python -m benchmarks.rescore --memory           # resident memory at 20,000 and 2,000,000 rows, the model a stub

The backlog is made of the corpus's texts, each with other house numbers, so that every row is scored. Rates are compared within
one run, because the machine may be shared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from training.corpus import DATA, load
from triage.engine import Triager
from triage.errors import require

DAY = 5_566


def requests(rows: int) -> Iterator[dict[str, Any]]:
    """Yield so many requests with earlier decisions, none like another."""
    texts = load(DATA / "test.jsonl")
    for i in range(rows):
        one = texts[i % len(texts)]
        yield {"id": str(i), "text": f"{one.text}，{i // len(texts) + 1}号楼", "urgency": "routine", "street": "须水"}


def backlog(folder: Path, rows: int) -> Path:
    """Write a backlog as Parquet, in bounded memory; returns the file."""
    pa, parquet = require("pyarrow", "rescore"), require("pyarrow.parquet", "rescore")
    path, held = folder / f"{rows}.parquet", list[dict[str, Any]]()
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "urgency", "street")])
    with parquet.ParquetWriter(path, schema) as writer:
        for row in requests(rows):
            held.append(row)
            if len(held) == 10_000:
                writer.write_table(pa.Table.from_pylist(held, schema))
                held = []
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema))
    return path


def command_line(source: Path, out: Path) -> float:
    """Return the seconds of `triage rescore`, start-up included."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "triage.cli", "rescore", str(source), "--out", str(out)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


_MEMORY = """
import json, sys, psutil
from benchmarks.warm import TRIAGER
from triage.backlog import rescore
rescore(sys.argv[1], sys.argv[2], triager=TRIAGER)
import resource
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


def memory(source: Path, out: Path) -> float:
    """Return the most memory a run ever held, in MB: reading, copies, writing and report; the model is a stub."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(source), str(out)], check=True, capture_output=True)
    return float(json.loads(done.stdout.decode().splitlines()[-1]))


@click.command()
@click.option("--rows", default=DAY, show_default=True)
@click.option("--memory", "measure_memory", is_flag=True)
@click.option("--most", default=2_000_000, show_default=True, help="rows of the larger backlog for --memory")
def main(rows: int, measure_memory: bool, most: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if measure_memory:
            table = Table("rows", "most memory, MB", "against the first")
            first = 0.0
            for n in (20_000, most):
                held = memory(backlog(folder, n), folder / f"out{n}.parquet")
                first = first or held
                table.add_row(f"{n:,}", f"{held:.0f}", f"{held / first - 1:+.1%}")
            Console().print(table)
            return
        source = backlog(folder, rows)
        took = command_line(source, folder / "out.parquet")
        texts, triager = [row["text"] for row in requests(rows)], Triager.load()
        triager.predict_many(texts[:256])
        start = time.perf_counter()
        triager.predict_many(texts)
        alone = time.perf_counter() - start
    table = Table(
        f"{rows:,} requests, Parquet to Parquet", "seconds", "requests a second", "share of the scorer's rate"
    )
    table.add_row("triage rescore, start-up included", f"{took:.1f}", f"{rows / took:.0f}", f"{alone / took:.2f}")
    table.add_row("predict_many, texts and results in memory", f"{alone:.1f}", f"{rows / alone:.0f}", "1")
    Console().print(table)


if __name__ == "__main__":
    main()
