"""Rules state facts; context says whether they hold; faulty rule files are refused with every fault named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.context import judge, load_mentions
from training.corpus import DATA
from triage.engine import Triager
from triage.errors import InputError, RuleError
from triage.models.stub import StubBackend
from triage.profile import load_profile
from triage.records import Finding, HelpRequest, Scores, Status
from triage.rules.book import RuleBook, load_rules
from triage.rules.files import Rule
from triage.rules.lint import shadowed
from triage.rules.matcher import Expression
from triage.rules.report import report, totals
from triage.rules.suggest import suggest
from triage.text import clean


def find(book: RuleBook, text: str) -> list[Finding]:
    return book.apply(clean(text))


def own(tmp_path: Path, toml: str, check: bool = False) -> RuleBook:
    (tmp_path / "own.toml").write_text(toml, "utf-8")
    return load_rules(tmp_path, check=check)


def test_every_shipped_rule_passes_its_own_sentences() -> None:
    book = load_rules(check=True)
    assert len(book.rules) > 80
    assert all(rule.miss or rule.when for rule in book.rules)


def test_every_flag_and_every_grave_level_has_rules(book: RuleBook) -> None:
    assert {r.flag for r in book.rules} >= set(load_profile().labels["flag"])
    assert {r.urgency for r in book.rules} >= {"critical", "urgent", "priority"}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("我妈胸痛得厉害", Status.HOLDS),
        ("我妈没有胸痛", Status.DENIED),
        ("医生已经排除了，不是胸痛", Status.DENIED),
        ("如果突然胸痛怎么办", Status.HYPOTHETICAL),
        ("万一晚上胸痛咋整", Status.HYPOTHETICAL),
        ("去年胸痛住过院", Status.OVER),
        ("没有发烧，但是胸痛", Status.HOLDS),
        ("没发烧现在胸痛", Status.HOLDS),
        ("不得不说胸痛", Status.HOLDS),
    ],
)
def test_context_decides_whether_a_fact_holds(tmp_path: Path, text: str, status: Status) -> None:
    book = own(tmp_path, '[[rule]]\nid = "own.pain"\nmeans = "x"\nany = ["胸痛"]\nflag = "cardiac"\nhit = ["胸痛"]\n')
    assert [f.status for f in find(book, text) if f.rule == "own.pain"] == [status]


def test_a_general_question_is_about_nobody_until_somebody_is_named(tmp_path: Path) -> None:
    book = own(tmp_path, '[[rule]]\nid = "own.p"\nmeans = "x"\nany = ["孕妇"]\nflag = "pregnancy"\nhit = ["有孕妇"]\n')
    assert [f.status for f in find(book, "孕妇可以打疫苗吗") if f.rule == "own.p"] == [Status.GENERAL]
    assert [f.status for f in find(book, "我老婆是孕妇可以打疫苗吗") if f.rule == "own.p"] == [Status.HOLDS]


def test_a_finding_points_at_the_citizens_own_words(book: RuleBook) -> None:
    text = "急！我爸\u200b胸口疼得直冒冷汗，體溫正常"
    for f in find(book, text):
        assert text[f.start : f.end] == f.text


def test_numbers_near_and_unless_restrict_a_rule(tmp_path: Path) -> None:
    book = own(tmp_path, """
[lexicon]
low = ["血氧"]
[[rule]]
id = "own.oxygen"
means = "oxygen below 93"
regex = ["血氧[^0-9]{0,4}([0-9]+)"]
value = {max = 92}
flag = "breathing"
hit = ["血氧只有85"]
miss = ["血氧98"]
[[rule]]
id = "own.near"
means = "x"
any = ["@low"]
near = [["掉", "降"]]
within = 3
unless = ["血氧仪"]
flag = "breathing"
hit = ["血氧一直掉", "他血氧在降"]
miss = ["血氧仪掉了", "血氧测过了，东西后来才掉"]
""", check=True)  # fmt: skip
    assert {f.rule for f in find(book, "血氧掉到85")} >= {"own.oxygen", "own.near"}


def test_absent_words_forbid_a_fact_wherever_they_stand(tmp_path: Path) -> None:
    book = own(
        tmp_path,
        '[[rule]]\nid = "own.l"\nmeans = "x"\nany = ["要生了"]\nabsent = ["我家猫"]\nflag = "pregnancy"\nhit = ["她要生了"]\n',
    )
    assert not [f for f in find(book, "要生了要生了！不是人，是我家猫") if f.rule == "own.l"]


def test_when_makes_a_rule_out_of_other_facts(tmp_path: Path) -> None:
    book = own(tmp_path, """
