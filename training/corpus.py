"""The corpus: load it, check it, count it.

    python -m training.corpus check     # every row valid by the guide's codes, no near copies across splits
    python -m training.corpus stats     # the tables of the corpus card
    python -m training.corpus agreement # of the two annotators, per label
    python -m training.corpus audit     # labels that cross-validated predictions contradict, for a person to look at
    python -m training.corpus schema    # the JSON Schema of a line, as kept in training/data/schema.json
    python -m training.corpus posts --texts FOLDER > FILE  # labels of public posts joined to their texts, for --also-train

One JSON object a line in `training/data/{train,validation,test}.jsonl`; the fields are those of `Example`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from triage.errors import InputError
from triage.profile import Profile, load_profile
from triage.text import clean

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled request. A head that nobody has labelled is None (null in JSON); so are `districts` that nobody has noted.

    `mentioned` are flags whose words occur but do not hold; `facts` the critical facts told (codes of facts.toml, the chief
    one first); `pair` ties a contrast pair.
    """

    id: str
    text: str
    category: str | None
    urgency: str | None
    department: str | None
    co_departments: tuple[str, ...] | None = ()
    flags: tuple[str, ...] | None = ()
    mentioned: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    districts: tuple[str, ...] | None = ()
    voice: str = ""
    pair: str = ""
    split: str = ""


HEADS = (
    "category",
    "urgency",
    "department",
    "co_departments",
    "flags",
)  # what a model learns to say, in `Labels`' order
SINGLE = ("category", "urgency", "department")
_REQUIRED = ("id", "text", *SINGLE)
_LISTS = {"co_departments": "department", "flags": "flag", "mentioned": "flag"}


def codes(example: Example, head: str) -> tuple[str, ...]:
    """Return the labels of one head, however many it may have; () also where nobody has labelled it."""
    told = getattr(example, head)
    return (told,) if isinstance(told, str) else told or ()


@lru_cache(maxsize=1)
def critical_facts() -> dict[str, dict[str, Any]]:
    """Return the guide's critical facts: code -> {means, usual: the words it is usually told with}."""
    return tomllib.loads((DATA / "facts.toml").read_text("utf-8"))


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def parse(raw: dict[str, Any], place: str, profile: Profile) -> Example:
    """Check one object against the profile's codes; null: nobody has labelled it. Raises InputError naming the place and every
    field at fault."""
    unlabelled = [k for k in (*HEADS, "districts") if k in raw and raw[k] is None]
    whole, raw = raw, {k: v for k, v in raw.items() if k not in unlabelled}
    faults = [f"{k}: missing or not a text" for k in _REQUIRED
              if k not in unlabelled and not isinstance(raw.get(k), str)]  # fmt: skip
    faults += [f"{k}: not a list of texts" for k in (*_LISTS, "facts", "districts") if not _is_list(raw.get(k, []))]
    if faults:
        raise InputError(f"{place}: " + "; ".join(faults))
    if unknown := sorted(set(raw) - {f.name for f in fields(Example)}):
        faults.append(f"unknown field(s) {', '.join(unknown)}")
    for key in SINGLE:
        if key in raw and raw[key] not in profile.labels[key]:
            faults.append(f"{key}: {raw.get(key)!r} is no code of profile {profile.name}")
    for key, head in _LISTS.items():
        for code in raw.get(key, []):
            if code not in profile.labels[head]:
                faults.append(f"{key}: {code!r} is no code of profile {profile.name}")
    faults += [f"facts: {c!r} is not in facts.toml" for c in raw.get("facts", []) if c not in critical_facts()]
    faults += [f"districts: {d!r} is no district" for d in raw.get("districts", []) if d not in profile.districts]
    if raw.get("department", "") in raw.get("co_departments", []):
        faults.append("co_departments: repeats the department")
    if both := set(raw.get("flags", [])) & set(raw.get("mentioned", [])):
        faults.append(f"mentioned: {', '.join(sorted(both))} also stand(s) under flags")
    if faults:
        raise InputError(f"{place}: " + "; ".join(faults))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in whole.items()}
    return Example(**values)


