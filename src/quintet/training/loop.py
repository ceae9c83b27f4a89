"""The training loop, to read and to change.

A step: batches are drawn, their losses summed over all their tokens, weights moved along clipped gradients. What is
random in it follows from the seed and the step's number; so all that a run needs to go on exactly is its weights, the
optimiser's state, and where the data is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from quintet.files import staged
from quintet.model.heads import T5ForConditionalGeneration
from quintet.tokenizers.base import TokenizerBase
from quintet.training.config import AnyConfig
from quintet.training.data.batching import Ahead
from quintet.training.data.collators import IGNORED
from quintet.training.evaluation import Evaluation, Evaluator
from quintet.training.loss import Loss, text_to_text_loss
from quintet.training.optimizers import divides_gradients
from quintet.training.parallel import World, usable, whole
from quintet.training.rounding import Rounding

FAILED_BATCH = "failed-batch.json"
CLIP_EPSILON = 1e-6  # torch's


@dataclass
class Progress:
    """Where a run is. `best` is the best value of the metric so far, `best_step` where it was reached."""

    step: int = 0
    examples: int = 0
    best: float | None = None
    best_step: int | None = None
    evaluations_since_best: int = 0


@dataclass
class Run:
    """What the loop works with.

    `network` is what computes a loss: the model, wrapped for several processes. `adapters` is peft's view of the model,
    if it has adapters.
    """

    config: AnyConfig
    world: World
    model: T5ForConditionalGeneration
    network: nn.Module
    tokenizer: TokenizerBase
    batches: Ahead[Any]
    collate: Callable[[Sequence[Any]], dict[str, torch.Tensor]]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    precision: Any
    rounding: Rounding
    examples_per_epoch: int
    evaluator: Evaluator | None = None
    adapters: Any = None
    progress: Progress = field(default_factory=Progress)


class Observer(Protocol):
    """What is told how a run goes: logs, the line on the terminal."""

    def stepped(self, run: Run, step: Step) -> None:
        """A step was made."""

    def evaluated(self, run: Run, found: Evaluation) -> None:
        """The model was measured."""

    def close(self) -> None:
        """Nothing comes any more, whether the run is done or has failed."""


@dataclass(frozen=True)
class Step:
    """What a step was: summed cross-entropy of its labels, real tokens of sources and of targets, of all processes."""

    cross_entropy: torch.Tensor
    source_tokens: int
    target_tokens: int
    gradient_norm: float
    learning_rate: float


class LossOfBatch(nn.Module):
    """A model as a function from a batch to its loss: what DDP, FSDP and torch.compile wrap."""

    def __init__(self, model: T5ForConditionalGeneration, label_smoothing: float, z_loss: float) -> None:
        super().__init__()
        self.model = model
        self.options = {"label_smoothing": label_smoothing, "z_loss": z_loss}

    def forward(self, batch: Mapping[str, torch.Tensor], normalizer: float) -> Loss:
        """See `text_to_text_loss`."""
        return text_to_text_loss(self.model, batch, normalizer=normalizer, **self.options)


class NotFiniteError(RuntimeError):
    """The loss or its gradient is no number any more. The weights are as they were before the step."""


def train(run: Run, observers: Sequence[Observer], save: Callable[[Run], None]) -> None:
    """Make the steps that are left, with evaluations and checkpoints where they are due.

    Raises NotFiniteError for a loss or gradient that is not finite; the batch lies in failed-batch.json.
    """
    config = run.config
    run.model.train()
    while run.progress.step < config.optimizer.max_steps and not out_of_patience(run):
        drawn = [next(run.batches) for _ in range(config.batch.gradient_accumulation_steps)]
        made = make_step(run, drawn)
        for observer in observers:
            observer.stepped(run, made)
        step = run.progress.step
        is_best = False
        if run.evaluator is not None and is_due(step, config.evaluation.eval_steps, config.optimizer.max_steps):
            with usable(run.network), run.rounding():
                found = run.evaluator(run.model)
            is_best = note(run, found)
            for observer in observers:
                observer.evaluated(run, found)
        if is_best or is_due(step, config.run.save_steps, config.optimizer.max_steps):
            save(run)


def make_step(run: Run, drawn: Sequence[Sequence[Any]]) -> Step:
    """One step of the optimiser on one or several batches, as if they were one; `drawn` are their rows."""
    number = run.progress.step
    torch.manual_seed(seed_of(run.config.run.seed, number, run.world.rank))
    rate = run.learning_rate(number)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.zero_grad()
    source_tokens, target_tokens = count_tokens(drawn)
    # Gradients are averaged over processes; divided by their number's share of the tokens, they are summed.
    normalizer = target_tokens / run.world.size
    cross_entropy = torch.zeros((), device=run.world.device)
    with run.rounding():
        for rows in drawn:
            batch = to_tensors(run, rows)
            with run.precision:
                loss = run.network(batch, normalizer)
            loss.value.backward()
            cross_entropy += loss.cross_entropy
    run.batches.draw()  # a GPU is still at work
    total = whole(norm_of(gradients_of(run.model)))
    norm = total.item()
    if not math.isfinite(norm):
        path = keep_for_inspection(run, drawn)
        raise NotFiniteError(
            f"step {number + 1}: the gradient is not finite (loss {run.world.total(cross_entropy) / target_tokens}); "
            f"its batch is in {path}. A lower learning rate, a warm-up, or data without outliers may help"
        )
    with clipped_gradients(run, total, norm):
        run.optimizer.step()
    run.progress.step += 1
    run.progress.examples += sum(len(examples_of(rows)) for rows in drawn)
    return Step(run.world.total(cross_entropy), source_tokens, target_tokens, norm, rate)


def seed_of(seed: int, step: int, rank: int) -> int:
    """What the random numbers of a step follow from; no two steps, or processes, have the same."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def to_tensors(run: Run, rows: Sequence[Any]) -> dict[str, torch.Tensor]:
    """This process's share of a batch, on its device. With fewer rows than processes some get one without labels."""
    share = run.world.share(rows)
    batch = run.collate(share or rows[:1])
    if not share:
        batch["labels"].fill_(IGNORED)
    return {name: tensor.to(run.world.device, non_blocking=True) for name, tensor in batch.items()}


