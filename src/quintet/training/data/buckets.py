"""Examples of similar length share a batch, so that little of it is padding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from quintet.training.data.examples import Example, Examples, lengths_of

WIDTHS = (1, 4, 16)
"""Steps, in tokens, in which sources are ordered: narrow ones suit many short examples, wide ones long or few ones."""


@dataclass(frozen=True)
class Limits:
    """How large a batch is: `max_tokens` in all, padding included, and `max_examples`. Either alone will do.

    A batch of n examples costs n x (its longest source + its longest target) tokens.
    """

    max_tokens: int | None = None
    max_examples: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is None and self.max_examples is None:
            raise ValueError("give max_tokens or max_examples: nothing else bounds a batch")
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def check(self, longest: tuple[int, int]) -> None:
        """ValueError if an example of the longest source and target would be over the limit."""
        if self.max_tokens is not None and sum(longest) > self.max_tokens:
            raise ValueError(
                f"max_tokens is {self.max_tokens}, but one example may take {longest[0]} + {longest[1]} tokens: raise "
                "it, or lower the limits of length"
            )

    def cut(self, lengths: np.ndarray) -> list[list[int]]:
        """From lengths (examples, 2) of sources and targets to batches of places, all of them full but the last.

        Of several orders that with the least padding: how alike sources must be depends on how many examples there are.
        """
        orders = (_by_length(lengths, width) for width in WIDTHS)
        return min((self._cut(lengths, order) for order in orders), key=lambda batches: _cost(lengths, batches))

    def _cut(self, lengths: np.ndarray, order: np.ndarray) -> list[list[int]]:
        max_tokens = math.inf if self.max_tokens is None else self.max_tokens
        batches: list[list[int]] = [[]]
        longest_source = longest_target = 0
        for place, (source, target) in zip(order.tolist(), lengths[order].tolist(), strict=True):
            longest_source, longest_target = max(longest_source, source), max(longest_target, target)
            size = len(batches[-1])
            if size == self.max_examples or (size + 1) * (longest_source + longest_target) > max_tokens:
                batches.append([])
                longest_source, longest_target = source, target
            batches[-1].append(place)
        return batches


def _by_length(lengths: np.ndarray, width: int) -> np.ndarray:
    """Places in an order in which neighbours are alike on both sides: sources rise, targets rise and fall in turn.

    Sources are ordered in steps of `width` tokens.
    """
    step, targets = lengths[:, 0] // width, lengths[:, 1]
    return np.lexsort((np.where(step % 2, -targets, targets), step))


def _cost(lengths: np.ndarray, batches: list[list[int]]) -> int:
    """Tokens of all batches, padding included."""
    return sum(len(batch) * int(lengths[batch].max(axis=0).sum()) for batch in batches if batch)


def every_example(examples: Examples, limits: Limits) -> Iterator[list[Example]]:
    """Each example once, in batches by length, always the same ones: for evaluation.

    Raises ValueError if an example may be over the limits.
    """
    limits.check(examples.longest)
    found = [examples.example(place, (place,)) for place in range(len(examples))]
    for batch in limits.cut(lengths_of(found)):
        yield [found[place] for place in batch]
