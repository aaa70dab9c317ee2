"""What a training run made of its data: one HTML page that needs nothing else, and the same in Markdown without the plots.

    python -m training.report MODEL --data FOLDER --out FOLDER [--old-data FILE] [--against MODEL] [--profile P]

FOLDER holds train.jsonl, validation.jsonl and test.jsonl, as `training.run` leaves them; it calls this at its end. Measures and plots
are of the test requests; texts, redacted, are only shown of the others, so that nobody learns the test by heart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure as Plot

from training import plots, quality
from training.corpus import DATA, HEADS, Example, codes, load
from training.evaluate import worst_errors
from triage.engine import Triager
from triage.errors import TriageError
from triage.evaluation import (
    MEASURES,
    Answer,
    Figure,
    Grid,
    Report,
    answers,
    cell,
    compared,
    differences,
    figures,
    is_worse,
)  # fmt: skip
from triage.models.folder import ModelFolder
from triage.privacy import redact
from triage.profile import Profile, load_profile
from triage.registry import Registry
from triage.report_html import STYLE
from triage.text import clean

SELDOM = 20  # requests of a label, below which it is named
ERRORS, SUSPECTS, WORDS = 20, 30, 25  # how many are shown
SHOWN = 80  # characters of a text
LEAST = 100  # requests from which a linear model says something of labels
PARTS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of the training requests, for the learning curve
READ = 3_000  # requests of either side that are enough to tell typical words
PRIOR = 500.0  # words that both sides are taken to share before any is counted
DRIFTED = 0.1  # Jensen-Shannon distance of labels from which the verdict speaks of another mixture
NAMED = {"co_departments": "department", "flags": "flag"}  # head -> which names of the profile


# What each section is called, and the sentence that explains it.
TEXTS = {
    "data": (
        "数据与来源 / What went in",
        "模型由哪些数据训练，哪些被排除及原因。",
        "What the model was trained on, and what was left out and why.",
    ),
    "measures": (
        "与现行模型对比 / Beside the model in force",
        "在同一批测试求助上；括号内为 95% 置信区间；▲ 变好、▼ 变差，且超出偶然。",
        "On the same test requests, with 95 % intervals; ▲ better and ▼ worse by more than chance.",
    ),
    "systems": (
        "与规则、简单模型对比 / Beside rules alone and simple models",
        "任何人一天之内能搭出来的模型能做到什么程度。",
        "What anybody could build in an afternoon reaches.",
    ),
    "confusions": (
        "混淆矩阵 / Confusion matrices",
        "行：实际；列：判断；颜色为该行的比例。",
        "Rows: true; columns: called; the shade is the share of the row.",
    ),
    "calibration": (
        "得分可信吗 / Do scores mean what they say?",
        "在虚线上：得 0.8 分的，十次里对八次。",
        "On the dashed line, eight of ten that score 0.8 are right.",
    ),
    "review": (
        "复核多少，看到多少 / Critical requests seen against requests shown",
        "判为紧急以上或交人工复核的特急求助，算作被看到。",
        "Seen is a critical request that is called urgent or critical, or shown to a person.",
    ),
    "learning": (
        "学习曲线 / Learning curve",
        "用字符线性模型（不是本模型，重训太慢）在部分训练数据上学习，在验证数据上衡量：曲线还在上升，多标注就还有用。",
        "A linear model of characters (not this model: training it again is too slow) learnt from a part of the training requests and "
        "was measured on validation: where the line still rises, labelling more pays.",
    ),
    "groups": ("各类人群 / Groups", "有没有哪一类人被识别得更差。", "Whether anybody is served worse."),
    "errors": (
        "最严重的错误 / Worst errors",
        "验证数据中代价最大的错误，隐私已遮盖。",
        "The errors on validation that cost most, private parts covered.",
    ),
    "drift": (
        "新数据与旧数据 / Drift",
        "新的训练求助与旧的相比，长度、标签、用词有什么变化。",
        "How lengths, labels and words of the new training requests differ from the old.",
    ),
    "suspects": (
        "可疑的标注 / Suspected labels",
        "线性模型在没见过的部分上认为标错的训练标签（cleanlab）：值得再看一遍，并非都错。",
        "Training labels that a linear model contradicts on parts it has not seen (cleanlab): worth another look, not all wrong.",
    ),
}


@dataclass
class Section:
    """One of TEXTS, with tables and plots, and what else there is to say."""

    key: str
    grids: list[Grid] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    more: str = ""

    @property
    def title(self) -> str:
        """In Chinese and English."""
        return TEXTS[self.key][0]

    @property
    def note(self) -> str:
        """What it shows, in Chinese and English."""
        return " ".join(part for part in (*TEXTS[self.key][1:], self.more) if part)


def went_in(
    folder: ModelFolder, data: Path, train: Sequence[Example], profile: Profile, seconds: Mapping[str, float]
) -> Section:
    """Return what the model was made of, and what was left out."""
    made = folder.manifest.get("run", {})
    facts = [["model 模型", folder.fingerprint], ["profile 配置", profile.name],
             ["encoder 编码器", str(made.get("encoder", folder.manifest.get("encoder", "")))]]  # fmt: skip
    if made:
        facts += [["data 数据", f"{made['data']['name']}, sha256 {made['data']['sha256']}"], ["seed 随机种子", str(made["seed"])],
                  ["made with 软件", ", ".join(f"{name} {number}" for name, number in made["versions"].items())]]  # fmt: skip
    if seconds:
        facts.append(["stages 各步用时", ", ".join(f"{name} {s:,.0f} s" for name, s in seconds.items())])
    counts = [[path.stem, f"{len(path.read_text('utf-8').splitlines()):,}"] for path in sorted(data.glob("*.jsonl"))]
    gone = json.loads(out.read_text("utf-8")) if (out := data / "left_out.json").is_file() else {}
    told = {head: Counter(code for x in train for code in codes(x, head)) for head in HEADS}
    seldom = [[head, f"{name} ({code})", str(told[head][code])] for head in HEADS
              for code, name in profile.labels[NAMED.get(head, head)].items() if told[head][code] < SELDOM]  # fmt: skip
    return Section(
        "data",
        [
            Grid("Made of", ("", ""), facts),
            Grid("Requests", ("split", "requests"), counts),
            Grid("Left out", ("why", "requests", "ids"),
                 [[why, f"{len(ids):,}", ", ".join(ids[:20])] for why, ids in gone.items()]),
            Grid(f"Labels told fewer than {SELDOM} times in training", ("head", "label", "requests"), seldom,
                 ["The model will hardly ever say these: label more of them first."]),
        ],
    )  # fmt: skip


def against(
    new: Triager,
    before: Path,
    examples: Sequence[Example],
    given: Sequence[Answer],
    profile: str | Path,
    own: Mapping[str, Figure],
) -> Section:
    """Return the measures of the model (`own`) beside those of the one in force, and whether they differ by more than chance."""
    try:
        old = Triager.load(before, profile=profile)
        if not old.backend.labels.alike(new.backend.labels):
            raise TriageError("its labels are others")
    except TriageError as error:
        more = f"现行模型无法比较。The model in force cannot be compared: {error}."
        return Section("measures", [compared("Test requests", {"new": own})], more=more)
    if old.fingerprints["model"] == new.fingerprints["model"]:
        return Section(
            "measures",
            [compared("Test requests", {"in force": own})],
            more="这就是现行模型。This is the model in force.",
        )
    theirs = answers(old, [x.text for x in examples])
    moved = differences(examples, theirs, given)

    def verdict(measure: str, d: Figure) -> str:
        better = (-d[0], -d[2], -d[1])
        return "▼" if is_worse(measure, d) else "▲" if is_worse(measure, better) else ""

    before_figures = figures(examples, theirs)
    rows = [[f"{m} {'↑' if MEASURES[m] == 'up' else '↓'}", cell(own.get(m)), cell(before_figures.get(m)),
             f"{d[0]:+.3f} ({d[1]:+.2f} to {d[2]:+.2f})", verdict(m, d)] for m, d in moved.items()]  # fmt: skip
    header = ("measure", "new", f"in force ({old.fingerprints['model']})", "difference", "")
    return Section("measures", [Grid("Test requests", header, rows)])


def systems(folder: ModelFolder) -> Section:
    """Return the columns that the export measured: parts of the model, simple baselines."""
    kept = folder.read_json("evaluation.json")
    grids = [compared(name, {s: {m: tuple(f) for m, f in fs.items()} for s, fs in of["systems"].items()})
             for name, of in kept.items()]  # fmt: skip
    return Section("systems", grids)


def confusions(examples: Sequence[Example], given: Sequence[Answer], profile: Profile) -> Section:
    """Return who was taken for what."""
    section = Section("confusions")
    for head in quality.SINGLE:
        pairs = [
            (getattr(x, head), getattr(a, head))
            for x, a in zip(examples, given, strict=True)
            if getattr(x, head) is not None
        ]
        if not pairs:
            continue
        names = profile.labels[head]
        section.plots.append(
            plots.confusion([a for a, _ in pairs], [b for _, b in pairs], names, f"{plots.HEADS[head]} {head}")
        )
        wrong = Counter((a, b) for a, b in pairs if a != b).most_common(10)
        section.grids.append(Grid(f"{head}: taken for another most often", ("true", "called", "requests"),
                                  [[names[a], names[b], str(n)] for (a, b), n in wrong]))  # fmt: skip
    return section


def calibration(report: Report) -> Section:
    """Return whether scores mean what they say."""
    return Section("calibration", [report.grids("test")[2]], [plots.reliability(report.calibration)])


def review(examples: Sequence[Example], given: Sequence[Answer]) -> Section:
    """Return how many critical requests are seen at once for how much reading."""
    section = Section("review")
    known = [(x, a) for x, a in zip(examples, given, strict=True) if x.urgency is not None]
    points = plots.review_curve([x for x, _ in known], [a for _, a in known])
    if not points:
        section.more = "没有标注为特急的测试求助。No test request is labelled critical."
        return section
    critical = [a for x, a in known if x.urgency == "critical"]
    seen = sum(a.urgency in ("critical", "urgent") or a.needs_review for a in critical) / len(critical)
    here = sum(a.needs_review for _, a in known) / len(known), seen
    section.plots.append(plots.review(points, here))
    section.grids.append(Grid("Shown and seen", ("share shown", "critical seen"), [[f"{x:.3f}", f"{y:.3f}"] for x, y in points[:12]],
                              [f"As it is set: {here[0]:.3f} shown, {here[1]:.3f} of {len(critical)} seen."]))  # fmt: skip
    return section


def learning(train: Sequence[Example], judged: Sequence[Example]) -> Section:
    """Return how much a linear model of characters gains with more requests: whether labelling more would pay."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier

    section = Section("learning")
    features, lines = (
        HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=1 << 18),
        dict[str, list[tuple[float, float]]](),
    )
    for head in ("category", "urgency"):
        known, asked = ([x for x in part if getattr(x, head) is not None] for part in (train, judged))
        order = np.random.default_rng(0).permutation(len(known))
        for part in PARTS:
            some = [known[i] for i in order[: round(len(known) * part)]]
            if not asked or len({getattr(x, head) for x in some}) < 2:
                continue
            model = SGDClassifier(loss="log_loss", alpha=1e-6, random_state=0)
            model.fit(features.transform([x.text for x in some]), [getattr(x, head) for x in some])
            right = model.score(features.transform([x.text for x in asked]), [getattr(x, head) for x in asked])
            lines.setdefault(f"{plots.HEADS[head]} {head}", []).append((len(some), float(right)))
    if lines:
        section.plots.append(plots.curves(lines, "训练求助数 training requests", "正确率 accuracy"))
        header = ("head", *(f"{part:.1%} of the requests" for part in PARTS))
        gap = {head: ["–"] * (len(PARTS) - len(line)) for head, line in lines.items()}  # too few for a label of two
        rows = [[head, *gap[head], *(f"{y:.3f}" for _, y in line)] for head, line in lines.items()]
        section.grids.append(Grid("Accuracy of a linear model", header, rows))
    return section


