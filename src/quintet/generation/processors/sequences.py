"""Processors that favour or ban sequences of tokens, when the next token could complete one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from quintet.generation.processors.base import (
    NEVER,
    RowFree,
    TokenIds,
    check_integer,
    check_number,
    check_vocabulary,
)

ANYTHING = -1
"""Stands in a table of sequences for the places before a sequence begins."""
NOTHING = -2
"""Stands in a target for the places before it begins."""

Biases = dict[tuple[int, ...], float]


class SequenceBiasLogitsProcessor(RowFree):
    """Adds a bias to the score of the token that completes a sequence.

    sequence_bias: [[[token, ...], bias], ...] or {(token, ...): bias}. The bias of a single token always counts, that
    of a longer sequence where the target ends in all of it but the last token. ValueError for anything else, and at the
    call for a token beyond the vocabulary.
    """

    def __init__(self, sequence_bias: Sequence[Sequence[Any]] | Mapping[tuple[int, ...], float]) -> None:
        self._set(_checked_biases(sequence_bias))

    def _set(self, sequence_bias: Biases) -> None:
        self.sequence_bias = sequence_bias
        self._highest = max((token for sequence in sequence_bias for token in sequence), default=-1)
        self._table: BiasTable | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        if self._table is None or not self._table.fits(scores):
            check_vocabulary(self._highest, scores, "a biased or bad sequence")
            self._table = BiasTable.build(self.sequence_bias, scores)
        return self._table.apply(input_ids, scores)


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Sequences that never come: their bias is -inf.

    bad_words_ids: [[token, ...], ...]; the tokens of eos_token_id alone are no bad words, since a target has to end.
    ValueError for anything else, and at the call for a token beyond the vocabulary.
    """

    def __init__(
        self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | Sequence[int] | torch.Tensor | None = None
    ) -> None:
        if not isinstance(bad_words_ids, list | tuple) or not bad_words_ids:
            raise ValueError(f"bad_words_ids must be a list of lists of token ids, got {bad_words_ids!r}")
        words = [_checked_sequence(word, "bad_words_ids") for word in bad_words_ids]
        ends = [] if eos_token_id is None else TokenIds(eos_token_id, "eos_token_id").values
        self._set({word: NEVER for word in words if word not in [(end,) for end in ends]})


@dataclass
class BiasTable:
    """Biased sequences laid out as tensors, for scores of one type, size and device.

    A step then costs a comparison of the targets with all sequences at once, whatever their number.
    """

    single: torch.Tensor
    """(vocabulary,): the biases of single tokens."""
    prefixes: torch.Tensor
    """(sequences, longest - 1): all but the last token of longer sequences, filled with ANYTHING on the left."""
    lengths: torch.Tensor
    """(sequences,): the number of tokens of each of those."""
    biases: torch.Tensor
    """(sequences,)"""
    lasts: torch.Tensor
    """(columns,): the tokens that complete a longer sequence, each once."""
    column: torch.Tensor
    """(sequences,): the place of the sequence's last token among `lasts`."""

    @classmethod
    def build(cls, sequence_bias: Biases, scores: torch.Tensor) -> BiasTable:
        """For scores like these (rows, vocabulary)."""
        device, dtype = scores.device, scores.dtype
        single = torch.zeros(scores.shape[-1])
        for sequence, bias in sequence_bias.items():
            if len(sequence) == 1:
                single[sequence[0]] = bias
        longer = [sequence for sequence in sequence_bias if len(sequence) > 1]
        width = max((len(sequence) for sequence in longer), default=1) - 1
        rows = [[ANYTHING] * (width - len(sequence) + 1) + list(sequence[:-1]) for sequence in longer]
        ends = torch.tensor([sequence[-1] for sequence in longer], dtype=torch.long)
        lasts, column = ends.unique(return_inverse=True)
        return cls(
            single=single.to(device, dtype),
            prefixes=torch.tensor(rows, dtype=torch.long, device=device).view(len(longer), width),
            lengths=torch.tensor([len(sequence) for sequence in longer], device=device),
            biases=torch.tensor([sequence_bias[sequence] for sequence in longer]).to(device, dtype),
            lasts=lasts.to(device),
            column=column.to(device),
        )

    def fits(self, scores: torch.Tensor) -> bool:
        """Whether the table was built for scores like these."""
        return (self.single.device, self.single.dtype, len(self.single)) == (
            scores.device,
            scores.dtype,
            scores.shape[-1],
        )

    def apply(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (rows, vocabulary) with the biases that count after the targets input_ids (rows, length)."""
        biased = scores + self.single
        if len(self.lengths) == 0:
            return biased
        added = torch.where(self._completable(input_ids), self.biases, 0.0)
        # All biases of a token are summed first, then added to its score: the reference's order of rounding.
        sums = self.single[self.lasts].repeat(len(scores), 1).index_add_(1, self.column, added)
        return biased.index_copy_(1, self.lasts, scores[:, self.lasts] + sums)

    def _completable(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(rows, sequences): which longer sequences the next token may complete."""
        length, width = input_ids.shape[1], self.prefixes.shape[1]
        endings = F.pad(input_ids[:, -width:], (max(width - length, 0), 0), value=NOTHING)
        same = (endings[:, None, :] == self.prefixes) | (self.prefixes == ANYTHING)
        # The reference asks that the target be as long as the whole sequence, one token more than it needs.
        return same.all(dim=-1) & (self.lengths <= length)


def _checked_biases(sequence_bias: Any) -> Biases:
    """A user's sequence_bias, in either form, as a dictionary."""
    pairs = list(sequence_bias.items()) if isinstance(sequence_bias, Mapping) else sequence_bias
    if not isinstance(pairs, list | tuple) or not pairs:
        raise ValueError(f"sequence_bias must be a list of [[token, ...], bias] or a dictionary, got {sequence_bias!r}")
    if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"each element of sequence_bias must be [[token, ...], bias], got {sequence_bias!r}")
    return {
        _checked_sequence(tokens, "sequence_bias"): check_number(bias, "a bias of sequence_bias", "[-inf, inf]")
        for tokens, bias in pairs
    }


def _checked_sequence(tokens: Any, name: str) -> tuple[int, ...]:
    if not isinstance(tokens, list | tuple) or not tokens:
        raise ValueError(f"each sequence of {name} must be a list of at least one token id, got {tokens!r}")
    return tuple(check_integer(token, f"each token of {name}") for token in tokens)
