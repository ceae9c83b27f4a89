"""datasets: quintet's tokenizers in `map`, and data sets in quintet's pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.fingerprint import Hasher

import quintet

TEXTS = [f"word {number}" for number in range(20)]


def tokenizer_of(name: str, shared: Path) -> Any:
    if name == "ByT5Tokenizer":
        return quintet.ByT5Tokenizer()
    return getattr(quintet, name).from_pretrained(shared / "tokenizers" / "t5")


@pytest.mark.parametrize("name", ["T5TokenizerFast", "T5Tokenizer", "ByT5Tokenizer"])
def test_map_finds_its_cache_again(name: str, shared: Path) -> None:
    """Its key is the hash of the function with the tokenizer, which use must not change."""
    tokenizer = tokenizer_of(name, shared)
    fresh = Hasher.hash(tokenizer)
    data = datasets.Dataset.from_dict({"text": TEXTS})

    def encode(rows: Any) -> Any:
        return tokenizer(rows["text"], truncation=True, max_length=8)

    mapped = data.map(encode, batched=True)
    assert mapped["input_ids"][:] == tokenizer(TEXTS, truncation=True, max_length=8)["input_ids"]
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=3)
    assert data.map(encode, batched=True)._fingerprint == mapped._fingerprint
    assert Hasher.hash(tokenizer) == fresh == Hasher.hash(tokenizer_of(name, shared))


def test_torch_format_feeds_a_model(shared: Path) -> None:
    tokenizer = tokenizer_of("T5TokenizerFast", shared)
    data = datasets.Dataset.from_dict({"text": TEXTS}).map(
        lambda rows: tokenizer(rows["text"], padding="max_length", max_length=8), batched=True, remove_columns="text"
    )
    batch = data.with_format("torch")[:4]
    expected = tokenizer(TEXTS[:4], padding="max_length", max_length=8, return_tensors="pt")
    assert batch["input_ids"].equal(expected["input_ids"])


def test_pipelines_read_columns_and_streams(shared: Path) -> None:
    pipe = quintet.pipeline(model=shared / "models" / "flan-t5-small-title", num_beams=1, max_new_tokens=5)
    data = datasets.Dataset.from_dict({"text": TEXTS[:3]})
    expected = pipe(TEXTS[:3])
    assert pipe(data["text"]) == expected
    assert [records[0] for records in pipe(row["text"] for row in data.to_iterable_dataset())] == expected