def gradients_of(model: nn.Module) -> list[torch.Tensor]:
    """Those that the last backward pass has left."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def norm_of(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients together, float32. On a CPU a BLAS library reads them in half of torch's own time."""
    if all(one.device.type == "cpu" and one.is_contiguous() and not isinstance(one, DTensor) for one in gradients):
        return torch.stack([torch.dot(one.view(-1), one.view(-1)) for one in gradients]).float().sum().sqrt()
    return nn.utils.get_total_norm(gradients).float()


@contextmanager
def clipped_gradients(run: Run, total: torch.Tensor, norm: float) -> Iterator[None]:
    """For a step of the optimiser: gradients of this norm, shortened to max_grad_norm if that is above 0 and less.

    An optimiser that can divides them as it reads them; then the gradients themselves stay as they are, or do not.
    """
    longest = run.config.optimizer.max_grad_norm or math.inf
    if norm <= longest:  # there is nothing to multiply by 1
        yield
    elif divides_gradients(run.optimizer):
        dividing = cast(Any, run.optimizer)
        dividing.grad_scale = (total + CLIP_EPSILON) / longest
        try:
            yield
        finally:
            dividing.grad_scale = None
    else:
        nn.utils.clip_grads_with_norm_(run.model.parameters(), longest, total)
        yield


def examples_of(rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    """The examples of a batch, packed or not."""
    return [example for row in rows for example in (row if isinstance(row, list) else [row])]


def count_tokens(drawn: Sequence[Sequence[Any]]) -> tuple[int, int]:
    """How many tokens of sources and of targets batches have, padding not counted."""
    examples = [example for rows in drawn for example in examples_of(rows)]
    return sum(len(one["input_ids"]) for one in examples), sum(len(one["labels"]) for one in examples)


def keep_for_inspection(run: Run, drawn: Sequence[Sequence[Any]]) -> Path:
    """Write the examples of a step into a JSON file of the output folder; returns its path."""
    folder = Path(run.config.run.output_dir)
    examples = [
        {name: one[name].tolist() for name in ("input_ids", "labels")}
        | {"source": run.tokenizer.decode(one["input_ids"]), "target": run.tokenizer.decode(one["labels"])}
        for rows in drawn
        for one in examples_of(rows)
    ]
    if run.world.is_main:
        with staged(folder) as staging:
            text = json.dumps({"step": run.progress.step + 1, "examples": examples}, ensure_ascii=False, indent=1)
            (staging / FAILED_BATCH).write_text(text, encoding="utf-8")
    return folder / FAILED_BATCH


def is_due(step: int, every: int | None, last: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens at this one."""
    return every is not None and (step % every == 0 or step == last)


def note(run: Run, found: Evaluation) -> bool:
    """Take down how the model was measured; True if it never was better."""
    name, progress = run.config.evaluation.metric_for_best_model.removeprefix("eval_"), run.progress
    value = found.numbers[name]
    is_better = progress.best is None or (value < progress.best if is_loss(name) else value > progress.best)
    if is_better:
        progress.best, progress.best_step, progress.evaluations_since_best = value, progress.step, 0
    else:
        progress.evaluations_since_best += 1
    return is_better


def is_loss(name: str) -> bool:
    """Whether less is better."""
    return name == "loss" or name.endswith("_loss")


def out_of_patience(run: Run) -> bool:
    """Whether too many evaluations have gone by without a better one."""
    patience = run.config.evaluation.early_stopping_patience
    return patience is not None and run.progress.evaluations_since_best >= patience
