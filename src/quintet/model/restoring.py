"""A rounded model turned back into one of floats: the weights that it computes with, as its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quintet.model.init import Linear
from quintet.quantize import QuantizedLinear

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel


def restore_floats(model: T5PreTrainedModel) -> None:
    """Put layers of floats in the place of quantized ones. Raises ValueError if there are none."""
    rounded = {path: module for path, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    if not rounded:
        raise ValueError("the model has no weights that quintet has rounded: it is not quantized")
    for path, layer in rounded.items():
        model.set_submodule(path, _linear(layer))
    for config in (model.config, *(stack.config for stack in model.stacks)):
        vars(config).pop("quantization_config", None)


def _linear(layer: QuantizedLinear) -> nn.Linear:
    with torch.device("meta"):
        restored = Linear(layer.in_features, layer.out_features, bias=False)
    restored.weight = nn.Parameter(layer.dequantized())
    return restored.train(layer.training)
