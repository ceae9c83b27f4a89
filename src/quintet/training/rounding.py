"""Training for quantization: losses are those of the rounded weights that the model will have in the end.

Gradients are taken at the rounded weights and move the precise ones behind them (Courbariaux et al., BinaryConnect,
2015): the network learns to do without what rounding takes away. Rounding it to 4 bits afterwards costs more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from quintet.model.pretrained import T5PreTrainedModel
from quintet.quantize import VOCABULARY, QuantizationConfig, linears_to_quantize
from quintet.quantize.packing import dequantize, quantize


class Rounding:
    """The weights of a model as `config` rounds them, for as long as a context lasts.

    Without a config nothing is rounded. Raises ValueError if the groups do not divide a layer's inputs.
    """

    def __init__(self, model: T5PreTrainedModel, config: QuantizationConfig | None) -> None:
        self._alike: dict[tuple[QuantizationConfig, int, torch.dtype], list[torch.Tensor]] = {}
        for weight, how in [] if config is None else _weights_to_round(model, config):
            self._alike.setdefault((how, weight.shape[1], weight.dtype), []).append(weight)
        with self():
            pass

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the layers have their rounded weights; then the precise ones again."""
        precise = [(weight, weight.data) for weights in self._alike.values() for weight in weights]
        try:
            for (how, *_), weights in self._alike.items():
                for weight, rounded in zip(weights, _rounded(weights, how), strict=True):
                    weight.data = rounded
            yield
        finally:
            for weight, data in precise:
                weight.data = data


def _weights_to_round(
    model: T5PreTrainedModel, config: QuantizationConfig
) -> list[tuple[torch.Tensor, QuantizationConfig]]:
    """Each with how it is rounded; tied ones come once."""
    linears = [(layer.weight, config) for _, layer in linears_to_quantize(model, config)]
    if config.vocabulary_bits is None:
        return linears
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = {id(table.weight): table.weight for table in tables if table is not None}
    return [*linears, *((weight, VOCABULARY) for weight in weights.values())]


def _rounded(weights: Sequence[torch.Tensor], config: QuantizationConfig) -> Sequence[torch.Tensor]:
    """Weights of one type and equally many inputs, rounded as one: on a GPU one alone is many kernels and a wait."""
    together = torch.cat([weight.data for weight in weights])
    rounded = dequantize(*quantize(together, config.bits, config.group_size or together.shape[1], together.dtype))
    return rounded.split([len(weight) for weight in weights])
