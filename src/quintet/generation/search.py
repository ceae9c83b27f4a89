"""What one call of `generate` does, as its loop sees it: decided once, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from quintet.generation.config import GenerationConfig
from quintet.generation.constraints import Constraint
from quintet.generation.processors import LogitsProcessorList
from quintet.generation.stopping import StoppingCriteriaList


@dataclass
class Trace:
    """What was computed at each step, kept only if the configuration asks for it."""

    scores: list[torch.Tensor] | None = None
    """Processed scores (rows, vocabulary) per step."""
    logits: list[torch.Tensor] | None = None
    """The model's own scores (rows, vocabulary) per step, in float32."""

    def add(self, scores: torch.Tensor, logits: torch.Tensor) -> None:
        """Keep a step's scores and logits, if they are wanted."""
        if self.scores is not None:
            self.scores.append(scores)
        if self.logits is not None:
            self.logits.append(logits)


@dataclass
class Found:
    """What a loop returns: sequences (rows, length), and under beams their scores (rows,) and the beam that each token
    came from, (rows, new tokens) with -1 behind the end."""

    sequences: torch.Tensor
    scores: torch.Tensor | None = None
    beam_indices: torch.Tensor | None = None


@dataclass
class Search:
    """The options of a call in the form that loops want.

    `keep_rows` says that rows which have ended stay in the batch: when every step's scores are returned, or when a
    processor or criterion of the user's may count rows. Otherwise they leave, and a step costs what is still alive.
    """

    config: GenerationConfig
    max_length: int
    """The longest target in tokens, prefix included."""
    eos: torch.Tensor
    pad: int
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    """Reasons to end beside eos and max_length."""
    keep_rows: bool = False
    generator: torch.Generator | None = None
    streamer: Any = None
    trace: Trace = field(default_factory=Trace)
    rows_per_source: int = 1
    constraint: Constraint | None = None
    """One of the processors, if results are held to something they must be in the end, too."""
    numbers: Sequence[int] | None = None
    """Which of a longer list's sources these are, for messages."""

    def process(self, ids: torch.Tensor, scores: torch.Tensor, **extra: Any) -> torch.Tensor:
        """The scores (rows, vocabulary) after all processors; `ids` (rows, length) are the targets so far."""
        if not self.processors:
            return scores
        processed = self.processors(ids, scores, **extra)
        if processed.shape != scores.shape:
            wrong, right = tuple(processed.shape), tuple(scores.shape)
            raise ValueError(f"the logits processors made scores of shape {wrong} from scores of shape {right}")
        return processed

    def ended(self, ids: torch.Tensor) -> torch.Tensor:
        """Which targets (rows, length) end with their last token: (rows,) of bool."""
        if ids.shape[1] >= self.max_length:
            ended = torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)
        else:
            ended = torch.isin(ids[:, -1], self.eos)
        if self.criteria:
            scores = None if self.trace.scores is None else tuple(self.trace.scores)
            ended = ended | self.criteria(ids, scores)
        return ended

    def check(self, scores: torch.Tensor, rows: torch.Tensor, needed: torch.Tensor, length: int) -> None:
        """Raise ValueError if nothing can follow in a row that needs it.

        `rows` are the original numbers of the rows that scores (rows, vocabulary) has; `needed` (rows,) is of bool.
        """
        best = scores.amax(dim=-1)
        bad = needed & ~(best > -torch.inf)  # NaN is not above -inf either
        if not bad.any():
            return
        first = int(bad.nonzero()[0])
        why = "its scores hold NaN" if best[first].isnan() else "every token's score is -inf"
        source = self._number(int(rows[first]) // self.rows_per_source)
        raise ValueError(
            f"row {source} cannot go on after {length} tokens: {why}. Look at the logits processors and constraints; "
            "remove_invalid_values=True replaces NaN and infinity"
        )

    def check_complete(self, found: Found, prefix: int) -> None:
        """Raise ValueError if a result was cut before it was what the constraint asks for, naming its source."""
        if self.constraint is None:
            return
        for row, ids in enumerate(found.sequences[:, prefix:].tolist()):
            if not self.constraint.finished(ids):
                number = self._number(row // self.config.num_return_sequences)
                raise ValueError(self.constraint.unfinished(number, ids))

    def _number(self, source: int) -> int:
        return source if self.numbers is None else self.numbers[source]

    def draw(self, scores: torch.Tensor, count: int, live: torch.Tensor, rows: int) -> torch.Tensor:
        """`count` different columns (live rows, count), drawn in proportion to softmax(scores).

        `live` are the original numbers of the rows that scores has; `rows` is how many there were. Random numbers are
        taken for rows that have left, too, so that the others draw as if those were still there, as in the reference.
        """
        weights = torch.softmax(scores, dim=-1)
        if live.numel() < rows:
            everyone = weights.new_ones(rows, weights.shape[1])
            weights = everyone.index_copy_(0, live, weights)
        drawn = torch.multinomial(weights, count, generator=self.generator)
        return drawn.index_select(0, live) if live.numel() < rows else drawn

    def stream(self, tokens: torch.Tensor) -> None:
        """Hand tokens to the streamer, if there is one."""
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())


class Targets:
    """The targets of a batch, row by row: what they hold, and which of them still grow."""

    def __init__(self, prefix: torch.Tensor, search: Search) -> None:
        self._search = search
        self.rows, self.length = prefix.shape
        self._ids = prefix.new_full((self.rows, search.max_length), search.pad)
        self._ids[:, : self.length] = prefix
        self.live = torch.arange(self.rows, device=prefix.device)
        """The original numbers of the rows that have not left."""
        self.growing = torch.ones(self.rows, dtype=torch.bool, device=prefix.device)
        """Which live targets (rows,) have not ended; some that have may stay (`Search.keep_rows`)."""

    @property
    def ids(self) -> torch.Tensor:
        """The live targets (rows, length)."""
        return self._columns(0)

    @property
    def last(self) -> torch.Tensor:
        """The live targets' last tokens (rows, 1)."""
        return self._columns(self.length - 1)

    def _columns(self, first: int) -> torch.Tensor:
        columns = self._ids[:, first : self.length]
        return columns if self._all_live() else columns[self.live]

    def _all_live(self) -> bool:
        """The usual case, in which nothing needs to be picked out: every operation counts in a step of one row."""
        return self.live.numel() == self.rows

    def append(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token (rows,) to each target that grows; returns the places of the live rows that are left."""
        if self._search.keep_rows:
            tokens = tokens.where(self.growing, self._search.pad)
        self._ids[slice(None) if self._all_live() else self.live, self.length] = tokens
        self.length += 1
        self._search.stream(self._ids[:, self.length - 1])
        self.growing = self.growing & ~self._search.ended(self.ids)
        if self._search.keep_rows or self.growing.all():
            return torch.arange(self.live.numel(), device=self.live.device)
        left = self.growing.nonzero().squeeze(1)
        self.live, self.growing = self.live[left], self.growing[left]
        self._search.processors.select(left)
        self._search.criteria.select(left)
        return left

    def found(self) -> Found:
        """All targets, those that ended first padded behind."""
        return Found(self._ids[:, : self.length])
