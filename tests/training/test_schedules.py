"""Schedules beside the reference's, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from quintet.training.optimizers import Adafactor
from quintet.training.schedules import schedule, scheduler


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


REFERENCE: dict[str, Callable[..., Any]] = {
    "constant": lambda steps, warmup, total: transformers.get_constant_schedule_with_warmup(steps, warmup),
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "inverse_sqrt": lambda steps, warmup, total: transformers.get_inverse_sqrt_schedule(steps, warmup),
}


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize(("warmup", "total"), [(0, 30), (7, 30), (30, 30), (1, 1)])
def test_learning_rates_are_the_references(name: str, warmup: int, total: int) -> None:
    theirs = REFERENCE[name](optimizer(), warmup, total)
    ours = scheduler(optimizer(), name, warmup, total)
    for _ in range(total):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12, abs=1e-12)
        for one in (ours, theirs):
            one.optimizer.step()
            one.step()


def test_inverse_square_root_is_t5s() -> None:
    """1/sqrt(max(step, k)), relative to its peak, after the warm-up."""
    factor = schedule("inverse_sqrt", warmup_steps=100)
    assert [factor(step) for step in (100, 400, 10_000)] == pytest.approx([1, 1 / 2, 1 / 10])


def test_falling_schedules_end_at_zero_and_stay_there() -> None:
    for name in ("linear", "cosine"):
        factor = schedule(name, 2, 10)
        assert factor(6) == pytest.approx(0.5)
        assert [factor(step) for step in (10, 11, 18)] == pytest.approx([0, 0, 0])
        assert not math.isnan(schedule(name, 10, 10)(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quadratic",), "a schedule is one of constant, linear, cosine, inverse_sqrt; got 'quadratic'"),
        (("constant", -1), "warmup_steps must not be negative, got -1"),
        (("linear", 3), "a linear schedule needs the number of all steps"),
        (("cosine",), "a cosine schedule needs the number of all steps"),
        (("linear", 11, 10), "the warm-up of 11 steps does not fit into 10 steps"),
    ],
)
def test_refusals(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)


def test_an_optimizer_that_sizes_its_steps_has_no_rate_to_schedule() -> None:
    with pytest.raises(ValueError, match="relative_step=True sizes the steps itself"):
        scheduler(Adafactor([nn.Parameter(torch.zeros(1))]), "constant")
