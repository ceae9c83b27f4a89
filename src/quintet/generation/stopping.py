"""When a row's generation ends: criteria that are asked after every step."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

logger = logging.getLogger(__name__)

_NO_TEXT = b"\xff"
"""Stands for an id without a token. UTF-8 never has this byte, so no stop string reaches across it."""
_ANCHOR = "a"
"""A token put on both sides of another: a decoder takes spaces away at the ends of a text only."""
_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")

_tables: WeakKeyDictionary[Any, tuple[int, list[bytes]]] = WeakKeyDictionary()


class StoppingCriteria:
    """Base of all criteria: called after each step, it says which rows are finished.

    A criterion of your own that holds something per row may define `select(rows)`, with `rows` a tensor of the rows to
    keep, in that order. Rows that finish leave the batch only if all criteria have it.
    """

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """For targets so far (rows, length) and the scores that generation hands on: which rows end, bool (rows,)."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(input_ids, scores, **kwargs)")


class _RowFree(StoppingCriteria):
    """A criterion that holds nothing per row, so that rows come and go as they like."""

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows: nothing to do."""


class MaxLengthCriteria(_RowFree):
    """Ends all rows once they have `max_length` tokens, the decoder's prefix included.

    From `max_position_embeddings` tokens on, a warning is logged once. T5 has no such limit. Raises ValueError for a
    `max_length` that is no positive integer.
    """

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        if not _is_integer(max_length) or max_length < 1:
            raise ValueError(f"max_length must be a positive integer, got {max_length!r}")
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings
        self._has_warned = False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """All rows or none, (rows,)."""
        rows, length = input_ids.shape
        is_done = length >= self.max_length
        limit = self.max_position_embeddings
        if limit is not None and length >= limit and not is_done and not self._has_warned:
            self._has_warned = True
            logger.warning("Generation goes beyond the %d positions that the model was made for.", limit)
        return torch.full((rows,), is_done, device=input_ids.device)


class MaxTimeCriteria(_RowFree):
    """Ends all rows after `max_time` seconds, counted from now or from `initial_timestamp` (as of `time.time()`).

    Raises ValueError for a `max_time` that is no number, or a negative one.
    """

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        is_number = isinstance(max_time, (int, float)) and not isinstance(max_time, bool)
        if not is_number or math.isnan(max_time) or max_time < 0:
            raise ValueError(f"max_time must be a number of seconds of at least 0, got {max_time!r}")
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """All rows or none, (rows,)."""
        is_done = time.time() - self.initial_timestamp > self.max_time
        return torch.full((input_ids.shape[0],), is_done, device=input_ids.device)


class EosTokenCriteria(_RowFree):
    """Ends a row at an end-of-sequence token: one id, a list of ids, or a tensor of them.

    Raises ValueError for anything else, and for no ids at all.
    """

    def __init__(self, eos_token_id: int | list[int] | torch.Tensor) -> None:
        ids = eos_token_id.flatten().tolist() if isinstance(eos_token_id, torch.Tensor) else eos_token_id
        ids = [ids] if isinstance(ids, int) else ids
        if not isinstance(ids, (list, tuple)) or not ids or not all(map(_is_integer, ids)):
            raise ValueError(f"eos_token_id must be an id, or a list or tensor of at least one, got {eos_token_id!r}")
        self.eos_token_id = torch.tensor(ids)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether each row's last token is one of the ids, (rows,)."""
        self.eos_token_id = self.eos_token_id.to(input_ids.device)
        return torch.isin(input_ids[:, -1], self.eos_token_id)


