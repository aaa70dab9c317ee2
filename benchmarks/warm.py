"""Loaded once by the process that the killed runs are forked from: code, and a triager that decides by rules alone."""

from __future__ import annotations

import triage.backlog
import triage.database  # noqa: F401
from triage.decide import Policy
from triage.engine import Triager
from triage.models.stub import StubBackend
from triage.profile import load_profile
from triage.rules.book import load_rules

TRIAGER = Triager(StubBackend(load_profile()), load_rules(), load_profile(), Policy())
