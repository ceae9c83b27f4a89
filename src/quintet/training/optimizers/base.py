"""What quintet's optimisers have in common: one rule for a parameter, and a state in float32 that survives saving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

Pair = tuple[torch.Tensor, torch.Tensor]  # a parameter and its gradient


class ParameterwiseOptimizer(torch.optim.Optimizer):
    """An optimiser whose subclass says how a group of parameters moves, in `update_group`.

    The state is float32 whatever type the parameters have, and stays so through `state_dict`.
    """

    grad_scale: torch.Tensor | None = None
    """A scalar that `step` divides gradients by, as torch's fused optimisers do; None: they are taken as they are."""

    def update_group(self, group: dict[str, Any], pairs: list[Pair], grad_scale: torch.Tensor | None) -> None:
        """Move parameters of the group, given with their gradients, which are still to be divided by grad_scale."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters; with a closure, which computes the loss anew, returns its loss.

        Raises ValueError for sparse gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            pairs = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            if any(gradient.is_sparse for _, gradient in pairs):
                raise ValueError(f"{type(self).__name__} needs dense gradients: nn.Embedding(..., sparse=False)")
            self.update_group(group, pairs, self.grad_scale)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, exactly: torch alone would round float32 states of bfloat16 parameters."""
        super().load_state_dict(state_dict)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, parameter in zip(saved, parameters, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                self.state[parameter][name] = value.detach().to(self.state[parameter][name].device, copy=True)


def divides_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` itself divides gradients by the optimiser's `grad_scale`; for others they are shortened before."""
    if type(optimizer) is torch.optim.AdamW:
        return all(group["fused"] for group in optimizer.param_groups)
    return isinstance(optimizer, ParameterwiseOptimizer)


def root_mean_square(tensor: torch.Tensor) -> torch.Tensor:
    """The root of the mean of the squares, a float32 scalar; of a sharded tensor as a whole."""
    norm = torch.linalg.vector_norm(tensor, dtype=torch.float32)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return norm / tensor.numel() ** 0.5
