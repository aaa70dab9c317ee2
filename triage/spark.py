"""Re-score on a Spark cluster: `rescore(df)` for DataFrames, `register(spark)` for SQL, `rescore_files` for the command line.

The package, the model, the rules and the profile travel with the job as one archive; each Python worker process opens them once
and makes sure that they are the driver's. What the workers need besides is installed on them: the dependencies of `triage`.
A lost worker's tasks run again elsewhere: a decision depends on its text alone, so the result stays the same.
Copies are not looked for here, because a row would have to know rows of other tasks.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from triage.backlog import Outcome, result_columns, result_types
from triage.changes import HEADS, Earlier, Tally
from triage.engine import Triager
from triage.errors import InputError, OutputError, TriageError, require
from triage.models.folder import SHIPPED
from triage.report_html import write_report
from triage.sinks import RunFolder, arrow_type, write_lasting
from triage.sources import Row, guess_format, read_row

require("pyspark", "spark")
from pyspark.sql import DataFrame, SparkSession  # noqa: E402 - after the message that names the extra
from pyspark.sql import functions as F  # noqa: E402
from pyspark.sql import types as T  # noqa: E402

Spec = dict[str, Any]  # what a worker has to know: plain values, so that any Python can read it
ERROR, BEFORE = "triage_error", "triage_before"
_DECISION = (  # what the report needs of the JSON
    "urgency struct<code:string>, category struct<code:string>, department struct<code:string>, "
    "flags array<struct<code:string>>, reasons array<string>, needs_review boolean"
)


def rescore(
    df: DataFrame, text: str = "text", *, model: str | Path | None = None, profile: str | Path = "zhengzhou",
    rules: str | Path | None = None, results: str = "columns", before: Mapping[str, str] | None = None,
) -> DataFrame:  # fmt: skip
    """Return the rows with their decisions in columns `triage_*`, or, with results="json", as JSON in `triage`.

    text: the column to read. model, profile, rules: as for `Triager.load`. before: when given, the codes of the earlier decision
    stand in `triage_before`. A row without a text has no decision, and `triage_error` says why; it stops nobody.
    Raises InputError when there is no such column, TriageError from a worker whose model, rules or profile differ.
    """
    if text not in df.columns:
        raise InputError(f"no column {text!r}; the columns are {', '.join(df.columns)}")
    spec = _ship(df.sparkSession, model, profile, rules)
    spec |= {"text": text, "results": results, "before": None if before is None else dict(before)}
    kept = df.drop(*_types(spec))
    fields = [T.StructField(name, _spark_type(kind)) for name, kind in _types(spec).items()]
    return kept.mapInArrow(_shipped(spec, "score_batches"), T.StructType([*kept.schema.fields, *fields]))


def register(
    spark: SparkSession, name: str = "triage", *, model: str | Path | None = None, profile: str | Path = "zhengzhou",
    rules: str | Path | None = None,
) -> None:  # fmt: skip
    """Make the decision known to SQL, as a pandas UDF: `SELECT id, triage(text).urgency FROM requests`.

    The struct has the fields of the result columns without `triage_`; of a NULL text all are NULL.
    """
    pandas = require("pandas", "spark")
    spec = _ship(spark, model, profile, rules)
    fields = [
        T.StructField(n.removeprefix("triage_"), _spark_type(t)) for n, t in result_types("columns", "off").items()
    ]
    function = _shipped(spec, "score_series")
    function.__annotations__ = {"texts": pandas.Series, "return": pandas.DataFrame}
    spark.udf.register(name, F.pandas_udf(function, T.StructType(fields)))


def _types(spec: Spec) -> dict[str, Any]:
    out = {**result_types(spec["results"], "off"), ERROR: None}
    return out if spec["before"] is None else {**out, BEFORE: None}


def _spark_type(kind: Any) -> Any:
    return {float: T.DoubleType(), bool: T.BooleanType(), list: T.ArrayType(T.StringType())}.get(kind, T.StringType())


def _ship(spark: SparkSession, model: str | Path | None, profile: str | Path, rules: str | Path | None) -> Spec:
    """Add package, model, rules and profile to the job, once; returns what names them."""
    fingerprints = Triager.load(model, profile=profile, rules=rules, workers=1).fingerprints
    own_profile = Path(profile).suffix == ".toml"
    name = "triage-" + hashlib.sha256(repr(sorted(fingerprints.items())).encode()).hexdigest()[:16]
    context = spark.sparkContext
    if not any(name in archive for archive in context.listArchives):
        package = Path(__file__).parent
        parts = {"triage": package, "model": Path(model or SHIPPED)}
        parts |= ({"rules": Path(rules)} if rules else {}) | ({"profile.toml": Path(profile)} if own_profile else {})
        path = Path(tempfile.mkdtemp(prefix="triage-")) / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for inside, part in parts.items():
                for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
                    if file.is_file() and file.suffix != ".pyc" and not (part == package and SHIPPED in file.parents):
                        archive.write(file, Path(inside) / file.relative_to(part))
        context.addArchive(f"{path}#{name}")
    return {
        "archive": name,
        "fingerprints": fingerprints,
        "profile": None if own_profile else str(profile),
        "rules": rules is not None,
    }


def _shipped(spec: Spec, name: str) -> Callable[[Any], Any]:
    """Return a function that finds this module in the shipped archive: it is pickled by value, the module is not there yet."""

    def run(texts):  # type: ignore[no-untyped-def]  # Spark reads annotations, and these would name things of the driver
        import sys
        from importlib import import_module

        from pyspark import SparkFiles

        root = SparkFiles.get(spec["archive"])
        if root not in sys.path:
            sys.path.insert(0, root)
        return getattr(import_module("triage.spark"), name)(texts, spec, root)

    return run


@lru_cache(maxsize=1)
def _opened(root: str, said: str) -> Triager:
    """Open the shipped triager, once a process. Raises TriageError when it is not the driver's."""
    spec, folder = json.loads(said), Path(root)
    triager = Triager.load(folder / "model", profile=spec["profile"] or folder / "profile.toml",
                           rules=folder / "rules" if spec["rules"] else None, workers=1)  # fmt: skip
    if triager.fingerprints != spec["fingerprints"]:
        raise TriageError(
            f"this worker has another triage ({sys.modules['triage'].__file__}); remove it there: the job brings its own"
        )
    return triager


