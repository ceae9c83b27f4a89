"""Sentinels: the tokens `<extra_id_0>`, `<extra_id_1>`, ... that stand for spans of text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import AddedToken

_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def sentinel_tokens(count: int) -> list[str]:
    """The first `count` sentinels."""
    return [f"<extra_id_{i}>" for i in range(count)]


def sentinels_among(tokens: Sequence[str]) -> list[str]:
    """Those of `tokens` that are sentinels, in the order of their numbers."""
    numbers = {token: int(match[1]) for token in tokens if (match := _SENTINEL.fullmatch(token))}
    return sorted(numbers, key=numbers.__getitem__)


def with_sentinels(
    additional_special_tokens: Sequence[str | AddedToken] | None, extra_ids: int
) -> tuple[list[str | AddedToken], int]:
    """The additional special tokens with the sentinels among them, and how many sentinels there are.

    Sentinels are appended where none are listed. Raises ValueError if some are listed, but not `extra_ids` of them
    (`extra_ids` 0 accepts any number: mT5 keeps its sentinels in the vocabulary).
    """
    tokens = list(additional_special_tokens or ())
    listed = [token for token in tokens if "<extra_id_" in str(token)]
    if not listed:
        return tokens + sentinel_tokens(extra_ids), extra_ids
    if extra_ids > 0 and extra_ids != len(listed):
        raise ValueError(
            f"extra_ids={extra_ids}, but additional_special_tokens lists {len(listed)} sentinels: list all of them, or "
            f"none, or pass extra_ids={len(listed)}."
        )
    return tokens, len(listed)
