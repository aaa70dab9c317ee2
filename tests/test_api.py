"""The small API that other systems import."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import triage
from tests.conftest import ROOT
from triage.engine import Triager


def test_the_public_names_are_these() -> None:
    assert triage.__all__ == ["Decision", "Finding", "Flag", "HelpRequest", "InputError", "Label", "ModelError", "OutputError",
                              "ProfileError", "RuleError", "StoppedError", "TriageError", "Triager", "predict", "predict_many",
                              "redact", "rescore"]  # fmt: skip
    assert all(getattr(triage, name) is not None for name in triage.__all__)
    assert set(triage.__all__) <= set(dir(triage))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = triage.nonsense


def test_importing_loads_nothing_heavy_and_predicting_needs_no_torch() -> None:
    code = (
        "import sys, triage\n"
        "heavy = {'numpy', 'onnxruntime', 'tokenizers', 'torch', 'transformers', 'jieba', 'opencc', 'click', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "triage.predict('想问问几点做核酸')\n"
        "assert not {'torch', 'transformers', 'sklearn', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_decision_is_frozen_typed_and_turns_into_json(triager: Triager) -> None:
    decision = triager.predict("老婆羊水破了，在金水区，小区出不去")
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.urgency = decision.category  # type: ignore[misc]
    raw = json.loads(json.dumps(decision.to_dict(), ensure_ascii=False))
    assert set(raw) == {"category", "urgency", "department", "co_departments", "flags", "districts", "needs_review", "reasons",
                        "fingerprints"}  # fmt: skip
    assert set(raw["category"]) == {"code", "name", "score"}
    assert set(raw["fingerprints"]) == {"model", "rules", "profile"}
    assert "critical" in decision.explain()
    assert decision.districts == ("金水区",)


def test_one_alone_is_one_of_many(triager: Triager) -> None:
    texts = ["老婆羊水破了", "几点做核酸", "老婆羊水破了"]
    assert triager.predict_many(texts) == [triager.predict(t) for t in texts]
    assert triager.predict_many(iter(texts)) == triager.predict_many(texts)
    assert triager.predict_many([]) == []


@pytest.mark.parametrize("wrong", [None, 5, b"abc", ["a"]])
def test_a_wrong_type_names_the_argument(triager: Triager, wrong: object) -> None:
    with pytest.raises(TypeError, match="text must be a str"):
        triager.predict(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str"):
        triager.predict_many(["好", wrong])  # type: ignore[list-item]


def test_texts_must_be_many(triager: Triager) -> None:
    with pytest.raises(TypeError, match="texts must be an iterable of str, not str"):
        triager.predict_many("救命")
    with pytest.raises(TypeError, match="texts must be an iterable of str, not NoneType"):
        triager.predict_many(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "😷😷😷", "12345678", "\ud800", "\x00\x00", "。。。", "a" * 5000])
def test_strange_text_gets_a_harmless_decision(triager: Triager, text: str) -> None:
    decision = triager.predict(text)
    assert decision.urgency.code in {"routine", "priority"}
    json.dumps(decision.to_dict())


def test_a_megabyte_is_read_to_its_end(triager: Triager) -> None:
    filler = "今天社区通知做核酸，大家排队，没什么事。"
    text = filler * (1_000_000 // len(filler.encode())) + "我爸叫不醒了"
    decision = triager.predict(text)
    assert decision.urgency.code == "critical"
    assert any(f.flag == "unconscious" and f.holds and f.start > len(text) - 8 for f in decision.findings)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_any_text_gets_a_decision(text: str) -> None:
    decision = triage.predict(text)
    for finding in decision.findings:
        assert text[finding.start : finding.end] == finding.text
