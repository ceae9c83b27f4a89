"""Processors against repeating the target, and for or against repeating the source."""

from __future__ import annotations

import torch

from quintet.generation.processors.base import (
    NEVER,
    LogitsProcessor,
    RowFree,
    check_integer,
    check_number,
    check_vocabulary,
)


class SourceBound(LogitsProcessor):
    """A processor that holds the source of each row.

    encoder_input_ids is (sources, length), or (length,) for a single one. Rows of the scores that belong to the same
    source are adjacent, equally many for each. ValueError for what are no ids, and at the call for ids beyond the
    vocabulary or a number of rows that does not fit.
    """

    def __init__(self, encoder_input_ids: torch.Tensor) -> None:
        ids = encoder_input_ids
        if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int64, torch.int32) or ids.dim() not in (1, 2):
            raise ValueError("encoder_input_ids must be a tensor of ids, (sources, length) or (length,)")
        low, high = ids.aminmax() if ids.numel() else (0, -1)
        check_integer(int(low), "each of encoder_input_ids")
        self._highest = int(high)
        self._ids = torch.atleast_2d(ids).long()
        self._rows = len(self._ids)

    def sources(self, scores: torch.Tensor) -> torch.Tensor:
        """The source ids (rows, length) of the rows of scores (rows, vocabulary)."""
        check_vocabulary(self._highest, scores, "encoder_input_ids")
        self._rows = len(scores)
        self._ids = self._ids.to(scores.device)
        return self._per_row()

    def select(self, rows: torch.Tensor) -> None:
        """From now on only these of the current rows are there, in this order; a row may come several times."""
        self._ids = self._per_row()[rows]
        self._rows = len(self._ids)

    def _per_row(self) -> torch.Tensor:
        if self._rows == len(self._ids):
            return self._ids
        if len(self._ids) == 0 or self._rows % len(self._ids):
            raise ValueError(f"encoder_input_ids has {len(self._ids)} rows, which does not fit {self._rows} targets")
        return self._ids.repeat_interleave(self._rows // len(self._ids), dim=0)


class RepetitionPenaltyLogitsProcessor(RowFree):
    """Makes tokens of the target less likely to come again (Keskar et al. 2019).

    Their positive scores are divided by `penalty` and negative ones multiplied, once each; below 1 that is a reward.
    The first `prompt_ignore_length` tokens of the target do not count. ValueError unless penalty is positive and the
    length not negative.
    """

    def __init__(self, penalty: float, prompt_ignore_length: int | None = None) -> None:
        self.penalty = check_number(penalty, "penalty", "(0, inf)")
        if prompt_ignore_length is not None:
            check_integer(prompt_ignore_length, "prompt_ignore_length")
        self.prompt_ignore_length = prompt_ignore_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return _penalized(scores, input_ids[:, self.prompt_ignore_length :], self.penalty)


class EncoderRepetitionPenaltyLogitsProcessor(SourceBound):
    """Makes tokens of the source more likely (`penalty` above 1) or less likely (below 1).

    Against inventing what the source does not say. Padding counts as a token of the source, as in the reference; unlike
    there, every beam is treated by its own source. ValueError unless penalty is positive; see SourceBound for more.
    """

    def __init__(self, penalty: float, encoder_input_ids: torch.Tensor) -> None:
        super().__init__(encoder_input_ids)
        self.penalty = 1 / check_number(penalty, "penalty", "(0, inf)")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return _penalized(scores, self.sources(scores), self.penalty)


class NoRepeatNGramLogitsProcessor(RowFree):
    """No sequence of `ngram_size` tokens comes twice in a target. ValueError unless the size is positive."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = check_integer(ngram_size, "ngram_size", least=1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return _without_ngrams(scores, input_ids, input_ids, self.ngram_size)


class EncoderNoRepeatNGramLogitsProcessor(SourceBound):
    """No sequence of `encoder_ngram_size` tokens of the source comes in its target; padding counts as a token.

    ValueError unless the size is positive; see SourceBound for more.
    """

    def __init__(self, encoder_ngram_size: int, encoder_input_ids: torch.Tensor) -> None:
        super().__init__(encoder_input_ids)
        self.ngram_size = check_integer(encoder_ngram_size, "encoder_ngram_size", least=1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return _without_ngrams(scores, input_ids, self.sources(scores), self.ngram_size)


def _penalized(scores: torch.Tensor, tokens: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores (rows, vocabulary) with those of tokens (rows, n) moved down; once, however often a token is there."""
    score = scores.gather(1, tokens)
    return scores.scatter(1, tokens, torch.where(score < 0, score * penalty, score / penalty))


def _without_ngrams(scores: torch.Tensor, targets: torch.Tensor, texts: torch.Tensor, size: int) -> torch.Tensor:
    """Scores (rows, vocabulary) under which no target (rows, n) completes an n-gram of its text (rows, m)."""
    if targets.shape[1] < size - 1 or texts.shape[1] < size:
        return scores
    ngrams = texts.unfold(1, size, 1)
    begun = targets[:, None, targets.shape[1] - size + 1 :]
    completes = (ngrams[:, :, :-1] == begun).all(dim=-1)
    # N-grams that have not begun ban a column beside the vocabulary, so that nobody has to wait for how many have.
    vocabulary = scores.shape[-1]
    banned = torch.zeros(len(scores), vocabulary + 1, dtype=torch.bool, device=scores.device)
    banned.scatter_(1, torch.where(completes, ngrams[:, :, -1], vocabulary), True)
    return scores.masked_fill(banned[:, :vocabulary], NEVER)
