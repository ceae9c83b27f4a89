"""AdamW whose steps are relative to the size of what they change, as Adafactor's are.

nanoT5 (Nawrot, 2023) found that this is what Adafactor owes its success with T5 to: with it AdamW trains T5 from
scratch, and better. Its learning rate is accordingly larger: 2e-2 there. Plain AdamW is torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.adamw import adamw

from quintet.training.optimizers.base import Pair, ParameterwiseOptimizer, root_mean_square

SMALLEST_SCALE = 1e-3  # of a parameter: zeros could not move otherwise; Adafactor's value


class ScaledAdamW(ParameterwiseOptimizer):
    """AdamW with the learning rate times the parameter's root mean square, at least 1e-3. Weight decay is not scaled.

    Parameters in half precision, whose steps would mostly be rounded away (bfloat16 has 8 bits, a step of 1e-3 needs
    more), are summed after Kahan: what rounding took is kept, as a second number of the same type, and added to the
    next step. Moments are float32.

    Raises ValueError for a negative lr, eps or weight_decay, and betas outside [0, 1).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update_group(self, group: dict[str, Any], pairs: list[Pair], grad_scale: torch.Tensor | None) -> None:
        """Move the parameters of a group, each by torch's AdamW with a learning rate of its own."""
        if not pairs:
            return
        # Together: on a GPU each number that Python reads is a wait.
        scales = torch.stack([root_mean_square(parameter) for parameter, _ in pairs]).clamp(min=SMALLEST_SCALE)
        for (parameter, gradient), scale in zip(pairs, scales.tolist(), strict=True):
            if not self.state[parameter]:
                self.state[parameter] = _first_state(parameter)
            state = self.state[parameter]
            if "rounded_off" not in state:
                _step(group, scale, parameter, gradient, grad_scale, state)
                continue
            weights = parameter.float().add_(state["rounded_off"])
            _step(group, scale, weights, gradient.float(), grad_scale, state)
            parameter.copy_(weights)
            state["rounded_off"].copy_(weights.sub_(parameter))


def _first_state(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    state = {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, dtype=torch.float32),
        "exp_avg_sq": torch.zeros_like(parameter, dtype=torch.float32),
    }
    if torch.finfo(parameter.dtype).bits == 16:
        state["rounded_off"] = torch.zeros_like(parameter)
    return state


def _step(
    group: dict[str, Any],
    scale: float,
    weights: torch.Tensor,
    gradient: torch.Tensor,
    grad_scale: torch.Tensor | None,
    state: dict[str, torch.Tensor],
) -> None:
    beta1, beta2 = group["betas"]
    adamw(
        [weights],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        grad_scale=grad_scale,
        fused=True,  # one pass over the memory, on a CPU too: four times as fast there as torch's other two ways
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"] * scale,
        weight_decay=group["weight_decay"] / scale,  # torch multiplies it by the learning rate
        eps=group["eps"],
        maximize=False,
    )
