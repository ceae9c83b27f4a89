"""Processors that ban tokens, or allow only some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from quintet.generation.processors.base import (
    NEVER,
    LogitsProcessor,
    RowFree,
    TokenIds,
    check_integer,
    check_vocabulary,
)


class SuppressTokensLogitsProcessor(RowFree):
    """Tokens that never come. ValueError for an impossible id."""

    def __init__(self, suppress_tokens: Iterable[int], device: torch.device | str = "cpu") -> None:
        self.suppressed = TokenIds(suppress_tokens, "suppress_tokens", device, may_be_empty=True)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return self.suppressed.ban(scores)


class SuppressTokensAtBeginLogitsProcessor(RowFree):
    """Tokens that do not come right after the first `begin_index` ones. ValueError for an impossible id or index."""

    def __init__(
        self, begin_suppress_tokens: Iterable[int], begin_index: int, device: torch.device | str = "cpu"
    ) -> None:
        self.suppressed = TokenIds(begin_suppress_tokens, "begin_suppress_tokens", device, may_be_empty=True)
        self.begin_index = check_integer(begin_index, "begin_index")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        return self.suppressed.ban(scores) if input_ids.shape[-1] == self.begin_index else scores


class VocabLimitLogitsProcessor(RowFree):
    """Ids from `limit` on never come: published checkpoints have more rows than their tokenizer has tokens.

    ValueError unless limit is positive.
    """

    def __init__(self, limit: int) -> None:
        self.limit = check_integer(limit, "limit", least=1)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        if self.limit >= scores.shape[-1]:
            return scores
        limited = scores.clone()
        limited[:, self.limit :] = NEVER
        return limited


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Only tokens that a function allows can come (De Cao et al. 2021).

    prefix_allowed_tokens_fn(source, target) gets the index of a row's source, which is row // num_beams, and the row's
    target so far (length,); it returns token ids. ValueError, naming the source, if it returns none or impossible ones.
    """

    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], Sequence[int]], num_beams: int) -> None:
        if not callable(prefix_allowed_tokens_fn):
            raise ValueError(f"prefix_allowed_tokens_fn must be a function, got {prefix_allowed_tokens_fn!r}")
        self.prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self.num_beams = check_integer(num_beams, "num_beams", least=1)
        self._first_rows: Sequence[int] | None = None  # where the current rows were at first; None: still there

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """See LogitsProcessor."""
        first_rows = range(len(scores)) if self._first_rows is None else self._first_rows
        if len(first_rows) != len(scores):
            raise ValueError(f"prefix_allowed_tokens_fn: {len(first_rows)} rows are left, but {len(scores)} came")
        allowed = [
            self._allowed(row // self.num_beams, target, scores)
            for row, target in zip(first_rows, input_ids, strict=True)
        ]
        counts = torch.tensor([len(tokens) for tokens in allowed])
        rows = torch.arange(len(allowed)).repeat_interleave(counts)
        banned = torch.ones_like(scores, dtype=torch.bool)
        banned[rows.to(scores.device), torch.cat(allowed).to(scores.device)] = False
        return scores.masked_fill(banned, NEVER)

    def select(self, rows: torch.Tensor) -> None:
        """From now on only these of the current rows are there, in this order; a row may come several times."""
        kept = rows.tolist()
        self._first_rows = kept if self._first_rows is None else [self._first_rows[row] for row in kept]

    def _allowed(self, source: int, target: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The tokens (n,), on the CPU, that the function allows next."""
        returned = self.prefix_allowed_tokens_fn(source, target)
        if returned is None or len(returned) == 0:
            raise ValueError(f"prefix_allowed_tokens_fn allows no token for source {source} after {target.tolist()}")
        tokens = returned.cpu() if isinstance(returned, torch.Tensor) else torch.tensor(list(returned))
        if tokens.dim() != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.min() < 0:
            raise ValueError(f"prefix_allowed_tokens_fn must return token ids, got {returned!r} for source {source}")
        check_vocabulary(int(tokens.max()), scores, f"prefix_allowed_tokens_fn, for source {source},")
        return tokens.long()
