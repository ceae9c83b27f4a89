"""The endless stream of examples: shuffled anew in every epoch, mixed from several sets, resumable at any example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from quintet.training.data.examples import Example, Examples

_BLOCK = 1024  # how many choices of a set are drawn at once
_ORDER, _CHOICE, _CONTENT = range(3)  # kinds of random numbers, so that no two streams of them are one


class Ticket(NamedTuple):
    """Which example: the set, the epoch (it decides on noise), the place in the set."""

    set: int
    epoch: int
    place: int


class Stream:
    """Draws tickets from sets of examples at given rates; every set is gone through once per epoch, in random order.

    Everything random follows from the seed, the set, the epoch and the place, so that the state is a count for each
    set. `rates` (sets,) default to the sets' sizes, which draws every example equally often.
    """

    def __init__(self, sets: Sequence[Examples], rates: Sequence[float] | None = None, seed: int = 0) -> None:
        if not sets:
            raise ValueError("a stream needs at least one set of examples")
        weights = np.array([len(one) for one in sets] if rates is None else rates, dtype=np.float64)
        if weights.shape != (len(sets),) or not np.isfinite(weights).all() or (weights <= 0).any():
            raise ValueError(f"a stream of {len(sets)} sets needs as many positive rates, got {weights.tolist()}")
        self.sets = list(sets)
        self.rates = weights / weights.sum()
        self.seed = seed
        self._taken = [0] * len(sets)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._choices: tuple[int, np.ndarray] = (-1, np.empty(0))

    @property
    def longest(self) -> tuple[int, int]:
        """Bounds of the lengths of sources and targets."""
        return max(one.longest[0] for one in self.sets), max(one.longest[1] for one in self.sets)

    @property
    def fingerprint(self) -> str:
        """A hash of the sets, the rates and the seed: what decides on the order."""
        content = [[[one.name, one.fingerprint, len(one)] for one in self.sets], self.rates.tolist(), self.seed]
        return blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    @property
    def epochs(self) -> list[float]:
        """How often each set has been gone through."""
        return [taken / len(one) for taken, one in zip(self._taken, self.sets, strict=True)]

    def draw(self) -> Ticket:
        """The next example's ticket."""
        chosen = self._choose(sum(self._taken))
        epoch, position = divmod(self._taken[chosen], len(self.sets[chosen]))
        self._taken[chosen] += 1
        return Ticket(chosen, epoch, int(self._order(chosen, epoch)[position]))

    def example(self, ticket: Ticket) -> Example:
        """The example of a ticket: always the same one."""
        return self.sets[ticket.set].example(ticket.place, (self.seed, _CONTENT, *ticket))

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as JSON can hold it."""
        return {"fingerprint": self.fingerprint, "taken": list(self._taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises ValueError if the state is of other data, rates or another seed."""
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                "the data of training is not that of the checkpoint: a data set, the tokenizer, a template, a limit of "
                "length, the rates of the mixture or the seed has changed. Go on with what it was, or start anew"
            )
        self._taken = list(state["taken"])

    def _choose(self, drawn: int) -> int:
        if len(self.sets) == 1:
            return 0
        block, place = divmod(drawn, _BLOCK)
        if self._choices[0] != block:
            rng = np.random.default_rng([self.seed, _CHOICE, block])
            self._choices = (block, rng.choice(len(self.sets), size=_BLOCK, p=self.rates))
        return int(self._choices[1][place])

    def _order(self, chosen: int, epoch: int) -> np.ndarray:
        known, order = self._orders.get(chosen, (-1, np.empty(0)))
        if known != epoch:
            rng = np.random.default_rng([self.seed, _ORDER, chosen, epoch])
            order = rng.permutation(len(self.sets[chosen]))
            self._orders[chosen] = (epoch, order)
        return order