def errors(judged: Sequence[Example], triager: Triager) -> Section:
    """Return the errors on validation that cost most."""
    rows = [list(e.values()) for e in worst_errors(judged, answers(triager, [x.text for x in judged]), ERRORS)]
    return Section("errors", [Grid("Validation", ("id", "request", "true", "called"), rows)])


def drift(train: Sequence[Example], old: Sequence[Example], profile: Profile) -> Section:
    """Return how the new requests differ from the old: lengths, labels, words."""
    from scipy.spatial.distance import jensenshannon

    section = Section("drift")
    sides = [[len(clean(x.text).text) for x in part] for part in (old, train)]
    section.grids.append(Grid("Characters", ("", "tenth", "quarter", "median", "three quarters", "nine tenths"),
                              [[name, *(f"{v:.0f}" for v in np.quantile(side, (0.1, 0.25, 0.5, 0.75, 0.9)))]
                               for name, side in zip(("old 旧", "new 新"), sides, strict=True)]))  # fmt: skip
    verdicts = []
    for head in HEADS:
        names = profile.labels[NAMED.get(head, head)]
        parts = [
            Counter(code for x in part if getattr(x, head) is not None for code in codes(x, head))
            for part in (old, train)
        ]
        if not all(part.total() for part in parts):
            continue
        shares = [{names[c]: part[c] / part.total() for c in names} for part in parts]
        distance = float(jensenshannon(*([s[n] for n in s] for s in shares), base=2))
        verdicts.append(
            [head, f"{distance:.3f}", "another mixture 构成变了" if distance > DRIFTED else "much the same 大致相同"]
        )
        if head in ("category", "urgency"):
            section.plots.append(
                plots.bars(shares[0], shares[1], ("旧 old", "新 new"), f"{plots.HEADS[head]} share of {head}")
            )
    section.grids.append(Grid("Labels", ("head", "distance (Jensen-Shannon)", ""), verdicts))
    for name, words in zip(("new", "old"), typical(train, old), strict=True):
        section.grids.append(Grid(f"Words typical of the {name} requests", ("word", "z", "new", "old"), words))
    return section


