"""What a run leaves to read: a line of JSON for each interval and each evaluation, and TensorBoard's curves."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from quintet.files import staged
from quintet.training.evaluation import Evaluation
from quintet.training.loop import Run, Step

LOG = "log.jsonl"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's log; none if there is no log. A line that was not written to its end is left out."""
    path = folder / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Log:
    """Writes log.jsonl of a run: means over `logging_steps` steps, and what evaluations found.

    A run that goes on from a checkpoint drops what was logged after it: those steps are made again.
    """

    def __init__(self, run: Run) -> None:
        folder = Path(run.config.run.output_dir)
        kept = [record for record in read_log(folder) if record["step"] <= run.progress.step]
        self._file: Any = None
        self._board: Any = None
        self._interval = Interval()
        if not run.world.is_main:
            return
        with staged(folder) as staging:
            lines = (json.dumps(record) + "\n" for record in kept)
            (staging / LOG).write_text("".join(lines), encoding="utf-8")
        self._file = open(folder / LOG, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by `close`)
        self._board = _board(folder, run)

    def stepped(self, run: Run, step: Step) -> None:
        """Write a line when one is due."""
        self._interval.add(step)
        if run.progress.step % run.config.run.logging_steps == 0 or run.progress.step == 1:
            self._record(run, self._interval.numbers() | {"learning_rate": step.learning_rate})
            self._interval = Interval()

    def evaluated(self, run: Run, found: Evaluation) -> None:
        """Write what was found."""
        self._record(run, {f"eval_{name}": value for name, value in found.numbers.items()})
        self._interval.pause()

    def close(self) -> None:
        """Nothing comes any more."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _record(self, run: Run, numbers: dict[str, float]) -> None:
        if self._file is None:
            return
        epoch = run.progress.examples / run.examples_per_epoch
        self._file.write(json.dumps({"step": run.progress.step, "epoch": epoch, **numbers}) + "\n")
        for name, value in numbers.items() if self._board is not None else ():
            self._board.add_scalar(name, value, run.progress.step)


class Interval:
    """Steps since the last line of a log."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """One more."""
        self._steps.append(step)

    def pause(self) -> None:
        """Start the clock anew: what was before was no training."""
        self._begin = time.perf_counter()

    def numbers(self) -> dict[str, float]:
        """The loss of a target token, the mean gradient norm, and real tokens of sources and targets a second."""
        targets = sum(step.target_tokens for step in self._steps)
        sources = sum(step.source_tokens for step in self._steps)
        loss = torch.stack([step.cross_entropy for step in self._steps]).sum().item() / targets
        return {
            "loss": loss,
            "grad_norm": sum(step.gradient_norm for step in self._steps) / len(self._steps),
            "tokens_per_second": (sources + targets) / (time.perf_counter() - self._begin),
        }


def _board(folder: Path, run: Run) -> Any:
    if "tensorboard" not in run.config.run.report_to:
        return None
    try:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise ImportError('report_to: tensorboard needs tensorboard: pip install "quintet[train]"') from error
    return writer(folder / "tensorboard", purge_step=run.progress.step + 1)
