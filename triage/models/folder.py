"""A model folder: declared files, each with its sha256 in `manifest.json`. No pickle, nothing executable.

manifest.json    kind, when and from what it was made, sha256 of every other file
labels.json      codes of each head in the order of the logits, calibration temperatures
model.onnx       the network          tokenizer.json   its tokenizer
decision.json    weights of rules against model, fitted on validation data
training.toml    how it was trained   evaluation.json  how good it is      README.md  the model card
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triage.errors import ModelError

SHIPPED = Path(__file__).parent / "default"
MANIFEST = "manifest.json"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ModelFolder:
    """A verified model folder; `fingerprint` names its exact content."""

    path: Path
    manifest: dict[str, Any]
    fingerprint: str

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Verify every file of the folder. Raises ModelError naming the file that is missing, changed or undeclared."""
        path = Path(path)
        try:
            raw = (path / MANIFEST).read_bytes()
            manifest = json.loads(raw)
            declared: dict[str, str] = manifest["files"]
        except FileNotFoundError:
            raise ModelError(f"{path}: no {MANIFEST} here; give a folder that `training.export` wrote") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ModelError(f"{path / MANIFEST}: not a model manifest ({error}); restore or export it again") from None
        for name, digest in declared.items():
            if not (path / name).is_file():
                raise ModelError(f"{path / name}: missing; restore the file or export the model again")
            if _sha256(path / name) != digest:
                raise ModelError(f"{path / name}: changed since it was exported (sha256); restore or export it again")
        return cls(path, manifest, hashlib.sha256(raw).hexdigest()[:16])

    @classmethod
    def seal(cls, path: Path, **about: Any) -> ModelFolder:
        """Write the manifest over the files that stand in the folder now, and open it."""
        files = {p.name: _sha256(p) for p in sorted(path.iterdir()) if p.is_file() and p.name != MANIFEST}
        (path / MANIFEST).write_text(
            json.dumps({**about, "files": files}, ensure_ascii=False, indent=1) + "\n", "utf-8"
        )
        return cls.open(path)

    def read_json(self, name: str) -> Any:
        """Return the content of a declared JSON file. Raises ModelError when it is not declared."""
        if name not in self.manifest["files"]:
            raise ModelError(f"{self.path}: the manifest declares no {name}; export the model again")
        return json.loads((self.path / name).read_text("utf-8"))
