"""Products under autocast: which type they are computed in, and what of them is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch

from quintet.model.products import factor, multiply


def in_autocast(states: torch.Tensor) -> bool:
    """Whether autocast chooses the types of products on the states' device; it knows nothing of "meta"."""
    device = states.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast_dtype(states: torch.Tensor) -> torch.dtype | None:
    """What autocast would cast these states to for a product; None where it is off, or leaves them alone (float64)."""
    if not in_autocast(states) or states.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(states.device.type)


def product_dtype(states: torch.Tensor) -> torch.dtype:
    """What products of these states are computed in: autocast's type, if that is on, else their own."""
    return autocast_dtype(states) or states.dtype


def for_products(states: torch.Tensor) -> torch.Tensor:
    """States in autocast's type, if that is on: cast once for all the products that read them."""
    return states.to(product_dtype(states))


def is_cast_for_training(states: torch.Tensor) -> bool:
    """Whether autocast is on for a product that may be differentiated, on a CPU."""
    if not torch.is_grad_enabled() or states.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return autocast_dtype(states) is not None


class CastProduct(torch.autograd.Function):
    """states (..., inputs) times weight (outputs, inputs), in another type than the weight's.

    As autocast would have it, but for what it keeps and copies: of frozen weights no second copy, and no states, until
    the backward pass; and in it no copy of a weight for each row of a batch.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """(..., outputs) in `dtype`."""
        ctx.states_dtype, ctx.weight_dtype = states.dtype, weight.dtype
        states = states.to(dtype)
        read = factor(weight, states)
        learns = ctx.needs_input_grad[1]
        ctx.save_for_backward(states if learns else None, read if learns else weight)
        with torch.autocast(states.device.type, enabled=False):
            return multiply(_rows(states), read.t(), dtype).view(*states.shape[:-1], len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """As autocast has them: in `dtype` first, then in the type of what they belong to."""
        states, weight = ctx.saved_tensors
        # As a matrix: of a gradient that is laid out otherwise matmul would make a batch, and a copy of the weight for
        # each of its products.
        rows = _rows(gradient)
        of_states = of_weight = None
        if ctx.needs_input_grad[0]:
            product = multiply(rows, factor(weight, rows), ctx.states_dtype)
            of_states = product.view(*gradient.shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[1]:
            of_weight = multiply(rows.t(), _rows(states), ctx.weight_dtype)
        return of_states, of_weight, None


def _rows(states: torch.Tensor) -> torch.Tensor:
    """As a matrix: (..., features) to (rows, features)."""
    return states.reshape(-1, states.shape[-1])
