"""How fast are the rules? Beside the same rules as plain `re`, with ten thousand more words, and on the nastiest texts found.

    python -m benchmarks.rules

Plain `re`: one alternation for the words of each rule, each group of words that a condition asks for and each cue, and every
expression; only searched, without weighing conditions, which favours it. Compare ratios within one run: the machine may be shared.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table

from benchmarks.predict import best_of, timed
from training.corpus import DATA, load
from triage.rules.book import SHIPPED, RuleBook, load_rules
from triage.rules.files import Faults, RuleSource, read_rules
from triage.text import clean


def plain(source: RuleSource) -> Callable[[str], int]:
    """Return a function that searches a text for everything the rules know, as one would write it without a library."""
    groups = {
        words for rule in source.rules.values() for words in (rule.any, *rule.near, rule.unless, rule.absent) if words
    }
    groups |= {cue.words for cue in source.cues} | {tuple(source.decoys), tuple(source.closers)}
    patterns = [re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True)))) for words in groups if words]
    patterns += [re.compile(pattern) for rule in source.rules.values() for pattern in rule.regex]
    return lambda text: sum(1 for pattern in patterns for _ in pattern.finditer(text))


def read() -> RuleSource:
    """Return the shipped rules as they stand in the files."""
    faults = Faults()
    source = read_rules([SHIPPED], faults)
    faults.raise_if_any()
    return source


def with_more_words(count: int, seed: int = 1) -> RuleBook:
    """Return the shipped rules with so many further words, spread over the rules: made of the characters of the corpus."""
    source, chance = read(), random.Random(seed)
    characters = sorted({c for x in load(DATA / "train.jsonl") for c in x.text if "\u4e00" <= c <= "\u9fff"})
    ids = sorted(k for k, rule in source.rules.items() if rule.any)
    more: dict[str, list[str]] = {}
    for _ in range(count):
        more.setdefault(chance.choice(ids), []).append("".join(chance.choices(characters, k=chance.randint(2, 5))))
    for key, words in more.items():
        source.rules[key] = replace(source.rules[key], any=(*source.rules[key].any, *words))
    return RuleBook(source)


def nastiest(book: RuleBook, pieces: Iterable[str], length: int, rounds: int = 60, seed: int = 1) -> str:
    """Return the slowest text found by hill climbing: a short motif of words from the rules, changed a piece at a time, repeated."""
    chance, pool = random.Random(seed), sorted(pieces)
    motif, worst = chance.choices(pool, k=6), 0.0

    def spread(parts: list[str]) -> str:
        unit = "".join(parts) or "x"
        return (unit * (length // len(unit) + 1))[:length]

    for _ in range(rounds):
        tried = list(motif)
        tried[chance.randrange(len(tried))] = chance.choice(pool)
        text = clean(spread(tried))
        seconds = best_of(lambda t=text: book.apply(t), 2)  # type: ignore[misc]
        if seconds > worst:
            motif, worst = tried, seconds
    return spread(motif)


@click.command()
@click.option(
    "--texts", "count", default=500, show_default=True, help="texts of the validation split, at most 60 characters each"
)
@click.option("--longest", default=1_000_000, show_default=True, help="characters of the longest nasty text")
def main(count: int, longest: int) -> None:
    """Print the tables."""
    book, source = load_rules(), read()
    texts = [clean(x.text[:60]) for x in load(DATA / "validation.jsonl")[:count]]
    search, bigger = plain(source), with_more_words(10_000)
    rows = {
        "triage, rules weighed and context judged": lambda: [book.apply(t) for t in texts],
        "the same with 10,000 more words": lambda: [bigger.apply(t) for t in texts],
        "plain re, searched only": lambda: [search(t.text) for t in texts[: max(1, len(texts) // 10)]],
    }
    seconds = {name: best_of(run, 3) / len(texts) for name, run in rows.items()}
    seconds["plain re, searched only"] *= len(texts) / max(1, len(texts) // 10)
    table = Table("", "µs a text, one core", "ratio", title=f"{len(book.rules)} rules, {len(texts)} texts, "
                  f"mean {sum(len(t.text) for t in texts) / len(texts):.0f} characters")  # fmt: skip
    first = next(iter(seconds.values()))
    for name, each in seconds.items():
        table.add_row(name, f"{each * 1e6:.0f}", f"{each / first:.2f} ×")
    words = {w for rule in source.rules.values() for group in (rule.any, *rule.near, rule.unless) for w in group}
    words |= {w for cue in source.cues for w in cue.words} | set(",。38.5℃七十岁孕周两天")
    nasty = nastiest(book, words, 3_000)
    lengths = Table(
        "characters", "seconds", "µs a character", title="time is linear in length: the nastiest text found by search"
    )
    unit = nasty[: len(nasty) // 3]
    for n in (1_000, 10_000, 100_000, longest):
        long = clean((unit * (n // len(unit) + 1))[:n])
        each = timed(lambda t=long: book.apply(t))  # type: ignore[misc]
        lengths.add_row(f"{n:,}", f"{each:.3f}", f"{each / n * 1e6:.2f}")
    for shown in (table, lengths):
        Console().print(shown)


if __name__ == "__main__":
    main()