class StopStringCriteria(_RowFree):
    """Ends a row at the token that completes a stop string in its text.

    The string may begin and end within tokens: "stop" is found in "st" + "opera" and in "las" + "topper". What lies
    further back does not count: "stop" + "at" goes on. The text is that of the tokens inside a sentence: "▁" is a space
    also at the start, special tokens are written out. Texts are compared as UTF-8, so that a character may span tokens
    (ByT5, byte fallback).

    Raises ValueError without a tokenizer, for stop strings that are empty or no str, and if the vocabulary cannot
    write any of them.
    """

    def __init__(self, tokenizer: Any, stop_strings: str | Sequence[str]) -> None:
        strings = [stop_strings] if isinstance(stop_strings, str) else stop_strings
        if not isinstance(strings, (list, tuple)) or not all(isinstance(string, str) for string in strings):
            raise ValueError(f"stop_strings must be a str or a list of str, got {stop_strings!r}")
        if not strings or "" in strings:
            raise ValueError(f"stop_strings must have at least one string and no empty ones, got {stop_strings!r}")
        self.stop_strings = tuple(strings)
        self._stops = [string.encode() for string in strings]
        self._window = max(map(len, self._stops))  # a token has at least one byte
        self._texts = [*token_bytes(tokenizer), _NO_TEXT]  # the last one for all ids beyond the tokenizer's
        if not _can_complete(self._texts, self._stops):
            raise ValueError(f"no token of the vocabulary can complete any of the stop_strings {stop_strings!r}")

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether each row's last token completes a stop string, (rows,)."""
        recent = input_ids[:, -self._window :].clamp(max=len(self._texts) - 1)
        answers = [self._is_complete(ids) for ids in recent.tolist()]
        return torch.tensor(answers, dtype=torch.bool, device=input_ids.device)

    def _is_complete(self, ids: list[int]) -> bool:
        """Whether a stop string reaches into the text of the last id."""
        before = b"".join([self._texts[token_id] for token_id in ids[:-1]])
        text = before + self._texts[ids[-1]]
        return any(text.find(stop, max(0, len(before) - len(stop) + 1)) >= 0 for stop in self._stops)


class StoppingCriteriaList(list[Any]):
    """Criteria that end a row as soon as one of them does."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """For targets so far (rows, length): which rows are finished, bool (rows,).

        A member may answer with one bool for all rows. Raises TypeError or ValueError, naming the member, for other
        answers.
        """
        is_done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for criterion in self:
            is_done |= _checked(criterion, criterion(input_ids, scores, **kwargs), input_ids.shape[0])
        return is_done

    @property
    def max_length(self) -> int | None:
        """That of the first MaxLengthCriteria, if there is one."""
        return next((criterion.max_length for criterion in self if isinstance(criterion, MaxLengthCriteria)), None)

    @property
    def can_select(self) -> bool:
        """Whether all members know what to do when rows leave the batch. If not, the batch has to stay whole."""
        return all(hasattr(criterion, "select") for criterion in self)

    def select(self, rows: torch.Tensor) -> None:
        """Keep the given rows, in that order."""
        for criterion in self:
            criterion.select(rows)


def token_bytes(tokenizer: Any) -> list[bytes]:
    """The UTF-8 text of each token inside a sentence, by id: of "▁the", " the"; a part of a character is its bytes.

    An id without a token has a byte that no text has. Computed once for a tokenizer, and again after tokens were added
    to it. Raises ValueError if `tokenizer` is none.
    """
    if not hasattr(tokenizer, "get_vocab") or not hasattr(tokenizer, "convert_tokens_to_string"):
        raise ValueError(f"stop strings need the model's tokenizer (tokenizer=...), got {tokenizer!r:.60}")
    size, table = _tables.get(tokenizer, (-1, []))
    if size != len(tokenizer):
        vocabulary = tokenizer.get_vocab()
        table = [_NO_TEXT] * (max(vocabulary.values()) + 1)
        for token, token_id in vocabulary.items():
            table[token_id] = _bytes_of(tokenizer, token)
        _tables[tokenizer] = (len(tokenizer), table)
    return table


def _bytes_of(tokenizer: Any, token: str) -> bytes:
    text = tokenizer.convert_tokens_to_string([_ANCHOR, token, _ANCHOR])[len(_ANCHOR) : -len(_ANCHOR)]
    piece = _BYTE_PIECE.fullmatch(token)
    if piece and text != token:  # without byte fallback it is a token like others
        return bytes.fromhex(piece[1])
    if not text and len(token) == 1 and ord(token) < 256:  # ByT5 writes a byte as the character of that code
        return bytes([ord(token)])
    return text.encode()


def _can_complete(texts: list[bytes], stops: list[bytes]) -> bool:
    """Whether there is a token with which some stop string could be complete."""
    ends = tuple(stop[start:] for stop in stops for start in range(len(stop)))
    return any(text.startswith(ends) or any(stop in text for stop in stops) for text in texts)


def _checked(criterion: Any, answer: Any, rows: int) -> torch.Tensor | bool:
    name = type(criterion).__name__
    if isinstance(answer, (bool, np.bool_)):
        return bool(answer)
    if not isinstance(answer, torch.Tensor) or answer.dtype != torch.bool:
        got = f"a tensor of {answer.dtype}" if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise TypeError(f"{name} must answer with a bool, or a bool tensor of shape ({rows},): got {got}")
    if answer.dim() > 0 and answer.shape != (rows,):
        raise ValueError(f"{name} must answer with shape ({rows},), one for each row: got {tuple(answer.shape)}")
    return answer


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
