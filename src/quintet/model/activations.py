"""The activations that `feed_forward_proj` may name, under the names published configurations use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU approximated by a sigmoid, as in OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def gelu_fast(x: torch.Tensor) -> torch.Tensor:
    """The tanh approximation with its constants rounded as `transformers` writes them."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def relu2(x: torch.Tensor) -> torch.Tensor:
    """Squared ReLU (Primer, arXiv:2109.08668)."""
    return F.relu(x).square()


def linear(x: torch.Tensor) -> torch.Tensor:
    """No activation (a bilinear layer when gated)."""
    return x


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": gelu_fast,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
    "leaky_relu": F.leaky_relu,
    "relu2": relu2,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "linear": linear,
}
