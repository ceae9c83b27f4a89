"""The logits processor that holds the results of decoding to a constraint, whatever kind of constraint it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from quintet.generation.processors.base import NEVER, LogitsProcessor

Tokens = tuple[int, ...]


class State(Protocol):
    """How far some tokens have come towards what a constraint allows. It never changes."""

    @property
    def complete(self) -> bool:
        """Whether the tokens may end here."""

    @property
    def forbidden(self) -> torch.Tensor:
        """Which tokens (vocabulary,) cannot follow, on the CPU; an end token can follow if `complete`."""

    def advance(self, token: int) -> State | None:
        """The state after one more token, which is no end token; None if it cannot follow."""


class Constraint(LogitsProcessor):
    """Lets only those tokens follow with which a row can still become what the constraint allows.

    It keeps nothing that belongs to a place in the batch: a row is known by its tokens, so beams may be reordered,
    dropped or doubled between calls. A row is left alone once it has ended, and if its tokens do not follow the
    constraint in the first place: those are beams without a hope, and drafts of an assistant that will be thrown away.

    The tokens before `prefix_length` are not looked at. `max_length` counts them; at the last place, a row that may
    end does. `rows_per_source` is the number of beams. `describe` turns tokens into what error messages say, and
    `hint` is added where nothing can follow.
    """

    def __init__(
        self,
        start: State,
        *,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        prefix_length: int,
        max_length: int,
        rows_per_source: int = 1,
        describe: Callable[[list[int]], str] = str,
        hint: str = "",
    ) -> None:
        self.prefix_length, self.max_length = prefix_length, max_length
        self.rows_per_source = rows_per_source
        self._start, self._ends = start, frozenset(eos_token_ids)
        self._describe, self._hint = describe, hint
        self._states: dict[Tokens, State | None] = {}  # of rows that were here, and may be the start of others
        self._first_rows: list[int] | None = None  # where the current rows were at first; None: still there
        self._nothing = torch.zeros(vocab_size, dtype=torch.bool)
        self._all_but_ends = torch.ones(vocab_size, dtype=torch.bool)
        self._all_but_ends[list(eos_token_ids)] = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor. ValueError, naming the source, if nothing can follow in any of its rows."""
        if scores.shape[1] != len(self._nothing):
            raise ValueError(
                f"the constraint was built for {len(self._nothing)} tokens, but the scores are of {scores.shape[1]}"
            )
        rows = [tuple(row) for row in input_ids[:, self.prefix_length :].tolist()]
        states = {tokens: self._state(tokens) for tokens in dict.fromkeys(rows)}
        # Groups of beams come in calls of their own: what the next one goes on from was not in the last call.
        recent = {tokens: state for tokens, state in self._states.items() if len(tokens) >= len(rows[0]) - 1}
        self._states = {**recent, **states}
        last = input_ids.shape[1] >= self.max_length - 1
        forbidden = {tokens: self._forbidden(state, last) for tokens, state in states.items()}
        self._check(rows, {tokens for tokens, mask in forbidden.items() if bool(mask.all())})
        masks = torch.stack([forbidden[tokens] for tokens in rows])
        return scores.masked_fill(masks.to(scores.device), NEVER)

    def select(self, rows: torch.Tensor) -> None:
        """From now on only these of the current rows are there, in this order; a row may come several times."""
        kept = rows.tolist()
        self._first_rows = kept if self._first_rows is None else [self._first_rows[row] for row in kept]

    def finished(self, tokens: Sequence[int]) -> bool:
        """Whether a result, without its prefix, is all that the constraint asks for.

        What follows an end token does not count. A result without one is finished if it might have ended where it was
        cut.
        """
        end = next((place for place, token in enumerate(tokens) if token in self._ends), len(tokens))
        state = self._walk(self._start, tokens[:end])
        return state is not None and state.complete

    def unfinished(self, row: int, tokens: Sequence[int]) -> str:
        """What to tell about a result of which `finished` is false."""
        text = self._describe(list(tokens))
        if self._walk(self._start, tokens) is None:
            return (
                f"row {row} does not follow the constraint: {text}. Another option, such as a forced token, goes "
                "against it, or fewer results than asked for can be had (num_return_sequences)"
            )
        return (
            f"row {row} was cut after {len(tokens)} tokens, before it was what the constraint asks for: {text}. Raise "
            "max_new_tokens (or max_length)"
        )

    def _state(self, tokens: Tokens) -> State | None:
        """The state of a row, from the longest start of it that is known."""
        if not self._ends.isdisjoint(tokens):
            return None
        known = len(tokens)
        while known > 0 and tokens[:known] not in self._states:
            known -= 1
        state = self._states[tokens[:known]] if known else self._start
        return self._walk(state, tokens[known:])

    def _walk(self, state: State | None, tokens: Sequence[int]) -> State | None:
        for token in tokens:
            state = None if state is None else state.advance(token)
        return state

    def _forbidden(self, state: State | None, last: bool) -> torch.Tensor:
        if state is None:
            return self._nothing
        return self._all_but_ends if last and state.complete else state.forbidden

    def _check(self, rows: list[Tokens], stuck: set[Tokens]) -> None:
        """Raise ValueError for a source of whose rows none can go on."""
        for place in (place for place, tokens in enumerate(rows) if tokens in stuck):
            first = place - place % self.rows_per_source
            beams = rows[first : first + self.rows_per_source]
            if all(beam in stuck or self._states[beam] is None for beam in beams):
                row = place if self._first_rows is None else self._first_rows[place]
                raise ValueError(
                    f"row {row // self.rows_per_source} cannot go on: no token may follow "
                    f"{self._describe(list(rows[place]))}. {self._hint}"
                )
