"""The command line, end to end: what it prints, what it says on stderr, how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "triage.cli", *args], input=stdin, capture_output=True, cwd=ROOT, check=False
    )


def test_a_file_gives_one_object_a_line_in_input_order() -> None:
    done = run("predict", "examples/requests.jsonl")
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.decode().splitlines()]
    want = [json.loads(line)["id"] for line in (ROOT / "examples/requests.jsonl").read_text("utf-8").splitlines()]
    assert [r["id"] for r in rows] == want
    for row in rows:
        assert {
            "id",
            "category",
            "urgency",
            "department",
            "co_departments",
            "flags",
            "districts",
            "needs_review",
            "reasons",
        } <= set(row)
        assert all({"code", "name", "score"} <= set(row[k]) for k in ("category", "urgency", "department"))
        assert all("code" in x for x in row["flags"] + row["co_departments"])
    assert done.stderr == b""


def test_standard_input_may_be_jsonl_or_plain_lines() -> None:
    done = run("predict", "-", stdin='{"id": "甲", "text": "几点做核酸"}\n'.encode())
    assert json.loads(done.stdout)["id"] == "甲"
    done = run("predict", "-", stdin="几点做核酸\n没有菜了\n".encode("gbk"))
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1", "2"]


def test_a_text_gives_a_card_or_json() -> None:
    done = run("predict", "老婆羊水破了，在金水区")
    assert done.returncode == 0
    assert all(word in done.stdout.decode() for word in ("特急", "寻医买药", "金水区", "羊水破了"))
    done = run("predict", "老婆羊水破了", "--json")
    assert json.loads(done.stdout)["urgency"]["code"] == "critical"


def test_bad_rows_are_named_and_the_rest_answered(tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    path.write_text(
        '{"id": 1, "text": "几点做核酸"}\n{"id": 2, "tex\n{"id": 1, "text": "我叫张三，电话13800000000"}\n', "utf-8"
    )
    done = run("predict", str(path))
    assert done.returncode == 1
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["1"]
    stderr = done.stderr.decode()
    assert "open.jsonl:2: not JSON" in stderr
    assert "open.jsonl:3: field 'id': '1' stands already in line 1" in stderr
    assert "张三" not in stderr
    assert "1 answered, 2 bad row(s)" in stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("predict", "nowhere.jsonl"), 2, "nowhere.jsonl: no such file"),
        (("predict", "几点做核酸", "--model", "tests"), 3, "no manifest.json here"),
        (("predict", "几点做核酸", "--profile", "atlantis"), 3, "no profile 'atlantis'"),
        (("predict", "几点做核酸", "--rules", "docs"), 3, "no rule files"),
        (("predict",), 2, "Missing argument"),
    ],
)
def test_errors_have_exit_codes_and_no_traceback(args: tuple[str, ...], code: int, message: str) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_rules_can_be_checked_and_explained() -> None:
    assert "all examples hold" in run("rules", "check").stdout.decode()
    shown = run("rules", "explain", "我妈没有胸痛").stdout.decode()
    assert "denied" in shown
    assert "没有" in shown


def test_rules_are_measured_on_labelled_requests_and_a_changed_folder_shows_its_effect(tmp_path: Path) -> None:
    data = tmp_path / "labelled.jsonl"
    rows = [{"id": "a", "text": "我家的蓝精灵药片吃完了", "urgency": "critical", "category": "medical", "flags": []},
            {"id": "b", "text": "健康码变黄了，去哪里做核酸", "urgency": "routine", "category": "testing", "flags": []},
            {"id": "c", "text": "没有菜了", "urgency": "我叫王芳"}]  # fmt: skip
    data.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8")
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.toml").write_text(
        '[[rule]]\nid = "own.smurf"\nmeans = "x"\nany = ["蓝精灵"]\nurgency = "critical"\nred_flag = true\nhit = ["蓝精灵"]\n',
        "utf-8",
    )
    done = run("rules", "report", str(data), "--rules", str(own))
    assert done.returncode == 1
    assert "labelled.jsonl: request c: urgency is none of" in done.stderr.decode()
    assert "王芳" not in done.stderr.decode()
    out = done.stdout.decode()
    assert "own.smurf" in out
    assert "raised" in out
    listed = [json.loads(line) for line in run("rules", "report", str(data), "--json").stdout.splitlines()]
    assert all({"rule", "holds", "only", "wrong"} <= set(row) for row in listed)
    assert "own.smurf" not in {row["rule"] for row in listed}
    assert any(row["against"] for row in listed)
    last = run("rules", "report", str(data), "--json", "--rules", str(own)).stdout.splitlines()[-1]
    assert json.loads(last)["changes"]["total"] == 2
