"""What decoding needs of a model, and nothing more."""

from __future__ import annotations

from typing import Protocol

import torch


class DecodingSession(Protocol):
    """A decoder at work on sources that are already encoded; each row is a target that grows.

    A session starts with one row per source. The eager model implements it, and so can any faster engine: the loops see
    only this. Greedy search, sampling and beams need `step` and `select`.
    """

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, n) to the rows' targets; returns the scores (rows, vocabulary) of what comes next."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in that order; a row may come several times, and its copies go on reading its source."""


class RewindableSession(DecodingSession, Protocol):
    """A session that can check several tokens at once and take some back: for assisted decoding and scoring."""

    def step_all(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `step`, but the scores (rows, n, vocabulary) after each of the new tokens."""

    def crop(self, length: int) -> None:
        """Take back all tokens of the targets but the first `length`."""


class StatefulSession(DecodingSession, Protocol):
    """A session that shows the decoder's states: for contrastive search."""

    def step_states(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `step`, with the last layer's states (rows, n, d_model) of the new tokens."""
