"""Training for quantization: losses are those of the rounded weights that the model will have in the end.

Gradients are taken at the rounded weights and move the precise ones behind them (Courbariaux et al., BinaryConnect,
2015): the network learns to do without what rounding takes away. Rounding it to 4 bits afterwards costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from quintet.model.pretrained import T5PreTrainedModel
from quintet.quantize import VOCABULARY, QuantizationConfig, linears_to_quantize
from quintet.quantize.packing import dequantize, quantize

NUMBERS_TOGETHER = 2**24


class Rounding:
    """The weights of a model as `config` rounds them, for as long as a context lasts.

    Without a config nothing is rounded. Raises ValueError if the groups do not divide a layer's inputs.
    """

    def __init__(self, model: T5PreTrainedModel, config: QuantizationConfig | None) -> None:
        self._groups = [] if config is None else _groups(_weights_to_round(model, config))
        with self():
            pass

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, the layers have their rounded weights; then the precise ones again."""
        precise = [(weight, weight.data) for _, weights in self._groups for weight in weights]
        try:
            for how, weights in self._groups:
                for weight, rounded in zip(weights, _rounded(weights, how), strict=True):
                    weight.data = rounded
            yield
        finally:
            for weight, data in precise:
                weight.data = data


def _groups(
    weights: Iterable[tuple[torch.Tensor, QuantizationConfig]],
) -> list[tuple[QuantizationConfig, list[torch.Tensor]]]:
    """Weights that are rounded as one, and how: on a GPU each alone is many small kernels and a wait.

    They have equally many inputs and one type; there are few of them, as all but the result is memory for a moment.
    """
    found: list[tuple[QuantizationConfig, list[torch.Tensor]]] = []
    open_groups: dict[tuple[QuantizationConfig, int, torch.dtype], list[torch.Tensor]] = {}
    for weight, how in weights:
        group = open_groups.get((how, weight.shape[1], weight.dtype))
        if group is None or sum(one.numel() for one in group) + weight.numel() > NUMBERS_TOGETHER:
            group = open_groups[how, weight.shape[1], weight.dtype] = []
            found.append((how, group))
        group.append(weight)
    return found


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
    """Weights of one type and equally many inputs, rounded as one."""
    together = torch.cat([weight.data for weight in weights])
    rounded = dequantize(*quantize(together, config.bits, config.group_size or together.shape[1], together.dtype))
    return rounded.split([len(weight) for weight in weights])
