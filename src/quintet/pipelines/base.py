"""What all pipelines share: inputs of many kinds, batches of like lengths, results in the order of the inputs.

A task says three things: how an input becomes pieces of token ids (`prepare`), what the network finds in a batch of
pieces (`compute`), and how an input's result follows from what was found in its pieces (`finish`).
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.utils.data import Dataset

from quintet.model.pretrained import T5PreTrainedModel
from quintet.pipelines.devices import place
from quintet.pipelines.progress import progress_of

logger = logging.getLogger(__name__)

FAMILY = ("T5", "MT5", "UMT5")


class InputError(ValueError):
    """An input among several is none of the task: `number` is its place, counted from 0, `reason` what is wrong."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"input {number}: {reason}")
        self.number, self.reason = number, reason


@dataclass
class Piece:
    """What the network reads in one row: token ids, their mask, and what `finish` needs to know of them.

    Pieces of different groups never share a batch.
    """

    input_ids: list[int]
    attention_mask: list[int]
    extra: Any = None
    group: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)


class Pipeline:
    """A model and a tokenizer at work on one task.

    `model` is an object with the task's head, bare, compiled, or inside an adapter; it is moved to `device` (a torch
    device or the number of a CUDA device, -1 being the CPU), or, if none is given, to the accelerator where there is
    one. Further options are the task's own, as defaults of each call; so is `batch_size`, how many inputs the network
    reads at once. `num_workers` is taken for the sake of `transformers` and changes nothing.

    Raises TypeError for an unknown option, ValueError for a senseless value or a model without the task's head.
    """

    default_task: ClassVar[str]
    head: ClassVar[type[T5PreTrainedModel]]
    """The class, or base class, that the model must have."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        task: str | None = None,
        device: Any = None,
        batch_size: int = 1,
        num_workers: int | None = None,
        **options: Any,
    ) -> None:
        self.task = task or self.default_task
        self._check_model(model)
        if tokenizer is None:
            raise ValueError(f"{self.task} needs a tokenizer beside the model")
        self.model = place(model, device)
        self.tokenizer = tokenizer
        self.batch_size = checked_size(batch_size)
        self._defaults = options
        self.parse(**options)

    # -- what a task says ----------------------------------------------------------------------------------------

    def parse(self, *args: Any, **options: Any) -> Any:
        """The options of a call, checked, as one object for the three methods below."""
        raise NotImplementedError

    def prepare(self, item: Any, options: Any) -> list[Piece]:
        """The pieces of one input, at least one. Raises ValueError for what is no input of this task."""
        raise NotImplementedError

    def compute(self, batch: list[Piece], options: Any) -> Sequence[Any]:
        """What the network finds in each piece of a batch, on the CPU."""
        raise NotImplementedError

    def finish(self, item: Any, pieces: list[Piece], found: list[Any], options: Any) -> Any:
        """The result of an input, from what was found in its pieces."""
        raise NotImplementedError

    # -- calls ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        progress: bool | None = None,
        num_workers: int | None = None,
        **options: Any,
    ) -> Any:
        """The result of one input; a list of results for a list; an iterator for a generator or a torch data set.

        A list (or tuple, data set, column: whatever has a length) is sorted by length, computed in batches of
        `batch_size`, and answered in order. An iterator is read and answered batch by batch, as results are asked for.
        `progress` says whether a bar on stderr shows how far a list is; None means for long lists, on a terminal.

        Raises InputError, a ValueError, for a wrong input among several: of a list before anything is computed, of an
        iterator after those before it have been answered. So is an error of the iterator itself.

        Ctrl-C in a list of several batches ends the work and loses nothing: results so far come back, with None for
        the rest, and one warning is logged. Before the first result it is a KeyboardInterrupt as always.
        """
        how = self.parse(**{**self._defaults, **options})
        size = self.batch_size if batch_size is None else checked_size(batch_size)
        if is_stream(inputs):
            return self._stream(inputs, how, size)
        if is_several(inputs):
            return self._list(list(inputs), how, size, progress)
        results = [None]
        self._fill(results, [inputs], [self.prepare(inputs, how)], how, size)
        return results[0]

    def _stream(self, inputs: Iterable[Any], how: Any, size: int) -> Iterator[Any]:
        numbered = enumerate(_read(inputs))
        while True:
            items, pieces, failure = self._window(itertools.islice(numbered, size), how)
            results: list[Any] = [None] * len(items)
            self._fill(results, items, pieces, how, size)
            yield from results
            if failure is not None:
                raise failure
            if len(items) < size:
                return

    def _window(
        self, numbered: Iterable[tuple[int, Any]], how: Any
    ) -> tuple[list[Any], list[list[Piece]], Exception | None]:
        """Inputs and their pieces, up to the first that cannot be had, and why: those before it are to be answered."""
        items: list[Any] = []
        pieces: list[list[Piece]] = []
        try:
            for number, item in numbered:
                pieces.append(self._prepare(item, number, how))
                items.append(item)
        except Exception as error:  # whatever the iterator raises
            return items, pieces, error
        return items, pieces, None

    def _list(self, items: list[Any], how: Any, size: int, progress: bool | None) -> list[Any]:
        results: list[Any] = [None] * len(items)
        pieces = [self._prepare(item, number, how) for number, item in enumerate(items)]
        done = 0
        with progress_of(self.task, len(items), progress) as advance:

            def note_result() -> None:
                nonlocal done
                done += 1
                advance()

            try:
                self._fill(results, items, pieces, how, size, note_result)
            except KeyboardInterrupt:
                if done == 0:
                    raise
                logger.warning("interrupted: %d of %d results are there, the others are None", done, len(items))
        return results

    def _fill(
        self,
        results: list[Any],
        items: list[Any],
        pieces: list[list[Piece]],
        how: Any,
        size: int,
        note_result: Callable[[], object] = lambda: None,
    ) -> None:
        """Put the result of each item into its place, as soon as all its pieces are computed."""
        found: list[list[Any]] = [[None] * len(parts) for parts in pieces]
        waiting = [len(parts) for parts in pieces]
        for batch in _batches(pieces, size):
            rows = self._compute([pieces[item][part] for item, part in batch], how)
            for (item, part), row in zip(batch, rows, strict=True):
                found[item][part] = row
                waiting[item] -= 1
                if waiting[item] == 0:
                    results[item] = self.finish(items[item], pieces[item], found[item], how)
                    found[item] = []
                    note_result()

    def _prepare(self, item: Any, number: int, how: Any) -> list[Piece]:
        try:
            return self.prepare(item, how)
        except ValueError as error:
            raise InputError(number, str(error)) from error

    def _compute(self, batch: list[Piece], how: Any) -> Sequence[Any]:
        with torch.no_grad(), evaluating(self.model):
            return self.compute(batch, how)

    # -- help for tasks ------------------------------------------------------------------------------------------

    def tensors(self, batch: list[Piece]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (pieces, longest) of a batch on the model's device, padded on the right.

        On the right whatever the tokenizer's side: decoders that read the text too would see padding on the left.
        """
        columns = {
            "input_ids": [piece.input_ids for piece in batch],
            "attention_mask": [piece.attention_mask for piece in batch],
        }
        padding = len({len(piece) for piece in batch}) > 1
        padded = self.tokenizer.pad(columns, padding=padding, padding_side="right", return_tensors="pt")
        return dict(padded.to(self.model.device))

    # -- properties ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The model's dtype."""
        return self.model.dtype

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write model and tokenizer into a folder; options are those of the model's `save_pretrained`."""
        self.model.save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(save_directory)

    def _check_model(self, model: Any) -> None:
        if isinstance(network_of(model), self.head):
            return
        if self.head is T5PreTrainedModel:
            supported = "any model of quintet"
        else:
            supported = ", ".join(family + self.head.__name__.removeprefix("T5") for family in FAMILY)
        given = f"{type(model).__module__.split('.')[0]}.{type(model).__name__}"
        raise ValueError(f"{self.task} needs a model with its head ({supported}), got {given}")


