"""What logits processors share: their base classes, the list that runs them, and the checks of their arguments.

Decoding loops drop finished rows from the batch. A processor follows through `select(rows)`; one without that method
may hold something per row that nobody can shrink, so a loop keeps all rows while such a processor is in the list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import torch

NEVER = float("-inf")
"""The score of a token that must not come."""


class LogitsProcessor:
    """Changes the scores of the next token at every step of decoding. The base class of users' own processors.

    A subclass that works row by row and keeps nothing between calls may add `def select(self, rows): pass`: finished
    rows can then leave the batch.
    """

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Targets so far (rows, length) and scores (rows, vocabulary) to new scores; the old ones stay as they are."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(input_ids, scores)")


class RowFree(LogitsProcessor):
    """A processor that holds nothing per row."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows: there is nothing to do."""


class LogitsProcessorList(list[Any]):
    """Processors that run one after the other; plain functions of the same form may be among them."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **extra: Any) -> torch.Tensor:
        """Targets so far (rows, length) and scores (rows, vocabulary) to new scores.

        Of the extra arguments, each processor gets those that its __call__ names. ValueError if it needs one that is
        not there.
        """
        for processor in self:
            scores = processor(input_ids, scores, **_arguments_for(type(processor), extra))
        return scores

    @property
    def can_select(self) -> bool:
        """Whether finished rows can leave the batch: every processor in the list can follow."""
        return all(
            processor.can_select if isinstance(processor, LogitsProcessorList) else _follows(type(processor))
            for processor in self
        )

    def select(self, rows: torch.Tensor) -> None:
        """From now on only these of the current rows are there, in this order; a row may come several times.

        ValueError if a processor cannot follow.
        """
        if not self.can_select:
            stuck = [type(processor).__name__ for processor in self if not _follows(type(processor))]
            raise ValueError(f"rows cannot leave: no `select(rows)` in {', '.join(stuck) or 'a nested list'}")
        for processor in self:
            processor.select(rows)


def _follows(kind: type) -> bool:
    """Whether the `select` of a class covers its `__call__`.

    A user's subclass of one of our processors that replaces the call may keep rows of its own, of which the `select`
    it inherits knows nothing.
    """
    if not hasattr(kind, "select"):
        return False
    nearest = next(owner for owner in kind.__mro__ if {"__call__", "select"} & vars(owner).keys())
    return "select" in vars(nearest) or nearest.__module__.startswith(f"{__package__}.")


@lru_cache
def _extra_parameters(call: Callable[..., torch.Tensor]) -> tuple[inspect.Parameter, ...]:
    """What the __call__ of a class takes after self, input_ids and scores."""
    return tuple(inspect.signature(call).parameters.values())[3:]


def _arguments_for(kind: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that the __call__ of a class takes."""
    parameters = _extra_parameters(kind.__call__)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return extra
    needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    missing = [name for name in needed if name not in extra]
    if missing:
        raise ValueError(f"{kind.__name__} must be called with {', '.join(missing)}")
    return {parameter.name: extra[parameter.name] for parameter in parameters if parameter.name in extra}


class TokenIds:
    """The token ids that a processor acts on: checked once, and kept on the device of the scores.

    ids: an id, a sequence of ids or a tensor of ids. ValueError, naming the argument, for what is no id, and for an
    empty sequence unless `may_be_empty`.
    """

    def __init__(
        self,
        ids: int | Iterable[int] | torch.Tensor,
        name: str,
        device: torch.device | str = "cpu",
        may_be_empty: bool = False,
    ) -> None:
        given = ids.flatten().tolist() if isinstance(ids, torch.Tensor) else ids
        self.values = [check_integer(value, name) for value in (given if isinstance(given, Iterable) else [given])]
        if not self.values and not may_be_empty:
            raise ValueError(f"{name} must hold at least one token id")
        self._name = name
        self._highest = max(self.values, default=-1)
        self._ids = torch.tensor(self.values, dtype=torch.long, device=device)

    def within(self, scores: torch.Tensor) -> torch.Tensor:
        """The ids (n,), on the device of scores (rows, vocabulary). ValueError if one is beyond the vocabulary."""
        check_vocabulary(self._highest, scores, self._name)
        self._ids = self._ids.to(scores.device)
        return self._ids

    def ban(self, scores: torch.Tensor) -> torch.Tensor:
        """A copy of scores (rows, vocabulary) under which these tokens cannot come."""
        return scores.index_fill(1, self.within(scores), NEVER)

    def force(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores in the shape of `scores` (rows, vocabulary) under which only these tokens can come."""
        return torch.full_like(scores, NEVER).index_fill_(1, self.within(scores), 0.0)


def check_integer(value: object, name: str, least: int = 0) -> int:
    """The value as an int. ValueError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def check_number(value: object, name: str, interval: str) -> float:
    """The value as a float. ValueError unless it is a number in the interval, written as in "(0, 1]"."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        above = low <= number if interval[0] == "[" else low < number
        below = number <= high if interval[-1] == "]" else number < high
        if above and below:
            return number
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}")


def check_vocabulary(highest: int, scores: torch.Tensor, name: str) -> None:
    """ValueError if the highest of some token ids is beyond the vocabulary of scores (rows, vocabulary)."""
    if highest >= scores.shape[-1]:
        raise ValueError(f"{name} has the token id {highest}, but the vocabulary ends at {scores.shape[-1] - 1}")
