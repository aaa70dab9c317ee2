"""Turn a model folder back into a checkpoint, so that training goes on from the model in force.

    python -m training.restore MODEL OUT      # then [encoder] source = "OUT", or --encoder MODEL of training.run

The folder holds no floating-point weights, only what `training.export` made of them: eight-bit integers with one scale a channel.
Multiplied out they are the weights to within half a step of rounding, which fine-tuning makes good in a few hundred steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from triage.errors import ModelError
from triage.models.base import Array, Labels
from triage.models.bert import TriageNet, save_checkpoint
from triage.models.folder import ModelFolder
from triage.models.onnx import OnnxBackend

QUANTISED = ("_quantized", "_scale", "_zero_point")  # what ONNX Runtime makes of one matrix
PROBE = "我妈喘不上气，封在家里出不去，家里的药也断了三天"
NEAR = 1.0  # furthest a logit may lie from the model's own: activations are rounded there and are not here


def weights(graph: Any) -> dict[str, Array]:
    """Return the tensors of an exported graph by their names in `TriageNet`, matrices multiplied out.

    graph: an `onnx.GraphProto` that `training.export.write_onnx` wrote; a node is named after the module it came from.
    """
    tensors = {one.name: numpy_helper.to_array(one) for one in graph.initializer}

    def whole(name: str) -> Array:
        integers, scale, zero = (tensors[name + part] for part in QUANTISED)
        return np.asarray((integers.astype(np.float32) - zero.astype(np.float32)) * scale, np.float32)

    plain = {name: value for name, value in tensors.items() if not name.endswith(QUANTISED)}
    tables = {
        name.removesuffix("_quantized") for name in tensors if "embeddings" in name and name.endswith("_quantized")
    }
    plain |= {name: whole(name) for name in tables}
    out = {name.removeprefix("net."): value for name, value in plain.items() if name.startswith("net.")}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            module = ".".join(node.name.split("/")[2:-1])
            name = f"encoder.encoder.{module}.weight" if module.startswith("layer.") else f"{module}.weight"
            out[name] = np.ascontiguousarray(whole(node.input[1].removesuffix("_quantized")).T)
    return out


def restore(model: Path, out: Path) -> int:
    """Write the checkpoint folder `out` of the model folder `model`; returns the vocabulary size.

    Raises ModelError for a folder that is none, that another program exported, or whose encoder is no BERT.
    """
    folder = ModelFolder.open(model)
    state = weights(onnx.load(str(folder.path / "model.onnx")).graph)
    tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    pad = next((token for token in ("<pad>", "[PAD]") if tokenizer.token_to_id(token) is not None), None)
    labels = Labels.from_dict(folder.read_json("labels.json") | {"temperature": {}})
    try:
        words, positions, types = (len(state[f"encoder.embeddings.{kind}_embeddings.weight"])
                                   for kind in ("word", "position", "token_type"))  # fmt: skip
        config = BertConfig(
            vocab_size=words, hidden_size=len(state["norm.weight"]), type_vocab_size=types,
            num_hidden_layers=1 + max(int(name.split(".")[3]) for name in state if ".layer." in name),
            num_attention_heads=folder.manifest.get("attention heads", 12),
            intermediate_size=len(state["encoder.encoder.layer.0.intermediate.dense.bias"]),
            max_position_embeddings=positions,
            pad_token_id=tokenizer.token_to_id(pad) if pad else 0, pool_after=folder.manifest["tokens halved after layer"],
        )  # fmt: skip
        net = TriageNet(BertModel(config, add_pooling_layer=False), labels)
        tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
        net.load_state_dict(tensors | {"norm.num_batches_tracked": net.norm.num_batches_tracked})
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{model}: not a BERT that training.export wrote ({error}); start from an encoder") from None
    ids = torch.tensor([tokenizer.encode(PROBE).ids])
    with torch.inference_mode():
        apart = float(np.abs(net.eval()(ids).numpy()[0] - OnnxBackend(folder).logits(PROBE)[0]).max())
    if apart > NEAR:
        raise ModelError(f"{model}: what came out answers otherwise (by {apart:.1f}); start from an encoder")
    save_checkpoint(net, PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad), out)
    return words


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
def main(model: Path, out: Path) -> None:
    """Write the checkpoint folder OUT of the model folder MODEL."""
    click.echo(f"{out}: checkpoint with {restore(model, out):,} pieces")


if __name__ == "__main__":
    main()
