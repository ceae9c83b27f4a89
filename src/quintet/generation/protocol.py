"""What decoding needs of a model, and nothing more."""

from __future__ import annotations

from typing import Protocol

import torch


class DecodingSession(Protocol):
    """A decoder at work on a batch of sources that are already encoded.

    The eager model implements it, and so can any faster engine: the loops see only this.
    """

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, n) to the rows' targets; returns the scores (rows, vocabulary) of what comes next."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in that order; a row may come several times."""