def network_of(model: Any) -> Any:
    """The model of quintet inside what `torch.compile` or an adapter of `peft` made of it."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def is_stream(inputs: Any) -> bool:
    """Whether the inputs are read one after the other: a generator, an iterable without a length, a torch data set."""
    return isinstance(inputs, Dataset) or (isinstance(inputs, Iterable) and not isinstance(inputs, Sized))


def is_several(inputs: Any) -> bool:
    """Whether these are inputs, and not one input: a list, a tuple, a data set, a column of one."""
    several = isinstance(inputs, Iterable) and isinstance(inputs, Sized)
    return several and not isinstance(inputs, (str, bytes, bytearray, Mapping))


def check_text(item: Any) -> str:
    """The input, if it is a text. Raises ValueError for anything else."""
    if isinstance(item, str):
        return item
    hint = '; of a data set, give the column: dataset["text"]' if isinstance(item, Mapping) else ""
    raise ValueError(f"the input must be a text or a list of texts, got {type(item).__name__}{hint}")


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value in lower case if it is one of `allowed`, or another library's enum member that says so."""
    text = getattr(value, "value", value)
    if not isinstance(text, str) or text.lower() not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return text.lower()


def check_count(name: str, value: Any) -> int:
    """The value if it is a whole number of at least 1. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def checked_size(batch_size: Any) -> int:
    """A batch size; None is 1."""
    return 1 if batch_size is None else check_count("batch_size", batch_size)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout; one that was training goes on training afterwards."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _read(inputs: Any) -> Iterable[Any]:
    """A torch data set may have a length and places, but no iterator."""
    if isinstance(inputs, Iterable):
        return inputs
    return (inputs[index] for index in range(len(inputs)))


def _batches(pieces: list[list[Piece]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Places (input, piece) in batches of one group each, long ones first: what is too large fails at once.

    One at a time, they keep their order.
    """
    places = [(item, part) for item, parts in enumerate(pieces) for part in range(len(parts))]
    if size == 1:
        yield from ([place] for place in places)
        return

    def key(place: tuple[int, int]) -> tuple[int, int]:
        piece = pieces[place[0]][place[1]]
        return piece.group, -len(piece)

    for _, group in itertools.groupby(sorted(places, key=key), lambda place: key(place)[0]):
        while batch := list(itertools.islice(group, size)):
            yield batch
