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
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from training.corpus import DATA
from triage.decide import decide
from triage.engine import Triager
from triage.models.folder import SHIPPED
from triage.models.mixture import Mixture
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


def fresh(code: str, times: int = 3) -> dict[str, float]:
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
memory = psutil.Process().memory_info().rss / 1e6
for part in range(50):
    triage.predict_many([f"{part}号楼" + t for t in texts])
later = psutil.Process().memory_info().rss / 1e6
print(json.dumps({"import": imported, "first": first, "memory": memory, "later": later}))
"""


def peak(seconds: float = 0.5) -> float:
    """Return the multiply-adds a second that one core reaches in ONNX Runtime's int8 product of matrices of the model's own shapes."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    tokens, width, wide = 256, 384, 1536
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    graph = helper.make_graph(
        [node], "peak", [helper.make_tensor_value_info("a", TensorProto.UINT8, [tokens, width])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [tokens, wide])],
        [helper.make_tensor("b", TensorProto.INT8, [width, wide], np.ones((width, wide), np.int8).tobytes(), raw=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = np.ones((tokens, width), np.uint8)
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        session.run(None, {"a": a})
        runs += 1
    return runs * tokens * width * wide / (time.perf_counter() - start)


def multiply_adds(triager: Triager, lengths: Sequence[int]) -> float:
    """Return the mean multiply-adds of one request in the network's matrix products, attention included, for token counts."""
    about = triager.backend.bert.about  # type: ignore[attr-defined]
    layers, width, halved = (
        about["layers"],
        about["width"],
        about.get("tokens halved after layer", 0) or about["layers"],
    )
    total = 0.0
    for n in lengths:
        for layer in range(layers):
            tokens = n if layer < halved else -(-n // 2)
            total += tokens * 12 * width * width + 2 * tokens * tokens * width
    return total / len(lengths)


def parts(triager: Triager, texts: Sequence[str]) -> Table:
    """Return the table of where the time of one request goes, on one core and without a cascade."""
    cleaned = [clean(t) for t in texts]
    plain = [t.text for t in cleaned]
    backend = triager.backend
    assert isinstance(backend, Mixture)
    windows = [w for t in plain for w in backend.bert.windows(t)]
    scores, findings = backend.score(plain), [triager.rules.apply(t) for t in cleaned]
    measured: dict[str, Callable[[], object]] = {
        "cleaning": lambda: [clean(t) for t in texts],
        "rules": lambda: [triager.rules.apply(t) for t in cleaned],
        "first stage": lambda: triager.cascade and triager.cascade.answers(plain, findings),
        "tokens": lambda: [backend.bert.windows(t) for t in plain],
        "network": lambda: [backend.bert.run(w) for w in windows],
        "places": lambda: [triager.profile.find_districts(t) for t in cleaned],
        "weighing and reasons": lambda: [
            decide(t, f, s, (), triager.profile, triager.policy, {})
            for t, f, s in zip(cleaned, findings, scores, strict=True)
        ],
    }
    table = Table("part", "µs a request, one core", title="where the time goes")
    for name, run in measured.items():
        table.add_row(name, f"{best_of(run, 3) / len(texts) * 1e6:.0f}")
    per_request, possible = multiply_adds(triager, [len(w) for w in windows]), peak()
    table.add_row("limit: multiply-adds of the network over the measured int8 peak of one core",
                  f"{per_request / 1e6:.0f} M / {possible / 1e9:.0f} G/s = {per_request / possible * 1e6:.0f}")  # fmt: skip
    return table


@click.command()
@click.option("--texts", "count", default=512, show_default=True, help="texts to decide on")
@click.option("--data", type=click.Path(path_type=Path, exists=True), default=DATA / "validation.jsonl",
              show_default="the validation split", help="JSONL with `text`")  # fmt: skip
def main(count: int, data: Path) -> None:
    """Print the tables."""
    texts = [json.loads(line)["text"] for line in data.read_text("utf-8").splitlines() if line][:count]
    triager, full, other = Triager.load(), Triager.load(cascade=False), bert_base()
    for warm in (triager.predict_many, full.predict_many, other):
        warm(texts[:32])
    single = texts[:: max(1, len(texts) // 128)]
    systems: dict[str, tuple[Callable[[Sequence[str]], object], int]] = {
        "triage": (triager.predict_many, 3),
        "triage, no cascade": (full.predict_many, 3),
        "bert-base, PyTorch": (other, 1),
    }
    median = sorted(map(len, texts))[len(texts) // 2]
    title = f"{len(texts)} texts of {data.stem}, median {median} characters; in brackets: beside bert-base"
    table = Table("", *systems, title=title)
    batch = {name: best_of(lambda f=run: f(texts), times) for name, (run, times) in systems.items()}  # type: ignore[misc]
    alone = {name: [timed(lambda f=run, t=t: f([t])) for t in single] for name, (run, _) in systems.items()}  # type: ignore[misc]
    last = "bert-base, PyTorch"
    table.add_row("requests a second, batch, all cores",
                  *(f"{len(texts) / s:.0f} ({batch[last] / s:.1f} ×)" for s in batch.values()))  # fmt: skip
    for title, of in (("median", statistics.median), ("99th percentile", lambda v: statistics.quantiles(v, n=100)[98])):
        base = of(alone[last])
        table.add_row(
            f"one request, {title}, ms", *(f"{of(v) * 1e3:.2f} (1/{base / of(v):.1f})" for v in alone.values())
        )
    Console().print(table)
    Console().print(parts(triager, texts))

    start = fresh(_START)
    fresh_table = Table("fresh process", "measured", "limit")
    fresh_table.add_row("import triage", f"{start['import']:.3f} s", "0.15 s")
    fresh_table.add_row("load and first answer", f"{start['first']:.2f} s", "0.8 s")
    fresh_table.add_row("resident memory after 400 requests", f"{start['memory']:.0f} MB", "250 MB")
    fresh_table.add_row("the same after 20,000 more", f"{start['later']:.0f} MB", "no more")
    Console().print(fresh_table)


if __name__ == "__main__":
    main()
