"""Requests that must come out right, and behaviour after CheckList (Ribeiro et al. 2020).

The first eight are from the newspaper report of the platform; they ship as `examples/requests.jsonl`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import ROOT
from triage.engine import Triager
from triage.records import Decision, severity

REQUESTS = {
    r["id"]: r["text"] for r in map(json.loads, (ROOT / "examples/requests.jsonl").read_text("utf-8").splitlines())
}

# id: category, urgency, flags that must be among those found, department, one of these co-departments, district
GOLDEN: dict[str, tuple[str, str, set[str], str, set[str], str | None]] = {
    "z01": ("medical", "critical", {"pregnancy"}, "medical", {"transport", "community"}, None),
    "z02": ("policy", "routine", set(), "coordination", set(), None),
    "z03": ("medical", "critical", {"cardiac"}, "medical", {"transport"}, None),
    "z04": ("medical", "urgent", {"surgery"}, "transport", {"medical"}, None),
    "z05": ("testing", "priority", {"elderly"}, "testing", {"community"}, "惠济区"),
    "z06": ("transport", "priority", set(), "community", set(), "二七区"),
    "z07": ("care", "urgent", {"mental", "alone"}, "community", set(), "中原区"),
    "z08": ("medical", "urgent", {"medication_gap"}, "medical", {"community"}, "登封市"),
    "z09": ("health_code", "priority", set(), "data", set(), None),
    "z10": ("food", "priority", set(), "supply", set(), "金水区"),
    "z11": ("education", "routine", set(), "education", set(), None),
    "z12": ("business", "routine", set(), "enterprise", set(), "中牟县"),
    "z13": ("suggestion", "routine", set(), "coordination", set(), None),
    "z14": ("other", "routine", set(), "coordination", set(), None),
    "z15": ("policy", "routine", set(), "coordination", set(), None),
    "z16": ("testing", "routine", set(), "testing", set(), None),
    "z18": ("other", "routine", set(), "coordination", set(), None),
}


@pytest.fixture(scope="module")
def decisions(triager: Triager) -> dict[str, Decision]:
    return dict(zip(REQUESTS, triager.predict_many(REQUESTS.values()), strict=True))


@pytest.mark.parametrize("key", GOLDEN)
def test_golden_request(decisions: dict[str, Decision], key: str) -> None:
    category, urgency, flags, department, co, district = GOLDEN[key]
    d = decisions[key]
    assert (d.category.code, d.urgency.code, d.department.code) == (category, urgency, department), d.explain()
    assert {f.code for f in d.flags} >= flags, d.explain()
    assert not co or {c.code for c in d.co_departments} & co, d.explain()
    assert district is None or d.districts[:1] == (district,), d.explain()


def test_every_category_has_a_golden_request(triager: Triager) -> None:
    assert {g[0] for g in GOLDEN.values()} == set(triager.profile.labels["category"])


@pytest.mark.parametrize(
    ("text", "absent"),
    [("我不是孕妇，就想问问几点能下楼做核酸", "pregnancy"), ("孕妇可以打疫苗吗", "pregnancy"), ("如果突然胸痛怎么办，封控期间打哪个电话", "cardiac"),
     ("孩子没有发烧，精神也好，问一下几点做核酸", "fever"), ("去年心梗住过院，现在想问哪里做核酸", "cardiac"), ("商场在市中心，生意难做，房租交不起", "cardiac")],
)  # fmt: skip
def test_a_word_is_not_a_fact(triager: Triager, text: str, absent: str) -> None:
    decision = triager.predict(text)
    assert absent not in {f.code for f in decision.flags}, decision.explain()
    assert severity(decision.urgency.code) < severity("urgent"), decision.explain()


@pytest.mark.parametrize(
    "text", ["孕妇可以打疫苗吗", "我不是孕妇，就想问问几点能下楼做核酸", "如果突然胸痛怎么办", "昨天已经顺利生产，感谢"]
)
def test_the_opposites_of_the_golden_requests_are_routine(triager: Triager, text: str) -> None:
    decision = triager.predict(text)
    assert decision.urgency.code == "routine", decision.explain()


GRAVE = [
    "我爸突然叫不醒了",
    "老婆羊水破了出不去",
    "孩子抽搐翻白眼",
    "我妈半边身子没劲说话也不清楚了",
    "喘不上气嘴唇发紫",
]


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