def schema(profile: Profile) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one line; `training/data/schema.json` holds it for users without Python."""

    def one_of(head: str) -> dict[str, Any]:
        return {"enum": list(profile.labels[head])}

    def several(items: dict[str, Any]) -> dict[str, Any]:
        return {"type": "array", "items": items, "uniqueItems": True}

    text = {"type": "string"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A labelled request for help",
        "type": "object",
        "additionalProperties": False,
        "required": list(_REQUIRED),
        "properties": {
            "id": text | {"minLength": 1},
            "text": text | {"minLength": 1},
            "category": one_of("category"),
            "urgency": one_of("urgency"),
            "department": one_of("department"),
            "co_departments": several(one_of("department")),
            "flags": several(one_of("flag")),
            "mentioned": several(one_of("flag")),
            "facts": several({"enum": list(critical_facts())}),
            "districts": several({"enum": list(profile.districts)}),
            "voice": text,
            "pair": text,
            "split": {"enum": list(SPLITS)},
        },
    }


def load(path: Path, profile: Profile | None = None, texts: Mapping[str, str] | None = None) -> list[Example]:
    """Read a JSONL file of labelled requests. Raises InputError that lists every bad line and repeated id.

    With `texts`, by the SHA-256 of each, the lines name a text by its `sha256`; those whose text is not there are left out.
    """
    profile = profile or load_profile()
    examples, faults, ids = [], [], dict[str, int]()
    for n, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if texts is not None and isinstance(row, dict):
                sha = str(row.pop("sha256", ""))
                if sha not in texts:
                    continue
                row |= {"id": f"post-{sha[:12]}", "text": texts[sha], "split": "train"}
            example = parse(row, f"{path}:{n}", profile)
        except (json.JSONDecodeError, InputError) as error:
            faults.append(str(error) if isinstance(error, InputError) else f"{path}:{n}: not JSON: {error}")
            continue
        if example.id in ids:
            faults.append(f"{path}:{n}: id {example.id!r} stands already in line {ids[example.id]}")
        ids[example.id] = n
        examples.append(example)
    if faults:
        raise InputError("\n".join(faults))
    return examples


def _raw_texts(folder: Path) -> Iterator[str]:
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise InputError(f"{folder}: no .jsonl files here")
    rows = (json.loads(line) for p in paths for line in p.read_text("utf-8").splitlines() if line.strip())
    return (text for row in rows if (text := row.get("text", "").strip()))


def load_texts(folder: Path) -> list[str]:
    """Read the `text` field of every JSONL file in a folder: unlabelled requests, for distillation."""
    return list(dict.fromkeys(clean(text).text for text in _raw_texts(folder)))


def load_posts(folder: Path, labels: Path = DATA / "posts.jsonl", profile: Profile | None = None) -> list[Example]:
    """Join the labels of public posts to their texts, which are not ours to ship and are known by their SHA-256 alone.

    `folder` holds JSONL files with a `text` field; posts that stand in none of them are left out. Raises InputError for a folder
    without JSONL files and for labels that the profile does not know.
    """
    return load(labels, profile, {hashlib.sha256(t.encode()).hexdigest(): t for t in _raw_texts(folder)})


def tables(splits: dict[str, list[Example]], profile: Profile) -> list[Table]:
    """Return the counts of every label and split as tables."""

    def table(title: str, codes: Iterable[str], count: dict[str, Counter[str]]) -> Table:
        out = Table("code", *splits, title=title)
        for code in codes:
            out.add_row(code, *(str(count[s][code]) for s in splits))
        return out

    def counts(of: Any) -> dict[str, Counter[str]]:
        return {s: Counter(c for x in rows for c in of(x) or ()) for s, rows in splits.items()}

    overview = Table("", *splits, title="requests")
    overview.add_row("requests", *(str(len(r)) for r in splits.values()))
    overview.add_row("median characters", *(str(sorted(len(x.text) for x in r)[len(r) // 2]) for r in splits.values()))
    overview.add_row("over 200 characters", *(str(sum(len(x.text) > 200 for x in r)) for r in splits.values()))
    overview.add_row("with a district", *(str(sum(bool(x.districts) for x in r)) for r in splits.values()))
    overview.add_row("contrast pairs", *(str(len({x.pair for x in r if x.pair})) for r in splits.values()))
    out = [overview]
    for head in SINGLE:
        out.append(table(head, profile.labels[head], counts(lambda x, h=head: [getattr(x, h)])))
    out.append(table("flags that hold", profile.labels["flag"], counts(lambda x: x.flags)))
    out.append(table("flags mentioned that do not hold", profile.labels["flag"], counts(lambda x: x.mentioned)))
    facts = Table("fact", *(f"{s}: told, without its usual words" for s in splits), title="critical facts")
    for code, fact in critical_facts().items():
        told = {s: [x for x in rows if code in x.facts] for s, rows in splits.items()}
        facts.add_row(code, *(f"{len(t)}, {len([x for x in t if unusual(x, fact['usual'])])}" for t in told.values()))
    return [*out, facts]


def unusual(example: Example, usual: Iterable[str]) -> bool:
    """Whether a text uses none of the words a fact is usually told with."""
    text = clean(example.text).text
    return not any(word in text for word in usual)


@click.command()
@click.argument("what", type=click.Choice(["check", "stats", "agreement", "audit", "schema", "posts"]))
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA, show_default="the corpus")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="what audit reads")
@click.option("--profile", "city", default="zhengzhou", show_default=True, help="whose labels the data holds")
@click.option(
    "--texts", type=click.Path(path_type=Path, exists=True, file_okay=False), help="posts: JSONL files that hold them"
)
def main(what: str, data: Path, split: str, city: str, texts: Path | None) -> None:
    """Check the corpus, print its counts, its annotators' agreement or its schema, or list the labels that look wrong."""
    from training import copies, quality  # they stand on this module

    profile, console = load_profile(city), Console()
    if what == "schema":
        click.echo(json.dumps(schema(profile), ensure_ascii=False, indent=1))
        return
    if what == "posts":
        if texts is None:
            raise click.UsageError("posts: name with --texts the folder of JSONL files that hold the posts")
        for x in load_posts(texts, data / "posts.jsonl", profile):
            click.echo(json.dumps(asdict(x), ensure_ascii=False))
        return
    if what == "audit":
        examples = load(data / f"{split}.jsonl", profile)
        for head in quality.SINGLE:
            table = Table("id", "label", "predicted", "quality", "text", title=f"{split}: suspected {head}")
            for x, other, score in quality.suspects(examples, head):
                table.add_row(x.id, getattr(x, head), other, f"{score:.3f}", x.text)
            console.print(table)
        return
    splits = {split: load(data / f"{split}.jsonl", profile) for split in SPLITS}
    if what == "stats":
        for table in tables(splits, profile):
            console.print(table)
        return
    if what == "agreement":
        console.print(quality.agreement_table(quality.load_second(data / "second.jsonl"), splits, profile))
        return
    found = copies.leaks(splits)
    for line in found:
        console.print(line)
    console.print(f"{sum(map(len, splits.values())):,} requests valid, {len(found)} near copies across splits")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
