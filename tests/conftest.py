"""What several tests share: everything as shipped, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from triage.engine import Triager
from triage.profile import Profile, load_profile
from triage.rules.book import RuleBook, load_rules

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def triager() -> Triager:
    return Triager.load()


@pytest.fixture(scope="session")
def profile() -> Profile:
    return load_profile()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two narrow layers with random weights, over the shipped tokenizer: a directory like any other."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    out = tmp_path_factory.mktemp("tiny")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "triage/models/default/tokenizer.json"), pad_token="<pad>",
                                        unk_token="<unk>", bos_token="<s>", eos_token="</s>")  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def book() -> RuleBook:
    return load_rules()
