"""Write results so that a run killed at any instant leaves nothing half done that is taken for done.

One protocol for every kind of output: rows come in chunks, and a chunk and the checkpoint that counts it become lasting
together. What was written after the last checkpoint is undone when the run is started again.

    file      bytes are appended to `output.partial` and fsynced, then the checkpoint names their number
    parts     a chunk is a file under a hidden name; it gets its own once the checkpoint counts it
    database  rows and checkpoint are one transaction (triage/database.py)

Checkpoint, lock, partial output and the logs (errors, changes, duplicates) stand in one folder beside the output: the run folder.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import errno
import fcntl
import gzip
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from triage.errors import OutputError, StoppedError, require
from triage.sources import COMPRESSIONS, FORMATS

Checkpoint = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
LOGS = ("errors", "changes", "duplicates")
GROUP = 16_384  # rows of a Parquet row group: few enough to stay small in memory


@contextmanager
def lasting(path: Path) -> Iterator[None]:
    """Turn a failed write into StoppedError with the mend."""
    try:
        yield
    except OSError as error:
        mend = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
        raise StoppedError(f"{path}: {error.strerror}; {mend}, then run the same command again to continue") from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder lasting."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_lasting(path: Path, data: bytes) -> None:
    """Put a file in place whole; a power cut leaves the new content or the old."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class AppendedFile:
    """A file that grows by whole chunks; opening it at an offset undoes what was written after that."""

    def __init__(self, path: Path, offset: int) -> None:
        self.path, self.offset = path, offset
        with lasting(path):
            self._file: IO[bytes] = path.open("ab")
        if (size := path.stat().st_size) < offset:
            self._file.close()
            raise OutputError(
                f"{path}: shorter ({size} bytes) than its run wrote ({offset}); start over with --restart"
            )
        self._file.truncate(offset)

    def append(self, data: bytes) -> int:
        """Append and make lasting; returns the new offset, in bytes."""
        if data:
            with lasting(self.path):
                self._file.write(data)
                self._file.flush()
                os.fsync(self._file.fileno())
            self.offset += len(data)
        return self.offset

    def close(self) -> None:
        """Let go of the file."""
        with suppress(OSError):  # a full disk has been told already
            self._file.close()


