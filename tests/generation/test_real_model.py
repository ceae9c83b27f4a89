"""Two hundred real sentences through a trained checkpoint: the reference's tokens, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import quintet

from ..model.reference import Pair

SENTENCES, ROWS, STEPS = 200, 25, 20
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "shaped": {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 5, "max_new_tokens": 12},
    "beams": {"num_beams": 4, "early_stopping": True, "length_penalty": 0.8, "num_return_sequences": 2},
}
# Beams and shapings cost more and see fewer sentences.
COUNTS = {"greedy": SENTENCES, "sampled": 100, "shaped": 50, "beams": 50}


@pytest.fixture(scope="module")
def real_pair(shared: Path) -> Pair:
    folder = shared / "models" / "flan-t5-small-title"
    ours, theirs = (
        library.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        for library in (quintet, transformers)
    )
    return Pair(ours, theirs)


@pytest.fixture(scope="module")
def sentences(shared: Path) -> list[str]:
    """Different English sentences, in the order of the file."""
    lines = (shared / "data" / "tatoeba" / "en-fr.dev.tsv").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line.split("\t")[0] for line in lines))[:SENTENCES]


def batches(shared: Path, texts: list[str], side: str) -> Iterator[dict[str, Tensor]]:
    """The sentences with the task before them, as padded ids and masks, `ROWS` at a time."""
    folder = shared / "models" / "flan-t5-small-title"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side=side)
    for start in range(0, len(texts), ROWS):
        asked = [f"translate English to French: {text}" for text in texts[start : start + ROWS]]
        yield dict(tokenizer(asked, return_tensors="pt", padding=True))


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_tokens_are_those_of_the_reference(
    shared: Path, real_pair: Pair, sentences: list[str], setting: str
) -> None:
    side = "left" if setting in {"sampled", "shaped"} else "right"
    options = {"max_new_tokens": STEPS, **SETTINGS[setting]}
    for number, batch in enumerate(batches(shared, sentences[: COUNTS[setting]], side)):
        answers = []
        for model in real_pair:
            torch.manual_seed(number)
            answers.append(model.generate(**batch, **options))
        assert torch.equal(*answers), f"batch {number}"
        assert len(answers[0].unique()) > 50, "the test needs a model that says something"


def test_there_are_enough_sentences(sentences: list[str]) -> None:
    assert len(set(sentences)) == SENTENCES


def test_assistance_changes_no_token(shared: Path, real_pair: Pair, sentences: list[str]) -> None:
    """The lookup copies from the source, which a summary or a repetition often does."""
    folder = shared / "models" / "flan-t5-small-title"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    asked = [f"Repeat: {first} {second}" for first, second in zip(sentences[:6], sentences[6:12], strict=True)]
    batch = dict(tokenizer(asked, return_tensors="pt", padding=True))
    plain = real_pair.theirs.generate(**batch, max_new_tokens=STEPS)
    looked_up = real_pair.ours.generate(**batch, max_new_tokens=STEPS, prompt_lookup_num_tokens=5)
    assert torch.equal(looked_up, plain)
