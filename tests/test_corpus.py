"""The corpus is valid by the guide, covers what it must, and no split copies from another."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from training.corpus import DATA, SPLITS, Example, leaks, load, near_copies
from triage.errors import InputError
from triage.profile import Profile


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return {s: load(DATA / f"{s}.jsonl") for s in SPLITS}


def test_every_split_is_large_enough_and_says_which_it_is(splits: dict[str, list[Example]]) -> None:
    assert len(splits["train"]) >= 2000
    assert len(splits["validation"]) >= 300
    assert len(splits["test"]) >= 400
    assert all(x.split == name and x.voice for name, rows in splits.items() for x in rows)
    assert len({x.id for rows in splits.values() for x in rows}) == sum(map(len, splits.values()))


def test_every_label_is_taught_and_tested(splits: dict[str, list[Example]], profile: Profile) -> None:
    for rows, least in ((splits["train"], 20), (splits["validation"], 5), (splits["test"], 4)):
        for head in ("category", "urgency", "department"):
            count = Counter(getattr(x, head) for x in rows)
            assert {c: n for c in profile.labels[head] if (n := count[c]) < least} == {}
        flags = Counter(f for x in rows for f in x.flags)
        assert {c: n for c in profile.labels["flag"] if (n := flags[c]) < least} == {}


def test_words_that_are_no_facts_are_taught_for_every_flag(splits: dict[str, list[Example]], profile: Profile) -> None:
    mentioned = Counter(f for x in splits["train"] for f in x.mentioned)
    assert {c: n for c in profile.labels["flag"] if (n := mentioned[c]) < 3} == {}


def test_no_split_copies_from_another(splits: dict[str, list[Example]]) -> None:
    assert leaks(splits) == []


def test_a_contrast_pair_never_straddles_splits(splits: dict[str, list[Example]]) -> None:
    home: dict[str, str] = {}
    for x in (x for rows in splits.values() for x in rows if x.pair):
        assert home.setdefault(x.pair, x.split) == x.split


def test_near_copies_are_seen_and_different_stories_are_not() -> None:
    texts = ["家里老人高血压药只剩两天了，社区出不去，求帮忙买药", "孩子上网课没有平板，学校能不能借一台"]
    others = ["家里老人高血压的药只剩两天了，社区出不去求帮忙买药！"]
    assert [(i, j) for i, j, _ in near_copies(texts, others)] == [(0, 0)]


def test_all_faults_of_a_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    good = {"id": "a", "text": "好", "category": "other", "urgency": "routine", "department": "coordination"}
    bad = [
        {**good, "id": "b", "urgency": "soon"},
        {**good, "id": "c", "flags": ["dragon"]},
        good,
        {**good, "id": "d", "colour": 1},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in [good, *bad]) + "\n{", "utf-8")
    with pytest.raises(InputError) as error:
        load(path)
    for words in ("x.jsonl:2: urgency: 'soon'", "x.jsonl:3: flags: 'dragon'", "x.jsonl:4: id 'a' stands already in line 1",
                  "x.jsonl:5: unknown field(s) colour", "x.jsonl:6: not JSON"):  # fmt: skip
        assert words in str(error.value)
