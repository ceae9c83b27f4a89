"""Batches of a stream, endless and resumable: by length, so that little is padding, or packed.

Examples are grouped within a window of the stream; batches come out in random order. What fills no whole batch is kept
for the next window. Several processes make the same batches, and each takes its share of the rows: so their number may
change when training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic, TypeVar

import numpy as np

from quintet.training.data.buckets import WIDTHS, Limits
from quintet.training.data.examples import Example, lengths_of
from quintet.training.data.packing import pack
from quintet.training.data.stream import Stream, Ticket

SMALL_WINDOW, LARGE_WINDOW = 8192, 32768
BATCHES_IN_WINDOW = 32
"""In a window of few batches the examples of each would differ in length: a quarter of the tokens would be padding."""
_SHUFFLE = 3  # the stream's own random numbers are 0 to 2

Row = TypeVar("Row")


class Batches(Generic[Row]):
    """What both ways of grouping have in common: the window, the order of batches, the state.

    A subclass groups places of the window into batches of rows (`_group`), and makes rows of the examples (`_row`).
    """

    def __init__(self, stream: Stream, window: int, options: Mapping[str, Any]) -> None:
        self._stream = stream
        self._window = window
        self._options = {"kind": type(self).__name__, "window": window, **options}
        self._carried: list[Ticket] = []
        self._number = -1
        self._start: dict[str, Any] = {}
        self._examples: list[Example] = []
        self._batches: list[list[Any]] = []
        self._given = 0

    def __iter__(self) -> Batches[Row]:
        return self

    def __next__(self) -> list[Row]:
        """The next batch: a list of rows."""
        while self._given == len(self._batches):
            self._fill()
        batch = self._batches[self._given]
        self._given += 1
        return [self._row(places) for places in batch]

    def state_dict(self) -> dict[str, Any]:
        """Where we are, as JSON can hold it: the stream at the window's start, and how many batches have been given."""
        start = self._start or self._beginning()
        return {**start, "given": self._given, "options": self._options}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batch after the last one given. Raises ValueError if the data or the options have changed."""
        if state["options"] != self._options:
            raise ValueError(
                f"the batches of the checkpoint were made with other options: {state['options']}, now {self._options}"
            )
        self._stream.load_state_dict(state["stream"])
        self._carried = [Ticket(*ticket) for ticket in state["carried"]]
        self._number = state["window"] - 1
        self._start, self._examples, self._batches, self._given = {}, [], [], 0
        if state["given"]:
            self._fill()
            self._given = state["given"]

    def _beginning(self) -> dict[str, Any]:
        carried = [list(ticket) for ticket in self._carried]
        return {"stream": self._stream.state_dict(), "carried": carried, "window": self._number + 1}

    def _fill(self) -> None:
        self._start = self._beginning()
        self._number += 1
        tickets = self._carried + [self._stream.draw() for _ in range(self._window)]
        self._examples = [self._stream.example(ticket) for ticket in tickets]
        rng = np.random.default_rng([self._stream.seed, _SHUFFLE, self._number])
        batches, left = self._group(lengths_of(self._examples), rng)
        self._batches = [batches[place] for place in rng.permutation(len(batches))]
        self._carried = [tickets[place] for place in left]
        self._given = 0

    def _group(self, lengths: np.ndarray, rng: np.random.Generator) -> tuple[list[list[Any]], Sequence[int]]:
        """From lengths (examples, 2) of sources and targets to batches of rows, and the places that are left over."""
        raise NotImplementedError

    def _row(self, places: Any) -> Row:
        raise NotImplementedError


def window_of(epoch: int, limits: Limits) -> int:
    """How many examples to group at a time, where an epoch has so many: these, within bounds, and always some batches.

    Of 64 sentences a batch 6 tokens of a hundred are padding in a window of SMALL_WINDOW, 2 in one of LARGE_WINDOW.
    """
    return max(min(max(epoch, SMALL_WINDOW), LARGE_WINDOW), BATCHES_IN_WINDOW * (limits.max_examples or 0))


class BucketedBatches(Batches[Example]):
    """Batches of examples of similar length, each as large as `limits` allow.

    The window, if not given, is that of an epoch (`window_of`). Raises ValueError if an example may be over the limits.
    """

    def __init__(self, stream: Stream, limits: Limits, window: int | None = None) -> None:
        if window is None:
            window = window_of(sum(map(len, stream.sets)), limits)
        _check_positive(window=window)
        limits.check(stream.longest)
        super().__init__(stream, window, {**asdict(limits), "widths": list(WIDTHS)})
        self._limits = limits

    def _group(self, lengths: np.ndarray, rng: np.random.Generator) -> tuple[list[list[Any]], Sequence[int]]:
        *full, last = self._limits.cut(lengths)
        return full, last

    def _row(self, places: Any) -> Example:
        return self._examples[places]


class PackedBatches(Batches[list[Example]]):
    """Batches of `rows` rows, each of several examples that together fit into source_length and target_length.

    Raises ValueError if an example may be longer than a row.
    """

    def __init__(self, stream: Stream, rows: int, source_length: int, target_length: int, window: int = 2048) -> None:
        _check_positive(rows=rows, window=window)
        source, target = stream.longest
        if source > source_length or target > target_length:
            raise ValueError(
                f"a row holds {source_length} + {target_length} tokens, but one example may take {source} + {target}: "
                "make rows longer, or lower the limits of length"
            )
        super().__init__(stream, window, {"rows": rows, "source_length": source_length, "target_length": target_length})
        self._rows = rows
        self._room = (source_length, target_length)

    def _group(self, lengths: np.ndarray, rng: np.random.Generator) -> tuple[list[list[Any]], Sequence[int]]:
        rows = pack(lengths, self._room)
        rows.sort(key=lambda row: -lengths[row].sum())  # those with most room left wait for more examples
        whole = len(rows) - len(rows) % self._rows
        order = rng.permutation(whole).reshape(-1, self._rows)
        left = [place for row in rows[whole:] for place in row]
        return [[rows[index] for index in batch] for batch in order], left

    def _row(self, places: Any) -> list[Example]:
        return [self._examples[place] for place in places]


class Ahead(Generic[Row]):
    """Batches of which the next can be drawn before its turn, while a device is busy with the last one."""

    def __init__(self, batches: Batches[Row]) -> None:
        self._batches = batches
        self._drawn: list[Row] | None = None
        self._before: dict[str, Any] = {}

    def __iter__(self) -> Ahead[Row]:
        return self

    def __next__(self) -> list[Row]:
        """The next batch: a list of rows."""
        self.draw()
        drawn, self._drawn = self._drawn, None
        return drawn  # type: ignore[return-value]

    def draw(self) -> None:
        """Have the next batch ready."""
        if self._drawn is None:
            self._before = self._batches.state_dict()
            self._drawn = next(self._batches)

    def state_dict(self) -> dict[str, Any]:
        """Where we are, as JSON can hold it: a batch that was only drawn does not count."""
        return self._batches.state_dict() if self._drawn is None else self._before

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the batch after the last one given. Raises ValueError if the data or the options have changed."""
        self._batches.load_state_dict(state)
        self._drawn = None


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
