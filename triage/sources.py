"""Read requests from files as people have them: JSONL, CSV, TSV or plain lines; UTF-8, with BOM, or GBK.

Every row becomes a `HelpRequest` or a `BadRow` that names file, line, field and the mend; one bad row costs no other.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.errors import InputError
from triage.records import HelpRequest

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".txt": "lines"}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read. The message holds the place and the mend, never the request's text."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


def decode(raw: bytes, name: str) -> tuple[str, str]:
    """Return text and encoding: UTF-8 with or without BOM, else GB 18030 (which holds GBK).

    Bytes that fit neither become lone surrogates, and the rows that hold them are reported as bad.
    Raises InputError for UTF-16 and for binary files.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name}: the file is UTF-16; save it as UTF-8")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return raw.decode(encoding), encoding
        except UnicodeDecodeError:
            continue
    if b"\x00" in raw[:4096]:
        raise InputError(f"{name}: a binary file; give JSONL, CSV, TSV or plain lines of text")
    return raw.decode("utf-8-sig", "surrogateescape"), "utf-8"


def _undecoded(text: str) -> bool:
    return any("\udc80" <= c <= "\udcff" for c in text)


def _table(
    text: str, name: str, delimiter: str, columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header = [h.strip() for h in reader.fieldnames or []]
    if columns["text"] not in header:
        raise InputError(
            f"{name}:1: no column {columns['text']!r}; the columns are {', '.join(header) or 'none'}; "
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


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            where = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            yield n, f"not JSON{where}; write one object a line"
            continue
        yield n, row if isinstance(row, dict) else f"a JSON {type(row).__name__}; write one object a line"


def rows(text: str, name: str, form: str, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield (line number, the row as a dict, or what is wrong with it)."""
    if form == "jsonl":
        yield from _json_lines(text)
    elif form == "lines":
        for n, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield n, {columns["text"]: line}
    else:
        yield from _table(text, name, "\t" if form == "tsv" else ",", columns)


def parse(
    text: str, name: str, form: str, text_column: str = "text", id_column: str = "id"
) -> Iterator[HelpRequest | BadRow]:
    """Yield the requests of a decoded file in order. A row without an id gets its line number as id."""
    seen: dict[str, int] = {}
    columns = {"text": text_column, "id": id_column}
    for n, row in rows(text, name, form, columns):
        place = f"{name}:{n}"
        if isinstance(row, str):
            yield BadRow(place, row)
            continue
        body, key = row.get(text_column), row.get(id_column)
        identity = str(n) if key in (None, "") else str(key)
        if body is None:
            yield BadRow(place, f"no field {text_column!r}; add it, or name another with --text-column")
        elif not isinstance(body, str):
            yield BadRow(place, f"field {text_column!r} is a {type(body).__name__}; it must be a string")
        elif _undecoded(body) or _undecoded(identity):
            yield BadRow(place, "holds bytes that are neither UTF-8 nor GBK; save the file as UTF-8")
        elif identity in seen:
            yield BadRow(
                place, f"field {id_column!r}: {identity!r} stands already in line {seen[identity]}; make ids unique"
            )
        else:
            seen[identity] = n
            yield HelpRequest(identity, body, {k: v for k, v in row.items() if k not in (text_column, id_column)})


def guess_format(path: str, start: str) -> str:
    """Return the format by suffix, else by the first character: an object means JSONL, anything else lines."""
    return _SUFFIXES.get(Path(path).suffix.lower()) or ("jsonl" if start.lstrip()[:1] == "{" else "lines")


def read_requests(
    path: str, form: str | None = None, text_column: str = "text", id_column: str = "id"
) -> Iterator[HelpRequest | BadRow]:
    """Read a file, or standard input for "-". Raises InputError when the file as a whole cannot be read."""
    if path == "-":
        name, raw = "<stdin>", sys.stdin.buffer.read()
    else:
        name = path
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give a readable file") from None
    text, _ = decode(raw, name)
    yield from parse(text, name, form or guess_format(path, text), text_column, id_column)


def split_bad(items: Sequence[HelpRequest | BadRow]) -> tuple[list[HelpRequest], list[BadRow]]:
    """Part the requests from the bad rows, keeping their order."""
    return [i for i in items if isinstance(i, HelpRequest)], [i for i in items if isinstance(i, BadRow)]
