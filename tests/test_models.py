"""Backends keep one contract; a model folder is refused when anything in it changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from triage.engine import Triager
from triage.errors import ModelError
from triage.models.base import Backend, Labels
from triage.models.folder import SHIPPED, ModelFolder
from triage.models.onnx import WINDOW
from triage.models.stub import StubBackend
from triage.profile import Profile
from triage.records import URGENCY_LEVELS

TEXTS = ["老婆羊水破了", "想问下做核酸几点", "", "😷😷", "药" * 30, "没有菜了。" * 200]


@pytest.fixture(scope="module", params=["onnx", "stub"])
def backend(request: pytest.FixtureRequest, triager: Triager, profile: Profile) -> Backend:
    return triager.backend if request.param == "onnx" else StubBackend(profile)


def test_scores_cover_every_label_and_are_probabilities(backend: Backend) -> None:
    for scores in backend.score(TEXTS):
        assert set(scores.urgency) == set(URGENCY_LEVELS)
        assert set(scores.category) == set(backend.labels.category)
        assert set(scores.department) == set(scores.co_departments) == set(backend.labels.department)
        assert set(scores.flags) == set(backend.labels.flags)
        for head in (scores.category, scores.urgency, scores.department):
            assert sum(head.values()) == pytest.approx(1, abs=1e-4)
        for head in (scores.category, scores.urgency, scores.department, scores.co_departments, scores.flags):
            assert all(-1e-6 <= p <= 1 + 1e-6 for p in head.values())


def test_a_text_gets_the_same_scores_alone_or_in_any_batch(backend: Backend) -> None:
    together = backend.score(TEXTS)
    assert together == [backend.score([t])[0] for t in TEXTS]
    assert together == backend.score(TEXTS[::-1])[::-1]


def test_the_number_of_workers_changes_no_bit() -> None:
    one, three = (Triager.load(workers=n).predict_many(TEXTS * 10) for n in (1, 3))
    assert one == three


def test_a_grave_fact_far_into_a_long_text_counts(triager: Triager) -> None:
    filler = "今天天气还可以，社区安排做了核酸，大家都在排队，一切顺利，"
    grave = "我妈突然倒在地上叫不醒了，嘴唇发紫"
    short, long = triager.backend.score([grave, filler * 100 + grave])
    assert len(filler * 100) > 2 * WINDOW
    assert long.urgency["critical"] > 0.5 * short.urgency["critical"]


def test_urgency_logits_are_cumulative() -> None:
    labels = Labels(("a",), ("d",), ("f",))
    row = [0.0] * labels.total
    row[labels.slices["urgency"]] = [4.0, 0.0, -4.0]
    routine, priority, urgent, critical = labels.probabilities(row)["urgency"]
    assert priority == pytest.approx(urgent, abs=1e-3)
    assert routine == pytest.approx(critical, abs=1e-3)
    row[labels.slices["urgency"]] = [-4.0, 0.0, 4.0]  # contradicting itself: the lower step bounds the higher
    assert min(labels.probabilities(row)["urgency"]) >= 0


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "model"))


def test_the_shipped_folder_is_whole_and_small_enough() -> None:
    folder = ModelFolder.open(SHIPPED)
    assert set(folder.manifest["files"]) == {"model.onnx", "tokenizer.json", "labels.json", "decision.json", "training.toml",
                                             "evaluation.json", "README.md", "ngrams.safetensors", "cascade.json"}  # fmt: skip
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) <= 20e6


@pytest.mark.parametrize("name", ["model.onnx", "labels.json", "tokenizer.json", "decision.json"])
def test_a_changed_or_missing_file_is_refused_by_name(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ModelError, match=f"{name}: changed"):
        Triager.load(copy)
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: missing"):
        Triager.load(copy)


def test_a_folder_without_a_manifest_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no manifest\.json here"):
        Triager.load(tmp_path)


def test_a_profile_that_lacks_a_code_of_the_model_is_refused(copy: Path) -> None:
    labels = json.loads((copy / "labels.json").read_text("utf-8"))
    labels["flags"][0] = "dragon"
    (copy / "labels.json").write_text(json.dumps(labels), "utf-8")
    ModelFolder.seal(copy)
    with pytest.raises(ModelError, match="profile zhengzhou has no flag dragon"):
        Triager.load(copy)
