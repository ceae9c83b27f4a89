"""Examples of similar length share a batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from quintet.training.data.examples import Example, Examples, lengths_of


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
        """From lengths (examples, 2) of sources and targets to batches of places, all of them full but the last."""
        max_tokens = np.inf if self.max_tokens is None else self.max_tokens
        batches: list[list[int]] = [[]]
        longest = np.zeros(2, dtype=np.int64)
        for place in _by_length(lengths):
            longest = np.maximum(longest, lengths[place])
            if (len(batches[-1]) + 1) * longest.sum() > max_tokens or len(batches[-1]) == self.max_examples:
                batches.append([])
                longest = lengths[place]
            batches[-1].append(int(place))
        return batches


def _by_length(lengths: np.ndarray) -> np.ndarray:
    """Places in an order in which neighbours are alike on both sides: sources rise, targets rise and fall in turn."""
    step, targets = lengths[:, 0] // 2, lengths[:, 1]
    return np.lexsort((np.where(step % 2, -targets, targets), step))


def every_example(examples: Examples, limits: Limits) -> Iterator[list[Example]]:
    """Each example once, in batches by length, always the same ones: for evaluation.

    Raises ValueError if an example may be over the limits.
    """
    limits.check(examples.longest)
    found = [examples.example(place, (place,)) for place in range(len(examples))]
    for batch in limits.cut(lengths_of(found)):
        yield [found[place] for place in batch]