def _worker(spec: Spec, root: str) -> Triager:
    return _opened(root, json.dumps({k: spec[k] for k in ("profile", "rules", "fingerprints")}, sort_keys=True))


def score_batches(batches: Iterator[Any], spec: Spec, root: str) -> Iterator[Any]:
    """On a worker: yield the Arrow batches with the result columns appended."""
    pa = require("pyarrow", "spark")
    triager = _worker(spec, root)
    earlier = Earlier(triager.profile.labels, spec["before"])
    for batch in batches:
        bodies = batch.column(spec["text"]).to_pylist()
        rows = [read_row("", n, {"text": body}, "text", "id") for n, body in enumerate(bodies)]
        decisions = iter(triager.predict_many([row.text for row in rows if isinstance(row, Row)]))
        out: list[dict[str, Any]] = []
        for row in rows:
            if isinstance(row, Row):
                columns = result_columns(next(decisions).to_dict(), spec["results"])
                out.append(
                    {n: json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else v for n, v in columns.items()}
                )
            else:
                out.append({ERROR: row.message.replace("'text'", repr(spec["text"]))})
        if spec["before"] is not None:
            for columns, values in zip(out, batch.to_pylist(), strict=True):
                columns[BEFORE] = json.dumps(earlier(values))
        arrays, names = list(batch.columns), list(batch.schema.names)
        for name, kind in _types(spec).items():
            arrays.append(pa.array([columns.get(name) for columns in out], arrow_type(kind)))
            names.append(name)
        yield pa.RecordBatch.from_arrays(arrays, names)


def score_series(texts: Any, spec: Spec, root: str) -> Any:
    """On a worker: return the decisions of a series of texts as a frame of result columns without `triage_`."""
    pandas, triager = require("pandas", "spark"), _worker(spec, root)
    decisions = iter(triager.predict_many([t for t in texts if isinstance(t, str)]))
    names = list(result_types("columns", "off"))
    rows = [
        result_columns(next(decisions).to_dict(), "columns") if isinstance(t, str) else dict.fromkeys(names)
        for t in texts
    ]
    return pandas.DataFrame(rows, columns=names).rename(columns=lambda n: n.removeprefix("triage_"))


