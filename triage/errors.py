"""What can go wrong, as one small tree. Every message names the place (file, line, field, rule) and the mend.

    TriageError
    |- InputError      a file of requests cannot be read, or a row of it is bad
    |- RuleError       a rule file does not hold what it must; lists all faults of all files
    |- ProfileError    a profile does not hold what it must
    `- ModelError      a model folder is incomplete, changed or of another shape

A wrong Python type is a plain `TypeError` that names the argument.
"""

from __future__ import annotations


class TriageError(Exception):
    """Any error that triage raises on purpose."""


class InputError(TriageError):
    """A file of requests, or one row of it, cannot be read."""


class RuleError(TriageError):
    """Rule files with faults; the message lists every fault, one a line."""


class ProfileError(TriageError):
    """A profile that does not hold what it must."""


class ModelError(TriageError):
    """A model folder that is incomplete, changed, or of another shape than its manifest says."""
