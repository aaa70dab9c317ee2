"""Labelled requests as people have them: read any of these into `Example`s, and send requests out to be labelled.

    python -m training.formats check FILE                       # every fault of the file; else what it holds
    python -m training.formats to-label-studio FILE OUT.json    # and OUT.xml, the labelling interface
    python -m training.formats to-doccano FILE OUT.jsonl        # and OUT.labels.json, the labels to import

Read are CSV, TSV, Excel, JSONL, JSON lists, Parquet, a `datasets` Dataset (object or folder), Label Studio's export (JSON, JSON-MIN),
doccano's export (JSONL), and a folder of such files named train, validation and test. Columns are known by Chinese or English
names (`COLUMNS`), others are passed over; labels by the profile's codes or names.

Who has labelled what: a head whose column no row has is None everywhere; an empty cell of a head with one label is None; an empty
cell of co_departments or flags means that there are none, JSON's null that nobody has looked.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click

from training.corpus import HEADS, SINGLE, SPLITS, Example, codes, critical_facts
from triage.errors import InputError, require
from triage.privacy import redact
from triage.profile import Profile, load_profile
from triage.sources import detect_encoding
from triage.text import clean

# Field of an example -> what its column may be called; the first name of a head is what labelling tools show.
COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("编号", "序号", "工单号", "工单编号", "诉求编号", "uid"),
    "text": ("正文", "内容", "诉求", "诉求内容", "诉求正文", "工单内容", "求助内容", "文本", "描述", "留言",
             "content", "request", "body", "message"),
    "category": ("诉求类别", "类别", "分类", "类型", "诉求类型", "诉求分类", "class"),
    "urgency": ("紧急程度", "紧急度", "紧急级别", "等级", "级别", "优先级", "priority", "level"),
    "department": ("责任部门", "部门", "主办", "主办部门", "主办单位", "承办部门", "承办单位", "责任单位", "dept"),
    "co_departments": ("协办部门", "协办", "协办单位", "配合部门", "co_department", "codept"),
    "flags": ("风险标签", "风险", "风险点", "flag", "risk", "risks"),
    "mentioned": ("仅提及", "提及不成立"),
    "facts": ("危急事实",),
    "districts": ("属地", "区县", "所属区县", "district"),
    "voice": ("口吻", "说话人"),
    "pair": ("对照组",),
    "split": ("划分", "数据划分", "数据集", "subset"),
}  # fmt: skip
SPLIT_NAMES = {
    "训练": "train", "训练集": "train", "training": "train", "验证": "validation", "验证集": "validation", "val": "validation",
    "valid": "validation", "dev": "validation", "测试": "test", "测试集": "test",
} | {s: s for s in SPLITS}  # fmt: skip
NOTHING = {"无", "没有", "none", "-", "—", "/"}  # in a cell of several labels: somebody has looked, and there are none
_SUFFIXES = {".csv", ".tsv", ".xlsx", ".jsonl", ".ndjson", ".json", ".parquet"}
_HEAD_OF = {"category": "category", "urgency": "urgency", "department": "department", "co_departments": "department",
            "flags": "flag", "mentioned": "flag"}  # fmt: skip

Row = tuple[str, dict[str, Any] | str]  # its place, and its columns or what is wrong with it


def fold(name: object) -> str:
    """Return a name as names are compared: NFKC, lower case, without spaces, _ and -."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", str(name)).lower())


_FIELD_OF = {fold(name): field for field, names in COLUMNS.items() for name in (field, *names)}


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode(detect_encoding(raw, str(path)))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is neither UTF-8 nor GB 18030 (GBK); save the file as UTF-8"
        ) from None


def _under(header: Sequence[Any], cells: Sequence[Any]) -> dict[str, Any] | str:
    if any(c not in (None, "") for c in cells[len(header) :]):
        return f"has {len(cells)} cells under {len(header)} column names; quote the commas inside a cell"
    return dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=False))


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(
        io.StringIO(_decoded(path), newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
    )
    header, n = next(reader, []), 1
    while True:
        n += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield f"{path}:{n}", f"not valid CSV ({error}); mend the quotes of this row"
            continue
        if any(cells):
            yield f"{path}:{n}", _under(header, cells)


def _excel(path: Path) -> Iterator[Row]:
    openpyxl = require("openpyxl", "train")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError):
        raise InputError(f"{path}: not an Excel workbook; save it as .xlsx again") from None
    rows = enumerate(book.worksheets[0].iter_rows(values_only=True), 1)
    header: Sequence[Any] = next((cells for _, cells in rows if any(c is not None for c in cells)), ())
    for n, cells in rows:
        if any(c is not None for c in cells):
            yield f"{path}:{n}", _under(header, ["" if c is None else c for c in cells])
    book.close()


