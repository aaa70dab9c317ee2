"""Kill a re-scoring at random instants, start it again, and see whether it ends as if nothing had happened.

    python -m benchmarks.kills [--kills 100] [--kind parquet ...]

Each trial re-scores the same rows (copies, bad rows and earlier decisions among them) in a process of its own, which gets SIGKILL at
a random instant, and sometimes again while it continues; then one is left to end. Output, logs and report must be those of an
undisturbed run, byte for byte (of a table: row for row). The model is a stub: what is tried is the writing.
PostgreSQL is started on a free port in a temporary folder; `postgres()` is also the tests' fixture.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from triage import backlog, database, duplicates
from triage.errors import require

_TEXTS = (
    "几点做核酸",
    "老婆羊水破了，在金水区，救护车进不了小区",
    "家里没有菜了，就剩最后一顿，两个老人在家",
    "我爸胸口疼得直冒冷汗",
    "抑郁症的药昨天就吃完了，社区买不到，求帮忙联系药店",
    "孩子发烧三十九度，抽了一次，医院不收",
    "健康码变黄了，怎么申诉",
)
FILES = {"jsonl": ("in.jsonl", "out.jsonl"), "csv.gz": ("in.jsonl", "out.csv.gz"), "jsonl.zst": ("in.csv", "out.jsonl.zst"),
         "parquet": ("in.parquet", "out.parquet"), "folder": ("in.jsonl", "out/")}  # fmt: skip
TABLES = {"sqlite": False, "sqlite written back": True, "postgres": False, "postgres written back": True}


def requests(count: int) -> list[dict[str, Any]]:
    """Return rows as backlogs have them: earlier decisions, copies to the letter and nearly, rows without a text."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        text: str | None = f"{_TEXTS[i % 7]}，{'一二三四五六七八九十'[i % 10]}号楼住户，编号{i // 3}"
        if i % 11 == 5:
            text = str(rows[i - 4]["text"]) + "。谢谢了"
        if i % 31 == 7:
            text = None
        rows.append(
            {"id": i + 1, "text": text, "street": "须水" if i % 5 else None, "urgency": ("routine", "critical")[i % 2]}
        )
    return rows


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write rows as the suffix says."""
    if path.suffix == ".parquet":
        table = require("pyarrow", "rescore").Table.from_pylist(rows)
        require("pyarrow.parquet", "rescore").write_table(table, path, row_group_size=100)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines), "utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def fill(url: str, rows: list[dict[str, Any]], table: str = "requests") -> None:
    """Make a table anew and put the rows in; forget every output in this database."""
    engine = database.connect(url)
    meta = sa.MetaData()
    made = sa.Table(table, meta, sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.Text),
                    sa.Column("street", sa.Text), sa.Column("urgency", sa.Text))  # fmt: skip
    with engine.begin() as connection:
        for name in (table, "scored", "triage_rescore"):
            sa.Table(name, sa.MetaData()).drop(connection, checkfirst=True)
        meta.create_all(connection)
        if rows:
            connection.execute(made.insert(), rows)
    engine.dispose()


def content(url: str, table: str) -> list[str]:
    """Return the rows of a table, in the order of `id`, spelled out."""
    engine = database.connect(url)
    with engine.connect() as connection:
        rows = [repr(tuple(r)) for r in connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY id"))]
    engine.dispose()
    return rows


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def postgres_tools() -> Path | None:
    """Return where initdb and pg_ctl are, None when PostgreSQL is not installed."""
    found = [Path(p).parent for p in (shutil.which("initdb"),) if p] + sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((p for p in reversed(found) if (p / "initdb").exists()), None)


@dataclass
class Server:
    """A PostgreSQL server of our own."""

    url: str
    tools: Path
    folder: Path
    user: str | None
    options: str

    def control(self, *words: str) -> None:
        """Start or stop it."""
        command = [
            str(self.tools / "pg_ctl"),
            "-D",
            str(self.folder / "data"),
            "-l",
            str(self.folder / "log"),
            "-w",
            *words,
        ]
        subprocess.run(command, user=self.user, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def start(self) -> None:
        """Start and wait until it answers."""
        self.control("-o", self.options, "start")

    def kill(self) -> None:
        """Stop as a crash would."""
        self.control("-m", "immediate", "stop")


@contextmanager
def postgres() -> Iterator[Server]:
    """Run a server on a free port in a temporary folder; as root it runs as `postgres` or `nobody`."""
    tools = postgres_tools()
    if tools is None:
        raise click.ClickException("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    user = None
    with tempfile.TemporaryDirectory(prefix="triage-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if os.geteuid() == 0:
            import pwd

            user = next(u.pw_name for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody"))
            shutil.chown(folder, user)
        subprocess.run([tools / "initdb", "-D", folder / "data", "-U", "triage", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
                       user=user, check=True, stdout=subprocess.DEVNULL, cwd=folder)  # fmt: skip
        port = _free_port()
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        server = Server(f"postgresql://triage@127.0.0.1:{port}/postgres", tools, folder, user, options)
        server.start()
        try:
            yield server
        finally:
            with suppress(subprocess.CalledProcessError):
                server.control("-m", "immediate", "stop")


@dataclass
class Trial:
    """A run that can be repeated: in its own folder, from the same source to the same output."""

    kind: str
    folder: Path
    words: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def prepare(cls, kind: str, folder: Path, rows: list[dict[str, Any]], url: str = "", chunk: int = 24) -> Trial:
        """Write the source and tell the run what to do. url: the PostgreSQL server, where the kind wants one."""
        folder.mkdir(parents=True, exist_ok=True)
        if kind in FILES:
            source, out = FILES[kind]
            write(rows, folder / source)
            return cls(kind, folder, {"source": source, "out": out, "chunk": chunk})
        url = url if kind.startswith("postgres") else "sqlite:///in.db"
        words = {
            "source": url,
            "out": url,
            "table": "requests",
            "chunk": chunk,
            "out_table": "requests" if TABLES[kind] else "scored",
        }
        trial = cls(kind, folder, words)
        fill(trial.url, rows)
        return trial

    @property
    def url(self) -> str:
        """The database, from wherever it is asked."""
        return str(self.words["source"]).replace(":///", f":///{self.folder}/")

    def clear(self, rows: list[dict[str, Any]]) -> None:
        """Forget what was written; the source stays."""
        for path in (*self.folder.glob("*.rescore"), self.folder / "out", *self.folder.glob("out.*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if self.kind in TABLES:
            fill(self.url, rows)

    def result(self) -> dict[str, Any]:
        """Return everything a run leaves that must not differ."""
        logs = {p.name: p.read_bytes() for p in self.folder.glob("*.rescore/*.json*") if p.name != "progress.json"}
        if self.kind in TABLES:
            return {"table": content(self.url, self.words["out_table"]), **logs}
        out = self.folder / str(self.words["out"])
        files = sorted(p for p in out.rglob("*") if p.is_file()) if out.is_dir() else [out]
        return {**{p.name: p.read_bytes() for p in files}, **logs}


def _child(folder: str, words: Mapping[str, Any], reach: int, ready: Any) -> None:
    from benchmarks.warm import TRIAGER

    os.chdir(folder)
    os.fsync = lambda fd: None  # a killed process loses nothing that the kernel has; only a power cut would
    duplicates.REACH = reach  # the window turns several times, as in a long run
    ready.set()
    backlog.rescore(triager=TRIAGER, **words)


_PROCESSES = multiprocessing.get_context("forkserver")


def start(trial: Trial, reach: int = 60) -> tuple[Any, float]:
    """Start a run in a process of its own; returns it once it is about to begin, and the instant."""
    _PROCESSES.set_forkserver_preload(["benchmarks.warm"])
    ready = _PROCESSES.Event()
    process = _PROCESSES.Process(target=_child, args=(str(trial.folder), trial.words, reach, ready))
    process.start()
    ready.wait(60)
    return process, time.perf_counter()


def end(trial: Trial) -> float:
    """Let a run come to its end; returns its seconds. Raises RuntimeError when it fails."""
    process, began = start(trial)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{trial.kind}: the run ended with exit code {process.exitcode}")
    return time.perf_counter() - began


def try_kills(trial: Trial, rows: list[dict[str, Any]], kills: int, rng: random.Random) -> tuple[int, int, int]:
    """Disturb trials until so many were killed at least once; returns trials that ended identical, trials, and kills."""
    seconds = end(trial)
    want = trial.result()
    same = trials = killed = 0
    while trials < kills:
        trial.clear(rows)
        times = 0
        while True:
            process, _ = start(trial)
            time.sleep(rng.uniform(0, seconds))
            process.kill()
            process.join()
            times += process.exitcode == -9
            if process.exitcode != -9 or rng.random() < 0.6:
                break
        if not times:
            continue  # it had ended before its instant came
        end(trial)
        trials, killed, same = trials + 1, killed + times, same + (trial.result() == want)
    return same, trials, killed


@click.command()
@click.option("--kills", default=100, show_default=True, help="killed trials of each kind")
@click.option("--kind", "kinds", multiple=True, type=click.Choice([*FILES, *TABLES]), help="default all")
@click.option("--rows", "count", default=480, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(kills: int, kinds: tuple[str, ...], count: int, seed: int) -> None:
    """Print for each kind of output how many disturbed runs ended as the undisturbed one."""
    rows, rng, failed = requests(count), random.Random(seed), False
    wanted = kinds or (*FILES, *TABLES)
    with tempfile.TemporaryDirectory() as name, server_for(wanted) as url:
        for kind in wanted:
            trial = Trial.prepare(kind, Path(name) / kind, rows, url)
            same, trials, killed = try_kills(trial, rows, kills, rng)
            failed |= same < trials
            click.echo(f"{kind:22} {same} of {trials} identical, {killed} kills")
    sys.exit(failed)


@contextmanager
def server_for(kinds: tuple[str, ...]) -> Iterator[str]:
    """Run PostgreSQL only where a kind wants it; yields its URL."""
    if not any(kind.startswith("postgres") for kind in kinds):
        yield ""
        return
    with postgres() as server:
        yield server.url


if __name__ == "__main__":
    main()
