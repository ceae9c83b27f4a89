"""How long a step of each optimiser takes for a model of T5-small's shape, beside the reference's and torch's.

Processor time, not time on the clock: neighbours on the machine change it little. That holds for one thread; several
count the time they wait for each other.

    python benchmarks/optimizers.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from machine import describe

import quintet
from quintet.training.optimizers import Adafactor, ScaledAdamW

FIXED = {"lr": 1e-3, "relative_step": False, "scale_parameter": False}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adafactor, relative": Adafactor,
    "Adafactor, fixed": lambda chosen: Adafactor(chosen, **FIXED),
    "ScaledAdamW": ScaledAdamW,
    "transformers Adafactor, relative": transformers.Adafactor,
    "transformers Adafactor, fixed": lambda chosen: transformers.Adafactor(chosen, **FIXED),
    "torch AdamW, fused": lambda chosen: torch.optim.AdamW(chosen, fused=True),
    "torch AdamW, foreach": lambda chosen: torch.optim.AdamW(chosen, foreach=True),
    "torch AdamW, loop": lambda chosen: torch.optim.AdamW(chosen, foreach=False),
    "torch Adafactor, foreach": lambda chosen: torch.optim.Adafactor(chosen, foreach=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(describe())
    model = quintet.T5ForConditionalGeneration(quintet.T5Config())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter).mul_(1e-3)
    print(f"{model.num_parameters() / 1e6:.1f} M parameters\n\n| optimiser | ms a step |\n|---|---|")
    for name, make in OPTIMIZERS.items():
        print(f"| {name} | {_milliseconds(make(model.parameters()), options.steps):.0f} |", flush=True)


def _milliseconds(optimizer: torch.optim.Optimizer, steps: int) -> float:
    """The shortest of several steps after the first, which makes the state."""
    optimizer.step()
    times = []
    for _ in range(steps):
        start = time.process_time()
        optimizer.step()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
