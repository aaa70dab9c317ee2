"""Cover what names a person: phones, identity numbers, house numbers, plates, e-mail, chat ids, names told as names.

Covering keeps the length, so every offset into the text stays true. It errs on the side of covering: a figure too many under
asterisks harms nobody. Names that nothing introduces (王阿姨) are not found, nor what only a map would tell.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

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
# What stands after 姓名 or 患者: is a name, unless it is a state, a place or a drug that begins like one.
_NO_NAME = (
    "(?!高[烧热血龄危压位速]|左[侧边胸肺心手脚腿眼甲氧乙]|白[血细内蛋癜天]|安[宫装排眠定全]|马[上凡]|方舱|温度|万一|金水|黄[码疸]|单位|常|于是|石头|"
    "康复|易[发感]|严重|危|贫血|龙湖|胡话|全身|路上|童年|单身|成[人功]|时|应|向|江|毛病|雷|雪|牛奶|米|古|关节|水)"
)
_NAME = (
    rf"{_NO_NAME}{_SURNAME}(?:·?{_HAN}{{1,2}}?(?=[^\u4e00-\u9fff]|"
    rf"[住在今年是的家现我有和与因要想已目电身性男女胸头腹肚发高咳喘疼痛破流昏血孕羊怀摔吃没被得一两三]|$)|{_HAN}{{1,2}})"
)

# Each pattern covers its group that matched, or the whole match.
_GROUPED = r"(?:[ -]{1,3}|)"
_SPOKEN_PATTERNS = (  # these see Chinese numerals as digits
    ("identity", re.compile(r"(?<![0-9])[1-9][0-9]{16}[0-9x](?![0-9a-z])")),
    (
        "phone",
        re.compile(
            rf"(?<![0-9])(?:\+?86[ -]?)?(?:1[3-9][0-9](?:{_GROUPED}[0-9]{{4}}){{2}}|1(?: [0-9]){{10}}|"
            r"1[3-9][0-9]{3}[ -][0-9]{3}[ -][0-9]{3})(?![0-9])"
            r"|(?<![0-9])\(?0[0-9]{2,3}\)?[ -]?[2-9][0-9]{6,7}(?![0-9])"
        ),
    ),
    ("phone", re.compile(r"(?:电话|手机|座机|号码|联系方式)[^0-9\n]{0,6}([0-9]{3,4}[ -]?[0-9]{4,8})(?![0-9])")),
    ("number", re.compile(r"(?<![0-9])[0-9](?:[ -]?[0-9]{3,8}){2,5}x?(?<=[0-9x]{3})(?![0-9])")),
    (
        "house number",
        re.compile(
            r"(?:路|街|巷|胡同|弄|(?<![知通频])道)[ ]?([0-9十百]{1,5})(?=号)"
            r"|(?<![a-z0-9十百])([0-9十百]{1,5}|[a-z][0-9]{0,2})(?=号楼|栋|幢|单元(?!红|血|的血|悬)|号院|弄[0-9])"
            r"|(?<![a-z0-9十百])([0-9]{2,4})(?=室(?![上性颤速早间]))"
            r"|(?:单元|栋|幢|号楼)[ ]?(?!120|119|110)([0-9]{2,5})(?![0-9.]|岁|多|周|度|天|个|人|户|名|℃|号楼)"
            r"|(?:房间号?|房号|门牌号?)[^0-9a-z\n]{0,2}([a-z]?座?[0-9]{2,5})"
            r"|(?<![0-9-])([0-9]{1,3}-[0-9]{1,2}-[0-9]{3,4})(?![0-9-])"
        ),
    ),
)
_PLAIN_PATTERNS = (
    ("e-mail", re.compile(r"(?<![a-z0-9._+-])[a-z0-9][a-z0-9_.+-]{0,63}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{2,63}){1,3}")),
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
            rf"(?:我叫|(?<![药病症])名叫|(?<!药)(?<!药的)(?<!病的)名字[叫是]|姓名)(?:是|为)?[\s:】\]\"“]{{0,3}}({_NAME})"
            rf"|(?:联系人|收件人|户主|登记人)[\s:】\]]{{0,3}}({_NAME})"
            rf"|(?:求助人|患者|病人|申请人|报告人|当事人)[\s】\]]{{0,2}}[:】\]]\s{{0,2}}({_NAME})"
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


@lru_cache(maxsize=8192)
def _form(char: str) -> str:
    form = unicodedata.normalize("NFKC", char).lower()
    return form if len(form) == 1 else char


def find_private(text: str) -> list[Private]:
    """Return what names a person, in order and without overlaps; a name found once is found wherever it stands again."""
    plain = text.lower() if text.isascii() else "".join(map(_form, text))
    spoken = plain.translate(_SPOKEN_DIGITS)
    found: list[Private] = []
    for patterns, seen in ((_SPOKEN_PATTERNS, spoken), (_PLAIN_PATTERNS, plain)):
        for kind, pattern in patterns:
            for match in pattern.finditer(seen):
                start, end = match.span(match.lastindex or 0)
                digits = sum(c.isdigit() for c in seen[start:end])
                if (kind == "identity" and not valid_identity(seen[start:end])) or (kind == "number" and digits < 11):
                    continue
                found.append(Private(kind, start, end))
    for name in {plain[p.start : p.end] for p in found if p.kind == "name"}:
        found += [Private("name", m.start(), m.end()) for m in re.finditer(re.escape(name), plain)]
    out: list[Private] = []
    end = 0
    for p in sorted(found, key=lambda p: (p.start, -p.end)):  # what an earlier span covers is cut off a later one
        if p.end > end:
            out.append(Private(p.kind, max(p.start, end), p.end))
            end = p.end
    return out


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