class RunFolder:
    """The folder beside an output that holds lock, checkpoint and logs of its run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with lasting(path):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it however the process ends
        except BlockingIOError:
            self._lock.close()
            raise OutputError(
                f"{path}: another run is writing this output; wait for it, or give another --out"
            ) from None
        self._logs: dict[str, AppendedFile] = {}

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint, None when there is none. Raises OutputError when it is damaged."""
        try:
            checkpoint: Checkpoint = json.loads((self.path / "progress.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise OutputError(f"{self.path / 'progress.json'}: not readable; start over with --restart") from None
        return checkpoint

    def save(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint in the place of the last one."""
        write_lasting(self.path / "progress.json", json.dumps(checkpoint, ensure_ascii=False).encode())

    def open_logs(self, checkpoint: Checkpoint | None) -> None:
        """Open the logs as the checkpoint knows them; None: empty."""
        offsets = (checkpoint or {}).get("logs", {})
        for name in LOGS:
            self._logs[name] = AppendedFile(self.path / f"{name}.jsonl", offsets.get(name, 0))
        sync_folder(self.path)  # the names must last before a checkpoint counts on them

    def log(self, lines: Mapping[str, Rows]) -> dict[str, int]:
        """Append lines to the logs; returns their lengths in bytes, for the checkpoint."""
        return {n: log.append(b"".join(json_line(x) for x in lines.get(n, ()))) for n, log in self._logs.items()}

    def clear(self) -> None:
        """Forget everything but the lock."""
        (self.path / "progress.json").unlink(missing_ok=True)  # first: a checkpoint must never count what is gone
        for path in self.path.iterdir():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Let go of logs and lock."""
        for log in self._logs.values():
            log.close()
        self._lock.close()


class Sink(Protocol):
    """Where results go. `begin`, `commit` and `finish` may be repeated after any interruption."""

    folder: RunFolder

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint; None when no run has begun. Raises OutputError when something else stands there."""
        ...

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Undo what the checkpoint does not count; None: begin anew."""
        ...

    def commit(self, rows: Rows, checkpoint: Checkpoint) -> None:
        """Make a chunk and the checkpoint that counts it lasting, both or neither. Raises StoppedError."""
        ...

    def finish(self) -> None:
        """Give the output its name. The last checkpoint says `complete`."""
        ...

    def close(self) -> None:
        """Let go of files, connections and locks."""
        ...


def plain(value: Any) -> Any:
    """Return a JSON value for what databases and Parquet hold."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return one line of JSONL. Half a surrogate pair, which UTF-8 cannot hold, is escaped."""
    try:
        return json.dumps(row, ensure_ascii=False, default=plain).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row, default=plain).encode() + b"\n"


def flat(value: Any) -> Any:
    """Return a value that fits a text column: strings as they are, everything else as JSON; None stays."""
    if value is None:
        return None
    if not isinstance(value, str):
        value = plain(value) if isinstance(value, _SCALARS) else json.dumps(value, ensure_ascii=False, default=plain)
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


_SCALARS = (datetime.date, datetime.time, bytes, decimal.Decimal)


class Columns:
    """The columns of a table, fixed by the first chunk and kept in the checkpoint.

    Where rows may differ, columns that come up later stand as JSON in `other_fields`. types: those the source and the
    results have; a column without one holds text.
    """

    OTHERS = "other_fields"

    def __init__(self, types: Mapping[str, Any], same_columns: bool) -> None:
        self._types, self._same = types, same_columns
        self.names: list[str] = []

    def fix(self, rows: Rows, checkpoint: Checkpoint) -> None:
        """Take the columns from the checkpoint or, for the first chunk, from its rows into the checkpoint."""
        if not self.names:
            self.names = checkpoint.get("columns") or list(dict.fromkeys(name for row in rows for name in row))
            if not self._same and self.OTHERS not in self.names:
                self.names.append(self.OTHERS)
        checkpoint["columns"] = self.names

    @property
    def types(self) -> dict[str, Any]:
        """Column -> its type, None for text."""
        return {name: self._types.get(name) for name in self.names}

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with exactly these columns; what has no type is flat."""
        out = {n: row.get(n) if self._types.get(n) is not None else flat(row.get(n)) for n in self.names}
        if not self._same and (more := {k: v for k, v in row.items() if k not in out}):
            out[self.OTHERS] = json.dumps(more, ensure_ascii=False, default=plain)
        return out


class _Encoder:
    """Turns chunks of rows into bytes of one format, each chunk decompressible on its own."""

    def __init__(self, form: str, compression: str | None, columns: Columns) -> None:
        self._form, self._compression, self.columns = form, compression, columns

    def __call__(self, rows: Rows, checkpoint: Checkpoint, header: bool) -> bytes:
        if not rows:
            return b""
        if self._form == "jsonl":
            data = b"".join(map(json_line, rows))
        else:
            self.columns.fix(rows, checkpoint)
            data = self._parquet(rows) if self._form == "parquet" else self._table(rows, header)
        if self._compression is None:
            return data
        if self._compression == "gzip":
            return gzip.compress(data, 6, mtime=0)
        compressed: bytes = require("zstandard", "rescore").ZstdCompressor().compress(data)
        return compressed

    def _table(self, rows: Rows, header: bool) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out, delimiter="\t" if self._form == "tsv" else ",", lineterminator="\n")
        if header:
            writer.writerow(self.columns.names)
        writer.writerows([flat(v) for v in self.columns.row(row).values()] for row in rows)
        return out.getvalue().encode()

    def _parquet(self, rows: Rows) -> bytes:
        pa, parquet = require("pyarrow", "rescore"), require("pyarrow.parquet", "rescore")
        schema = pa.schema([(name, arrow_type(t)) for name, t in self.columns.types.items()])
        buffer = io.BytesIO()
        try:
            table = pa.Table.from_pylist([self.columns.row(row) for row in rows], schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise OutputError(
                f"a value does not fit its Parquet column ({str(error)[:60]}); write JSONL instead"
            ) from None
        parquet.write_table(table, buffer, row_group_size=GROUP)
        return buffer.getvalue()


def arrow_type(kind: Any) -> Any:
    """Return the Arrow type of a column: itself, or that of a Python or SQLAlchemy type; text when it has none."""
    pa = require("pyarrow", "rescore")
    if isinstance(kind, pa.DataType):
        return kind
    if kind is list:
        return pa.list_(pa.string())
    try:
        python = kind if isinstance(kind, type) else kind.python_type
    except (AttributeError, NotImplementedError):
        return pa.string()
    zone = "UTC" if getattr(kind, "timezone", False) else None
    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary(), datetime.date: pa.date32(),
            datetime.datetime: pa.timestamp("us", zone)}.get(python, pa.string())  # fmt: skip


class FileSink:
    """One file: JSONL, CSV or TSV, plain or compressed; a gzip member or zstd frame a chunk."""

    def __init__(self, out: Path, folder: RunFolder, encoder: _Encoder) -> None:
        self.folder, self._out, self._encode = folder, out, encoder
        self._partial = folder.path / "output.partial"
        self._file: AppendedFile | None = None

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint. Raises OutputError when a file stands there that no run here wrote."""
        return _own(self._out, self.folder.load())

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Cut the partial output to what the checkpoint counts."""
        if checkpoint is None:
            self.folder.clear()
        elif checkpoint["complete"]:
            return
        self._file = AppendedFile(self._partial, (checkpoint or {}).get("bytes", 0))

    def commit(self, rows: Rows, checkpoint: Checkpoint) -> None:
        """Append, then count."""
        assert self._file is not None
        checkpoint["bytes"] = self._file.append(self._encode(rows, checkpoint, header=self._file.offset == 0))
        with lasting(self._out):
            self.folder.save(checkpoint)

    def finish(self) -> None:
        """Rename the partial output; done already when it is gone."""
        with lasting(self._out):
            if self._partial.exists():
                self._partial.replace(self._out)
            sync_folder(self._out.parent)

    def close(self) -> None:
        """Let go of everything."""
        if self._file:
            self._file.close()
        self.folder.close()


class PartsSink:
    """A folder of numbered files, one a chunk; for a Parquet file they are joined at the end."""

    def __init__(self, out: Path, folder: RunFolder, encoder: _Encoder, suffix: str, join: bool) -> None:
        self.folder, self._out, self._encode = folder, out, encoder
        self._suffix, self._join = suffix, join
        self._parts = folder.path / "parts" if join else out

    def _named(self, number: int) -> Path:
        return self._parts / f"part-{number:08}{self._suffix}"

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint. Raises OutputError when something stands there that no run here wrote."""
        return _own(self._out, self.folder.load())

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Name the last part if the checkpoint counts it, else forget it."""
        with lasting(self._parts):
            if checkpoint is None:
                self.folder.clear()
                for old in self._parts.glob("part-*"):
                    old.unlink()
            elif checkpoint["complete"] and not self._parts.exists():
                return
            self._parts.mkdir(parents=True, exist_ok=True)
            last = self._named((checkpoint or {}).get("parts", 0))
            if (hidden := last.with_name(f".{last.name}")).exists():
                hidden.replace(last)
            for leftover in self._parts.glob(".part-*"):
                leftover.unlink()

    def commit(self, rows: Rows, checkpoint: Checkpoint) -> None:
        """Write the part under a hidden name, count it, name it: whoever watches the folder sees only what is counted."""
        number = checkpoint.get("parts", 0) + bool(rows)
        hidden = self._named(number).with_name(f".{self._named(number).name}")
        with lasting(self._out):
            if rows:
                data = self._encode(rows, checkpoint, header=True)
                with hidden.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                sync_folder(self._parts)
            checkpoint["parts"] = number
            self.folder.save(checkpoint)
            if rows:
                hidden.replace(self._named(number))

    def finish(self) -> None:
        """Join the parts into the one file that was asked for; a folder is finished as it is."""
        joined, done = self.folder.path / "output.joining", self.folder.path / "joined"
        with lasting(self._out):
            if self._join and self._parts.exists():
                self._join_into(joined)
                joined.replace(self._out)
                sync_folder(self._out.parent)
                self._parts.rename(done)  # in one step: half the parts must never be joined again
            shutil.rmtree(done, ignore_errors=True)
            sync_folder(self._out.parent if self._join else self._out)

    def _join_into(self, path: Path) -> None:
        pa, parquet = require("pyarrow", "rescore"), require("pyarrow.parquet", "rescore")
        files = sorted(self._parts.glob("part-*"))
        with parquet.ParquetWriter(path, parquet.read_schema(files[0]) if files else pa.schema([])) as writer:
            for table in _gathered(files):
                writer.write_table(table)
                pa.default_memory_pool().release_unused()  # left alone it keeps ever more of what was read
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let go of everything."""
        self.folder.close()


def _gathered(files: Sequence[Path]) -> Iterator[Any]:
    """Yield the parts together in tables of one row group."""
    pa, parquet = require("pyarrow", "rescore"), require("pyarrow.parquet", "rescore")
    held: list[Any] = []
    for file in files:
        held.append(parquet.ParquetFile(file).read(use_threads=False))
        while sum(map(len, held)) >= GROUP:
            table = pa.concat_tables(held)
            yield table[:GROUP]
            held = [table[GROUP:]]
    if held:
        yield pa.concat_tables(held)


class StreamSink:
    """Standard output: nothing can be undone there, so nothing is kept to continue from."""

    def __init__(self, folder: RunFolder, encoder: _Encoder) -> None:
        self.folder, self._encode = folder, encoder
        self._begun = False

    def load(self) -> Checkpoint | None:
        """Return None: every run is a new one."""
        return None

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Nothing to undo."""

    def commit(self, rows: Rows, checkpoint: Checkpoint) -> None:
        """Write the chunk."""
        sys.stdout.buffer.write(self._encode(rows, checkpoint, header=not self._begun))
        sys.stdout.buffer.flush()
        self._begun = self._begun or bool(rows)

    def finish(self) -> None:
        """Nothing to name."""

    def close(self) -> None:
        """Let go of the run folder, which was only a temporary one."""
        self.folder.close()
        shutil.rmtree(self.folder.path, ignore_errors=True)


def _own(out: Path, checkpoint: Checkpoint | None) -> Checkpoint | None:
    if checkpoint is None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out}: exists, and no run here wrote it; give another --out, or --restart to replace it")
    return checkpoint


def open_file_sink(out: str, form: str | None, types: Mapping[str, Any], same_columns: bool) -> Sink:
    """Return the sink for a file, a folder ("results/") or standard output ("-"). Raises OutputError.

    form: jsonl, csv, tsv or parquet; by default told by the suffix, JSONL for a folder and standard output.
    types: column -> type, of source and results.
    """
    path = Path(out)
    is_folder = out.endswith("/") or path.is_dir()
    suffixes = [s.lower() for s in path.suffixes[-2:]] if not is_folder else []
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    known = FORMATS.get(suffixes[-2 if compression and len(suffixes) > 1 else -1]) if suffixes else None
    form = form or known or ("jsonl" if is_folder or out == "-" else None)
    if form not in ("jsonl", "csv", "tsv", "parquet") or (form == "parquet" and (compression or out == "-")):
        raise OutputError(
            f"{out}: give a name ending in .jsonl, .csv, .tsv (each with .gz or .zst), .parquet, a folder/, - or a database URL"
        )
    encoder = _Encoder(form, compression, Columns(types, same_columns))
    if out == "-":
        import tempfile

        return StreamSink(RunFolder(Path(tempfile.mkdtemp(prefix="triage-"))), encoder)
    folder = RunFolder(path.with_name(path.name + ".rescore"))
    if is_folder or form == "parquet":
        suffix = {"parquet": ".parquet", "csv": ".csv", "tsv": ".tsv"}.get(form, ".jsonl")
        return PartsSink(path, folder, encoder, suffix, join=not is_folder)
    return FileSink(path, folder, encoder)
