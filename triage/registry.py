"""Which model is in force? A folder of models, one pointer that says which, and the history of how it came to be.

    <fingerprint>/   a model folder, copied in and never changed
    in_force.json    the pointer: models put in force, the last one is; and how many bytes of the history count
    history.jsonl    what was put in force, refused or rolled back, when, by which comparison

Every step appends to the history, then replaces the pointer as a whole: a process killed at any instant leaves the old pointer or
the new one, and a line of history that no pointer counts never happened. Before the first promotion the shipped model is in force.

A service takes the model in force when it starts, and looks again whenever it likes (it is the read of a small file):

    registry = Registry()
    folder = registry.in_force()
    triager = Triager.load(folder)
    ...
    if (now := registry.in_force()) != folder:
        folder, triager = now, Triager.load(now)  # requests being decided finish under the old model
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from triage.errors import ModelError
from triage.models.folder import MANIFEST, SHIPPED, ModelFolder
from triage.sinks import AppendedFile, sync_folder, write_lasting

POINTER, HISTORY = "in_force.json", "history.jsonl"
IN_FORCE, OF_PACKAGE = "in-force", "shipped"  # names that stand for a model


@dataclass(frozen=True, slots=True)
class _State:
    """What the pointer holds: fingerprints in the order they came into force, and the bytes of history that count."""

    models: tuple[str, ...] = ()
    history: int = 0


class Registry:
    """A folder of models of which one is in force; safe to use from several processes.

    folder: by default the environment's TRIAGE_MODELS, else `models` in the user's data directory for triage.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or os.environ.get("TRIAGE_MODELS") or user_data_path("triage") / "models")

    def in_force(self) -> Path:
        """Return the model folder in force, for `Triager.load`. Raises ModelError for a pointer that cannot be read."""
        return self._path(self._state().models)

    def before(self) -> list[str]:
        """Return the fingerprints that `rollback` goes back through, the last one first, the shipped model left out."""
        return list(reversed(self._state().models[:-1]))

    def models(self) -> list[str]:
        """Return the fingerprints of the models that are kept here."""
        return sorted(p.parent.name for p in self.folder.glob(f"*/{MANIFEST}") if not p.parent.name.startswith("."))

    def history(self) -> list[dict[str, Any]]:
        """Return every step, oldest first: when, what (promoted, refused, rolled back), model, replaces; and its comparison."""
        count = self._state().history
        text = (self.folder / HISTORY).read_bytes()[:count].decode("utf-8") if count else ""
        return [json.loads(line) for line in text.splitlines()]

    def find(self, name: str | Path) -> Path:
        """Return the folder of a model: a folder, `in-force`, `shipped`, or the beginning of a fingerprint kept here.

        Raises ModelError when it is none of them, or the beginning of several.
        """
        if name in (IN_FORCE, OF_PACKAGE):
            return self.in_force() if name == IN_FORCE else SHIPPED
        if Path(name).is_dir():
            return Path(name)
        known = [m for m in self.models() if m.startswith(str(name))]
        if len(known) != 1:
            raise ModelError(
                f"{name}: {'several models begin so' if known else 'no model folder'}; give a folder, {IN_FORCE}, {OF_PACKAGE}"
                + "".join(f", {m}" for m in known or self.models())
            )
        return self.folder / known[0]

    def add(self, path: str | Path) -> ModelFolder:
        """Verify a model folder and keep a copy of its declared files. Raises ModelError for a folder that is not sound."""
        source = ModelFolder.open(path)
        if wrong := [name for name in source.manifest["files"] if Path(name).name != name]:
            raise ModelError(f"{source.path / MANIFEST}: {wrong[0]!r} is no plain file name; export the model again")
        with self._locked():
            target = self.folder / source.fingerprint
            if not target.exists():
                partial = self.folder / f".{source.fingerprint}"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                for name in (*source.manifest["files"], MANIFEST):
                    write_lasting(partial / name, (source.path / name).read_bytes())
                sync_folder(partial)
                partial.rename(target)
                sync_folder(self.folder)
        return ModelFolder.open(target)

    def promote(self, fingerprint: str, *, replaces: str | None = None, **about: Any) -> None:
        """Put a model that is kept here in force. `about` goes into the history, as plain JSON values.

        replaces: the fingerprint that it was compared with. Raises ModelError when another one is in force by now, when the model
        is in force already, or when its folder is not sound.
        """
        with self._locked():
            state = self._state()
            now = ModelFolder.open(self._path(state.models)).fingerprint
            if now == fingerprint:
                raise ModelError(f"model {fingerprint} is in force already")
            if replaces not in (None, now):
                raise ModelError(
                    f"model {now} has come into force meanwhile, not {replaces}; compare with it and try again"
                )
            ModelFolder.open(self.folder / fingerprint)
            self._step((*state.models, fingerprint), state, what="promoted", model=fingerprint, replaces=now, **about)

    def refuse(self, fingerprint: str, **about: Any) -> None:
        """Keep in the history that a model was refused; what is in force stays so."""
        with self._locked():
            state = self._state()
            self._step(state.models, state, what="refused", model=fingerprint, **about)

    def rollback(self) -> str:
        """Return to the model that was in force before this one; returns its fingerprint.

        Raises ModelError when the shipped model is in force, and when the folder to return to is not sound.
        """
        with self._locked():
            state = self._state()
            if not state.models:
                raise ModelError(f"{self.folder}: the shipped model is in force; there is none to return to")
            back = ModelFolder.open(self._path(state.models[:-1])).fingerprint
            self._step(state.models[:-1], state, what="rolled back", model=back, replaces=state.models[-1])
        return back

    def _path(self, models: tuple[str, ...]) -> Path:
        return self.folder / models[-1] if models else SHIPPED

    def _state(self) -> _State:
        path = self.folder / POINTER
        try:
            raw = json.loads(path.read_bytes())
            return _State(tuple(raw["models"]), int(raw["history"]))
        except FileNotFoundError:
            return _State()
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path}: does not say which model is in force ({error}); restore it, or remove it to go on with the shipped model"
            ) from None

    def _step(self, models: tuple[str, ...], state: _State, **entry: Any) -> None:
        """Append to the history, then move the pointer. What an interrupted step appended is cut off first."""
        history = AppendedFile(self.folder / HISTORY, state.history)
        try:
            line = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **entry}
            count = history.append((json.dumps(line, ensure_ascii=False) + "\n").encode())
        finally:
            history.close()
        pointer = {"models": models, "history": count}
        write_lasting(self.folder / POINTER, (json.dumps(pointer) + "\n").encode())
        sync_folder(self.folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One change at a time, of whatever process; the kernel lets go of the lock however the process ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
