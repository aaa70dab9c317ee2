"""Cleaning makes one form of many, and every cleaned character knows where it came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.text import clause_ends, clean, parse_number


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("體溫３８．５℃，發燒！", "体温38.5°c,发烧!"),
        ("ＩＣＵ", "icu"),
        ("羊水\u200b破\ufeff了", "羊水破了"),
        ("胸\x00痛\ud800", "胸痛"),
        ("皮膚乾燥", "皮肤干燥"),
        ("他說：「後天」", "他说:「后天」"),
        ("", ""),
    ],
)
def test_many_ways_to_type_become_one(written: str, cleaned: str) -> None:
    assert clean(written).text == cleaned


def test_a_span_of_the_clean_text_points_into_the_original() -> None:
    text = clean("孩子\u200b燒到３９度")
    start = text.text.index("39")
    assert text.original[slice(*text.span(start, start + 2))] == "３９"


def test_an_expanded_character_maps_back_to_itself() -> None:
    text = clean("㎏重")  # one character becomes two
    assert text.text == "kg重"
    assert text.span(0, 1) == text.span(1, 2) == (0, 1)
    assert text.span(2, 3) == (1, 2)


@given(st.text(st.characters(), max_size=80))
def test_any_text_is_cleaned_once_and_for_all(raw: str) -> None:
    once = clean(raw)
    assert clean(once.text).text == once.text
    if once.text:
        for i in range(len(once.text)):
            start, end = once.span(i, i + 1)
            assert 0 <= start < end <= len(raw)


def test_only_text_is_cleaned() -> None:
    with pytest.raises(TypeError, match="text must be a str, not bytes"):
        clean(b"abc")  # type: ignore[arg-type]


def test_a_megabyte_is_cleaned_whole() -> None:
    text = clean("體溫３９度，\u200b" * 150_000)
    assert len(text.text) == 6 * 150_000
    assert text.span(len(text.text) - 1, len(text.text)) == (len(text.original) - 2, len(text.original) - 1)


def test_clauses_end_at_marks_but_not_inside_numbers() -> None:
    text = clean("体温38.5，喘。人呢").text
    assert [text[a:b] for a, b in zip([0, *clause_ends(text)], clause_ends(text), strict=False)] == [
        "体温38.5,",
        "喘。",
        "人呢",
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [("38.5", 38.5), ("三十八度五", 38.5), ("39度5", 39.5), ("39度半", 39.5), ("三十九度", 39), ("两", 2), ("半", 0.5),
     ("三个半", 3.5), ("九十多", 90), ("一百零二", 102), ("十二", 12), ("八八", 88), ("二十", 20), ("仨", 3), ("好多", None), ("", None)],
)  # fmt: skip
def test_numbers_as_people_write_them(written: str, value: float | None) -> None:
    assert parse_number(written) == value


@given(st.integers(min_value=0, max_value=999), st.integers(min_value=0, max_value=9))
def test_arabic_numbers_read_as_themselves(whole: int, tenth: int) -> None:
    assert parse_number(f"{whole}.{tenth}") == pytest.approx(whole + tenth / 10)


@given(st.text(max_size=12))
def test_no_text_breaks_the_number_reader(raw: str) -> None:
    value = parse_number(raw)
    assert value is None or value >= 0
