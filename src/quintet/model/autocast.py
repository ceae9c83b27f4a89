"""Products under autocast: which type they are computed in, and what of them is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch

from quintet.model.products import as_rows, factor, multiply, project


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

    As autocast would have it, but for what it keeps and copies until the backward pass: of weights a copy only where
    PyTorch multiplies them (products.py) and they learn, of states none if the weights are frozen; and in it no copy of
    a weight for each row of a batch. A weight of which there is no copy must not change in place until then.
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
            return project(states, read)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """In the types of what they belong to; PyTorch's products, as autocast has them, in `dtype` first."""
        states, weight = ctx.saved_tensors
        # As a matrix: of a gradient that is laid out otherwise matmul would make a batch, and a copy of the weight for
        # each of its products.
        rows = as_rows(gradient)
        of_states = of_weight = None
        if ctx.needs_input_grad[0]:
            product = multiply(rows, factor(weight, rows), ctx.states_dtype)
            of_states = product.view(*gradient.shape[:-1], weight.shape[1])
        if ctx.needs_input_grad[1]:
            of_weight = multiply(rows.t(), as_rows(states), ctx.weight_dtype)
        return of_states, of_weight, None