[[rule]]
id = "own.a"
means = "a"
any = ["甲甲"]
flag = "fever"
hit = ["甲甲"]
[[rule]]
id = "own.both"
means = "a and an infant"
when = ["own.a", "own.b"]
urgency = "urgent"
[[rule]]
id = "own.b"
means = "b"
any = ["乙乙"]
flag = "infant"
hit = ["乙乙"]
""")  # fmt: skip
    assert "own.both" in {f.rule for f in find(book, "甲甲。乙乙")}
    assert "own.both" not in {f.rule for f in find(book, "甲甲。没有乙乙")}


def test_a_word_rule_needs_jieba_to_see_the_word(tmp_path: Path) -> None:
    book = own(tmp_path, '[[rule]]\nid = "own.w"\nmeans = "x"\nany = ["心梗"]\nword = true\nflag = "cardiac"\nhit = ["突发心梗"]\n',
               check=True)  # fmt: skip
    assert not [f for f in find(book, "市中心梗阻了") if f.rule == "own.w"]


def test_a_citys_rule_replaces_the_shipped_one_of_the_same_id(tmp_path: Path, book: RuleBook) -> None:
    first = next(r for r in book.rules if r.any)
    laid = own(
        tmp_path, f'[[rule]]\nid = "{first.id}"\nmeans = "x"\nany = ["甲乙丙丁"]\nflag = "fever"\nhit = ["甲乙丙丁"]\n'
    )
    assert [r.any for r in laid.rules if r.id == first.id] == [("甲乙丙丁",)]
    assert len(laid.rules) == len(book.rules)
    assert laid.fingerprint != book.fingerprint


def test_rules_that_speak_of_labels_unknown_to_the_profile_are_refused_together(tmp_path: Path) -> None:
    book = own(tmp_path, '[[rule]]\nid = "own.a"\nmeans = "x"\nany = ["甲乙"]\nflag = "feverish"\nhit = ["甲乙"]\n'
                         '[[rule]]\nid = "own.b"\nmeans = "x"\nany = ["丙丁"]\ndepartment = "police"\nhit = ["丙丁"]\n')  # fmt: skip
    with pytest.raises(RuleError) as error:
        book.check_against(load_profile())
    assert "own.a: flag 'feverish'" in str(error.value)
    assert "own.b: department 'police'" in str(error.value)


def test_all_faults_of_a_rule_file_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuleError) as error:
        own(tmp_path, """
[[rule]]
id = "a.one"
means = "x"
any = ["胸痛"]
flag = "cardiac"
colour = "red"
hit = ["胸痛"]
[[rule]]
id = "a.two"
means = "x"
regex = ["(?<=没)药"]
urgency = "soon"
hit = ["没药"]
[[rule]]
id = "a.three"
means = "x"
any = ["@nowhere"]
hit = ["x"]
""")  # fmt: skip
    message = str(error.value)
    for fault in ("own.toml: rule a.one: unknown key(s) colour", "rule a.two: bad expression", "'soon' is none of",
                  "rule a.three: says nothing", "no lexicon is named 'nowhere'"):  # fmt: skip
        assert fault in message


def test_all_faults_of_cues_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuleError) as error:
        own(tmp_path, """
