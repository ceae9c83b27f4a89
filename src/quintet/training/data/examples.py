"""Training examples: what the stream draws from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from quintet.training.data.token_cache import TokenCache

logger = logging.getLogger(__name__)

Example = dict[str, np.ndarray]
"""input_ids (source,) and labels (target,), both closed by </s>, without padding."""


def lengths_of(examples: Sequence[Example]) -> np.ndarray:
    """The lengths (examples, 2) of sources and targets."""
    return np.array([(len(example["input_ids"]), len(example["labels"])) for example in examples])


class Examples(Protocol):
    """A set of examples of known size."""

    name: str
    fingerprint: str
    """Changes when any example does."""
    longest: tuple[int, int]
    """Bounds of the lengths of source and target."""

    def __len__(self) -> int: ...

    def example(self, place: int, seed: Sequence[int]) -> Example:
        """The example at a place from 0 to len - 1; what is random in it follows from `seed`."""


class TaskExamples:
    """A tokenised task within limits of length, in tokens with </s>.

    A source that is too long is cut, and still ends in </s>. A target that is too long would teach to stop in the
    middle: its example is left out. Both are counted (`cut_sources`, `dropped_targets`) and logged as a warning. Raises
    ValueError if nothing is left.
    """

    def __init__(self, name: str, cache: TokenCache, max_source_length: int, max_target_length: int) -> None:
        if min(max_source_length, max_target_length) < 1:
            raise ValueError(f"limits of length must be at least 1, got {max_source_length} and {max_target_length}")
        self.name = name
        self.fingerprint = f"{cache.fingerprint}-{max_source_length}-{max_target_length}"
        self._sources = cache.columns["input_ids"]
        self._targets = cache.columns["labels"]
        self._limit = max_source_length
        sources, targets = self._sources.lengths, self._targets.lengths
        self._rows = np.flatnonzero(targets <= max_target_length)
        self.dropped_targets = len(targets) - len(self._rows)
        self.cut_sources = int((sources[self._rows] > max_source_length).sum())
        self._report(len(targets), max_target_length)
        longest_source = min(int(sources[self._rows].max()), max_source_length)
        self.longest = (longest_source, int(targets[self._rows].max()))

    def _report(self, examples: int, max_target_length: int) -> None:
        if not len(self._rows):
            raise ValueError(f"{self.name}: all {examples} targets are longer than {max_target_length} tokens")
        if self.dropped_targets:
            logger.warning(
                "%s: %d of %d targets are longer than %d tokens; these examples are left out",
                *(self.name, self.dropped_targets, examples, max_target_length),
            )
        if self.cut_sources:
            logger.warning(
                "%s: %d of %d sources are longer than %d tokens and are cut",
                *(self.name, self.cut_sources, len(self._rows), self._limit),
            )

    def __len__(self) -> int:
        return len(self._rows)

    def example(self, place: int, seed: Sequence[int]) -> Example:
        """The example at a place; nothing in it is random."""
        row = self._rows[place]
        source = self._sources[row]
        if len(source) > self._limit:
            source = np.append(source[: self._limit - 1], source[-1])
        return {"input_ids": source, "labels": self._targets[row]}
