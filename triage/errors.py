"""What can go wrong, as one small tree. Every message names the place (file, line, field, rule) and the mend.

    TriageError
    |- InputError      a file of requests cannot be read, or a row of it is bad
    |- OutputError     an output is in use, or belongs to another run; nothing was touched
    |- StoppedError    a run stopped before its end and can be continued: signal, full disk, lost database
    |- RuleError       a rule file does not hold what it must; lists all faults of all files
    |- ProfileError    a profile does not hold what it must
    `- ModelError      a model folder is incomplete, changed or of another shape

A wrong Python type is a plain `TypeError` that names the argument.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class TriageError(Exception):
    """Any error that triage raises on purpose."""


class InputError(TriageError):
    """A file of requests, or one row of it, cannot be read."""


class OutputError(TriageError):
    """An output that is in use, or that belongs to another run."""


class StoppedError(TriageError):
    """A run that stopped before its end; the same command again continues it."""


class RuleError(TriageError):
    """Rule files with faults; the message lists every fault, one a line."""


class ProfileError(TriageError):
    """A profile that does not hold what it must."""


class ModelError(TriageError):
    """A model folder that is incomplete, changed, or of another shape than its manifest says."""


def require(module: str, extra: str) -> Any:
    """Import a module that one of the extras installs. Raises TriageError that names the extra."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise TriageError(f"this needs {error.name}, which is not installed: pip install 'triage[{extra}]'") from None
