"""Reads a citizen's request for help, in Chinese: what it is about, how urgent it is, who must act, and why.

    >>> import triage
    >>> triage.predict("老婆羊水破了，小区封着出不去").urgency.code  # doctest: +SKIP
    'critical'

Importing this package loads no model and no heavy library; the first prediction does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triage.backlog import rescore
    from triage.engine import Triager, predict, predict_many
    from triage.errors import InputError, ModelError, OutputError, ProfileError, RuleError, StoppedError, TriageError
    from triage.privacy import redact
    from triage.records import Decision, Finding, Flag, HelpRequest, Label

__version__ = "0.1.0"

_HOME = {
    "Triager": "engine", "predict": "engine", "predict_many": "engine", "redact": "privacy",
    "Decision": "records", "Finding": "records", "Flag": "records", "HelpRequest": "records", "Label": "records",
    "InputError": "errors", "ModelError": "errors", "ProfileError": "errors", "RuleError": "errors", "TriageError": "errors",
    "OutputError": "errors", "StoppedError": "errors", "rescore": "backlog",
}  # fmt: skip
__all__ = ["Decision", "Finding", "Flag", "HelpRequest", "InputError", "Label", "ModelError", "OutputError", "ProfileError",
           "RuleError", "StoppedError", "TriageError", "Triager", "predict", "predict_many", "redact", "rescore"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'triage' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"triage.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
