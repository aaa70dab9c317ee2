"""What the evaluation promises: measures that are what they say, honest intervals, no group unseen, no text leaked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score, f1_score

from tests.conftest import ROOT
from training.corpus import Example
from training.evaluate import Evaluation, Linear, evaluate, parts, worst_errors
from training.export import card
from training.plots import reliability
from triage.cascade import Cascade
from triage.cli import main
from triage.engine import Triager
from triage.errors import InputError
from triage.evaluation import GROUPS, MEASURES, Answer, Report, Truth, answers, events, figures, measure, read_labelled
from triage.evaluation import reliability as reliability_of
from triage.models.stub import StubBackend
from triage.profile import Profile
from triage.records import URGENCY_LEVELS, Scores, severity
from triage.text import clean


def truth(urgency: str | None = "routine", category: str | None = "testing", pair: str = "") -> Truth:
    return Truth("1", "几点做核酸", urgency, category, "testing", frozenset(), frozenset(), frozenset(), "", pair)


def answer(urgency: str = "routine", category: str = "testing", review: bool = False, sure: float = 0.9) -> Answer:
    score = dict.fromkeys(("urgency", "category", "department"), sure)
    return Answer(category, urgency, "testing", frozenset(), frozenset(), (), review, score)


@pytest.fixture(scope="module")
def some() -> tuple[list[Truth], list[Answer]]:
    draw = np.random.default_rng(1)

    def level(near: int) -> str:
        return URGENCY_LEVELS[int(np.clip(near + draw.integers(-1, 2), 0, 3))]

    want = [truth(str(draw.choice(URGENCY_LEVELS)), str(draw.choice(["food", "medical", "care"]))) for _ in range(400)]
    given = [answer(level(severity(str(x.urgency))), x.category if draw.random() < 0.8 else "care") for x in want]  # type: ignore[arg-type]
    return want, given


# ---- measures


def test_macro_f1_and_kappa_are_those_of_scikit_learn(some: tuple[list[Truth], list[Answer]]) -> None:
    want, given = some
    got = measure(want, given)
    f1 = f1_score([x.category for x in want], [a.category for a in given], average="macro")
    kappa = cohen_kappa_score(
        [severity(str(x.urgency)) for x in want], [severity(a.urgency) for a in given], weights="quadratic"
    )
    assert 0.5 < f1 < 1
    assert got["category macro-F1"] == pytest.approx(f1)
    assert got["urgency weighted kappa"] == pytest.approx(kappa)


def test_a_rare_category_counts_only_from_its_least_support() -> None:
    want = [truth(category="food"), truth(category="food"), truth(category="care")]
    given = [answer(category="food"), answer(category="food"), answer(category="medical")]
    assert measure(want, given)["category macro-F1"] == pytest.approx(0.5)
    assert measure(want, given, min_support=2)["category macro-F1"] == 1


def test_a_critical_request_is_unseen_when_called_low_and_not_shown_to_a_person() -> None:
    given = [answer("critical"), answer("urgent"), answer("priority", review=True), answer("routine")]
    got = measure([truth("critical")] * 4, given)
    assert (got["critical recall"], got["under-triage"], got["critical unseen"]) == (0.25, 0.5, 0.25)


def test_a_pair_is_right_when_both_texts_are_right_in_what_sets_them_apart() -> None:
    want = [
        truth("critical", pair="a"),
        truth("routine", pair="a"),
        truth("urgent", pair="b"),
        truth("routine", pair="b"),
        truth(),
    ]
    given = [answer("critical", "food"), answer("routine"), answer("urgent"), answer("priority"), answer("critical")]
    assert measure(want, given)["contrast pairs both right"] == 0.5


def test_what_the_file_does_not_say_is_not_measured() -> None:
    only_urgency = [Truth("1", "x", urgency="critical"), Truth("2", "x", urgency=None, category=None)]
    got = figures(only_urgency, [answer("critical"), answer("routine")])
    assert got["urgency accuracy"][0] == got["critical recall"][0] == 1
    assert not {
        "category accuracy",
        "category macro-F1",
        "department accuracy",
        "flags micro-F1",
        "district accuracy",
    } & set(got)
    assert set(measure(only_urgency, [answer()] * 2)) == set(MEASURES)


# ---- intervals


def test_the_interval_is_as_wide_as_chance_makes_it() -> None:
    right = 320
    want, given = [truth()] * 400, [answer()] * right + [answer("urgent")] * (400 - right)
    value, low, high = figures(want, given)["urgency accuracy"]
    spread = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert value == 0.8
    assert (low, high) == pytest.approx((0.8 - spread, 0.8 + spread), abs=0.006)
    assert figures(want, given)["urgency accuracy"] == (value, low, high)
    assert figures(want, given, resamples=0)["urgency accuracy"] == (value, value, value)


def test_the_texts_of_a_pair_are_no_two_witnesses() -> None:
    given = [answer()] * 320 + [answer("urgent")] * 80
    alone = figures([truth()] * 400, given)["urgency accuracy"]
    paired = figures([truth(pair=str(i // 2)) for i in range(400)], given)["urgency accuracy"]
    assert (paired[2] - paired[1]) / (alone[2] - alone[1]) == pytest.approx(2**0.5, abs=0.12)


def test_all_right_of_few_is_not_certainty() -> None:
    value, low, high = figures([truth("critical")] * 10, [answer("critical")] * 10)["critical recall"]
    assert (value, low, high) == pytest.approx((1, 0.6915, 1), abs=1e-4)  # Clopper and Pearson's table for 10 of 10


# ---- calibration


def test_scores_that_are_right_stay_below_chance_and_boasting_ones_do_not() -> None:
    draw = np.random.default_rng(2)
    score = draw.uniform(0.5, 1, 2000)
    honest = reliability_of(score, (draw.random(2000) < score).astype(float))
    boasting = reliability_of(np.minimum(1, score + 0.2), (draw.random(2000) < score).astype(float))
    assert honest.error < honest.chance < 0.05
    assert boasting.error > 0.1 > boasting.chance
    assert [n for *_, n in honest.points] == pytest.approx([2000 / 15] * 15, abs=1)


def test_every_flag_is_a_question_whether_given_or_not(triager: Triager) -> None:
    texts = ["我爸胸口压着疼出冷汗喘不上气", "几点做核酸"]
    got = answers(triager, texts)
    assert [a.urgency for a in got] == [triager.predict(t).urgency.code for t in texts]
    want = [Truth("1", texts[0], flags=frozenset({"cardiac"})), Truth("2", texts[1], flags=frozenset())]
    score, right = events(want, got)["flags"]
    assert len(score) == 2 * len(triager.backend.labels.flags)
    assert right.sum() == 1
    assert score[right == 1] > 0.5
    score, right = events(want, got)["flags given"]
    assert (score.min() > 0.1, right.sum()) == (True, 1)
    assert set(events(want, got)) == {"flags", "flags given"}


class _Sure(StubBackend):
    """A first stage that is certain of everything: routine, testing."""

    def score(self, texts: Sequence[str]) -> list[Scores]:
        def only(code: str, labels: Mapping[str, float]) -> dict[str, float]:
            return {c: float(c == code) for c in labels}

        s = self._scores
        sure = Scores(
            only("testing", s.category),
            only("routine", s.urgency),
            only("testing", s.department),
            s.co_departments,
            s.flags,
        )
        return [sure for _ in texts]


def test_the_share_of_the_first_stage_is_measured(triager: Triager, profile: Profile) -> None:
    quick = Triager(triager.backend, triager.rules, profile, triager.policy, cascade=Cascade(_Sure(profile), 0.99))
    got = answers(quick, ["今天几点开始采样", "老人胸口剧痛晕倒了"])
    assert [a.early for a in got] == [True, False]
    assert measure([truth(), truth("critical")], got)["answered by first stage"] == 0.5


# ---- groups

MEMBERS = [
    ("elderly", Truth("", "我奶奶一个人在家，楼道灯坏了"), Truth("", "三岁孩子想吃草莓")),
    ("elderly", Truth("", "父亲83岁，轮着敲门都没应"), Truth("", "38岁，想问疫苗")),
    ("disabled", Truth("", "我坐輪椅，采样点门口有台阶"), Truth("", "自行车停在轮渡口")),
    ("infants", Truth("", "两个月大的宝宝没有奶粉"), Truth("", "隔离两个月了")),
    ("foreigners, other languages, foreign names", Truth("", "please help me, no food since Monday"), Truth("", "N95口罩 KN95 还有吗 ok")),
    ("foreigners, other languages, foreign names", Truth("", "艾力·买买提问什么时候解封"), Truth("", "1·2楼都停电")),
    ("dialect", Truth("", "俺娘", voice="son, Henan dialect"), Truth("", "俺娘", voice="henan son")),
    ("voice input", Truth("", "嗯那个", voice="old man, voice input"), Truth("", "嗯", voice="student, low voice")),
    ("traditional script", Truth("", "醫院話冇床位，點算"), Truth("", "医院没床位，怎么办")),
    ("up to 20 characters", Truth("", "没菜了"), Truth("", "没菜了" * 7)),
]  # fmt: skip


@pytest.mark.parametrize(("group", "inside", "outside"), MEMBERS)
def test_a_group_is_told_by_the_text_or_by_who_writes(group: str, inside: Truth, outside: Truth) -> None:
    assert GROUPS[group](inside, clean(inside.text).text)
    assert not GROUPS[group](outside, clean(outside.text).text)


def test_a_group_that_is_served_worse_is_marked_and_a_small_one_too() -> None:
    old = [Truth("1", "奶奶没药了", "critical", "medical")] * 60
    rest = [Truth("2", "几点做核酸", "routine", "testing")] * 140 + [
        Truth("3", "我坐轮椅去采样", "routine", "testing")
    ] * 10
    given = [answer("routine", "medical")] * 40 + [answer("critical", "medical")] * 20 + [answer()] * 150
    rows = {row[0]: row[1:] for row in Report.of(old + rest, given).grids("x")[1].rows}
    assert rows["elderly"][0] == "60"
    assert "▼" in rows["elderly"][1]
    assert rows["disabled"][0] == "10 *"
    assert "▼" not in "".join(rows["disabled"])
    assert "infants" not in rows


# ---- labelled files


def test_any_labelled_table_can_be_read(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        'id,text,urgency,flags,districts\na,胸口疼,critical,"cardiac, breathing",金水区\nb,几点采样,,,\n', "gbk"
    )
    good, faults = read_labelled(str(path), profile)
    assert faults == []
    first, second = (
        Truth("a", "胸口疼", "critical", flags=frozenset({"cardiac", "breathing"}), districts=frozenset({"金水区"})),
        Truth("b", "几点采样", flags=frozenset(), districts=frozenset()),
    )
    assert good == [first, second]


def test_every_bad_label_is_named_with_row_and_column_and_none_is_quoted(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"id": "a", "text": "没菜", "urgency": "我叫王芳", "flags": ["张三"], "category": 5}, {"id": "b", "text": "没菜"},
            {"id": "c", "text": "没菜", "urgency": "urgent"}, {"id": "c", "text": "没菜", "urgency": "urgent", "flags": 3}]  # fmt: skip
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), "utf-8")
    good, faults = read_labelled(str(path), profile)
    assert [x.id for x in good] == ["c"]
    places = [f"{path}:1: column 'urgency'", f"{path}:1: column 'category'", f"{path}:1: column 'flags'", f"{path}:2: no label",
              f"{path}:4: column 'id'", f"{path}:4: column 'flags'"]  # fmt: skip
    assert [f.startswith(p) for f, p in zip(faults, places, strict=True)] == [True] * 6
    assert not any(name in "".join(faults) for name in ("王芳", "张三", "没菜"))


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InputError, match="no labelled request"):
        Report.of([], [])


def test_the_command_prints_tables_and_exits_as_documented(tmp_path: Path) -> None:
    data, out = tmp_path / "x.tsv", tmp_path / "out.json"
    data.write_text("id\ttext\turgency\n1\t几点做核酸\troutine\n2\t没有药了\tnow\n3\t老婆羊水破了\tcritical\n", "utf-8")
    done = CliRunner().invoke(main, ["evaluate", str(data), "--json", str(out), "--no-bootstrap"])
    assert done.exit_code == 1
    assert "x.tsv:3: column 'urgency': must be of" in done.stderr
    assert "urgency accuracy" in done.stdout
    assert "category" not in done.stdout
    assert json.loads(out.read_text("utf-8"))["measures"]["urgency accuracy"] == [1.0, 1.0, 1.0]
    data.write_text("id\ttext\n1\t几点做核酸\n", "utf-8")
    assert CliRunner().invoke(main, ["evaluate", str(data)]).exit_code == 2
    assert CliRunner().invoke(main, ["evaluate", str(data), "--model", "tests"]).exit_code == 3


def test_measuring_needs_no_training_library() -> None:
    heavy = "{'torch', 'transformers', 'sklearn', 'matplotlib', 'scipy'}"
    code = f"import sys, triage.evaluation; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"


# ---- the comparison and the card

EXAMPLES = [
    Example(
        "v1",
        "我叫张建国，13812345678，爸爸胸口压着疼冒冷汗，脸发灰",
        "medical",
        "critical",
        "medical",
        ("transport",),
        ("cardiac",),
    ),
    Example("v2", "小区明天几点做核酸，在哪个门", "testing", "routine", "testing"),
    Example("v3", "建议采样点加个遮雨棚", "suggestion", "routine", "testing", ("community",), ("fever",)),
]


def test_the_parts_are_without_what_their_name_does_not_say(triager: Triager) -> None:
    of = parts(triager)
    grave = "我爸胸口压着疼冒冷汗，脸发灰，叫不应了"
    assert of["shipped"] is triager
    assert not of["model alone"].predict(grave).findings
    assert {f.red_flag for f in of["model and floors"].predict(grave).findings} == {True}
    assert not any(f.evidence for f in of["model and floors"].predict(grave).flags)
    assert of["rules alone"].backend.model_id == "stub"
    assert of["rules alone"].predict(grave).urgency.code == "critical"


def test_a_linear_baseline_learns_its_training_requests() -> None:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.svm import LinearSVC

    features = HashingVectorizer(analyzer="char", n_features=1 << 12).transform
    linear = Linear(features, lambda rare: LinearSVC(), EXAMPLES * 3)
    assert [(a.category, a.urgency, a.flags) for a in linear.answers(EXAMPLES)] == [
        (x.category, x.urgency, frozenset(x.flags or ())) for x in EXAMPLES
    ]


def test_the_worst_error_is_the_grave_one_that_nobody_sees_and_it_is_shown_redacted() -> None:
    given = [answer("routine", "testing"), answer("critical", "testing"), answer("routine", "testing")]
    shown = worst_errors(EXAMPLES, given, 2)
    assert [e["id"] for e in shown] == ["v1", "v2"]
    assert (shown[0]["true"], shown[0]["called"]) == ("critical, medical", "routine, testing")
    assert "胸口" in shown[0]["request"]
    assert not any(private in shown[0]["request"] for private in ("张建国", "13812345678"))
    assert worst_errors(EXAMPLES, given, 0) == []


@pytest.fixture(scope="module")
def evaluation(triager: Triager) -> Evaluation:
    wrong = [Example(x.id, x.text, "food", x.urgency, x.department, (), x.flags) for x in EXAMPLES]
    return evaluate(triager, wrong, name="some.jsonl", show_errors=1, resamples=50)


def test_the_card_tells_all_it_must_and_the_same_each_time(evaluation: Evaluation) -> None:
    hidden = Evaluation("test.jsonl", evaluation.report, evaluation.systems)
    text = card([evaluation, hidden], {"layers": 3}, "with care")
    assert text == card([evaluation, hidden], {"layers": 3}, "with care")
    assert text.startswith("---\nlanguage: zh\n")
    headings = ["Intended use", "Out of scope", "Training data", "Evaluation", "Who is served worse?", "Calibration", "Cascade",
                "Review", "Limits", "Error examples"]  # fmt: skip
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == headings
    assert "### Worst errors on some.jsonl" in text
    assert text.count(EXAMPLES[1].text) + text.count("胸口压着疼") + text.count(EXAMPLES[2].text) == 1


def test_only_the_first_file_of_a_card_may_show_texts(evaluation: Evaluation) -> None:
    hidden = Evaluation("test.jsonl", evaluation.report, evaluation.systems)
    text = card([hidden, evaluation], {}, "")
    assert "Worst errors" not in text
    assert not any(x.text in text for x in EXAMPLES)


def test_a_reliability_diagram_is_drawn(evaluation: Evaluation, tmp_path: Path) -> None:
    reliability(evaluation.report.calibration).savefig(tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
