"""Score everything again: read, score and write side by side, chunk by chunk, so that nothing is lost and nothing done twice.

    source.items -> chunks -> [thread: reading] -> score -> [thread: scoring] -> commit (main thread)

A chunk is always the same rows, whatever happened before: it begins where the last one ended. After each, the sink makes rows
and checkpoint lasting together (`triage.sinks`). The checkpoint also names the source, the model, rules, profile and options;
a run is only continued with the same.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from triage import __version__
from triage.changes import Earlier, Tally, codes
from triage.duplicates import Copy, Seen, Window
from triage.engine import Triager, default_triager
from triage.errors import InputError, OutputError, StoppedError
from triage.report_html import write_report
from triage.sinks import Checkpoint, Sink, open_file_sink
from triage.sources import BadRow, FileSource, Row, Source

T = TypeVar("T")
U = TypeVar("U")
CHUNK = 1024  # rows that become lasting together: a few seconds of work
_LABELS: dict[str, Any] = {"urgency": None, "urgency_score": float, "category": None, "category_score": float,
                           "department": None, "department_score": float, "co_departments": list, "flags": list,
                           "districts": list, "needs_review": bool, "reasons": list, "fingerprint": None}  # fmt: skip


def result_types(results: str, duplicates: str) -> dict[str, Any]:
    """Return the result columns and their types (None: text). results: "columns" or "json". duplicates: "off" has no column."""
    if results not in ("columns", "json") or duplicates not in ("near", "exact", "off"):
        raise InputError("results must be columns or json; duplicates must be near, exact or off")
    out = {f"triage_{name}": kind for name, kind in _LABELS.items()} if results == "columns" else {"triage": None}
    return out if duplicates == "off" else {**out, "triage_duplicate_of": None}


def result_columns(decision: Mapping[str, Any], results: str) -> dict[str, Any]:
    """Return a decision's JSON form as result columns."""
    if results == "json":
        return {"triage": decision}
    out: dict[str, Any] = {}
    for head in ("urgency", "category", "department"):
        out[f"triage_{head}"], out[f"triage_{head}_score"] = decision[head]["code"], decision[head]["score"]
    for name in ("co_departments", "flags"):
        out[f"triage_{name}"] = [label["code"] for label in decision[name]]
    for name in ("districts", "needs_review", "reasons"):
        out[f"triage_{name}"] = decision[name]
    out["triage_fingerprint"] = "/".join(decision["fingerprints"].values())
    return out


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. share: of the source, in [0, 1], None when nobody can know. bad: the bad rows of the last chunk."""

    rows: int
    share: float | None
    urgency: Mapping[str, int]
    bad: Sequence[BadRow]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, interruptions included. `folder` holds its report and logs."""

    rows: int
    answered: int
    bad: int
    copies: int
    changes: Tally
    folder: Path
    finished: bool  # False: a watched source, stopped
    notes: tuple[str, ...] = field(default=())


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of whoever takes them; errors pass through."""
    passed: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: tuple[bool, Any]) -> None:
        while not closed.is_set():
            try:
                return passed.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if closed.is_set():
                    break
            put((False, None))
        except BaseException as error:
            put((False, error))
        finally:
            items.close()

    thread = threading.Thread(target=work, name="triage", daemon=True)
    thread.start()
    try:
        while (got := passed.get())[0]:
            yield got[1]
        if got[1] is not None:
            raise got[1]
    finally:
        closed.set()
        thread.join()


def _each(work: Callable[[T], U], items: Generator[T, None, None]) -> Generator[U, None, None]:
    with closing(items):
        for item in items:
            yield work(item)


def chunks(items: Iterable[Row | BadRow | None], size: int) -> Generator[list[Row | BadRow], None, None]:
    """Put rows together by `size`; when the source has nothing at the moment (None), what there is, be it nothing."""
    held: list[Row | BadRow] = []
    for item in items:
        if item is not None:
            held.append(item)
        if item is None or len(held) == size:
            yield held
            held = []
    if held:
        yield held


@dataclass(slots=True)
class Scored:
    """A chunk with its decisions (JSON form; None for a bad row), copies, and where looking back for copies would begin."""

    items: list[Row | BadRow]
    decisions: list[dict[str, Any] | None]
    copies: list[Copy | None]
    marks: list[Any]
    behind: list[int]


class _Scorer:
    """Scores chunk after chunk, copies once; keeps the marks from which a continued run has to read again for `window`."""

    def __init__(self, triager: Triager, window: Window | None, checkpoint: Checkpoint) -> None:
        self._triager, self._window = triager, window
        self._marks, self._behind = checkpoint["marks"], checkpoint["behind"]
        self._position = checkpoint["position"]

    def replay(self, items: Iterator[Row | BadRow | None]) -> None:
        """Take the rows in again that the window looked back to."""
        if self._window is None:
            return
        for n, count in enumerate(self._behind):
            if n:
                self._window.turn()
            for item in islice(items, count):
                self._window.add(item) if isinstance(item, Row) else self._window.skip()

    def __call__(self, items: list[Row | BadRow]) -> Scored:
        seen, copies = self._look_back(items)
        wanted: dict[int, Seen] = {}  # rows whose decision is needed and not known
        for one in seen:
            if one is not None and one.result is None:
                wanted.setdefault(id(one), one)
        decided = self._triager.predict_many([one.original for one in wanted.values()]) if wanted else []
        new: dict[int, dict[str, Any]] = {}
        for one, decision in zip(wanted.values(), decided, strict=True):
            new[id(one)] = decision.to_dict()
            if self._window is not None:
                one.result = json.dumps(new[id(one)], ensure_ascii=False).encode("utf-8", "surrogatepass")
        decisions = [None if one is None else new.get(id(one)) or _known(one) for one in seen]
        return Scored(items, decisions, copies, self._marks, self._behind)

    def _look_back(self, items: list[Row | BadRow]) -> tuple[list[Seen | None], list[Copy | None]]:
        """Return for each row whose decision it takes (its own, or that of the row it repeats), and what it repeats."""
        if self._window is None:
            return [Seen(x.id, "", x.text, None) if isinstance(x, Row) else None for x in items], [None] * len(items)
        if self._window.full:
            self._window.turn()
            self._marks, self._behind = [self._marks[1], self._position], [self._behind[1], 0]
        takes: list[Seen | None] = []
        copies: list[Copy | None] = []
        for item in items:
            own, copy = self._window.add(item) if isinstance(item, Row) else self._window.skip()
            takes.append(copy.first if copy else own)
            copies.append(copy)
        if items:
            self._position = items[-1].position
        self._behind = [self._behind[0], self._behind[1] + len(items)]
        return takes, copies


def _known(seen: Seen) -> dict[str, Any]:
    out: dict[str, Any] = json.loads((seen.result or b"{}").decode("utf-8", "surrogatepass"))
    return out


class _Run:
    """One run from its checkpoint to the end."""

    def __init__(self, triager: Triager, source: Source, sink: Sink, job: dict[str, Any], options: _Options) -> None:
        self.triager, self.source, self.sink, self.job, self.options = triager, source, sink, job, options
        self._earlier = Earlier(triager.profile.labels, options.before)
        self.notes: list[str] = []

    def go(self) -> Outcome:
        """Begin, or continue, or find that everything is done; then write the report."""
        options, sink = self.options, self.sink
        checkpoint = None if options.restart else sink.load()
        if checkpoint is not None:
            self._check_same(checkpoint)
        sink.begin(checkpoint)
        sink.folder.open_logs(checkpoint)
        if checkpoint is None:
            checkpoint = {"job": self.job, "rows": 0, "bad": 0, "copies": 0, "position": None, "marks": [None, None],
                          "behind": [0, 0], "tally": Tally().to_dict(), "logs": {}, "state": None, "complete": False}  # fmt: skip
            sink.commit((), checkpoint)
        elif checkpoint["complete"]:
            self.notes.append("all of it was done already")
        elif checkpoint["rows"]:
            self.notes.append(f"continued after {checkpoint['rows']} rows")
        if not checkpoint["complete"]:
            self._work(checkpoint)
        if checkpoint["complete"]:
            sink.finish()
        self.notes += [f"{file}: read as {name}" for file, name in self.source.encodings.items()]
        tally = Tally.from_dict(checkpoint["tally"])
        outcome = Outcome(checkpoint["rows"], tally.rows, checkpoint["bad"], checkpoint["copies"], tally, sink.folder.path,
                          checkpoint["complete"], tuple(self.notes))  # fmt: skip
        write_report(sink.folder.path, tally, checkpoint["rows"], checkpoint["bad"], checkpoint["copies"])
        return outcome

    def _check_same(self, checkpoint: Checkpoint) -> None:
        then = checkpoint["job"]
        changed = [k for k in {**then, **self.job} if then.get(k) != self.job.get(k)]
        if changed:
            state = "is the finished output of another run" if checkpoint["complete"] else "was begun by another run"
            raise OutputError(
                f"{self.options.out}: {state} ({', '.join(changed)} changed since); bring back what it was begun with, give another "
                "--out, or --restart to begin anew"
            )

    def _work(self, checkpoint: Checkpoint) -> None:
        options = self.options
        window = None
        if options.duplicates != "off":
            window = Window(self.triager.rules, options.duplicates == "near", options.person)
        if options.follow:  # what came when cannot be told again: after a restart looking back begins anew
            checkpoint["marks"], checkpoint["behind"] = [checkpoint["position"]] * 2, [0, 0]
        self.source.state = checkpoint["state"]
        items = self.source.items(checkpoint["position"] if window is None else checkpoint["marks"][0], options.stop)
        scorer = _Scorer(self.triager, window, checkpoint)
        scorer.replay(items)
        tally = Tally.from_dict(checkpoint["tally"])
        done = ahead(_each(scorer, ahead(chunks(items, options.chunk), 2)), 1)
        try:
            for scored in done:
                if scored.items:
                    self._commit(scored, checkpoint, tally)
                if options.stop is not None and options.stop.is_set():
                    break
            else:
                if not options.follow:
                    checkpoint["complete"] = True
                    self.sink.commit((), checkpoint)
        finally:
            done.close()
            items.close()
        if not checkpoint["complete"] and not options.follow:
            raise StoppedError(
                f"stopped after {checkpoint['rows']} rows, all of them kept; run the same command again to continue"
            )

    def _commit(self, scored: Scored, checkpoint: Checkpoint, tally: Tally) -> None:
        rows: list[dict[str, Any]] = []
        logs: dict[str, list[dict[str, Any]]] = {"errors": [], "changes": [], "duplicates": []}
        for item, decision, copy in zip(scored.items, scored.decisions, scored.copies, strict=True):
            if isinstance(item, BadRow) or decision is None:
                assert isinstance(item, BadRow)
                logs["errors"].append({"place": item.place, "reason": item.message})
                continue
            out = {**item.values, **result_columns(decision, self.options.results)}
            if self.options.duplicates != "off":
                out["triage_duplicate_of"] = copy.first.id if copy else None
            rows.append(out)
            if copy:
                logs["duplicates"].append({"id": item.id, "repeats": copy.first.id, "exact": copy.exact})
            before, after = self._earlier(item.values), codes(decision)
            if kind := tally.add(before, after):
                logs["changes"].append({"kind": kind, "id": item.id, "place": item.place, "before": before, "after": after,
                                        "needs_review": decision["needs_review"], "reasons": decision["reasons"][:3]})  # fmt: skip
        checkpoint["rows"] += len(scored.items)
        checkpoint["bad"] += len(logs["errors"])
        checkpoint["copies"] += len(logs["duplicates"])
        checkpoint.update(position=scored.items[-1].position, marks=scored.marks, behind=scored.behind,
                          state=self.source.state, tally=tally.to_dict())  # fmt: skip
        checkpoint["logs"] = self.sink.folder.log(logs)
        self.sink.commit(rows, checkpoint)
        if self.options.progress:
            bad = [item for item in scored.items if isinstance(item, BadRow)]
            self.options.progress(Progress(checkpoint["rows"], self.source.share, tally.after, bad))


@dataclass(frozen=True, slots=True)
class _Options:
    out: str
    results: str
    duplicates: str
    person: str | None
    before: Mapping[str, str]
    chunk: int
    restart: bool
    follow: bool
    stop: threading.Event | None
    progress: Callable[[Progress], None] | None


def rescore(
    source: str | Path,
    out: str | Path,
    *,
    triager: Triager | None = None,
    text_column: str = "text",
    id_column: str = "id",
    form: str | None = None,
    out_form: str | None = None,
    encoding: str | None = None,
    table: str | None = None,
    query: str | None = None,
    out_table: str | None = None,
    results: str = "columns",
    before: Mapping[str, str] | None = None,
    duplicates: str = "near",
    person: str | None = None,
    chunk: int = CHUNK,
    restart: bool = False,
    follow: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Score every row of a source again and write it with its decision; a run that was interrupted is continued.

    source: a file, a folder, a glob, "-" or a database URL (then `table` or `query`). out: a file, "folder/", "-" or a
    database URL (then `out_table`; the source's own table gets the results written back). id_column: the key, for databases.
    results: "columns" (`triage_urgency`, ...) or "json" (one column `triage`). before: head -> column of the earlier decision,
    where it is not `urgency`, `triage_urgency` or in `triage`. duplicates: "near", "exact" or "off"; person: a column that
    tells who wrote. chunk: rows that become lasting together. restart: begin anew. follow: go on with what comes into a folder
    or table. stop: set it to end the run after the chunk in hand. progress: called after each chunk.

    Raises InputError for a source that cannot be read, OutputError for an output that belongs to another run or is in use,
    StoppedError when the run ended early and can be continued, TriageError when an extra is not installed.
    """
    source, out = str(source), str(out) + ("/" if isinstance(out, Path) and out.is_dir() else "")
    if chunk < 1:
        raise InputError(f"chunk must be at least 1, not {chunk}")
    triager = triager or default_triager()
    types = result_types(results, duplicates)
    before = dict(before or {})
    opened = open_source(source, form, text_column, id_column, encoding, table, query, follow)
    if follow and not out.endswith("/") and "://" not in out and out != "-" and not Path(out).is_dir():
        raise OutputError(
            f"{out}: a watched source has no end, so a file would never be finished; give a folder/, - or a database"
        )
    job = {
        "source": opened.fingerprint, "columns read": [text_column, id_column, form, encoding, before],
        **triager.fingerprints, "decision policy": hashlib.sha256(repr(triager.policy).encode()).hexdigest()[:16],
        "triage": __version__, "options": [results, duplicates, person, chunk, out_form, follow],
    }  # fmt: skip
    job = json.loads(json.dumps(job))  # as it will be read again
    with closing(opened), closing(open_sink(out, out_form, out_table or table, id_column, types, opened)) as sink:
        options = _Options(
            out, results, duplicates, person, before, chunk, restart, follow, stop or threading.Event(), progress
        )
        return _Run(triager, opened, sink, job, options).go()


def open_source(
    source: str, form: str | None, text_column: str, id_column: str, encoding: str | None, table: str | None,
    query: str | None, follow: bool,
) -> Source:  # fmt: skip
    """Open files or a database. Raises InputError."""
    if "://" in source:
        from triage.database import SqlSource

        return SqlSource(source, text_column, id_column, table, query, follow)
    if table or query:
        raise InputError(f"{source}: --table and --query belong to a database; give its URL as SOURCE")
    return FileSource(source, form, text_column, id_column, encoding, follow)


def open_sink(
    out: str, form: str | None, table: str | None, key: str, result: Mapping[str, Any], source: Source
) -> Sink:
    """Open the sink for `out`. Raises OutputError."""
    carried = source.columns or {}
    if "://" not in out:
        return open_file_sink(out, form, {**carried, **result}, source.same_columns)
    from triage.database import SqlSink, SqlSource

    if table is None:
        raise OutputError(f"{out.partition('://')[0]}: name the table to write, with --out-table")
    return SqlSink(
        out, table, key, carried, result, source.same_columns, source if isinstance(source, SqlSource) else None
    )
