"""A real standalone cluster on this machine: the decisions are those of a local run, also when a worker dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from benchmarks.spark import Cluster
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    shutil.which("java") is None,
    reason="Spark needs Java, which is not installed (Debian: apt-get install openjdk-17-jre-headless)",
)
SAID = [("几点做核酸", "routine"), ("老婆羊水破了，马上要生了", "routine"), ("家里没有菜了，就剩最后一顿", "critical")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(workers=2) as running:
        yield running


def rows() -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [
        {"id": f"r{i}", "text": f"{SAID[i % 3][0]}，{i}号", "urgency": SAID[i % 3][1], "n": i} for i in range(1200)
    ]
    return [*out, {"id": "bad", "text": None, "urgency": "routine", "n": -1}]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "triage.cli", "rescore", *words]


def test_the_result_is_that_of_a_local_run_though_a_worker_was_killed(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(8):  # a task each
        lines = [json.dumps(row, ensure_ascii=False) for row in rows()[part::8]]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    out = tmp_path / "cluster"
    conf = {
        **os.environ,
        **cluster.environment,
        "PYSPARK_SUBMIT_ARGS": "--conf spark.sql.files.maxPartitionBytes=8000 pyspark-shell",
    }
    with subprocess.Popen(command(str(folder), "--out", str(out), "--engine", "spark", "--master", cluster.master, "--format", "jsonl"),
                          cwd=ROOT, env=conf, stderr=subprocess.PIPE) as process:  # fmt: skip
        cluster.wait_for_python(process)
        cluster.kill_worker()
        told = process.communicate()[1].decode()
    assert process.returncode == 1, told[-3000:]
    assert "copies are not looked for" in told
    done = subprocess.run(
        command(str(folder), "--out", str(tmp_path / "local.parquet"), "--duplicates", "off"), cwd=ROOT, check=False
    )
    assert done.returncode == 1
    ours, theirs = ({r["id"]: r for r in pq.read_table(p).to_pylist()} for p in (tmp_path / "local.parquet", out))
    assert theirs.pop("bad")["triage_error"].startswith("no field 'text'")
    assert ours.keys() == theirs.keys()
    for key, row in ours.items():
        assert {k: theirs[key][k] for k in row if k.startswith("triage_")} == {
            k: v for k, v in row.items() if k.startswith("triage_")
        }
    reports = [
        json.loads((tmp_path / f"{n}.rescore/report.json").read_text("utf-8")) for n in ("local.parquet", "cluster")
    ]
    assert reports[0]["heads"] == reports[1]["heads"]
    assert sorted(reports[0]["raised_to_critical"]) == sorted(reports[1]["raised_to_critical"])
    again = subprocess.run(
        command(str(folder), "--out", str(out), "--engine", "spark", "--master", "local[1]", "--format", "jsonl"),
        cwd=ROOT, env=conf, capture_output=True, check=False,
    )  # fmt: skip
    assert again.returncode == 1
    assert "all of it was scored already" in again.stderr.decode()


def test_sql_knows_the_decision(tmp_path: Path) -> None:
    script = tmp_path / "ask.py"
    script.write_text(
        """
from pyspark.sql import SparkSession
from triage import spark
session = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.register(session)
session.createDataFrame([("老婆羊水破了",), (None,)], "text string").createOrReplaceTempView("requests")
print([row.u for row in session.sql("SELECT triage(text).urgency AS u FROM requests").collect()])
session.stop()
""",
        "utf-8",
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    done = subprocess.run([sys.executable, script], capture_output=True, env=environment, check=False, timeout=300)
    assert done.stdout.decode().strip() == "['critical', None]", done.stderr.decode()[-3000:]


def test_the_cluster_leaves_no_process_behind(cluster: Cluster) -> None:
    cluster.stop()
    time.sleep(0.1)
    assert not [
        p for p in psutil.Process().children(recursive=True) if "org.apache.spark.deploy" in " ".join(p.cmdline())
    ]
