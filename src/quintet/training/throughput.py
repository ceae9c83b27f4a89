"""How much of what the machine can do training makes use of."""

from __future__ import annotations

import time

import torch

from quintet.model.heads import T5ForConditionalGeneration
from quintet.model.stack import T5Stack
from quintet.training.loop import Step

SIZE = 1024  # of the matrices that are multiplied to measure the peak
SECONDS = 0.1
OF_SOURCE = ("EncDecAttention.k.weight", "EncDecAttention.v.weight")
"""Weights of the decoder that are multiplied with the source's tokens."""


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product on this device: the best of several, as others may use it too."""
    size = SIZE if device.type == "cpu" else 8 * SIZE
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, begin = 0.0, time.perf_counter()
    while time.perf_counter() - begin < SECONDS or not best:
        started = time.perf_counter()
        _ = torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


class Work:
    """What a model's steps need in operations: its weights' products with real tokens, forward and backward.

    Attention's own products, padding, and what gradient checkpointing computes again are not counted.
    """

    def __init__(self, model: T5ForConditionalGeneration) -> None:
        decoder = _matrices(model.get_decoder())
        of_source = {name: size for name, size in decoder.items() if name.endswith(OF_SOURCE)}
        self._source = sum(_matrices(model.get_encoder()).values()) + sum(of_source.values())
        self._target = sum(decoder.values()) - sum(of_source.values()) + model.lm_head.weight.numel()

    def of(self, step: Step) -> float:
        """Operations: a multiplication and an addition a weight and token, once forward and twice backward."""
        return 6.0 * (self._source * step.source_tokens + self._target * step.target_tokens)


def _matrices(stack: T5Stack) -> dict[str, int]:
    """The sizes of the weights that a stack multiplies its states by."""
    return {
        name: parameter.numel()
        for name, parameter in stack.block.named_parameters()
        if parameter.dim() == 2 and "relative_attention_bias" not in name
    }
