"""Which model comes into force: the gate keeps out what is worse, the pointer is never half moved, the way back is open."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.conftest import ROOT
from triage.cli import EXIT_REFUSED, main
from triage.decide import THRESHOLDS
from triage.engine import Triager
from triage.errors import InputError, ModelError
from triage.evaluation import Answer, Truth, differences, is_worse, measure
from triage.gate import GOLDEN, Golden, compare, load_golden
from triage.models.folder import SHIPPED, ModelFolder
from triage.profile import Profile
from triage.records import URGENCY_LEVELS
from triage.registry import Registry


def small_model(parent: Path, name: str) -> Path:
    """A sound model folder that is quick to copy."""
    folder = parent / name
    folder.mkdir()
    (folder / "README.md").write_text(name, "utf-8")
    ModelFolder.seal(folder, kind="small")
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def three(registry: Registry, tmp_path: Path) -> list[str]:
    return [registry.add(small_model(tmp_path, name)).fingerprint for name in "abc"]


# ---- registry


def test_the_shipped_model_is_in_force_until_another_is_promoted(registry: Registry, three: list[str]) -> None:
    assert registry.in_force() == SHIPPED
    registry.promote(three[0])
    assert registry.in_force() == registry.folder / three[0]
    assert registry.models() == sorted(three)


def test_rollback_goes_back_step_by_step_to_the_shipped_model(registry: Registry, three: list[str]) -> None:
    for fingerprint in three:
        registry.promote(fingerprint)
    assert registry.before() == [three[1], three[0]]
    assert [registry.rollback(), registry.rollback()] == [three[1], three[0]]
    assert registry.rollback() == ModelFolder.open(SHIPPED).fingerprint
    assert registry.in_force() == SHIPPED
    with pytest.raises(ModelError, match="none to return to"):
        registry.rollback()


def test_the_history_keeps_every_step_and_by_which_comparison(registry: Registry, three: list[str]) -> None:
    registry.promote(three[0], comparison={"critical": 9})
    registry.refuse(three[1], comparison={"critical": 8})
    registry.rollback()
    steps = registry.history()
    assert [(s["what"], s["model"]) for s in steps] == [
        ("promoted", three[0]), ("refused", three[1]), ("rolled back", ModelFolder.open(SHIPPED).fingerprint),
    ]  # fmt: skip
    assert [s.get("comparison") for s in steps] == [{"critical": 9}, {"critical": 8}, None]
    assert all(s["when"].endswith("+00:00") for s in steps)


def test_a_model_is_copied_and_the_copy_is_verified(registry: Registry, tmp_path: Path, three: list[str]) -> None:
    shutil.rmtree(tmp_path / "a")
    registry.promote(three[0])
    ModelFolder.open(registry.in_force())
    registry.promote(three[1])
    (registry.folder / three[0] / "README.md").write_text("another", "utf-8")
    with pytest.raises(ModelError, match="changed since it was exported"):
        registry.rollback()
    assert registry.in_force().name == three[1]


def test_a_manifest_may_not_reach_out_of_its_folder(registry: Registry, tmp_path: Path) -> None:
    folder = small_model(tmp_path, "a")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["files"]["../a/README.md"] = manifest["files"]["README.md"]
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(ModelError, match="no plain file name"):
        registry.add(folder)


def test_models_are_found_by_folder_name_and_beginning(registry: Registry, tmp_path: Path, three: list[str]) -> None:
    registry.promote(three[0])
    assert registry.find("in-force") == registry.find(three[0][:8]) == registry.folder / three[0]
    assert registry.find("shipped") == SHIPPED
    assert registry.find(tmp_path / "b") == tmp_path / "b"
    with pytest.raises(ModelError, match=f"nothing: no model folder; give .*{three[0]}"):
        registry.find("nothing")
    many = [registry.add(small_model(tmp_path, str(i))).fingerprint for i in range(17)]  # of 16 beginnings
    twice = next(m[0] for m in many if sum(other[0] == m[0] for other in many) > 1)
    with pytest.raises(ModelError, match=f"{twice}: several models begin so"):
        registry.find(twice)


def test_a_promotion_counts_only_against_what_it_was_compared_with(registry: Registry, three: list[str]) -> None:
    registry.promote(three[0])
    with pytest.raises(ModelError, match="in force already"):
        registry.promote(three[0])
    with pytest.raises(ModelError, match="has come into force meanwhile"):
        registry.promote(three[2], replaces=three[1])
    registry.promote(three[2], replaces=three[0])


def test_a_pointer_that_cannot_be_read_is_named(registry: Registry, three: list[str]) -> None:
    registry.promote(three[0])
    (registry.folder / "in_force.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=r"in_force\.json: does not say .* remove it"):
        registry.in_force()


def test_the_registry_stands_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIAGE_MODELS", str(tmp_path / "elsewhere"))
    assert Registry().folder == tmp_path / "elsewhere"
    monkeypatch.delenv("TRIAGE_MODELS")
    assert Registry().folder.parts[-2:] == ("triage", "models")
    assert Registry(tmp_path).folder == tmp_path


class Killed(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


def test_a_kill_before_any_write_leaves_the_old_pointer_or_the_new_one(
    registry: Registry, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that touches the disk is a place to be killed at; each is tried."""
    registry.promote(three[0])
    outcomes = []
    for instant in range(100):
        old, steps = registry.in_force().name, len(registry.history())
        new = three[2] if old == three[1] else three[1]
        calls = 0

        def dying(of: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > instant:  # noqa: B023 - called within this round only
                    raise Killed
                return of(*args, **kwargs)

            return call

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", dying(os.fsync))
            patched.setattr(Path, "replace", dying(Path.replace))
            patched.setattr(Path, "open", dying(Path.open))
            try:
                registry.promote(new)
            except Killed:
                pass
            else:
                outcomes.append("done")
        now = registry.in_force().name
        assert now in (old, new)
        assert registry.history()[-1]["model"] == now  # history and pointer never contradict each other
        assert len(registry.history()) == steps + (now == new)
        if outcomes[-1:] == ["done"]:
            break
        outcomes.append("new" if now == new else "old")
    assert outcomes[-1] == "done"
    assert {"old", "new"} <= set(outcomes)


def test_a_killed_process_leaves_a_whole_pointer(registry: Registry, three: list[str]) -> None:
    registry.promote(three[0])
    switching = (
        "import sys; from triage.registry import Registry; registry = Registry(sys.argv[1]); print('on', flush=True)\n"
        "while True:\n    for model in sys.argv[2:]:\n        registry.promote(model)"
    )
    seen = set()
    for round_ in range(6):
        args = [m for m in three if m != registry.in_force().name]
        process = subprocess.Popen(
            [sys.executable, "-c", switching, str(registry.folder), *args], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.02 + 0.013 * round_)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ModelFolder.open(registry.in_force())
        assert registry.history()[-1]["model"] == registry.in_force().name
        seen.add(len(registry.history()))
    assert len(seen) > 1, "no switch was made"


# ---- gate


def truths(urgency: str, n: int, start: int = 0) -> list[Truth]:
    return [Truth(f"{urgency}-{i}", "几点做核酸", urgency) for i in range(start, start + n)]


def answer(urgency: str) -> Answer:
    return Answer("testing", urgency, "testing", frozenset(), frozenset())


def test_differences_are_those_of_the_measures_and_pairing_narrows_them() -> None:
    examples = truths("critical", 200) + truths("routine", 200)
    old = [answer("critical" if i % 3 else "urgent") for i in range(400)]
    new = [a if i % 40 else answer("routine") for i, a in enumerate(old)]
    got, before, after = differences(examples, old, new), measure(examples, old), measure(examples, new)
    for name, (value, low, high) in got.items():
        assert value == pytest.approx(after[name] - before[name])
        assert low <= value <= high
    assert {"critical recall", "under-triage", "urgency weighted kappa"} <= set(got)
    low, high = got["critical recall"][1:]
    assert high - low < 0.06 < 2 * 1.96 * (2 * (1 / 3) * (2 / 3) / 200) ** 0.5  # as wide as unpaired
    assert differences(examples, old, new) == got


@pytest.mark.parametrize(("lost", "worse"), [(0, False), (2, False), (5, True), (100, True)])
def test_a_loss_counts_when_chance_does_not_explain_it(lost: int, worse: bool) -> None:
    examples = truths("critical", 100)
    new = [answer("routine" if i < lost else "critical") for i in range(100)]
    got = differences(examples, [answer("critical")] * 100, new)
    assert is_worse("critical recall", got["critical recall"]) is worse
    assert is_worse("under-triage", got["under-triage"]) is worse


@pytest.fixture(scope="module")
def golden(profile: Profile) -> list[Golden]:
    """Those of the golden requests that only tell an emergency, or the opposite of one."""
    return [g for g in load_golden(GOLDEN, profile) if not g.category]


@pytest.fixture(scope="module")
def blunted(triager: Triager) -> Triager:
    """The shipped model, hearing of no emergency."""
    never = dict(triager.policy.thresholds) | dict.fromkeys(THRESHOLDS[1:], 1.01)
    return Triager(
        triager.backend, triager.rules, triager.profile, replace(triager.policy, thresholds=never, floor_veto=1.0)
    )


@pytest.fixture(scope="module")
def labelled(golden: list[Golden]) -> list[Truth]:
    return [Truth(g.id, g.text, g.urgency[0], *(g.category or [None]), *(g.department or [None]))
            for g in golden if len(g.urgency) == 1]  # fmt: skip


def test_a_model_that_misses_emergencies_is_refused_with_the_rows_that_say_so(
    triager: Triager, blunted: Triager, labelled: list[Truth], golden: list[Golden]
) -> None:
    found = compare(triager, blunted, labelled, golden)
    why = {r.why.split(" is ")[0]: r for r in found.refusals}
    critical = [x.id for x in labelled if x.urgency == "critical"]
    assert {row.split(":")[0] for row in why["critical recall"].rows} == set(critical)
    assert all("critical, called" in row and "before critical" in row for row in why["critical recall"].rows)
    assert {row.split(":")[0] for row in why["under-triage"].rows} >= set(critical)
    assert any(
        r.why.endswith("golden requests come out wrong") and "grave-1: urgency" in r.rows[0] for r in found.refusals
    )
    assert not any(g.text in json.dumps(found.to_dict(), ensure_ascii=False) for g in golden)
    assert found.grid("x", ("a", "b")).rows[-1][-1].endswith("%)") is False
    assert any("▼" in row[-1] for row in found.grid("x", ("a", "b")).rows)


def test_a_model_as_good_or_better_is_not_refused(
    triager: Triager, blunted: Triager, labelled: list[Truth], golden: list[Golden]
) -> None:
    assert compare(triager, triager, labelled, golden).refusals == ()
    better = compare(blunted, triager, labelled, golden)
    assert better.refusals == ()
    assert better.difference["critical recall"][0] == 1.0
    assert any("▲" in row[-1] for row in better.grid("x", ("a", "b")).rows)


def test_a_suite_refuses_what_does_worse_by_more_than_chance(
    triager: Triager, labelled: list[Truth], golden: list[Golden]
) -> None:
    counts: list[Mapping[str, tuple[int, int]]] = [
        {"denial": (90, 100), "names": (50, 50)}, {"denial": (70, 100), "names": (49, 50)},
    ]  # fmt: skip
    found = compare(triager, triager, labelled, golden, lambda _: counts.pop(0))
    assert [r.rows for r in found.refusals] == [("denial: 70 of 100 cases pass, before 90 of 100",)]


def test_nothing_is_proved_without_critical_requests(triager: Triager, golden: list[Golden]) -> None:
    with pytest.raises(InputError, match="no request is labelled critical"):
        compare(triager, triager, truths("routine", 3), golden)


def test_faulty_golden_requests_are_all_named(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text(
        '{"id": "1", "text": "几点", "urgency": ["soon"]}\n{"id": "2"}\nno\n{"id": "3", "text": "几点", "flags": "x"}\n',
        "utf-8",
    )
    with pytest.raises(InputError) as error:
        load_golden(path, profile)
    assert [line.split(" ")[0] for line in str(error.value).splitlines()] == [f"{path}:{n}:" for n in (1, 2, 3, 4)]
    path.write_text("", "utf-8")
    with pytest.raises(InputError, match="write at least one"):
        load_golden(path, profile)


# ---- command line


def changed(parent: Path, name: str, **policy: Any) -> Path:
    """The shipped model under another fingerprint, with another policy."""
    folder = parent / name
    shutil.copytree(SHIPPED, folder)
    decision = json.loads((folder / "decision.json").read_text("utf-8"))
    decision["thresholds"] |= policy.pop("thresholds", {})
    (folder / "decision.json").write_text(json.dumps(decision | policy), "utf-8")
    (folder / "README.md").write_text(name, "utf-8")
    ModelFolder.seal(folder, kind=name)
    return folder


def test_promote_refuses_forces_and_rolls_back(tmp_path: Path, labelled: list[Truth], golden: list[Golden]) -> None:
    data = tmp_path / "labelled.jsonl"
    rows = [{"id": x.id, "text": x.text, "urgency": x.urgency} for x in labelled]
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    own = tmp_path / "golden.jsonl"
    own.write_text("\n".join(json.dumps(asdict(g), ensure_ascii=False) for g in golden), "utf-8")
    gate = ("--data", str(data), "--golden", str(own))
    worse = changed(tmp_path, "worse", thresholds=dict.fromkeys(THRESHOLDS[1:], 1.01), floor_veto=1.0)
    same = changed(tmp_path, "same")
    registry = Registry(tmp_path / "models")

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["models", *args, "--registry", str(registry.folder)])

    refused = run("promote", str(worse), "--data", str(data))
    assert refused.exit_code == EXIT_REFUSED, refused.output
    assert "refused: critical recall is worse by more than chance" in refused.output
    assert "grave-1: critical, called" in refused.output
    assert not any(x.text in refused.output for x in labelled)
    assert registry.in_force() == SHIPPED

    good = run("promote", str(same), *gate)
    assert good.exit_code == 0, good.output
    assert registry.in_force().name == ModelFolder.open(same).fingerprint
    assert run("compare", "in-force", "shipped", *gate).exit_code == 0

    forced = run("promote", str(worse), "--data", str(data), "--force", "a drill")
    assert forced.exit_code == 0, forced.output
    steps = registry.history()
    assert [s["what"] for s in steps] == ["refused", "promoted", "promoted"]
    assert steps[2]["forced"] == "a drill"
    assert "forced" not in steps[1]
    assert steps[1]["comparison"]["measures"]["critical recall"]["difference"] == [0, 0, 0]
    assert steps[1]["data"] == "labelled.jsonl"

    assert run("rollback").output == f"{ModelFolder.open(same).fingerprint} is in force\n"
    shown = run("list").output
    assert all(word in shown for word in ("in force", "a drill", "rolled back", "shipped"))


def test_half_a_file_proves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "labelled.csv"
    data.write_text(f"id,text,urgency\n1,几点做核酸,{URGENCY_LEVELS[3]}\n2,没有菜了,soon\n", "utf-8")
    args = ["models", "compare", "shipped", "shipped", "--data", str(data), "--registry", str(tmp_path)]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2
    assert "labelled.csv:3: column 'urgency'" in done.output
    done = CliRunner().invoke(
        main, [*args[:-4], "--data", str(data), "--suite", "nowhere:run", "--registry", str(tmp_path)]
    )
    assert done.exit_code == 2


def test_the_model_in_force_answers_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path / "models")
    fingerprint = registry.add(changed(tmp_path, "mine")).fingerprint
    registry.promote(fingerprint)
    monkeypatch.setenv("TRIAGE_MODELS", str(registry.folder))
    for name in ("in-force", fingerprint[:6]):
        done = CliRunner().invoke(main, ["predict", "几点做核酸", "--json", "--model", name])
        assert json.loads(done.output)["fingerprints"]["model"] == fingerprint
    lost = CliRunner().invoke(main, ["predict", "几点做核酸", "--model", "nowhere"])
    assert (lost.exit_code, fingerprint in lost.output) == (3, True)
