"""Allowed answers as token ids, each checked to be one that decoding can give back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from quintet.generation.processors.base import check_integer

MORE_CHARACTERS = (
    "ByT5 writes every character, and mT5 and UMT5 more than T5; or add tokens to a fast tokenizer, as by "
    'tokenizer.add_tokens(["{", "}"]), and train the model to use them'
)


def read_answers(
    answers: Collection[str | Sequence[int]], tokenizer: Any, eos_token_ids: Sequence[int], vocab_size: int, room: int
) -> list[list[int]]:
    """The answers' token ids, without an end token.

    An answer is a text, which needs the tokenizer, or its token ids. Raises ValueError, naming the answer, if the
    tokenizer cannot write it, or if it is longer than `room` tokens with its end token.
    """
    if not answers:
        raise ValueError("constraint is an empty set of answers: give at least one")
    texts = [answer for answer in answers if isinstance(answer, str)]
    given = [answer for answer in answers if not isinstance(answer, str)]
    read: list[tuple[Any, list[int]]] = [(answer, _given_ids(answer, eos_token_ids)) for answer in given]
    if texts:
        read += zip(texts, _encoded(texts, tokenizer), strict=True)
    for answer, ids in read:
        _check(answer, ids, eos_token_ids, vocab_size, room)
    return [ids for _, ids in read]


def _given_ids(answer: Any, eos_token_ids: Sequence[int]) -> list[int]:
    if not isinstance(answer, Iterable):
        raise ValueError(f"an answer must be a str or a list of token ids, got {answer!r}")
    ids = [token if type(token) is int else check_integer(token, "a token id of an answer") for token in answer]
    return ids[:-1] if ids and ids[-1] in eos_token_ids else ids


def _encoded(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if tokenizer is None:
        raise ValueError(f"the answer {texts[0]!r} is a text: pass the tokenizer, or give token ids")
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    written = tokenizer.batch_decode(rows, skip_special_tokens=True)
    for text, ids, result in zip(texts, rows, written, strict=True):
        unknown = _unknown_characters(text, tokenizer) if tokenizer.unk_token_id in ids else []
        if unknown:
            raise ValueError(
                f"the tokenizer cannot write the answer {text!r}: it lacks {', '.join(unknown)}. {MORE_CHARACTERS}"
            )
        if result != text:
            raise ValueError(
                f"the answer {text!r} would come out as {result!r}, which is what the tokenizer makes of it: give it "
                "in that form"
            )
    return rows


def _unknown_characters(text: str, tokenizer: Any) -> list[str]:
    encoded = {character: tokenizer(character, add_special_tokens=False)["input_ids"] for character in text}
    return [repr(character) for character, ids in encoded.items() if tokenizer.unk_token_id in ids]


def _check(answer: Any, ids: list[int], eos_token_ids: Sequence[int], vocab_size: int, room: int) -> None:
    if not set(eos_token_ids).isdisjoint(ids):
        raise ValueError(f"the answer {answer!r} has an end token inside, after which nothing would come")
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise ValueError(f"the answer {answer!r} has token ids outside the model's vocabulary, 0 to {vocab_size - 1}")
    if len(ids) + 1 > room:
        raise ValueError(
            f"the answer {answer!r} needs {len(ids) + 1} tokens with the end token, but there is room for {room}: "
            "raise max_new_tokens (or max_length)"
        )
