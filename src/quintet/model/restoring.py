"""A rounded model turned back into one of floats: the weights that it computes with, as its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quintet.model.init import Embedding, Linear
from quintet.quantize import QuantizedEmbedding, QuantizedLayer

if TYPE_CHECKING:
    from quintet.model.pretrained import T5PreTrainedModel


def restore_floats(model: T5PreTrainedModel) -> None:
    """Put layers of floats in the place of quantized ones. Raises ValueError if there are none."""
    weights: dict[nn.Parameter, nn.Parameter] = {}  # a vocabulary may be both embeddings and output layer
    layers: dict[QuantizedLayer, nn.Module] = {}  # and embeddings have several places
    for path, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, QuantizedLayer):
            continue
        if layer.weight not in weights:
            weights[layer.weight] = nn.Parameter(layer.dequantized())
        if layer not in layers:
            layers[layer] = _layer_of_floats(layer, weights[layer.weight])
        model.set_submodule(path, layers[layer])
    if not layers:
        raise ValueError("the model is not quantized: it has no weights that quintet has rounded")
    for config in (model.config, *(stack.config for stack in model.stacks)):
        vars(config).pop("quantization_config", None)


def _layer_of_floats(layer: QuantizedLayer, weight: nn.Parameter) -> nn.Module:
    rows, columns = layer.full_shape
    with torch.device("meta"):
        is_table = isinstance(layer, QuantizedEmbedding)
        restored = Embedding(rows, columns) if is_table else Linear(columns, rows, bias=False)
    restored.weight = weight
    return restored.train(layer.training)
