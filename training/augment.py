"""Noise that changes no label, and requests told in one breath: made at training time, seeded, never on disk.

`noisy` types a text worse than it was written; `joined` tells two requests as one, which is what long real requests are:
the graver one decides what it is about, and every fact of both holds.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from triage.models.base import Array, Labels

_PUNCTUATION = re.compile(r"[,。!?;:、…~.]+")
_CRIES = ("急急急", "求助!", "谢谢", "麻烦了", "在线等", "求求了", "各位帮帮忙", "求扩散", "你好,", "您好")


@lru_cache(maxsize=1)
def homophones() -> dict[str, tuple[str, ...]]:
    """Return the common characters that share a reading, tone left out: what voice input and pinyin keyboards confuse.

    Readings are pypinyin's; common are the 3,755 characters of GB 2312 level 1.
    """
    from pypinyin import lazy_pinyin

    level_1 = "".join(bytes([a, b]).decode("gb2312") for a in range(0xB0, 0xD8) for b in range(0xA1, 0xFF)
                      if not (a == 0xD7 and b > 0xF9))  # fmt: skip
    groups: dict[str, list[str]] = defaultdict(list)
    for char in level_1:
        groups[lazy_pinyin(char)[0]].append(char)
    return {c: tuple(o for o in group if o != c) for group in groups.values() for c in group if len(group) > 1}


def noisy(text: str, rng: random.Random) -> str:
    """Return the text as a hurried thumb or a voice keyboard might leave it. Digits stay: they carry labels."""
    if rng.random() < 0.4:
        text = _PUNCTUATION.sub(lambda m: rng.choice(("", " ", m[0])), text)
    if rng.random() < 0.4 and len(text) > 12:
        same = homophones()
        chars = list(text)
        for i in rng.sample(range(len(chars)), max(1, len(chars) // 40)):
            if others := same.get(chars[i]):
                chars[i] = rng.choice(others)
        text = "".join(chars)
    if rng.random() < 0.2:
        cry = rng.choice(_CRIES)
        text = cry + text if rng.random() < 0.5 else text + cry
    return text


def joined(
    texts: tuple[str, str], targets: tuple[Array, Array], labels: Labels, rng: random.Random
) -> tuple[str, Array]:
    """Return two requests told as one, in random order, and the target of the whole. `targets` are (labels.total,)."""
    at = labels.slices
    graver = targets[int(targets[1][at["urgency"]].sum() > targets[0][at["urgency"]].sum())].copy()
    for head in ("urgency", "flags"):
        graver[at[head]] = np.maximum(targets[0][at[head]], targets[1][at[head]])
    first, second = texts if rng.random() < 0.5 else texts[::-1]
    return first + rng.choice((",", "。", " ", "\n", "。另外,", ",还有")) + second, graver


def augmented(
    texts: Sequence[str], target: Array, labels: Labels, rng: random.Random, noise: float, join: float,
    joinable: Iterable[int],
) -> tuple[list[str], npt.NDArray[np.float32]]:  # fmt: skip
    """Return one epoch's texts and targets (n, labels.total), row for row.

    noise: share of the texts typed worse. join: share told together with another, drawn from `joinable` rows (requests
    that stand: a thank-you or a question taken back would contradict its neighbour).
    """
    out, targets, pool = list(texts), target.copy(), list(joinable)
    for i in range(len(out)):
        if rng.random() < join and len(out[i]) < 120:
            other = rng.choice(pool)
            out[i], targets[i] = joined((out[i], texts[other]), (target[i], target[other]), labels, rng)
        if rng.random() < noise:
            out[i] = noisy(out[i], rng)
    return out, targets
