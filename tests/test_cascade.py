"""A cheap first stage answers what it is certain of; nothing that a rule or the stage itself finds grave is left to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.calibrate import HEAVIEST, blend, review_from
from training.corpus import Example
from training.ngrams import weights
from training.train import Material
from triage.cascade import Cascade, certainty
from triage.decide import Policy
from triage.engine import Triager
from triage.errors import ModelError
from triage.models.base import Labels
from triage.models.bert import halve
from triage.models.folder import SHIPPED, ModelFolder
from triage.models.mixture import Mixture
from triage.models.ngrams import NgramBackend, runs
from triage.models.onnx import OnnxBackend
from triage.models.stub import StubBackend
from triage.profile import Profile
from triage.records import Scores
from triage.rules.book import RuleBook


def sure_of(profile: Profile, category: str, urgency: str, p: float = 0.97) -> StubBackend:
    """A backend that is p certain of food or so, whatever it reads."""
    even = StubBackend(profile).score([""])[0]

    def certain(labels: list[str], chosen: str) -> dict[str, float]:
        return {c: p if c == chosen else (1 - p) / (len(labels) - 1) for c in labels}

    return StubBackend(profile, Scores(
        certain(list(even.category), category), certain(list(even.urgency), urgency), certain(list(even.department), "supply"),
        dict(even.co_departments), dict.fromkeys(even.flags, 0.01)))  # fmt: skip


@pytest.fixture
def cascaded(profile: Profile, book: RuleBook) -> Triager:
    first, second = sure_of(profile, "food", "routine"), sure_of(profile, "other", "routine")
    return Triager(second, book, profile, Policy(), cascade=Cascade(first, 0.9))


def test_what_the_first_stage_is_certain_of_the_second_never_sees(cascaded: Triager) -> None:
    assert cascaded.predict("想问一下").category.code == "food"
    assert replace_certain(cascaded, 0.98).predict("想问一下").category.code == "other"


@pytest.mark.parametrize("text", ["我爸胸口疼，出一身冷汗", "没有胸口疼", "叫不醒了", "去年脑梗过，胰岛素没了"])
def test_a_text_with_grave_words_goes_to_the_second_even_where_they_are_denied(cascaded: Triager, text: str) -> None:
    assert cascaded.predict(text).category.code != "food"


def test_an_urgent_answer_is_never_certain_enough(profile: Profile) -> None:
    for level, sure in (("routine", True), ("priority", True), ("urgent", False), ("critical", False)):
        assert (certainty(sure_of(profile, "food", level).score([""])[0]) > 0.9) is sure


def test_order_and_batch_change_nothing_between_the_stages(cascaded: Triager) -> None:
    texts = ["想问一下", "我爸胸口疼，出一身冷汗", "谢谢", "孩子抽了"] * 12
    together = cascaded.predict_many(texts)
    assert together == [cascaded.predict(t) for t in texts]


def replace_certain(triager: Triager, certain: float) -> Triager:
    assert triager.cascade is not None
    return Triager(triager.backend, triager.rules, triager.profile, triager.policy,
                   cascade=replace(triager.cascade, certain=certain))  # fmt: skip


LABELS = Labels(("food", "medical"), ("supply",), ("fever",))


def fitted(texts: Sequence[str], category: Sequence[float]) -> NgramBackend:
    """N-grams that learnt from a few texts which are "medical" with the given probability; the other heads are as good as empty."""
    target = np.full((len(texts), LABELS.total), 0.3, np.float32)
    target[:, 0], target[:, 1] = 1 - np.array(category), category
    learnt = weights(Material(list(texts), target, [1.0] * len(texts)), {"runs": 500, "at_least": 1, "strength": 20.0})
    return NgramBackend(learnt, LABELS, "test")


SAID = ["没有菜了", "米面都没有了", "想买点菜", "发烧三十九度", "孩子发烧了", "烧到四十度"]
NGRAMS = fitted(SAID, [0, 0, 0, 1, 1, 1])


@given(st.text(max_size=60))
def test_ngrams_read_any_text_and_say_the_same_every_time(text: str) -> None:
    said = NGRAMS.logits(text)
    assert np.isfinite(said).all()
    assert (said == NGRAMS.logits(text)).all()


def test_ngrams_learn_which_words_speak_for_a_label() -> None:
    medical = [NGRAMS.score([text])[0].category["medical"] for text in ("又烧了", "菜")]
    assert medical[0] > 0.5 > medical[1]


def test_a_text_counts_as_much_as_it_is_probable() -> None:
    unsure = fitted(SAID, [0, 0, 0, 1, 1, 0.5]).score(["烧到四十度"])[0].category["medical"]
    assert 0.5 < unsure < NGRAMS.score(["烧到四十度"])[0].category["medical"]


def test_of_a_label_that_nobody_has_the_ngrams_are_certain_that_it_does_not_hold() -> None:
    assert NGRAMS.score(["发烧"])[0].flags["fever"] < 0.01


def test_a_text_is_weighed_as_tf_idf_of_length_one() -> None:
    counts = Counter(runs("孩子发烧了").tolist())
    learnt = weights(Material(SAID, np.tile(np.array([0, 1, 0, 0, 0, 1, 0, 0], np.float32), (6, 1)), [1.0] * 6),
                     {"runs": 500, "at_least": 1, "strength": 20.0})  # fmt: skip
    at = {int(key): i for i, key in enumerate(learnt["runs"])}
    x = {at[k]: (1 + np.log(n)) * learnt["rarity"][at[k]] for k, n in counts.items() if k in at}
    length = np.sqrt(sum(v * v for v in x.values()))
    exact = sum(v / length * learnt["table"][i].astype(float) for i, v in x.items()) * learnt["scale"] + learnt["bias"]
    assert NgramBackend(learnt, LABELS, "test").logits("孩子发烧了") == pytest.approx(exact, abs=1e-4)


def test_a_model_made_by_an_older_version_is_refused() -> None:
    with pytest.raises(ModelError, match="export the model again"):
        NgramBackend({"table": np.zeros((2, 2), np.int8)}, LABELS, "old")


def test_the_ngrams_move_the_answer_of_the_bert_by_their_weight_and_only_where_it_is_fitted() -> None:
    folder = ModelFolder.open(SHIPPED)
    bert, ngrams = OnnxBackend(folder), NgramBackend.open(folder)
    assert ngrams is not None
    text = "孩子发烧三十九度"
    mixed = Mixture(bert, ngrams, {"urgency": 2.0}).logits(text) - bert.logits(text)
    urgency = bert.labels.slices["urgency"]
    assert mixed[0, urgency] == pytest.approx(2 * ngrams.logits(text)[urgency], abs=1e-4)
    assert not mixed[0, bert.labels.slices["category"]].any()


def test_the_blend_follows_the_witness_that_is_right() -> None:
    chance = np.random.default_rng(0)
    examples = [Example(str(i), "x", category=c, urgency="routine", department="supply", co_departments=(), flags=())
                for i, c in enumerate(chance.choice(["food", "medical"], 300))]  # fmt: skip
    right = np.zeros((300, LABELS.total), np.float32)
    right[:, 0] = [3 if x.category == "food" else -3 for x in examples]
    noise = chance.normal(size=right.shape).astype(np.float32)
    assert blend(noise, right + noise, examples, LABELS)[0]["category"] == HEAVIEST["category"]
    assert blend(right + noise, noise[::-1].copy(), examples, LABELS)[0]["category"] < 0.3


def test_halving_ignores_padding_and_keeps_a_last_token_without_a_partner() -> None:
    x = torch.arange(12.0).reshape(1, 6, 2)
    assert halve(x, None)[0][0, :, 0].tolist() == [1, 5, 9]
    assert halve(x[:, :5], None)[0][0, :, 0].tolist() == [1, 5, 8]
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    halved, left = halve(x, mask)
    assert halved[0, :, 0].tolist() == [1, 5, 8]
    assert left is not None
    assert left.tolist() == [[1, 1, 1]]


def test_the_review_threshold_leaves_out_no_more_critical_requests_than_promised() -> None:
    chance = np.random.default_rng(1)
    missed = []
    for _ in range(300):  # the promise is about requests not seen when it was made
        past, new = (chance.beta(5, 1.5, n) for n in (250, 2_000))
        missed.append((new < review_from(past, urgent=0.5)).mean())
    assert np.mean(missed) <= 0.01
    assert review_from(np.array([0.9] * 20), urgent=0.5) == 0.0, "twenty requests promise nothing at 1 in 100"
