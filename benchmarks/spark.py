"""What does a second Spark worker bring?

    python -m benchmarks.spark [--rows 6000]

Starts a standalone master with one, then two workers of one core each on this machine, from the scripts that pyspark brings, and
re-scores the same Parquet file. Needs Java. `Cluster` is also the tests' fixture.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import psutil
import pyspark
from rich.console import Console
from rich.table import Table


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _words(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has just ended
        return []


class Cluster:
    """A standalone master and workers with one core each, on this machine."""

    def __init__(self, workers: int) -> None:
        self._count, self._folder = (
            workers,
            tempfile.TemporaryDirectory(prefix="triage-spark-", ignore_cleanup_errors=True),
        )
        self._port, self._processes = _free_port(), list[subprocess.Popen[bytes]]()
        home = str(Path(pyspark.__file__).parent)
        self.environment = {"SPARK_HOME": home, "SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": sys.executable}
        self.master = f"spark://127.0.0.1:{self._port}"

    def _start(self, *words: str) -> None:
        script = Path(self.environment["SPARK_HOME"]) / "bin/spark-class"
        log = (Path(self._folder.name) / f"{len(self._processes)}.log").open("wb")
        with log:
            self._processes.append(
                subprocess.Popen(
                    [str(script), *words],
                    env={**os.environ, **self.environment},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def __enter__(self) -> Cluster:
        deploy = "org.apache.spark.deploy"
        self._start(f"{deploy}.master.Master", "--host", "127.0.0.1", "--port", str(self._port), "--webui-port", "0")
        for n in range(self._count):
            folder = str(Path(self._folder.name) / f"work{n}")
            self._start(f"{deploy}.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--webui-port", "0",
                        "--work-dir", folder, self.master)  # fmt: skip
        until = time.monotonic() + 300
        while (Path(self._folder.name) / "0.log").read_text().count("Registering worker") < self._count:
            if time.monotonic() > until:
                self.stop()
                raise RuntimeError("the Spark workers did not come up within five minutes")
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tree(self, process: subprocess.Popen[bytes]) -> list[psutil.Process]:
        try:
            parent = psutil.Process(process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait_for_python(self, job: subprocess.Popen[bytes], seconds: float = 300) -> None:
        """Wait until the last worker's Python processes score, or the job has ended."""
        until = time.monotonic() + seconds
        while job.poll() is None and time.monotonic() < until:
            if any("pyspark.daemon" in _words(p) for p in self._tree(self._processes[-1])):
                return
            time.sleep(0.1)

    def kill_worker(self) -> None:
        """Kill the last worker and all it started, at once."""
        self._kill(self._processes[-1])

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        for one in self._tree(process):
            with suppress(psutil.NoSuchProcess):
                one.kill()

    def stop(self) -> None:
        """End every process of the cluster."""
        for process in self._processes:
            self._kill(process)
            process.wait()
        self._processes.clear()
        self._folder.cleanup()


def seconds(workers: int, source: Path, out: Path) -> float:
    """Return how long a re-scoring takes, from the first task to the last: the start of Spark is left out."""
    code = """
import json, sys, time
from pyspark.sql import SparkSession
from triage import spark
session = SparkSession.builder.master(sys.argv[1]).config("spark.ui.enabled", "false").getOrCreate()
frame = session.read.parquet(sys.argv[2]).repartition(16)
spark.rescore(frame.limit(64).repartition(4)).write.mode("overwrite").parquet(sys.argv[3])
start = time.perf_counter()
spark.rescore(frame).write.mode("overwrite").parquet(sys.argv[3])
print(json.dumps(time.perf_counter() - start))
session.stop()
"""
    with Cluster(workers) as cluster:
        command = [sys.executable, "-c", code, cluster.master, str(source), str(out)]
        done = subprocess.run(
            command,
            env={**os.environ, **cluster.environment},
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    return float(json.loads(done.stdout.decode().splitlines()[-1]))


@click.command()
@click.option("--rows", default=6000, show_default=True)
def main(rows: int) -> None:
    """Print rates with one and with two workers."""
    from benchmarks.rescore import backlog

    with tempfile.TemporaryDirectory() as name:
        source = backlog(Path(name), rows)
        taken: dict[int, Any] = {n: seconds(n, source, Path(name) / "out") for n in (1, 2)}
    table = Table("workers of one core", "seconds", "requests a second", "times one worker", title=f"{rows:,} requests")
    for n, s in taken.items():
        table.add_row(str(n), f"{s:.1f}", f"{rows / s:.0f}", f"{taken[1] / s:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
