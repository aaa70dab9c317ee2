"""The code is formatted, linted and typed; nothing heavy is imported where it must not be."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("command", ["ruff check .", "ruff format --check .", "mypy"])
def test_the_code_is_clean(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# room -> rooms it may import from; the arrows of ARCHITECTURE.md
ALLOWED = {
    "records": {""}, "privacy": set(), "errors": set(), "text": set(), "sources": {"errors", "records"}, "sinks": {"errors", "sources"},
    "database": {"errors", "sinks", "sources"}, "duplicates": {"errors", "privacy", "rules", "sources", "text"},
    "report_html": {"records", "changes", "duplicates", "sinks"},
    "backlog": {"", "changes", "database", "duplicates", "engine", "errors", "report_html", "sinks", "sources"},
    "spark": {"backlog", "changes", "engine", "errors", "models", "report_html", "sinks", "sources"},
    "profile": {"errors", "records", "text"}, "rules": {"errors", "records", "text", "profile", "rules"},
    "models": {"errors", "records", "text", "profile", "models"},
    "decide": {"privacy", "errors", "records", "text", "profile"},
    "changes": {"records"},
    "cascade": {"models", "records"},
    "engine": {"errors", "records", "text", "profile", "rules", "models", "decide", "cascade"},
    "gate": {"", "engine", "errors", "evaluation", "profile", "records"}, "registry": {"errors", "models", "sinks"},
    "sklearn": {"errors", "models", "text"},
    "evaluation": {"errors", "records", "text", "profile", "models", "decide", "engine", "sources"},
    "cli": {"", "errors", "records", "text", "profile", "rules", "engine", "sources", "changes", "evaluation",
            "backlog", "spark", "gate", "registry"},
    "__init__": {"backlog", "engine", "errors", "privacy", "records"},
}  # fmt: skip


def test_imports_point_one_way() -> None:
    for path in (ROOT / "triage").rglob("*.py"):
        room = path.relative_to(ROOT / "triage").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"triage", "training"}:
                parts = (node.module or "").split(".")
                assert parts[0] == "triage", f"{path} imports {node.module}"
                assert ".".join(parts[1:2]) in ALLOWED[room], f"{path} imports {node.module}"


def test_setup_cfg_and_pyproject_share_no_key() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert set(project) == {"build-system", "tool"}
    assert set(setup.sections()) & set(project["tool"]) == set()
