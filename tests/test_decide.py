"""Rules and model are weighed in one place: a floor for red flags, a person for grave doubt, a fixed policy for the rest."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.decide import QUESTIONS, Evidence, Policy, Weights, choose_urgency, decide, gather, urgency_distribution
from triage.engine import Triager
from triage.models.stub import StubBackend
from triage.profile import load_profile
from triage.records import URGENCY_LEVELS, Decision, Finding, Scores, Status
from triage.text import clean

PROFILE = load_profile()
EVEN = StubBackend(PROFILE).score(["x"])[0]


def scores(**heads: Mapping[str, float]) -> Scores:
    """Even scores with some labels set; the rest of the mass is spread evenly."""
    filled = {}
    for head in ("category", "urgency", "department", "co_departments", "flags"):
        old, new = getattr(EVEN, head), heads.get(head, {})
        rest = [c for c in old if c not in new]
        left = (1 - sum(new.values())) / len(rest) if head in ("category", "urgency", "department") and new else None
        filled[head] = {c: new.get(c, old[c] if left is None else left) for c in old}
    return Scores(**filled)


def finding(status: Status = Status.HOLDS, **says: object) -> Finding:
    return Finding("test.rule", 0, 2, "胸痛", status, **says)  # type: ignore[arg-type]


def judge(findings: list[Finding], given_scores: Scores = EVEN, policy: Policy = Policy()) -> Decision:  # noqa: B008
    return decide(clean("胸痛得很"), findings, given_scores, (), PROFILE, policy, {"model": "stub"})


def test_a_red_flag_is_a_floor_that_the_model_cannot_lower() -> None:
    calm = scores(urgency={"routine": 0.99})
    assert judge([], calm).urgency.code == "routine"
    decision = judge([finding(urgency="critical", red_flag=True)], calm)
    assert decision.urgency.code == "critical"
    assert decision.needs_review
    assert any("rules say critical" in r for r in decision.reasons)


def test_a_red_flag_steps_back_before_a_model_that_is_sure_and_a_person_looks() -> None:
    policy = Policy(floor_veto=0.02)
    joke, doubt = scores(urgency={"routine": 0.99, "priority": 0.01}), scores(urgency={"routine": 0.97, "urgent": 0.03})
    red = [finding(flag="cardiac", urgency="critical", red_flag=True)]
    vetoed = judge(red, joke, policy)
    assert vetoed.urgency.code != "critical"
    assert vetoed.needs_review
    assert judge(red, doubt, policy).urgency.code == "critical"


def test_what_a_rule_settles_is_not_weighed_and_the_outvoted_department_still_moves() -> None:
    sure = scores(department={"medical": 0.95})
    assert judge([finding(department="transport")], sure).department.code == "medical"
    settled = judge([finding(department="transport", settles=True)], sure)
    assert settled.department.code == "transport"
    assert [d.code for d in settled.co_departments] == ["medical"]
    assert judge([finding(Status.OVER, department="transport", settles=True)], sure).department.code == "medical"
    agreed = judge([finding(department="medical", settles=True)], sure)
    assert agreed.department.code == "medical"
    assert not agreed.co_departments
    never = scores(flags={"mental": 0.001})
    assert not judge([finding(flag="mental")], never).flags
    assert [f.code for f in judge([finding(flag="mental", settles=True)], never).flags] == ["mental"]


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.HOLDS])
def test_a_red_flag_that_does_not_hold_is_no_floor(status: Status) -> None:
    decision = judge([finding(status, urgency="critical", red_flag=True)], scores(urgency={"routine": 0.99}))
    assert decision.urgency.code == "routine"


def test_a_rule_without_a_floor_is_a_vote() -> None:
    vote = finding(urgency="urgent", category="medical")
    assert judge([vote], scores(urgency={"routine": 0.999})).urgency.code == "routine"
    assert judge([vote], scores(urgency={"priority": 0.6, "urgent": 0.3})).urgency.code == "urgent"


def test_the_model_alone_saying_critical_below_a_denied_fact_goes_to_a_person() -> None:
    denied = finding(Status.DENIED, urgency="critical", red_flag=True)
    policy = Policy(weights=dict.fromkeys(QUESTIONS, Weights(-6.0, 1.0, 3.0, -1.0)))
    decision = decide(clean("没有胸痛"), [denied], scores(urgency={"critical": 0.6}), (), PROFILE, policy, {})
    assert decision.urgency.code != "critical"
    assert decision.needs_review


def test_evidence_and_reasons_name_rule_words_and_place() -> None:
    decision = judge([finding(flag="cardiac", urgency="critical", category="medical", red_flag=True)],
                     scores(flags={"cardiac": 0.4}))  # fmt: skip
    assert [f.code for f in decision.flags] == ["cardiac"]
    assert decision.flags[0].evidence[0].text == "胸痛"
    assert "urgency critical because 胸痛 (rule test.rule, characters 0-2)" in decision.reasons


def test_the_primary_department_is_never_its_own_co_department() -> None:
    sure = scores(department={"medical": 0.9}, co_departments={"medical": 0.9, "transport": 0.8, "community": 0.9})
    assert [d.code for d in judge([], sure).co_departments] == ["community", "transport"]


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_urgency_is_always_a_distribution(at_least: list[float], rules: list[bool]) -> None:
    from triage.decide import log_odds

    evidence = {
        level: {level: Evidence(log_odds(p), r, not r)}
        for level, p, r in zip(URGENCY_LEVELS[1:], at_least, rules, strict=True)
    }
    distribution = urgency_distribution(evidence, Policy())
    assert sum(distribution.values()) == pytest.approx(1)
    assert min(distribution.values()) >= 0
    assert choose_urgency(distribution, Policy().thresholds) in URGENCY_LEVELS


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_more_danger_by_the_model_never_lowers_the_urgency(a: float, b: float) -> None:
    low, high = sorted((a, b))
    calmer = judge([], scores(urgency={"critical": low, "urgent": 0.0, "priority": 0.0}))
    graver = judge([], scores(urgency={"critical": high, "urgent": 0.0, "priority": 0.0}))
    assert URGENCY_LEVELS.index(calmer.urgency.code) <= URGENCY_LEVELS.index(graver.urgency.code)


def test_a_policy_survives_its_json() -> None:
    policy = Policy(thresholds={**Policy().thresholds, "critical": 0.31})
    assert Policy.from_dict(policy.to_dict()) == policy


def test_evidence_puts_both_witnesses_side_by_side() -> None:
    e = gather([finding(flag="fever"), finding(Status.DENIED, flag="stroke")], EVEN)
    assert e["flags"]["fever"].rules_for
    assert e["flags"]["stroke"].rules_against
    assert not e["flags"]["cardiac"].rules_for


@pytest.mark.parametrize(
    "text",
    [
        "도와주세요 아버지가 숨을 못 쉬어요",
        "Помогите, отец без сознания",
        "息ができない、助けてください",
        "ช่วยด้วย พ่อหายใจไม่ออก",
    ],
)
def test_what_nobody_here_can_read_is_shown_to_a_person(triager: Triager, text: str) -> None:
    decision = triager.predict(text)
    assert decision.needs_review
    assert any("a script that is not read here" in reason for reason in decision.reasons)
    assert not any("a script" in reason for reason in triager.predict("help, my father 爸爸 cannot breathe").reasons)
