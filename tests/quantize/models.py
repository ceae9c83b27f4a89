"""Checkpoints to quantize, quantized models beside plain ones with the same rounded weights, and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import quintet
from quintet.quantize import QuantizedLayer

from ..model.reference import VARIANTS, Pair, make_pair

WIDE_ENOUGH = {"d_ff": 64}  # int4 rounds in groups of 32


def saved(tmp_path: Path, head: str = "ForConditionalGeneration", variant: str = "t5", **changes: Any) -> Path:
    make_pair(head, variant, **WIDE_ENOUGH, **changes).theirs.save_pretrained(tmp_path / "float")
    return tmp_path / "float"


def load(folder: Path, head: str = "ForConditionalGeneration", **options: Any) -> Any:
    return getattr(quintet, f"T5{head}").from_pretrained(folder, **options)


def quantized_layers(model: Any) -> dict[str, QuantizedLayer]:
    """By name; of layers with one weight, the first."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer) and f"{name}.weight" not in model.tied_names()
    }


@torch.no_grad()
def rounded_pair(library: Any, folder: Path, head: str, quantization: Any, variant: str = "t5", **options: Any) -> Pair:
    """A quantized model, and a plain one of `library` with the weights that its integers stand for."""
    options["attn_implementation"] = "eager"
    name = f"{VARIANTS[variant].family}{head}"
    # The native engine rounds activations, too.
    ours = getattr(quintet, name).from_pretrained(folder, quantization_config=quantization, engine="eager", **options)
    theirs = getattr(library, name).from_pretrained(folder, **options).eval()
    for path, layer in quantized_layers(ours).items():
        weight = theirs.get_parameter(f"{path}.weight")
        assert weight.dtype == layer.dequantized().dtype, path
        assert not torch.equal(weight, layer.dequantized()), path
        weight.copy_(layer.dequantized())
    return Pair(ours, theirs)


def assert_equal_models(one: Any, other: Any) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert other.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(other.state_dict()[name], tensor), name


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(values)
    (folder / "config.json").write_text(json.dumps({name: v for name, v in config.items() if v is not None}))
