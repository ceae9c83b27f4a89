"""Adafactor (Shazeer and Stern, 2018), the optimiser that T5 was trained with.

Adam's second moment of a matrix, as large as the matrix, is replaced by the averages of its rows and of its columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from quintet.training.optimizers.base import Pair, ParameterwiseOptimizer, root_mean_square

IN_CACHE = 2**17  # numbers of a matrix that each thread works on at a time, 512 KB


class Adafactor(ParameterwiseOptimizer):
    """Adafactor with the arguments, the defaults and the steps of `transformers.optimization.Adafactor`.

    relative_step: the step size is min(1e-2, 1/sqrt(step)), or with warmup_init min(1e-6 * step, 1/sqrt(step)); no lr.
    Without it lr is the step size, and schedules apply: T5 is fine-tuned with a constant 1e-3.
    scale_parameter: the step size is relative to the parameter's root mean square, but at least eps[1].
    eps: what is added to squared gradients, and the smallest scale of a parameter.
    clip_threshold: the largest root mean square of an update, before the step size.
    decay_rate: the second moment forgets with 1 - step**decay_rate.
    beta1: average updates over steps too (a state as large as the parameters); None for T5.
    bfloat16 parameters are rounded after each step, as in the reference: small steps are lost (not by `ScaledAdamW`).

    Raises ValueError for lr with relative_step, for neither, and for warmup_init without relative_step.
    """

    def __init__(
        self,
        params: Any,
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See torch. Raises ValueError for options that contradict each other."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["relative_step"] and group["lr"] is not None:
            raise ValueError("give lr or relative_step=True, not both")
        if not group["relative_step"] and group["lr"] is None:
            raise ValueError("relative_step=False needs a learning rate: lr=1e-3")
        if group["warmup_init"] and not group["relative_step"]:
            raise ValueError("warmup_init=True needs relative_step=True")

    def update_group(self, group: dict[str, Any], pairs: list[Pair], grad_scale: torch.Tensor | None) -> None:
        """Move the parameters of a group, one by one."""
        shrinkage = 1.0 if grad_scale is None else grad_scale.reciprocal()
        for parameter, gradient in pairs:
            gradient = gradient.float()
            if not self.state[parameter]:
                self.state[parameter] = _first_state(gradient, with_momentum=group["beta1"] is not None)
            state = self.state[parameter]
            state["step"] += 1
            weights = parameter.float()
            size = _step_size(group, weights, state["step"].item())
            factors, of_columns = _update_moments(group, state, gradient, shrinkage)
            typical = _root_mean_square(gradient, factors, of_columns)
            factors.mul_(size / (typical / group["clip_threshold"]).clamp(min=1))
            if group["weight_decay"] != 0:
                weights.mul_(1 - group["weight_decay"] * size)
            momentum = [state["exp_avg"]] if group["beta1"] is not None else []
            for part, of_part, moved, *average in _in_parts(gradient, factors, weights, *momentum):
                scale = of_part if of_columns is None else of_part * of_columns
                if average:
                    moved.sub_(average[0].lerp_(part * scale, 1 - group["beta1"]))
                else:
                    moved.addcmul_(part, scale, value=-1)
            if weights is not parameter:
                parameter.copy_(weights)


def _first_state(gradient: torch.Tensor, with_momentum: bool) -> dict[str, torch.Tensor]:
    state = {"step": torch.zeros(())}
    if with_momentum:
        state["exp_avg"] = torch.zeros_like(gradient)
    if gradient.dim() < 2:
        state["exp_avg_sq"] = torch.zeros_like(gradient)
    else:
        state["exp_avg_sq_row"] = torch.zeros_like(gradient[..., 0])
        state["exp_avg_sq_col"] = torch.zeros_like(gradient[..., 0, :])
    return state


def relative_step_size(step: float, warmup_init: bool) -> float:
    """The step size of the `step`-th step, counted from 1, where no learning rate is given."""
    return min(1e-6 * step if warmup_init else 1e-2, step**-0.5)


def _step_size(group: dict[str, Any], weights: torch.Tensor, step: float) -> float | torch.Tensor:
    size = relative_step_size(step, group["warmup_init"]) if group["relative_step"] else group["lr"]
    if group["scale_parameter"]:
        return size * root_mean_square(weights).clamp(min=group["eps"][1])
    return size


def _update_moments(
    group: dict[str, Any], state: dict[str, torch.Tensor], gradient: torch.Tensor, shrinkage: float | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Moves the second moment; returns what the gradient is multiplied by for an update, as one factor or two.

    That is shrinkage over the root of the second moment of the shrunken gradient. A matrix of second moments,
    rows x columns / mean, is never made: the factors are (..., rows, 1), (..., 1, columns).
    """
    freshness, tiny = state["step"].item() ** group["decay_rate"], group["eps"][0]
    if "exp_avg_sq" in state:
        squares = (gradient * shrinkage).square_().add_(tiny)
        return state["exp_avg_sq"].lerp_(squares, freshness).rsqrt().mul_(shrinkage), None
    of_rows, of_columns = (means * shrinkage**2 + tiny for means in _means_of_squares(gradient))
    rows = state["exp_avg_sq_row"].lerp_(of_rows, freshness)
    columns = state["exp_avg_sq_col"].lerp_(of_columns, freshness)
    factors = (rows / rows.mean(dim=-1, keepdim=True)).rsqrt_().mul_(shrinkage)
    return factors.unsqueeze(-1), columns.rsqrt().unsqueeze(-2)


def _means_of_squares(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the rows and of the columns of a matrix, (..., rows) and (..., columns)."""
    of_rows, of_columns = [], gradient.new_zeros(())
    for (part,) in _in_parts(gradient):
        squares = part.square()
        of_rows.append(squares.mean(dim=-1))
        of_columns = of_columns + squares.mean(dim=-2) * (part.shape[-2] / gradient.shape[-2])
    return _joined(of_rows), of_columns


def _root_mean_square(gradient: torch.Tensor, factors: torch.Tensor, of_columns: torch.Tensor | None) -> torch.Tensor:
    """Of the gradient times its factors; of a matrix the product is not made."""
    if of_columns is None:
        return root_mean_square(gradient * factors)
    weights = of_columns.square()
    of_rows = [part.square().mul_(weights).mean(dim=-1, keepdim=True) for (part,) in _in_parts(gradient)]
    return root_mean_square(_joined(of_rows).sqrt_().mul_(factors))


def _in_parts(*tensors: torch.Tensor) -> Iterable[tuple[torch.Tensor, ...]]:
    """A matrix, and what else has its rows, a few rows at a time on a CPU: one part after the other.

    What several operations read, and what they make for each other, stays in the cores' caches in this way.
    """
    first, at_once = tensors[0], IN_CACHE * torch.get_num_threads()
    if first.device.type != "cpu" or first.dim() != 2 or first.numel() <= at_once or isinstance(first, DTensor):
        return [tensors]
    return zip(*(one.split(max(1, at_once // first.shape[1])) for one in tensors), strict=True)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]
