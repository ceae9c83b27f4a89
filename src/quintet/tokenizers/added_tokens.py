"""Matching added tokens whole in a text, for tokenizers that do it in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tokenizers import AddedToken


class Splitter:
    """Cuts a text around added tokens: the leftmost match first, of those the longest."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens: Mapping[str, AddedToken] = {token.content: token for token in tokens if token.content}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None

    def split(self, text: str) -> list[str]:
        """The added tokens in `text` and the text between them, in order and without empty strings.

        White space beside a token that strips it is gone, and a token that matches single words only has been joined to
        the text beside it where it is part of a longer word.
        """
        if self._pattern is None:
            return [text] if text else []
        parts = [part for part in self._pattern.split(text) if part]
        for i in range(len(parts)):
            token = self._tokens.get(parts[i])
            if token is not None:
                self._settle(parts, i, token)
        return [part for part in parts if part]

    def _settle(self, parts: list[str], i: int, token: AddedToken) -> None:
        """Apply a token's flags to its neighbours in `parts`, which keeps its length."""
        left = parts[i - 1] if i > 0 else ""
        right = parts[i + 1] if i + 1 < len(parts) else ""
        if token.rstrip and right:
            parts[i + 1] = right.lstrip()
        if token.lstrip and left:
            parts[i - 1] = left.rstrip()
        if token.single_word and left and left[-1] != " ":
            parts[i - 1] += parts[i]
            parts[i] = ""
        elif token.single_word and right and right[0] != " ":
            parts[i + 1] = parts[i] + parts[i + 1]
            parts[i] = ""
