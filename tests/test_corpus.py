"""The corpus is valid by the guide, covers what it must, and no split copies from another."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from training.ablation import draw
from training.copies import StoryVectors, leaks, near_copies, same_stories
from training.corpus import DATA, SPLITS, Example, critical_facts, load, load_posts, schema, unusual
from training.quality import SINGLE, Twice, agreement, load_second
from triage.errors import InputError
from triage.profile import Profile, load_profile

# Words that name another city, or another emergency than the lockdown of January 2022: water, cold, heat, gas, fire, power, the fever wave.
ELSEWHERE = re.compile(
    "上海|浦东|浦西|闵行|徐汇|杨浦|虹口|静安|普陀|宝山|嘉定|松江|奉贤|武汉|武昌|汉口|汉阳|洪山|西安|雁塔|碑林|未央|莲湖|北京|天津|广州|深圳|成都|重庆|兰州|乌鲁木齐|伊犁|"
    "拉萨|呼和浩特|哈尔滨|沈阳|大连|长春|吉林|济南|青岛|济宁|淄博|南京|苏州|杭州|合肥|长沙|贵阳|昆明|瑞丽|南宁|海口|三亚|石家庄|邢台|太原|银川|西宁|台州|宁波|温州|扬州|绵阳|"
    "福州|厦门|南昌|新乡|卫辉|鹤壁|浚县|洪水|山洪|暴雨|淹|积水|水位|水深|泄洪|冲锋舟|皮划艇|台风|地震|泥石流|塌方|停电|断电|没电|电梯|煤气|燃气|一氧化碳|烧炭|着火|起火|"
    "暖气|供暖|雪|高温|中暑|热射|停水|触电|布洛芬|抗原|方舱|决堤|大水|涨水|水涨|进水|房顶|没电|拉闸|液化气|冻|冒烟|浓烟|爆炸|"
    "保定|唐山|周口|许昌|洛阳|开封|安阳|信阳|商丘|南阳|驻马店|焦作|漯河|平顶山|濮阳"
)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return {s: load(DATA / f"{s}.jsonl") for s in SPLITS}


def counted(rows: list[Example], head: str) -> Counter[str]:
    values = [getattr(x, head) for x in rows]
    return Counter(code for v in values for code in ([v] if isinstance(v, str) else v))


def test_every_split_is_large_enough_and_says_which_it_is(splits: dict[str, list[Example]]) -> None:
    assert len(splits["train"]) >= 8000
    assert len(splits["validation"]) >= 800
    assert len(splits["test"]) >= 1200
    assert counted(splits["test"], "urgency")["critical"] >= 300
    assert all(x.split == name and x.voice for name, rows in splits.items() for x in rows)
    assert len({x.id for rows in splits.values() for x in rows}) == sum(map(len, splits.values()))


@pytest.mark.parametrize(
    ("head", "codes", "least"),
    [("category", "category", 400), ("urgency", "urgency", 1500), ("department", "department", 350),
     ("flags", "flag", 150), ("mentioned", "flag", 80)],
)  # fmt: skip
def test_training_tells_every_label_often_enough(
    splits: dict[str, list[Example]], profile: Profile, head: str, codes: str, least: int
) -> None:
    count = counted(splits["train"], head)
    assert {c: n for c in profile.labels[codes] if (n := count[c]) < least} == {}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_measured_has_every_label(splits: dict[str, list[Example]], profile: Profile, split: str) -> None:
    for head, codes in (
        ("category", "category"),
        ("urgency", "urgency"),
        ("department", "department"),
        ("flags", "flag"),
    ):
        count = counted(splits[split], head)
        assert {c: n for c in profile.labels[codes] if (n := count[c]) < 5} == {}, head


def test_long_requests_bury_grave_facts(splits: dict[str, list[Example]]) -> None:
    long = [x for x in splits["train"] if len(x.text) > 200]
    assert sum(x.urgency in ("critical", "urgent") for x in long) >= 200
    assert sum(x.urgency in ("priority", "routine") for x in long) >= 60


def test_each_critical_fact_is_told_in_25_ways_and_in_13_without_its_usual_words(
    splits: dict[str, list[Example]],
) -> None:
    for code, fact in critical_facts().items():
        told = [x for x in splits["train"] if code in x.facts]
        assert len(told) >= 25, code
        assert sum(unusual(x, fact["usual"]) for x in told) >= 13, code
        assert all(x.urgency == "critical" for x in told), code


def test_many_requests_tell_several_needs(splits: dict[str, list[Example]]) -> None:
    assert sum(len(x.co_departments or ()) >= 2 for x in splits["train"]) >= 300


def test_contrast_pairs_differ_in_little_wording_and_in_a_label(splits: dict[str, list[Example]]) -> None:
    pairs: dict[str, list[Example]] = defaultdict(list)
    for x in splits["train"]:
        if x.pair:
            pairs[x.pair].append(x)
    assert len(pairs) >= 600
    for tag, rows in pairs.items():
        labels = {(x.category, x.urgency, x.department, x.co_departments, x.flags) for x in rows}
        assert len(labels) == len(rows) == 2, tag


def test_the_schema_beside_the_data_is_the_profiles_and_every_row_obeys_it(
    splits: dict[str, list[Example]], profile: Profile
) -> None:
    written = json.loads((DATA / "schema.json").read_text("utf-8"))
    assert written == schema(profile)
    validator = Draft202012Validator(written)
    for split in SPLITS:
        for line in (DATA / f"{split}.jsonl").read_text("utf-8").splitlines():
            assert validator.is_valid(json.loads(line)), line[:60]


def test_one_line_of_datasets_loads_it() -> None:
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(DATA / "validation.jsonl"), split="train")
    assert {"text", "urgency", "flags"} <= set(rows.column_names)


def test_requests_from_other_places_and_other_emergencies_are_a_fifth(splits: dict[str, list[Example]]) -> None:
    assert sum(bool(ELSEWHERE.search(x.text)) for x in splits["train"]) >= len(splits["train"]) / 5


def test_no_split_copies_from_another(splits: dict[str, list[Example]]) -> None:
    assert leaks(splits) == []


def test_a_contrast_pair_never_straddles_splits(splits: dict[str, list[Example]]) -> None:
    home: dict[str, str] = {}
    for x in (x for rows in splits.values() for x in rows if x.pair):
        assert home.setdefault(x.pair, x.split) == x.split


@pytest.mark.parametrize(("name", "home"), [("pairs", DATA), ("flood", DATA / "flood")])
def test_what_waits_is_valid_in_whole_pairs_and_copies_nothing_that_is_measured(name: str, home: Path) -> None:
    profile = load_profile("flood" if name == "flood" else "zhengzhou")
    rows = load(DATA / f"more/{name}.jsonl", profile)
    assert set(Counter(x.pair for x in rows if x.pair).values()) == {2}
    assert {x.id for x in rows} & {x.id for x in load(home / "train.jsonl", profile)} == set()
    for split in ("validation", "test"):
        assert near_copies([x.text for x in rows], [x.text for x in load(home / f"{split}.jsonl", profile)]) == []


def test_near_copies_are_seen_and_different_stories_are_not() -> None:
    texts = ["家里老人高血压药只剩两天了，社区出不去，求帮忙买药", "孩子上网课没有平板，学校能不能借一台"]
    others = ["家里老人高血压的药只剩两天了，社区出不去求帮忙买药！"]
    assert [(i, j) for i, j, _ in near_copies(texts, others)] == [(0, 0)]


def test_a_story_told_with_its_words_moved_about_is_seen() -> None:
    texts = ["我妈糖尿病，胰岛素昨天就打完了，金水区的药店都关门了"]
    others = ["金水区的药店都关门了，胰岛素打完了，我妈是糖尿病", "孩子上网课没有平板，学校能不能借一台用用"]
    texts.append("When will the lockdown end, please answer")
    others.append("My mother needs insulin, nobody answers us")
    vectors = StoryVectors([x.text for x in load(DATA / "validation.jsonl")] + texts + others)
    assert [(i, j) for i, j, _ in same_stories(texts, others, vectors)] == [(0, 0)]


def test_a_tenth_of_every_split_was_labelled_twice_and_the_two_agree(
    splits: dict[str, list[Example]], profile: Profile
) -> None:
    twice = {r.id: r for r in load_second()}
    for name, rows in splits.items():
        both = [twice[x.id] for x in rows if x.id in twice]
        assert len(both) >= len(rows) / 10, name
        got = agreement(both, profile)
        assert min(got[head] for head in (*SINGLE, "flags")) >= 0.85, (name, got)


def test_agreement_sees_who_differs_in_what(profile: Profile) -> None:
    label = {
        "category": "medical",
        "urgency": "urgent",
        "department": "medical",
        "co_departments": [],
        "flags": ["fever"],
    }
    other = {**label, "category": "care", "department": "community", "urgency": "routine", "flags": []}
    rows = [Twice("a", label, label), Twice("b", label, other), Twice("c", other, other)]
    got = agreement(rows, profile)
    assert got["category"] == pytest.approx(0.4)
    assert got["flags=fever"] == pytest.approx(0.4)
    assert "flags=stroke" not in got


def test_a_smaller_training_set_keeps_contrast_pairs_together() -> None:
    lines = [json.dumps({"id": i, "pair": f"p{i // 2}" if i < 40 else ""}) for i in range(100)]
    drawn = [json.loads(line) for line in draw(lines, 30, seed=1)]
    assert len(drawn) in (30, 31)
    assert set(Counter(x["pair"] for x in drawn if x["pair"]).values()) == {2}
    assert draw(lines, 30, seed=1) == draw(lines, 30, seed=1) != draw(lines, 30, seed=2)


def test_all_faults_of_a_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    good = {"id": "a", "text": "好", "category": "other", "urgency": "routine", "department": "coordination"}
    bad = [
        {**good, "id": "b", "urgency": "soon"},
        {**good, "id": "c", "flags": ["dragon"]},
        good,
        {**good, "id": "d", "colour": 1},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in [good, *bad]) + "\n{", "utf-8")
    with pytest.raises(InputError) as error:
        load(path)
    for words in ("x.jsonl:2: urgency: 'soon'", "x.jsonl:3: flags: 'dragon'", "x.jsonl:4: id 'a' stands already in line 1",
                  "x.jsonl:5: unknown field(s) colour", "x.jsonl:6: not JSON"):  # fmt: skip
        assert words in str(error.value)


def test_labels_of_public_posts_find_their_texts_by_hash_and_carry_none(tmp_path: Path, profile: Profile) -> None:
    shipped = [json.loads(line) for line in (DATA / "posts.jsonl").read_text("utf-8").splitlines()]
    assert len({row["sha256"] for row in shipped}) == len(shipped) > 600
    assert {key for row in shipped for key in row} == {"sha256", *SINGLE, "co_departments", "flags"}
    texts = ["胰岛素断了", "求购蔬菜"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f" {t}\n"}) for t in texts), "utf-8")
    label = {"category": "medical", "urgency": "urgent", "department": "medical", "flags": ["medication_gap"]}
    labels = tmp_path / "labels"
    hashes = [hashlib.sha256(t.encode()).hexdigest() for t in (texts[0], "别处的帖子")]
    labels.write_text("\n".join(json.dumps({"sha256": sha, **label}) for sha in hashes), "utf-8")
    [found] = load_posts(tmp_path, labels, profile)
    assert (found.text, found.urgency, found.flags, found.split) == (texts[0], "urgent", ("medication_gap",), "train")
    labels.write_text(json.dumps({"sha256": hashes[0], **label, "urgency": "soon"}) + "\n{", "utf-8")
    with pytest.raises(InputError, match=r"labels:1: urgency: 'soon'[^\n]*\n.*labels:2: not JSON"):
        load_posts(tmp_path, labels, profile)
