"""Layers whose weights are small integers, and how they take the place of a network's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from quintet.quantize.config import OUTPUT, QuantizationConfig
from quintet.quantize.packing import STORAGE, dequantize, packed_shapes, quantize

FEW_ROWS = 64
VOCABULARY = QuantizationConfig(8)
"""How a vocabulary is rounded, embeddings and output layer alike: they may be one table."""


class QuantizedLayer(nn.Module):
    """What holds a weight (rows, columns) of small integers and turns it back into floats each time it is used.

    `weight` holds the integers, (rows, columns) as int8 or (rows, columns / 2) as uint8 with two in a byte;
    `weight_scale` (rows, groups) holds the scales. The dtype of the scales is the layer's: a cast of the model casts
    them, and the layer computes in it. Saves memory, and time only where the native engine computes in its place, or in
    steps of bfloat16 (`QuantizedLinear`). Refuses to run in training mode, where its weights would silently stay as
    they are.
    """

    def __init__(self, rows: int, columns: int, config: QuantizationConfig) -> None:
        super().__init__()
        self.full_shape, self.bits = torch.Size((rows, columns)), config.bits
        self.group_size = config.group_size or columns
        integers, scales = packed_shapes(rows, columns, self.bits, self.group_size)
        self._set(torch.empty(integers, dtype=STORAGE[self.bits]), torch.empty(scales))

    def _set(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)

    def round_from(self, weight: torch.Tensor, dtype: torch.dtype, device: torch.device) -> None:
        """Take over a weight (rows, columns) of floats, with scales of `dtype`, on `device`."""
        integers, scale = quantize(weight, self.bits, self.group_size, dtype)
        self._set(integers.to(device), scale.to(device))

    def dequantized(self) -> torch.Tensor:
        """The weight (rows, columns) that the layer computes with."""
        return dequantize(self.weight, self.weight_scale)

    def _refuse_training(self) -> None:
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                f"{self.bits}-bit weights cannot be trained: load the model without quantization_config, make floats "
                "of them (model.dequantize()), or call model.eval()"
            )


class QuantizedLinear(QuantizedLayer):
    """A linear layer without bias, of a weight (outputs, inputs); it passes gradients on to its input."""

    def __init__(self, in_features: int, out_features: int, config: QuantizationConfig) -> None:
        super().__init__(out_features, in_features, config)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., inputs) to (..., outputs); RuntimeError in training."""
        self._refuse_training()
        hidden = hidden.to(self.weight_scale.dtype)
        if not self._suits_few_rows(hidden):
            return F.linear(hidden, self.dequantized())
        rows = torch._weight_int8pack_mm(hidden.reshape(-1, self.in_features), self.weight, self.weight_scale.flatten())
        return rows.reshape(*hidden.shape[:-1], self.out_features)

    def _suits_few_rows(self, hidden: torch.Tensor) -> bool:
        """Whether this is a decoding step on a CPU in bfloat16, of 8-bit weights without groups.

        PyTorch multiplies these as they are: 4 to 7 times as fast as by way of floats. In float32 it is no faster, and
        of other numbers of inputs or outputs it reads what lies behind them.
        """
        if self.bits != 8 or self.group_size != self.in_features or torch.compiler.is_compiling():
            return False
        if self.in_features % 32 or self.out_features % 32:
            return False
        if torch.is_grad_enabled() or hidden.device.type != "cpu" or hidden.dtype != torch.bfloat16:
            return False
        return hidden.numel() <= FEW_ROWS * self.in_features

    def extra_repr(self) -> str:
        """What `print(model)` says of the layer."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, bits={self.bits}, group_size={self.group_size}"


class QuantizedEmbedding(QuantizedLayer):
    """An embedding table of 8-bit integers with a scale for each row; only the rows asked for become floats."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__(num_embeddings, embedding_dim, VOCABULARY)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim

    @property
    def dtype(self) -> torch.dtype:
        """Of the embeddings that come out."""
        return self.weight_scale.dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) to (..., embedding_dim); RuntimeError in training."""
        self._refuse_training()
        return F.embedding(ids, self.weight).to(self.dtype).mul_(F.embedding(ids, self.weight_scale))

    def extra_repr(self) -> str:
        """What `print(model)` says of the layer."""
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}"


def linears_to_quantize(model: nn.Module, config: QuantizationConfig) -> list[tuple[str, nn.Linear]]:
    """The layers, by name, whose weights `config` rounds as those of linear layers.

    Raises ValueError for one that is tied with the embeddings.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    kept = {*config.modules_to_not_convert, *(() if config.vocabulary_bits is None else (OUTPUT,))}
    found: list[tuple[str, nn.Linear]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module.bias is not None or not kept.isdisjoint(name.split(".")):
            continue
        if id(module.weight) in embeddings:
            raise ValueError(
                f"{name} is tied with the embeddings: add it to modules_to_not_convert, or round both with "
                "vocabulary_bits=8"
            )
        found.append((name, module))
    return found


def replace_linears(model: nn.Module, config: QuantizationConfig) -> None:
    """Put empty quantized layers where `config` wants them, on the current default device.

    Raises ValueError, naming the layer, if the groups do not divide its inputs, or if it is tied with the embeddings.
    """
    for name, linear in linears_to_quantize(model, config):
        model.set_submodule(name, _quantized(name, linear, config))


def _quantized(name: str, linear: nn.Linear, config: QuantizationConfig) -> QuantizedLinear:
    try:
        return QuantizedLinear(linear.in_features, linear.out_features, config)
    except ValueError as error:
        raise ValueError(f"{name} cannot be quantized: {error}") from error
