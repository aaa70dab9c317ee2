"""Requests that must come out right, and behaviour after CheckList (Ribeiro et al. 2020).

The golden requests stand in `triage/golden.jsonl`; the first eight are from the newspaper report of the platform.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ROOT
from triage import gate
from triage.engine import Triager
from triage.gate import load_golden
from triage.profile import load_profile
from triage.records import URGENCY_LEVELS, Decision, severity

GOLDEN = {golden.id: golden for golden in load_golden(gate.GOLDEN, load_profile())}


@pytest.fixture(scope="module")
def decisions(triager: Triager) -> dict[str, Decision]:
    return dict(zip(GOLDEN, triager.predict_many([g.text for g in GOLDEN.values()]), strict=True))


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_request(decisions: dict[str, Decision], key: str) -> None:
    assert GOLDEN[key].faults(decisions[key]) == [], decisions[key].explain()


def test_every_category_and_every_urgency_has_a_golden_request(triager: Triager) -> None:
    assert {code for g in GOLDEN.values() for code in g.category} == set(triager.profile.labels["category"])
    assert {code for g in GOLDEN.values() for code in g.urgency} == set(URGENCY_LEVELS)


def test_the_requests_that_ship_as_examples_are_golden() -> None:
    rows = map(json.loads, (ROOT / "examples/requests.jsonl").read_text("utf-8").splitlines())
    shipped = {row["id"]: row["text"] for row in rows}
    assert {id for id in shipped if id in GOLDEN} == set(shipped) - {"z17"}  # a question whose department is open
    assert all(GOLDEN[id].text == text for id, text in shipped.items() if id in GOLDEN)


GRAVE = [golden.text for id, golden in GOLDEN.items() if id.startswith("grave-")]


@pytest.mark.parametrize("text", GRAVE)
@pytest.mark.parametrize("change", [
    lambda t: t + "！！！急急急", lambda t: "您好，麻烦您了，" + t + "，谢谢", lambda t: "我是金水区的，" + t,
    lambda t: t.replace("，", ""), lambda t: t + "🙏🙏😭", lambda t: "【诉求】" + t, lambda t: "\u200b".join(t),
], ids=["shouting", "polite", "place", "unpunctuated", "emoji", "form", "invisible"])  # fmt: skip
def test_manner_changes_no_urgency(triager: Triager, text: str, change: Any) -> None:
    assert triager.predict(text).urgency.code == triager.predict(change(text)).urgency.code == "critical"


def test_script_changes_nothing(triager: Triager) -> None:
    simple, traditional = (
        triager.predict("老婆羊水破了，医院不收，求助"),
        triager.predict("老婆羊水破了，醫院不收，求助"),
    )
    assert simple.urgency == traditional.urgency
    assert simple.category == traditional.category


@pytest.mark.parametrize(
    "base",
    ["小区封了，想问问什么时候解封", "家里菜不多了，能不能帮忙送点", "健康码变黄了怎么申诉", "孩子上网课没有平板"],
)
@pytest.mark.parametrize("fact", ["我爸现在叫不醒了", "我老婆羊水破了", "老人喘不上气嘴唇发紫"])
def test_a_grave_fact_added_makes_it_critical(triager: Triager, base: str, fact: str) -> None:
    assert triager.predict(f"{base}，{fact}").urgency.code == "critical"
    assert triager.predict(f"{fact}，{base}").urgency.code == "critical"


@pytest.mark.parametrize(("few", "many"), [("我妈的降压药只剩一天的了", "我妈的降压药还够吃一个月"), ("抑郁症的药昨天就吃完了", "抑郁症的药还有半个月的量"),
                                           ("胰岛素今晚最后一针", "胰岛素还有两盒，够用三周")])  # fmt: skip
def test_more_days_of_medicine_never_raise_the_urgency(triager: Triager, few: str, many: str) -> None:
    assert severity(triager.predict(many).urgency.code) <= severity(triager.predict(few).urgency.code)
