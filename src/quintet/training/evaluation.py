"""How good a model is on what was held out: the loss of the given targets, and metrics of its own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from quintet.model.heads import T5ForConditionalGeneration
from quintet.tokenizers.base import TokenizerBase
from quintet.training.data.buckets import Limits, every_example
from quintet.training.data.collators import PaddingCollator
from quintet.training.loss import text_to_text_loss
from quintet.training.metrics import compute_metrics
from quintet.training.sets import HeldOut


class Sample(NamedTuple):
    """A source, what it should give, and what the model gave."""

    source: str
    references: list[str]
    answer: str


@dataclass(frozen=True)
class Evaluation:
    """What was found. Numbers are "loss" and metrics; of several sets, of each ("en-fr_loss") and over all.

    Over all, the loss is that of all tokens, a metric the mean of the sets that have it.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluator:
    """Measures a model on held-out sets; the model is in evaluation mode meanwhile.

    `advance` is called once for each pair whose loss is known and each source that is answered, `size` times in all.
    """

    sets: Sequence[HeldOut]
    tokenizer: TokenizerBase
    batch_size: int
    num_beams: int
    max_source_length: int
    max_new_tokens: int
    precision: AbstractContextManager[Any]
    advance: Callable[[], object] = lambda: None

    @property
    def size(self) -> int:
        """How many pairs and sources there are."""
        return sum(len(one.examples) + len(one.sources) for one in self.sets)

    def __call__(self, model: T5ForConditionalGeneration) -> Evaluation:
        """The numbers, and answers to look at."""
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.precision:
                return self._measure(model)
        finally:
            model.train(was_training)

    def names(self) -> list[str]:
        """What the numbers will be called. Raises ValueError and ImportError as `compute_metrics` does."""
        trial = [(one.name, 0.0, 1, compute_metrics(one.metrics, ["a"], ["a"])) for one in self.sets]
        return list(_over_all(trial))

    def _measure(self, model: T5ForConditionalGeneration) -> Evaluation:
        found, samples = [], list[Sample]()
        for one in self.sets:
            cross_entropy, tokens = self._loss(model, one)
            answers = self.answers(model, one.sources)
            metrics = compute_metrics(one.metrics, answers, one.references) if one.metrics else {}
            found.append((one.name, cross_entropy, tokens, metrics))
            samples += map(Sample, one.sources, one.references, answers)
        return Evaluation(_over_all(found), samples)

    def _loss(self, model: T5ForConditionalGeneration, one: HeldOut) -> tuple[float, int]:
        """The summed cross-entropy, and of how many tokens."""
        collate = PaddingCollator(model.config)
        cross_entropy, tokens = 0.0, 0
        for examples in every_example(one.examples, Limits(max_examples=self.batch_size)):
            batch = {name: tensor.to(model.device) for name, tensor in collate(examples).items()}
            loss = text_to_text_loss(model, batch)
            cross_entropy += loss.cross_entropy.item()
            tokens += loss.tokens
            self._advance_by(len(examples))
        return cross_entropy, tokens

    def answers(self, model: T5ForConditionalGeneration, sources: Sequence[str]) -> list[str]:
        """The model's answer to each source."""
        order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
        found = [""] * len(sources)
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            batch = self.tokenizer(
                [sources[place] for place in places],
                padding=True,
                truncation=True,
                max_length=self.max_source_length,
                return_tensors="pt",
            ).to(model.device)
            sequences = model.generate(
                **batch, num_beams=self.num_beams, max_new_tokens=self.max_new_tokens, do_sample=False
            )
            for place, answer in zip(
                places, self.tokenizer.batch_decode(sequences, skip_special_tokens=True), strict=True
            ):
                found[place] = answer
            self._advance_by(len(places))
        return found

    def _advance_by(self, count: int) -> None:
        for _ in range(count):
            self.advance()


def _over_all(found: Sequence[tuple[str, float, int, dict[str, float]]]) -> dict[str, float]:
    """Numbers by name, of sets given by name, summed cross-entropy, number of tokens, and metrics."""
    numbers = {"loss": sum(summed for _, summed, _, _ in found) / sum(tokens for _, _, tokens, _ in found)}
    for metric in dict.fromkeys(name for *_, metrics in found for name in metrics):
        values = [metrics[metric] for *_, metrics in found if metric in metrics]
        numbers[metric] = sum(values) / len(values)
    if len(found) > 1:
        for name, summed, tokens, metrics in found:
            numbers[f"{name}_loss"] = summed / tokens
            numbers |= {f"{name}_{metric}": value for metric, value in metrics.items()}
    return numbers
