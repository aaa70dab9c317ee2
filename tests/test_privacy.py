"""What names a person is covered wherever text leaves the process; what tells the trouble stays, and offsets stay true."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import triage
from triage.engine import Triager
from triage.privacy import find_private, redact, valid_identity


@pytest.mark.parametrize(
    ("text", "kind", "secret"),
    [
        ("我的电话13812345678快来", "phone", "13812345678"),
        ("电话 138 1234 5678", "phone", "138 1234 5678"),
        ("手机138-1234-5678", "phone", "138-1234-5678"),
        ("+86 13812345678", "phone", "+86 13812345678"),
        ("打一三八一二三四五六七八", "phone", "一三八一二三四五六七八"),
        ("打幺三八幺二三四五六七八", "phone", "幺三八幺二三四五六七八"),
        ("打１３８１２３４５６７８", "phone", "１３８１２３４５６７８"),
        ("座机0371-66778899", "phone", "0371-66778899"),
        ("社区电话:66778899没人接", "phone", "66778899"),
        ("身份证11010519491231002X，码红了", "identity", "11010519491231002X"),
        ("身份证110105194912310021", "number", "110105194912310021"),
        ("卡号6222020200012345678", "number", "6222020200012345678"),
        ("文化路97号院", "house number", "97"),
        ("住3号楼2单元501室", "house number", "501"),
        ("三号楼二单元", "house number", "三"),
        ("地址12-3-501", "house number", "12-3-501"),
        ("车牌豫A12345，停在站口", "plate", "豫A12345"),
        ("豫A·D12345", "plate", "豫A·D12345"),
        ("邮箱zhang.san@example.com", "e-mail", "zhang.san@example.com"),
        ("加微信zs_2022x", "chat id", "zs_2022x"),
        ("微信号：wxid123abc", "chat id", "wxid123abc"),
        ("我叫张建国，住金水区", "name", "张建国"),
        ("我叫王芳住在二七区", "name", "王芳"),
        ("【姓名】欧阳明【诉求】送药", "name", "欧阳明"),
        ("联系人：李梅 孕38周", "name", "李梅"),
        ("联系人李梅", "name", "李梅"),
        ("我叫王芳胸痛", "name", "王芳"),
        ("电话138 - 1234 - 5678", "phone", "138 - 1234 - 5678"),
        ("(0371)66778899", "phone", "(0371)66778899"),
        ("座机66778899", "phone", "66778899"),
        ("卡6222 0202 0001 2345 678", "number", "6222 0202 0001 2345 678"),
        ("我39度发烧邮箱zhang@x.com", "e-mail", "zhang@x.com"),
        ("二十三号楼", "house number", "二十三"),
        ("房号：B座1408", "house number", "B座1408"),
    ],
)
def test_what_names_a_person_is_covered(text: str, kind: str, secret: str) -> None:
    start = text.index(secret)
    assert (kind, start, start + len(secret)) in {(p.kind, p.start, p.end) for p in find_private(text)}
    assert secret not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "血压180/110，体温38.5，血氧90%", "1月12日~27日每周一至周五下午2点~5点", "88岁老人，怀孕38周+2", "我叫了救护车", "我叫不醒他",
        "我叫马上送医院", "患者高烧不退", "病人马上不行了", "打120没人接，12345也打了", "12号要做手术", "豫东大桥封了", "胰岛素还剩3支",
        "患者：高血压", "病人：白血病", "患者：左侧偏瘫", "【患者】高龄孕妇", "药名叫左甲状腺素", "3号楼着火了".replace("3", "那"),
        "孕38w 158-108 162-110 171-114", "血压150-90 160-100", "知道12号手术", "心率180室上速", "输2单元红细胞", "CT室排队", "一弄就疼",
        "三天没吃饭了", "一个人在家", "微信群里没人管", "2022-01-12",
    ],
)  # fmt: skip
def test_what_tells_the_trouble_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("3号楼88岁老人", "88岁"),
        ("2单元36周孕妇", "36周"),
        ("2单元38.5度", "38.5度"),
        ("1号楼120没来", "120没来"),
        ("我39度发烧邮箱z@x.com", "39度"),
    ],
)
def test_facts_beside_an_address_stay(text: str, fact: str) -> None:
    assert fact in redact(text)


@pytest.mark.parametrize(
    ("text", "rest"),
    [("电话13812345678邮箱zhang@x.com", "zhang"), ("微信zs13812345678", "zs"), ("zhang13812345678@qq.com", "zhang"),
     ("我叫王芳，王芳在家", "王芳")],
)  # fmt: skip
def test_nothing_is_left_where_two_overlap_or_a_name_stands_again(text: str, rest: str) -> None:
    assert rest not in redact(text)


def test_an_identity_number_is_known_by_its_check_digit() -> None:
    assert valid_identity("11010519491231002X")
    assert valid_identity("11010519491231002x")
    assert not valid_identity("110105194912310021")
    assert not valid_identity("1101051949123100")


@given(st.text(max_size=200))
def test_any_text_keeps_its_length_and_covering_twice_changes_nothing(text: str) -> None:
    once = redact(text)
    assert len(once) == len(text)
    assert redact(once) == once
    spans = find_private(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("piece", ["电话1381234567", "1 3 8 ", "我叫王", "豫a1234", "a-", "住3号楼", "12-3-", "a@b."])
def test_a_megabyte_of_almost_private_text_does_not_hang(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    assert len(redact(text)) == len(text)


def test_a_wrong_type_is_named() -> None:
    with pytest.raises(TypeError, match="text must be a str, not bytes"):
        redact(b"x")  # type: ignore[arg-type]


def test_what_leaves_the_process_is_covered(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[[rule]]\nid = "own.gas"\nmeans = "x"\nregex = ["煤气.*头晕"]\nflag = "poisoning"\nurgency = "critical"\n'
        'red_flag = true\nhit = ["煤气头晕"]\n', "utf-8")  # fmt: skip
    decision = Triager.load(rules=tmp_path).predict("屋里烧煤气，打13812345678，头晕得很，想吐")
    assert any("13812345678" in f.text for f in decision.findings)  # the words of a rule reach over the number
    told = [
        json.dumps(decision.to_dict(), ensure_ascii=False),
        decision.explain(),
        str([f.to_dict() for f in decision.flags]),
    ]
    assert not any("13812345678" in t for t in told)
    assert triage.redact("我叫张建国") == "我叫***"
