"""What several tests share: everything as shipped, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from triage.engine import Triager
from triage.profile import Profile, load_profile
from triage.rules.book import RuleBook, load_rules

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def triager() -> Triager:
    return Triager.load()


@pytest.fixture(scope="session")
def profile() -> Profile:
    return load_profile()


@pytest.fixture(scope="session")
def book() -> RuleBook:
    return load_rules()
