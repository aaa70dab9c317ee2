"""Read rule files: every key and pattern checked, every fault of every file named at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from triage.errors import RuleError
from triage.records import URGENCY_LEVELS, Status
from triage.rules.context import Cue
from triage.rules.matcher import Expression
from triage.text import clean


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it looks for, and what it says of the request when the fact holds."""

    id: str
    means: str
    any: tuple[str, ...] = ()  # literals, one of which is the fact
    regex: tuple[str, ...] = ()  # RE2 expressions, one of which is the fact; group 1 is a number where `value` asks
    value: Mapping[str, float] = field(default_factory=dict)  # {min, max} for the number in group 1, both inclusive
    near: tuple[tuple[str, ...], ...] = ()  # groups of literals; one of each group must stand near the fact
    within: int = 12  # how near, in characters between the two
    word: bool = False  # the literal must begin and end where jieba sees a word begin and end
    unless: tuple[str, ...] = ()  # literals that forbid the fact when they stand within 6 characters or overlap it
    absent: tuple[str, ...] = ()  # literals that forbid the fact wherever they stand in the request
    when: tuple[str, ...] = ()  # flags or rule ids that must hold somewhere in the request as well
    flag: str | None = None
    urgency: str | None = None
    category: str | None = None
    department: str | None = None
    co_department: str | None = None  # who must move as well when the request is somebody else's to lead
    red_flag: bool = False  # the urgency is a floor that no model may lower
    settles: bool = False  # its department and flag are not weighed against the model
    ignores: tuple[str, ...] = ()  # statuses that do not apply (the words 没有奶粉了 deny nothing)
    hit: tuple[str, ...] = ()
    miss: tuple[str, ...] = ()


_LISTS = {"any", "regex", "unless", "absent", "when", "ignores", "hit", "miss"}
_LITERALS = {"any", "unless", "absent"}
_FIELDS = {f.name for f in fields(Rule)}
_CUE_FIELDS = {f.name for f in fields(Cue)}
_RULE_FILE_KEYS = {"lexicon", "rule", "decoy", "cue", "closers", "asks", "owners"}


