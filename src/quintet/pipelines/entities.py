"""From the scores of tokens to entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

WHOLE_WORDS = ("first", "average", "max")
STRATEGIES = ("none", "simple", *WHOLE_WORDS)


@dataclass
class Token:
    """A token of a text: scores (labels,), the characters it covers, its index, whether it continues a word.

    T5's tokenizers know no words; a token continues one if no space stands before it.
    """

    word: str
    scores: np.ndarray
    start: int | None
    end: int | None
    index: int
    continues: bool


def entities_of(tokens: list[Token], strategy: str, labels: dict[int, str], tokenizer: Any) -> list[dict[str, Any]]:
    """The entities of one piece of text, by one of `STRATEGIES`."""
    if strategy in WHOLE_WORDS:
        return _grouped([_of_word(word, strategy, labels, tokenizer) for word in _words(tokens)], tokenizer)
    entities = [_of_token(token, labels) for token in tokens]
    return entities if strategy == "none" else _grouped(entities, tokenizer)


def without_overlap(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entities in the order of the text; of those that overlap the longest, of equally long ones the surest."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if not kept or not kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept.append(entity)
        elif _weight(entity) > _weight(kept[-1]):
            kept[-1] = entity
    return kept


def _weight(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _of_token(token: Token, labels: dict[int, str]) -> dict[str, Any]:
    best = int(token.scores.argmax())
    return {
        "entity": labels[best],
        "score": float(token.scores[best]),
        "index": token.index,
        "word": token.word,
        "start": token.start,
        "end": token.end,
    }


def _words(tokens: list[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _of_word(word: list[Token], strategy: str, labels: dict[int, str], tokenizer: Any) -> dict[str, Any]:
    if strategy == "average":
        scores = np.stack([token.scores for token in word]).mean(axis=0)
    elif strategy == "max":
        scores = max(word, key=lambda token: token.scores.max()).scores
    else:
        scores = word[0].scores
    best = int(scores.argmax())
    return {
        "entity": labels[best],
        "score": float(scores[best]),
        "word": tokenizer.convert_tokens_to_string([token.word for token in word]),
        "start": word[0].start,
        "end": word[-1].end,
    }


def _grouped(entities: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """Neighbours of one label as one entity; "B-" begins a new one."""
    groups: list[list[dict[str, Any]]] = []
    for entity in entities:
        begins, tag = _tag(entity["entity"])
        if groups and not begins and tag == _tag(groups[-1][-1]["entity"])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return [_of_group(group, tokenizer) for group in groups]


def _of_group(group: list[dict[str, Any]], tokenizer: Any) -> dict[str, Any]:
    return {
        "entity_group": group[0]["entity"].split("-", 1)[-1],
        "score": float(np.mean([entity["score"] for entity in group])),
        "word": tokenizer.convert_tokens_to_string([entity["word"] for entity in group]),
        "start": group[0]["start"],
        "end": group[-1]["end"],
    }


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its name; labels without "B-" or "I-" continue one."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
