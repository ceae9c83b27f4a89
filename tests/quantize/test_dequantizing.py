"""Rounded models turned back into floats: the reference's model with the rounded weights, in memory and in files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from quintet.quantize import QuantizationConfig, QuantizedLayer

from ..model.reference import HEADS, assert_same, make_batch, make_pair
from .models import assert_equal_models, load, rounded_pair, saved

ROUNDINGS = {
    "int8": QuantizationConfig(8),
    "int4": QuantizationConfig(4, 32),
    "int4, vocabulary": QuantizationConfig(4, 16, vocabulary_bits=8),
}
GENERATING = "ForConditionalGeneration"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("variant", ["t5", "v1.1", "umt5"])
def test_the_weights_are_those_it_computed_with(
    variant: str, rounding: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = saved(tmp_path, GENERATING, variant)
    ours, theirs = rounded_pair(transformers, folder, GENERATING, ROUNDINGS[rounding], variant, dtype=dtype)
    assert ours.dequantize() is ours
    assert not any(isinstance(module, QuantizedLayer) for module in ours.modules())
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize("head", HEADS)
def test_every_head(head: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, head)
    ours, theirs = rounded_pair(transformers, folder, head, ROUNDINGS["int4, vocabulary"])
    batch = make_batch(head)
    with torch.no_grad():
        assert_same(ours.dequantize()(**batch)[0], theirs(**batch)[0])


@pytest.mark.parametrize(("variant", "tied"), [("t5", True), ("v1.1", False)])
def test_saved_it_is_a_checkpoint_like_any_other(variant: str, tied: bool, tmp_path: Path) -> None:
    folder, output = saved(tmp_path, GENERATING, variant), tmp_path / "restored"
    model = load(folder, quantization_config=ROUNDINGS["int4, vocabulary"]).dequantize()
    assert (model.lm_head.weight is model.shared.weight) == tied
    assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.shared
    model.save_pretrained(output)
    tensors = load_file(output / "model.safetensors")
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    for name in ("quantization_config", "vocabulary_bits"):
        assert name not in (output / "config.json").read_text()
    theirs, report = transformers.T5ForConditionalGeneration.from_pretrained(output, output_loading_info=True)
    assert not any(report.values())
    assert_equal_models(model, theirs)


def test_it_can_be_trained(tmp_path: Path) -> None:
    model = load(saved(tmp_path), quantization_config=ROUNDINGS["int4, vocabulary"]).dequantize().train()
    before = copy.deepcopy(model.state_dict())
    model(**make_batch(GENERATING)).logits.square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"} <= moved


def test_a_model_of_floats_is_refused() -> None:
    model = make_pair(GENERATING).ours
    with pytest.raises(ValueError, match="not quantized"):
        model.dequantize()
