"""How a run goes, for who looks on: a live line on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections import deque
from datetime import timedelta

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from quintet.training.evaluation import Evaluation
from quintet.training.loop import Run, Step
from quintet.training.throughput import Work, measured_peak

STEPS = 20
"""Speed and loss are those of so many last steps."""


class Display:
    """Shows step, loss, real tokens a second, the fraction of the machine's measured peak, and the time left."""

    def __init__(self, run: Run) -> None:
        self._speaks = run.world.is_main
        self._work = Work(run.model)
        bf16 = run.config.run.bf16 or run.config.model.dtype == "bfloat16"
        dtype = torch.bfloat16 if bf16 else torch.float32
        self._peak = measured_peak(run.world.device, dtype) * run.world.size if self._speaks else 1.0
        self._recent: deque[tuple[float, Step]] = deque(maxlen=STEPS)
        self._began = time.perf_counter()
        self._bar: Progress | None = None
        if self._speaks and sys.stderr is not None and sys.stderr.isatty():
            self._bar = Progress(TextColumn("{task.description}"), BarColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=run.config.optimizer.max_steps, completed=run.progress.step)
            self._bar.start()

    def stepped(self, run: Run, step: Step) -> None:
        """Show it."""
        now = time.perf_counter()
        self._recent.append((now - self._began, step))
        self._began = now
        number = run.progress.step
        if self._bar is not None:
            self._bar.update(self._task, completed=number, description=self._line(run))
        elif self._speaks and (number % run.config.run.logging_steps == 0 or number == 1):
            self._say(self._line(run))

    def evaluated(self, run: Run, found: Evaluation) -> None:
        """Show it on a line of its own, that stays."""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.numbers.items())
        best = " (the best so far)" if run.progress.best_step == run.progress.step else ""
        if self._speaks:
            self._say(f"step {run.progress.step}, held out: {numbers}{best}")
        self._began = time.perf_counter()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _line(self, run: Run) -> str:
        seconds = sum(duration for duration, _ in self._recent)
        steps = [step for _, step in self._recent]
        targets = sum(step.target_tokens for step in steps)
        loss = torch.stack([step.cross_entropy for step in steps]).sum().item() / targets
        tokens = (targets + sum(step.source_tokens for step in steps)) / seconds
        share = sum(map(self._work.of, steps)) / seconds / self._peak
        left = (run.config.optimizer.max_steps - run.progress.step) * seconds / len(steps)
        return (
            f"step {run.progress.step:,} of {run.config.optimizer.max_steps:,}: loss {loss:.3f}, "
            f"{tokens:,.0f} tokens/s, {share:.0%} of peak, {timedelta(seconds=round(left))} left"
        )