def typical(new: Sequence[Example], old: Sequence[Example]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the words (word, z, counts) that tell new from old most surely, and old from new: log-odds with an informative
    Dirichlet prior (Monroe, Colaresi & Quinn 2008). A word counts once a request, and not when it stands in fewer than five."""
    import jieba

    jieba.setLogLevel(60)
    read = [part[:: max(1, -(-len(part) // READ))] for part in (new, old)]
    counts = [Counter(w for x in part for w in set(jieba.cut(redact(clean(x.text).text))) if len(w) > 1 and w.isalpha())
              for part in read]  # fmt: skip
    both = counts[0] + counts[1]
    words = [w for w, n in both.items() if n >= 5]
    if not words:
        return [], []
    a, b = (np.array([c[w] for w in words], float) for c in counts)
    prior = (a + b) * PRIOR / (a + b).sum()
    total = PRIOR + np.array([a.sum(), b.sum()])
    gap = np.log((a + prior) / (total[0] - a - prior)) - np.log((b + prior) / (total[1] - b - prior))
    z = gap / np.sqrt(1 / (a + prior) + 1 / (b + prior))
    order = np.argsort(-z, kind="stable")

    def shown(ids: Any) -> list[list[str]]:
        return [[words[i], f"{z[i]:+.1f}", f"{a[i]:.0f}", f"{b[i]:.0f}"] for i in ids]

    return shown([i for i in order[:WORDS] if z[i] > 1.96]), shown([i for i in order[::-1][:WORDS] if z[i] < -1.96])


def suspects(train: Sequence[Example], profile: Profile) -> Section:
    """Return the training labels that cross-validated predictions contradict most."""
    section = Section("suspects")
    for head in quality.SINGLE:
        known = [x for x in train if getattr(x, head) is not None]
        if len(known) < LEAST or len({getattr(x, head) for x in known}) < 2:
            continue
        names = profile.labels[head]
        rows = [[x.id, redact(x.text).replace("\n", " ")[:SHOWN], names[getattr(x, head)], names[other], f"{score:.3f}"]
                for x, other, score in quality.suspects(known, head)[: SUSPECTS // 3]]  # fmt: skip
        section.grids.append(Grid(head, ("id", "request", "label", "rather", "quality of the label"), rows))
    return section


def html(title: str, sections: Sequence[Section]) -> str:
    """Return the page."""

    def table(grid: Grid) -> str:
        if not grid.rows:
            return ""
        head = "".join(f"<th>{escape(h)}" for h in grid.header)
        body = "".join("<tr>" + "".join(f"<td>{escape(value)}" for value in row) for row in grid.rows)
        notes = "".join(f"<p>{escape(note)}" for note in grid.notes)
        return f"<h3>{escape(grid.title)}</h3><table><tr>{head}{body}</table>{notes}"

    def parts() -> Iterator[str]:
        yield f'<!doctype html><html lang="zh"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        yield f"<h1>{escape(title)}</h1>"
        for section in sections:
            yield f"<h2>{escape(section.title)}</h2><p>{escape(section.note)}"
            yield from (f"<figure>{plots.svg(plot)}</figure>" for plot in section.plots)
            yield from map(table, section.grids)

    return "".join(parts())


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the same without plots."""
    out = [f"# {title}"]
    for section in sections:
        shown = f"\n\n{len(section.plots)} plot(s): see report.html" if section.plots else ""
        safe = (
            Grid(g.title, g.header, [[v.replace("|", "/") for v in row] for row in g.rows], g.notes)
            for g in section.grids
            if g.rows
        )
        out += [f"## {section.title}", section.note + shown, *(grid.markdown().strip("\n") for grid in safe)]
    return "\n\n".join(out) + "\n"


def write(
    model: Path, data: Path, out: Path, *, profile: str | Path = "zhengzhou", seconds: Mapping[str, float] | None = None,
    before: Path | None = None, old: Path | None = None,
) -> list[Section]:  # fmt: skip
    """Write report.html and report.md into the folder `out`; returns their sections.

    data: the folder of the three splits. seconds: what the stages took. before: the model to compare with, by default the one in
    force. old: labelled requests to compare the new ones with, by default the corpus, if its labels are this profile's.
    Raises ModelError, InputError.
    """
    city, folder = load_profile(profile), ModelFolder.open(model)
    triager = Triager.load(model, profile=profile)
    train, judged, test = (load(data / f"{split}.jsonl", city) for split in ("train", "validation", "test"))
    given = answers(triager, [x.text for x in test])
    report = Report.of(test, given)
    sections = [
        went_in(folder, data, train, city, seconds or {}),
        against(triager, before or Registry().in_force(), test, given, profile, report.measures),
        systems(folder),
        confusions(test, given, city),
        calibration(report),
        review(test, given),
        learning(train, judged),
        Section("groups", [report.grids("test")[1]]),
        errors(judged, triager),
    ]
    corpus = DATA / "train.jsonl"
    if old or (city.name == "zhengzhou" and (data / "train.jsonl").read_bytes() != corpus.read_bytes()):
        sections.append(drift(train, load(old or corpus, city), city))
    sections.append(suspects(train, city))
    out.mkdir(parents=True, exist_ok=True)
    title = f"{folder.path.name} ({folder.fingerprint})"
    (out / "report.html").write_text(html(title, sections), "utf-8")
    (out / "report.md").write_text(markdown(title, sections), "utf-8")
    return sections


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    default=DATA,
    show_default="the corpus",
    help="folder of the three splits",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for report.html and report.md")
@click.option("--profile", default="zhengzhou", show_default=True, help="whose labels the data holds")
@click.option(
    "--against",
    "before",
    type=click.Path(path_type=Path, exists=True),
    help="a model folder; default: the one in force",
)
@click.option(
    "--old-data",
    "old",
    type=click.Path(path_type=Path, exists=True),
    help="JSONL of earlier labelled requests; default: the corpus",
)
def main(model: Path, data: Path, out: Path, profile: str, before: Path | None, old: Path | None) -> None:
    """Write the report of MODEL."""
    try:
        write(model, data, out, profile=profile, before=before, old=old)
    except TriageError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{out / 'report.html'}")


if __name__ == "__main__":
    main()
