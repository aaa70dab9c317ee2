"""Read requests from files as people have them, in bounded memory.

JSONL, CSV, TSV, plain lines and Parquet; UTF-8, with BOM, or GBK; gzip and zstd; one file, a folder, a glob, standard input.
Every row becomes a `Row` or a `BadRow` that names file, line, field and the mend; one bad row costs no other. Each carries
its position, from which reading can go on later.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import hashlib
import io
import json
import sys
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from triage.errors import InputError, require
from triage.records import HelpRequest

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "lines", ".parquet": "parquet"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_HEAD = 1 << 20  # bytes that decide a file's encoding
_POLL = 0.5  # seconds between two looks at a watched folder


@dataclass(frozen=True, slots=True)
class Row:
    """A row that can be read. `values` are all its columns as they came, `position` is where reading goes on after it."""

    place: str
    id: str
    text: str
    values: Mapping[str, Any]
    position: Any = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read. The message holds the place and the mend, never the request's text."""

    place: str
    message: str
    position: Any = None

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


Items = Generator[Row | BadRow | None, None, None]  # None: nothing to read at the moment


class Source(Protocol):
    """Where rows come from, always in the same order. A position is a JSON value that means something to its source only."""

    name: str
    share: float | None  # of the source read so far, None when nobody can know
    columns: Mapping[str, Any] | None  # with their Arrow or SQLAlchemy types; None: untyped, all is text or JSON
    same_columns: bool  # whether every row has the columns of the first
    state: Any  # JSON that positions rest upon; kept with them and given back before reading goes on
    encodings: dict[str, str]  # file -> how it was read, where that was not UTF-8

    @property
    def fingerprint(self) -> Any:
        """JSON that differs when the content does."""
        ...

    def items(self, start: Any = None, stop: threading.Event | None = None) -> Items:
        """Yield the rows after a position (None: from the first)."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def read_row(
    place: str, number: int | str, row: Mapping[str, Any] | str, text: str, key: str, at: Any = None, typed: bool = False
) -> Row | BadRow:  # fmt: skip
    """Check one row: a string body under `text`, readable bytes. A row without an id gets its number as id.

    typed: the columns have types, so that a number cannot be put where an id is missing.
    """
    if isinstance(row, str):
        return BadRow(place, row, at)
    body, given = row.get(text), row.get(key)
    identity = str(number) if given in (None, "") else str(given)
    if body is None:
        return BadRow(place, f"no field {text!r}; add it, or name another with --text-column", at)
    if not isinstance(body, str):
        return BadRow(place, f"field {text!r} is a {type(body).__name__}; it must be a string", at)
    if any(isinstance(value, str) and _undecoded(value) for value in row.values()):
        return BadRow(place, "holds bytes that are neither UTF-8 nor GBK; save the file as UTF-8", at)
    if given in (None, "") and not (typed and key in row):
        row = {key: identity, **row} | {key: identity}
    return Row(place, identity, body, row, at)


def _undecoded(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text)


def detect_encoding(head: bytes, name: str, whole: bool = True) -> str:
    """Return how the first bytes of a file are to be read: UTF-8, else GB 18030 (which holds GBK).

    Bytes that fit neither become lone surrogates later, and the rows that hold them are reported as bad.
    Raises InputError for UTF-16 and for binary files.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name}: the file is UTF-16; save it as UTF-8")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(head, whole)
            return encoding
        except UnicodeDecodeError:
            continue
    if b"\x00" in head[:4096]:
        raise InputError(f"{name}: a binary file; give JSONL, CSV, TSV, Parquet or plain lines of text")
    return "utf-8-sig"


def guess_format(path: str, start: str) -> str:
    """Return the format by suffix, else by the first character: an object means JSONL, anything else lines."""
    suffixes = [s for s in Path(path).suffixes if s.lower() not in COMPRESSIONS]
    return FORMATS.get(suffixes[-1].lower() if suffixes else "") or ("jsonl" if start.lstrip()[:1] == "{" else "lines")


