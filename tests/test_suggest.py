"""What is suggested for labelling: what the model is unsure of, what rules and model see differently, and not ten times the same."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from training.corpus import DATA, load
from training.suggest import (
    Simulation,
    choose,
    disagreement,
    doubt,
    embed,
    main,
    needed,
    plot,
    saving,
    spread,
    suggest,
    uncertainty,
)
from triage.engine import Triager
from triage.records import Finding, HelpRequest, Scores, Status
from triage.rules.book import RuleBook


def scores(urgency: tuple[float, ...] = (1, 0, 0, 0), category: float = 1.0, flag: float = 0.0) -> Scores:
    levels = dict(zip(("routine", "priority", "urgent", "critical"), urgency, strict=True))
    return Scores(
        {"food": category, "medical": 1 - category}, levels, {"supply": 1.0, "medical": 0.0}, {}, {"cardiac": flag}
    )


def finding(
    status: Status = Status.HOLDS, urgency: str | None = None, flag: str | None = None, red: bool = False
) -> Finding:
    return Finding("r", 0, 1, "x", status, urgency=urgency, flag=flag, red_flag=red)


def test_the_undecided_is_uncertain_and_urgency_counts_most() -> None:
    assert doubt([1.0, 0.0]) == 0
    assert doubt([0.1, 0.5, 0.4]) == pytest.approx(0.9)
    assert uncertainty(scores()) == 0
    torn_urgency, torn_category = scores((0.25,) * 4), scores(category=0.5)
    assert uncertainty(torn_urgency) > uncertainty(torn_category) > 0
    assert uncertainty(Scores({}, torn_urgency.urgency, {}, {}, {})) == pytest.approx(
        1
    )  # heads that are not there count not


@pytest.mark.parametrize(
    ("found", "said", "expected"),
    [
        ([], scores((0, 0, 0, 1)), 0.0),  # rules that are silent contradict nobody
        ([finding(urgency="critical")], scores((0.9, 0, 0, 0.1)), 0.9),
        ([finding(urgency="urgent")], scores((0, 0, 0.2, 0.8)), 0.0),
        ([finding(Status.DENIED, "critical", red=True)], scores((0.3, 0, 0, 0.7)), 0.7),
        (
            [finding(Status.DENIED, "priority")],
            scores((0, 1, 0, 0)),
            0.0,
        ),  # only of red flags the denial says something
        ([finding(flag="cardiac")], scores(flag=0.25), 0.75),
        ([finding(flag="unknown")], scores(), 0.0),
        ([finding(urgency="priority"), finding(flag="cardiac")], scores((0.4, 0.6, 0, 0), flag=0.1), 0.9),
    ],
)
def test_disagreement_is_the_worst_contradiction(found: list[Finding], said: Scores, expected: float) -> None:
    assert disagreement(found, said) == pytest.approx(expected)


def test_of_requests_alike_one_is_taken_before_another_follows() -> None:
    places = np.repeat(np.eye(3), 2, axis=0)
    value = np.array([0.9, 0.8, 0.5, 0.4, 0.65, 0.6])
    assert spread(places, value, 3) == [0, 4, 1]  # 0.8 and 0.6 lose 0.2 each
    assert spread(places, value, 9) == [0, 4, 1, 2, 5, 3]
    assert spread(places[:0], value[:0], 3) == []


def test_a_tenth_goes_to_what_is_disputed() -> None:
    apart, unsure, disputed = np.eye(30), np.linspace(1, 0, 30), np.r_[np.zeros(28), 0.9, 1]
    assert choose(apart, unsure, disputed, 20) == [29, 28, *range(18)]
    assert choose(apart, unsure, disputed, 4) == [*range(4)]
    assert sorted(choose(apart, unsure, disputed, 99)) == [*range(30)]


def test_suggestions_are_doubtful_and_each_text_stands_once(triager: Triager) -> None:
    examples = load(DATA / "validation.jsonl")[:150]
    requests = [HelpRequest(x.id, x.text) for x in examples] + [HelpRequest("copy", examples[0].text)]
    everything = suggest(triager, requests, 1000)
    assert len({s.request.text for s in everything}) == len(everything) == len({x.text for x in examples})
    assert "copy" not in {s.request.id for s in everything}
    chosen = suggest(triager, requests, 10)
    assert len(chosen) == 10
    assert chosen[0].disagreement == max(s.disagreement for s in everything) > 0.5
    assert np.mean([s.uncertainty for s in chosen[1:]]) > 2 * np.mean([s.uncertainty for s in everything])


def test_the_command_writes_redacted_texts_and_shows_none(tmp_path: Path) -> None:
    backlog = tmp_path / "backlog.csv"
    backlog.write_text("id,text\n1,我叫张建国，电话13812345678，胸口有点闷\n2,几点做核酸\n3,\n", "utf-8")
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(main, [str(backlog), "-n", "2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert {row["id"] for row in rows} <= {"1", "2", "3"}
    assert "13812345678" not in out.read_text("utf-8")
    assert any("胸口有点闷" in row["text"] for row in rows)
    shown = CliRunner().invoke(main, [str(backlog)]).output
    assert "uncertainty" in shown
    assert "胸口" not in shown + done.output
    assert CliRunner().invoke(main, []).exit_code == CliRunner().invoke(main, ["nowhere.csv"]).exit_code + 1 == 2


# ---- simulation


def test_needed_labels_are_read_off_a_curve() -> None:
    curve = [(100, 0.5), (200, 0.6), (300, 0.58), (400, 0.7)]
    assert needed(curve, 0.5) == 100
    assert needed(curve, 0.55) == pytest.approx(150)
    assert needed(curve, 0.65) == pytest.approx(300 + 100 * 0.07 / 0.12)
    assert math.isnan(needed(curve, 0.8))


def test_saving_compares_labels_for_the_same_kappa() -> None:
    run = {"chance": [(100 * i, 0.1 * i) for i in range(1, 9)], "suggested": [(100 * i, 0.2 * i) for i in range(1, 5)]}
    got = saving([run])
    assert [n for n, _, _ in got] == [200, 400, 600, 800]
    assert [shares for _, _, shares in got] == [[pytest.approx(0.5)]] * 4


def test_a_simulation_begins_alike_and_gives_the_same_every_time(book: RuleBook, tmp_path: Path) -> None:
    pool, judged = load(DATA / "train.jsonl")[::25], load(DATA / "validation.jsonl")[::6]
    simulation = Simulation(pool, judged, book)
    runs = [simulation.run(seed, 60, 240) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    for run in runs:
        assert [n for n, _ in run["chance"]] == [60, 120, 180, 240]
        assert run["chance"][0] == run["suggested"][0]
        assert run["suggested"][-1][0] == 240 or run["suggested"][-1][1] >= max(k for _, k in run["chance"])
    plot(runs, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_vectors_have_length_one_and_bring_like_texts_together() -> None:
    vectors = embed(["老人没有降压药了", "老人降压药没有了", "孩子要上网课", "几点做核酸"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] > 0.8 > vectors[0] @ vectors[2]
