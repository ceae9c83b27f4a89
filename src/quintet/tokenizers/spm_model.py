"""Reading the few fields of a SentencePiece model file that the fast tokenizer is built from.

The file is one protocol buffer message, ModelProto. The `protobuf` package would read it too, but it is a dependency
whose generated code must match its installed version, and this is all that is needed of it.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Field numbers of ModelProto, of a piece in it, and of its trainer and normalizer specifications.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNK_ID = 3, 35, 40
_CHARSMAP = 2

UNIGRAM = 1
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

# A message whose only content is normalizer_spec.add_dummy_prefix = false. Messages that follow one another are merged.
NO_DUMMY_PREFIX = bytes([_NORMALIZER << 3 | 2, 2, 3 << 3, 0])


@dataclass(frozen=True)
class SentencePieceModel:
    """A vocabulary: the pieces with their scores in the order of ids, and the ids of pieces of a special type."""

    pieces: list[tuple[str, float]]
    control_ids: list[int]
    user_defined_ids: list[int]
    unk_id: int
    model_type: int
    byte_fallback: bool
    charsmap: bytes

    @classmethod
    def parse(cls, data: bytes) -> SentencePieceModel:
        """Raises ValueError if `data` is not a whole message."""
        pieces: list[tuple[str, float]] = []
        types: list[int] = []
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        for field, value in _fields(data):
            if field == _PIECES:
                piece = dict(_fields(value))
                pieces.append((piece[_PIECE_TEXT].decode(), struct.unpack("<f", piece.get(_PIECE_SCORE, bytes(4)))[0]))
                types.append(piece.get(_PIECE_TYPE, NORMAL))
            elif field == _TRAINER:
                trainer.update(_fields(value))
            elif field == _NORMALIZER:
                normalizer.update(_fields(value))
        return cls(
            pieces=pieces,
            control_ids=[i for i, kind in enumerate(types) if kind == CONTROL],
            user_defined_ids=[i for i, kind in enumerate(types) if kind == USER_DEFINED],
            unk_id=trainer.get(_UNK_ID, 0),
            model_type=trainer.get(_MODEL_TYPE, UNIGRAM),
            byte_fallback=bool(trainer.get(_BYTE_FALLBACK, False)),
            charsmap=normalizer.get(_CHARSMAP, b""),
        )


def read_model_file(path: str | Path) -> bytes:
    """The bytes of a SentencePiece model file.

    Raises FileNotFoundError if there is none, OSError if it is cut short or something else: the sentencepiece library
    itself takes some cut files for small vocabularies.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no SentencePiece model {path}.")
    data = path.read_bytes()
    try:
        fields = {field for field, _ in _fields(data)}
    except ValueError as error:
        raise OSError(f"{path} is not a SentencePiece model, or is damaged: {error}.") from error
    if not fields >= {_PIECES, _TRAINER, _NORMALIZER}:
        raise OSError(f"{path} is not a SentencePiece model, or is cut short: a part of it is missing.")
    return data


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field of a message: an int, or bytes still to be read."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value: Any
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown kind of field {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"a field at byte {at} runs past the end")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, least significant first, at `at`; and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError(f"a number at byte {at} does not end")


def keep_pieces(data: bytes, ids: Collection[int]) -> bytes:
    """A model file with these pieces of `data` only, in their order, and all that are no ordinary text.

    What a text was split into stays its split as long as all of those pieces are kept: others were no better.
    """
    parts = []
    number = -1
    for field, value in _fields(data):
        if field == _PIECES:
            number += 1
            if number not in ids and dict(_fields(value)).get(_PIECE_TYPE, NORMAL) == NORMAL:
                continue
        parts.append(_field(field, value))
    return b"".join(parts)


def add_characters(data: bytes, characters: str) -> bytes:
    """A model file with these characters as pieces behind all others, as rare as its rarest piece.

    Raises ValueError for one that has a piece already.
    """
    pieces = SentencePieceModel.parse(data).pieces
    if known := sorted(set(characters) & {text for text, _ in pieces}):
        raise ValueError(f"the vocabulary has {', '.join(known)} already")
    score = struct.pack("<f", min(score for _, score in pieces))
    added = (
        _field(_PIECES, _field(_PIECE_TEXT, one.encode()) + _encoded(_PIECE_SCORE << 3 | 5) + score)
        for one in dict.fromkeys(characters)
    )
    return data + b"".join(added)  # a message may have the same field in several places


def _field(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | 2) + _encoded(len(value)) + value


def _encoded(number: int) -> bytes:
    """What `_varint` reads."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
