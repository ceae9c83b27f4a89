"""Batches of a stream, endless and resumable: by length, so that little is padding, or packed.

Examples are grouped within a window of the stream; batches come out in random order. What fills no whole batch is kept
for the next window. Several processes make the same batches, and each takes its share of the rows: so their number may
change when training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from quintet.training.data.examples import Example
from quintet.training.data.packing import pack
from quintet.training.data.stream import Stream, Ticket

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
        lengths = np.array([(len(one["input_ids"]), len(one["labels"])) for one in self._examples])
        rng = np.random.default_rng([self._stream.seed, _SHUFFLE, self._number])
        batches, left = self._group(lengths, rng)
        self._batches = [batches[place] for place in rng.permutation(len(batches))]
        self._carried = [tickets[place] for place in left]
        self._given = 0

    def _group(self, lengths: np.ndarray, rng: np.random.Generator) -> tuple[list[list[Any]], Sequence[int]]:
        """From lengths (examples, 2) of sources and targets to batches of rows, and the places that are left over."""
        raise NotImplementedError

    def _row(self, places: Any) -> Row:
        raise NotImplementedError


class BucketedBatches(Batches[Example]):
    """Batches of examples of similar length: at most `max_tokens` tokens, padding included, and `max_examples` rows.

    A batch of n rows costs n x (its longest source + its longest target) tokens. Either limit alone will do. Raises
    ValueError if the limits let no example in.
    """

    def __init__(
        self, stream: Stream, max_tokens: int | None = None, max_examples: int | None = None, window: int = 8192
    ) -> None:
        if max_tokens is None and max_examples is None:
            raise ValueError("give max_tokens or max_examples: nothing else bounds a batch")
        if max_tokens is not None and sum(stream.longest) > max_tokens:
            source, target = stream.longest
            raise ValueError(
                f"max_tokens is {max_tokens}, but one example may take {source} + {target} tokens: raise it, or lower "
                "the limits of length"
            )
        _check_positive(window=window, **({} if max_examples is None else {"max_examples": max_examples}))
        super().__init__(stream, window, {"max_tokens": max_tokens, "max_examples": max_examples})
        self._max_tokens = np.inf if max_tokens is None else max_tokens
        self._max_examples = np.inf if max_examples is None else max_examples

    def _group(self, lengths: np.ndarray, rng: np.random.Generator) -> tuple[list[list[Any]], Sequence[int]]:
        batches: list[list[int]] = []
        batch: list[int] = []
        longest = np.zeros(2, dtype=np.int64)
        for place in _by_length(lengths):
            longer = np.maximum(longest, lengths[place])
            if (len(batch) + 1) * longer.sum() > self._max_tokens or len(batch) == self._max_examples:
                batches.append(batch)
                batch, longer = [], lengths[place]
            batch.append(int(place))
            longest = longer
        return batches, batch

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


def _by_length(lengths: np.ndarray) -> np.ndarray:
    """Places in an order in which neighbours are alike on both sides: sources rise, targets rise and fall in turn."""
    step, targets = lengths[:, 0] // 2, lengths[:, 1]
    return np.lexsort((np.where(step % 2, -targets, targets), step))


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
