"""How T5's parameters are drawn before training: one table, after mesh-tensorflow and the reference.

Standard deviations absorb what other transformers do by scaling: q is drawn so small that scores need no 1/sqrt(d_kv).
"""

from __future__ import annotations

import re

import torch
from torch import nn

from quintet.config import T5Config
from quintet.model.autocast import CastProduct, is_cast_for_training, product_dtype

FEW_ROWS = 64  # up to here a CPU multiplies faster with the weights on the left


class Linear(nn.Linear):
    """A linear layer that is not drawn when it is made: `initialize` does that, or a checkpoint fills it."""

    def reset_parameters(self) -> None:
        """Nothing: drawing twice would double the time to build a model."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        if self.bias is None and is_cast_for_training(input):
            return CastProduct.apply(input, self.weight, product_dtype(input))
        if not self._suits_few_rows(input):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        return torch.mm(self.weight, rows.t()).t().reshape(*input.shape[:-1], self.out_features)

    def _suits_few_rows(self, input: torch.Tensor) -> bool:
        """Whether this is a decoding step on a CPU in float32.

        BLAS libraries split a product along its left factor. A step has few rows there, and written the other way
        round, as W x^T, it is 1.2 to 2.5 times as fast for 2 to 64 rows; one row is a product of another kind.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or self.bias is not None:
            return False
        on_cpu = input.device.type == "cpu" and input.dtype == self.weight.dtype == torch.float32
        return on_cpu and 1 < input.numel() // self.in_features <= FEW_ROWS


class Embedding(nn.Embedding):
    """An embedding that is not drawn when it is made: `initialize` does that, or a checkpoint fills it."""

    def reset_parameters(self) -> None:
        """Nothing: drawing twice would double the time to build a model."""


def _standard_deviations(config: T5Config) -> dict[str, float]:
    """Patterns of parameter names and the standard deviation of each, for initializer_factor 1."""
    d_model, d_kv, d_ff, heads = config.d_model, config.d_kv, config.d_ff, config.num_heads
    return {
        r"(shared|embed_tokens|lm_head)\.weight": 1.0,
        r"Attention\.q\.weight": (d_model * d_kv) ** -0.5,
        r"Attention\.[kv]\.weight": d_model**-0.5,
        r"Attention\.o\.weight": (heads * d_kv) ** -0.5,
        r"relative_attention_bias\.weight": d_model**-0.5,
        r"\.wi(_[01])?\.weight": d_model**-0.5,
        r"\.wo\.weight": d_ff**-0.5,
        r"qa_outputs\.weight": d_model**-0.5,
        r"classification_head\.(dense|out_proj)\.weight": d_model**-0.5,
        r"^classifier\.weight": 1.0,
    }


@torch.no_grad()
def initialize(model: nn.Module, config: T5Config, names: set[str] | None = None) -> None:
    """Draw the parameters of the given names (all if None) anew, in place.

    Normalisation weights become `initializer_factor`, biases of task heads 0, all others normal with mean 0. Raises
    KeyError for a parameter that no rule covers.
    """
    deviations = _standard_deviations(config)
    for name, parameter in model.named_parameters():
        if names is not None and name not in names:
            continue
        if name.endswith("layer_norm.weight"):
            parameter.fill_(config.initializer_factor)
        elif name.endswith(".bias"):
            parameter.zero_()
        else:
            parameter.normal_(0.0, config.initializer_factor * _lookup(deviations, name))


def _lookup(deviations: dict[str, float], name: str) -> float:
    for pattern, deviation in deviations.items():
        if re.search(pattern, name):
            return deviation
    raise KeyError(f"no rule says how {name} is initialised")