[[cue]]
words = ["没有"]
status = "gone"
reach = "far"
[[cue]]
words = ["没有"]
status = "denied"
weight = true
against = ["never"]
about = [""]
""")  # fmt: skip
    message = str(error.value)
    for fault in ("cue 1: status 'gone' is none of", "cue 1: reach: must be a number, not 'far'", "cue 2: weight: must be a number",
                  "cue 2: against: unknown status never", "cue 2: about: must be a list of non-empty strings"):  # fmt: skip
        assert fault in message


def test_a_rule_that_fails_its_own_example_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"own\.x: hit sentence is not found: 没有胸痛"):
        own(
            tmp_path,
            '[[rule]]\nid = "own.x"\nmeans = "x"\nany = ["胸痛"]\nflag = "cardiac"\nhit = ["没有胸痛"]\n',
            check=True,
        )


def test_broken_toml_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"own\.toml: not valid TOML"):
        own(tmp_path, "[[rule]\n")


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("我妈没有胸痛如果发烧了,。？\n破水 38.5岁药") | st.characters(), max_size=60))
def test_any_text_gives_valid_spans(text: str) -> None:
    for f in _BOOK.apply(clean(text)):
        assert text[f.start : f.end] == f.text != ""


_BOOK = load_rules()


@pytest.mark.parametrize(
    ("pattern", "needs"),
    [
        ("胸口[^,]{0,6}(?:疼|痛)", [("胸口",), ("疼", "痛")]),
        ("(?:心口|胸前?)疼", [("心口疼", "胸前疼", "胸疼")]),
        ("血氧([0-9]{2})", [("血氧",), tuple("0123456789")]),
        ("(?:[七八]十)岁", [("七十岁", "八十岁")]),
        ("(?:a+|b)x*", [("a", "b")]),
        ("(?:a*|b)x", [("x",)]),
        ("[^,]+", []),
        ("\\pN+", []),  # RE2's own syntax
    ],
)
def test_what_an_expression_cannot_match_without_is_known(pattern: str, needs: list[tuple[str, ...]]) -> None:
    assert Expression(pattern).needs() == needs


@settings(max_examples=200, deadline=None)
@given(st.text("胸口心疼痛不,没1七十岁x", max_size=30))
def test_an_expression_that_matches_finds_all_it_needs(text: str) -> None:
    for pattern in (
        "(?:胸|心)口?[^,]{0,3}(?:疼|痛)",
        "(?:没|不)疼{1,2}",
        "([1七]十?)岁|x+心",
        "(?:胸(?:口|x)?|心)疼?痛",
    ):
        expression = Expression(pattern)
        if any(expression.matches(text)):
            assert all(any(word in text for word in group) for group in expression.needs())


def test_dropped_mentions_are_told_with_the_condition_that_refused_them(tmp_path: Path) -> None:
    book = own(tmp_path, """
        [[decoy]]
        words = ["胸痛中心"]
        [[rule]]
        id = "own.pain"
        means = "x"
        any = ["胸痛"]
        near = ["汗"]
        unless = ["科普"]
        absent = ["演练"]
        flag = "cardiac"
        hit = ["胸痛出汗"]
        [[rule]]
        id = "own.oxygen"
        means = "x"
        regex = ["血氧([0-9]{2})"]
        value = {max = 92}
        flag = "breathing"
        hit = ["血氧88"]
    """)  # fmt: skip

    def why(text: str) -> list[tuple[str, str]]:
        return [(d.rule, d.reason) for d in book.dropped(clean(text)) if d.rule.startswith("own.")]

    assert why("胸痛出汗") == []
    assert why("胸痛") == [("own.pain", "near")]
    assert why("胸痛出汗，演练") == [("own.pain", "absent: 演练")]
    assert why("胸痛科普，出汗") == [("own.pain", "unless: 科普")]
    assert why("胸痛中心出汗") == [("own.pain", "decoy")]
    assert why("血氧99") == [("own.oxygen", "value")]


def test_rules_that_another_makes_superfluous_are_named() -> None:
    wide = Rule("a.wide", "x", any=("胸痛", "心口疼"), flag="cardiac", urgency="critical")
    narrow = Rule("a.narrow", "x", any=("胸痛厉害",), near=(("汗",),), flag="cardiac", urgency="urgent")
    other = Rule("a.other", "x", any=("胸痛厉害",), flag="breathing")
    twin = replace(wide, id="b.twin")
    freer = Rule("b.freer", "x", any=("胸痛厉害",), flag="cardiac", ignores=("denied",))
    told = shadowed([wide, narrow, other, twin, freer])
    assert next(line.split(",")[0] for line in told if "a.narrow" in line) == "a.narrow: shadowed by a.wide"
    assert "b.twin: says the same as a.wide; keep one" in told
    assert not any(line.startswith(("a.other", "b.freer", "a.wide")) for line in told)


def test_no_shipped_rule_is_superfluous(book: RuleBook) -> None:
    assert shadowed(book.rules) == []


def test_a_fact_at_the_end_of_a_long_text_counts(book: RuleBook) -> None:
    filler = "今天又下了一天雨，什么事也没有。" * 20_000
    last = [f for f in find(book, filler + "我爸叫不醒了") if f.holds and f.flag == "unconscious"]
    assert last
    assert last[-1].start >= len(filler)


def test_a_report_says_of_each_rule_what_it_brings(tmp_path: Path) -> None:
    book = own(
        tmp_path,
        """
