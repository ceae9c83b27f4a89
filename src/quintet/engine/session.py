"""The native engine as a decoding session, and as an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quintet.engine.library import Library
from quintet.engine.plan import Plan


def _starts(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def encode(
    library: Library,
    plan: Plan,
    lengths: Sequence[int],
    ids: torch.Tensor | None = None,
    embeds: torch.Tensor | None = None,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """The encoder's states (tokens, d_model) in float32 of sources laid behind each other.

    Give `ids` (tokens,) or `embeds` (tokens, d_model); `lengths` of the sources are from 1 on. No token looks at those
    that `visible` (tokens,) leaves out. Raises RuntimeError for ids outside the vocabulary, and if memory runs out.
    """
    states = torch.empty(sum(lengths), plan.config.d_model)
    starts = _starts(lengths)
    ids = None if ids is None else ids.long().contiguous()
    embeds = None if embeds is None else embeds.float().contiguous()
    visible = None if visible is None else visible.to(torch.uint8).contiguous()
    library.encode(
        plan.model,
        None if ids is None else ids.data_ptr(),
        None if embeds is None else embeds.data_ptr(),
        None if visible is None else visible.data_ptr(),
        starts.data_ptr(),
        len(lengths),
        states.data_ptr(),
    )
    return states


class NativeSession:
    """Steps the native decoder; a row's keys and values are never copied, and a source's are shared by its rows."""

    def __init__(self, library: Library, plan: Plan, states: torch.Tensor, lengths: Sequence[int]) -> None:
        """`states` (tokens, d_model) are the encoder's, of sources of the given lengths laid behind each other."""
        self._handle = 0  # none yet
        self._library, self._plan = library, plan
        self._rows = len(lengths)
        states = states.float().contiguous()
        starts = _starts(lengths)
        self._handle = library.session_new(plan.model, states.data_ptr(), starts.data_ptr(), len(lengths))

    def __del__(self) -> None:
        if self._handle:
            self._library.session_free(self._handle)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, n) to the rows' targets; returns the scores (rows, vocabulary) of what comes next."""
        scores = torch.empty(self._rows, self._plan.model.head.outputs)
        self._step(tokens, False, scores, None)
        return scores

    def step_all(self, tokens: torch.Tensor) -> torch.Tensor:
        """As `step`, but the scores (rows, n, vocabulary) after each of the new tokens."""
        scores = torch.empty(*tokens.shape, self._plan.model.head.outputs)
        self._step(tokens, True, scores, None)
        return scores

    def step_states(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `step`, with the last layer's states (rows, n, d_model) of the new tokens."""
        scores = torch.empty(self._rows, self._plan.model.head.outputs)
        states = torch.empty(*tokens.shape, self._plan.config.d_model)
        self._step(tokens, False, scores, states)
        return scores, states

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in that order."""
        rows = rows.long().contiguous()
        self._library.session_select(self._handle, rows.data_ptr(), rows.numel())
        self._rows = rows.numel()

    def crop(self, length: int) -> None:
        """Take back all tokens of the targets but the first `length`."""
        self._library.session_crop(self._handle, length)

    def _step(self, tokens: torch.Tensor, wants_all: bool, scores: torch.Tensor, states: torch.Tensor | None) -> None:
        if tokens.shape[0] != self._rows:
            raise ValueError(f"the tokens have {tokens.shape[0]} rows, the session {self._rows}")
        tokens = tokens.long().contiguous()
        self._library.session_step(
            self._handle,
            tokens.data_ptr(),
            tokens.shape[1],
            wants_all,
            scores.data_ptr(),
            None if states is None else states.data_ptr(),
        )
