"""ByT5's tokenizer: a text is its bytes."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from tokenizers import AddedToken

from quintet.tokenizers.python import PythonTokenizer
from quintet.tokenizers.sentinels import sentinel_tokens

_BYTES = 256
_UNK_ID = 2


class ByT5Tokenizer(PythonTokenizer):
    """Tokenizer of ByT5: ids 0, 1, 2 are pad, eos and unk, a byte b is b + 3, and 125 sentinels follow from 259 on.

    A token is a character whose code is the byte. Raises ValueError if `additional_special_tokens` is given and does
    not list `extra_ids` sentinels.
    """

    def __init__(
        self,
        eos_token: str | AddedToken = "</s>",
        unk_token: str | AddedToken = "<unk>",
        pad_token: str | AddedToken = "<pad>",
        extra_ids: int = 125,
        additional_special_tokens: list[str | AddedToken] | None = None,
        **kwargs: Any,
    ) -> None:
        if extra_ids > 0 and additional_special_tokens is None:
            additional_special_tokens = [*sentinel_tokens(extra_ids)]
        elif extra_ids > 0 and additional_special_tokens:
            listed = {str(token) for token in additional_special_tokens if "extra_id" in str(token)}
            if len(listed) != extra_ids:
                raise ValueError(
                    f"extra_ids={extra_ids}, but additional_special_tokens lists {len(listed)} sentinels: "
                    f"list all of them, or pass extra_ids={len(listed)}."
                )
        pad, eos, unk = (_stripping(token) for token in (pad_token, eos_token, unk_token))
        self.offset = 3
        super().__init__(
            added={0: pad, 1: eos, 2: unk},
            eos_token=eos,
            unk_token=unk,
            pad_token=pad,
            extra_ids=0,  # the sentinels are all listed by now; a saved tokenizer is loaded with the list
            additional_special_tokens=additional_special_tokens,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """The 256 bytes, as the reference counts."""
        return _BYTES

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of the bytes that tokens stand for; what is not valid UTF-8 is left out."""
        added = self._added_ids
        data = b"".join(token.encode() if token in added else bytes([ord(token)]) for token in tokens)
        return data.decode(errors="ignore")

    def save_vocabulary(self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None) -> tuple[()]:
        """There is no vocabulary file: nothing is written."""
        return ()

    def _tokenize(self, text: str) -> list[str]:
        return [chr(byte) for byte in text.encode()]

    def _piece_ids(self, tokens: list[str]) -> list[int]:
        return [self._base_ids.get(token, _UNK_ID) for token in tokens]

    def _piece(self, token_id: int) -> str:
        if not self.offset <= token_id < self.offset + _BYTES:
            raise IndexError(f"token id {token_id} is outside the vocabulary: ids go from 0 to {len(self) - 1}.")
        return chr(token_id - self.offset)

    def _base_vocab(self) -> list[str]:
        named = [self._added_tokens_decoder[i].content for i in range(self.offset)]
        return named + [chr(byte) for byte in range(_BYTES)]

    @cached_property
    def _base_ids(self) -> dict[str, int]:
        return {chr(byte): byte + self.offset for byte in range(_BYTES)}


def _stripping(token: str | AddedToken) -> AddedToken:
    if not isinstance(token, str):
        return token
    return AddedToken(token, lstrip=True, rstrip=True, normalized=True, special=True)