[[rule]]
id = "own.pain"
means = "x"
any = ["胸痛"]
flag = "cardiac"
urgency = "urgent"
category = "medical"
hit = ["胸痛"]
[[rule]]
id = "own.test"
means = "x"
any = ["做核酸处"]
category = "testing"
hit = ["做核酸处"]
""",
    )
    requests = [
        HelpRequest("a", "我妈胸痛", {"urgency": "critical", "category": "medical", "flags": ["cardiac"]}),
        HelpRequest("b", "胸痛贴片在做核酸处有吗", {"urgency": "routine", "category": "testing", "flags": ""}),
        HelpRequest("c", "没有胸痛", {"urgency": "routine"}),
    ]
    rows = {r.rule: r for r in report(book, requests)}
    pain = rows["own.pain"]
    assert (pain.holds, pain.silenced, pain.wrong) == (2, 1, ["b"])
    assert [pain.precision(h) for h in ("urgency", "category", "department", "flag")] == [0.5, 0.5, None, 0.5]
    assert rows["own.test"].only == 1
    assert rows["own.test"].against["own.pain"] == 1
    assert totals([pain])["department"] is None


@pytest.mark.parametrize("row", [{}, {"urgency": "soon"}, {"note": "x"}, {"flags": 5}])
def test_a_report_refuses_requests_without_usable_labels(book: RuleBook, row: dict[str, object]) -> None:
    with pytest.raises(InputError, match="request a"):
        report(book, [HelpRequest("a", "胸痛", row)])


def test_words_that_tell_a_label_and_stand_in_no_rule_are_suggested(book: RuleBook) -> None:
    grave = [HelpRequest(f"g{i}", f"隔壁{who}家的蓝鲸灯疼痛仪一直亮着，{extra}", {"flags": ["hazard"]})
             for i, (who, extra) in enumerate([("老王", "求救"), ("老李", "快来"), ("小张", "没人应"), ("老赵", "急")])]  # fmt: skip
    calm = [
        HelpRequest(f"c{i}", f"{what}怎么办", {"flags": []})
        for i, what in enumerate(["网课", "快递", "工资", "房租", "停车"])
    ]
    silent = [HelpRequest("s", "蓝鲸灯", {"urgency": "routine"})]  # says nothing of flags
    found = suggest(book, grave + calm + silent, "flag", "hazard")
    assert any("蓝鲸" in s.word for s in found)
    assert any("疼痛仪" in s.word or "仪" in s.word for s in found)  # a character of a rule does not hide a word
    assert all(s.right >= 3 for s in found)
    assert not {s.word for s in found} & {w for r in book.rules for w in r.any}
    for head, label, message in (("flag", "seizure", "no request has flag seizure"), ("colour", "red", "'colour' is none of"),
                                 ("urgency", "criticl", "'criticl' is none of")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            suggest(book, grave, head, label)


def test_rules_are_reloaded_while_running_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    rule = '[[rule]]\nid = "own.smurf"\nmeans = "x"\nany = ["{word}"]\nurgency = "critical"\nred_flag = true\nhit = ["{hit}"]\n'
    path = tmp_path / "own.toml"
    path.write_text(rule.format(word="蓝精灵", hit="蓝精灵"), "utf-8")
    triager = Triager.load(StubBackend(load_profile()), rules=tmp_path)
    assert triager.predict("蓝精灵来了").urgency.code == "critical"
    assert triager.reload_rules() is False

    path.write_text(rule.format(word="格格巫", hit="格格巫"), "utf-8")
    assert triager.reload_rules() is True
    new = triager.fingerprints["rules"]
    assert triager.predict("格格巫来了").urgency.code == "critical"
    assert triager.predict("蓝精灵来了").urgency.code != "critical"

    for broken in (rule.format(word="格格巫", hit="别的"), "[[rule]\n"):
        path.write_text(broken, "utf-8")
        with pytest.raises(RuleError, match=r"own\."):
            triager.reload_rules()
        assert triager.fingerprints["rules"] == new
        assert triager.predict("格格巫来了").urgency.code == "critical"


def test_requests_being_decided_finish_under_the_rules_they_began_with(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[rule]]\nid = "own.a"\nmeans = "x"\nany = ["蓝精灵"]\nflag = "fever"\nhit = ["蓝精灵"]\n', "utf-8"
    )

    class Meanwhile(StubBackend):
        def score(self, texts: Sequence[str]) -> list[Scores]:
            path.write_text(path.read_text("utf-8").replace("蓝精灵", "格格巫"), "utf-8")
            triager.reload_rules()
            return super().score(texts)

    triager = Triager.load(Meanwhile(load_profile()), rules=tmp_path)
    decisions = triager.predict_many(["蓝精灵"] * 600)
    assert len({d.fingerprints["rules"] for d in decisions}) == 1
    assert all(f.rule == "own.a" for d in decisions for f in d.findings)
    assert all(d.findings for d in decisions)
    assert triager.fingerprints["rules"] != decisions[0].fingerprints["rules"]


@pytest.mark.parametrize(("split", "least"), [("dev", 0.88), ("test", 0.75)])
def test_context_agrees_with_people_on_annotated_mentions(book: RuleBook, split: str, least: float) -> None:
    from sklearn.metrics import f1_score

    rows = load_mentions(DATA / "context" / f"{split}.jsonl")
    assert len(rows) >= 200
    assert f1_score([r["status"] for r in rows], judge(book, rows), average="macro") >= least
