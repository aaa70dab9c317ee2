"""Every notebook runs from top to bottom and says what it said when it was written.

To write them anew after a change (`pip install nbconvert`): jupyter nbconvert --execute --inplace notebooks/*.ipynb
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def said(cell: Any) -> str:
    """What a cell printed or returned, without the addresses of figures."""
    texts = [
        o["text"] if o["output_type"] == "stream" else o.get("data", {}).get("text/plain", "") for o in cell["outputs"]
    ]
    return "".join(t for t in texts if not t.startswith("<Figure"))


def drew(cell: Any) -> int:
    """How many plots a cell shows."""
    return sum("image/png" in o.get("data", {}) for o in cell["outputs"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_says_what_it_said(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIAGE_MODELS", str(tmp_path))  # nobody's models in force
    kept = nbformat.read(path, 4)
    run = deepcopy(kept)
    NotebookClient(
        run, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for old, new in zip(kept.cells, run.cells, strict=True):
        if old.cell_type != "code":
            continue
        assert old["outputs"], f"no outputs are stored:\n{old['source']}"
        assert not any(o.get("name") == "stderr" for o in old["outputs"]), f"noise is stored:\n{old['source']}"
        assert drew(new) == drew(old), old["source"]
        if "varies" not in old["metadata"].get("tags", ()):  # what is trained differs from machine to machine
            assert said(new) == said(old), old["source"]


def test_there_are_five_with_plots_and_none_is_heavy() -> None:
    assert [p.stem[:2] for p in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    for path in NOTEBOOKS:
        assert any(drew(cell) for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"), path.name
        assert path.stat().st_size < 400_000, path.name
