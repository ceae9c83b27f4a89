"""A set of allowed answers as a tree of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch

Node: TypeAlias = "dict[int, Any]"
"""What may follow: tokens with the nodes that come after them."""


@dataclass(frozen=True, eq=False)
class TrieState:
    """A place in the tree; see `State`. The end tokens are part of it, so that every way through it is an answer."""

    node: Node
    eos_token_ids: Sequence[int]
    vocab_size: int

    @property
    def complete(self) -> bool:
        """Whether the tokens so far are an answer."""
        return self.eos_token_ids[0] in self.node

    @cached_property
    def forbidden(self) -> torch.Tensor:
        """Which tokens (vocabulary,) lead to no answer."""
        forbidden = torch.ones(self.vocab_size, dtype=torch.bool)
        forbidden[list(self.node)] = False
        return forbidden

    def advance(self, token: int) -> TrieState | None:
        """The state after one more token; None if it leads to no answer."""
        node = self.node.get(token)
        return None if node is None else TrieState(node, self.eos_token_ids, self.vocab_size)


def build_trie(answers: Iterable[Sequence[int]], eos_token_ids: Sequence[int], vocab_size: int) -> TrieState:
    """The root of the tree of some answers, which are token ids without an end token."""
    root: Node = {}
    end: Node = {}
    for answer in answers:
        node = root
        for token in answer:
            node = node.setdefault(token, {})
        for token in eos_token_ids:
            node[token] = end
    return TrieState(root, eos_token_ids, vocab_size)
