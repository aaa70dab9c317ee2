"""A profile: what a city (or another emergency) calls things. Label codes and names, co-department routing, places.

A profile is one TOML file in `triage/profiles/`, or anywhere else by path. New codes need a model trained on them;
other names, places and routing do not.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ahocorasick_rs import AhoCorasick, MatchKind

from triage.errors import ProfileError
from triage.records import URGENCY_LEVELS
from triage.text import CleanText, clean

SHIPPED = Path(__file__).parent / "profiles"
HEADS = ("category", "urgency", "department", "flag")
# Words after which a place is where the help must go, and before which it is where it comes from.
_TOWARDS = re.compile(r"(?:到|去|往|至|送|转|回|赴)(?:了|到|往|回)?[^,;。!?\n]{0,6}$")
_AWAY = re.compile(r"(?:从|由|自)[^,;。!?\n]{0,6}$")


@dataclass(frozen=True, slots=True)
class PlaceHit:
    """A place named in a text: span in the cleaned text and the district it lies in."""

    start: int
    end: int
    district: str


class Profile:
    """Label names, routing and places of one city; immutable after loading."""

    def __init__(self, document: Mapping[str, Any], place: str, fingerprint: str) -> None:
        faults = [f"{place}: [{head}] is missing or empty" for head in HEADS if not document.get(head)]
        if not faults and list(document["urgency"]) != list(reversed(URGENCY_LEVELS)):
            faults.append(f"{place}: [urgency] must hold {', '.join(reversed(URGENCY_LEVELS))}, in this order")
        departments = document.get("department", {})
        for category, code in document.get("routing", {}).items():
            if category not in document.get("category", {}) or code not in departments:
                faults.append(f"{place}: routing: {category} = {code!r} is no category with a department")
        names: dict[str, str] = {}
        for block in document.get("district", []):
            name = block.get("name")
            if not isinstance(name, str):
                faults.append(f"{place}: a [[district]] has no `name`")
                continue
            for key in ("aliases", "streets", "places"):
                for word in [name, *block.get(key, [])]:
                    word = clean(word).text
                    if names.setdefault(word, name) != name:
                        faults.append(f"{place}: {word!r} lies in both {names[word]} and {name}; keep it in one")
        if faults:
            raise ProfileError("\n".join(faults))
        self.name: str = document.get("name", place)
        self.title: str = document.get("title", self.name)
        self.labels: dict[str, dict[str, str]] = {head: dict(document[head]) for head in HEADS}
        self.routing: dict[str, str] = dict(document.get("routing", {}))
        self.districts: tuple[str, ...] = tuple(b["name"] for b in document.get("district", []))
        self.fingerprint = fingerprint
        self._places = list(names.items())
        self._automaton = AhoCorasick(list(names), matchkind=MatchKind.LeftmostLongest) if names else None

    def label_name(self, head: str, code: str) -> str:
        """Return the Chinese name of a code; `head` is category, urgency, department or flag."""
        return self.labels[head][code]

    def find_places(self, text: CleanText) -> list[PlaceHit]:
        """Return the places the text names, longest match first where they overlap, in order of appearance."""
        if self._automaton is None:
            return []
        hits = self._automaton.find_matches_as_indexes(text.text)
        return [PlaceHit(start, end, self._places[i][1]) for i, start, end in hits]

    def find_districts(self, text: CleanText) -> tuple[str, ...]:
        """Return the districts the help must go to: destinations (到, 去, 送 ...) first, places come from last."""

        def rank(hit: PlaceHit) -> int:
            before = text.text[max(0, hit.start - 8) : hit.start]
            return 0 if _TOWARDS.search(before) else 2 if _AWAY.search(before) else 1

        hits = self.find_places(text)
        if len({h.district for h in hits}) > 1:
            hits = sorted(hits, key=lambda h: (rank(h), h.start))
        return tuple(dict.fromkeys(h.district for h in hits))


def load_profile(name: str | Path = "zhengzhou") -> Profile:
    """Load a shipped profile by name, or any TOML file by path. Raises ProfileError with every fault of the file."""
    path = Path(name)
    if path.suffix != ".toml":
        path = SHIPPED / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
        raise ProfileError(f"no profile {str(name)!r}; shipped are {shipped}, or give the path of a .toml file")
    raw = path.read_bytes()
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {error}") from None
    return Profile(document, str(path), hashlib.sha256(raw).hexdigest()[:16])


def new_profile(name: str, like: str = "flood") -> str:
    """Return the text of a profile to begin a new one with: a shipped one with its comments, its name changed, and of its districts
    the first, to show how one is told. Raises ProfileError when there is no shipped profile `like`."""
    load_profile(like)
    text = (SHIPPED / f"{like}.toml").read_text("utf-8")
    text = "[[district]]".join(text.split("[[district]]")[:2]).rstrip() + "\n"
    text = re.sub(r'(?m)^name = ".*"$', f'name = "{name}"', text, count=1)
    return f"# {name}, begun from the profile {like}: change every name, code and place below to your own.\n#\n{text}"
