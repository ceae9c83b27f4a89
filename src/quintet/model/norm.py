"""T5's normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    """Divides by the root mean square of the last dimension, and scales (Zhang and Sennrich 2019): no mean, no bias."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps

    def forward(self, hidden: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Normalised in float32 and cast to the weight's dtype before it is scaled, then to `dtype` if one is given."""
        # A compiler fuses the steps itself.
        if torch.is_grad_enabled() and hidden.device.type == "cpu" and not torch.compiler.is_compiling():
            if dtype is not None and dtype.itemsize < hidden.dtype.itemsize and bool(self.weight.all()):
                return _NormalisedAndCast.apply(hidden, self.weight, self.variance_epsilon, dtype)
            scaled = _Normalised.apply(hidden, self.weight, self.variance_epsilon)
        else:
            normalised = F.rms_norm(hidden.float(), self.weight.shape, eps=self.variance_epsilon)
            scaled = self.weight * normalised.to(self.weight.dtype)
        return scaled if dtype is None else scaled.to(dtype)


class _Normalised(torch.autograd.Function):
    """What `RMSNorm` computes, for training: of its steps, only the input is kept for the backward pass."""

    @staticmethod
    def forward(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """(..., size) to the same."""
        states = hidden.float()
        return weight * (states * _inverse_root(states, eps)).to(weight.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, float], output: torch.Tensor) -> None:
        """Keep the input and the weight."""
        hidden, weight, ctx.eps = inputs
        ctx.save_for_backward(hidden, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """See `_gradients`."""
        hidden, weight = ctx.saved_tensors
        states = hidden.float()
        inverse = _inverse_root(states, ctx.eps)
        of_hidden, of_weight = _gradients(gradient, states * inverse, weight, inverse)
        return of_hidden.to(hidden.dtype), of_weight, None


class _NormalisedAndCast(torch.autograd.Function):
    """The same, in the type that autocast's products take, which keep it anyway: so the input is not kept.

    Divided by the weight, which must not be 0, the result is the input over its root mean square; to as many digits as
    its gradient has.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """(..., size) to the same in `dtype`."""
        states = hidden.float()
        inverse = _inverse_root(states, eps)
        result = (weight * (states * inverse).to(weight.dtype)).to(dtype)
        ctx.save_for_backward(result, weight, inverse)
        ctx.hidden_dtype = hidden.dtype
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        """See `_gradients`."""
        result, weight, inverse = ctx.saved_tensors
        of_hidden, of_weight = _gradients(gradient, result.float() / weight.float(), weight, inverse)
        return of_hidden.to(ctx.hidden_dtype), of_weight, None, None


def _gradients(
    gradient: torch.Tensor, normalised: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the input, in float32, and of the weight, by that of the result.

    With n = x / rms(x): the gradient of n, less its part along n, over rms(x).
    """
    scale, of_output = weight.float(), gradient.float()
    products = (of_output * normalised).flatten(0, -2)
    of_weight = products.sum(dim=0)
    along = torch.mv(products, scale).view_as(inverse) / len(scale)
    of_hidden = (of_output * scale).addcmul_(normalised, along, value=-1).mul_(inverse)
    return of_hidden, of_weight.to(weight.dtype)


def _inverse_root(states: torch.Tensor, eps: float) -> torch.Tensor:
    """One over the root mean square of the last dimension, (..., 1)."""
    norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    return (norm.square() / states.shape[-1] + eps).rsqrt()
