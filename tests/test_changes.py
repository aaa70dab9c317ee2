"""Two rounds of decisions on the same requests, compared."""

from __future__ import annotations

import pytest

from triage.changes import compare
from triage.engine import Triager


def test_what_was_raised_lowered_and_moved_is_counted_gravest_first(triager: Triager) -> None:
    calm, food, grave = (
        triager.predict(t) for t in ("几点做核酸", "家里没有菜了，就剩最后一顿", "老婆羊水破了，马上要生了")
    )
    changes = compare([calm, food, grave, calm], [food, grave, calm, calm])
    assert changes.total == 4
    assert changes.raised == (1, 0)
    assert changes.lowered == (2,)
    assert changes.urgency["critical", "routine"] == 1
    assert changes.flags["+pregnancy"] == changes.flags["-pregnancy"] == 1
    assert changes.to_dict()["urgency"]["critical > routine"] == 1
    assert not compare([calm], [calm]).urgency
    with pytest.raises(ValueError, match="shorter"):
        compare([calm], [])
