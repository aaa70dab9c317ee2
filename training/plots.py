"""Figures that a city official can read, in Chinese and English, with the font they need: they look the same on every machine.

Each function returns a matplotlib `Figure` (a notebook shows it); `svg` turns one into a string for a page, its letters as paths.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from triage.evaluation import Answer, Labelled, Reliability
from triage.records import severity

FONT = Path(__file__).parent / "fonts/TriageSans.otf"
HEADS = {
    "urgency": "紧急程度", "category": "诉求类别", "department": "责任部门", "co_departments": "协办部门",
    "flags": "风险标签", "flags given": "给出的风险标签",
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """Draw with the font that comes along, letters as paths, the same file from the same figures."""
    font_manager.fontManager.addfont(FONT)
    names = ["Triage Sans", "DejaVu Sans"]
    with mpl.rc_context({"font.family": names, "svg.fonttype": "path", "svg.hashsalt": "triage", "axes.grid": False}):
        yield


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element that asks for nothing else, neither font nor address."""
    out = io.StringIO()
    with style():
        figure.savefig(
            out,
            format="svg",
            bbox_inches="tight",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = out.getvalue()
    return text[text.index("<svg") :]


def confusion(truth: Sequence[str], called: Sequence[str], names: Mapping[str, str], title: str) -> Figure:
    """Draw how often each true label (row) was called what (column): numbers, and as shade the share of the row.

    names: code -> name, in the order to show; codes that occur nowhere are left out.
    """
    codes = [c for c in names if c in {*truth, *called}]
    counts = np.zeros((len(codes), len(codes)), int)
    for a, b in zip(truth, called, strict=True):
        counts[codes.index(a), codes.index(b)] += 1
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    with style():
        figure = Figure(figsize=(2.2 + 0.62 * len(codes), 1.6 + 0.45 * len(codes)))
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(*counts.shape):
            if counts[i, j]:
                colour = "white" if shares[i, j] > 0.6 else "black"
                axes.text(j, i, f"{counts[i, j]:,}", ha="center", va="center", color=colour, fontsize=9)
        shown = [names[c] for c in codes]
        axes.set_xticks(range(len(codes)), shown, rotation=45, ha="right")
        axes.set_yticks(range(len(codes)), shown)
        axes.set(xlabel="判断为 called", ylabel="实际 true", title=title)
    return figure


def reliability(calibration: Mapping[str, Reliability]) -> Figure:
    """Draw of each head the mean score of a bin against the share that is right; on the dashed line a score means what it says."""
    with style():
        figure = Figure(figsize=(3.2 * max(1, len(calibration)), 3.4))
        panels = figure.subplots(1, max(1, len(calibration)), sharey=True, squeeze=False)[0]
        for panel, (head, r) in zip(panels, calibration.items(), strict=False):
            panel.plot([0, 1], [0, 1], color="0.7", linestyle="--")
            panel.plot([s for s, *_ in r.points], [right for _, right, _ in r.points], marker="o", markersize=3)
            panel.set(
                title=f"{HEADS.get(head, head)} {head}\n误差 error {r.error:.3f}",
                xlabel="得分 score",
                xlim=(0, 1),
                ylim=(0, 1),
            )
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("正确比例 share right")
        figure.tight_layout()
    return figure


def review_curve(examples: Sequence[Labelled], given: Sequence[Answer]) -> list[tuple[float, float]]:
    """Return (share of the requests shown to a person, share of the critical ones that somebody sees at once).

    Seen at once is what is called urgent or critical, and what is shown. Shown first is what is called lower and most likely at
    least urgent. One point for every critical request that is called lower; [] without critical requests.
    """
    critical = sum(x.urgency == "critical" for x in examples)
    low = sorted(
        ((a.chance.get("at least", {}).get("urgent", 0.0), x.urgency == "critical")
         for x, a in zip(examples, given, strict=True) if severity(a.urgency) < severity("urgent")), reverse=True,
    )  # fmt: skip
    if not critical:
        return []
    missed = sum(grave for _, grave in low)
    points = [(0.0, 1 - missed / critical)]
    for rank, (_, grave) in enumerate(low, 1):
        if grave:
            missed -= 1
            points.append((rank / len(examples), 1 - missed / critical))
    return points


def review(points: Sequence[tuple[float, float]], here: tuple[float, float]) -> Figure:
    """Draw `review_curve`, and where the model stands as it is (share shown, share seen)."""
    with style():
        figure = Figure(figsize=(5.2, 3.6))
        axes = figure.subplots()
        axes.step([x for x, _ in points], [y for _, y in points], where="post", label="可达到 possible")
        axes.plot(*here, "o", color="#b3261e", label="现行阈值 as it is set")
        axes.set(xlabel="交人工复核的比例 share shown to a person", ylabel="特急被看到的比例 critical seen",
                 xlim=(-0.01, max(0.2, *(x for x, _ in points)) + 0.02))  # fmt: skip
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    return figure


def curves(points: Mapping[str, Sequence[tuple[float, float]]], xlabel: str, ylabel: str) -> Figure:
    """Draw one line a name through its (x, y) points: learning curves, precision against recall."""
    with style():
        figure = Figure(figsize=(5.2, 3.6))
        axes = figure.subplots()
        for name, line in points.items():
            axes.plot([x for x, _ in line], [y for _, y in line], marker="o", markersize=3, label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def bars(old: Mapping[str, float], new: Mapping[str, float], names: tuple[str, str], xlabel: str) -> Figure:
    """Draw two shares for each label side by side, the largest at the top."""
    labels = sorted({*old, *new}, key=lambda label: max(old.get(label, 0), new.get(label, 0)))
    at = np.arange(len(labels))
    with style():
        figure = Figure(figsize=(6.4, 0.8 + 0.34 * len(labels)))
        axes = figure.subplots()
        for shift, (name, shares) in zip((0.2, -0.2), zip(names, (old, new), strict=True), strict=True):
            axes.barh(at + shift, [shares.get(label, 0.0) for label in labels], height=0.38, label=name)
        axes.set_yticks(at, labels)
        axes.set_xlabel(xlabel)
        axes.legend(loc="lower right")
    return figure
