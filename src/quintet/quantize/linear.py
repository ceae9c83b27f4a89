"""Linear layers whose weights are small integers, and how they take the place of a network's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from quintet.quantize.config import QuantizationConfig
from quintet.quantize.packing import STORAGE, dequantize, packed_shapes, quantize


class QuantizedLinear(nn.Module):
    """A linear layer without bias; its weight is turned back into floats each time it is used.

    `weight` holds the integers, (outputs, inputs) as int8 or (outputs, inputs / 2) as uint8 with two in a byte;
    `weight_scale` (outputs, groups) holds the scales. The dtype of the scales is the layer's: a cast of the model casts
    them, and the product is computed in it. Saves memory, not time. It passes gradients on to its input, and refuses to
    run in training mode, where its weights would silently stay as they are.
    """

    def __init__(self, in_features: int, out_features: int, config: QuantizationConfig) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, config.bits
        self.group_size = config.group_size or in_features
        integers, scales = packed_shapes(out_features, in_features, self.bits, self.group_size)
        self._set(torch.empty(integers, dtype=STORAGE[self.bits]), torch.empty(scales))

    def _set(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)

    def round_from(self, weight: torch.Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Take over a weight (outputs, inputs) of floats, with scales of `dtype`, on `device`."""
        integers, scale = quantize(weight, self.bits, self.group_size, dtype)
        self._set(integers.to(device), scale.to(device))

    def dequantized(self) -> torch.Tensor:
        """The weight (outputs, inputs) that the layer computes with."""
        return dequantize(self.weight, self.weight_scale)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs); RuntimeError in training."""
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                f"{self.bits}-bit weights cannot be trained: load the model without quantization_config, or call "
                "model.eval()"
            )
        return F.linear(hidden.to(self.weight_scale.dtype), self.dequantized())

    def extra_repr(self) -> str:
        """What `print(model)` says of the layer."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bits={self.bits}, group_size={self.group_size}"


def linears_to_quantize(model: nn.Module, config: QuantizationConfig) -> list[tuple[str, nn.Linear]]:
    """The layers, by name, whose weights `config` rounds. Raises ValueError for one that is tied with the embeddings."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found = []
    for name, module in model.named_modules():
        kept = any(part in config.modules_to_not_convert for part in name.split("."))
        if not isinstance(module, nn.Linear) or module.bias is not None or kept:
            continue
        if id(module.weight) in embeddings:
            raise ValueError(f"{name} is tied with the embeddings: add it to modules_to_not_convert")
        found.append((name, module))
    return found


def replace_linears(model: nn.Module, config: QuantizationConfig) -> None:
    """Put empty quantized layers where `config` wants them, on the current default device.

    Raises ValueError, naming the layer, if the groups do not divide its inputs, or if it is tied with the embeddings.
    """
    for name, linear in linears_to_quantize(model, config):
        try:
            model.set_submodule(name, QuantizedLinear(linear.in_features, linear.out_features, config))
        except ValueError as error:
            raise ValueError(f"{name} cannot be quantized: {error}") from error
