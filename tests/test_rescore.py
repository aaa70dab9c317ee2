"""Re-scoring a backlog: every format in and out, nothing lost, nothing twice, what changed, copies, watched sources."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import triage
from benchmarks import kills
from benchmarks.warm import TRIAGER
from tests.conftest import ROOT
from triage import backlog, duplicates, sinks
from triage.changes import Tally
from triage.duplicates import Window, groups
from triage.errors import InputError, OutputError, StoppedError, TriageError, require
from triage.sources import FileSource, Row

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "几点做核酸", "urgency": "routine", "department": "epidemic", "街道": "须水"},
    {"id": "b", "text": "老婆羊水破了，马上要生了", "urgency": "routine", "街道": None},
    {"id": "c", "text": "家里没有菜了，就剩最后一顿", "urgency": "critical", "街道": "一马路"},
]
HEAD = "id,text,urgency\n"
CSV = HEAD + 'a,"几点做核酸，急",routine\nb,老婆羊水破了,routine\n'


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here


def rescore(source: str, out: str, **words: Any) -> backlog.Outcome:
    return triage.rescore(source, out, triager=TRIAGER, **words)


def put(name: str, rows: list[dict[str, Any]]) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(
            gzip.compress(text) if path.suffix == ".gz" else zstandard.compress(text) if path.suffix == ".zst" else text
        )
    return name


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().decode().splitlines()]


# What goes in, what comes out


def test_columns_are_carried_through_and_results_stand_beside_them_in_input_order() -> None:
    outcome = rescore(put("in.jsonl", ROWS), "out.jsonl")
    rows = lines("out.jsonl")
    assert [{k: row[k] for k in row if not k.startswith("triage_")} for row in rows] == ROWS
    assert [row["triage_urgency"] for row in rows][1] == "critical"
    assert rows[1]["triage_flags"] == ["pregnancy"]
    assert rows[1]["triage_fingerprint"].startswith("stub/")
    assert (outcome.rows, outcome.answered, outcome.bad, outcome.finished) == (3, 3, 0, True)
    assert set(backlog.result_types("columns", "near")) == {k for k in rows[0] if k.startswith("triage_")}


def test_results_may_be_one_json_column() -> None:
    rescore(put("in.jsonl", ROWS), "out.jsonl", results="json")
    assert lines("out.jsonl")[1]["triage"] == json.loads(json.dumps(TRIAGER.predict(ROWS[1]["text"]).to_dict()))
    rescore("in.jsonl", "out.csv", results="json")
    table = list(csv.DictReader(io.StringIO(Path("out.csv").read_text("utf-8"))))
    assert json.loads(table[1]["triage"])["urgency"]["code"] == "critical"


@pytest.mark.parametrize("source", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.parquet", "in.ndjson"])
@pytest.mark.parametrize("out", ["out.jsonl", "out.csv.gz", "out.tsv.zst", "out.parquet", "out/"])
def test_every_format_gives_the_same_decisions(source: str, out: str) -> None:
    rescore(put(source, ROWS), out)
    if out == "out.parquet":
        got = pq.read_table(out).to_pylist()
    elif out in ("out/", "out.jsonl"):
        got = lines("out/part-00000001.jsonl" if out == "out/" else out)
    else:
        raw = Path(out).read_bytes()
        data = (
            gzip.decompress(raw) if out.endswith("gz") else zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        )
        got = list(csv.DictReader(io.StringIO(data.decode()), delimiter="\t" if "tsv" in out else ","))
    want = [d.urgency.code for d in TRIAGER.predict_many([row["text"] for row in ROWS])]
    assert [(row["id"], row["triage_urgency"]) for row in got] == list(zip("abc", want, strict=True))


@pytest.mark.parametrize(
    ("encoding", "told"), [("utf-8", {}), ("utf-8-sig", {}), ("gbk", {"in.csv": "GB 18030 (GBK)"})]
)
def test_encodings_are_detected_and_said(encoding: str, told: dict[str, str]) -> None:
    Path("in.csv").write_bytes(CSV.encode(encoding))
    outcome = rescore("in.csv", "out.csv")
    assert "几点做核酸，急" in Path("out.csv").read_text("utf-8")
    assert [f"{file}: read as {name}" for file, name in told.items()] == list(outcome.notes)


def test_folders_and_globs_are_read_file_by_file_in_the_order_of_their_names() -> None:
    put("open/b.jsonl", ROWS[1:2])
    put("open/a/x.jsonl.gz", ROWS[:1])
    put("open/c.jsonl.zst", ROWS[2:])
    put("open/.hidden.jsonl", ROWS)
    Path("open/notes.md").write_text("no requests")
    rescore("open", "all.jsonl")
    assert [row["id"] for row in lines("all.jsonl")] == ["a", "b", "c"]
    rescore("open/*.jsonl", "some.jsonl")
    assert [row["id"] for row in lines("some.jsonl")] == ["b"]


def test_types_of_parquet_and_of_tables_are_kept() -> None:
    schema = pa.schema(
        [("id", pa.int32()), ("text", pa.string()), ("at", pa.timestamp("ms")), ("tags", pa.list_(pa.string()))]
    )
    rows = [{"id": i, "text": "几点做核酸", "at": 1_650_000_000_000, "tags": ["x"]} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows, schema), "in.parquet")
    rescore("in.parquet", "out.parquet", chunk=2)
    table = pq.read_table("out.parquet")
    assert table.select(schema.names).schema.equals(schema)
    assert table.schema.field("triage_flags").type == pa.list_(pa.string())
    assert table.column("id").to_pylist() == list(range(5))


def test_columns_that_come_up_later_are_not_lost() -> None:
    rescore(
        put("in.jsonl", [{"text": "好", "n": 1}, {"text": "几点做核酸", "late": "晚", "n": None}]), "out.csv", chunk=1
    )
    rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text("utf-8"))))
    assert [row["id"] for row in rows] == ["1", "2"]
    assert json.loads(rows[1]["other_fields"]) == {"late": "晚"}


def test_standard_input_and_output() -> None:
    command = [sys.executable, "-m", "triage.cli", "rescore", "-", "--out", "-"]
    done = subprocess.run(
        command, input=b'{"text": "\xe5\xa5\xbd"}\n{"x": 1}\n', capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["triage_urgency"]
    assert "<stdin>:2: no field 'text'" in done.stderr.decode()


# Bad rows, and what is refused


def test_bad_rows_are_told_with_place_and_reason_and_without_their_text() -> None:
    secret = "我叫张建国，13812345678"
    bad: list[dict[str, Any]] = [{"id": "x", "text": None, "said": secret}, {"id": "y", "text": 5}, {"id": secret}]
    put("in.jsonl", [ROWS[0], *bad, ROWS[1]])
    with Path("in.jsonl").open("ab") as file:
        file.write(f'{{"text": "{secret}\n'.encode() + b'{"text": "\xff\xfe\xff"}\n')
    outcome = rescore("in.jsonl", "out.jsonl")
    told = lines("out.jsonl.rescore/errors.jsonl")
    assert [row["id"] for row in lines("out.jsonl")] == ["a", "b"]
    assert [line["place"] for line in told] == [f"in.jsonl:{n}" for n in (2, 3, 4, 6, 7)]
    assert outcome.bad == 5
    for path in Path("out.jsonl.rescore").iterdir():
        assert "张建国" not in path.read_text("utf-8")
        assert "13812345678" not in path.read_text("utf-8")


def test_a_broken_file_of_a_folder_costs_no_other_but_alone_it_is_an_error() -> None:
    put("open/a.jsonl.gz", ROWS * 300)
    whole = Path("open/a.jsonl.gz").read_bytes()
    Path("open/a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    put("open/b.jsonl", ROWS)
    outcome = rescore("open", "out.jsonl")
    assert [row["id"] for row in lines("out.jsonl")][-3:] == ["a", "b", "c"]
    assert outcome.bad == 1
    assert "cannot be read to its end (EOFError)" in lines("out.jsonl.rescore/errors.jsonl")[0]["reason"]
    with pytest.raises(InputError, match=r"a\.jsonl\.gz: cannot be read to its end"):
        rescore("open/a.jsonl.gz", "alone.jsonl")


@pytest.mark.parametrize(
    ("source", "out", "words", "message"),
    [
        ("nowhere.jsonl", "out.jsonl", {}, "no file to read"),
        ("in.jsonl", "out.xlsx", {}, "give a name ending in"),
        ("in.jsonl", "out.parquet.gz", {}, "give a name ending in"),
        ("in.jsonl", "out.jsonl", {"table": "t"}, "belong to a database"),
        ("in.jsonl", "out.jsonl", {"duplicates": "some"}, "near, exact or off"),
        ("in.jsonl", "out.jsonl", {"follow": True}, "watches a folder"),
        ("sqlite:///no.db", "out.jsonl", {}, "--table or --query"),
        ("sqlite:///no.db", "out.jsonl", {"table": "t"}, "no table 't'"),
        ("in.jsonl", "sqlite:///no.db", {}, "--out-table"),
    ],
)
def test_wrong_use_says_what_mends_it(source: str, out: str, words: dict[str, Any], message: str) -> None:
    put("in.jsonl", ROWS)
    with pytest.raises(TriageError, match=message):
        rescore(source, out, **words)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TriageError, match=r"pip install 'triage\[rescore\]'"):
        require("zstandard", "rescore")


# Nothing lost, nothing twice


def stopped_after(chunks: int) -> dict[str, Any]:
    stop = threading.Event()
    count = iter(range(1000))
    return {"stop": stop, "progress": lambda _: stop.set() if next(count) + 1 >= chunks else None}


def test_a_stopped_run_keeps_its_chunks_and_is_continued() -> None:
    rows = kills.requests(90)
    with pytest.raises(StoppedError, match="run the same command again"):
        rescore(put("in.jsonl", rows), "out.jsonl", chunk=10, **stopped_after(3))
    assert not Path("out.jsonl").exists()
    assert rescore("in.jsonl", "out.jsonl", chunk=10).notes == ("continued after 30 rows",)
    rescore("in.jsonl", "whole.jsonl", chunk=10)
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    again = rescore("in.jsonl", "out.jsonl", chunk=10)
    assert again.notes == ("all of it was done already",)
    assert again.rows == 90


@pytest.mark.parametrize("change", ["source", "option", "rules"])
def test_a_run_is_only_continued_with_what_it_was_begun_with(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in.jsonl", kills.requests(40))
    with pytest.raises(StoppedError):
        rescore("in.jsonl", "out.jsonl", chunk=10, **stopped_after(1))
    words: dict[str, Any] = {"chunk": 10}
    if change == "source":
        put("in.jsonl", kills.requests(50))
    elif change == "option":
        words["results"] = "json"
    else:
        monkeypatch.setattr(TRIAGER.rules, "fingerprint", "other")
    named = {"option": "options"}.get(change, change)
    with pytest.raises(OutputError, match=rf"begun by another run \({named} changed since\).*--restart"):
        rescore("in.jsonl", "out.jsonl", **words)
    assert rescore("in.jsonl", "out.jsonl", restart=True, **words).finished


def test_what_no_run_here_wrote_is_not_overwritten() -> None:
    put("in.jsonl", ROWS)
    Path("out.jsonl").write_text("precious")
    with pytest.raises(OutputError, match=r"out\.jsonl: exists, and no run here wrote it"):
        rescore("in.jsonl", "out.jsonl")
    assert Path("out.jsonl").read_text() == "precious"
    rescore("in.jsonl", "out.jsonl", restart=True)
    assert len(lines("out.jsonl")) == 3


def test_two_runs_on_one_output_refuse_each_other() -> None:
    put("in.jsonl", ROWS)
    folder = sinks.RunFolder(Path("out.jsonl.rescore"))
    with pytest.raises(OutputError, match="another run is writing this output"):
        rescore("in.jsonl", "out.jsonl")
    folder.close()
    assert rescore("in.jsonl", "out.jsonl").finished


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_a_full_disk_ends_with_a_message_and_can_be_continued(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put("in.jsonl", kills.requests(60))
    left = iter([None] * 7)
    real = os.fsync

    def fsync(handle: int) -> None:
        try:
            next(left)
        except StopIteration:
            raise OSError(errno.ENOSPC, "No space left on device") from None
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoppedError, match="No space left on device; make room, then run the same command again"):
            rescore("in.jsonl", out, chunk=10)
    rescore("in.jsonl", out, chunk=10)
    rescore("in.jsonl", f"whole.{out}", chunk=10)
    assert Path(out).read_bytes() == Path(f"whole.{out}").read_bytes()


@pytest.fixture(scope="session")
def server() -> Iterator[kills.Server]:
    if kills.postgres_tools() is None:
        pytest.skip("PostgreSQL is not installed: no initdb (Debian: apt-get install postgresql)")
    with kills.postgres() as running:
        yield running


@pytest.mark.parametrize("kind", [*kills.FILES, *kills.TABLES])
def test_a_killed_run_ends_as_if_nothing_had_happened(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("server").url if kind.startswith("postgres") else ""
    rows = kills.requests(120)
    trial = kills.Trial.prepare(kind, tmp_path, rows, url, chunk=12)
    same, trials, _ = kills.try_kills(trial, rows, 1, random.Random(kind))
    assert (same, trials) == (1, 1)


def test_sigterm_finishes_the_chunk_and_says_how_to_go_on(tmp_path: Path) -> None:
    put("in.jsonl", [{"text": f"{text['text']}{i}"} for i in range(700) for text in ROWS])
    command = [sys.executable, "-m", "triage.cli", "rescore", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"),
               "--chunk", "32", "--duplicates", "off"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        progress = tmp_path / "out.jsonl.rescore/progress.json"
        while process.poll() is None and not (progress.exists() and json.loads(progress.read_bytes())["rows"]):
            time.sleep(0.05)
        process.terminate()
        _, told = process.communicate()
    assert process.returncode == 4, told.decode()
    assert "run the same command again to continue" in told.decode()
    assert json.loads(progress.read_bytes())["rows"] % 32 == 0


# Databases


def fill_sqlite(rows: list[dict[str, Any]]) -> str:
    kills.fill("sqlite:///in.db", rows)
    return "sqlite:///in.db"


def test_a_query_is_read_and_another_table_written_with_its_types() -> None:
    url = fill_sqlite(kills.requests(50))
    query = "SELECT id AS number, text AS body, street FROM requests WHERE id <= 40"
    outcome = rescore(url, url, query=query, text_column="body", id_column="number", out_table="scored", chunk=7)
    with sqlite3.connect("in.db") as connection:
        rows = connection.execute(
            "SELECT number, street, triage_urgency, triage_needs_review FROM scored ORDER BY 1"
        ).fetchall()
    connection.close()
    assert outcome.answered == len(rows) == 38
    assert [row[0] for row in rows[:9]] == [1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert rows[0][1] is None
    assert rows[1][2] == "critical"
    assert lines("in.db.scored.rescore/errors.jsonl")[0]["place"] == "query:number=8"


def test_results_are_written_back_by_key_and_the_rest_stays() -> None:
    url = fill_sqlite(kills.requests(20))
    rescore(url, url, table="requests", chunk=6)
    assert rescore(url, url, table="requests", out_table="requests", chunk=6).notes == ("all of it was done already",)
    with sqlite3.connect("in.db") as connection:
        rows = connection.execute("SELECT id, text, urgency, triage_urgency FROM requests ORDER BY id").fetchall()
    connection.close()
    assert [row[0] for row in rows] == list(range(1, 21))
    assert rows[1][2:] == ("critical", "critical")
    assert rows[7][1] is rows[7][3] is None


def test_a_key_must_be_unique_and_rows_without_one_are_told() -> None:
    connection = sqlite3.connect("in.db")
    connection.execute("CREATE TABLE loose (k TEXT, text TEXT)")
    connection.executemany("INSERT INTO loose VALUES (?, '几点做核酸')", [("a",), ("b",), (None,)])
    connection.commit()
    outcome = rescore("sqlite:///in.db", "out.jsonl", table="loose", id_column="k")
    assert (outcome.answered, outcome.bad) == (2, 1)
    connection.execute("INSERT INTO loose VALUES ('a', '好')")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match="holds some values twice"):
        rescore("sqlite:///in.db", "other.jsonl", table="loose", id_column="k")


def test_a_lost_database_stops_the_run_and_it_is_continued(server: kills.Server) -> None:
    rows = kills.requests(200)
    kills.fill(server.url, rows)
    words = {"table": "requests", "out_table": "scored", "chunk": 10}
    lost = iter(range(1000))

    def progress(_: backlog.Progress) -> None:
        if next(lost) == 2:
            server.kill()

    with pytest.raises(StoppedError, match="once it answers, run the same command again"):
        rescore(server.url, server.url, progress=progress, **words)
    server.start()
    assert rescore(server.url, server.url, **words).notes == ("continued after 30 rows",)
    got = kills.content(server.url, "scored")
    kills.fill(server.url, rows)
    rescore(server.url, server.url, **words)
    assert got == kills.content(server.url, "scored")


def test_two_runs_on_one_postgresql_table_refuse_each_other(
    server: kills.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triage import database

    kills.fill(server.url, kills.requests(10))
    monkeypatch.setattr(database, "_LOCK_WAIT", 0.2)
    source = database.SqlSource(server.url, "text", "id", "requests")
    types = backlog.result_types("columns", "off")
    first = database.SqlSink(server.url, "scored", "id", {}, types, True, source)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # as if from another machine
    with pytest.raises(OutputError, match="another run is writing this table"):
        rescore(server.url, server.url, table="requests", out_table="scored")
    first.close()
    source.close()
    assert rescore(server.url, server.url, table="requests", out_table="scored").answered == 9


# What changed


def test_changes_are_counted_and_listed_gravest_first_and_nothing_private_leaves() -> None:
    private = {"id": "p", "text": "我叫张建国，13812345678，老婆羊水破了", "urgency": "routine"}
    rescore(put("in.jsonl", [*ROWS, private]), "out.jsonl")
    report = json.loads(Path("out.jsonl.rescore/report.json").read_text("utf-8"))
    assert report["raised_to_critical"] == ["b", "p"]
    assert report["heads"]["urgency"]["routine > critical"] == 2
    assert report["moved"]["lowered"] == 1
    assert report["compared"] == 4
    page = Path("out.jsonl.rescore/report.html").read_text("utf-8")
    assert page.index("Raised to critical") < page.index("Lowered: a person has to confirm")
    assert "<svg" in page
    assert "http" not in page
    for private_part in ("张建国", "13812345678"):
        assert private_part not in page + json.dumps(report, ensure_ascii=False)
        assert private_part not in Path("out.jsonl.rescore/changes.jsonl").read_text("utf-8")


@pytest.mark.parametrize(
    ("row", "before"),
    [
        ({"urgency": "critical"}, {"urgency": "critical"}),
        ({"urgency": "特急", "department": "medical"}, {"urgency": "critical", "department": "medical"}),
        ({"urgency": {"code": "urgent", "name": "紧急"}, "flags": [{"code": "cardiac"}]}, {"urgency": "urgent", "flags": ["cardiac"]}),
        ({"triage": '{"urgency": {"code": "urgent"}}', "urgency": "routine"}, {"urgency": "urgent"}),
        ({"triage_urgency": "urgent", "urgency": "routine", "triage_flags": '["cardiac"]'}, {"urgency": "urgent", "flags": ["cardiac"]}),
        ({"urgency": "whatever", "category": None}, {}),
    ],
)  # fmt: skip
def test_earlier_decisions_are_found_in_whatever_form_they_were_kept(
    row: dict[str, Any], before: dict[str, Any]
) -> None:
    from triage.changes import Earlier

    assert Earlier(TRIAGER.profile.labels)(row) == before
    assert Earlier(TRIAGER.profile.labels, {"urgency": "x"})({**row, "x": "routine"})["urgency"] == "routine"


def test_a_tally_is_the_same_after_being_kept() -> None:
    tally = Tally()
    tally.add(
        {"urgency": "routine", "flags": ["cardiac"]},
        {"urgency": "urgent", "category": "x", "department": "y", "flags": []},
    )
    assert Tally.from_dict(json.loads(json.dumps(tally.to_dict()))) == tally


# Copies

LONG = "家里两个老人，高血压的药昨天吃完了，社区说没有办法，求帮忙联系药店送药"


def copies(*texts: str, near: bool = True, persons: tuple[str, ...] = ()) -> list[tuple[str, bool] | None]:
    window = Window(TRIAGER.rules, near, "who" if persons else None)
    out = []
    for i, text in enumerate(texts):
        _, copy = window.add(Row("", str(i), text, {"who": persons[i] if persons else None}))
        out.append((copy.first.id, copy.exact) if copy else None)
    return out


def test_copies_are_found_to_the_letter_and_nearly() -> None:
    assert copies("几点做核酸", LONG, "几点做核酸", LONG + "！", LONG + "谢谢") == [
        None,
        None,
        ("0", True),
        ("1", False),
        ("1", False),
    ]
    assert copies(LONG, LONG + "谢谢", near=False) == [None, None]


@pytest.mark.parametrize(
    "other",
    [
        LONG + "，他现在昏迷了",  # another fact
        LONG.replace("昨天", "前天").replace("两个", "三个"),  # other figures
        LONG + "，电话13812345678",  # perhaps another person
    ],
)
def test_what_may_need_another_answer_is_no_copy(other: str) -> None:
    assert copies(LONG, other) == [None, None]


def test_other_persons_do_not_repeat_each_other() -> None:
    assert copies(LONG, LONG, LONG, persons=("a", "b", "a")) == [None, None, ("0", True)]


def test_a_copy_is_scored_once_and_takes_the_decision_of_what_it_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = TRIAGER.predict_many

    def predict_many(texts: list[str]) -> list[triage.Decision]:
        asked.extend(texts)
        return real(texts)

    monkeypatch.setattr(TRIAGER, "predict_many", predict_many)
    rows = [{"id": i, "text": LONG + ("谢谢" if i == 4 else "")} for i in range(6)]
    outcome = rescore(put("in.jsonl", rows), "out.jsonl", chunk=2)
    assert asked == [LONG]
    assert outcome.copies == 5
    assert [row["triage_duplicate_of"] for row in lines("out.jsonl")] == [None, *"00000"]
    report = json.loads(Path("out.jsonl.rescore/report.json").read_text("utf-8"))
    assert report["duplicates"] == [{"first": "0", "repeated_by": ["1", "2", "3", "4", "5"]}]
    rescore("in.jsonl", "off.jsonl", duplicates="off")
    assert "triage_duplicate_of" not in lines("off.jsonl")[0]


def test_looking_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "REACH", 4)
    far = [LONG, *(f"几点做核酸{i}" for i in range(11)), LONG]
    rescore(put("in.jsonl", [{"text": text} for text in far]), "out.jsonl", chunk=2)
    assert lines("out.jsonl")[-1]["triage_duplicate_of"] is None
    assert list(groups([("b", "a"), ("c", "b"), ("z", "y")])) == [("a", ["b", "c"]), ("y", ["z"])]


# Watched sources


def watch(source: str, out: str, until: Callable[[], bool], **words: Any) -> backlog.Outcome:
    """Follow a source in a thread until something holds."""
    stop, done = threading.Event(), list[backlog.Outcome]()
    thread = threading.Thread(target=lambda: done.append(rescore(source, out, follow=True, stop=stop, **words)))
    thread.start()
    limit = time.monotonic() + 30
    while not until() and thread.is_alive() and time.monotonic() < limit:
        time.sleep(0.05)
    assert until()
    stop.set()
    thread.join()
    return done[0]


def parts() -> list[str]:
    return [row["id"] for path in sorted(Path("out").glob("part-*")) for row in lines(path)]


def test_files_that_come_into_a_folder_are_scored_once_in_order_of_arrival() -> None:
    put("inbox/z.jsonl", ROWS[:1])
    outcome = watch("inbox", "out/", lambda: len(parts()) == 1)
    assert not outcome.finished
    put("inbox/b.jsonl", ROWS[1:2])
    time.sleep(0.02)
    put("inbox/a.jsonl", ROWS[2:])
    watch("inbox", "out/", lambda: len(parts()) == 3)
    assert parts() == ["a", "b", "c"]
    with pytest.raises(OutputError, match="a file would never be finished"):
        rescore("inbox", "out.jsonl", follow=True)


@pytest.mark.parametrize("out_table", ["requests", "scored"])
def test_rows_that_come_into_a_table_are_scored_once_also_when_keys_appear_late(out_table: str) -> None:
    rows = kills.requests(12)
    url = fill_sqlite([row for row in rows if row["id"] not in (4, 11, 12)])

    def scored() -> int:
        connection = sqlite3.connect("in.db")
        try:
            return int(
                connection.execute(f"SELECT count(*) FROM {out_table} WHERE triage_urgency IS NOT NULL").fetchone()[0]
            )
        except sqlite3.OperationalError:
            return 0
        finally:
            connection.close()

    first = watch(url, url, lambda: scored() == 8, table="requests", out_table=out_table)
    assert (first.answered, first.bad) == (8, 1)
    connection = sqlite3.connect("in.db")
    late = [tuple(row[k] for k in ("id", "text", "street", "urgency")) for row in rows if row["id"] in (4, 11, 12)]
    connection.executemany("INSERT INTO requests (id, text, street, urgency) VALUES (?, ?, ?, ?)", late)
    connection.commit()
    connection.close()
    second = watch(url, url, lambda: scored() == 11, table="requests", out_table=out_table)
    assert second.answered == 11


def test_reading_waits_for_scoring() -> None:
    taken: list[int] = []

    def numbers() -> Generator[int, None, None]:
        for i in range(100):
            taken.append(i)
            yield i

    running = backlog.ahead(numbers(), 2)
    assert next(running) == 0
    time.sleep(0.2)
    assert len(taken) <= 5
    running.close()
    assert "triage" not in {thread.name for thread in threading.enumerate()}


def test_bytes_that_python_cannot_print_do_not_stop_a_run() -> None:
    Path("in.jsonl").write_text('{"text": "\\ud83d 几点做核酸", "x": "\\ud83d"}\n')
    rescore("in.jsonl", "out.jsonl")
    assert lines("out.jsonl")[0]["x"] == "\ud83d"
    rescore("in.jsonl", "out.parquet")
    assert pq.read_table("out.parquet").column("x").to_pylist() == ["?"]
    assert FileSource("in.jsonl").columns is None
