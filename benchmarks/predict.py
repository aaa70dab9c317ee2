"""How fast is the shipped triager beside the BERT service that people would deploy today?

    python -m benchmarks.predict [--texts 256]

The comparison is a bert-base-sized `transformers` classifier in PyTorch (random weights: speed does not depend on them)
on the same texts, with all cores, in padded batches of 32 sorted by length, and one by one. Compare ratios within one run;
the machine may be shared. Start-up and memory are measured in fresh processes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import click
import psutil
from rich.console import Console
from rich.table import Table

from training.corpus import DATA, load
from triage.engine import Triager
from triage.models.folder import SHIPPED
from triage.rules.book import load_rules
from triage.text import clean


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def best_of(run: Callable[[], object], times: int) -> float:
    """Return the fewest seconds of several calls: the one least disturbed by others on the machine."""
    return min(timed(run) for _ in range(times))


def bert_base() -> Callable[[Sequence[str]], object]:
    """Return a function that classifies a batch with a bert-base-sized model in PyTorch."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(SHIPPED / "tokenizer.json"), pad_token="<pad>")
    model = BertForSequenceClassification(BertConfig(vocab_size=21128, num_labels=11)).eval()
    torch.set_num_threads(psutil.Process().cpu_affinity().__len__())

    def run(texts: Sequence[str]) -> object:
        ordered = sorted(texts, key=len)
        with torch.inference_mode():
            for at in range(0, len(ordered), 32):
                inputs = tokenizer(
                    ordered[at : at + 32], padding=True, truncation=True, max_length=512, return_tensors="pt"
                )
                model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.argmax(-1)
        return None

    return run


def fresh(code: str, times: int = 5) -> dict[str, float]:
    """Run code that prints JSON in fresh processes; return the median of each figure."""
    runs = [json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
            for _ in range(times)]  # fmt: skip
    return {k: statistics.median(r[k] for r in runs) for k in runs[0]}


_START = """
import json, time
start = time.perf_counter(); import triage; imported = time.perf_counter() - start
start = time.perf_counter(); triage.predict("老婆羊水破了，小区封着出不去"); first = time.perf_counter() - start
import psutil
texts = ["家里老人高血压药快吃完了" + "，求帮忙" * (i % 40) for i in range(400)]
triage.predict_many(texts)
print(json.dumps({"import": imported, "first": first, "memory": psutil.Process().memory_info().rss / 1e6}))
"""


@click.command()
@click.option("--texts", "count", default=256, show_default=True, help="texts of the validation split")
def main(count: int) -> None:
    """Print the tables."""
    texts = [x.text for x in load(DATA / "validation.jsonl")][:count]
    triager, other, book = Triager.load(), bert_base(), load_rules()
    cleaned = [clean(t) for t in texts]
    triager.predict_many(texts[:32])
    other(texts[:32])

    ours, theirs = best_of(lambda: triager.predict_many(texts), 3), best_of(lambda: other(texts), 2)
    single = texts[:64]
    our_single = statistics.median(timed(lambda t=t: triager.predict(t)) for t in single)  # type: ignore[misc]
    their_single = statistics.median(timed(lambda t=t: other([t])) for t in single)  # type: ignore[misc]
    table = Table(
        "",
        "triage",
        "bert-base, PyTorch",
        "ratio",
        title=f"{len(texts)} texts, median {sorted(map(len, texts))[len(texts) // 2]} characters",
    )
    table.add_row(
        "requests a second, batch", f"{len(texts) / ours:.0f}", f"{len(texts) / theirs:.0f}", f"{theirs / ours:.1f} ×"
    )
    table.add_row(
        "one request, median ms",
        f"{our_single * 1e3:.1f}",
        f"{their_single * 1e3:.1f}",
        f"1/{their_single / our_single:.1f}",
    )

    parts = Table("part", "µs a request, one core", title="where the time goes")
    parts.add_row("cleaning", f"{best_of(lambda: [clean(t) for t in texts], 5) / len(texts) * 1e6:.0f}")
    parts.add_row("rules", f"{best_of(lambda: [book.apply(t) for t in cleaned], 5) / len(texts) * 1e6:.0f}")
    parts.add_row(
        "places", f"{best_of(lambda: [triager.profile.find_districts(t) for t in cleaned], 5) / len(texts) * 1e6:.0f}"
    )
    lengths = Table(
        "characters", "seconds", "µs a character", title="time is linear in length (rules, worst text found)"
    )
    for n in (10_000, 100_000, 1_000_000):
        nasty = clean(("没有胸痛如果发烧38.9破水了," * (n // 16 + 1))[:n])
        seconds = timed(lambda t=nasty: book.apply(t))  # type: ignore[misc]
        lengths.add_row(f"{n:,}", f"{seconds:.2f}", f"{seconds / n * 1e6:.2f}")

    start = fresh(_START)
    fresh_table = Table("fresh process", "measured", "limit")
    fresh_table.add_row("import triage", f"{start['import']:.3f} s", "0.15 s")
    fresh_table.add_row("load and first answer", f"{start['first']:.2f} s", "1.2 s")
    fresh_table.add_row("resident memory after 400 requests", f"{start['memory']:.0f} MB", "350 MB")
    for t in (table, parts, lengths, fresh_table):
        Console().print(t)


if __name__ == "__main__":
    main()
