"""Files as people have them; one bad row costs no other, and says where it stands and what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from triage.errors import InputError
from triage.records import HelpRequest
from triage.sources import BadRow, read_requests


def read(tmp_path: Path, name: str, raw: bytes, **options: str) -> list[HelpRequest | BadRow]:
    (tmp_path / name).write_bytes(raw)
    return list(read_requests(str(tmp_path / name), **options))


WANT = [HelpRequest("1", "老人发烧，急"), HelpRequest("2", "没菜了")]
CSV = 'id,text\r\n1,"老人发烧，急"\r\n2,没菜了\r\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
def test_a_table_reads_the_same_in_every_encoding_people_use(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "a.csv", CSV.encode(encoding)) == WANT


def test_every_format_gives_the_same_requests(tmp_path: Path) -> None:
    jsonl = '{"id": 1, "text": "老人发烧，急"}\n\n{"id": "2", "text": "没菜了"}\n'
    assert read(tmp_path, "a.jsonl", jsonl.encode()) == WANT
    assert read(tmp_path, "a.tsv", CSV.replace(",", "\t").encode()) == WANT
    assert read(tmp_path, "a.txt", "老人发烧，急\n没菜了\n".encode()) == WANT
    assert read(tmp_path, "noname", jsonl.encode()) == WANT


def test_other_columns_are_carried_and_named_columns_are_used(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", "编号,诉求,街道\n7,没菜了,须水\n".encode(), text_column="诉求", id_column="编号")
    assert rows == [HelpRequest("7", "没菜了", {"街道": "须水"})]


def test_broken_rows_are_named_and_the_good_ones_kept(tmp_path: Path) -> None:
    raw = '{"id": 1, "text": "好"}\n{"id": 2, "text": \n[1]\n{"id": 3}\n{"id": 4, "text": 5}\n{"id": 1, "text": "又"}\n{"id": 5, "text": "好"}'
    rows = read(tmp_path, "a.jsonl", raw.encode())
    assert [r.id for r in rows if isinstance(r, HelpRequest)] == ["1", "5"]
    messages = [str(r) for r in rows if isinstance(r, BadRow)]
    for line, words in (
        (2, "not JSON"),
        (3, "a JSON list"),
        (4, "no field 'text'"),
        (5, "is a int"),
        (6, "already in line 1"),
    ):
        assert any(f"a.jsonl:{line}: " in m and words in m for m in messages), (line, messages)


def test_bytes_of_no_encoding_spoil_only_their_row(tmp_path: Path) -> None:
    raw = (
        '{"id": 1, "text": "好的"}\n{"id": 2, "text": "'.encode()
        + b"\xff\xfe\xff"
        + '"}\n{"id": 3, "text": "好"}\n'.encode()
    )
    rows = read(tmp_path, "a.jsonl", raw)
    assert [r.id for r in rows if isinstance(r, HelpRequest)] == ["1", "3"]
    assert next(str(r) for r in rows if isinstance(r, BadRow)).endswith("save the file as UTF-8")


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.csv", "id,内容\n1,好\n".encode(), r"a\.csv:1: no column 'text'; the columns are id, 内容"),
        ("a.csv", "id,text\n1,好\n".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("a.txt", b"\x89PNG\x00\x00\xff\xff\xfe", "a binary file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, raw: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, raw)


def test_a_missing_file_says_so() -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl: No such file"):
        list(read_requests("nowhere.jsonl"))