def _json_lines(path: Path) -> Iterator[Row]:
    for n, line in enumerate(_decoded(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{n}", _object(json.loads(line))
            except (ValueError, RecursionError):
                yield f"{path}:{n}", "not JSON; write one object a line"


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(_decoded(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({type(error).__name__}); export it again") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: a JSON {type(rows).__name__}; give a list of objects, as Label Studio exports it")
    yield from ((f"{path}:{n}", _object(row)) for n, row in enumerate(rows, 1))


def _object(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"a JSON {type(row).__name__}; write an object"


def _parquet(path: Path) -> Iterator[Row]:
    try:
        rows = require("pyarrow.parquet", "train").read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # ValueError: ArrowInvalid
        raise InputError(f"{path}: not readable as Parquet ({type(error).__name__}); write it again") from None
    yield from ((f"{path}:{n}", row) for n, row in enumerate(rows, 1))


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _csv, ".tsv": _csv, ".xlsx": _excel, ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json,
    ".parquet": _parquet,
}  # fmt: skip


def _dataset(source: Any, name: str) -> Iterator[tuple[str, str, Iterable[Row]]]:
    """Yield split, name and rows of a `datasets` Dataset or DatasetDict."""
    for split, part in source.items() if isinstance(source, Mapping) else [("", source)]:
        label = f"{name} {split}".strip()
        yield SPLIT_NAMES.get(split, ""), label, ((f"{label}:{n}", dict(row)) for n, row in enumerate(part, 1))


def _files(source: Any) -> Iterator[tuple[str, str, Iterable[Row]]]:
    """Yield split ("": the file does not say), name and rows of every table of a source."""
    if not isinstance(source, str | Path):
        yield from _dataset(source, "dataset")
        return
    path = Path(source)
    if path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()):
        yield from _dataset(require("datasets", "train").load_from_disk(str(path)), str(path))
        return
    parts = [path]
    if path.is_dir():
        known = [p for p in sorted(path.iterdir()) if p.suffix.lower() in _SUFFIXES]
        parts = [p for p in known if fold(p.stem) in SPLIT_NAMES] or known
    for part in parts:
        reader = _READERS.get(part.suffix.lower())
        if reader is None or not part.is_file():
            raise InputError(
                f"{part}: no file of requests; give one of {', '.join(sorted(_SUFFIXES))}, or a folder of them"
            )
        yield SPLIT_NAMES.get(fold(part.stem), "") if path.is_dir() else "", str(part), reader(part)
    if not parts:
        raise InputError(f"{path}: no file of requests here; give one of {', '.join(sorted(_SUFFIXES))}")


def _label_studio(task: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a task: its data, and the choices of the last annotation that was not cancelled; no annotation: unlabelled."""
    row = {"id": task.get("id")} | dict(task["data"])
    done = [a for a in task.get("annotations") or task.get("completions") or () if not a.get("was_cancelled")]
    if not done:
        return row | dict.fromkeys(HEADS)
    said = [r for r in done[-1]["result"] if "choices" in r.get("value", {})]
    return row | {r["from_name"]: r["value"]["choices"] for r in said}


def _doccano(
    row: Mapping[str, Any], labels: Sequence[Any], known: Mapping[str, Mapping[str, str]]
) -> dict[str, Any] | str:
    """Flatten a row: its labels are "head:label", or a label that only one head has; no label at all: unlabelled."""
    out: dict[str, Any] = {k: v for k, v in row.items() if k not in ("label", "labels", "data")}
    out |= {"text": row.get("text", row.get("data"))} | (dict.fromkeys(HEADS) if not labels else {})
    for label in labels:
        head, _, name = str(label).replace("：", ":").rpartition(":")
        heads = (
            [_FIELD_OF.get(fold(head))]
            if head
            else [h for h in HEADS if fold(name) in known[h] and h != "co_departments"]
        )
        if len(heads) != 1 or heads[0] not in HEADS:
            return "column 'label': holds a label that belongs to no head, or to several; write it as 责任部门:name"
        out.setdefault(heads[0], []).append(name)
    return out


def _several(cell: Any, known: Mapping[str, str]) -> list[str]:
    """Return the labels in a cell: a list, Label Studio's {"choices": [...]}, either as JSON, or names with marks between."""
    if isinstance(cell, str) and cell.strip()[:1] in ("[", "{"):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise ValueError("looks like JSON and is none; write names with commas between") from None
    if isinstance(cell, Mapping):
        cell = cell.get("choices", [])
    if isinstance(cell, list | tuple):
        return [str(c) for c in cell]
    told = "" if cell is None else str(cell).strip()
    if fold(told) in known or told in NOTHING:
        return [] if told in NOTHING else [told]
    return [part for part in re.split(r"[,，;；、|/\s]+", told) if part]


def _coded(cell: Any, known: Mapping[str, str]) -> list[str]:
    """Return the codes of a cell's labels, each once. Raises ValueError that quotes nothing of the cell."""
    out = []
    for told in _several(cell, known):
        if fold(told) not in known:
            near = get_close_matches(fold(told), known, 1, 0.6)
            raise ValueError("is no label of the profile" + (f"; perhaps {known[near[0]]}" if near else ""))
        out.append(known[fold(told)])
    return list(dict.fromkeys(out))


def _known(profile: Profile) -> dict[str, dict[str, str]]:
    """Return field -> folded code or name -> code, of every field whose values are a closed list."""
    named = {field: profile.labels[head] for field, head in _HEAD_OF.items()}
    out = {
        field: {fold(told): code for code, name in names.items() for told in (name, code)}
        for field, names in named.items()
    }
    out["facts"] = {fold(code): code for code in critical_facts()}
    return out


def _districts(profile: Profile, cell: Any) -> tuple[str, ...]:
    found = [profile.find_districts(clean(told)) for told in _several(cell, {})]
    if not all(found):
        raise ValueError("is no district of the profile; mend it, or leave the column out")
    return tuple(names[0] for names in found)


def _identity(cell: Any) -> str:
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else "" if cell is None else cell).strip()


def _example(row: Mapping[str, Any], columns: Mapping[str, str], known: Mapping[str, Mapping[str, str]], profile: Profile,
             faults: list[str]) -> Example:  # fmt: skip
    """Turn a row into an example; `columns` are field -> column. What is wrong with it is added to `faults`."""
    values: dict[str, Any] = {}

    def read(field: str, parse: Callable[[Any], Any], otherwise: Any) -> None:
        values[field] = otherwise
        if field in columns:
            cell = row.get(columns[field], "")
            try:
                values[field] = parse(cell)
            except ValueError as fault:
                faults.append(f"column {columns[field]!r}: {fault}")

    def one(field: str, cell: Any) -> str | None:
        told = _coded(cell, known[field])
        if len(told) > 1:
            raise ValueError(f"holds {len(told)} labels; keep one")
        return told[0] if told else None

    def several(field: str, cell: Any) -> tuple[str, ...]:
        return tuple(_coded(cell, known[field]))

    def unless_null(parse: Callable[[Any], Any], cell: Any) -> Any:
        return None if cell is None else parse(cell)

    def text(cell: Any) -> str:
        if cell is None or isinstance(cell, list | dict) or not str(cell).strip():
            raise ValueError("is empty or no text; fill in the request, or take the row out")
        return str(cell)

    def split(cell: Any) -> str:
        told = fold("" if cell is None else cell)
        if told and told not in SPLIT_NAMES:
            raise ValueError(f"is none of {', '.join(SPLITS)}")
        return SPLIT_NAMES.get(told, "")

    read("id", _identity, "")
    read("text", text, "")
    for field in SINGLE:
        read(field, partial(one, field), None)
    for field in ("co_departments", "flags"):
        read(field, partial(unless_null, partial(several, field)), None)
    for field in ("mentioned", "facts"):
        read(field, partial(several, field), ())
    read("districts", partial(unless_null, partial(_districts, profile)), None)
    for field in ("voice", "pair"):
        read(field, _identity, "")
    read("split", split, "")
    if values["co_departments"]:  # who leads is often listed among those who help
        values["co_departments"] = tuple(c for c in values["co_departments"] if c != values["department"])
    if both := set(values["flags"] or ()) & set(values["mentioned"]):
        faults.append(f"column {columns['mentioned']!r}: {', '.join(sorted(both))} also stand(s) under flags; keep one")
    return Example(**values)


def read(source: Any, profile: Profile | None = None) -> list[Example]:
    """Read labelled (or not yet labelled) requests: a path, or a `datasets` Dataset or DatasetDict.

    Raises InputError that lists every fault with file, row (a table's header is row 1) and column, and quotes no cell.
    """
    profile = profile or load_profile()
    known, faults, wrong = _known(profile), list[str](), set[str]()
    out: list[Example] = []
    seen: dict[str, str] = {}
    for split, name, lazy in _files(source):
        rows: list[Row] = []
        for place, row in lazy:
            if isinstance(row, dict) and isinstance(row.get("data"), dict):
                row = _label_studio(row)
            elif isinstance(row, dict) and isinstance(labels := row.get("label", row.get("labels")), list):
                row = _doccano(row, labels, known)
            rows.append((place, row))
        columns: dict[str, str] = {}
        told = dict.fromkeys(str(c) for _, row in rows if isinstance(row, dict) for c in row if c is not None)
        for column in told:
            field = _FIELD_OF.get(fold(column))
            if field in columns:
                faults.append(
                    f"{name}: columns {columns[field]!r} and {column!r} both are {field}; keep one or rename it"
                )
            elif field:
                columns[field] = column
        if "text" not in columns and not all(isinstance(row, str) for _, row in rows):
            shown = ", ".join(c[:20] for c in told) or "none"
            faults.append(f"{name}: no column holds the request; call it 正文 or text (the columns are {shown})")
            continue
        for n, (place, row) in enumerate(rows, 1):
            if isinstance(row, str):
                faults.append(f"{place}: {row}")
                continue
            found: list[str] = []
            x = _example({str(k): v for k, v in row.items()}, columns, known, profile, found)
            x = replace(x, id=x.id or f"{Path(name).stem}-{n}", split=x.split or split)
            if x.id in seen:
                found.append(f"column {columns.get('id', 'id')!r}: the same id as {seen[x.id]}; make ids unique")
            seen.setdefault(x.id, place)
            faults += [f"{place}: {fault}" for fault in found]
            wrong |= {
                f for f, c in columns.items() for fault in found if fault.startswith(f"column {c!r}: is no label")
            }
            out.append(x)
    if faults:
        lists = [f"labels of {field}: " + ", ".join(f"{name} ({code})" for code, name in profile.labels[_HEAD_OF[field]].items())
                 for field in _HEAD_OF if field in wrong]  # fmt: skip
        raise InputError("\n".join(faults + lists))
    if not out:
        raise InputError(f"{source if isinstance(source, str | Path) else 'dataset'}: holds no request")
    return out


def _title(head: str) -> str:
    return COLUMNS[head][0]


def _names(example: Example, head: str, profile: Profile) -> list[str]:
    return [profile.labels[_HEAD_OF[head]][code] for code in codes(example, head)]


def to_label_studio(examples: Sequence[Example], profile: Profile, out: Path) -> None:
    """Write tasks to import into Label Studio, and beside them (.xml) the labelling interface for the profile's labels.

    Texts are redacted. Labels that are there become annotations; a request without any becomes a task to be done.
    """
    tasks = []
    for x in examples:
        result = [{"from_name": head, "to_name": "text", "type": "choices", "value": {"choices": _names(x, head, profile)}}
                  for head in HEADS if getattr(x, head) is not None]  # fmt: skip
        task: dict[str, Any] = {"data": {"id": x.id, "text": redact(x.text)}}
        tasks.append(task | ({"annotations": [{"result": result}]} if result else {}))
    out.write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", "utf-8")
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Text", name="text", value="$text")
    for head in HEADS:
        ElementTree.SubElement(view, "Header", value=_title(head))
        choice = "single" if head in SINGLE else "multiple"
        choices = ElementTree.SubElement(view, "Choices", name=head, toName="text", choice=choice, showInline="true")
        for name in profile.labels[_HEAD_OF[head]].values():
            ElementTree.SubElement(choices, "Choice", value=name)
    ElementTree.indent(view)
    out.with_suffix(".xml").write_text(ElementTree.tostring(view, "unicode") + "\n", "utf-8")


def to_doccano(examples: Sequence[Example], profile: Profile, out: Path) -> None:
    """Write JSONL to import into a doccano text classification project, and beside it (.labels.json) its labels: "head:label".

    Texts are redacted.
    """
    lines = []
    for x in examples:
        labels = [f"{_title(head)}:{name}" for head in HEADS for name in _names(x, head, profile)]
        lines.append({"id": x.id, "text": redact(x.text), "label": labels})
    out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    every = [{"text": f"{_title(head)}:{name}"} for head in HEADS for name in profile.labels[_HEAD_OF[head]].values()]
    out.with_suffix(".labels.json").write_text(json.dumps(every, ensure_ascii=False, indent=1) + "\n", "utf-8")


@click.command()
@click.argument("what", type=click.Choice(["check", "to-label-studio", "to-doccano"]))
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels: a shipped name or a TOML file")
def main(what: str, source: Path, out: Path | None, profile: str) -> None:
    """Check the requests of SOURCE, or write them to OUT to be labelled."""
    city = load_profile(profile)
    try:
        examples = read(source, city)
    except InputError as error:
        raise click.ClickException(str(error)) from None
    if what == "check":
        for head in HEADS:
            count = Counter(code for x in examples for code in codes(x, head))
            told = ", ".join(f"{city.labels[_HEAD_OF[head]][c]} {n:,}" for c, n in count.most_common())
            labelled = sum(getattr(x, head) is not None for x in examples)
            click.echo(f"{head}: {labelled:,} of {len(examples):,} requests labelled: {told or 'no label'}")
    elif out is None:
        raise click.UsageError("OUT is missing; give the file to write")
    else:
        {"to-label-studio": to_label_studio, "to-doccano": to_doccano}[what](examples, city, out)
        click.echo(f"{out}: {len(examples):,} requests, private parts under asterisks")


if __name__ == "__main__":
    main()