def rescore_files(
    source: str, out: str, *, master: str, model: Path | None, profile: str, rules: Path | None, form: str | None,
    text_column: str, id_column: str, before: Mapping[str, str], results: str, out_form: str | None, restart: bool,
    **others: Any,
) -> Outcome:  # fmt: skip
    """Re-score files that every worker can reach into a folder of Parquet or JSONL parts, and report what changed.

    Raises InputError and OutputError for what only a local run can do.
    """
    if set_ := [k for k in ("table", "query", "out_table", "person", "encoding", "follow") if others.get(k)]:
        raise InputError(f"--engine spark reads and writes files: leave out --{set_[0].replace('_', '-')}")
    form, out_form = form or guess_format(source, "{"), out_form or "parquet"
    if out_form not in ("parquet", "jsonl"):
        raise OutputError("--engine spark writes a folder of parquet or jsonl; give --out-format")
    local = "://" not in out
    fingerprints = Triager.load(model, profile=profile, rules=rules, workers=1).fingerprints
    job = {"source": source, "options": [form, text_column, id_column, dict(before), results, out_form], **fingerprints}
    folder = RunFolder(Path(out.rstrip("/") + ".rescore") if local else Path(Path(out).name + ".rescore"))
    spark = SparkSession.builder.master(master).appName("triage rescore").getOrCreate()
    notes = ["copies are not looked for on a cluster"]
    try:
        wrote = not restart and folder.load() == job  # all but the report is there
        if local and Path(out).exists() and not restart and not wrote:
            raise OutputError(f"{out}: exists; give another --out, or --restart to replace it")
        if wrote:
            notes.append("all of it was scored already")
            schema = T.StructType.fromJson(json.loads((folder.path / "schema.json").read_text("utf-8")))
        else:
            folder.clear()
            frame = _read(spark, source, form)
            scored = rescore(
                frame, text_column, model=model, profile=profile, rules=rules, results=results, before=before
            )
            writer = scored.write.mode("overwrite" if restart else "errorifexists")
            writer.parquet(out) if out_form == "parquet" else writer.json(out)
            schema = scored.schema
            write_lasting(folder.path / "schema.json", schema.json().encode())
            folder.save(job)
        reader = spark.read.schema(schema)
        written = reader.parquet(out) if out_form == "parquet" else reader.json(out)
        tally, bad = _report(written, folder, id_column, results)
        return Outcome(tally.rows + bad, tally.rows, bad, 0, tally, folder.path, True, tuple(notes))
    finally:
        spark.stop()
        folder.close()


def _read(spark: SparkSession, source: str, form: str) -> DataFrame:
    reader = {"parquet": spark.read.parquet, "jsonl": spark.read.json, "csv": spark.read.option("header", True).csv,
              "tsv": spark.read.option("header", True).option("sep", "\t").csv}  # fmt: skip
    if form not in reader:
        raise InputError(f"{source}: --engine spark reads parquet, jsonl, csv and tsv; name one with --format")
    return reader[form](source)


def _report(written: DataFrame, folder: RunFolder, key: str, results: str) -> tuple[Tally, int]:
    """Count what was written on the cluster; fetch only what changed and what is bad. Returns the tally and the bad rows."""
    if results == "json":
        written = written.withColumn("_d", F.from_json("triage", _DECISION))
        heads = [F.col(f"_d.{h}.code").alias(h) for h in HEADS]
        flags, more = (
            F.col("_d.flags.code"),
            [F.col("_d.reasons").alias("reasons"), F.col("_d.needs_review").alias("needs_review")],
        )
    else:
        heads, flags = [F.col(f"triage_{h}").alias(h) for h in HEADS], F.col("triage_flags")
        more = [F.col("triage_reasons").alias("reasons"), F.col("triage_needs_review").alias("needs_review")]
    number = F.col(key).cast("string") if key in written.columns else F.lit("")
    rows = written.select(number.alias("id"), BEFORE, ERROR, *heads, F.concat_ws(",", flags).alias("flags"), *more)
    good, bad = rows.where(F.col(ERROR).isNull()), 0
    folder.open_logs(None)
    for row in rows.where(F.col(ERROR).isNotNull()).toLocalIterator():
        folder.log({"errors": [{"place": f"{key}={row['id']}", "reason": row[ERROR]}]})
        bad += 1

    def after(row: Any) -> dict[str, Any]:
        return {**{h: row[h] for h in HEADS}, "flags": [f for f in row["flags"].split(",") if f]}

    tally = Tally()
    for row in good.groupBy(BEFORE, *HEADS, "flags").count().toLocalIterator():
        tally.add(json.loads(row[BEFORE]), after(row), row["count"])
    differs = [
        F.coalesce(F.get_json_object(BEFORE, f"$.{h}") != F.col(h), F.lit(False)) for h in ("urgency", "department")
    ]
    for row in good.where(differs[0] | differs[1]).toLocalIterator():
        before, now = json.loads(row[BEFORE]), after(row)
        change = {"kind": Tally().add(before, now), "id": row["id"], "place": f"{key}={row['id']}", "before": before, "after": now,
                  "needs_review": row["needs_review"], "reasons": row["reasons"][:3]}  # fmt: skip
        folder.log({"changes": [change]})
    write_report(folder.path, tally, tally.rows + bad, bad, 0)
    return tally, bad
