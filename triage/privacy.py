"""Cover what names a person: phones, identity numbers, house numbers, plates, e-mail, chat ids, names told as names.

Covering keeps the length, so every offset into the text stays true. It errs on the side of covering: a figure too many under
asterisks harms nobody. Names that nothing introduces (王阿姨) are not found, nor what only a map would tell.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MASK = "*"

# Chinese numerals as people type and dictate them; 幺 is how a 1 in a phone number is read aloud.
_SPOKEN = dict(zip("零〇一幺二两三四五六七八九壹贰叁肆伍陆柒捌玖", "0011223456789123456789", strict=True))
_SPOKEN_DIGITS = str.maketrans(_SPOKEN)

# The most frequent surnames (Ministry of Public Security, report of 2020), compound ones first.
_SURNAME = (
    "(?:欧阳|司马|上官|诸葛|皇甫|"
    "[王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧肖程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎闫余潘杜戴夏钟汪田任姜范方石姚谭"
    "廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂丛焦柳邢路岳齐"
    "梅莫庄辛管祝左涂谷祁舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲游阳裴席卫查屈鲍覃霍翁隋甘景薄单包司柏宁柯阮桂闵])"
)
_HAN = "[\u4e00-\u9fff]"
# After 我叫 and 姓名 stands a name, unless it is one of these; a name ends before the words that usually follow it.
_NO_NAME = "(?!马上|方舱|高速|高烧|温度|万一|安排|金水|白天|黄码|单位|常常|于是|石头)"
_NAME = rf"{_NO_NAME}{_SURNAME}(?:·?{_HAN}{{1,2}}?(?=[^\u4e00-\u9fff]|[住在今年是的家现我有和与因要想已目电身性男女]|$)|{_HAN}{{1,2}})"

# Each pattern covers its group that matched, or the whole match.
_SPOKEN_PATTERNS = (  # these see Chinese numerals as digits
    ("identity", re.compile(r"(?<![0-9])[1-9][0-9]{16}[0-9x](?![0-9a-z])")),
    (
        "phone",
        re.compile(
            r"(?<![0-9])(?:\+?86[ -]?)?1[3-9](?:[ -]{0,2}[0-9]){9}(?![0-9])|(?<![0-9])0[0-9]{2,3}[ -]?[0-9]{7,8}(?![0-9])"
        ),
    ),
    ("phone", re.compile(r"(?:电话|手机|号码|联系方式)[^0-9\n]{0,6}([0-9]{3,4}[ -]?[0-9]{4,8})(?![0-9])")),
    ("number", re.compile(r"(?<![0-9])[0-9]{11,}x?(?![0-9])")),  # bank cards, orders, mistyped identity numbers
    (
        "house number",
        re.compile(
            r"(?:路|街|道|巷|胡同|弄)[ ]?([0-9]{1,5})(?=号)"
            r"|([0-9]{1,4}|[a-z][0-9]{0,2})(?=号楼|栋|幢|单元|号院|弄|室)"
            r"|(?:单元|栋|幢|号楼)[ ]?([0-9]{2,5})(?![0-9])"
            r"|(?<![0-9-])([0-9]{1,3}-[0-9]{1,2}-[0-9]{3,4})(?![0-9-])"
        ),
    ),
)
_PLAIN_PATTERNS = (
    ("e-mail", re.compile(r"[a-z0-9][\w.+-]{0,63}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{2,63}){1,3}")),
    (
        "chat id",
        re.compile(
            r"(?:微信|薇信|威信|v信|vx|wx|qq|扣扣)(?:号码|号|id)?(?:是|为)?[\s:]{0,3}([a-z0-9][-_a-z0-9]{4,19})"
        ),
    ),
    (
        "plate",
        re.compile(
            r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][a-z][·. ]?(?=[a-z]{0,2}[0-9])[a-z0-9]{5,6}(?![a-z0-9])"
        ),
    ),
    (
        "name",
        re.compile(
            rf"(?:我叫|名叫|名字叫|名字是|姓名)(?:是|为)?[\s:】\]\"“]{{0,3}}({_NAME})"
            rf"|(?:联系人|收件人|求助人|患者|病人|户主|申请人|登记人|报告人|当事人)[\s】\]]{{0,2}}[:】\]]\s{{0,2}}({_NAME})"
        ),
    ),
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


@dataclass(frozen=True, slots=True)
class Private:
    """A span that names a person: original[start:end], and what it is."""

    kind: str
    start: int
    end: int


def valid_identity(number: str) -> bool:
    """Whether 18 characters are a Chinese identity number: its check digit is right (GB 11643-1999, ISO 7064 mod 11-2)."""
    if not re.fullmatch(r"[0-9]{17}[0-9xX]", number):
        return False
    total = sum(int(c) * w for c, w in zip(number, _WEIGHTS, strict=False))
    return "10x98765432"[total % 11] == number[-1].lower()


def _form(char: str) -> str:
    form = unicodedata.normalize("NFKC", char).lower()
    return form if len(form) == 1 else char


def find_private(text: str) -> list[Private]:
    """Return what names a person, in order and without overlaps; the earlier kind of two that overlap wins."""
    plain = text.lower() if text.isascii() else "".join(map(_form, text))
    spoken = plain.translate(_SPOKEN_DIGITS)
    found: list[Private] = []
    covered = bytearray(len(text))
    for patterns, seen in ((_SPOKEN_PATTERNS, spoken), (_PLAIN_PATTERNS, plain)):
        for kind, pattern in patterns:
            for match in pattern.finditer(seen):
                start, end = match.span(match.lastindex or 0)
                if kind == "identity" and not valid_identity(seen[start:end]):
                    continue
                if not any(covered[start:end]):
                    covered[start:end] = b"\x01" * (end - start)
                    found.append(Private(kind, start, end))
    return sorted(found, key=lambda p: p.start)


def redact(text: str) -> str:
    """Return the text with all that names a person under asterisks, character for character.

    Raises TypeError for anything but a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    out = list(text)
    for span in find_private(text):
        out[span.start : span.end] = MASK * (span.end - span.start)
    return "".join(out)
