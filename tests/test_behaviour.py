"""The behaviour suite says what it claims to say: enough cases, honest sentences, changes that change only the manner."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from training.behaviour import CHANGES, FOLDER, NOT_HOLDING, Case, cases, count, judge, requests, written
from training.copies import near_copies
from training.corpus import DATA, critical_facts, load
from triage.decide import Policy, decide
from triage.engine import Triager
from triage.models.stub import StubBackend
from triage.profile import Profile
from triage.records import URGENCY_LEVELS, Decision, Label
from triage.rules.book import RuleBook
from triage.text import clean

TEXTS = {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True, "minItems": 1}


def sure(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def schemas(profile: Profile) -> dict[str, dict[str, Any]]:
    told = sure({"holds": TEXTS, **dict.fromkeys(NOT_HOLDING, TEXTS)})
    levels = {"type": "object", "propertyNames": {"enum": list(URGENCY_LEVELS)}, "additionalProperties": TEXTS}
    swaps = {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}}
    text = {"type": "string", "minLength": 1}
    return {
        "requests": sure(dict.fromkeys(profile.labels["category"], levels)),
        "facts": sure(dict.fromkeys(critical_facts(), told)),
        "flags": sure(dict.fromkeys(profile.labels["flag"], told)),
        "outside": {"type": "object", "additionalProperties": sure({"texts": TEXTS})},
        "directions": sure({
            "bases": TEXTS,
            "fact": several(sure({"level": {"enum": ["urgent", "critical"]}, "told": text, "denied": text})),
            "medicine": sure({"requests": several({"type": "string", "pattern": "{lasts}"}), "lasts": several(TEXTS)}),
            "age": several(sure({"request": {"type": "string", "pattern": "{age}"}, "graver": TEXTS, "milder": TEXTS})),
        }),
        "changes": sure({
            "names": sure({"words": TEXTS, "openings": several({"type": "string", "pattern": "{}"})}),
            "places": sure({"words": TEXTS, "openings": several({"type": "string", "pattern": "{}"})}),
            "politeness": sure({"words": TEXTS, "openings": TEXTS, "closings": TEXTS}),
            "shouting": sure({"openings": TEXTS, "closings": TEXTS}),
            "typos": swaps, "homophones": swaps,
        }),
    }  # fmt: skip


def test_every_file_holds_what_it_must(profile: Profile) -> None:
    wanted = schemas(profile)
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(wanted)
    for name, schema in wanted.items():
        faults = [
            f"{name}.toml: {e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(written(name))
        ]
        assert not faults


def sentences() -> list[str]:
    """Every sentence that somebody wrote, as it stands in the files."""
    told = [
        text
        for name in ("facts", "flags")
        for group in written(name).values()
        for texts in group.values()
        for text in texts
    ]
    facts = [fact[key] for fact in written("directions")["fact"] for key in ("told", "denied")]
    return [
        *told, *facts, *(text for _, _, text in requests()), *written("directions")["bases"],
        *(text for group in written("outside").values() for text in group["texts"]),
    ]  # fmt: skip


def test_no_sentence_is_written_twice_or_copies_a_training_text() -> None:
    texts = sentences()
    assert [t for t, n in Counter(texts).items() if n > 1] == []
    pairs = {(fact["told"], fact["denied"]) for fact in written("directions")["fact"]}
    alike = {(texts[i], texts[j]) for i, j, _ in near_copies(texts, texts) if i < j}
    assert alike - pairs == set()
    train = load(DATA / "train.jsonl")
    assert [(texts[i], train[j].id) for i, j, _ in near_copies(texts, [x.text for x in train])] == []


@pytest.fixture(scope="module")
def suite() -> list[Case]:
    return cases()


def per(items: Iterable[str]) -> Counter[str]:
    return Counter(items)


def test_every_capability_has_cases_enough(suite: list[Case], profile: Profile) -> None:
    total = per(case.capability for case in suite)
    kinds = {"minimum": 8, "invariance": 9, "direction": 4, "outside": 1}
    assert per(c.split(":")[0] for c in total) == kinds
    assert {c: n for c, n in total.items() if n < 30} == {}
    assert total["outside: not critical"] >= 200
    assert min(per(c.about for c in suite if c.capability == "minimum: flag")[f] for f in profile.labels["flag"]) >= 8
    assert min(per(category for category, _, _ in requests())[c] for c in profile.labels["category"]) >= 6
    assert min(per(urgency for _, urgency, _ in requests())[level] for level in URGENCY_LEVELS) >= 8
    assert (
        min(per(c.about for c in suite if c.capability == "minimum: critical fact")[f] for f in critical_facts()) >= 5
    )
    assert len({fact["told"] for fact in written("directions")["fact"] if fact["level"] == "critical"}) >= len(
        critical_facts()
    )


def changed(suite: list[Case], name: str) -> list[tuple[str, str]]:
    return [(c.texts[0], c.texts[1]) for c in suite if c.capability == f"invariance: {name}"]


def without(text: str, words: Iterable[str]) -> str:
    return re.sub("|".join(map(re.escape, sorted(words, key=len, reverse=True))), "", text)


@pytest.mark.parametrize("lists", ["names", "places"])
def test_names_and_places_are_exchanged_or_put_first(suite: list[Case], lists: str) -> None:
    words, openings = written("changes")[lists]["words"], written("changes")[lists]["openings"]
    pairs = changed(suite, lists)
    for text, other in pairs:
        assert [w for w in words if w in text] != [w for w in words if w in other]
        frames = [opening.replace("{}", "") for opening in openings]
        assert without(without(other, words), frames) == without(without(text, words), frames)
    assert {w for w in words if any(w in other for _, other in pairs)} == set(words)
    assert sum(any(w in text for w in words) for text, _ in pairs) >= 10  # exchanged, not put first


@pytest.mark.parametrize("lists", ["politeness", "shouting"])
def test_frames_are_put_around_and_polite_words_taken_out(suite: list[Case], lists: str) -> None:
    words = written("changes")[lists]
    frames = [*words["closings"], *(closing.removeprefix("，") for closing in words["closings"])]
    kinds = Counter[str]()
    for text, other in changed(suite, lists):
        opened, closed = other.startswith(tuple(words["openings"])), other.endswith(tuple(frames))
        if opened:
            assert other.endswith(text)
        elif closed and other.startswith(text):
            assert other.removeprefix(text) in frames
        else:
            assert other == without(text, words["words"])
            assert len(other) < len(text)
        kinds["opened" if opened else "closed" if closed else "taken out"] += 1
    assert kinds["opened"] == kinds["closed"] == len(list(requests()))
    assert (kinds["taken out"] >= 10) is (lists == "politeness")


@pytest.mark.parametrize("lists", ["typos", "homophones"])
def test_one_word_is_misspelt_and_every_misspelling_is_used(suite: list[Case], lists: str) -> None:
    swaps, used = written("changes")[lists], set()
    for text, other in changed(suite, lists):
        made = [right for right, wrong in swaps.items() if text.replace(right, wrong, 1) == other]
        assert made
        used.update(made)
    assert used == set(swaps)
    assert all(wrong != right and wrong not in swaps for right, wrong in swaps.items())


def letters(text: str) -> str:
    return re.sub(r"\W+", "", clean(text).text)


def test_punctuation_changes_keep_every_letter_and_number(suite: list[Case]) -> None:
    pairs = changed(suite, "punctuation")
    assert all(letters(text) == letters(other) for text, other in pairs)
    numbers = r"\d+\.\d+|\d+"
    assert all(re.findall(numbers, text) == re.findall(numbers, clean(other).text) for text, other in pairs)
    assert any(other == letters(text) for text, other in pairs)


def test_traditional_characters_come_back_as_simplified(suite: list[Case]) -> None:
    from opencc import OpenCC

    back = OpenCC("t2s").convert
    pairs = changed(suite, "traditional")
    assert all(other != text for text, other in pairs)
    assert sum(back(other) == text for text, other in pairs) > 0.95 * len(pairs)


def test_order_moves_whole_sentences(suite: list[Case]) -> None:
    def parts(text: str) -> list[str]:
        return [p for p in re.split("[。？！]", text) if p]

    for text, other in changed(suite, "order"):
        assert parts(text) != parts(other)
        assert sorted(parts(text)) == sorted(parts(other))


def test_the_changes_are_the_same_every_time() -> None:
    for change in CHANGES.values():
        for turn, (_, _, text) in enumerate(requests()):
            assert change(text, turn) == change(text, turn)


class Deaf(Triager):
    """Gives every text the same decision."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def predict_many(self, texts: Iterable[str]) -> list[Decision]:
        return [replace(self.decision, text=text) for text in texts]


@pytest.mark.parametrize("urgency", URGENCY_LEVELS)
def test_who_ignores_the_text_fails(suite: list[Case], profile: Profile, urgency: str) -> None:
    scores = StubBackend(profile).score([""])[0]
    decision = decide(clean(""), [], scores, (), profile, Policy(), {})
    counts = count(judge(Deaf(replace(decision, urgency=Label(urgency, urgency, 1.0))), suite))
    for capability, (passed, total) in counts.items():
        if capability.startswith("direction"):
            assert passed == 0, capability
        if capability in ("minimum: category", "minimum: urgency", "minimum: flag"):
            assert passed < 0.6 * total, capability
    assert (counts["outside: not critical"][0] == 0) is (urgency == "critical")


def test_rules_alone_hear_some_of_it(suite: list[Case], profile: Profile, book: RuleBook) -> None:
    """The expectations can be met: without any model most grave facts raise the urgency, and most denials do not."""
    counts = count(judge(Triager(StubBackend(profile), book, profile, Policy(), workers=1), suite))
    for capability in ("minimum: critical fact", "direction: fact added"):
        passed, total = counts[capability]
        assert passed > total / 2, capability
