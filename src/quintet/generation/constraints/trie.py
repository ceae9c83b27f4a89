"""A set of allowed answers as a tree of their tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import itemgetter

import torch


class TrieState:
    """A place in the tree; see `State`.

    The sorted answers are the tree: those that start with the same tokens lie side by side. So a place is a stretch of
    them and the number of tokens that they share, and a hundred thousand answers need no more than their own memory.
    """

    def __init__(
        self,
        answers: Sequence[tuple[int, ...]],
        eos_token_ids: Sequence[int],
        vocab_size: int,
        stretch: range,
        depth: int,
    ) -> None:
        self._answers, self._ends, self._vocab_size = answers, eos_token_ids, vocab_size
        self._stretch, self._depth = stretch, depth

    @property
    def complete(self) -> bool:
        """Whether the tokens so far are an answer. The shortest answer is the first of its stretch."""
        return len(self._answers[self._stretch[0]]) == self._depth

    @cached_property
    def forbidden(self) -> torch.Tensor:
        """Which tokens (vocabulary,) lead to no answer."""
        following = {self._answers[place][self._depth] for place in self._longer}
        forbidden = torch.ones(self._vocab_size, dtype=torch.bool)
        forbidden[list(following)] = False
        forbidden[list(self._ends)] = not self.complete
        return forbidden

    def advance(self, token: int) -> TrieState | None:
        """The state after one more token; None if it leads to no answer."""
        bounds = self._longer.start, self._longer.stop
        next_token = itemgetter(self._depth)
        first = bisect_left(self._answers, token, *bounds, key=next_token)
        last = bisect_right(self._answers, token, *bounds, key=next_token)
        if first == last:
            return None
        return TrieState(self._answers, self._ends, self._vocab_size, range(first, last), self._depth + 1)

    @property
    def _longer(self) -> range:
        """The answers that go on from here."""
        return self._stretch[1:] if self.complete else self._stretch


def build_trie(answers: Iterable[Sequence[int]], eos_token_ids: Sequence[int], vocab_size: int) -> TrieState:
    """The root of the tree of some answers, at least one, which are token ids without an end token."""
    ordered = sorted(set(map(tuple, answers)))
    return TrieState(ordered, eos_token_ids, vocab_size, range(len(ordered)), 0)
