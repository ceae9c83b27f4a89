"""How the learning rate changes over the steps: factors of its peak, after a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

TIMESCALE = 10_000  # steps after which the inverse square root without a warm-up has fallen to 0.7; T5's warm-up


def _constant(step: int, warmup: int, total: int) -> float:
    return 1.0


def _linear(step: int, warmup: int, total: int) -> float:
    return max(0.0, (total - step) / max(1, total - warmup))


def _cosine(step: int, warmup: int, total: int) -> float:
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _inverse_square_root(step: int, warmup: int, total: int) -> float:
    timescale = warmup or TIMESCALE
    return (1 + (step - warmup) / timescale) ** -0.5


SHAPES: dict[str, Callable[[int, int, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_square_root,
}


def schedule(name: str, warmup_steps: int = 0, total_steps: int | None = None) -> Callable[[int], float]:
    """The factor of the learning rate at a step, counted from 0: from 0 up to 1 in `warmup_steps`, then the shape.

    "constant"; "linear" and "cosine", which reach 0 at total_steps and stay there; "inverse_sqrt", sqrt(warmup/step)
    (without a warm-up, as if 10,000 steps had gone before). Raises ValueError for another name, for steps that are
    negative, and for a falling schedule without total_steps or one that ends within its warm-up.
    """
    if name not in SHAPES:
        raise ValueError(f"a schedule is one of {', '.join(SHAPES)}; got {name!r}")
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
    if name in ("linear", "cosine") and total_steps is None:
        raise ValueError(f"a {name} schedule needs the number of all steps: total_steps")
    if total_steps is not None and total_steps < warmup_steps:
        raise ValueError(f"the warm-up of {warmup_steps} steps does not fit into {total_steps} steps")
    shape, total = SHAPES[name], total_steps or 0

    def factor(step: int) -> float:
        return step / warmup_steps if step < warmup_steps else shape(step, warmup_steps, total)

    return factor


def scheduler(optimizer: Optimizer, name: str, warmup_steps: int = 0, total_steps: int | None = None) -> LambdaLR:
    """torch's scheduler that multiplies the optimiser's learning rates by `schedule`.

    Raises ValueError as `schedule` does, and for an optimiser that sizes its steps itself.
    """
    if any(group["lr"] is None for group in optimizer.param_groups):
        raise ValueError("the optimizer has no learning rate to schedule: relative_step=True sizes the steps itself")
    return LambdaLR(optimizer, schedule(name, warmup_steps, total_steps))