class Faults:
    """Collects what is wrong, so that an author sees all of it at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, message: str) -> None:
        """Note one fault."""
        self.lines.append(f"{place}: {message}")

    def raise_if_any(self) -> None:
        """Raise RuleError with all faults noted, one a line."""
        if self.lines:
            raise RuleError(f"{len(self.lines)} fault(s) in the rules:\n  " + "\n  ".join(self.lines))


@dataclass
class RuleSource:
    """What all files of a rule folder say together."""

    rules: dict[str, Rule] = field(default_factory=dict)
    decoys: list[str] = field(default_factory=list)
    cues: list[Cue] = field(default_factory=list)
    closers: list[str] = field(default_factory=list)
    asks: list[str] = field(default_factory=list)
    owners: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict, repr=False)  # rule id -> the file that it stands in


def _words(values: object, lexicon: Mapping[str, list[str]], place: str, faults: Faults) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        faults.add(place, f"must be a list of non-empty strings, not {values!r}")
        return ()
    words: list[str] = []
    for value in values:
        if value.startswith("@"):
            if value[1:] not in lexicon:
                faults.add(place, f"no lexicon is named {value[1:]!r}")
            words += lexicon.get(value[1:], [])
        else:
            words.append(value)
    return tuple(dict.fromkeys(words))


def _cleaned(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(clean(w).text for w in words))


def _parse_rule(raw: Mapping[str, Any], lexicon: Mapping[str, list[str]], place: str, faults: Faults) -> Rule | None:
    place = f"{place}: rule {raw.get('id', '?')}"
    before = len(faults.lines)
    if unknown := sorted(set(raw) - _FIELDS):
        faults.add(place, f"unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(_FIELDS))}")
    for key in ("id", "means"):
        if not isinstance(raw.get(key), str) or not raw[key].strip():
            faults.add(place, f"needs `{key}`, a text")
    values: dict[str, Any] = {k: v for k, v in raw.items() if k in _FIELDS}
    for key in _LISTS & set(values):
        words = _words(values[key], lexicon if key in _LITERALS else {}, f"{place}: {key}", faults)
        values[key] = _cleaned(words) if key in _LITERALS else words
    if "near" in values:
        near = values["near"]
        groups = near if isinstance(near, list) and near and isinstance(near[0], list) else [near]
        values["near"] = tuple(_cleaned(_words(g, lexicon, f"{place}: near", faults)) for g in groups)
    if not (values.get("any") or values.get("regex") or values.get("when")):
        faults.add(place, "needs `any`, `regex` or `when`")
    if not any(values.get(k) for k in ("flag", "urgency", "category", "department", "co_department")):
        faults.add(place, "says nothing: needs a flag, urgency, category or department")
    if values.get("urgency", "routine") not in URGENCY_LEVELS:
        faults.add(place, f"urgency {values['urgency']!r} is none of {', '.join(URGENCY_LEVELS)}")
    if values.get("red_flag") and not values.get("urgency"):
        faults.add(place, "a red flag needs an `urgency` to be the floor")
    if values.get("settles") and not (values.get("department") or values.get("flag")):
        faults.add(place, "a rule that settles needs the `department` or `flag` it settles")
    if bad := set(values.get("ignores", ())) - {s.value for s in Status}:
        faults.add(place, f"ignores: unknown status {', '.join(sorted(bad))}")
    value = values.get("value", {})
    if not isinstance(value, dict) or set(value) - {"min", "max"}:
        faults.add(place, "value: must be a table with `min` and/or `max`")
    if not isinstance(values.get("within", 12), int):
        faults.add(place, "within: must be a number of characters")
    if not values.get("hit") and (values.get("any") or values.get("regex")):
        faults.add(place, "needs at least one `hit` sentence that it finds")
    for pattern in values.get("regex", ()):
        try:
            Expression(pattern)
        except ValueError as error:
            faults.add(place, str(error))
    return Rule(**values) if len(faults.lines) == before else None


def _parse_cue(raw: Mapping[str, Any], place: str, faults: Faults) -> Cue | None:
    before = len(faults.lines)
    if unknown := sorted(set(raw) - _CUE_FIELDS):
        faults.add(place, f"unknown key(s) {', '.join(unknown)}")
    values: dict[str, Any] = {k: v for k, v in raw.items() if k in _CUE_FIELDS}
    for key in ("words", "about", "not_about"):
        if key in values or key == "words":
            values[key] = _cleaned(_words(values.get(key), {}, f"{place}: {key}", faults))
    for key, kind in (("reach", int), ("weight", int | float), ("around", bool), ("through", bool), ("question", bool),
                      ("no_owner", bool)):  # fmt: skip
        if key in values and (not isinstance(values[key], kind) or isinstance(values[key], bool) != (kind is bool)):
            faults.add(place, f"{key}: must be {'true or false' if kind is bool else 'a number'}, not {values[key]!r}")
    if bad := set(values.get("against", ())) - {s.value for s in Status}:
        faults.add(place, f"against: unknown status {', '.join(sorted(map(str, bad)))}")
    if raw.get("status") not in {s.value for s in Status}:
        faults.add(place, f"status {raw.get('status')!r} is none of {', '.join(s.value for s in Status)}")
    if raw.get("stands", "before") not in {"before", "after"} or raw.get("scope", "clause") not in {
        "clause",
        "sentence",
    }:
        faults.add(place, "stands: before or after; scope: clause or sentence")
    if len(faults.lines) > before:
        return None
    if "against" in values:
        values["against"] = tuple(values["against"])
    return Cue(**{**values, "status": Status(raw["status"])})


def read_rules(folders: Sequence[Path], faults: Faults) -> RuleSource:
    """Read the TOML files of the folders; a rule of a later folder replaces the one of the same id before it."""
    documents: list[tuple[str, dict[str, Any]]] = []
    lexicon: dict[str, list[str]] = {}
    for folder in folders:
        paths = sorted(folder.glob("*.toml"))
        if not paths:
            faults.add(str(folder), "no rule files (*.toml) here")
        for path in paths:
            try:
                document = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                faults.add(str(path), f"not valid TOML: {error}")
                continue
            if unknown := sorted(set(document) - _RULE_FILE_KEYS):
                faults.add(str(path), f"unknown table(s) {', '.join(unknown)}")
            for name, words in document.get("lexicon", {}).items():
                lexicon[name] = list(_words(words, lexicon, f"{path}: lexicon {name}", faults))
            documents.append((str(path), document))
    source = RuleSource()
    seen = source.places
    for place, document in documents:
        for raw in document.get("rule", []):
            rule = _parse_rule(raw, lexicon, place, faults)
            if rule is None:
                continue
            if Path(seen.get(rule.id, "")).parent == Path(place).parent:
                faults.add(place, f"rule {rule.id}: the id stands already in {seen[rule.id]}")
            seen[rule.id] = place
            source.rules[rule.id] = rule
        for n, raw in enumerate(document.get("cue", []), 1):
            cue = _parse_cue(raw, f"{place}: cue {n}", faults)
            if cue is not None:
                source.cues.append(cue)
        for key, words in (("closers", source.closers), ("asks", source.asks), ("owners", source.owners)):
            words += _cleaned(_words(document.get(key, []), lexicon, f"{place}: {key}", faults))
        for raw in document.get("decoy", []):
            if set(raw) != {"words"}:
                faults.add(place, f"a decoy holds `words` and nothing else, not {', '.join(sorted(raw))}")
            source.decoys += _cleaned(_words(raw.get("words"), lexicon, f"{place}: decoy", faults))
    return source
