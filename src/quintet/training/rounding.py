"""Training for quantization: losses are those of the rounded weights that the model will have in the end.

Gradients are taken at the rounded weights and move the precise ones behind them (Courbariaux et al., BinaryConnect,
2015), so that the network learns to do without what rounding takes away. Rounding a trained network to 4 bits costs more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from quintet.quantize import QuantizationConfig
from quintet.quantize.linear import linears_to_quantize
from quintet.quantize.packing import dequantize, quantize


class Rounding:
    """The weights of a model's linear layers as `config` rounds them, for as long as a context lasts.

    Without a config nothing is rounded. Raises ValueError if the groups do not divide a layer's inputs.
    """

    def __init__(self, model: nn.Module, config: QuantizationConfig | None) -> None:
        self._config = config
        self._layers = [] if config is None else [layer for _, layer in linears_to_quantize(model, config)]
        with self():
            pass

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the layers have their rounded weights; then the precise ones again."""
        precise = [layer.weight.data for layer in self._layers]
        try:
            for layer in self._layers:
                layer.weight.data = self._rounded(layer.weight.data)
            yield
        finally:
            for layer, weight in zip(self._layers, precise, strict=True):
                layer.weight.data = weight

    def _rounded(self, weight: torch.Tensor) -> torch.Tensor:
        assert self._config is not None
        size = self._config.group_size or weight.shape[1]
        return dequantize(*quantize(weight, self._config.bits, size, weight.dtype))