class _Rejoined(io.RawIOBase):
    """A stream with the bytes put back that were read from its beginning to see what it is."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)


@dataclass
class _Opened:
    """A file opened as text (or as Parquet): what it is, and its rows."""

    raw: BinaryIO
    stream: io.TextIOWrapper | None
    form: str
    encoding: str


def _open(path: str, form: str | None, encoding: str | None, stdin: BinaryIO | None) -> _Opened:
    """Open a file whatever it is compressed with and encoded in. Raises InputError when it cannot be read."""
    name = "<stdin>" if path == "-" else path
    try:
        raw = stdin or Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a readable file") from None
    try:
        magic = raw.read(4)
        if magic == b"PAR1" or form == "parquet":
            return _Opened(raw, None, "parquet", "")
        stream: BinaryIO = io.BufferedReader(_Rejoined(magic, raw))
        if magic[:2] == b"\x1f\x8b":
            stream = io.BufferedReader(gzip.GzipFile(fileobj=stream))
        elif magic == b"\x28\xb5\x2f\xfd":
            zstandard = require("zstandard", "rescore")
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True))
        head = stream.read(_HEAD)
        encoding = encoding or detect_encoding(head, name, len(head) < _HEAD)
        try:
            start = head[:400].decode(encoding, "replace")
        except LookupError:
            raise InputError(f"{name}: no encoding {encoding!r}; give utf-8 or gb18030") from None
        form = form or guess_format(path, start)
        newline = {"jsonl": "\n", "lines": None}.get(form, "")
        rejoined = io.BufferedReader(_Rejoined(head, stream), _HEAD)
        text = io.TextIOWrapper(rejoined, encoding, "surrogateescape", newline)
        return _Opened(raw, text, form, encoding)
    except Exception:
        if path != "-":
            raw.close()
        raise


def _table(
    stream: io.TextIOWrapper, name: str, delimiter: str, text: str
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    header = [h.strip() for h in reader.fieldnames or []]
    if text not in header:
        raise InputError(
            f"{name}:1: no column {text!r}; the columns are {', '.join(h[:20] for h in header) or 'none'}; "
            "rename one or name it with --text-column"
        )
    reader.fieldnames = header
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"not valid CSV ({error}); mend the quotes of this row"
            continue
        if None in row:
            yield reader.line_num, f"has more fields than the header's {len(header)}; quote the commas inside a field"
        else:
            yield reader.line_num, row


def _json_lines(stream: io.TextIOWrapper) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for n, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
            where = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            yield n, f"not JSON{where}; write one object a line"
            continue
        yield n, row if isinstance(row, dict) else f"a JSON {type(row).__name__}; write one object a line"


def _parquet(path: str, text: str, skip: int) -> Iterator[tuple[int, dict[str, Any] | str]]:
    parquet = require("pyarrow.parquet", "rescore")
    if path == "-":
        raise InputError("<stdin>: Parquet is not read from standard input; give a file")
    with parquet.ParquetFile(path) as file:
        if text not in file.schema_arrow.names:
            raise InputError(
                f"{path}: no column {text!r}; the columns are {', '.join(file.schema_arrow.names)}; name it with --text-column"
            )
        at = 0
        for batch in file.iter_batches(512):
            for row in (
                [{}] * len(batch) if at + len(batch) <= skip else batch.to_pylist()
            ):  # what is skipped is not unpacked
                at += 1
                yield at, row


def _is_known(path: Path) -> bool:
    """Whether a file in a folder is one to read: of a known format, and neither it nor its folder hidden."""
    kind = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return kind.suffix.lower() in FORMATS and not any(part.startswith(".") for part in path.parts)


class FileSource:
    """The rows of a file, of every file of a folder or glob, or of standard input ("-").

    form: jsonl, csv, tsv, lines or parquet; by default told by suffix or content. encoding: by default told by content.
    follow: go on with files that come into the folder, in order of arrival.
    Raises InputError when there is nothing to read.
    """

    def __init__(
        self, spec: str, form: str | None = None, text_column: str = "text", id_column: str = "id",
        encoding: str | None = None, follow: bool = False,
    ) -> None:  # fmt: skip
        self.name = spec
        self.share: float | None = 0.0 if spec != "-" else None
        self._form, self._encoding, self._follow = form, encoding, follow
        self._text, self._id = text_column, id_column
        head = sys.stdin.buffer.read(_HEAD) if spec == "-" else b""
        self._stdin = io.BufferedReader(_Rejoined(head, sys.stdin.buffer)) if spec == "-" else None
        self._head = hashlib.sha256(head).hexdigest()
        self.encodings: dict[str, str] = {}
        self.files = self._find()
        if follow and not Path(spec).is_dir():
            raise InputError(f"{spec}: --follow watches a folder or a database table; give one")
        if not self.files and not follow:
            raise InputError(f"{spec}: no file to read; give a file, a folder or a glob of {', '.join(FORMATS)}")
        self._alone = spec == "-" or spec in self.files
        self.columns, self.same_columns = self._describe()

    def _find(self) -> list[str]:
        path = Path(self.name)
        if self.name == "-" or path.is_file():
            return [self.name]
        if path.is_dir():
            known = [p for p in path.rglob("*") if p.is_file() and _is_known(p.relative_to(path))]
            if self._follow:
                known.sort(key=lambda p: (p.stat().st_ctime_ns, p))  # set by the move that brought the file in
            return [str(p) for p in (known if self._follow else sorted(known))]
        return sorted(glob.glob(self.name, recursive=True))  # noqa: PTH207 - the pattern may be absolute

    def _describe(self) -> tuple[Mapping[str, Any] | None, bool]:
        forms = {self._form or guess_format(f, "{") for f in self.files}
        if forms != {"parquet"}:
            return None, forms <= {"csv", "tsv", "lines"} and len(self.files) == 1
        parquet = require("pyarrow.parquet", "rescore")
        try:
            schemas = {f: parquet.read_schema(f) for f in self.files}
        except (OSError, ValueError) as error:  # ValueError: ArrowInvalid
            raise InputError(f"{self.name}: not readable as Parquet ({type(error).__name__}); write it again") from None
        first = schemas[self.files[0]]
        for file, schema in schemas.items():
            if not schema.equals(first):
                raise InputError(f"{file}: other columns or types than {self.files[0]}; re-score the two apart")
        return dict(zip(first.names, first.types, strict=True)), True

    @property
    def state(self) -> Any:
        """The files of a watched folder in the order of arrival, so far."""
        return list(self.files) if self._follow else None

    @state.setter
    def state(self, kept: Any) -> None:
        if kept is not None:
            self.files = list(kept)

    @property
    def fingerprint(self) -> Any:
        """Name, size and time of change of every file; of standard input the first megabyte has to do."""
        if self._follow:
            return self.name
        if self.name == "-":
            return f"standard input beginning with {self._head[:16]}"
        stats = [(f, Path(f).stat()) for f in self.files]
        digest = hashlib.sha256(repr([(f, s.st_size, s.st_mtime_ns) for f, s in stats]).encode()).hexdigest()
        return f"{len(stats)} file(s), {sum(s.st_size for _, s in stats)} bytes, {digest[:16]}"

    def items(self, start: Any = None, stop: threading.Event | None = None) -> Items:
        """Yield the rows after position (index of the file, rows of it already read)."""
        index, skip = start or (0, 0)
        while True:
            while index < len(self.files):
                yield from self._file(index, skip)
                index, skip = index + 1, 0
            if not self._follow or stop is None:
                return
            yield None
            if stop.wait(_POLL):
                return
            seen = set(self.files)
            self.files += [f for f in self._find() if f not in seen]

    def close(self) -> None:
        """Nothing to let go of: a file is closed when it has been read."""

    def _file(self, index: int, skip: int) -> Iterator[Row | BadRow]:
        path = self.files[index]
        name = "<stdin>" if path == "-" else path
        several = len(self.files) > 1 or self._follow
        read = 0
        try:
            opened = _open(path, self._form, self._encoding, self._stdin)
            if opened.encoding == "gb18030":
                self.encodings[path] = "GB 18030 (GBK)"
            try:
                size = max(Path(path).stat().st_size, 1) if path != "-" else 0
                for n, row in self._rows(opened, path, name, skip):
                    read += 1
                    if size and read % 256 == 0 and opened.stream:
                        self.share = (index + min(opened.raw.tell() / size, 1)) / len(self.files)
                    if read > skip:
                        place = f"{name}:{n}"
                        number = place if several else n
                        yield read_row(
                            place, number, row, self._text, self._id, (index, read), self.columns is not None
                        )
            finally:
                if opened.stream and path != "-":
                    opened.stream.close()
                if path != "-":
                    opened.raw.close()
        except InputError as error:
            if self._alone:
                raise
            yield BadRow(name, str(error).removeprefix(f"{name}: "), (index + 1, 0))
        except (OSError, EOFError, zlib.error) as error:  # OSError: also a broken gzip header
            fault = (
                f"cannot be read to its end ({type(error).__name__}) after {read} rows; mend the file or fetch it again"
            )
            if self._alone:
                raise InputError(f"{name}: {fault}") from None
            yield BadRow(name, fault, (index + 1, 0))
        self.share = (index + 1) / len(self.files) if self.share is not None else None

    def _rows(self, opened: _Opened, path: str, name: str, skip: int) -> Iterator[tuple[int, dict[str, Any] | str]]:
        if opened.stream is None:
            yield from _parquet(path, self._text, skip)
        elif opened.form == "jsonl":
            yield from _json_lines(opened.stream)
        elif opened.form == "lines":
            yield from ((n, {self._text: line.rstrip("\n")}) for n, line in enumerate(opened.stream, 1) if line.strip())
        else:
            yield from _table(opened.stream, name, "\t" if opened.form == "tsv" else ",", self._text)


def read_requests(
    path: str, form: str | None = None, text_column: str = "text", id_column: str = "id"
) -> Iterator[HelpRequest | BadRow]:
    """Read a file, or standard input for "-"; ids must be unique. Raises InputError when the file as a whole cannot be read."""
    if path != "-":
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give a readable file") from None
    seen: dict[str, str] = {}
    for item in FileSource(path, form, text_column, id_column).items():
        if isinstance(item, BadRow):
            yield item
        elif item is not None and item.id in seen:
            yield BadRow(
                item.place,
                f"field {id_column!r}: {item.id!r} stands already in line {seen[item.id]}; make ids unique",
            )
        elif item is not None:
            seen[item.id] = item.place.rpartition(":")[2]
            extra = {k: v for k, v in item.values.items() if k not in (text_column, id_column)}
            yield HelpRequest(item.id, item.text, extra)


def split_bad(items: Sequence[HelpRequest | BadRow]) -> tuple[list[HelpRequest], list[BadRow]]:
    """Part the requests from the bad rows, keeping their order."""
    return [i for i in items if isinstance(i, HelpRequest)], [i for i in items if isinstance(i, BadRow)]
