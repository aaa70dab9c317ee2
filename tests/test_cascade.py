"""A cheap first stage answers what it is certain of; nothing that a rule or the stage itself finds grave is left to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.calibrate import review_from
from training.ngrams import NgramNet, rounded
from triage.cascade import Cascade, certainty
from triage.decide import Policy
from triage.engine import Triager
from triage.models.base import Labels
from triage.models.bert import halve
from triage.models.ngrams import BUCKETS, NgramBackend, buckets
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


@given(st.text(max_size=60))
def test_any_text_has_buckets_and_the_same_ones_every_time(text: str) -> None:
    rows = buckets(text)
    assert len(rows)
    assert rows.min() >= 0
    assert rows.max() < BUCKETS
    assert (rows == buckets(text)).all()


def test_the_rounded_tables_say_what_the_network_says() -> None:
    torch.manual_seed(0)
    labels = Labels(("a", "b"), ("d",), ("f",))
    net = NgramNet(16, labels.total).eval()
    backend = NgramBackend(rounded(net, labels), labels, "test")
    for text in ("没有菜了", "羊水破了，出不去", ""):
        rows = torch.from_numpy(buckets(text))
        with torch.inference_mode():
            exact = net(rows, torch.tensor([0]))[0].numpy()
        assert np.abs(backend.logits(text) - exact).max() < 0.05


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
