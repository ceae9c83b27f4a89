"""The reference's tokenizers beside ours, and texts to try them on."""

from __future__ import annotations

import functools
import logging
import random
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

import quintet.tokenizers

FRAGMENTS = [
    "<extra_id_0>", "<extra_id_1>", "<extra_id_10>", "<extra_id_99>", "<extra_id_100>", "<extra_id_", "</s>", "<pad>",
    "<unk>", "<s>", "[eod]", "▁", "▁<extra_id_0>", " ", "  ", "\n", "\t", ".", ",", "Hello", "hello", "world", "é", "ﬁ",
    "½", "日本語", "😀", "\u200b", "\xa0", "\u3000", "0", "12", "n't", "'s", "?", "!", "A", "ing", "<0x0A>", "ü",
    "e\u0301",
]  # fmt: skip


class Pair(NamedTuple):
    theirs: Any
    ours: Any


@functools.cache
def load_pair(name: str, folder: Path, **arguments: Any) -> Pair:
    """The tokenizers that the class `name` of either library loads from `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference warns of byte fallback
        theirs = getattr(transformers, name).from_pretrained(folder, **arguments)
    return Pair(theirs, getattr(quintet.tokenizers, name).from_pretrained(folder, **arguments))


@functools.cache
def byt5_pair() -> Pair:
    return Pair(transformers.ByT5Tokenizer(), quintet.tokenizers.ByT5Tokenizer())


def quietly(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the reference without its warnings."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args, **kwargs)
    finally:
        logging.disable(previous)


def sentences(shared: Path, language: str, count: int) -> list[str]:
    """Lines of Tatoeba: "en", "fr" or "de"."""
    pair, column = ("en-fr", 0) if language == "en" else (f"en-{language}", 1)
    with open(shared / "data" / "tatoeba" / f"{pair}.test.tsv", encoding="utf-8") as lines:
        unique = dict.fromkeys(line.rstrip("\n").split("\t")[column] for line in lines)
    return list(unique)[:count]


def odd_texts(count: int, seed: int) -> list[str]:
    """Special tokens, sentinels, unusual spaces and characters, in any order."""
    choose = random.Random(seed)
    return ["", " ", *("".join(choose.choices(FRAGMENTS, k=choose.randint(1, 8))) for _ in range(count - 2))]


def plain(batch: Any) -> dict[str, Any]:
    """A batch as values that compare: tensors with their kind, dtype and shape.

    Tensors without a number in them are integers with us and floats in the reference: their dtype is left out.
    """
    return {key: _plain(value) for key, value in batch.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return "torch", str(value.dtype) if value.numel() else None, list(value.shape), value.tolist()
    if isinstance(value, np.ndarray) and value.dtype == object:
        return "numpy", [row.tolist() for row in value]
    if isinstance(value, np.ndarray):
        return "numpy", str(value.dtype) if value.size else None, list(value.shape), value.tolist()
    return value
