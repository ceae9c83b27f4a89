"""What the tokens of a tokenizer write: the bytes that each adds to the text of a result."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

WORD_START = "▁"
_SENTINEL = re.compile(rf"{WORD_START}?<extra_id_\d+>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_ORDINARY = [*map(chr, range(32, 127)), "\n"]  # what to look for when telling which characters are lacking


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The text of a result is the concatenation of its tokens' texts, less one `dropped` at its start.

    Texts mean what `tokenizer.decode(ids, skip_special_tokens=True)` returns.
    """

    texts: list[bytes]
    """By token id; empty for tokens that write nothing of their own or must not be inside a text: special ones,
    sentinels, and ids that the tokenizer does not have."""
    dropped: str
    """A space, if decoding leaves out the one that the first word starts with; else nothing."""
    trimmed: bool
    """Whether decoding may strip white space from both ends, so that no text can have it there."""
    alphabet: str
    """The characters that can be written, each by a token of its own or byte by byte, in the order of code points."""

    def lacking(self) -> list[str]:
        """Which of the characters of ASCII that can be printed, and the line break, cannot be written."""
        return [repr(character) for character in _ORDINARY if character not in self.alphabet]


_READ: WeakKeyDictionary[Any, dict[tuple[Any, ...], Vocabulary]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Any, size: int, ends: Sequence[int]) -> Vocabulary:
    """The vocabulary of a tokenizer for a model that scores `size` tokens, of which `ends` end a result.

    It is read once and kept as long as the tokenizer lives, unless that gets other tokens.
    """
    state = (size, tuple(ends), tuple(tokenizer.all_special_ids), tuple(tokenizer.added_tokens_decoder))
    read = _READ.setdefault(tokenizer, {})
    if state not in read:
        read[state] = _read(tokenizer, size, ends)
    return read[state]


def _read(tokenizer: Any, size: int, ends: Sequence[int]) -> Vocabulary:
    pieces: dict[str, int] = tokenizer.get_vocab()
    of_bytes = not any(WORD_START in piece for piece in pieces)  # ByT5: a token is a byte, a space is one, too
    write = _byt5_text if of_bytes else _piece_text(tokenizer, pieces)
    hidden = {*ends, *tokenizer.all_special_ids, *_set_apart(tokenizer, pieces)}
    texts = [b""] * size
    for piece, token in pieces.items():
        if token < size and token not in hidden and not _SENTINEL.fullmatch(piece):
            texts[token] = write(piece)
    texts, alphabet = _writable(texts)
    word = next((token for piece, token in pieces.items() if piece[0] == WORD_START and piece[1:].isalpha()), None)
    dropped = word is not None and not _decode(tokenizer, [word]).startswith(" ")
    return Vocabulary(texts, " " if dropped else "", not of_bytes, alphabet)


def _writable(texts: list[bytes]) -> tuple[list[bytes], str]:
    """The texts, less those with characters that only some longer tokens have; and the characters that are left."""
    if set(texts).issuperset(bytes([byte]) for byte in range(256)):
        return texts, _all_characters()
    written = [text.decode(errors="ignore") for text in texts]
    characters = {text for text in written if len(text) == 1}
    kept = [text if characters.issuperset(chars) else b"" for text, chars in zip(texts, written, strict=True)]
    return kept, "".join(sorted(characters))


@cache
def _all_characters() -> str:
    return "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)


def _set_apart(tokenizer: Any, pieces: dict[str, int]) -> set[int]:
    """Added tokens that are special or that decoding puts spaces around, as the tokenizers in Python do."""
    added = tokenizer.added_tokens_decoder
    word, plain = next((word, i) for word, i in pieces.items() if word.isascii() and word.isalpha() and i not in added)
    return {
        token
        for token, content in added.items()
        if content.special or _decode(tokenizer, [plain, token, plain]) != f"{word}{content}{word}"
    }


def _byt5_text(piece: str) -> bytes:
    return bytes([ord(piece)]) if len(piece) == 1 and ord(piece) < 256 else b""


def _piece_text(tokenizer: Any, pieces: dict[str, int]) -> Any:
    """What a SentencePiece token writes. Fast tokenizers of mT5 and UMT5 spell byte tokens out: no text has those."""
    has_bytes = "<0x41>" in pieces and _decode(tokenizer, [pieces["<0x41>"]]) == "A"

    def write(piece: str) -> bytes:
        byte = _BYTE.fullmatch(piece)
        if byte:
            return bytes([int(byte[1], 16)]) if has_bytes else b""
        if WORD_START in piece.lstrip(WORD_START):
            return b""  # as the first token, fast tokenizers would write it without any of its spaces
        return piece.replace(WORD_START, " ").encode()

    return write


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
