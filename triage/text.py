"""Text as the rules and the model see it, with the way back to what the citizen wrote.

`clean` makes one form out of the many ways to type the same thing: full-width and half-width, traditional and
simplified, upper and lower case, invisible characters. Every cleaned character knows where it came from, so that
evidence always points into the original.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Control characters, zero-width marks, byte-order mark, variation selectors, surrogates, private use: carry no meaning.
_JUNK = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\ufff0-\ufffb"
    "\ud800-\udfff\ue000-\uf8ff]"
)
# Greek to Mongolian, kana, Yi, Hangul: scripts of which the shipped vocabulary holds nothing.
_OTHER_SCRIPT = re.compile("[\u0370-\u1dff\u3040-\u30ff\ua000-\ua4cf\uac00-\ud7af]")
_CLAUSE_END = re.compile(r"[,;!?。…\n]|(?<![0-9])\.|\.(?![0-9])")
_SENTENCE_END = re.compile(r"[!?。…\n]|(?<![0-9a-z])\.(?![0-9a-z])")


@dataclass(frozen=True, slots=True)
class CleanText:
    """A cleaned text. `sources[i]` is the index in `original` of cleaned character i; None when they are equal."""

    original: str
    text: str
    sources: tuple[int, ...] | None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Translate a non-empty span of cleaned characters to the span of the original that it was made from."""
        if self.sources is None:
            return start, end
        return self.sources[start], self.sources[end - 1] + 1


@lru_cache(maxsize=1)
def _simplifier() -> Any:
    from opencc import OpenCC

    return OpenCC("t2s")


@lru_cache(maxsize=8192)
def _clean_char(char: str) -> str:
    """Return what one original character becomes: zero, one or several cleaned ones."""
    if _JUNK.match(char):
        return ""
    form = unicodedata.normalize("NFKC", char).lower()
    simple: str = _simplifier().convert(form)
    return "".join(" " if c in "\t\u3000\xa0" else c for c in simple)


def clean(text: str) -> CleanText:
    """Normalise a text: NFKC, lower case, simplified characters, no invisible characters.

    Phrases are simplified as phrases (乾燥 -> 干燥, 乾隆 stays) where that keeps the length, else character by character.
    Time is linear in the length. Raises TypeError for anything but a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    if not _JUNK.search(text) and "\t" not in text and unicodedata.is_normalized("NFKC", text):
        lower = text.lower()
        if len(lower) == len(text):
            simple: str = _simplifier().convert(lower)
            if len(simple) == len(text):
                return CleanText(text, simple, None)
    chars: list[str] = []
    sources: list[int] = []
    for i, char in enumerate(text):
        form = _clean_char(char)
        chars.append(form)
        sources.extend([i] * len(form))
    return CleanText(text, "".join(chars), tuple(sources))


def other_script(text: str) -> float:
    """Return the share of a text's characters, in [0, 1], in scripts that are neither Chinese nor Latin."""
    return len(_OTHER_SCRIPT.findall(text)) / max(1, len(text))


def ends(text: str, pattern: re.Pattern[str]) -> list[int]:
    """Return the end offsets of all matches of `pattern`, closed by the length of the text."""
    return [*(m.end() for m in pattern.finditer(text)), len(text) + 1]


def clause_ends(text: str) -> list[int]:
    """Offsets at which clauses of a cleaned text end (，；。！？… and line ends; not a decimal point)."""
    return ends(text, _CLAUSE_END)


def sentence_ends(text: str) -> list[int]:
    """Offsets at which sentences of a cleaned text end."""
    return ends(text, _SENTENCE_END)


_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "俩": 2, "仨": 3, "几": 3}
_UNITS = {"十": 10, "百": 100, "千": 1000}


def parse_number(text: str) -> float | None:
    """Read an Arabic or Chinese number: 38.5, 三十八度五 (as 三十八点五), 两, 半, 九十多, 百, 39度5. None if there is none.

    几 counts as 3: "几个月" is at least a few, and no rule's threshold turns on it.
    """
    text = text.replace("多", "").replace("来", "").replace("个", "").replace("度", ".").replace("点", ".").strip(" .")
    if not text:
        return None
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        return float(text)
    if text == "半":
        return 0.5
    whole, _, fraction = text.partition(".")
    half = 0.5 if whole.endswith("半") else 0.0
    total, digit, seen = 0.0, 0.0, False
    for c in whole.removesuffix("半"):
        if c.isdigit() and c.isascii():
            digit, seen = digit * 10 + int(c), True
        elif c in _DIGITS:
            digit, seen = (digit * 10 + _DIGITS[c] if seen and total == 0 and digit else float(_DIGITS[c])), True
        elif c in _UNITS:
            total, digit, seen = total + (digit if digit else 1) * _UNITS[c], 0.0, True
        else:
            return None
    if not seen and not half:
        return None
    tail = "".join(str(_DIGITS[c]) if c in _DIGITS else c for c in fraction)
    if tail == "半":
        half = 0.5
    elif tail:
        if not tail.isdigit():
            return None
        half = float(f"0.{tail}")
    return total + digit + half
